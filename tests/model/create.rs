//! A create, in the order of the protocol.

use super::explore::Choices;
use super::rules::{Break, Rules};
use super::world::{
    CHUNKS, Change, Intent, Kind, NONE, Names, OWN, Record, Set, State, World, members, one, own, pack_of,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum At {
    Session,
    SessionSettles,
    SessionSettled,
    ListCondemned,
    ListPacks,
    SettleForOrphans,
    SettledForOrphans,
    ListSessions,
    Claim,
    Pack,
    Discard,
    Segment,
    Record,
    LatePack,
    WithdrawFirst,
    Settle,
    Settled,
    ListIntents,
    ListPacksAgain,
    Confirm,
    WithdrawLast,
    WithdrawalSettles,
    WithdrawalSettled,
    EndSession,
    Ended,
}

/// Its passes are those of the program, fewer in number.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Create {
    me: u8,
    at: At,
    wants: Set,
    /// Whether it may claim chunks from packs that no index names.
    orphans: bool,
    /// Whether it runs out of space after its first pack, which it then deletes.
    out_of_space: bool,
    pass: u8,
    condemned: Set,
    claimable: Set,
    fresh: Set,
    indexed_only: bool,
    refs: [u8; CHUNKS],
    named: Intent,
    safe: Set,
    settling: Names,
}

impl Create {
    pub(crate) fn new(me: u8, wants: Set) -> Self {
        Self {
            me,
            at: At::Session,
            wants,
            orphans: false,
            out_of_space: false,
            pass: 0,
            condemned: 0,
            claimable: 0,
            fresh: 0,
            indexed_only: true,
            refs: [NONE; CHUNKS],
            named: Intent::default(),
            safe: 0,
            settling: Names::default(),
        }
    }

    pub(crate) fn with_orphans(self) -> Self {
        Self { orphans: true, ..self }
    }

    pub(crate) fn out_of_space(self) -> Self {
        Self { out_of_space: true, ..self }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.at == At::Ended
    }

    fn archive(&self) -> u8 {
        own(self.me, self.pass)
    }

    fn pack(&self) -> u8 {
        pack_of(self.me, self.pass)
    }

    pub(crate) fn step(&mut self, world: &mut World, rules: &Rules, choices: &mut Choices) -> String {
        let at = self.at;
        self.at = match at {
            At::Session if rules.sessions => {
                world.put(Kind::Session, self.me);
                if rules.lag && !rules.breaks(Break::SessionUnsettled) {
                    At::SessionSettles
                } else {
                    At::ListCondemned
                }
            }
            At::SessionSettles => {
                self.settling = world.names();
                At::SessionSettled
            }
            At::SessionSettled => {
                self.settled(world);
                At::ListCondemned
            }
            At::Session | At::ListCondemned => {
                self.condemned = world.condemned(world.read(Kind::Condemned, rules, choices));
                At::ListPacks
            }
            At::ListPacks => {
                let barred = if rules.breaks(Break::ClaimCondemned) { 0 } else { self.condemned };
                self.claimable = world.list(Kind::Pack, rules, choices) & !barred;
                self.condemned = 0;
                match () {
                    () if !self.orphans => At::Claim,
                    () if rules.breaks(Break::OrphansWithoutSessions) => {
                        self.indexed_only = false;
                        At::Claim
                    }
                    () if rules.lag && !rules.breaks(Break::OrphansUnsettled) => At::SettleForOrphans,
                    () => At::ListSessions,
                }
            }
            At::SettleForOrphans => {
                self.settling = world.names();
                At::SettledForOrphans
            }
            At::SettledForOrphans => {
                self.settled(world);
                At::ListSessions
            }
            At::ListSessions => {
                let others = world.list(Kind::Session, rules, choices) & !one(self.me);
                self.indexed_only = others & !world.dead != 0;
                At::Claim
            }
            At::Claim => {
                let indexed =
                    if self.indexed_only { world.read(Kind::Segment, rules, choices) } else { Set::MAX };
                self.claim(self.claimable & indexed, world, choices);
                self.claimable = 0;
                self.after_claims(rules)
            }
            At::Pack => {
                world.packs[usize::from(self.pack())] = self.fresh;
                world.put(Kind::Pack, self.pack());
                self.fresh = 0;
                if self.out_of_space && self.pass == 0 {
                    At::Discard
                } else if rules.sessions {
                    At::Segment
                } else {
                    world.put(Kind::Segment, self.pack());
                    At::Record
                }
            }
            At::Discard => {
                world.delete(Kind::Pack, self.pack());
                self.end(rules)
            }
            At::Segment => {
                world.put(Kind::Segment, self.pack());
                At::Record
            }
            At::Record => {
                self.publish(world);
                match () {
                    () if rules.breaks(Break::RecordBeforePacks) && self.fresh != 0 => At::LatePack,
                    () => self.after_record(world, rules),
                }
            }
            At::LatePack => {
                world.packs[usize::from(self.pack())] = self.fresh;
                world.put(Kind::Pack, self.pack());
                world.put(Kind::Segment, self.pack());
                self.after_record(world, rules)
            }
            At::WithdrawFirst => {
                self.withdraw(world, self.pass - 1);
                self.before_lists(rules)
            }
            At::Settle => {
                self.settling = world.names();
                At::Settled
            }
            At::Settled => {
                self.settled(world);
                self.first_list(rules)
            }
            At::ListIntents => {
                self.named = world.named(world.read(Kind::Intent, rules, choices));
                if rules.breaks(Break::CreateListsPacksFirst) { At::Confirm } else { At::ListPacksAgain }
            }
            At::ListPacksAgain => {
                self.safe = world.list(Kind::Pack, rules, choices);
                if rules.breaks(Break::CreateListsPacksFirst) { At::ListIntents } else { At::Confirm }
            }
            At::Confirm => self.confirm(world, rules, choices),
            At::WithdrawLast => {
                self.withdraw(world, self.pass);
                if rules.lag && rules.sessions { At::WithdrawalSettles } else { self.end(rules) }
            }
            At::WithdrawalSettles => {
                self.settling = world.names();
                At::WithdrawalSettled
            }
            At::WithdrawalSettled => {
                self.settled(world);
                At::EndSession
            }
            At::EndSession => {
                world.delete(Kind::Session, self.me);
                self.end(&Rules { sessions: false, ..*rules })
            }
            At::Ended => At::Ended,
        };
        format!("create: {at:?}")
    }

