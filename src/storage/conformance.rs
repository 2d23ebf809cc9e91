//! Test support: the contract of [`Storage`] as one suite that every implementation must pass.
//!
//! Each function below checks the sentences of one part of the contract on a fresh, empty storage. Lists are looked
//! at only after the declared settle time. Durability across a power loss cannot be checked from inside a process;
//! neither can errors of a full or read-only medium, which implementations test for themselves. Panics on the first
//! violation.
//!
//! Always compiled, because integration tests use it; nothing else should.
#![doc(hidden)]

use super::aligned::{Aligned, LARGEST_BLOCK};
use super::{Listed, Name, Settle, Storage};
use std::fmt::Debug;
use std::io::{self, ErrorKind};
use std::thread;

/// Rounds of each thread in the concurrent parts: enough for collisions, few enough for storages that sync every put.
const ROUNDS: u8 = 12;
const THREADS: u8 = 4;

/// Checks that what `make` returns, an empty storage each time, keeps the contract.
///
/// # Panics
/// If it does not.
pub fn conformance(make: impl Fn() -> Box<dyn Storage>) {
    let parts: [fn(&dyn Storage); 12] = [
        round_trip,
        replacing,
        limits,
        ranges,
        missing_objects,
        list_prefixes,
        list_order_and_depth,
        deleting,
        never_torn,
        begun,
        many_threads,
        list_during_changes,
    ];
    for part in parts {
        part(&*make());
    }
}

/// What is written before it has a name is nowhere until it is published, and then whole.
fn begun(storage: &dyn Storage) {
    let Some(mut object) = ok(storage.begin_put()) else { return };
    let piece = |number: u8| {
        let mut bytes = Aligned::with_capacity(4 * LARGEST_BLOCK);
        bytes.extend_from_slice(&vec![number; usize::from(number) * LARGEST_BLOCK]);
        bytes
    };
    // Of one piece less than a block lies on a page.
    let shifted = [&[9][..], &piece(3)].concat();
    ok(object.append(&piece(1)));
    ok(object.append(&shifted[1..]));
    ok(object.touch());
    ok(object.append(&piece(2)));
    let other = ok(storage.begin_put());
    assert!(settled_list(storage, "a").is_empty());
    ok(storage.put(&name("a/x"), &[b"before"]));
    ok(object.publish(&name("a/x"), &[b"the", b" end"]));
    drop((object, other));
    let whole = [&piece(1)[..], &piece(3), &piece(2), b"the end"].concat();
    assert_eq!(settled_list(storage, "a"), [("a/x".to_owned(), whole.len() as u64)]);
    assert!(ok(storage.read(&name("a/x"), u64::MAX)) == whole);
    // Nothing but its end is an object, too.
    let mut short = ok(storage.begin_put()).expect("as before");
    ok(short.publish(&name("a/y"), &[b"short"]));
    assert_eq!(ok(storage.read(&name("a/y"), 5)), b"short");
}

/// Makes a [`Name`] of a literal.
///
/// # Panics
/// If the text breaks the grammar.
#[must_use]
pub fn name(text: &str) -> Name {
    Name::new(text).expect("the name keeps the grammar")
}

#[track_caller]
fn ok<T>(result: io::Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("storage failed: {error} ({:?})", error.kind()),
    }
}

#[track_caller]
fn assert_kind<T: Debug>(result: io::Result<T>, kind: ErrorKind) {
    match result {
        Ok(value) => panic!("expected {kind:?}, got {value:?}"),
        Err(error) => assert_eq!(error.kind(), kind, "{error}"),
    }
}

/// Waits for as long as the storage declares, then lists.
#[track_caller]
fn settled_list(storage: &dyn Storage, prefix: &str) -> Vec<(String, u64)> {
    if let Settle::After(time) = storage.settle() {
        thread::sleep(time);
    }
    let listed = ok(storage.list(prefix));
    let mut names = ok(storage.names(prefix));
    names.sort();
    assert!(names.iter().eq(listed.iter().map(|listed| &listed.name)), "names of {prefix:?}");
    listed.into_iter().map(|Listed { name, len }| (name.to_string(), len)).collect()
}

#[track_caller]
fn assert_names(storage: &dyn Storage, prefix: &str, expected: &[&str]) {
    let listed = settled_list(storage, prefix);
    let names: Vec<_> = listed.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, expected, "list of {prefix:?}");
}

