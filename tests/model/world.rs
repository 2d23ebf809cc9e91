//! The storage of the model: which objects exist, what lists may show of them, and what a reader finds.
//!
//! Every object is put at most once and deleted at most once, as ids are never reused, so its life is three states and four sets of
//! names hold them all. Each actor names its objects from a range of its own: schedules that differ only in order end in equal worlds.

use std::hash::{Hash, Hasher};
use std::ops::Range;

use super::explore::Choices;
use super::rules::Rules;

/// How many different chunks there are.
pub(crate) const CHUNKS: usize = 5;
/// Not a pack, session or archive.
pub(crate) const NONE: u8 = u8::MAX;
/// Packs that a scenario starts with; those of actor `a` follow.
const FIRST_PACKS: u8 = 8;
/// Archives and states that a scenario starts with.
const FIRST: u8 = 4;
/// How many objects of one kind an actor may put.
pub(crate) const OWN: u8 = 3;

/// A set of packs, archives, … by number, or of chunks.
pub(crate) type Set = u32;

/// The kinds of objects. An index segment has the number of the one pack that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Pack,
    Archive,
    Session,
    Condemned,
    Intent,
    Moved,
    State,
    Segment,
    Slot,
    Marker,
}

const KINDS: usize = 10;

/// The numbers in a set, ascending.
pub(crate) fn members(set: Set) -> impl Iterator<Item = u8> + Clone {
    let mut rest = set;
    std::iter::from_fn(move || {
        let next = u8::try_from(rest.trailing_zeros()).expect("at most 32");
        rest &= rest.wrapping_sub(1);
        (next < 32).then_some(next)
    })
}

/// The set of one number.
pub(crate) fn one(number: u8) -> Set {
    1 << number
}

/// The number that an actor gives to its `nth` pack.
pub(crate) fn pack_of(actor: u8, nth: u8) -> u8 {
    FIRST_PACKS + actor * OWN + nth
}

/// The number that an actor gives to its `nth` archive or state.
pub(crate) fn own(actor: u8, nth: u8) -> u8 {
    FIRST + actor * OWN + nth
}

/// The numbers that an actor gives to its forwardings.
pub(crate) fn moved_of(actor: u8) -> Range<u8> {
    actor * 4..actor * 4 + 4
}

/// An archive record: its session, and in which pack it says each of its blobs lies. Maps and tree nodes count as chunks, since
/// what they hint at never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Record {
    pub(crate) session: u8,
    pub(crate) refs: [u8; CHUNKS],
}

impl Record {
    /// What it refers to: (chunk, pack).
    pub(crate) fn refs(&self) -> impl Iterator<Item = (u8, u8)> + '_ {
        let pairs = self.refs.iter().enumerate().filter(|(_, pack)| **pack != NONE);
        pairs.map(|(chunk, pack)| (u8::try_from(chunk).expect("few"), *pack))
    }
}

/// What an archive state says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Change {
    Deleted,
    Restored,
    Withdrawn,
}

/// An archive state. Of those with one counter, that of the highest number wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) archive: u8,
    pub(crate) counter: u8,
    pub(crate) change: Change,
    pub(crate) session: u8,
}

/// A forwarding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Moved {
    pub(crate) from: u8,
    pub(crate) to: u8,
    pub(crate) blobs: Set,
}

/// An intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Intent {
    pub(crate) packs: Set,
    pub(crate) archives: Set,
    pub(crate) moved: Set,
}

impl Intent {
    pub(crate) fn add(&mut self, other: Self) {
        self.packs |= other.packs;
        self.archives |= other.archives;
        self.moved |= other.moved;
    }
}

/// Names that were put, and names that were deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Names {
    born: [Set; KINDS],
    gone: [Set; KINDS],
}

/// All that is stored, and what was promised to users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct World {
    names: Names,
    /// What lists are sure to show, as somebody's settle time has passed since.
    settled: Names,
    pub(crate) packs: [Set; 32],
    pub(crate) records: [Record; 32],
    pub(crate) condemned: [Set; 8],
    pub(crate) intents: [Intent; 8],
    pub(crate) moved: [Moved; 32],
    pub(crate) states: [State; 32],
    /// Which slots the removal markers mark.
    pub(crate) markers: [u8; 16],
    /// Archives whose creates reported success.
    pub(crate) done: Set,
    /// States whose undeletes reported success.
    pub(crate) restored: Set,
    /// States of users' own deletes, in contrast to those of undeletes that failed.
    pub(crate) deletes: Set,
    /// Sessions whose writers surely died.
    pub(crate) dead: Set,
    /// Blobs that are damaged where they lie, by pack.
    pub(crate) damaged: [Set; 32],
    /// Packs that a repair said it would move away.
    pub(crate) found: Set,
    /// Archives that rely on damage which nobody had found when they were published.
    pub(crate) excused: Set,
}

