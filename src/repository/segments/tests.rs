use std::sync::Arc;

use super::*;
use crate::codec::keys::{BlobKind, KeySet, Keyring};
use crate::format::index_segment::MAX_STORED;
use crate::format::location::{KEY_MODE_CLASS, Location, PackRef};
use crate::id::{PackId, RepositoryId};
use crate::storage::faults::Faults;
use crate::storage::memory::MemoryStorage;
use crate::storage::recorder::{Op, Recorder};

fn objects() -> (Objects, Arc<Recorder<MemoryStorage>>) {
    let storage = Arc::new(Recorder::new(MemoryStorage::new()));
    let keyring = Keyring::new(RepositoryId([1; 16]), &KeySet::public(&RepositoryId([1; 16])), 1);
    (Objects::new(storage.clone(), Arc::new(keyring), false), storage)
}

fn hash(of: u64) -> [u8; 32] {
    *blake3::hash(&of.to_le_bytes()).as_bytes()
}

fn pack(number: u64) -> PackId {
    PackId(*hash(number << 40).first_chunk().unwrap())
}

/// The blob of this number, in the pack of a hundred where it belongs.
fn entry(number: u64) -> IndexEntry {
    let pack = PackRef { id: pack(number / 100), mode: KEY_MODE_CLASS, epoch: 1 };
    let location = Location { pack, offset: number as u32, sealed_len: 77 };
    IndexEntry { kind: BlobKind::Chunk, id: BlobId(hash(number)), location, plain_len: 9 }
}

fn entries(range: std::ops::Range<u64>) -> Vec<IndexEntry> {
    range.map(entry).collect()
}

fn finds(lookup: &Lookup, number: u64) -> bool {
    lookup.find(&entry(number).id, &|_| true).unwrap() == Some(entry(number))
}

#[test]
fn what_is_published_is_found_and_nothing_else() {
    let (objects, storage) = objects();
    publish(&objects, entries(0..1000)).unwrap();
    publish(&objects, entries(1000..5000)).unwrap();
    let lookup = Lookup::open(&objects).unwrap();
    assert!((0..5000).all(|number| finds(&lookup, number)));
    assert_eq!(lookup.packs().len(), 50);
    assert!(lookup.packs().contains(&pack(7)));
    storage.clear();
    assert!((5000..6000).all(|number| lookup.find(&entry(number).id, &|_| true).unwrap().is_none()));
    let reads = storage.count(Op::ReadRange);
    assert!(reads < 60, "the filters let {reads} of 1000 through");
}

#[test]
fn one_that_is_not_accepted_is_looked_for_elsewhere() {
    let (objects, _) = objects();
    let mut moved = entry(5);
    moved.location.pack.id = pack(99);
    store(&objects, "", IndexSegment { entries: vec![entry(5), entry(6)], ..IndexSegment::default() })
        .unwrap();
    store(&objects, "", IndexSegment { entries: vec![moved], ..IndexSegment::default() }).unwrap();
    let lookup = Lookup::open(&objects).unwrap();
    for wanted in [entry(5), moved] {
        assert_eq!(lookup.find(&wanted.id, &|found| *found == wanted).unwrap(), Some(wanted));
    }
    assert_eq!(lookup.find(&moved.id, &|found| found.kind == BlobKind::Node).unwrap(), None);
}

#[test]
fn many_small_publications_make_few_segments() {
    let (objects, storage) = objects();
    for number in 0..300 {
        publish(&objects, entries(number * 100..number * 100 + 100)).unwrap();
        join(&objects).unwrap();
    }
    let listed = list(&objects).unwrap();
    assert!(listed.len() <= 12, "{} segments", listed.len());
    let written: u64 = storage.calls().iter().filter(|call| call.op == Op::Put).map(|call| call.len).sum();
    let stored: u64 = listed.iter().map(|segment| segment.len).sum();
    assert!(written < 12 * stored, "each entry was written {} times", written / stored);
    let lookup = Lookup::open(&objects).unwrap();
    assert!((0..30_000).step_by(7).all(|number| finds(&lookup, number)));
    assert_eq!(lookup.packs().len(), 300);
}

#[test]
fn equal_publications_are_joined_in_pairs() {
    let (objects, storage) = objects();
    let mut publisher = Publisher::beside(&objects).unwrap();
    for number in 0..64 {
        publisher.publish(entries(number * 1000..number * 1000 + 1000)).unwrap();
        publisher.join().unwrap();
        // As many as the number of publications has ones, in binary.
        assert_eq!(list(&objects).unwrap().len(), (number + 1).count_ones() as usize);
    }
    let written: u64 = storage.calls().iter().filter(|call| call.op == Op::Put).map(|call| call.len).sum();
    let stored = list(&objects).unwrap()[0].len;
    // Once as it comes, and once for each doubling.
    assert!(written < 73 * stored / 10, "{written} for {stored}");
    let lookup = Lookup::open(&objects).unwrap();
    assert!((0..64_000).step_by(7).all(|number| finds(&lookup, number)));
}

