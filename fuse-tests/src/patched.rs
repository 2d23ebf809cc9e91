//! Volumes in files, surveyed for their free blocks; a test changes bytes of them in memory only.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use copal::allocation::{Survey, Usage, survey};
use copal::partition::ReadAt;

use crate::noise::Random;
use crate::tool;

/// What free blocks are overwritten with.
const PATTERN: u8 = 0xa5;

/// A filesystem's image with changed bytes. Reads beyond its end fail the test.
#[derive(Debug)]
pub struct Patched {
    file: File,
    len: u64,
    kind: &'static str,
    changes: Vec<(u64, Vec<u8>)>,
}

impl ReadAt for Patched {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).expect("no read overflows");
        assert!(end <= self.len, "a read of {} bytes at {offset} of {}", buf.len(), self.len);
        self.file.read_exact_at(buf, offset)?;
        for (at, bytes) in &self.changes {
            for (at, byte) in (*at..).zip(bytes).filter(|(at, _)| (offset..end).contains(at)) {
                buf[(at - offset) as usize] = *byte;
            }
        }
        Ok(())
    }
}

impl Patched {
    /// Opens an image of a filesystem, by its name at `blkid`.
    ///
    /// # Panics
    /// If it cannot be opened.
    #[must_use]
    pub fn open(kind: &'static str, image: &Path) -> Self {
        let file = File::open(image).expect("open");
        let len = file.metadata().expect("stat").len();
        Self { file, len, kind, changes: Vec::new() }
    }

    /// Bytes as they stand now.
    ///
    /// # Panics
    /// If they cannot be read.
    #[must_use]
    pub fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read_at(offset, &mut bytes).expect("read");
        bytes
    }

    /// Changes bytes.
    pub fn set(&mut self, offset: u64, bytes: &[u8]) {
        self.changes.push((offset, bytes.to_vec()));
    }

    /// Makes everything as it was.
    pub fn restore(&mut self) {
        self.changes.clear();
    }

    /// Makes it shorter.
    pub fn cut(&mut self, len: u64) {
        self.len = len;
    }

    /// Surveys it. Whatever it holds, what is said must make sense.
    ///
    /// # Errors
    /// Why it is not to be trusted.
    ///
    /// # Panics
    /// If what is said is wrong for any volume.
    pub fn survey(&self) -> Survey {
        let usage = survey(self, 0..self.len, self.kind)?;
        assert_eq!(usage.filesystem, self.kind);
        for ranges in [usage.free.as_slice(), &usage.fixed] {
            assert!(ranges.iter().all(|range| range.start < range.end && range.end <= self.len));
            assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
        assert!(usage.used + usage.free.bytes() <= self.len);
        for fixed in &usage.fixed {
            assert!(!is_partly_free(&usage, fixed), "{fixed:?} is both free and read");
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
        match self.survey() {
            Ok(usage) => {
                panic!("it is trusted, with {} bytes free; changed: {:x?}", usage.free.bytes(), self.changes)
            }
            Err(distrust) => distrust.to_string(),
        }
    }

    /// Damages one place after the other of those that the survey rests on, and surveys each time. Where it is still trusted, the same must be free.
    /// Returns how often it was not.
    ///
    /// # Panics
    /// If anything else is free.
    pub fn damage(&mut self, times: usize) -> usize {
        self.damage_outside(&(0..0), times)
    }

    /// Damages as `damage` does, but nothing of a range.
    ///
    /// # Panics
    /// If anything else is free, or the survey rests on nothing but the range.
    pub fn damage_outside(&mut self, spared: &Range<u64>, times: usize) -> usize {
        let mut original = self.usage();
        let outside = |range: Range<u64>| {
            [range.start..range.end.min(spared.start), range.start.max(spared.end)..range.end]
        };
        original.fixed =
            original.fixed.into_iter().flat_map(outside).filter(|range| !range.is_empty()).collect();
        assert!(!original.fixed.is_empty());
        let mut random = Random::new(self.len);
        let (mut done, mut refused) = (0, 0);
        while done < times {
            let range = &original.fixed[random.below(original.fixed.len())];
            let at = range.start + random.below((range.end - range.start) as usize) as u64;
            let old = self.bytes(at, 1)[0];
            let new = match random.below(4) {
                0 => vec![old ^ 1 << random.below(8)],
                1 => vec![!old; 1],
                2 => random.number().to_be_bytes().to_vec(),
                _ => vec![0xff; 4],
            };
            if self.bytes(at, new.len()) == new {
                continue;
            }
            done += 1;
            self.set(at, &new);
            match self.survey() {
                Err(_) => refused += 1,
                Ok(usage) => assert!(usage.free == original.free, "{new:x?} at {at}"),
            }
            self.restore();
        }
        refused
    }
}

/// Whether any byte of a range is called free.
#[must_use]
pub fn is_partly_free(usage: &Usage, range: &Range<u64>) -> bool {
    let free = usage.free.as_slice();
    let first = free.partition_point(|free| free.end <= range.start);
    free.get(first).is_some_and(|free| free.start < range.end)
}

/// A copy of an image, every free byte of which is overwritten.
///
/// # Panics
/// If that fails.
#[must_use]
pub fn overwritten(image: &Path, usage: &Usage) -> PathBuf {
    let copy = image.with_extension("overwritten");
    tool!("cp", "--sparse=always", image, &copy);
    let file = File::options().write(true).open(&copy).expect("open");
    let pattern = vec![PATTERN; 1 << 20];
    for range in usage.free.as_slice() {
        for at in (range.start..range.end).step_by(pattern.len()) {
            let len = (range.end - at).min(pattern.len() as u64) as usize;
            file.write_all_at(&pattern[..len], at).expect("write");
        }
    }
    copy
}

/// Fails if `partclone` copies anything of an image that is called free; `program` is that for its filesystem.
///
/// # Panics
/// If it does, or says what is not understood.
pub fn assert_partclone_copies_no_free_block(program: &str, image: &Path, usage: &Usage) {
    let [list, log] = ["list", "log"].map(|extension| image.with_extension(extension));
    tool!(program, "--domain", "-F", "-q", "-L", log, "-s", image, "-O", &list);
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("a number");
    let mut copied = 0;
    for line in std::fs::read_to_string(&list).expect("a list of ranges").lines() {
        let [start, len, "+"] = line.split_whitespace().collect::<Vec<_>>()[..] else { continue };
        let range = number(start)..number(start) + number(len);
        assert!(!is_partly_free(usage, &range), "{range:?} is copied by {program}, and called free");
        copied += range.end - range.start;
    }
    assert!(copied > 0, "{program} copies nothing");
}
