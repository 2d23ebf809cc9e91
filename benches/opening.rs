//! The ceiling of reading: `cargo bench --bench opening -- REPOSITORY REFERENCE`, with the passphrase in `COPAL_PASSPHRASE`.
//!
//! Holds the sealed bytes of an archive's chunks in memory and opens and verifies them, on one core and on all: what reading through a mount, or
//! a restore, could reach if storage and transport were free. Prints one JSON object: `one_core` and `all_cores` in MB/s (10^6 plain bytes),
//! `chunk_us` in µs for each chunk, and how many chunks and plain bytes were opened.

mod common;

use std::collections::HashSet;
use std::hint::black_box;
use std::sync::Arc;

use copal::codec::keys::BlobKind;
use copal::codec::slot_key::Secret;
use copal::format::location::Location;
use copal::format::pack::PackKind;
use copal::id::BlobId;
use copal::image::Image;
use copal::image::maps::Maps;
use copal::repository::Repository;
use copal::repository::packs::pack_name;
use copal::repository::reference::Reference;
use copal::repository::unlock::Locked;
use copal::storage::local::LocalStorage;

use common::{each, median};

/// Sealed bytes held in memory at most.
const SAMPLE: u64 = 2 << 30;
/// Each measurement is repeated, and the median taken.
const ROUNDS: usize = 5;

struct Sealed {
    id: BlobId,
    epoch: u32,
    bytes: Vec<u8>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let [path, reference] = &words[..] else { return Err("usage: opening REPOSITORY REFERENCE".into()) };
    let secret = std::env::var("COPAL_PASSPHRASE").ok().map(|text| Secret::Passphrase(text.into()));
    let storage = LocalStorage::open(path.as_ref())?;
    let repository = Arc::new(Locked::read(Arc::new(storage))?.unlock(secret.as_ref())?);
    let chunks = load(&repository, reference)?;

    let open = |sealed: &Sealed, scratch: &mut Vec<u8>| {
        scratch.clear();
        scratch.extend_from_slice(&sealed.bytes);
        let plain = repository.packs().open(BlobKind::Chunk, &sealed.id, sealed.epoch, scratch);
        black_box(plain.expect("the repository is whole")).len()
    };
    let mut plain = 0;
    let one = median(ROUNDS, || {
        let mut scratch = Vec::new();
        plain = chunks.iter().map(|sealed| open(sealed, &mut scratch)).sum::<usize>();
    });
    let cores = std::thread::available_parallelism()?.get();
    let all = median(ROUNDS, || {
        each(&chunks, cores, |sealed, scratch| {
            open(sealed, scratch);
        });
    });
    println!(
        "{{\"one_core\": {:.1}, \"all_cores\": {:.1}, \"cores\": {cores}, \"chunk_us\": {:.2}, \"chunks\": {}, \"plain\": {plain}}}",
        plain as f64 / 1e6 / one,
        plain as f64 / 1e6 / all,
        one * 1e6 / chunks.len() as f64,
        chunks.len(),
    );
    Ok(())
}

/// The sealed chunks of an archive in the order of its image, each once.
fn load(repository: &Repository, reference: &str) -> Result<Vec<Sealed>, Box<dyn std::error::Error>> {
    let archives = repository.archives()?;
    let archive = Reference::parse(reference)?.resolve(&archives)?;
    let record = repository.record(archive.id())?;
    let maps = Maps::new(Arc::new(repository.again()), 64 << 20);
    let mut seen = HashSet::new();
    let mut places: Vec<(BlobId, Location)> = Vec::new();
    for member in &record.members {
        let image = Image::of(member, repository.config().span_shift);
        maps.walk(&image, &mut |kind, id, at| {
            if kind == BlobKind::Chunk && seen.insert(id) {
                places.push((id, at));
            }
        })?;
    }
    let mut left = SAMPLE;
    let mut chunks = Vec::new();
    for (id, at) in places {
        let Some(rest) = left.checked_sub(at.sealed_len.into()) else { break };
        left = rest;
        let mut bytes = vec![0; at.sealed_len as usize];
        let pack = pack_name(PackKind::Data, at.pack.id);
        repository.objects().storage().read_range(&pack, at.offset.into(), &mut bytes)?;
        chunks.push(Sealed { id, epoch: at.pack.epoch, bytes });
    }
    Ok(chunks)
}
