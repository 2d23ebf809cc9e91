//! How FastCDC's settings cut disks: `cargo bench --bench cutting -- IMAGE...`, images in the order in which they would be stored.
//!
//! Prints a line for each setting, in KiB unless it says otherwise:
//!
//! | column | what it is |
//! |---|---|
//! | `level`, `least`, `mean`, `most` | the setting: FastCDC's level of normalisation, and lengths |
//! | `chunks` | how many the last image has |
//! | `length`, `at a byte` | the mean length of its chunks, and of the chunk that a byte of it is part of: what a read of a block opens |
//! | `stored, MiB` | all images, each chunk once, compressed with zstd 3 |
//! | `after an insert` | how much of a stream of noise is cut otherwise after 4 KiB were put in: mean and most of 300 |
//! | `a write` | the same after 8 KiB were written over |

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;

use copal::chunker::data_runs;
use fastcdc::v2020::{Normalization, cut_gear, select_masks};
use rayon::prelude::*;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// As long as spans are unless a repository says otherwise.
const SPAN: usize = 16 << 20;
/// Level, shortest, mean and longest chunk in KiB.
const SETTINGS: [(u8, usize, usize, usize); 12] = [
    (1, 16, 64, 256),
    (1, 16, 64, 128),
    (2, 16, 64, 256),
    (2, 16, 64, 128),
    (3, 16, 64, 128),
    (1, 8, 32, 128),
    (2, 8, 32, 128),
    (2, 8, 32, 64),
    (2, 16, 32, 64),
    (3, 8, 32, 64),
    (3, 16, 32, 64),
    (2, 4, 16, 32),
];
/// Streams of noise, how long they are, and where something is changed.
const STREAMS: u64 = 300;
const STREAM: usize = 8 << 20;
const CHANGED: usize = 1 << 20;

struct Cutter {
    lens: [usize; 3],
    masks: (u64, u64),
    gear: Vec<u64>,
    shifted: Vec<u64>,
}

impl Cutter {
    fn new((level, least, mean, most): (u8, usize, usize, usize)) -> Self {
        let level = match level {
            1 => Normalization::Level1,
            2 => Normalization::Level2,
            _ => Normalization::Level3,
        };
        let gear: Vec<u64> = noise(0, 2048)
            .chunks_exact(8)
            .map(|bytes| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
            .collect();
        let shifted = gear.iter().map(|value| value << 1).collect();
        Self {
            lens: [least << 10, mean << 10, most << 10],
            masks: select_masks(mean << 10, level),
            gear,
            shifted,
        }
    }

    /// The ends of a stream's chunks.
    fn ends(&self, stream: &[u8]) -> Vec<usize> {
        let ([least, mean, most], (small, large)) = (self.lens, self.masks);
        let mut ends = Vec::new();
        let mut at = 0;
        while at < stream.len() {
            let rest = &stream[at..];
            let (_, len) = cut_gear(
                rest,
                least,
                mean,
                most,
                small,
                large,
                small << 1,
                large << 1,
                &self.gear,
                &self.shifted,
            );
            at += len.clamp(1, rest.len());
            ends.push(at);
        }
        ends
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Chunks of the last image, its bytes, the sum of their lengths' squares, and bytes stored of all.
fn cut(cutter: &Cutter, images: &[String]) -> Result<(usize, f64, f64, usize), Failure> {
    let mut known = HashSet::new();
    let (mut chunks, mut bytes, mut squares, mut stored) = Default::default();
    let mut span = vec![0; SPAN];
    for image in images {
        (chunks, bytes, squares) = Default::default();
        let file = File::open(image)?;
        let size = usize::try_from(file.metadata()?.len())?;
        for at in (0..size).step_by(SPAN) {
            let span = &mut span[..SPAN.min(size - at)];
            file.read_exact_at(span, at as u64)?;
            let stream: Vec<u8> = data_runs(span).into_iter().flat_map(|run| span[run].to_vec()).collect();
            let mut start = 0;
            for end in cutter.ends(&stream) {
                let chunk = &stream[start..end];
                start = end;
                chunks += 1;
                bytes += chunk.len() as f64;
                squares += (chunk.len() * chunk.len()) as f64;
                if known.insert(blake3::hash(chunk)) {
                    stored += zstd::bulk::compress(chunk, 3)?.len().min(chunk.len());
                }
            }
        }
    }
    Ok((chunks, bytes, squares, stored))
}

/// How much of a stream is cut otherwise once it was changed at a place, which moved what lies behind by so much.
fn lost(before: &[usize], after: &[usize], at: usize, moved: usize) -> usize {
    let after: HashSet<usize> = after.iter().copied().collect();
    let first = before.iter().rev().find(|end| **end <= at && after.contains(end)).unwrap_or(&0);
    let last =
        before.iter().find(|end| **end >= at + 8192 && after.contains(&(**end + moved))).unwrap_or(&STREAM);
    last - first
}

fn mean_and_most(lost: &[usize]) -> String {
    let most = lost.iter().max().copied().unwrap_or(0);
    format!("{} to {}", (lost.iter().sum::<usize>() / lost.len().max(1)) >> 10, most >> 10)
}

fn line(setting: (u8, usize, usize, usize), images: &[String]) -> Result<String, Failure> {
    let cutter = Cutter::new(setting);
    let (chunks, bytes, squares, stored) = cut(&cutter, images)?;
    let (mut inserted, mut written) = (Vec::new(), Vec::new());
    for seed in 1..=STREAMS {
        let mut stream = noise(seed, STREAM);
        let before = cutter.ends(&stream);
        let at = CHANGED + (seed as usize * 4096) % CHANGED;
        let with = [&stream[..at], &noise(seed + STREAMS, 4096), &stream[at..]].concat();
        inserted.push(lost(&before, &cutter.ends(&with), at, 4096));
        stream[at..at + 8192].copy_from_slice(&noise(seed + STREAMS, 8192));
        written.push(lost(&before, &cutter.ends(&stream), at, 0));
    }
    let (level, least, mean, most) = setting;
    let (length, at_a_byte) = (bytes / chunks.max(1) as f64 / 1024.0, squares / bytes.max(1.0) / 1024.0);
    Ok(format!(
        "| {level} | {least} | {mean} | {most} | {chunks} | {length:.1} | {at_a_byte:.1} | {:.0} | {} | {} |",
        stored as f64 / 1_048_576.0,
        mean_and_most(&inserted),
        mean_and_most(&written),
    ))
}

fn main() -> Result<(), Failure> {
    let images: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if images.is_empty() {
        return Err("usage: cutting IMAGE...".into());
    }
    let lines: Vec<_> = SETTINGS.par_iter().map(|setting| line(*setting, &images)).collect();
    println!(
        "| level | least | mean | most | chunks | length | at a byte | stored, MiB | after an insert | a write |"
    );
    println!("|{}", " ---: |".repeat(10));
    lines.into_iter().try_for_each(|line| line.map(|line| println!("{line}")))
}
