//! A model of the protocol that keeps chunks alive, explored schedule by schedule.

#[path = "model/compact.rs"]
mod compact;
#[path = "model/create.rs"]
mod create;
#[path = "model/explore.rs"]
mod explore;
#[path = "model/keys.rs"]
mod keys;
#[path = "model/readers.rs"]
mod readers;
#[path = "model/rules.rs"]
mod rules;
#[path = "model/scenes.rs"]
mod scenes;
#[path = "model/system.rs"]
mod system;
#[path = "model/undelete.rs"]
mod undelete;
#[path = "model/world.rs"]
mod world;

use explore::{exhaustive, random};
use rules::Break;
use scenes::{crowd, large_scenes, scenes};
use system::Repository;

/// Scenes of a lister that goes about it as format.md says, which is not enough.
const AS_WRITTEN: &str = "as written";

fn scene(name: &str, lag: bool) -> Repository {
    let mut all = scenes().into_iter().chain(large_scenes());
    let found = all.find(|(found, scene)| *found == name && scene.rules.lag == lag);
    found.unwrap_or_else(|| panic!("no scene {name:?}")).1
}

fn all_hold(scenes: Vec<(&str, Repository)>, lag: bool) {
    let holding = |(name, scene): &(&str, Repository)| scene.rules.lag == lag && !name.ends_with(AS_WRITTEN);
    let mut states = 0;
    for (name, scene) in scenes.into_iter().filter(holding) {
        let found = exhaustive(&scene);
        println!("{name}, lists that lag: {lag}: {} states, {} ends", found.states, found.ends);
        states += found.states;
        assert_eq!(found.fault, None, "{name}, lists that lag: {lag}");
    }
    println!("{states} states in all");
}

#[test]
fn all_schedules_over_exact_lists_keep_chunks() {
    all_hold(scenes(), false);
}

#[test]
fn all_schedules_over_lagging_lists_keep_chunks() {
    all_hold(scenes(), true);
}

#[test]
fn all_schedules_of_large_cases_keep_chunks() {
    all_hold(large_scenes(), false);
    all_hold(large_scenes(), true);
}

/// What the model has to find: the break, a scene that shows it, whether lists must lag, and a word of what goes wrong.
const LOSSES: &[(Break, &str, bool, &str)] = &[
    (Break::NoConfirmation, "create, compact", false, "lost"),
    (Break::SessionUnsettled, "create, compact, list", true, "shown as confirmed"),
    (Break::SessionUnsettled, "undelete, compact, list", true, "shown as restored"),
    (Break::CreateSkipsSettle, "create, compact", true, "lost"),
    (Break::CreateListsPacksFirst, "create, compact", false, "lost"),
    (Break::CreateTrustsForwardings, "create, compact rubbish", false, "lost"),
    (Break::AnyForwardingOfThePack, "create, compact", false, "lost"),
    (Break::OrphansWithoutSessions, "orphans", false, "lost"),
    (Break::ListBeforeIntent, "create, compact", false, "lost"),
    (Break::SweepSkipsSettle, "create, compact", true, "lost"),
    (Break::IgnoreUnconfirmed, "create, compact, list", false, "lost"),
    (Break::SweepListsPacksFirst, "compact dead, compact all", false, "lost"),
    (Break::IgnoreOthers, "compact dead, compact all", false, "lost"),
    (Break::SweepAnyForwarding, "create, compact", false, "lost"),
    (Break::TargetsAreNoReferences, "2 compact", false, "lost"),
    (Break::ForwardingsUnchecked, "undelete of a forwarded, compact", false, "lost"),
    (Break::RecordsUnchecked, "undelete, compact", false, "lost"),
    (Break::IntentRemovedEarly, "create, compact", false, "lost"),
    (Break::IntentRemovedUnsettled, "create, compact", true, "lost"),
    (Break::CopyUnopened, "create, compact damage", false, "lost"),
    (Break::SurvivorsElsewhere, "compact beside damage", false, "lost"),
    (Break::ChainsUnchecked, "compact a long chain", false, "lost"),
    (Break::OthersIntentsRemoved, "create, 2 compact", false, "lost"),
    (Break::LeftoversUnsettled, "create, 2 compact what is unused", true, "lost"),
    (Break::StatesFirst, "create, compact, list", false, "is shown, but is deleted"),
    (Break::RepairSparesNothing, "repair, compact", false, "lost"),
    (Break::UndeleteUnconfirmed, "undelete, compact", false, "lost"),
    (Break::UndeleteIgnoresIntents, "undelete of a sharer, compact", false, "lost"),
    (Break::UndeleteIgnoresRecord, "undelete of a sharer, compact", false, "lost"),
    (Break::UndeleteDeletesAnew, "2 undelete, compact", false, "deleted by nobody"),
    (Break::ConfirmUnseen, "create, compact, confirm", false, "lost"),
    (Break::ConfirmUnseen, "undelete, compact, confirm", false, "lost"),
    (Break::ConfirmIgnoresIntents, "create, compact, confirm", false, "lost"),
    (Break::ConfirmIgnoresNames, "undelete of a sharer, compact, confirm", false, "lost"),
    (Break::ConfirmOne, "create, compact, confirm", false, "lost"),
    (Break::ReindexUnseen, "reindex", false, "lost"),
    (Break::KeySkipsSettle, "2 slots, 2 removed", true, "slot is lost"),
    (Break::KeySlotsFirst, "2 slots, 2 removed", false, "slot is lost"),
    (Break::KeyMarkerRemovedEarly, "2 slots, 2 removed", false, "slot is lost"),
    (Break::KeyMarkerRemovedUnsettled, "2 slots, 2 removed", true, "slot is lost"),
    (Break::KeyUnmarked, "2 slots, 2 removed", false, "slot is lost"),
];