#[test]
fn a_small_segment_does_not_keep_large_ones_apart() {
    let (objects, _) = objects();
    let mut publisher = Publisher::beside(&objects).unwrap();
    publisher.publish(entries(0..10)).unwrap();
    for number in 1..20 {
        publisher.publish(entries(number * 1000..number * 1000 + 1000)).unwrap();
        publisher.join().unwrap();
        let listed = list(&objects).unwrap();
        assert!(listed.len() <= 5, "{} segments after {number}", listed.len());
    }
    let lookup = Lookup::open(&objects).unwrap();
    assert!((0..10).chain(1000..20_000).all(|number| finds(&lookup, number)));
}

#[test]
fn what_grows_is_split_by_the_ids() {
    let (objects, _) = objects();
    let mut publisher = Publisher::beside(&objects).unwrap();
    for batch in 0..6 {
        publisher.publish(entries(batch * 50_000..(batch + 1) * 50_000)).unwrap();
        publisher.join().unwrap();
    }
    let listed = list(&objects).unwrap();
    assert!(listed.iter().any(|segment| segment.prefix.len() == 1) && listed.len() <= 40, "{}", listed.len());
    let made: std::collections::HashSet<_> = listed.iter().map(|segment| segment.id).collect();
    assert_eq!(publisher.made().copied().collect::<std::collections::HashSet<_>>(), made);
    for segment in &listed {
        let whole = read(&objects, &segment.name).unwrap();
        assert!(whole.entries.iter().all(|entry| entry.id.to_string().starts_with(&segment.prefix)));
        assert!(whole.packs.iter().all(|pack| pack.to_string().starts_with(&segment.prefix)));
        assert!(segment.len <= MAX_STORED);
    }
    let lookup = Lookup::open(&objects).unwrap();
    assert!((0..300_000).step_by(101).all(|number| finds(&lookup, number)));
    assert_eq!(lookup.packs().len(), 3000);
}

#[test]
fn segments_that_others_replace_meanwhile_are_found_again() {
    let (objects, _) = objects();
    publish(&objects, entries(0..100)).unwrap();
    let mut lookup = Lookup::open(&objects).unwrap();
    publish(&objects, entries(100..200)).unwrap();
    join(&objects).unwrap();
    assert!(lookup.find(&entry(3).id, &|_| true).unwrap_err().is_missing());
    lookup.refresh().unwrap();
    assert!((0..200).all(|number| finds(&lookup, number)));
}

#[test]
fn of_many_segments_only_new_ones_are_looked_at() {
    let (objects, storage) = objects();
    for number in 0..100 {
        publish(&objects, entries(number * 10..number * 10 + 10)).unwrap();
    }
    let mut lookup = Lookup::open(&objects).unwrap();
    // As large as the others, so that one of them is joined to it, and then more.
    let mut publisher = Publisher::followed(&objects, lookup.seen());
    storage.clear();
    publisher.publish(entries(5000..5010)).unwrap();
    publisher.join().unwrap();
    assert_eq!((storage.count(Op::List), storage.count(Op::Len), storage.count(Op::Delete)), (0, 0, 0));
    publisher.delete_replaced().unwrap();
    assert!(storage.count(Op::Delete) > 0);
    storage.clear();
    lookup.refresh().unwrap();
    assert_eq!((storage.count(Op::List), storage.count(Op::Len), storage.count(Op::ReadRange)), (1, 1, 1));
    assert_eq!(lookup.seen().len(), list(&objects).unwrap().len());
    assert!((0..1000).chain(5000..5010).all(|number| finds(&lookup, number)));
}

#[test]
fn a_damaged_segment_hides_only_itself() {
    let (objects, _) = objects();
    publish(&objects, entries(0..100)).unwrap();
    let whole = list(&objects).unwrap();
    let ListedSegment { name, .. } =
        store(&objects, "", IndexSegment { entries: entries(500..600), ..IndexSegment::default() }).unwrap();
    let mut bytes = objects.storage().read(&name, MAX_STORED).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    objects.storage().put(&name, &[&bytes]).unwrap();
    let lookup = Lookup::open(&objects).unwrap();
    assert!((0..100).all(|number| finds(&lookup, number)));
    assert!((500..600).any(|number| finds(&lookup, number)), "its first page is whole");
    assert!((500..600).any(|number| !finds(&lookup, number)));
    // What joins segments leaves it to a repair.
    publish(&objects, entries(100..250)).unwrap();
    join(&objects).unwrap();
    let listed = list(&objects).unwrap();
    assert!(listed.iter().any(|segment| segment.name == name) && !listed.contains(&whole[0]));
    assert!(matches!(read(&objects, &name), Err(Error::Damaged { .. })));
}

