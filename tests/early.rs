//! A create that stores very much does not hold all of it in memory: where its first packs' blobs lie is published, and forgotten, long before its end.

mod common;

use std::io::Write;
use std::sync::Arc;

use common::{assert_whole, make, options};
use copal::archiver::create::create;
use copal::format::config::ChunkerParams;
use copal::repository::segments::EARLY;
use copal::storage::memory::MemoryStorage;
use copal::storage::recorder::{Op, Recorder};
use copal::task::{Silent, Stop};

const BLOCK: usize = 4096;

#[test]
fn the_index_of_what_is_stored_is_published_before_the_end() {
    let bytes: Vec<u8> = (0..EARLY * 3 / 2)
        .flat_map(|number| {
            let mut block = [7; BLOCK];
            block[..8].copy_from_slice(&(number as u64 + 1).to_le_bytes());
            block
        })
        .collect();
    let mut source = tempfile::NamedTempFile::new().expect("a file");
    source.write_all(&bytes).expect("write");
    let storage = MemoryStorage::new();
    let recorder = Arc::new(Recorder::new(storage.clone()));
    let repository = make(recorder.clone());
    let mut options = options("big", &[source.path()]);
    options.chunker = Some(ChunkerParams::fixed(BLOCK as u32));
    let created = create(&repository, &options, &Stop::default(), &Silent).expect("create");

    let calls = recorder.calls();
    let is_put = |folder: &str| {
        let puts = calls.iter().enumerate().filter(|(_, call)| call.op == Op::Put);
        puts.filter(|(_, call)| call.name.starts_with(folder)).map(|(at, _)| at).collect::<Vec<_>>()
    };
    let (index, packs) = (is_put("index/"), is_put("packs/"));
    assert!(index.first() < packs.last(), "{index:?}, {packs:?}");
    assert_whole(storage, created.id.expect("an id"), &bytes);
}
