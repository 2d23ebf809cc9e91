//! One schedule, drawn from a seed: a scene, rounds of actors, the order of their steps, and what befalls them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use copal::id::ArchiveId;
use copal::storage::memory::MemoryStorage;
use copal::storage::recorder::Op;
use parking_lot::Mutex;

use super::actors::{self, End, Part, Role, Round};
use super::client::{Breach, Client, Mishap};
use super::lag::Lag;
use super::scene::{IMAGES, World, bury};
use super::turns::{Act, Choose, Random, Step, Taken, Waits, run_and_tell};
use super::verdict::{Book, check_archives, check_quiet};

/// What the schedules so far were like.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) schedules: u64,
    pub(crate) rounds: u64,
    pub(crate) steps: u64,
    /// How often one actor's step followed another's.
    pub(crate) switches: u64,
    pub(crate) struck: u64,
    /// Unconfirmed archives of dead creates that were not whole.
    pub(crate) broken: u64,
    /// States that were left of archives that are gone.
    pub(crate) states: u64,
    /// Intents that were left of dead compactors.
    pub(crate) intents: u64,
    /// Sessions that were left of dead creates.
    pub(crate) sessions: u64,
    /// Packs and forwardings that no archive was seen to need, but a compactor.
    pub(crate) unnamed: u64,
    /// Ends, by role.
    pub(crate) ends: BTreeMap<String, u64>,
}

/// Somebody who breaks the protocol.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Against {
    pub(crate) who: fn(&Role) -> bool,
    pub(crate) breach: Breach,
    /// Whether it only matters where lists lag.
    pub(crate) lags: bool,
}

/// What went wrong, and how it came to it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) seed: u64,
    pub(crate) reason: String,
    pub(crate) told: String,
}

impl Failure {
    /// Whether an archive was lost.
    pub(crate) fn is_loss(&self) -> bool {
        ["is not whole", "is not listed", "wrong bytes"].iter().any(|loss| self.reason.contains(loss))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nseed {}: {}", self.told, self.seed, self.reason)
    }
}

/// Plays the schedule of a seed.
pub(crate) fn play(
    world: &World,
    seed: u64,
    against: Option<Against>,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    // The first numbers of near seeds are near each other.
    (0..4).for_each(|_| _ = random.below(2));
    let scene = random.below(world.scenes.len() as u64) as usize;
    let mut game = Game::new(world, scene, tally);
    let played = (0..1 + random.below(2)).try_for_each(|number| {
        let parts = cast(&mut random, &game.book, number, against);
        let lags = random.below(2) == 0 || against.is_some_and(|against| against.lags);
        let stale = if lags { 64 + random.below(193) } else { 0 };
        let (waits, steps) = MODES[[0, 0, 0, 0, 1, 1, 1, 2][random.below(8) as usize]];
        let lag = Lag::new(game.storage.clone(), stale, random.below(1 << 40));
        let choose = order(parts.len(), steps * parts.len() as u64, Random(random.below(1 << 40)));
        game.round(&parts, &lag, stale, waits, choose)?;
        if random.below(2) == 0 {
            bury(&game.storage);
        }
        Ok(())
    });
    let ended = played.and_then(|()| game.end());
    ended.map_err(|reason| Failure { seed, reason, told: game.told })
}

/// Plays two actors in a scene, each switch at the next landmark: the first takes `first` steps, then the second `second`, then the first
/// goes on to its end. Returns how many steps each took before the last switch.
pub(crate) fn play_switched(
    world: &World,
    scene: usize,
    roles: [Switched; 2],
    breach: Option<Breach>,
    steps: [u64; 2],
    tally: &mut Tally,
) -> Result<[u64; 2], Failure> {
    let mut game = Game::new(world, scene, tally);
    let seed = steps[0] * 1000 + steps[1];
    let role = |(number, role): (u64, Switched)| match role {
        Switched::Create => Role::Create { image: seed % 5, maker: format!("r0c{number}") },
        Switched::Compact => Role::Compact { now: true },
        Switched::Undelete => Role::Undelete(world.scenes[scene].deleted[0]),
    };
    let part = |role: Role| Part { role, mishap: None, breach };
    let parts: Vec<Part> = (0..).zip(roles).map(role).map(part).collect();
    let lag = Lag::new(game.storage.clone(), 0, 0);
    let taken = Arc::new(Mutex::new([0, 0]));
    let counted = taken.clone();
    let choose = Box::new(move |ready: &[usize]| {
        let mut taken = counted.lock();
        let wish = if taken[0] >= steps[0] && taken[1] < steps[1] { 1 } else { 0 };
        let at = ready.iter().position(|actor| *actor == wish).unwrap_or(0);
        taken[ready[at]] += 1;
        at
    });
    let played = game.round(&parts, &lag, 0, landmarks, choose).and_then(|()| game.end());
    played.map_err(|reason| Failure { seed, reason, told: game.told })?;
    Ok(*taken.lock())
}

/// Who takes part in [`play_switched`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Switched {
    Create,
    Compact,
    Undelete,
}

