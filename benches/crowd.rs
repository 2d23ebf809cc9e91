//! Crowds a repository: `cargo bench --bench crowd -- REPOSITORY MILLIONS`.
//!
//! Publishes an index of so many million blobs, all new, and stores the packs that it names, which are empty: what a create meets in a repository that has grown for
//! years, without the years. The repository, which has to be unencrypted, is good for measuring creates and for nothing else.

use std::sync::Arc;

use copal::codec::keys::BlobKind;
use copal::format::index_segment::{IndexEntry, IndexSegment};
use copal::format::location::{KEY_MODE_CLASS, Location, PackRef};
use copal::format::pack::PackKind;
use copal::id::{BlobId, PackId};
use copal::repository::packs::pack_name;
use copal::repository::segments::store;
use copal::repository::unlock::Locked;
use copal::storage::local::LocalStorage;

/// Blobs of a pack: of the common size, with chunks of the common size that compress by half.
const OF_PACK: usize = 512;
/// Blobs of a segment, as publishers leave them.
const OF_SEGMENT: usize = 64 << 10;
/// Length of a chunk, plain and stored.
const PLAIN: u32 = 64 << 10;
const SEALED: u32 = 32 << 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let [path, millions] = &words[..] else { return Err("usage: crowd REPOSITORY MILLIONS".into()) };
    let blobs = millions.parse::<usize>()? * 1_000_000;
    let storage = Arc::new(LocalStorage::open(path.as_ref())?);
    let repository = Locked::read(storage)?.unlock(None)?;
    let objects = repository.objects();

    // As many leading hex digits as leave a segment of the common length for each value of them.
    let digits = (1..4).find(|digits| blobs >> (4 * digits) <= OF_SEGMENT).unwrap_or(4);
    let segments = 1 << (4 * digits);
    let (blobs_of, packs_of) = (blobs / segments, blobs / segments / OF_PACK + 1);
    for number in 0..segments {
        let prefix = format!("{number:0digits$x}");
        let id = |what: &str, each: usize| -> [u8; 32] {
            let mut id: [u8; 32] = *blake3::hash(format!("{what} {number} {each}").as_bytes()).as_bytes();
            let leading = (number as u32) << (32 - 4 * digits);
            let kept = u32::from_be_bytes([id[0], id[1], id[2], id[3]]) & (u32::MAX >> (4 * digits));
            id[..4].copy_from_slice(&(leading | kept).to_be_bytes());
            id
        };
        let packs: Vec<PackId> = (0..packs_of)
            .map(|each| PackId(*id("pack", each).first_chunk().expect("a pack's id is shorter")))
            .collect();
        let entry = |each: usize| IndexEntry {
            kind: BlobKind::Chunk,
            id: BlobId(id("blob", each)),
            location: Location {
                pack: PackRef { id: packs[each / OF_PACK], mode: KEY_MODE_CLASS, epoch: 1 },
                offset: (each % OF_PACK) as u32 * SEALED,
                sealed_len: SEALED,
            },
            plain_len: PLAIN,
        };
        let entries = (0..blobs_of).map(entry).collect();
        for pack in &packs {
            let file = std::path::Path::new(path).join(pack_name(PackKind::Data, *pack).as_str());
            std::fs::create_dir_all(file.parent().expect("a folder"))?;
            std::fs::File::create(file)?;
        }
        store(objects, &prefix, IndexSegment { packs, entries, ..IndexSegment::default() })?;
    }
    println!(
        "{{\"blobs\": {}, \"packs\": {}, \"segments\": {segments}}}",
        segments * blobs_of,
        segments * packs_of
    );
    Ok(())
}