#[track_caller]
fn assert_missing(storage: &dyn Storage, object: &Name) {
    assert_kind(storage.read(object, 100), ErrorKind::NotFound);
    assert_kind(storage.read_range(object, 0, &mut [0; 1]), ErrorKind::NotFound);
    assert_kind(storage.read_range(object, 0, &mut []), ErrorKind::NotFound);
    assert_kind(storage.len(object), ErrorKind::NotFound);
    assert_kind(storage.delete(object), ErrorKind::NotFound);
}

fn round_trip(storage: &dyn Storage) {
    let large: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let longest = name(&format!("a/{}", "n".repeat(Name::MAX - 2)));
    let cases: [(Name, &[&[u8]]); 6] = [
        (name("top"), &[b"one"]),
        (name("a/parts"), &[b"ab", b"", b"c", b"def"]),
        (name("a/b/no-parts"), &[]),
        (name("a/b/c/empty.part"), &[b"", b""]),
        (name("a/large"), &[&large[..7], &large[7..]]),
        (longest, &[b"x"]),
    ];
    for (object, parts) in &cases {
        ok(storage.put(object, parts));
    }
    for (object, parts) in &cases {
        let whole = parts.concat();
        assert!(ok(storage.read(object, 1 << 30)) == whole, "{object} came back changed");
        assert_eq!(ok(storage.len(object)), whole.len() as u64, "{object}");
    }
    assert!(!storage.describe().is_empty());
}

fn replacing(storage: &dyn Storage) {
    let object = name("a/x");
    for content in [&b"first"[..], b"a longer second", b"3", b""] {
        ok(storage.put(&object, &[content]));
        assert_eq!(ok(storage.read(&object, 100)), content);
        assert_eq!(ok(storage.len(&object)), content.len() as u64);
        let mut buf = vec![0; content.len()];
        ok(storage.read_range(&object, 0, &mut buf));
        assert_eq!(buf, content, "a ranged read still sees the old object");
        assert_eq!(settled_list(storage, "a"), [("a/x".to_owned(), content.len() as u64)]);
    }
}

fn limits(storage: &dyn Storage) {
    let (object, empty) = (name("a/x"), name("a/empty"));
    ok(storage.put(&object, &[b"12345"]));
    ok(storage.put(&empty, &[]));
    assert_eq!(ok(storage.read(&object, 5)), b"12345");
    assert_eq!(ok(storage.read(&object, u64::MAX)), b"12345");
    assert_kind(storage.read(&object, 4), ErrorKind::InvalidData);
    assert_kind(storage.read(&object, 0), ErrorKind::InvalidData);
    assert_eq!(ok(storage.read(&empty, 0)), b"");
}

fn ranges(storage: &dyn Storage) {
    let object = name("a/x");
    let content: Vec<u8> = (0..100).collect();
    ok(storage.put(&object, &[&content]));
    for (start, len) in [(0, 100), (0, 1), (99, 1), (40, 20), (1, 99), (0, 0), (50, 0), (100, 0)] {
        let mut buf = vec![0xff; len];
        ok(storage.read_range(&object, start as u64, &mut buf));
        assert_eq!(buf, content[start..start + len]);
    }
    let beyond =
        [(0, 101), (99, 2), (100, 1), (101, 0), (101, 1), (1 << 40, 8), (u64::MAX, 0), (u64::MAX, 1)];
    for (start, len) in beyond {
        assert_kind(storage.read_range(&object, start, &mut vec![0; len]), ErrorKind::UnexpectedEof);
    }
}

fn missing_objects(storage: &dyn Storage) {
    assert_names(storage, "a", &[]);
    assert_missing(storage, &name("a"));
    assert_missing(storage, &name("a/b/c"));
    ok(storage.put(&name("a/b/c"), &[b"x"]));
    for absent in ["a", "a/b", "a/b/c/d", "a/b/c/d/e", "a/b/c0", "a/b/d", "b"] {
        assert_missing(storage, &name(absent));
    }
    assert_eq!(ok(storage.read(&name("a/b/c"), 1)), b"x");
}

fn list_prefixes(storage: &dyn Storage) {
    for object in ["ab/1", "ab/sub/2", "abc/3", "ab-c/4", "a/5", "top"] {
        ok(storage.put(&name(object), &[b"x"]));
    }
    assert_names(storage, "ab", &["ab/1", "ab/sub/2"]);
    assert_names(storage, "a", &["a/5"]);
    assert_names(storage, "ab/sub", &["ab/sub/2"]);
    for nothing in ["", "/", "ab/", "/ab", "ab/1", "ab/s", "ab/sub/2/x", "top", "zz", "ab/../ab", ".", ".."] {
        assert_names(storage, nothing, &[]);
    }
}

