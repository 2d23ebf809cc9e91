//! Volumes whose free blocks hold what was there before, and the proof that nothing is lost without these.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use copal::allocation::{Usage, survey};
use copal::partition::ReadAt;

use crate::noise::noise;

/// What stands in blocks that no filesystem has written.
const STALE: u8 = 0x5a;
/// What is written over free blocks.
const OVERWRITTEN: u8 = 0xa5;

/// A disk in memory, which a test may damage.
#[derive(Debug, Clone)]
pub struct Disk(pub Vec<u8>);

impl ReadAt for Disk {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).expect("an offset in memory");
        let bytes = self.0.get(start..start + buf.len()).expect("no read goes beyond the end");
        buf.copy_from_slice(bytes);
        Ok(())
    }
}

impl Disk {
    /// A file's bytes.
    ///
    /// # Panics
    /// If it cannot be read.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        Self(fs::read(path).expect("read"))
    }

    /// Surveys all of it, which must work.
    ///
    /// # Panics
    /// If it is distrusted, or a free range lies outside of it or over a fixed one.
    #[must_use]
    pub fn usage(&self, kind: &str) -> Usage {
        let usage = survey(self, 0..self.len(), kind).unwrap_or_else(|reason| panic!("{kind}: {reason}"));
        assert!(usage.free.as_slice().iter().all(|range| range.end <= self.len()));
        for fixed in &usage.fixed {
            let overlaps = |free: &Range<u64>| free.start < fixed.end && fixed.start < free.end;
            assert!(!usage.free.as_slice().iter().any(overlaps), "{fixed:?} is free");
        }
        usage
    }

    /// Why it is distrusted.
    ///
    /// # Panics
    /// If it is not.
    #[must_use]
    pub fn distrust(&self, kind: &str) -> String {
        match survey(self, 0..self.len(), kind) {
            Ok(_) => panic!("{kind} is believed"),
            Err(reason) => reason.to_string(),
        }
    }
}

/// Makes a file of `len` bytes that is full of stale data.
///
/// # Panics
/// If that fails.
pub fn stale_file(path: &Path, len: u64) {
    let file = File::create(path).expect("create");
    let piece = vec![STALE; 1 << 20];
    (0..len >> 20).for_each(|number| file.write_all_at(&piece, number << 20).expect("write"));
    file.set_len(len).expect("set length");
}

/// Writes files of many sizes into a directory, and deletes every third: what is left is fragmented, and free blocks hold their bytes.
///
/// # Panics
/// If that fails.
pub fn churn(directory: &Path, files: u64, largest: usize) {
    let folder = directory.join("churn");
    fs::create_dir(&folder).expect("mkdir");
    let path = |number: u64| folder.join(format!("file-{number}"));
    for number in 0..files {
        let len = largest * (number as usize % 13 + 1) / 13 + number as usize;
        fs::write(path(number), noise(number, len)).expect("write");
    }
    (0..files).step_by(3).for_each(|number| fs::remove_file(path(number)).expect("remove"));
    rustix::fs::syncfs(File::open(directory).expect("open")).expect("sync");
}

/// A copy of an image with all free bytes overwritten, behind an offset.
///
/// # Panics
/// If that fails.
#[must_use]
pub fn overwritten(image: &Path, free: &[Range<u64>]) -> PathBuf {
    let copy = image.with_extension("overwritten");
    fs::copy(image, &copy).expect("copy");
    let file = File::options().write(true).open(&copy).expect("open");
    for range in free {
        let bytes = vec![OVERWRITTEN; (range.end - range.start) as usize];
        file.write_all_at(&bytes, range.start).expect("write");
    }
    copy
}
