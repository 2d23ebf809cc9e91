//! Those who change what archives there are: delete, undelete, one who confirms for the dead.

use super::create::lost;
use super::explore::Choices;
use super::rules::{Break, Rules};
use super::world::{Change, Intent, Kind, NONE, Names, Set, State, World, members, one, own};

/// A user's delete.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Delete {
    me: u8,
    archive: u8,
    counter: u8,
    at: u8,
}

impl Delete {
    pub(crate) fn new(me: u8, archive: u8) -> Self {
        Self { me, archive, counter: 0, at: 0 }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.at == 2
    }

    pub(crate) fn step(&mut self, world: &mut World, rules: &Rules, choices: &mut Choices) -> String {
        self.at += 1;
        if self.at == 1 {
            let states = world.read(Kind::State, rules, choices);
            self.counter = counter(states, self.archive, world) + 1;
            return format!("delete: list states, {} is next", self.counter);
        }
        let (archive, counter) = (self.archive, self.counter);
        world.put_state(own(self.me, 0), State { archive, counter, change: Change::Deleted, session: NONE });
        world.deletes |= one(own(self.me, 0));
        "delete: put the state".into()
    }
}

fn counter(states: Set, archive: u8, world: &World) -> u8 {
    let of = members(states).map(|state| world.states[usize::from(state)]).filter(|s| s.archive == archive);
    of.map(|state| state.counter).max().unwrap_or(0)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum At {
    Session,
    SessionSettles,
    SessionSettled,
    ListStates,
    State,
    Settle,
    Settled,
    ListIntents,
    ReadRecord,
    ListPacks,
    Confirm,
    TakeBack,
    TakenBackSettle,
    TakenBackSettled,
    EndSession,
    Ended,
}

/// An undelete: a writer that claims all of an archive.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Undelete {
    me: u8,
    archive: u8,
    at: At,
    counter: u8,
    named: Intent,
    safe: Set,
    settling: Names,
}

impl Undelete {
    pub(crate) fn new(me: u8, archive: u8) -> Self {
        let (named, settling) = (Intent::default(), Names::default());
        Self { me, archive, at: At::Session, counter: 0, named, safe: 0, settling }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.at == At::Ended
    }

    pub(crate) fn step(&mut self, world: &mut World, rules: &Rules, choices: &mut Choices) -> String {
        let at = self.at;
        self.at = match at {
            At::Session => {
                world.put(Kind::Session, self.me);
                if rules.lag && !rules.breaks(Break::SessionUnsettled) {
                    At::SessionSettles
                } else {
                    At::ListStates
                }
            }
            At::ListStates => {
                let states = world.read(Kind::State, rules, choices);
                self.counter = counter(states, self.archive, world) + 1;
                let (winner, withdrawn) = world.winner(states, self.archive);
                let deleted = winner.is_some_and(|s| world.states[usize::from(s)].change == Change::Deleted);
                if deleted && !withdrawn { At::State } else { At::EndSession }
            }
            At::State => {
                world.put_state(own(self.me, 0), self.state(Change::Restored, self.counter));
                match () {
                    () if rules.breaks(Break::UndeleteUnconfirmed) => self.report(world),
                    () if rules.lag => At::Settle,
                    () => At::ListIntents,
                }
            }
            At::SessionSettles | At::Settle | At::TakenBackSettle => {
                self.settling = world.names();
                match at {
                    At::SessionSettles => At::SessionSettled,
                    At::Settle => At::Settled,
                    _ => At::TakenBackSettled,
                }
            }
            At::SessionSettled | At::Settled | At::TakenBackSettled => {
                world.settle(&self.settling);
                self.settling = Names::default();
                match at {
                    At::SessionSettled => At::ListStates,
                    At::Settled => At::ListIntents,
                    _ => At::EndSession,
                }
            }
            At::ListIntents => {
                self.named = world.named(world.read(Kind::Intent, rules, choices));
                if rules.breaks(Break::UndeleteIgnoresIntents) {
                    self.named.archives = 0;
                }
                if self.named.archives & one(self.archive) != 0 { At::TakeBack } else { At::ReadRecord }
            }
            At::ReadRecord => {
                let there = world.has(Kind::Archive, self.archive);
                if there || rules.breaks(Break::UndeleteIgnoresRecord) { At::ListPacks } else { At::TakeBack }
            }
            At::ListPacks => {
                self.safe = world.list(Kind::Pack, rules, choices);
                At::Confirm
            }
            At::Confirm => {
                let record = world.records[usize::from(self.archive)];
                let lost = lost(&record, self.safe, self.named, world, rules, choices);
                if lost == 0 { self.report(world) } else { At::TakeBack }
            }
            At::TakeBack => {
                if rules.breaks(Break::UndeleteDeletesAnew) {
                    let states = world.read(Kind::State, rules, choices);
                    let next = counter(states, self.archive, world) + 1;
                    world.put_state(own(self.me, 1), self.state(Change::Deleted, next));
                } else {
                    world.delete(Kind::State, own(self.me, 0));
                }
                (self.named, self.safe) = (Intent::default(), 0);
                if rules.lag { At::TakenBackSettle } else { At::EndSession }
            }
            At::EndSession => {
                world.delete(Kind::Session, self.me);
                At::Ended
            }
            At::Ended => At::Ended,
        };
        format!("undelete: {at:?}")
    }

