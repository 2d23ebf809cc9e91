//! What marking costs: `cargo bench --bench marking -- MILLIONS`, for repositories of so many million chunks, made up.
//!
//! Prints memory (resident, in bytes for each chunk) and time of an inventory and its marks, with one mark set for each chunk in an order
//! that jumps between packs.

use std::time::Instant;

use copal::codec::keys::BlobKind;
use copal::format::location::{Location, PackRef};
use copal::format::pack::{PackEntry, PackKind};
use copal::id::{BlobId, PackId};
use copal::maintenance::inventory::{Inventory, Layout, Marks};

/// As many chunks as a pack of 24 MiB has.
const PER_PACK: u32 = 1400;
const SEALED: u32 = 17_500;

fn pack_id(number: u32) -> PackId {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&number.wrapping_mul(2_654_435_761).to_le_bytes());
    id[4..8].copy_from_slice(&number.to_le_bytes());
    PackId(id)
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn measure(millions: u32) {
    let packs = millions * 1_000_000 / PER_PACK;
    let before = resident();
    let started = Instant::now();
    let mut inventory = Inventory::default();
    for number in 0..packs {
        let entry = |blob| PackEntry {
            kind: BlobKind::Chunk,
            id: BlobId([0; 32]),
            offset: 40 + blob * SEALED,
            sealed_len: SEALED,
            plain_len: SEALED,
        };
        let entries: Vec<_> = (0..PER_PACK).map(entry).collect();
        inventory.add(Layout::new(pack_id(number), PackKind::Data, 24 << 20, &entries));
    }
    let built = started.elapsed();
    let mut marks = Marks::new(&inventory);
    let started = Instant::now();
    for blob in 0..PER_PACK {
        for number in 0..packs {
            let pack = PackRef { id: pack_id(number), mode: 1, epoch: 1 };
            let at = Location { pack, offset: 40 + blob * SEALED, sealed_len: SEALED };
            assert!(marks.mark(&inventory, at));
        }
    }
    let marked = started.elapsed();
    let chunks = f64::from(packs) * f64::from(PER_PACK);
    let bytes = (resident() - before) as f64;
    println!(
        "{millions:>4} million chunks in {packs} packs: {:.0} MiB, {:.2} bytes for each; built in {:.1} s, marked in {:.1} s ({:.0} ns each)",
        bytes / f64::from(1 << 20),
        bytes / chunks,
        built.as_secs_f64(),
        marked.as_secs_f64(),
        marked.as_nanos() as f64 / chunks
    );
}

fn main() {
    let given: Vec<u32> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    for millions in if given.is_empty() { vec![1, 4, 16] } else { given } {
        measure(millions);
    }
}