/// Who plays in a round: always somebody who makes an archive and somebody who deletes packs.
fn cast(random: &mut Random, book: &Book, round: u64, against: Option<Against>) -> Vec<Part> {
    let kept: Vec<ArchiveId> = book.kept.iter().copied().collect();
    let gone: Vec<ArchiveId> = book.gone.iter().copied().collect();
    let pick = |random: &mut Random, from: &[ArchiveId]| {
        from.get(random.below(from.len().max(1) as u64) as usize).copied()
    };
    let mut roles = Vec::new();
    let image = |random: &mut Random| {
        let image = random.below(IMAGES);
        if image % 6 == 5 && random.below(8) > 0 { image - 1 } else { image }
    };
    for number in 0..1 + random.below(2) {
        roles.push(Role::Create { image: image(random), maker: format!("r{round}c{number}") });
    }
    // Who breaks the protocol is not to be stopped by chance.
    let provoked = against.is_some();
    for _ in 0..if provoked { 2 } else { 1 + random.below(2) } {
        roles.push(Role::Compact { now: provoked || random.below(4) > 0 });
    }
    let deleted = if random.below(2) == 0 { pick(random, &kept) } else { None };
    roles.extend(deleted.map(Role::Delete));
    for _ in 0..random.below(3) {
        let target = if random.below(3) == 0 { deleted } else { pick(random, &gone) };
        roles.extend(target.map(Role::Undelete));
    }
    if random.below(4) == 0 {
        roles.extend(pick(random, &kept).map(Role::Rename));
    }
    if random.below(2) == 0 {
        roles.push(Role::Read);
    }
    if provoked && random.below(2) == 0 {
        // Fewer actors meet at the same steps more often.
        roles.retain(|role| {
            against.is_some_and(|against| (against.who)(role)) || matches!(role, Role::Compact { .. })
        });
    }
    let part = |role: Role| {
        let breach = against.filter(|against| (against.who)(&role)).map(|against| against.breach);
        let mishap = match random.below(5) {
            0 if !provoked => {
                let kinds = [Mishap::Dies, Mishap::DiesBehind, Mishap::Fails, Mishap::LosesReply];
                Some((1 + random.below(120), kinds[random.below(4) as usize]))
            }
            _ => None,
        };
        Part { role, mishap, breach }
    };
    roles.into_iter().map(part).collect()
}

/// Which steps wait for their turns, and about how many of each actor do.
const MODES: [(Waits, u64); 3] = [(landmarks, 16), (visible, 40), (everything, 80)];

/// What others can see, first copies only, and settling. What somebody looks at behind it follows at once.
fn landmarks(step: Step<'_>, _: Option<Op>) -> bool {
    match step {
        Step::Settle => true,
        Step::Call(Op::Put | Op::Delete, name) => {
            !name.starts_with("mirror/") && !name.starts_with("catalogue/")
        }
        Step::Call(..) => false,
    }
}

/// What others can see, and what shows what others did; reads of what was listed follow at once.
fn visible(step: Step<'_>, _: Option<Op>) -> bool {
    matches!(step, Step::Settle | Step::Call(Op::Put | Op::Delete | Op::List, _))
}

fn everything(_: Step<'_>, _: Option<Op>) -> bool {
    true
}

/// In which order actors take their steps.
fn order(actors: usize, steps: u64, mut random: Random) -> Choose {
    match random.below(3) {
        // Runs of steps of one actor, so that one may pause while another gets far.
        0 => {
            let longest = [3, 20, 80][random.below(3) as usize];
            let (mut left, mut current) = (0, 0);
            Box::new(move |ready| {
                if left == 0 || !ready.contains(&current) {
                    (left, current) =
                        (1 + random.below(longest), ready[random.below(ready.len() as u64) as usize]);
                }
                left -= 1;
                ready.iter().position(|actor| *actor == current).expect("it is ready")
            })
        }
        // Ranks that change at a few steps: whoever has the highest goes on. A flaw that takes few switches at the right steps shows so.
        _ => {
            let mut ranks: Vec<u64> = (0..actors as u64).map(|_| 1000 + random.below(1000)).collect();
            let changes: BTreeSet<u64> = (0..1 + random.below(6)).map(|_| random.below(steps)).collect();
            let mut step = 0;
            let mut lowest = 1000;
            Box::new(move |ready| {
                let highest = |ranks: &[u64]| {
                    (0..ready.len()).max_by_key(|at| ranks[ready[*at]]).expect("somebody is ready")
                };
                step += 1;
                if changes.contains(&step) {
                    lowest -= 1;
                    let falls = ready[highest(&ranks)];
                    ranks[falls] = lowest;
                }
                highest(&ranks)
            })
        }
    }
}

/// A repository in which rounds are played, and what is known of it.
struct Game<'a> {
    world: &'a World,
    storage: MemoryStorage,
    book: Book,
    tally: &'a mut Tally,
    told: String,
}

