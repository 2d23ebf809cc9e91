//! A compactor that waits for nothing, as `compact --now`.

use super::explore::Choices;
use super::rules::{Break, Rules};
use super::world::{Intent, Kind, Moved, Names, Set, World, members, moved_of, one, pack_of};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum At {
    Session,
    Mark,
    Condemn,
    CondemnedSettle,
    CondemnedSettled,
    ListAgain,
    Copy,
    Segment,
    Forward(u8),
    Intend,
    Settle,
    Settled,
    List(u8),
    DeletePack,
    DeleteMoved,
    DeleteRecord,
    DeleteStates,
    DeletesSettle,
    DeletesSettled,
    RemoveIntent,
    RemoveCondemned,
    RemoveLeftovers,
    EndSession,
    Ended,
}

/// Which packs it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Choice {
    /// What holds anything dead.
    Wasteful,
    /// What holds nothing alive. It leaves alone what others condemned, as if it knew that they are at work; those of the other choices take that over.
    Dead,
    /// Everything.
    All,
    /// Any.
    Any,
    /// Only this one, which holds damage and goes into quarantine; whatever good it holds is kept.
    Repair(u8),
}

/// What it lists after its intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    Intents,
    Condemned,
    Archives,
    States,
    Moved,
    Packs,
}

/// The order that keeps chunks: who will delete something says so before, and takes that back after it is gone.
const ORDER: [Looked; 6] =
    [Looked::Intents, Looked::Condemned, Looked::Archives, Looked::States, Looked::Moved, Looked::Packs];
/// That of format.md, read to the letter.
const PACKS_FIRST: [Looked; 6] =
    [Looked::Archives, Looked::States, Looked::Moved, Looked::Packs, Looked::Condemned, Looked::Intents];

/// What it listed after its intent.
#[derive(Debug, Clone, Hash, Default)]
struct Seen {
    archives: Set,
    states: Set,
    named: Intent,
    condemned: Set,
    moved: Set,
    packs: Set,
}

/// Where survivors go.
#[derive(Debug, Clone, Copy, Hash)]
struct Copied {
    from: u8,
    to: u8,
    blobs: Set,
}

#[derive(Debug, Clone, Hash)]
pub(crate) struct Compact {
    me: u8,
    at: At,
    choice: Choice,
    /// The packs it condemns.
    victims: Set,
    plan: Vec<Copied>,
    intent: Intent,
    seen: Seen,
    /// What is still to be deleted.
    left: Intent,
    /// The archive whose record was deleted, and whose states are next.
    stateless: Option<u8>,
    /// Intents and condemned lists of others that name nothing that is there.
    spent: (Set, Set),
    settling: Names,
}

