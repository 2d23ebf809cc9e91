//! The damage matrix: every kind of object, every sort of damage, every command that meets it.
//!
//! After each: no panic, no hang, no wrong byte; what was readable stays so; what the next backup still holds becomes whole again. A sample is
//! run by default; `COPAL_MATRIX=all` runs every case, `COPAL_MATRIX=condemned/` those whose description has that in it.

#[path = "matrix/cases.rs"]
mod cases;
#[path = "matrix/scene.rs"]
mod scene;
#[path = "matrix/walk.rs"]
mod walk;

use fuse_tests::requires;

use cases::{Case, chosen, damages, replays};
use scene::Scene;
use walk::Walk;

/// Which sample is run.
const SEED: u64 = 1;

fn run(scene: &Scene, cases: &[Case]) {
    let mut failed = Vec::new();
    for case in cases {
        scene.restore();
        let started = std::time::Instant::now();
        let found = Walk::through(scene, case);
        println!("{case}: {} ({:.1?})", found.steps, started.elapsed());
        for fault in &found.faults {
            println!("    FAULT {fault}");
        }
        if !found.faults.is_empty() {
            failed.push(format!("{case}: {}\n    {}", found.steps, found.faults.join("\n    ")));
        }
    }
    println!("{} cases", cases.len());
    assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), cases.len(), failed.join("\n"));
}

#[test]
fn damage_to_any_object_does_bounded_harm() {
    requires!(fuse, root);
    let scene = Scene::new();
    run(&scene, &chosen(damages(&scene), SEED));
}

#[test]
fn objects_of_the_past_that_come_back_do_no_harm() {
    requires!(fuse, root);
    let scene = Scene::new();
    run(&scene, &chosen(replays(&scene), SEED));
}