impl<'a> Game<'a> {
    fn new(world: &'a World, scene: usize, tally: &'a mut Tally) -> Self {
        let scene = &world.scenes[scene];
        let storage = MemoryStorage::from_snapshot(scene.objects.clone());
        let (kept, gone) = (scene.kept.iter().copied().collect(), scene.deleted.iter().copied().collect());
        tally.schedules += 1;
        Self { world, storage, book: Book { kept, gone, ..Book::default() }, tally, told: String::new() }
    }

    fn round(
        &mut self,
        parts: &[Part],
        lag: &Lag,
        stale: u64,
        waits: Waits,
        choose: Choose,
    ) -> Result<(), String> {
        let mut round = Round { lags: stale > 0, ..Round::default() };
        for part in parts {
            if let Role::Delete(id) | Role::Undelete(id) = &part.role {
                round.may_go.insert(*id);
            }
        }
        *round.stay.lock() = self.book.kept.difference(&round.may_go).copied().collect();
        let world = self.world;
        let acts = parts.iter().map(|part| -> Act<'_, Lag, (End, bool)> {
            let (lag, round) = (lag.clone(), &round);
            Box::new(move |turn| {
                let client = Client::new(turn, lag, part.mishap, part.breach);
                actors::play(world, round, part, &client)
            })
        });
        let (ends, taken) = run_and_tell(lag, waits, acts.collect(), vec![None; parts.len()], choose);
        count(self.tally, parts, &ends, &taken);
        tell(&mut self.told, parts, &ends, &taken, stale);
        note(&mut self.book, parts, &ends)?;
        check_archives(self.world, &self.storage, &self.book)
    }

    fn end(&mut self) -> Result<(), String> {
        let left = check_quiet(self.world, &self.storage, &self.book)?;
        self.tally.broken += left.broken;
        self.tally.states += left.states;
        self.tally.intents += left.intents;
        self.tally.sessions += left.sessions;
        self.tally.unnamed += left.unnamed;
        Ok(())
    }
}

fn count(tally: &mut Tally, parts: &[Part], ends: &[(End, bool)], taken: &[Taken]) {
    tally.rounds += 1;
    tally.steps += taken.len() as u64;
    tally.switches += taken.windows(2).filter(|pair| pair[0].0 != pair[1].0).count() as u64;
    for (part, (end, struck)) in parts.iter().zip(ends) {
        tally.struck += u64::from(*struck);
        let role = format!("{:?}", part.role);
        let role = role.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        let end = match end {
            End::Created(_) | End::Done => "done",
            End::Gave(why) => why,
            End::Failed(_) => "failed",
        };
        let how = if *struck { ", struck" } else { "" };
        *tally.ends.entry(format!("{role}: {end}{how}")).or_default() += 1;
    }
}

fn tell(told: &mut String, parts: &[Part], ends: &[(End, bool)], taken: &[Taken], stale: u64) {
    use std::fmt::Write as _;
    let _ = writeln!(told, "a round; {stale} of 256 names are stale in lists");
    for (number, (part, end)) in parts.iter().zip(ends).enumerate() {
        let _ = writeln!(told, "  actor {number}: {part:?}\n    ended: {end:?}");
    }
    for (actor, op, name) in taken {
        let op = op.map_or_else(|| "Settle".to_owned(), |op| format!("{op:?}"));
        let _ = writeln!(told, "  {:indent$}{actor} {op} {name}", "", indent = actor * 2);
    }
}

/// Notes what is certain now.
fn note(book: &mut Book, parts: &[Part], ends: &[(End, bool)]) -> Result<(), String> {
    let roles = || parts.iter().zip(ends);
    for (part, (end, struck)) in roles() {
        if let (End::Failed(reason), false) = (end, struck) {
            return Err(format!("{:?} failed: {reason}", part.role));
        }
    }
    let targets: BTreeSet<ArchiveId> = roles()
        .filter_map(|(part, _)| match &part.role {
            Role::Delete(id) | Role::Undelete(id) => Some(*id),
            _ => None,
        })
        .collect();
    for target in targets {
        let of = |wanted: Role| roles().filter(move |(part, _)| part.role == wanted).map(|(_, end)| end);
        let deletes: Vec<_> = of(Role::Delete(target)).collect();
        let undeletes: Vec<_> = of(Role::Undelete(target)).collect();
        let (was_kept, was_gone) = (book.kept.remove(&target), book.gone.remove(&target));
        let restored = undeletes.iter().any(|(end, _)| *end == End::Done);
        let untouched = |ends: &[&(End, bool)]| ends.iter().all(|(end, struck)| !struck && *end != End::Done);
        let still_gone = deletes.is_empty() && was_gone && untouched(&undeletes);
        if deletes.is_empty() && (restored || was_kept) {
            book.kept.insert(target);
        } else if still_gone || undeletes.is_empty() && deletes.iter().all(|(end, _)| *end == End::Done) {
            book.gone.insert(target);
        }
    }
    for (part, (end, struck)) in roles() {
        match (&part.role, end) {
            (Role::Create { .. }, End::Created(id)) => drop(book.kept.insert(*id)),
            (Role::Create { image, maker }, _) if !struck => {
                book.failed.insert(super::scene::archive_name(*image, maker));
            }
            _ => {}
        }
    }
    Ok(())
}