    /// Nothing is left to do but to remove the session.
    fn end(&mut self, rules: &Rules) -> At {
        let at = if rules.sessions { At::EndSession } else { At::Ended };
        *self = Self::new(self.me, self.wants);
        at
    }

    fn settled(&mut self, world: &mut World) {
        world.settle(&self.settling);
        self.settling = Names::default();
    }

    /// Finds each wanted chunk that has no place yet in one of the packs that may be claimed, or stores it anew.
    fn claim(&mut self, from: Set, world: &World, choices: &mut Choices) {
        self.fresh = 0;
        for chunk in members(self.wants) {
            let place = &mut self.refs[usize::from(chunk)];
            if *place != NONE {
                continue;
            }
            let holds = |pack: &u8| world.packs[usize::from(*pack)] & one(chunk) != 0;
            let holders: Vec<u8> = members(from).filter(holds).collect();
            *place = match holders.len() {
                0 => pack_of(self.me, self.pass),
                n => holders[choices.pick(n)],
            };
            if holders.is_empty() {
                self.fresh |= one(chunk);
            }
        }
    }

    fn after_claims(&self, rules: &Rules) -> At {
        if self.fresh == 0 || rules.breaks(Break::RecordBeforePacks) { At::Record } else { At::Pack }
    }

    fn publish(&mut self, world: &mut World) {
        let archive = self.archive();
        world.records[usize::from(archive)] = Record { session: self.me, refs: self.refs };
        world.put(Kind::Archive, archive);
        world.excuse(archive);
    }

    fn after_record(&mut self, world: &mut World, rules: &Rules) -> At {
        if rules.breaks(Break::NoConfirmation) {
            world.done |= one(self.archive());
            return self.end(rules);
        }
        if self.pass > 0 { At::WithdrawFirst } else { self.before_lists(rules) }
    }

    fn before_lists(&self, rules: &Rules) -> At {
        if rules.lag && !rules.breaks(Break::CreateSkipsSettle) { At::Settle } else { self.first_list(rules) }
    }

    fn first_list(&self, rules: &Rules) -> At {
        if rules.breaks(Break::CreateListsPacksFirst) { At::ListPacksAgain } else { At::ListIntents }
    }

    fn withdraw(&self, world: &mut World, pass: u8) {
        let state =
            State { archive: own(self.me, pass), counter: 1, change: Change::Withdrawn, session: self.me };
        world.put_state(own(self.me, pass), state);
    }

    /// What is gone and not forwarded is stored again.
    fn confirm(&mut self, world: &mut World, rules: &Rules, choices: &mut Choices) -> At {
        let lost = self.lost(world, rules, choices);
        (self.named, self.safe) = (Intent::default(), 0);
        if lost == 0 {
            world.done |= one(self.archive());
            return self.end(rules);
        }
        if self.pass + 1 == OWN {
            return At::WithdrawLast;
        }
        self.pass += 1;
        for chunk in members(lost) {
            self.refs[usize::from(chunk)] = NONE;
        }
        self.claim(0, world, choices);
        self.after_claims(rules)
    }

    fn lost(&self, world: &World, rules: &Rules, choices: &mut Choices) -> Set {
        let record = Record { session: self.me, refs: self.refs };
        lost(&record, self.safe, self.named, world, rules, choices)
    }
}

/// What a writer that relies on a record's claims must count as gone, after it listed intents, then packs.
pub(crate) fn lost(
    record: &Record,
    listed: Set,
    named: Intent,
    world: &World,
    rules: &Rules,
    choices: &mut Choices,
) -> Set {
    let safe = listed & !named.packs;
    if record.refs().all(|(_, pack)| safe & one(pack) != 0) {
        return 0;
    }
    let trusts = rules.breaks(Break::CreateTrustsForwardings);
    let targets = if trusts { listed } else { safe };
    let moved = world.read(Kind::Moved, rules, choices) & if trusts { Set::MAX } else { !named.moved };
    let forwarded = |chunk: u8, pack: u8| {
        members(moved).map(|number| world.moved[usize::from(number)]).any(|moved| {
            let this = moved.blobs & one(chunk) != 0 || rules.breaks(Break::AnyForwardingOfThePack);
            moved.from == pack && this && targets & one(moved.to) != 0
        })
    };
    let gone = record.refs().filter(|(chunk, pack)| safe & one(*pack) == 0 && !forwarded(*chunk, *pack));
    gone.fold(0, |all, (chunk, _)| all | one(chunk))
}
