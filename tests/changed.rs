//! What a create does not read: unchanged files, and what a map of changed blocks does not name. Costs are counted in bytes read from the source.

#![allow(clippy::single_range_in_vec_init, reason = "lists of ranges that happen to have one")]

mod common;

use std::fs::{File, FileTimes};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::compactor::Compactor;
use common::watched::Watched;
use common::{assert_whole, image, listed, make, mixed, name, noise, open, options, packs_of, reader_of};
use copal::archiver::create::{ChangedBlocks, CreateOptions, Created, create};
use copal::archiver::{Error, Monitor, Silent, Stop};
use copal::format::pack::PackKind;
use copal::format::record::{ArchiveRecord, Member};
use copal::id::ArchiveId;
use copal::repository::Repository;
use copal::repository::session::Session;
use copal::source::{ChangedMap, SourceSpec};
use copal::storage::memory::MemoryStorage;
use copal::storage::recorder::Op;
use parking_lot::Mutex;
use proptest::prelude::*;

/// The span of repositories in tests.
const SPAN: u64 = 1 << 22;
/// Longer than any clock of a file system is coarse.
const SETTLED: Duration = Duration::from_millis(2050);

/// An image where files have times that tell something: not on a tmpfs.
fn image_of(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).expect("temporary file");
    file.as_file().write_all_at(bytes, 0).expect("write");
    file
}

/// Waits until a file's times lie back far enough.
fn settle(file: &Path) {
    loop {
        let found = std::fs::metadata(file).expect("stat");
        let changed = SystemTime::UNIX_EPOCH
            + Duration::new(found.ctime().unsigned_abs(), found.ctime_nsec().unsigned_abs() as u32);
        match SystemTime::now().duration_since(changed) {
            Ok(since) if since > SETTLED => return,
            Ok(since) => std::thread::sleep(SETTLED - since),
            Err(error) => std::thread::sleep(error.duration() + SETTLED),
        }
    }
}

fn run(repository: &Arc<Repository>, options: &CreateOptions) -> Created {
    create(repository, options, &Stop::default(), &Silent).expect("create")
}

fn fails(repository: &Arc<Repository>, options: &CreateOptions) -> Error {
    let before = repository.archives().expect("list").len();
    let error = create(repository, options, &Stop::default(), &Silent).expect_err("it is refused");
    assert_eq!(repository.archives().expect("list").len(), before, "nothing is published");
    error
}

#[track_caller]
fn refused(repository: &Arc<Repository>, options: &CreateOptions, words: &str) {
    let error = fails(repository, options).to_string();
    assert!(error.contains(words), "{error}");
}

fn read(created: &Created) -> u64 {
    created.record.stats.read
}

fn is_unchanged(created: &Created) -> bool {
    created.reused.iter().any(|reused| reused.is_unchanged)
}

#[test]
fn an_unchanged_file_is_not_read() {
    let bytes = mixed(1, 18 << 20);
    let source = image_of(&bytes);
    let storage = MemoryStorage::new();
    let repository = make(storage.clone());
    let plain = options("disk", &[source.path()]);
    settle(source.path());
    let first = run(&repository, &plain);
    let all = read(&first);
    assert!(all > 8 << 20 && first.record.members[0].file.is_some() && first.reused.is_empty());

    for _ in 0..2 {
        let next = run(&repository, &plain);
        assert_eq!((read(&next), next.record.stats.new_chunks, is_unchanged(&next)), (0, 0, true));
        let strip = |created: &Created| Member { root: None, ..created.record.members[0].clone() };
        assert_eq!(strip(&next), strip(&first));
        assert_whole(storage.clone(), next.id.expect("an id"), &bytes);
    }
    let dry = run(&repository, &CreateOptions { dry_run: true, ..plain.clone() });
    assert_eq!((read(&dry), is_unchanged(&dry)), (0, true));

    let forced = run(&repository, &CreateOptions { force_read: true, ..plain.clone() });
    assert_eq!((read(&forced), forced.reused.len()), (all, 0));
    let other = run(&repository, &options("other", &[source.path()]));
    assert_eq!(read(&other), all, "another name has no archive of it");
    let link = source.path().with_extension("link");
    std::fs::hard_link(source.path(), &link).expect("link");
    let linked =
        CreateOptions { members: vec![(name("m0"), SourceSpec::Path(link.clone()))], ..plain.clone() };
    assert_eq!(read(&run(&repository, &linked)), all, "another path, and its ctime is new");
    std::fs::remove_file(&link).expect("remove");

    // The same length, times set back by hand: the inode's own time tells.
    let modified = source.as_file().metadata().expect("stat").modified().expect("mtime");
    source.as_file().write_all_at(b"changed", 5000).expect("write");
    source.as_file().set_times(FileTimes::new().set_modified(modified)).expect("set times");
    let mut bytes = bytes;
    bytes[5000..5007].copy_from_slice(b"changed");
    let changed = run(&repository, &plain);
    assert!(read(&changed) >= all && changed.record.members[0].file.is_none());
    assert_whole(storage, changed.id.expect("an id"), &bytes);
}