    fn state(&self, change: Change, counter: u8) -> State {
        State { archive: self.archive, counter, change, session: self.me }
    }

    fn report(&mut self, world: &mut World) -> At {
        (self.named, self.safe) = (Intent::default(), 0);
        world.restored |= one(own(self.me, 0));
        At::EndSession
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum ConfirmAt {
    Session,
    Settle,
    Settled,
    ListArchives,
    ListStates,
    ListIntents,
    ListPacks,
    Check,
    EndDead,
    EndSession,
    Ended,
}

/// One who confirms what a writer that surely died had published.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Confirm {
    me: u8,
    at: ConfirmAt,
    session: u8,
    archives: Set,
    /// Those that the dead session restored.
    restored: Set,
    named: Intent,
    safe: Set,
    settling: Names,
}

impl Confirm {
    pub(crate) fn new(me: u8, session: u8) -> Self {
        let (named, settling) = (Intent::default(), Names::default());
        Self { me, at: ConfirmAt::Session, session, archives: 0, restored: 0, named, safe: 0, settling }
    }

    /// It has nothing to do while the session's writer may live.
    pub(crate) fn has_ended(&self, world: &World) -> bool {
        self.at == ConfirmAt::Ended || world.dead & one(self.session) == 0
    }

    pub(crate) fn step(&mut self, world: &mut World, rules: &Rules, choices: &mut Choices) -> String {
        let at = self.at;
        self.at = match at {
            ConfirmAt::Session => {
                world.put(Kind::Session, self.me);
                if rules.lag { ConfirmAt::Settle } else { ConfirmAt::ListArchives }
            }
            ConfirmAt::Settle => {
                self.settling = world.names();
                ConfirmAt::Settled
            }
            ConfirmAt::Settled => {
                world.settle(&self.settling);
                self.settling = Names::default();
                ConfirmAt::ListArchives
            }
            ConfirmAt::ListArchives => {
                self.archives = world.read(Kind::Archive, rules, choices);
                ConfirmAt::ListStates
            }
            ConfirmAt::ListStates => {
                let states = world.read(Kind::State, rules, choices);
                self.restored = self.restores(states, world);
                self.archives = self.unconfirmed(states, world);
                if rules.breaks(Break::ConfirmOne) && self.archives != 0 {
                    self.archives = one(members(self.archives).last().expect("there is one"));
                }
                ConfirmAt::ListIntents
            }
            ConfirmAt::ListIntents => {
                self.named = world.named(world.read(Kind::Intent, rules, choices));
                if rules.breaks(Break::ConfirmIgnoresIntents) {
                    self.named = Intent::default();
                }
                ConfirmAt::ListPacks
            }
            ConfirmAt::ListPacks => {
                self.safe = world.list(Kind::Pack, rules, choices);
                ConfirmAt::Check
            }
            ConfirmAt::Check => {
                let stays = |archive: u8| {
                    self.named.archives & one(archive) == 0 && world.has(Kind::Archive, archive)
                };
                let stay = rules.breaks(Break::ConfirmIgnoresNames) || members(self.restored).all(stays);
                let whole = members(self.archives).all(|archive| {
                    let record = world.records[usize::from(archive)];
                    lost(&record, self.safe, self.named, world, rules, choices) == 0
                });
                (self.named, self.safe) = (Intent::default(), 0);
                if whole && stay || rules.breaks(Break::ConfirmUnseen) {
                    ConfirmAt::EndDead
                } else {
                    ConfirmAt::EndSession
                }
            }
            ConfirmAt::EndDead => {
                world.delete(Kind::Session, self.session);
                self.promise(world);
                ConfirmAt::EndSession
            }
            ConfirmAt::EndSession => {
                world.delete(Kind::Session, self.me);
                ConfirmAt::Ended
            }
            ConfirmAt::Ended => ConfirmAt::Ended,
        };
        format!("confirm: {at:?}")
    }

    /// Those archives that the dead session published or restored, as long as they are neither deleted nor withdrawn.
    fn unconfirmed(&self, states: Set, world: &World) -> Set {
        let names = |archive: &u8| {
            let restoring = |state: u8| world.states[usize::from(state)].session == self.session;
            world.records[usize::from(*archive)].session == self.session
                || world.winner(states, *archive).0.is_some_and(restoring)
        };
        let live = world.live(self.archives, states);
        members(live).filter(names).fold(0, |all, archive| all | one(archive))
    }

    fn restores(&self, states: Set, world: &World) -> Set {
        let restored = members(states).map(|state| world.states[usize::from(state)]);
        let restored =
            restored.filter(|state| state.session == self.session && state.change == Change::Restored);
        restored.fold(0, |all, state| all | one(state.archive))
    }

    /// What everybody is told from now on.
    fn promise(&self, world: &mut World) {
        for archive in members(world.all(Kind::Archive)) {
            if world.records[usize::from(archive)].session == self.session
                && !world.winner(world.all(Kind::State), archive).1
            {
                world.done |= one(archive);
            }
        }
        for state in members(world.all(Kind::State)) {
            let State { session, change, .. } = world.states[usize::from(state)];
            if session == self.session && change == Change::Restored {
                world.restored |= one(state);
            }
        }
    }
}