fn list_order_and_depth(storage: &dyn Storage) {
    let sorted = ["p/-", "p/--", "p/0", "p/a-b", "p/a.b", "p/a/b", "p/a/b0/c/d/e", "p/aa", "p/b/c", "p/z"];
    for (len, object) in sorted.iter().enumerate().rev() {
        ok(storage.put(&name(object), &[&vec![0; len]]));
    }
    let expected: Vec<_> = sorted.iter().zip(0..).map(|(object, len)| ((*object).to_owned(), len)).collect();
    assert_eq!(settled_list(storage, "p"), expected);
}

fn deleting(storage: &dyn Storage) {
    let (gone, kept) = (name("a/gone"), name("a/kept"));
    ok(storage.put(&gone, &[b"x"]));
    ok(storage.put(&kept, &[b"y"]));
    ok(storage.read_range(&gone, 0, &mut [0; 1]));
    ok(storage.delete(&gone));
    assert_missing(storage, &gone);
    assert_names(storage, "a", &["a/kept"]);
    ok(storage.put(&gone, &[b"again"]));
    assert_eq!(ok(storage.read(&gone, 9)), b"again");
    ok(storage.delete(&gone));
    ok(storage.delete(&kept));
    assert_names(storage, "a", &[]);
}

/// Objects of one repeated byte replace each other under readers, who must never see two bytes in one.
fn never_torn(storage: &dyn Storage) {
    const LEN: usize = 100_000;
    let object = name("a/x");
    ok(storage.put(&object, &[&[0; LEN]]));
    thread::scope(|scope| {
        for thread in 0..THREADS / 2 {
            let object = &object;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let whole = vec![thread * ROUNDS + round + 1; LEN];
                    let (head, tail) = whole.split_at(LEN / 3);
                    ok(storage.put(object, &[head, tail]));
                }
            });
        }
        for _ in 0..THREADS / 2 {
            scope.spawn(|| {
                let mut buf = vec![0; LEN];
                for _ in 0..ROUNDS * 4 {
                    let whole = ok(storage.read(&object, LEN as u64));
                    assert!(whole.len() == LEN && whole.iter().all(|b| *b == whole[0]), "torn read");
                    ok(storage.read_range(&object, 0, &mut buf));
                    assert!(buf.iter().all(|b| *b == buf[0]), "torn ranged read");
                    assert_eq!(ok(storage.len(&object)), LEN as u64);
                }
            });
        }
    });
    let mut ranged = vec![0; LEN];
    ok(storage.read_range(&object, 0, &mut ranged));
    assert!(
        ranged == ok(storage.read(&object, LEN as u64)),
        "a ranged read sees another object than a whole one"
    );
}

/// Threads that use names of their own do not notice each other.
fn many_threads(storage: &dyn Storage) {
    thread::scope(|scope| {
        for thread in 0..THREADS * 2 {
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let object = name(&format!("d{}/{thread}-{round}", round % 3));
                    ok(storage.put(&object, &[&[thread], &[round; 9]]));
                    let mut buf = [0; 2];
                    ok(storage.read_range(&object, 0, &mut buf));
                    assert_eq!(buf, [thread, round]);
                    if round % 2 == 1 {
                        ok(storage.delete(&object));
                        assert_missing(storage, &object);
                    }
                }
            });
        }
    });
    let total: usize = (0..3).map(|dir| settled_list(storage, &format!("d{dir}")).len()).sum();
    assert_eq!(total, usize::from(THREADS * 2) * usize::from(ROUNDS.div_ceil(2)));
}

/// A list has every settled object that nobody touches, whatever else happens meanwhile.
fn list_during_changes(storage: &dyn Storage) {
    let stable: Vec<_> = (0..20).map(|i| format!("p/{i:02}/stable")).collect();
    for object in &stable {
        ok(storage.put(&name(object), &[b"x"]));
    }
    assert_eq!(settled_list(storage, "p").len(), stable.len());
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS {
                let object = name(&format!("p/{:02}/{round}", round % 7));
                ok(storage.put(&object, &[b"y"]));
                ok(storage.delete(&object));
            }
        });
        for _ in 0..ROUNDS * 4 {
            let listed = ok(storage.list("p"));
            assert!(listed.is_sorted());
            let mut names = ok(storage.names("p"));
            names.sort();
            for names in [listed.into_iter().map(|listed| listed.name).collect(), names] {
                let kept = names.iter().map(Name::as_str).filter(|name| name.ends_with("/stable"));
                assert!(kept.eq(stable.iter().map(String::as_str)));
            }
        }
    });
}