impl Compact {
    pub(crate) fn new(me: u8, choice: Choice) -> Self {
        Self {
            me,
            at: At::Session,
            choice,
            victims: 0,
            plan: Vec::new(),
            intent: Intent::default(),
            seen: Seen::default(),
            left: Intent::default(),
            stateless: None,
            spent: (0, 0),
            settling: Names::default(),
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.at == At::Ended
    }

    pub(crate) fn step(&mut self, world: &mut World, rules: &Rules, choices: &mut Choices) -> String {
        let at = self.at;
        self.at = match at {
            At::Session if rules.sessions => {
                world.put(Kind::Session, self.me);
                At::Mark
            }
            At::Session | At::Mark => self.mark(world, rules, choices),
            At::Condemn => {
                world.condemned[usize::from(self.me)] = self.victims;
                world.put(Kind::Condemned, self.me);
                match () {
                    () if rules.breaks(Break::CondemnAfterCopy) => self.first_sweep_step(rules),
                    () if rules.lag => At::CondemnedSettle,
                    () => At::ListAgain,
                }
            }
            At::CondemnedSettle | At::Settle => {
                self.settling = world.names();
                if at == At::Settle { At::Settled } else { At::CondemnedSettled }
            }
            At::CondemnedSettled => {
                self.settled(world);
                At::ListAgain
            }
            At::ListAgain => {
                self.drop_missing(world.list(Kind::Pack, rules, choices));
                self.next_copy(rules)
            }
            At::Copy => {
                self.copy(world);
                if !rules.sessions && self.copies() {
                    world.put(Kind::Segment, pack_of(self.me, 0));
                }
                if self.copies() && rules.sessions { At::Segment } else { self.after_copy(0, rules) }
            }
            At::Segment => {
                world.put(Kind::Segment, pack_of(self.me, 0));
                self.after_copy(0, rules)
            }
            At::Forward(nth) => {
                let Copied { from, to, blobs } = self.plan[usize::from(nth)];
                let number = moved_of(self.me).start + nth;
                world.moved[usize::from(number)] = Moved { from, to, blobs };
                world.put(Kind::Moved, number);
                self.after_copy(nth + 1, rules)
            }
            At::Intend => {
                world.intents[usize::from(self.me)] = self.intent;
                world.put(Kind::Intent, self.me);
                if let Choice::Repair(damaged) = self.choice {
                    world.found |= one(damaged);
                }
                (self.victims, self.plan) = (0, Vec::new());
                match () {
                    () if rules.lag && !rules.breaks(Break::SweepSkipsSettle) => At::Settle,
                    () => self.after_settle(world, rules),
                }
            }
            At::Settled => {
                self.settled(world);
                self.after_settle(world, rules)
            }
            At::List(nth) => self.list(nth, world, rules, choices),
            At::DeletePack => {
                let pack = first(&mut self.left.packs);
                world.delete(Kind::Pack, pack);
                self.next_delete(rules)
            }
            At::DeleteMoved => {
                let moved = first(&mut self.left.moved);
                world.delete(Kind::Moved, moved);
                self.next_delete(rules)
            }
            At::DeleteRecord => {
                let archive = first(&mut self.left.archives);
                if rules.breaks(Break::StatesFirst) {
                    delete_states(archive, world);
                } else {
                    world.delete(Kind::Archive, archive);
                }
                self.stateless = Some(archive);
                At::DeleteStates
            }
            At::DeleteStates => {
                let archive = self.stateless.take().expect("its record was deleted");
                if rules.breaks(Break::StatesFirst) {
                    world.delete(Kind::Archive, archive);
                } else {
                    delete_states(archive, world);
                }
                self.next_delete(rules)
            }
            At::DeletesSettle => {
                self.find_spent(world, rules);
                self.settling = world.names();
                At::DeletesSettled
            }
            At::DeletesSettled => {
                self.settled(world);
                At::RemoveIntent
            }
            At::RemoveIntent => {
                if !rules.lag || rules.breaks(Break::LeftoversUnsettled) {
                    self.find_spent(world, rules);
                }
                world.delete(Kind::Intent, self.me);
                if rules.breaks(Break::IntentRemovedEarly) {
                    self.next_delete(rules)
                } else {
                    At::RemoveCondemned
                }
            }
            At::RemoveCondemned => {
                world.delete(Kind::Condemned, self.me);
                if self.spent == (0, 0) { self.end(rules) } else { At::RemoveLeftovers }
            }
            At::RemoveLeftovers => {
                members(self.spent.0).for_each(|intent| world.delete(Kind::Intent, intent));
                members(self.spent.1).for_each(|list| world.delete(Kind::Condemned, list));
                self.end(rules)
            }
            At::EndSession => {
                world.delete(Kind::Session, self.me);
                At::Ended
            }
            At::Ended => At::Ended,
        };
        format!("compact: {at:?}")
    }

    /// Nothing is left to do but to remove the session.
    fn end(&mut self, rules: &Rules) -> At {
        *self = Self::new(self.me, self.choice);
        if rules.sessions { At::EndSession } else { At::Ended }
    }

    fn settled(&mut self, world: &mut World) {
        world.settle(&self.settling);
        self.settling = Names::default();
    }

    /// Decides what to do. Nothing that matters hangs from it: it may see old lists.
    fn mark(&mut self, world: &World, rules: &Rules, choices: &mut Choices) -> At {
        let archives = world.read(Kind::Archive, rules, choices);
        let states = world.read(Kind::State, rules, choices);
        let moved = world.read(Kind::Moved, rules, choices);
        let packs = world.list(Kind::Pack, rules, choices);
        let intents = world.read(Kind::Intent, rules, choices);
        let lists = world.read(Kind::Condemned, rules, choices);
        let live = live(archives, states, world, rules);
        let needs = Needs::of(live, moved, world, rules);
        let leftover = world.named(intents);
        let wanted = |pack: u8| {
            let unneeded = world.packs[usize::from(pack)] & !needs.blobs[usize::from(pack)];
            let kept = needs.blobs[usize::from(pack)];
            match self.choice {
                Choice::Wasteful => unneeded != 0,
                Choice::Dead => kept == 0,
                Choice::All => true,
                Choice::Any => false,
                Choice::Repair(damaged) => pack == damaged,
            }
        };
        self.victims = members(packs).filter(|pack| wanted(*pack)).fold(0, |all, pack| all | one(pack));
        if self.choice == Choice::Any {
            for pack in members(packs) {
                self.victims |= if choices.flip() { one(pack) } else { 0 };
            }
        }
        let repairs = matches!(self.choice, Choice::Repair(_));
        if !repairs && self.choice != Choice::Dead {
            self.victims |= packs & (leftover.packs | world.condemned(lists));
        }
        self.choose_survivors(&needs, packs, world, rules);
        self.intent = Intent {
            packs: self.victims,
            archives: if repairs { 0 } else { archives & !live },
            moved: if repairs { 0 } else { moved & (!needs.moved | leftover.moved) },
        };
        let stray = if repairs { 0 } else { intents | lists };
        match () {
            () if self.intent == Intent::default() && stray == 0 => self.end(rules),
            () if rules.breaks(Break::CondemnAfterCopy) || rules.breaks(Break::NoCondemning) => At::ListAgain,
            () => At::Condemn,
        }
    }

    fn choose_survivors(&mut self, needs: &Needs, packs: Set, world: &World, rules: &Rules) {
        let new = pack_of(self.me, 0);
        for from in members(self.victims) {
            let mut blobs = needs.blobs[usize::from(from)] & world.packs[usize::from(from)];
            // What does not open is not copied, and so keeps its pack.
            if !rules.breaks(Break::CopyUnopened) {
                blobs &= !world.damaged[usize::from(from)];
            }
            if rules.breaks(Break::SurvivorsElsewhere) {
                for to in members(packs & !self.victims) {
                    let there = blobs & world.packs[usize::from(to)];
                    if there != 0 {
                        self.plan.push(Copied { from, to, blobs: there });
                        blobs &= !there;
                    }
                }
            }
            if blobs != 0 {
                self.plan.push(Copied { from, to: new, blobs });
            }
        }
        // As many as an actor of the model may publish.
        for Copied { from, .. } in self.plan.split_off(self.plan.len().min(moved_of(0).len())) {
            self.victims &= !one(from);
            self.plan.retain(|copied| copied.from != from);
        }
    }

    /// What others deleted meanwhile needs no work.
    fn drop_missing(&mut self, there: Set) {
        self.victims &= there;
        self.intent.packs &= there;
        self.plan.retain(|copied| there & one(copied.from) != 0);
    }

    fn copies(&self) -> bool {
        self.plan.iter().any(|copied| copied.to == pack_of(self.me, 0))
    }

    fn next_copy(&self, rules: &Rules) -> At {
        if self.plan.is_empty() { self.after_copy(0, rules) } else { At::Copy }
    }

    fn copy(&mut self, world: &mut World) {
        self.drop_missing(world.all(Kind::Pack));
        let new = pack_of(self.me, 0);
        if self.copies() {
            let blobs = self.plan.iter().filter(|copied| copied.to == new);
            for Copied { from, blobs, .. } in blobs {
                world.packs[usize::from(new)] |= blobs;
                world.damaged[usize::from(new)] |= world.damaged[usize::from(*from)] & blobs;
            }
            world.put(Kind::Pack, new);
        }
    }

    fn after_copy(&self, forwarded: u8, rules: &Rules) -> At {
        match () {
            () if usize::from(forwarded) < self.plan.len() => At::Forward(forwarded),
            () if rules.breaks(Break::CondemnAfterCopy) => At::Condemn,
            () => self.first_sweep_step(rules),
        }
    }

    fn first_sweep_step(&self, rules: &Rules) -> At {
        if rules.breaks(Break::ListBeforeIntent) { At::List(0) } else { At::Intend }
    }

    fn after_settle(&mut self, world: &World, rules: &Rules) -> At {
        if rules.breaks(Break::ListBeforeIntent) { self.spare(world, rules) } else { At::List(0) }
    }

    fn list(&mut self, nth: u8, world: &World, rules: &Rules, choices: &mut Choices) -> At {
        let order = if rules.breaks(Break::SweepListsPacksFirst) { PACKS_FIRST } else { ORDER };
        let mut read = |kind| world.read(kind, rules, choices);
        match order[usize::from(nth)] {
            Looked::Intents => self.seen.named = world.named(read(Kind::Intent)),
            Looked::Condemned => self.seen.condemned = world.condemned(read(Kind::Condemned) & !one(self.me)),
            Looked::Archives => self.seen.archives = read(Kind::Archive),
            Looked::States => self.seen.states = read(Kind::State),
            Looked::Moved => self.seen.moved = read(Kind::Moved),
            Looked::Packs => self.seen.packs = world.list(Kind::Pack, rules, choices),
        }
        match () {
            () if usize::from(nth) + 1 < order.len() => At::List(nth + 1),
            () if rules.breaks(Break::ListBeforeIntent) => At::Intend,
            () => self.spare(world, rules),
        }
    }

    /// Spares what anything still needs. Whatever others say they will delete does not count.
    fn spare(&mut self, world: &World, rules: &Rules) -> At {
        let mut seen = std::mem::take(&mut self.seen);
        seen.named.add(self.intent);
        if rules.breaks(Break::IgnoreOthers) {
            (seen.named, seen.condemned) = (self.intent, 0);
        } else if rules.breaks(Break::IgnoreOthersCondemned) {
            seen.condemned = 0;
        }
        let live = live(seen.archives, seen.states, world, rules);
        let needs = Needs::of(live, seen.moved, world, rules);
        self.left = self.intent;
        for archive in members(live) {
            for (chunk, pack) in world.records[usize::from(archive)].refs() {
                let needed = unsatisfied(chunk, pack, self.intent.packs, &seen, world, rules);
                self.left.packs &= !self.excused(chunk, needed, world, rules);
            }
        }
        if !rules.breaks(Break::ForwardingsUnchecked) {
            self.left.moved &= !needs.moved;
        }
        if !rules.breaks(Break::RecordsUnchecked) {
            self.left.archives &= seen.archives & !live;
        }
        self.intent = Intent::default();
        if rules.breaks(Break::IntentRemovedEarly) { At::RemoveIntent } else { self.next_delete(rules) }
    }

    /// What is damaged in a pack keeps nobody from moving it away.
    fn excused(&self, chunk: u8, needed: Set, world: &World, rules: &Rules) -> Set {
        let Choice::Repair(damaged) = self.choice else { return needed };
        let bad = world.damaged[usize::from(damaged)] & one(chunk) != 0;
        if bad || rules.breaks(Break::RepairSparesNothing) { needed & !one(damaged) } else { needed }
    }

    fn next_delete(&self, rules: &Rules) -> At {
        let early = rules.breaks(Break::IntentRemovedEarly);
        match () {
            () if self.left.packs != 0 => At::DeletePack,
            () if self.left.moved != 0 => At::DeleteMoved,
            () if self.left.archives != 0 => At::DeleteRecord,
            () if early => At::RemoveCondemned,
            () if rules.lag && !rules.breaks(Break::IntentRemovedUnsettled) => At::DeletesSettle,
            () => At::RemoveIntent,
        }
    }

    /// Intents and condemned lists of others may go when all that they name is gone, and lists show so.
    fn find_spent(&mut self, world: &World, rules: &Rules) {
        let gone = |intent: Intent| {
            let Intent { packs, archives, moved } = intent;
            packs & world.all(Kind::Pack) == 0
                && archives & world.all(Kind::Archive) == 0
                && moved & world.all(Kind::Moved) == 0
        };
        let any = rules.breaks(Break::OthersIntentsRemoved);
        for other in members((world.all(Kind::Intent) | world.all(Kind::Condemned)) & !one(self.me)) {
            let packs = world.condemned[usize::from(other)];
            if any || gone(world.intents[usize::from(other)]) {
                self.spent.0 |= one(other) & world.all(Kind::Intent);
            }
            if any || gone(Intent { packs, ..Intent::default() }) {
                self.spent.1 |= one(other) & world.all(Kind::Condemned);
            }
        }
    }
}

fn first(set: &mut Set) -> u8 {
    let number = members(*set).next().expect("something is left");
    *set &= !one(number);
    number
}

fn delete_states(archive: u8, world: &mut World) {
    for state in members(world.all(Kind::State)) {
        if world.states[usize::from(state)].archive == archive {
            world.delete(Kind::State, state);
        }
    }
}

fn live(archives: Set, states: Set, world: &World, rules: &Rules) -> Set {
    let live = world.live(archives, states);
    if !rules.breaks(Break::IgnoreUnconfirmed) {
        return live;
    }
    let unconfirmed = |archive: &u8| {
        let session = world.records[usize::from(*archive)].session;
        session < 32 && world.has(Kind::Session, session)
    };
    members(live).filter(unconfirmed).fold(live, |live, archive| live & !one(archive))
}

/// What live archives need.
pub(crate) struct Needs {
    /// By pack, whether there or not.
    pub(crate) blobs: [Set; 32],
    pub(crate) moved: Set,
}

impl Needs {
    pub(crate) fn of(live: Set, moved: Set, world: &World, rules: &Rules) -> Self {
        let mut needs = Self { blobs: [0; 32], moved: 0 };
        let moved_on = if rules.breaks(Break::TargetsAreNoReferences) { 0 } else { moved };
        for archive in members(live) {
            for (chunk, pack) in world.records[usize::from(archive)].refs() {
                let path = world.path(chunk, pack, moved_on, usize::MAX);
                members(path).for_each(|pack| needs.blobs[usize::from(pack)] |= one(chunk));
                for number in members(moved) {
                    let moved = &world.moved[usize::from(number)];
                    if path & one(moved.from) != 0 && moved.blobs & one(chunk) != 0 {
                        needs.moved |= one(number);
                    }
                }
            }
        }
        needs
    }
}

/// Which packs of an intent a live reference still needs: all on its path that do not lead on to one that stays.
fn unsatisfied(chunk: u8, pack: u8, intended: Set, seen: &Seen, world: &World, rules: &Rules) -> Set {
    let on = if rules.breaks(Break::TargetsAreNoReferences) { 0 } else { seen.moved };
    let path = world.path(chunk, pack, on, usize::MAX);
    if path & intended == 0 {
        return 0;
    }
    let stays = seen.packs & !seen.named.packs & !seen.condemned;
    let too_long = path.count_ones() as usize > rules.steps / 2 && !rules.breaks(Break::ChainsUnchecked);
    let satisfied = |from: u8| {
        let kept = seen.moved & !seen.named.moved;
        let targets = if rules.breaks(Break::SweepAnyForwarding) {
            let of = |moved: &u8| world.moved[usize::from(*moved)].from == from;
            members(kept).filter(of).fold(0, |all, moved| all | one(world.moved[usize::from(moved)].to))
        } else {
            world.path(chunk, from, kept, usize::MAX) & !one(from)
        };
        !too_long && targets & stays != 0
    };
    members(path & intended).filter(|from| !satisfied(*from)).fold(0, |all, from| all | one(from))
}
