//! Those who only look: one who lists archives, one who reads a chunk; and one who puts packs into the index.

use super::explore::Choices;
use super::rules::{Break, Rules};
use super::world::{Kind, Set, World, members, one};

/// One who reads a chunk of an archive: at its place, then wherever forwardings lead.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Reader {
    archive: u8,
    /// The packs to look at, and those that were missing, whose forwardings are next.
    next: Vec<u8>,
    missing: Vec<u8>,
    seen: Set,
    left: usize,
    ended: bool,
}

impl Reader {
    pub(crate) fn new(archive: u8, pack: u8) -> Self {
        Self { archive, next: vec![pack], missing: Vec::new(), seen: one(pack), left: 16, ended: false }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Reads chunk 0; says what went wrong too.
    pub(crate) fn step(
        &mut self,
        world: &World,
        rules: &Rules,
        choices: &mut Choices,
    ) -> (String, Option<String>) {
        if let Some(pack) = self.next.pop() {
            self.ended = world.has(Kind::Pack, pack);
            self.missing.push(pack);
            return (format!("reader: look into pack {pack}"), None);
        }
        let from = self.missing.pop().filter(|_| self.left > 0);
        let Some(from) = from else {
            self.ended = true;
            let (told, _) = world.winner(world.deletes, self.archive);
            let lost = told.is_none().then(|| "a reader found nothing".to_owned());
            return ("reader: give up".into(), lost);
        };
        self.left -= 1;
        for moved in members(world.read(Kind::Moved, rules, choices)) {
            let moved = world.moved[usize::from(moved)];
            if moved.from == from && moved.blobs & 1 != 0 && self.seen & one(moved.to) == 0 {
                self.seen |= one(moved.to);
                self.next.push(moved.to);
            }
        }
        (format!("reader: list forwardings of pack {from}"), None)
    }
}

/// One who puts packs into the index that no segment names, as a repair does.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Reindex {
    me: u8,
    at: u8,
    packs: Set,
}

impl Reindex {
    pub(crate) fn new(me: u8) -> Self {
        Self { me, at: 0, packs: 0 }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.at == 3
    }

    pub(crate) fn step(&mut self, world: &mut World, rules: &Rules, choices: &mut Choices) -> String {
        self.at += 1;
        match self.at {
            1 => self.packs = world.list(Kind::Pack, rules, choices),
            2 => {
                let others = world.list(Kind::Session, rules, choices) & !one(self.me) & !world.dead;
                if others != 0 && !rules.breaks(Break::ReindexUnseen) {
                    self.at = 3;
                }
            }
            _ => {
                let unnamed = self.packs & !world.all(Kind::Segment);
                members(unnamed).for_each(|pack| world.put(Kind::Segment, pack));
            }
        }
        format!("reindex: step {}", self.at)
    }
}

/// How a lister goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    /// As format.md says: archives, sessions, states.
    Written,
    /// Archives, states, sessions, states, archives.
    Twice,
}

/// One who lists archives, and marks those that are unconfirmed.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Lister {
    at: u8,
    way: Way,
    archives: Set,
    sessions: Set,
    first: Set,
    states: Set,
    /// What users had deleted long before it began.
    deleted: Set,
}

impl Lister {
    pub(crate) fn new(way: Way) -> Self {
        Self { at: 0, way, archives: 0, sessions: 0, first: 0, states: 0, deleted: 0 }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.at == 5
    }

    pub(crate) fn step(&mut self, world: &World, rules: &Rules, choices: &mut Choices) -> String {
        let mut read = |kind| world.read(kind, rules, choices);
        match (self.at, self.way) {
            (0, _) => {
                self.archives = read(Kind::Archive);
                self.deleted = world.deletes & if rules.lag { world.old(Kind::State) } else { Set::MAX };
            }
            (1, Way::Twice) => self.first = read(Kind::State),
            (2, _) => self.sessions = world.list(Kind::Session, rules, choices),
            (3, _) => self.states = read(Kind::State),
            (4, Way::Twice) => self.archives &= read(Kind::Archive),
            _ => {}
        }
        if self.way == Way::Written {
            self.first = self.states;
            self.at += u8::from(self.at == 0 || self.at == 3);
        }
        self.at += 1;
        format!("lister: {} of {:?}", self.at, self.way)
    }

    /// What it shows as good although nobody was told so.
    pub(crate) fn wrong(&self, world: &World) -> Option<String> {
        if self.at < 5 {
            return None;
        }
        members(world.live(self.archives, self.states)).find_map(|archive| {
            let (winner, _) = world.winner(self.states, archive);
            let restoring = winner.map(|state| (state, world.states[usize::from(state)].session));
            let running = |session: u8| session < 32 && self.sessions & one(session) != 0;
            let new = restoring.is_some_and(|(state, _)| self.first & one(state) == 0);
            let unconfirmed = running(world.records[usize::from(archive)].session)
                || restoring.is_some_and(|(_, session)| running(session));
            if unconfirmed || new {
                return None;
            }
            match restoring {
                _ if world.done & one(archive) == 0 => Some(format!("{archive} is shown as confirmed")),
                Some((state, _)) if world.restored & one(state) == 0 => {
                    Some(format!("{archive} is shown as restored"))
                }
                None if self.told_deleted(archive, world) => {
                    Some(format!("{archive} is shown, but is deleted"))
                }
                _ => None,
            }
        })
    }

    fn told_deleted(&self, archive: u8, world: &World) -> bool {
        let (told, _) = world.winner(self.deleted, archive);
        told.is_some()
    }
}
