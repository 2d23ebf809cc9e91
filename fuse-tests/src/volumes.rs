//! Volumes in memory, surveyed for their free blocks, and what must hold of what a survey says.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;

use copal::allocation::{Survey, Usage, survey};
use copal::partition::ReadAt;

use crate::noise::{Random, write_sparse};
use crate::tool;

/// What free blocks are overwritten with.
const PATTERN: u8 = 0xa5;
/// What is done to a place, see [`Volume::damaged`].
const DAMAGES: usize = 5;

/// A volume's bytes. Reads beyond its end fail the test.
#[derive(Debug, Clone)]
pub struct Volume {
    bytes: Vec<u8>,
    kind: &'static str,
}

impl ReadAt for Volume {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).expect("no read overflows");
        assert!(end <= self.len(), "a read of {} bytes at {offset} of {}", buf.len(), self.len());
        buf.copy_from_slice(&self.bytes[offset as usize..end as usize]);
        Ok(())
    }
}

impl Volume {
    /// Reads an image of a filesystem, by its name at `blkid`.
    ///
    /// # Panics
    /// If it cannot be read.
    #[must_use]
    pub fn load(kind: &'static str, image: &Path) -> Self {
        Self { bytes: fs::read(image).expect("an image"), kind }
    }

    /// The bytes, to be changed.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Surveys it. Whatever it holds, what is said must make sense.
    ///
    /// # Errors
    /// Why it is not to be trusted.
    ///
    /// # Panics
    /// If what is said is wrong for any volume.
    pub fn survey(&self) -> Survey {
        let usage = survey(self, 0..self.len(), self.kind)?;
        assert_eq!(usage.filesystem, self.kind);
        assert_in_order(usage.free.as_slice(), self.len());
        assert_in_order(&usage.fixed, self.len());
        assert!(usage.used + usage.free.bytes() <= self.len());
        for fixed in &usage.fixed {
            assert!(!overlaps(&usage, fixed), "{fixed:?} is both free and read");
        }
        Ok(usage)
    }

    /// Surveys it, which must succeed.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.survey().unwrap_or_else(|distrust| panic!("taken whole: {distrust}"))
    }

    /// Why it is not trusted.
    ///
    /// # Panics
    /// If it is.
    #[must_use]
    pub fn distrust(&self) -> String {
        self.survey().expect_err("it is not to be trusted").to_string()
    }

    /// A copy of which free blocks were overwritten.
    #[must_use]
    pub fn overwritten(&self, usage: &Usage) -> Self {
        let mut copy = self.clone();
        for range in usage.free.as_slice() {
            copy.bytes[range.start as usize..range.end as usize].fill(PATTERN);
        }
        copy
    }

    /// A copy that was damaged.
    #[must_use]
    pub fn with(&self, damage: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut copy = self.clone();
        damage(&mut copy.bytes);
        copy
    }

    /// Writes it to a file.
    pub fn write(&self, path: &Path) {
        write_sparse(path, &self.bytes);
    }

    /// Damages single places, `times` times each another one of those in `ranges`. A survey must then fail, or call nothing free that was not.
    /// Returns how often it failed.
    ///
    /// # Panics
    /// If a used block is called free.
    #[must_use]
    pub fn damaged(&self, ranges: &[Range<u64>], times: usize) -> usize {
        let original = self.usage();
        let mut random = Random::new(self.len());
        let mut copy = self.clone();
        let mut refused = 0;
        for time in 0..times {
            let range = &ranges[random.below(ranges.len())];
            let at = range.start as usize + random.below((range.end - range.start) as usize);
            let (at, bytes) = damage(&self.bytes, at, &mut random);
            let place = at..at + bytes.len();
            copy.bytes[place.clone()].copy_from_slice(&bytes);
            match copy.survey() {
                Err(_) => refused += 1,
                Ok(usage) => assert_within(&usage, &original, &format!("damage {time} at {place:?}")),
            }
            copy.bytes[place.clone()].copy_from_slice(&self.bytes[place]);
        }
        refused
    }
}

/// What to put where: a bit, a byte, an edge, noise or zeros up to the end of the sector.
fn damage(bytes: &[u8], at: usize, random: &mut Random) -> (usize, Vec<u8>) {
    let rest = 512.min(bytes.len() - at / 512 * 512) - at % 512;
    let new = match random.below(DAMAGES) {
        0 => vec![bytes[at] ^ 1 << random.below(8)],
        1 => vec![random.number() as u8],
        2 => vec![if random.below(2) == 0 { 0 } else { 0xff }; 1 << random.below(4)],
        3 => (0..1 + random.below(16)).map(|_| random.number() as u8).collect(),
        _ => return (at - at % 512, vec![0; 512.min(bytes.len() - at / 512 * 512)]),
    };
    (at, new[..new.len().min(rest)].to_vec())
}

fn assert_in_order(ranges: &[Range<u64>], len: u64) {
    assert!(ranges.iter().all(|range| range.start < range.end && range.end <= len), "{ranges:?}");
    assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start), "{ranges:?}");
}

fn overlaps(usage: &Usage, range: &Range<u64>) -> bool {
    usage.free.as_slice().iter().any(|free| free.start < range.end && range.start < free.end)
}

/// Fails unless all that is free by one survey is free by another.
///
/// # Panics
/// If it is not.
pub fn assert_within(usage: &Usage, other: &Usage, what: &str) {
    let others = other.free.as_slice();
    for free in usage.free.as_slice() {
        let at = others.partition_point(|other| other.end <= free.start);
        let whole = others.get(at).is_some_and(|other| other.start <= free.start && free.end <= other.end);
        assert!(whole, "{what}: {free:?} is called free");
    }
}

/// What `partclone` copies of an image, as ranges of bytes; `program` is that for its filesystem.
///
/// # Panics
/// If it fails or says what is not understood.
#[must_use]
pub fn copied_by_partclone(program: &str, image: &Path) -> Vec<Range<u64>> {
    let domain = image.with_extension("domain");
    let log = image.with_extension("log");
    tool!(program, "--domain", "-F", "-q", "-L", log, "-s", image, "-O", &domain);
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("a number");
    let text = fs::read_to_string(&domain).expect("a list of ranges");
    let mut copied = Vec::new();
    for line in text.lines().filter(|line| line.starts_with("0x")) {
        if let [start, len, "+"] = line.split_whitespace().collect::<Vec<_>>()[..] {
            copied.push(number(start)..number(start) + number(len));
        }
    }
    assert!(!copied.is_empty(), "{text}");
    copied
}

/// Fails if anything that is copied by another tool is called free.
///
/// # Panics
/// If something is.
pub fn assert_none_copied(usage: &Usage, copied: &[Range<u64>]) {
    for range in copied {
        assert!(!overlaps(usage, range), "{range:?} is copied by another tool, and called free");
    }
}

/// The number that follows `word` in what a tool said.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn number_after(text: &str, word: &str) -> u64 {
    let (_, rest) = text.split_once(word).unwrap_or_else(|| panic!("no {word:?} in {text}"));
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("no number behind {word:?} in {text}"))
}
