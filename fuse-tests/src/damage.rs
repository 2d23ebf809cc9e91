//! Damage to stored bytes, and which bytes of an image it takes away.

use std::fs::OpenOptions;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use copal::format::pack::PackKind;
use copal::repository::packs::pack_name;

use crate::sandbox::Sandbox;

/// A damaged chunk.
#[derive(Debug)]
pub struct Damaged {
    /// Its id.
    pub chunk: String,
    /// Its pack's id.
    pub pack: String,
    /// The ranges of the image that lie in it.
    pub ranges: Vec<Range<u64>>,
}

/// Flips one bit in the middle of the chunk that holds byte `offset` of the newest image of a name.
///
/// # Panics
/// If there is a hole, or the pack cannot be changed.
#[must_use]
pub fn flip_chunk_at(sandbox: &Sandbox, name: &str, offset: u64) -> Damaged {
    let (_, image, reader) = sandbox.image(name);
    let base = offset >> image.span_shift << image.span_shift;
    let map = reader.maps().span(&image, offset >> image.span_shift).expect("map").expect("data");
    let within = |extent: &&copal::extent::Extent| {
        (base + u64::from(extent.offset)..base + extent.end()).contains(&offset)
    };
    let number = map.map.extents.iter().find(within).expect("no hole").chunk;
    let location = map.locations[number as usize];
    let pack = sandbox.repository().join(pack_name(PackKind::Data, location.pack.id).as_str());
    let file = OpenOptions::new().read(true).write(true).open(pack).expect("open pack");
    let at = u64::from(location.offset + location.sealed_len / 2);
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ 0x10], at).expect("write");
    let touched = map.map.extents.iter().filter(|extent| extent.chunk == number);
    Damaged {
        chunk: map.map.chunks[number as usize].id.to_string(),
        pack: location.pack.id.to_string(),
        ranges: touched.map(|extent| base + u64::from(extent.offset)..base + extent.end()).collect(),
    }
}

/// All ranges of the newest image of a name that lie in these chunks, in order.
///
/// # Panics
/// If a map cannot be read.
#[must_use]
pub fn ranges_of(sandbox: &Sandbox, name: &str, chunks: &[String]) -> Vec<Range<u64>> {
    let (_, image, reader) = sandbox.image(name);
    let mut ranges = Vec::new();
    for span in 0..image.size.div_ceil(1 << image.span_shift) {
        let Some(map) = reader.maps().span(&image, span).expect("map") else { continue };
        let base = span << image.span_shift;
        for extent in &map.map.extents {
            if chunks.contains(&map.map.chunks[extent.chunk as usize].id.to_string()) {
                ranges.push(base + u64::from(extent.offset)..base + extent.end());
            }
        }
    }
    ranges
}
