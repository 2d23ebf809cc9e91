//! Reading mounted files in every way, and comparing with what should be there.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Advice, SeekFrom, fadvise, seek};
use rustix::io::Errno;

use crate::noise::Random;

/// What one `pread` gives, put together from as many as it takes to fill the buffer or meet the end.
///
/// # Panics
/// If a read fails.
#[must_use]
pub fn read_at(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut buffer = vec![0xa5; len];
    let mut filled = 0;
    while filled < len {
        match file.read_at(&mut buffer[filled..], offset + filled as u64).expect("read") {
            0 => break,
            read => filled += read,
        }
    }
    buffer.truncate(filled);
    buffer
}

/// Checks one range, which may go past the end.
///
/// # Panics
/// If it differs.
pub fn check_range(file: &File, bytes: &[u8], offset: usize, len: usize) {
    let expected = &bytes[offset.min(bytes.len())..(offset + len).min(bytes.len())];
    assert!(read_at(file, offset as u64, len) == expected, "{len} bytes at {offset} of {}", bytes.len());
}

/// Checks so many ranges of random places and lengths, some of them past the end.
///
/// # Panics
/// If one differs.
pub fn check_random(file: &File, bytes: &[u8], seed: u64, count: usize) {
    let mut random = Random::new(seed);
    for _ in 0..count {
        let most = [1, 600, 5000, 300_000][random.below(4)];
        check_range(file, bytes, random.below(bytes.len() + 5000), random.below(most) + 1);
    }
}

/// Checks the bytes around each edge.
///
/// # Panics
/// If they differ.
pub fn check_edges(file: &File, bytes: &[u8], edges: impl IntoIterator<Item = u64>) {
    for edge in edges {
        let edge = edge as usize;
        for (before, after) in [(1, 0), (0, 1), (1, 1), (4096, 4096), (5000, 77)] {
            let start = edge.saturating_sub(before);
            check_range(file, bytes, start, edge + after - start);
        }
    }
}

/// Checks a whole file, read in pieces of `piece` bytes.
///
/// # Panics
/// If it differs.
pub fn check_all(path: &Path, bytes: &[u8], piece: usize) {
    let file = File::open(path).expect("open");
    assert_eq!(file.metadata().expect("stat").len(), bytes.len() as u64, "length of {}", path.display());
    for offset in (0..=bytes.len()).step_by(piece) {
        check_range(&file, bytes, offset, piece);
    }
}

/// Drops what the kernel has cached of a file.
///
/// # Panics
/// If the kernel refuses.
pub fn drop_cache(file: &File) {
    fadvise(file, 0, None, Advice::DontNeed).expect("fadvise");
}

/// The ranges of data of a file, as SEEK_DATA and SEEK_HOLE tell them.
///
/// # Panics
/// If they contradict themselves.
#[must_use]
pub fn data_ranges(file: impl AsFd) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    loop {
        let start = match seek(&file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return ranges,
            Err(error) => panic!("SEEK_DATA from {at}: {error}"),
        };
        at = seek(&file, SeekFrom::Hole(start)).expect("behind data is a hole, or the end");
        assert!(at > start, "data at {start} is not empty");
        ranges.push(start..at);
    }
}

/// The ranges of data that bytes have by themselves: all but whole 4 KiB blocks of zeros.
#[must_use]
pub fn data_of(bytes: &[u8]) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for (number, block) in bytes.chunks(4096).enumerate() {
        if block.iter().all(|byte| *byte == 0) {
            continue;
        }
        let start = number as u64 * 4096;
        let end = start + block.len() as u64;
        match ranges.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => ranges.push(start..end),
        }
    }
    ranges
}

/// How many bytes ranges have together.
#[must_use]
pub fn total(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}