/// Breaks that cost time or space, but no chunk: each is made up for by another rule.
const HARMLESS: [Break; 6] = [
    // The confirmation looks at all claims again, own packs too.
    Break::ClaimCondemned,
    Break::RecordBeforePacks,
    // A writer waits after it published its session, so that whoever lists its packs lists that too.
    Break::OrphansUnsettled,
    // Intents say the same again, and what they do not name nobody deletes.
    Break::IgnoreOthersCondemned,
    Break::CondemnAfterCopy,
    Break::NoCondemning,
];

#[test]
fn every_break_is_noticed() {
    let mut unnoticed = Vec::new();
    for (broken, name, lag, says) in LOSSES {
        let mut scene = scene(name, *lag);
        scene.rules = scene.rules.breaking(*broken);
        let found = exhaustive(&scene);
        match found.fault {
            Some(fault) if fault.lines().next().is_some_and(|first| first.contains(says)) => {
                println!(
                    "{broken:?}: {} after {} states of {name:?}",
                    fault.lines().next().unwrap(),
                    found.states
                );
            }
            other => unnoticed.push((broken, name, other)),
        }
    }
    assert!(unnoticed.is_empty(), "{unnoticed:?}");
}

/// Listing archives, sessions, then states, each once, is not enough: a sweep or an undelete between two of the lists shows what nobody was
/// told. The program is to list as [`readers::Way::Twice`] does.
#[test]
fn one_list_of_each_is_not_enough() {
    for (name, says) in [("create, compact", "is shown, but is deleted"), ("undelete", "shown as restored")] {
        let found = exhaustive(&scene(&format!("{name}, list {AS_WRITTEN}"), false));
        assert!(found.fault.as_ref().is_some_and(|fault| fault.contains(says)), "{name}: {:?}", found.fault);
    }
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn random_schedules(count: u64, broken: Option<Break>) -> Option<String> {
    let run = |seed, trace| {
        let mut crowd = crowd(seed);
        crowd.rules.broken = broken;
        random(crowd, seed, trace)
    };
    if let Ok(seed) = std::env::var("COPAL_MODEL_SEED") {
        return run(seed.parse().expect("COPAL_MODEL_SEED is a number"), true).fault;
    }
    let (first, mut steps) = (from_env("COPAL_MODEL_FIRST", 0), 0);
    for seed in first..first + count {
        let found = run(seed, false);
        steps += found.states;
        if found.fault.is_some() {
            let fault = run(seed, true).fault.expect("the same again");
            return Some(format!("COPAL_MODEL_SEED={seed}: {fault}"));
        }
    }
    println!("{count} random schedules, {steps} steps");
    None
}

#[test]
fn random_schedules_of_a_crowd_keep_chunks() {
    if let Some(fault) = random_schedules(from_env("COPAL_MODEL_SCHEDULES", 100_000), None) {
        panic!("{fault}");
    }
}

#[test]
fn breaks_that_are_made_up_for_cost_nothing() {
    for broken in HARMLESS {
        if let Some(fault) = random_schedules(2_000, Some(broken)) {
            panic!("{broken:?}: {fault}");
        }
    }
}