#[test]
fn a_file_whose_times_tell_nothing_is_read() {
    let source = image_of(&noise(1, 100_000));
    let repository = make(MemoryStorage::new());
    let plain = options("disk", &[source.path()]);
    let future = SystemTime::now() + Duration::from_secs(3600);
    source.as_file().set_times(FileTimes::new().set_modified(future)).expect("set times");
    settle(source.path());
    for _ in 0..2 {
        let created = run(&repository, &plain);
        assert_eq!((read(&created), created.record.members[0].file), (100_000, None));
    }
}

/// Writes into the source as soon as the first span is done.
struct Writer(Mutex<Option<File>>);

impl Monitor for Writer {
    fn advanced(&self, _bytes: u64, _new: u64) {
        if let Some(file) = self.0.lock().take() {
            file.write_all_at(b"meanwhile", 0).expect("write");
        }
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_read_again() {
    let source = image_of(&noise(1, 100_000));
    let repository = make(MemoryStorage::new());
    settle(source.path());
    let writer = Writer(Mutex::new(Some(source.reopen().expect("open"))));
    let created = create(&repository, &options("disk", &[source.path()]), &Stop::default(), &writer);
    let created = created.expect("create");
    assert_eq!((created.warnings.len(), created.record.members[0].file), (1, None));
}

/// A settled image of 16 MiB without holes, its repository, and its first archive.
fn archived() -> (tempfile::NamedTempFile, Vec<u8>, MemoryStorage, ArchiveId) {
    let bytes = noise(7, 4 * SPAN as usize);
    let source = image_of(&bytes);
    settle(source.path());
    let storage = MemoryStorage::new();
    let id = run(&make(storage.clone()), &options("disk", &[source.path()])).id.expect("an id");
    (source, bytes, storage, id)
}

#[test]
fn what_cannot_be_claimed_is_read_instead() {
    let (source, bytes, storage, first) = archived();
    let plain = options("disk", &[source.path()]);
    let compactor = Compactor::new(storage.clone());
    let packs: Vec<_> = packs_of(&compactor.0, first, PackKind::Data).into_iter().collect();
    assert!(packs.len() > 4);

    // One pack is condemned: just the spans that need it are read.
    let reader = reader_of(&compactor.0);
    let image = image(&compactor.0, first);
    let needs = |span: &u64| {
        let map = reader.maps().span(&image, *span).expect("map").expect("data");
        map.locations.iter().any(|at| at.pack.id == packs[0])
    };
    let needing = (0..4).filter(needs).count() as u64;
    let list = compactor.condemn(&packs[..1]);
    let some = run(&open(storage.clone()), &plain);
    assert!(needing > 0 && !is_unchanged(&some));
    assert_eq!(read(&some), needing * SPAN);
    let needed = packs_of(&compactor.0, some.id.expect("an id"), PackKind::Data);
    assert!(!needed.contains(&packs[0]));
    compactor.delete_pack(PackKind::Data, packs[0]);
    compactor.delete(&list);
    assert_whole(storage.clone(), some.id.expect("an id"), &bytes);

    // All are: everything is read. Then they go.
    let repository = open(storage.clone());
    let all: Vec<_> = packs_of(&repository, some.id.expect("an id"), PackKind::Data).into_iter().collect();
    compactor.condemn(&all);
    let again = run(&repository, &plain);
    assert_eq!(read(&again), bytes.len() as u64);
    all.iter().for_each(|pack| compactor.delete_pack(PackKind::Data, *pack));
    assert_whole(storage, again.id.expect("an id"), &bytes);
}

#[test]
fn what_goes_between_claim_and_confirmation_is_read_in_another_pass() {
    let (source, bytes, storage, first) = archived();
    let compactor = Compactor::new(storage.clone());
    let packs: Vec<_> = packs_of(&compactor.0, first, PackKind::Data).into_iter().collect();
    let watched = Watched::new(storage.clone());
    watched.once(Op::Put, "archives/", move || {
        compactor.intend(&packs[..2], &[]);
        packs[..2].iter().for_each(|pack| compactor.delete_pack(PackKind::Data, *pack));
    });
    let created = run(&open(watched), &options("disk", &[source.path()]));
    assert!(read(&created) > 0 && !is_unchanged(&created));
    assert_whole(storage, created.id.expect("an id"), &bytes);
}

#[test]
fn damaged_maps_are_read_around() {
    let (source, bytes, storage, first) = archived();
    let repository = open(storage.clone());
    for pack in packs_of(&repository, first, PackKind::Maps) {
        Compactor::new(storage.clone()).delete_pack(PackKind::Maps, pack);
    }
    let created = run(&open(storage.clone()), &options("disk", &[source.path()]));
    assert_eq!(read(&created), bytes.len() as u64);
    assert_whole(storage, created.id.expect("an id"), &bytes);
}

fn map(ranges: &[Range<u64>]) -> ChangedMap {
    let entry =
        |range: &Range<u64>| format!(r#"{{"offset":{},"length":{}}}"#, range.start, range.end - range.start);
    let text = format!("[{}]", ranges.iter().map(entry).collect::<Vec<_>>().join(","));
    ChangedMap::read(text.as_bytes(), None, 22).expect("a map")
}

fn mapped(source: &Path, base: ArchiveId, ranges: &[Range<u64>]) -> CreateOptions {
    let changed = ChangedBlocks { map: map(ranges), base, base_token: None, trust: false };
    CreateOptions { changed: Some(changed), ..options("disk", &[source]) }
}

fn trusting(mut options: CreateOptions) -> CreateOptions {
    options.changed.as_mut().expect("a map").trust = true;
    options
}

/// A repository with an archive of an image that has data in 40 spans and in none of the others.
fn spread() -> (tempfile::NamedTempFile, Vec<u8>, MemoryStorage, ArchiveId) {
    let mut bytes = vec![0; 45 * SPAN as usize];
    for span in 0..40 {
        bytes[span * SPAN as usize + 8192..][..20_000].copy_from_slice(&noise(span as u64, 20_000));
    }
    let source = image_of(&bytes);
    let storage = MemoryStorage::new();
    let id = run(&make(storage.clone()), &options("disk", &[source.path()])).id.expect("an id");
    (source, bytes, storage, id)
}

#[test]
fn only_what_a_map_names_is_read_and_a_sample() {
    let (source, mut bytes, storage, base) = spread();
    let repository = open(storage.clone());
    // One span gets other data, an empty one some, and a third one none.
    let at = |span: u64| (span * SPAN) as usize;
    let mut changes = Vec::new();
    for (span, new) in [(3, noise(77, 20_000)), (44, noise(78, 20_000)), (30, vec![0; 20_000])] {
        bytes[at(span) + 8192..][..20_000].copy_from_slice(&new);
        source.as_file().write_all_at(&new, span * SPAN + 8192).expect("write");
        changes.push(span * SPAN + 8192..span * SPAN + 28_192);
    }
    let trusted = run(&repository, &trusting(mapped(source.path(), base, &changes)));
    assert_eq!(read(&trusted), 45 * SPAN / 45 * 3, "a file without holes: three whole spans");
    assert_whole(storage.clone(), trusted.id.expect("an id"), &bytes);
    assert_eq!(trusted.reused[0].archive, base);
    // Data in whole blocks of the grid.
    assert_eq!(trusted.reused[0].data, 38 * 20_480);
    assert!(trusted.record.members[0].file.is_none(), "it was not read, so its times tell nothing");

    let sampled = run(&repository, &mapped(source.path(), base, &changes));
    let compared = (read(&sampled) - read(&trusted)) / 20_480;
    assert!((16..38).contains(&compared), "{compared} spans are compared of 38");
    assert_whole(storage, sampled.id.expect("an id"), &bytes);
}

#[test]
fn a_map_that_misses_a_change_is_found_out_by_the_sample() {
    let (source, bytes, storage, base) = archived();
    let repository = open(storage.clone());
    source.as_file().write_all_at(b"missed", 2 * SPAN + 77).expect("write");
    // Four spans at most are not named: all of them are compared.
    let error = fails(&repository, &mapped(source.path(), base, &[0..1]));
    let Error::WrongMap { base: named, offset, end } = error else { panic!("{error}") };
    assert_eq!(named, base);
    assert!(offset <= 2 * SPAN + 77 && end > 2 * SPAN + 77, "{offset} to {end}");
    assert!(error_is_told(&repository, &mapped(source.path(), base, &[])));
    let created = run(&repository, &trusting(mapped(source.path(), base, &[])));
    assert_eq!(read(&created), 0);
    assert_whole(storage, created.id.expect("an id"), &bytes);
}

#[test]
fn an_image_that_ends_within_a_span_with_a_hole_is_gone_through_once() {
    let source = image_of(&[]);
    source.as_file().set_len(3 * SPAN + 5000).expect("set_len");
    source.as_file().write_all_at(b"data", SPAN).expect("write");
    let storage = MemoryStorage::new();
    let repository = make(storage.clone());
    let base = run(&repository, &options("disk", &[source.path()])).id.expect("an id");
    for ranges in [&[][..], &[3 * SPAN..3 * SPAN + 5000], &[0..3 * SPAN + 5000]] {
        let created = run(&repository, &mapped(source.path(), base, ranges));
        let bytes = std::fs::read(source.path()).expect("read");
        assert_whole(storage.clone(), created.id.expect("an id"), &bytes);
    }
}

fn error_is_told(repository: &Arc<Repository>, options: &CreateOptions) -> bool {
    fails(repository, options).to_string().contains("the map is wrong, or counts from another state")
}

#[test]
fn an_image_that_grew_or_shrank_is_read_from_there_on() {
    let (source, mut bytes, storage, base) = archived();
    let repository = open(storage.clone());
    for len in [4 * SPAN + 5000, 6 * SPAN, 3 * SPAN + 9, 3 * SPAN, SPAN - 1] {
        source.as_file().set_len(len).expect("set_len");
        bytes.resize(len as usize, 0);
        if len > 4 * SPAN {
            source.as_file().write_all_at(b"tail", len - 4).expect("write");
            bytes[len as usize - 4..].copy_from_slice(b"tail");
        }
        let created = run(&repository, &trusting(mapped(source.path(), base, &[])));
        assert_whole(storage.clone(), created.id.expect("an id"), &bytes);
        assert!(read(&created) <= 2 * SPAN + 4096, "{len}: {} bytes were read", read(&created));
        if len > 4 * SPAN {
            // What was cut off again by the next round is not in the base.
            bytes.truncate(4 * SPAN as usize);
            source.as_file().set_len(4 * SPAN).expect("set_len");
        }
    }
}

/// Publishes an archive that is another one but for what `change` does to its only member.
fn altered(repository: &Repository, base: ArchiveId, change: impl FnOnce(&mut Member)) -> ArchiveId {
    let mut record: ArchiveRecord = repository.record(base).expect("record");
    change(&mut record.members[0]);
    let session = Session::begin(repository, "test").expect("session");
    record.session = session.id();
    let id = session.publish(&record).expect("publish");
    session.end().expect("end");
    id
}

#[test]
fn what_the_base_could_not_read_is_read() {
    let (source, bytes, storage, base) = archived();
    let repository = open(storage.clone());
    let bad = altered(&repository, base, |member| member.bad = vec![(SPAN + 4096, 4096)]);
    let created = run(&repository, &trusting(mapped(source.path(), bad, &[])));
    assert_eq!(read(&created), SPAN);
    assert!(created.record.members[0].bad.is_empty());
    assert_whole(storage, created.id.expect("an id"), &bytes);
}

#[test]
fn a_base_that_does_not_fit_is_refused() {
    let (source, _, storage, base) = archived();
    let repository = open(storage.clone());
    let with = |base| mapped(source.path(), base, &[]);
    let left_out = altered(&repository, base, |member| {
        member.data -= 4096;
        member.left_out = 4096;
    });
    refused(&repository, &with(left_out), "blocks that its filesystems did not use were left out");
    let stream = SourceSpec::Command { program: "true".into(), args: vec![] };
    let streamed = CreateOptions { members: vec![(name("m0"), stream)], ..with(base) };
    refused(&repository, &streamed, "a stream is read from front to back");
    let two =
        CreateOptions { changed: with(base).changed, ..options("disk", &[source.path(), source.path()]) };
    refused(&repository, &two, "is of one source");
    let beyond = mapped(source.path(), base, &[0..4 * SPAN + 1]);
    let error = fails(&repository, &beyond);
    assert!(matches!(error, Error::Map(_)), "{error}");
    Compactor::new(storage).delete_archive(base);
    refused(&repository, &with(base), "unconfirmed or was deleted");
}

#[test]
fn a_map_counts_from_the_state_of_its_base() {
    let (source, _, storage, untold) = archived();
    let repository = open(storage);
    let of = |base, map_base: Option<&str>, base_token: Option<&str>| {
        let mut options = mapped(source.path(), base, &[]);
        let changed = options.changed.as_mut().expect("a map");
        changed.map.base = map_base.map(Into::into);
        changed.map.target = Some("8".into());
        changed.base_token = base_token.map(Into::into);
        options
    };
    let told = run(&repository, &CreateOptions { source_token: "7".into(), ..of(untold, None, None) });
    assert_eq!(told.record.members[0].token, "7");
    let told = told.id.expect("an id");

    refused(&repository, &of(told, None, None), "does not say which state it counts from");
    refused(&repository, &of(told, Some("6"), None), "it is of state \"7\", but the map counts from \"6\"");
    refused(&repository, &of(told, None, Some("6")), "counts from \"6\"");
    for (said, given) in [("7", "6"), ("6", "7")] {
        let contradiction = format!("counts from {said:?}, and --base-token is {given:?}");
        refused(&repository, &of(told, Some(said), Some(given)), &contradiction);
    }
    refused(&repository, &of(untold, None, Some("6")), "made without --source-token");
    for (base, map_base, base_token) in [
        (told, Some("7"), None),
        (told, None, Some("7")),
        (told, Some("7"), Some("7")),
        (untold, Some("6"), None),
        (untold, None, None),
    ] {
        let created = run(&repository, &of(base, map_base, base_token));
        assert_eq!(created.record.members[0].token, "8", "the map says where it leads to");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_map_covers_the_changes_the_image_is_the_source(
        old in prop::collection::vec((0..6 * SPAN, 1_usize..60_000), 0..12),
        new in prop::collection::vec((0..6 * SPAN, 1_usize..60_000, any::<bool>()), 0..8),
        more in prop::collection::vec((0..4 * SPAN, 0..2 * SPAN), 0..4),
        len in 4 * SPAN..6 * SPAN,
        trust in any::<bool>(),
    ) {
        let mut bytes = vec![0; 5 * SPAN as usize];
        let put = |bytes: &mut Vec<u8>, at: u64, data: &[u8]| {
            let at = (at as usize).min(bytes.len());
            let end = (at + data.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&data[..end - at]);
            at as u64..end as u64
        };
        for (seed, (at, len)) in (0..).zip(&old) {
            put(&mut bytes, *at, &noise(seed, *len));
        }
        let source = image_of(&[]);
        let write = |bytes: &[u8]| {
            source.as_file().set_len(0).expect("set_len");
            source.as_file().set_len(bytes.len() as u64).expect("set_len");
            for (at, block) in (0..).step_by(4096).zip(bytes.chunks(4096)) {
                if block.iter().any(|byte| *byte != 0) {
                    source.as_file().write_all_at(block, at).expect("write");
                }
            }
        };
        write(&bytes);
        let storage = MemoryStorage::new();
        let repository = make(storage.clone());
        let base = run(&repository, &options("disk", &[source.path()])).id.expect("an id");
        bytes.resize(len as usize, 0);
        let mut ranges: Vec<Range<u64>> = more.iter().map(|(at, len)| *at..(at + len).min(4 * SPAN)).collect();
        ranges.retain(|range| range.start < range.end);
        for (seed, (at, len, is_zero)) in (100..).zip(&new) {
            let data = if *is_zero { vec![0; *len] } else { noise(seed, *len) };
            ranges.push(put(&mut bytes, *at, &data));
        }
        write(&bytes);
        let mut options = mapped(source.path(), base, &ranges);
        options.changed.as_mut().expect("a map").trust = trust;
        let created = run(&repository, &options);
        assert_whole(storage.clone(), created.id.expect("an id"), &bytes);
        prop_assert_eq!(listed(storage).len(), 2);
    }
}