#[test]
fn a_pack_of_more_blobs_than_a_segment_is_named_when_all_are_there() {
    let big = PackRef { id: pack(7), mode: KEY_MODE_CLASS, epoch: 1 };
    let of_one_pack = |number: u64| {
        let entry = entry(number);
        IndexEntry { location: Location { pack: big, ..entry.location }, ..entry }
    };
    let mut ended = 0;
    for ends_at in 1.. {
        let storage = Arc::new(Faults::new(MemoryStorage::new()));
        let keyring = Keyring::new(RepositoryId([1; 16]), &KeySet::public(&RepositoryId([1; 16])), 1);
        let objects = Objects::new(storage.clone(), Arc::new(keyring), false);
        storage.fail_nth(Op::Put, "index", ends_at, std::io::ErrorKind::StorageFull);
        let published =
            publish(&objects, (0..80_000).map(of_one_pack).chain(entries(80_000..80_100)).collect());
        let lookup = Lookup::open(&objects).unwrap();
        if lookup.packs().contains(&pack(7)) {
            let there = |number| lookup.find(&of_one_pack(number).id, &|_| true).unwrap().is_some();
            assert!((0..80_000).step_by(17).all(there), "ends at put {ends_at}");
        }
        if published.is_ok() {
            assert!(lookup.packs().contains(&pack(7)) && lookup.packs().contains(&pack(800)));
            break;
        }
        ended += 1;
    }
    assert!(ended > 16, "it is stored in more than sixteen: {ended}");
}

#[test]
fn what_is_in_two_segments_is_followed_into_one() {
    let (objects, storage) = objects();
    for _ in 0..2 {
        publish(&objects, entries(0..100)).unwrap();
    }
    let mut lookup = Lookup::open(&objects).unwrap();
    let mut publisher = Publisher::followed(&objects, lookup.seen());
    publisher.join().unwrap();
    let (made, replaced) = publisher.take_changes();
    assert_eq!((made.len(), replaced.len()), (1, 2));
    assert_eq!(made[0].len, objects.storage().len(&made[0].name).unwrap());
    assert!(lookup.follow(made, replaced).unwrap());
    publisher.delete_replaced().unwrap();
    assert_eq!((lookup.seen().len(), list(&objects).unwrap().len()), (1, 1));
    assert!((0..100).all(|number| finds(&lookup, number)));
    storage.clear();
    lookup.refresh().unwrap();
    assert_eq!(storage.count(Op::ReadRange), 0, "nothing is opened twice");
}

#[test]
fn what_replaces_others_and_cannot_be_read_is_told_even_if_more_is_gone() {
    let storage = Arc::new(Faults::new(MemoryStorage::new()));
    let keyring = Keyring::new(RepositoryId([1; 16]), &KeySet::public(&RepositoryId([1; 16])), 1);
    let objects = Objects::new(storage.clone(), Arc::new(keyring), false);
    for half in 0..2 {
        publish(&objects, entries(half * 40_000..(half + 1) * 40_000)).unwrap();
    }
    let mut lookup = Lookup::open(&objects).unwrap();
    let mut publisher = Publisher::followed(&objects, lookup.seen());
    publisher.join().unwrap();
    let (mut made, replaced) = publisher.take_changes();
    made.sort_unstable();
    assert_eq!((made.len(), replaced.len()), (16, 2));
    storage.fail_nth(Op::ReadRange, made[3].name.as_str(), 1, std::io::ErrorKind::TimedOut);
    objects.storage().delete(&made[7].name).unwrap();
    assert!(!lookup.follow(made, replaced).unwrap());
    assert!((0..80_000).step_by(17).all(|number| finds(&lookup, number)));
}

#[test]
fn filters_that_every_lookup_asks_stay_in_memory() {
    let (objects, _) = objects();
    let mut publisher = Publisher::anew(&objects);
    for batch in 0..6 {
        publisher.publish(entries(batch * 30_000..(batch + 1) * 30_000)).unwrap();
        publisher.join().unwrap();
    }
    publish(&objects, entries(180_000..200_000)).unwrap();
    let lookup = Lookup::within(&objects, 128 << 10).unwrap();
    let (held, filed) = lookup.filters();
    assert!(held.contains(&0) && filed.contains(&1), "{held:?} {filed:?}");
    assert!(held.iter().max() <= filed.iter().min(), "{held:?} {filed:?}");
    assert!((0..200_000).step_by(101).all(|number| finds(&lookup, number)));
}

#[test]
fn names_have_a_prefix_and_an_id() {
    let id = "0123456789abcdef0123456789abcdef";
    for (good, prefix) in [("x", ""), ("0", "0"), ("abcd", "abcd")] {
        let name = name(&format!("index/{good}-{id}"));
        assert_eq!(parse_name(&name).map(|(prefix, _)| prefix), Some(prefix));
    }
    for bad in ["y", "", "abcde", "g"] {
        assert!(Name::new(&format!("index/{bad}-{id}")).is_none_or(|name| parse_name(&name).is_none()));
    }
}