impl Hash for World {
    /// Only what exists.
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.names, self.settled).hash(state);
        (self.done, self.restored, self.deletes, self.dead, self.found, self.excused).hash(state);
        let born = |kind: Kind| members(self.names.born[kind as usize]).map(usize::from);
        born(Kind::Pack).for_each(|i| (self.packs[i], self.damaged[i]).hash(state));
        born(Kind::Archive).for_each(|i| self.records[i].hash(state));
        born(Kind::Condemned).for_each(|i| self.condemned[i].hash(state));
        born(Kind::Intent).for_each(|i| self.intents[i].hash(state));
        born(Kind::Moved).for_each(|i| self.moved[i].hash(state));
        born(Kind::State).for_each(|i| self.states[i].hash(state));
        born(Kind::Marker).for_each(|i| self.markers[i].hash(state));
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            names: Names::default(),
            settled: Names::default(),
            packs: [0; 32],
            records: [Record { session: NONE, refs: [NONE; CHUNKS] }; 32],
            condemned: [0; 8],
            intents: [Intent::default(); 8],
            moved: [Moved { from: NONE, to: NONE, blobs: 0 }; 32],
            states: [State { archive: NONE, counter: 0, change: Change::Deleted, session: NONE }; 32],
            markers: [NONE; 16],
            done: 0,
            restored: 0,
            deletes: 0,
            dead: 0,
            damaged: [0; 32],
            found: 0,
            excused: 0,
        }
    }

    /// A pack of the beginning, in the index.
    pub(crate) fn with_pack(mut self, pack: u8, blobs: Set) -> Self {
        self.packs[usize::from(pack)] = blobs;
        self.put(Kind::Pack, pack);
        self.put(Kind::Segment, pack);
        self
    }

    /// A confirmed archive of the beginning.
    pub(crate) fn with_archive(mut self, archive: u8, refs: [u8; CHUNKS]) -> Self {
        self.records[usize::from(archive)] = Record { session: NONE, refs };
        self.put(Kind::Archive, archive);
        self.done |= one(archive);
        self
    }

    /// Deletes an archive of the beginning; the state has the archive's number.
    pub(crate) fn with_deleted(mut self, archive: u8) -> Self {
        let state = State { archive, counter: 1, change: Change::Deleted, session: NONE };
        self.put_state(archive, state);
        self.deletes |= one(archive);
        self
    }

    /// Key slots of the beginning.
    pub(crate) fn with_slots(mut self, slots: Set) -> Self {
        members(slots).for_each(|slot| self.put(Kind::Slot, slot));
        self
    }

    /// A forwarding of the beginning.
    pub(crate) fn with_moved(mut self, number: u8, moved: Moved) -> Self {
        self.moved[usize::from(number)] = moved;
        self.put(Kind::Moved, number);
        self
    }

    /// Damages blobs of a pack, and so the archives that use them.
    pub(crate) fn with_damage(mut self, pack: u8, blobs: Set) -> Self {
        self.damaged[usize::from(pack)] = blobs;
        let whole = |archive: &u8| self.is_whole(*archive, &Rules::EXACT);
        let lost = members(self.done).filter(|archive| !whole(archive)).fold(0, |all, lost| all | one(lost));
        self.excused |= lost;
        self
    }

    /// Nobody can rely on an archive that claims what was damaged before anybody knew.
    pub(crate) fn excuse(&mut self, archive: u8) {
        let unknown = |(chunk, pack): (u8, u8)| {
            self.damaged[usize::from(pack)] & one(chunk) != 0 && self.found & one(pack) == 0
        };
        if self.records[usize::from(archive)].refs().any(unknown) {
            self.excused |= one(archive);
        }
    }

    pub(crate) fn put(&mut self, kind: Kind, number: u8) {
        self.names.born[kind as usize] |= one(number);
    }

    pub(crate) fn put_state(&mut self, number: u8, state: State) {
        self.states[usize::from(number)] = state;
        self.put(Kind::State, number);
    }

    /// Deletes an object; one that is not there is left so.
    pub(crate) fn delete(&mut self, kind: Kind, number: u8) {
        if self.has(kind, number) {
            self.names.gone[kind as usize] |= one(number);
        }
    }

    pub(crate) fn has(&self, kind: Kind, number: u8) -> bool {
        self.all(kind) & one(number) != 0
    }

    /// What exists.
    pub(crate) fn all(&self, kind: Kind) -> Set {
        self.names.born[kind as usize] & !self.names.gone[kind as usize]
    }

    /// What was put so long ago that lists are sure to show it, or that it is gone.
    pub(crate) fn old(&self, kind: Kind) -> Set {
        self.settled.born[kind as usize]
    }

    /// What one list shows: all that is settled, and any part of what is newer.
    pub(crate) fn list(&self, kind: Kind, rules: &Rules, choices: &mut Choices) -> Set {
        if !rules.lag {
            return self.all(kind);
        }
        let at = kind as usize;
        let (born, gone) = (self.names.born[at], self.names.gone[at]);
        let (was_born, was_gone) = (self.settled.born[at], self.settled.gone[at]);
        let mut shown = was_born & !gone;
        for number in members((born & !was_born) | (gone & !was_gone)) {
            if choices.flip() {
                shown |= one(number);
            }
        }
        shown
    }

    /// What a list shows of objects that are then read: those of them that are gone are skipped.
    pub(crate) fn read(&self, kind: Kind, rules: &Rules, choices: &mut Choices) -> Set {
        self.list(kind, rules, choices) & self.all(kind)
    }

    /// The beginning of a settle time: what lists will show when it has passed.
    pub(crate) fn names(&self) -> Names {
        self.names
    }

    /// The end of a settle time that began with `names`.
    pub(crate) fn settle(&mut self, names: &Names) {
        for kind in 0..KINDS {
            self.settled.born[kind] |= names.born[kind];
            self.settled.gone[kind] |= names.gone[kind];
        }
    }

    /// All that was done so far is old.
    pub(crate) fn settle_all(&mut self) {
        self.settled = self.names;
    }

    /// What the listed intents name together.
    pub(crate) fn named(&self, intents: Set) -> Intent {
        let mut all = Intent::default();
        members(intents).for_each(|intent| all.add(self.intents[usize::from(intent)]));
        all
    }

    /// The listed packs, condemned lists taken together.
    pub(crate) fn condemned(&self, lists: Set) -> Set {
        members(lists).fold(0, |all, list| all | self.condemned[usize::from(list)])
    }

    /// The winning state of an archive among those listed, and whether it is withdrawn for good.
    pub(crate) fn winner(&self, states: Set, archive: u8) -> (Option<u8>, bool) {
        let of = members(states).filter(|state| self.states[usize::from(*state)].archive == archive);
        let change = |state: u8| self.states[usize::from(state)].change;
        let withdrawn = of.clone().any(|state| change(state) == Change::Withdrawn);
        let counted = of.filter(|state| change(*state) != Change::Withdrawn);
        (counted.max_by_key(|state| (self.states[usize::from(*state)].counter, *state)), withdrawn)
    }

    /// Which of the listed archives are neither deleted nor withdrawn.
    pub(crate) fn live(&self, archives: Set, states: Set) -> Set {
        let dead = members(archives).filter(|archive| match self.winner(states, *archive) {
            (_, true) => true,
            (Some(state), false) => self.states[usize::from(state)].change == Change::Deleted,
            (None, false) => false,
        });
        dead.fold(archives, |live, archive| live & !one(archive))
    }

    /// The packs where a reader looks for a chunk, in its order, given forwardings: at most `steps` beyond the first.
    pub(crate) fn path(&self, chunk: u8, pack: u8, moved: Set, steps: usize) -> Set {
        // Each pack waits in the stack at most once.
        let (mut seen, mut next, mut waiting) = (one(pack), [pack; 32], 1);
        for _ in 0..steps {
            if waiting == 0 {
                break;
            }
            waiting -= 1;
            let from = next[waiting];
            for number in members(moved) {
                let moved = &self.moved[usize::from(number)];
                if moved.from == from && moved.blobs & one(chunk) != 0 && seen & one(moved.to) == 0 {
                    seen |= one(moved.to);
                    next[waiting] = moved.to;
                    waiting += 1;
                }
            }
        }
        seen
    }

    /// Whether a reader finds a chunk. The index is no help here: it is the last resort, and nothing relies on it.
    pub(crate) fn finds(&self, chunk: u8, pack: u8, rules: &Rules) -> bool {
        let path = self.path(chunk, pack, self.all(Kind::Moved), rules.steps) & self.all(Kind::Pack);
        members(path).any(|pack| self.holds(pack, chunk))
    }

    fn holds(&self, pack: u8, chunk: u8) -> bool {
        self.packs[usize::from(pack)] & !self.damaged[usize::from(pack)] & one(chunk) != 0
    }

    /// Whether all of an archive can be read.
    pub(crate) fn is_whole(&self, archive: u8, rules: &Rules) -> bool {
        self.has(Kind::Archive, archive)
            && self.records[usize::from(archive)].refs().all(|(chunk, pack)| self.finds(chunk, pack, rules))
    }

    /// What users were promised and does not hold.
    pub(crate) fn broken_promise(&self, rules: &Rules) -> Option<String> {
        if self.names.gone[Kind::Slot as usize] != 0 && self.all(Kind::Slot) == 0 {
            return Some("the last slot is lost".into());
        }
        members(self.done & !self.excused).find_map(|archive| {
            // What users asked for and were told, whether or not it is still stored.
            let (told, _) = self.winner(self.deletes | self.restored, archive);
            let deleted = |state: u8| self.states[usize::from(state)].change == Change::Deleted;
            if told.is_some_and(deleted) {
                return None;
            }
            match self.winner(self.all(Kind::State), archive) {
                (_, true) => Some(format!("archive {archive} is withdrawn after it was reported")),
                (Some(state), _) if deleted(state) => Some(format!("archive {archive} is deleted by nobody")),
                _ if !self.is_whole(archive, rules) => Some(format!("archive {archive} has lost chunks")),
                _ => None,
            }
        })
    }
}
