//! The real commands beside each other: creates, compactors, deletions, restorations, renamings and readers on one storage whose lists may
//! lag, one storage call at a time in random orders, with deaths, failures and pauses. Nothing that was reported as done is ever lost, nobody
//! ever reads a wrong byte, and in the end nothing is left that nobody needs.
//!
//! `COPAL_SCHEDULES=N` plays N schedules instead of the usual number, `COPAL_SCHEDULE_SEED=S` the one of that seed, many times: ids are
//! random, and with them the order of lists. With both, N seeds from S on. Each failure names its seed and tells the steps.

mod common;
mod schedules {
    pub(crate) use super::common;
    pub(crate) use super::common::turns;

    pub(crate) mod actors;
    pub(crate) mod client;
    pub(crate) mod lag;
    pub(crate) mod play;
    pub(crate) mod scene;
    pub(crate) mod verdict;
}

use schedules::actors::Role;
use schedules::client::Breach;
use schedules::play::{Against, Failure, Switched, Tally, play, play_switched};
use schedules::scene::World;

/// How many schedules are played where nobody says how many: half a minute to a minute on one core.
const SCHEDULES: u64 = 5000;
/// In how many scenes every pair of pauses is tried.
const PAUSED_SCENES: usize = 3;
/// How often one seed is played when it is asked for.
const REPLAYS: usize = 300;

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {value:?}")))
}

#[test]
fn commands_in_random_orders_lose_nothing() {
    let world = World::new();
    let seeds: Box<dyn Iterator<Item = u64>> =
        match (number("COPAL_SCHEDULE_SEED"), number("COPAL_SCHEDULES")) {
            (Some(seed), None) => Box::new(std::iter::repeat_n(seed, REPLAYS)),
            (first, count) => Box::new((first.unwrap_or(0)..).take(count.unwrap_or(SCHEDULES) as usize)),
        };
    let mut tally = Tally::default();
    for seed in seeds {
        if let Err(failure) = play(&world, seed, None, &mut tally) {
            panic!("{failure}\nreplay it with COPAL_SCHEDULE_SEED={seed}");
        }
    }
    println!("{tally:#?}");
}

/// Each of two actors pauses once, at every pair of steps that others can see.
fn every_switch(
    world: &World,
    scene: usize,
    roles: [Switched; 2],
    breach: Option<Breach>,
    tally: &mut Tally,
) -> Result<(), Failure> {
    for first in 0.. {
        for second in 1.. {
            let taken = play_switched(world, scene, roles, breach, [first, second], tally)?;
            if taken[0] < first {
                return Ok(());
            }
            if taken[1] <= second {
                break;
            }
        }
    }
    unreachable!("actors end")
}

#[test]
fn two_that_pause_at_any_two_steps_lose_nothing() {
    use Switched::{Compact, Create, Undelete};
    let world = World::new();
    let mut tally = Tally::default();
    for roles in
        [[Compact, Compact], [Create, Compact], [Compact, Create], [Undelete, Compact], [Compact, Undelete]]
    {
        for scene in 0..PAUSED_SCENES {
            if let Err(failure) = every_switch(&world, scene, roles, None, &mut tally) {
                panic!("{failure}\n{roles:?} in scene {scene}");
            }
        }
        println!("{roles:?}: {} schedules so far", tally.schedules);
    }
}

/// Within how many schedules somebody who breaks the protocol is found out.
const WITHIN: u64 = 4000;

/// Somebody who breaks the protocol so is found out: an archive is lost.
fn assert_found(who: fn(&Role) -> bool, breach: Breach, lags: bool) {
    let world = World::new();
    let mut tally = Tally::default();
    let against = Against { who, breach, lags };
    for seed in 0..WITHIN {
        let played = play(&world, seed, Some(against), &mut tally);
        if let Some(failure) = played.err().filter(Failure::is_loss) {
            println!("seed {seed}: {}", failure.reason);
            return;
        }
    }
    panic!("{breach:?} is not found in {WITHIN} schedules: {tally:#?}");
}

fn is_create(role: &Role) -> bool {
    matches!(role, Role::Create { .. })
}

fn is_compact(role: &Role) -> bool {
    matches!(role, Role::Compact { .. })
}

fn is_undelete(role: &Role) -> bool {
    matches!(role, Role::Undelete(_))
}

#[test]
fn a_create_without_confirmation_is_found() {
    assert_found(is_create, Breach::NoConfirmation, false);
}

#[test]
fn a_create_that_confirms_before_it_publishes_is_found() {
    assert_found(is_create, Breach::ConfirmsFirst, false);
}

#[test]
fn an_undelete_without_confirmation_is_found() {
    assert_found(is_undelete, Breach::NoConfirmation, false);
}

#[test]
fn an_intent_after_the_last_look_is_found() {
    assert_found(is_compact, Breach::IntentLast, false);
}

#[test]
fn a_sweep_that_does_not_look_again_is_found() {
    assert_found(is_compact, Breach::LooksOnce, false);
}

#[test]
fn a_compactor_that_ignores_others_is_found() {
    let world = World::new();
    let lost = (0..world.scenes.len()).find_map(|scene| {
        let roles = [Switched::Compact, Switched::Compact];
        every_switch(&world, scene, roles, Some(Breach::IgnoresOthers), &mut Tally::default()).err()
    });
    let lost = lost.expect("somebody loses something");
    assert!(lost.is_loss(), "{lost}");
    println!("{}", lost.reason);
}

#[test]
fn a_compactor_that_nobody_sees_is_found() {
    assert_found(is_compact, Breach::Silent, false);
}

#[test]
fn a_compactor_that_does_not_forward_is_found() {
    assert_found(is_compact, Breach::NoForwarding, false);
}

#[test]
fn a_create_that_does_not_settle_is_found() {
    assert_found(is_create, Breach::NoSettling, true);
}

#[test]
fn a_compactor_that_does_not_settle_is_found() {
    assert_found(is_compact, Breach::NoSettling, true);
}
