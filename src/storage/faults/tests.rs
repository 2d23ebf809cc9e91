//! Each fault strikes where its rule says, and leaves behind what it promises.

use super::*;
use crate::storage::conformance::{conformance, name};
use crate::storage::memory::MemoryStorage;
use std::io::ErrorKind;

fn faults() -> Faults<MemoryStorage> {
    Faults::new(MemoryStorage::new())
}

#[track_caller]
fn assert_dead<T: std::fmt::Debug>(result: io::Result<T>) {
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionAborted);
}

#[test]
fn conforms_without_rules() {
    conformance(|| Box::new(faults()));
}

#[test]
fn fails_exactly_the_nth_matching_call() {
    let faults = faults();
    faults.fail_nth(Op::Put, "packs/", 2, ErrorKind::StorageFull);
    faults.put(&name("packs/a"), &[b"1"]).unwrap();
    faults.put(&name("index/a"), &[b"1"]).unwrap();
    let error = faults.put(&name("packs/b"), &[b"1"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert_eq!(faults.inner().len(&name("packs/b")).unwrap_err().kind(), ErrorKind::NotFound);
    faults.put(&name("packs/b"), &[b"1"]).unwrap();
    assert_eq!(faults.mutations(), 3);
}

#[test]
fn a_lasting_rule_strikes_until_healed() {
    let faults = faults();
    faults.inject_always(Op::List, "packs", Fault::Fail(ErrorKind::TimedOut));
    for _ in 0..3 {
        assert_eq!(faults.list("packs").unwrap_err().kind(), ErrorKind::TimedOut);
    }
    faults.list("index").unwrap();
    faults.heal();
    faults.list("packs").unwrap();
}

#[test]
fn crash_stops_everything_after_n_mutations() {
    let faults = faults();
    let object = name("a/x");
    faults.crash_after_puts(2);
    faults.put(&object, &[b"one"]).unwrap();
    faults.delete(&name("a/none")).unwrap_err();
    assert!(!faults.crashed());
    faults.delete(&object).unwrap();
    assert!(faults.crashed());

    assert_dead(faults.put(&object, &[b"two"]));
    assert_dead(faults.delete(&object));
    assert_dead(faults.read(&object, 9));
    assert_dead(faults.read_range(&object, 0, &mut []));
    assert_dead(faults.len(&object));
    assert_dead(faults.list("a"));
    assert!(faults.inner().snapshot().is_empty());
    faults.heal();
    faults.put(&object, &[b"two"]).unwrap();
    assert_eq!(faults.mutations(), 3);
}

#[test]
fn crash_point_is_exact_among_threads() {
    let faults = faults();
    faults.crash_after_puts(5);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let faults = &faults;
            scope.spawn(move || {
                (0..4).for_each(|i| drop(faults.put(&name(&format!("a/{thread}-{i}")), &[b"x"])));
            });
        }
    });
    assert_eq!(faults.inner().snapshot().len(), 5);
}

#[test]
fn flips_one_bit_of_one_read() {
    let faults = faults();
    let object = name("a/x");
    faults.put(&object, &[&[0; 4]]).unwrap();
    faults.inject(Op::Read, "a/x", 1, Fault::FlipBit(17));
    assert_eq!(faults.read(&object, 4).unwrap(), [0, 0, 2, 0]);
    assert_eq!(faults.read(&object, 4).unwrap(), [0; 4]);

    faults.inject(Op::ReadRange, "", 1, Fault::FlipBit(17));
    let mut buf = [0; 2];
    faults.read_range(&object, 1, &mut buf).unwrap();
    assert_eq!(buf, [2, 0], "counted round");
    faults.inject(Op::ReadRange, "", 1, Fault::FlipBit(17));
    faults.read_range(&object, 0, &mut []).unwrap();
}

#[test]
fn torn_put_leaves_the_name_as_it_was() {
    let faults = faults();
    let object = name("a/x");
    faults.put(&object, &[b"old"]).unwrap();
    faults.inject(Op::Put, "a/", 1, Fault::Torn);
    assert_eq!(faults.put(&object, &[b"newer"]).unwrap_err().kind(), ErrorKind::WriteZero);
    assert_eq!(faults.read(&object, 9).unwrap(), b"old");
    assert_eq!(faults.mutations(), 1);
}

#[test]
fn lost_reply_does_the_work() {
    let faults = faults();
    let object = name("a/x");
    faults.inject(Op::Put, "a/", 1, Fault::LostReply(ErrorKind::TimedOut));
    assert_eq!(faults.put(&object, &[b"new"]).unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(faults.read(&object, 9).unwrap(), b"new");
    assert_eq!(faults.mutations(), 1);
}

#[test]
#[should_panic(expected = "cannot happen to")]
fn refuses_a_fault_that_does_not_fit() {
    faults().inject(Op::Len, "", 1, Fault::FlipBit(0));
}
