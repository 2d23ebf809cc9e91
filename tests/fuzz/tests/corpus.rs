//! Every target with its committed inputs and with changed copies of them; without coverage, so this finds less than `scripts/fuzz`.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use copal_fuzz::mutate::{Numbers, mutant};
use copal_fuzz::{TARGETS, Target, corpus, run};

/// The heap is measured for the process as a whole: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Changed inputs per target. All of them together take a few seconds.
const MUTANTS: usize = 10_000;

#[test]
fn every_target_has_inputs_and_accepts_one() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for target in TARGETS {
        let inputs = target.committed();
        let accepted = inputs.iter().filter(|(_, input)| run(target, input)).count();
        let name = target.name;
        assert!(
            accepted > 0,
            "{name}: none of {} inputs is accepted; run copal-fuzz --write-seeds {name}",
            inputs.len()
        );
    }
}

#[test]
fn every_input_belongs_to_a_target_and_all_are_small() {
    let names: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    let entries = std::fs::read_dir(corpus()).unwrap();
    let dirs: BTreeSet<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names, dirs);
    let inputs = TARGETS.iter().flat_map(Target::committed);
    let total: usize = inputs.map(|(_, input)| input.len()).sum();
    assert!(total < 300 << 10, "{total} bytes");
}

#[test]
fn changed_inputs_break_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for target in TARGETS {
        let inputs: Vec<Vec<u8>> = target.committed().into_iter().map(|(_, input)| input).collect();
        let mut numbers = Numbers::of(target.name);
        for number in 0..MUTANTS {
            let input = mutant(&mut numbers, &inputs);
            let tried = std::panic::catch_unwind(|| run(target, &input));
            assert!(tried.is_ok(), "{}, mutant {number}: {input:02x?}", target.name);
        }
    }
}
