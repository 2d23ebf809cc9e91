//! The tree of directories of exFAT.

use std::ops::Range;

use super::super::Distrust;
use super::super::clusters::{Set, for_each_piece, text_of_utf16};
use super::chains::Chains;
use super::entries::{self, Allocation};
use crate::partition::bytes::{Fields, Window};

/// Directories that may wait to be read: 24 bytes each.
const MAX_WAITING: usize = 1 << 20;
/// Characters of the longest label.
const MAX_LABEL: usize = 11;

/// What the root directory says of the volume.
pub(super) struct Found {
    pub(super) bitmap: Allocation,
    pub(super) upper_case: Allocation,
    pub(super) upper_case_checksum: u32,
    pub(super) label: String,
}

/// Claims the root directory and looks for what only it has. Its files are not looked at.
pub(super) fn open_root(chains: &mut Chains<'_>, first: u32) -> Result<(Vec<Range<u64>>, Found), Distrust> {
    let root = chains.chain(first, 0)?;
    let (mut bitmaps, mut upper_cases, mut label) = (Vec::new(), Vec::new(), String::new());
    for_each_entry(chains.volume, &root, |bytes| {
        let entry = Fields(bytes);
        match entry.u8(0) {
            // One more than there may be is enough to know.
            entries::BITMAP if bitmaps.len() < 2 => bitmaps.push((entry.u8(1), Allocation::of(entry))),
            entries::UPPER_CASE if upper_cases.len() < 2 => {
                upper_cases.push((entry.u32(4), Allocation::of(entry)));
            }
            entries::LABEL => {
                let len = usize::from(entry.u8(1)).min(MAX_LABEL);
                label = text_of_utf16(entry.slice(2, len * 2));
            }
            _ => {}
        }
        Ok(())
    })?;
    let ([(flags, bitmap)], [(upper_case_checksum, upper_case)]) = (&bitmaps[..], &upper_cases[..]) else {
        return Err(Distrust::because("its root directory has not one bitmap and one upper-case table"));
    };
    if *flags != 0 {
        return Err(Distrust::because("it is of an unknown version"));
    }
    let found =
        Found { bitmap: *bitmap, upper_case: *upper_case, upper_case_checksum: *upper_case_checksum, label };
    Ok((root, found))
}

/// Claims everything that directories lead to.
pub(super) struct Walk<'a> {
    chains: Chains<'a>,
    waiting: Vec<Allocation>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(chains: Chains<'a>) -> Self {
        Self { chains, waiting: Vec::new() }
    }

    /// Lists the directories that were found, and those found in them.
    pub(super) fn all(&mut self) -> Result<(), Distrust> {
        while let Some(directory) = self.waiting.pop() {
            let ranges = self.claim(directory)?;
            self.list(&ranges)?;
        }
        Ok(())
    }

    /// Claims the files in a directory whose own clusters are claimed.
    pub(super) fn list(&mut self, ranges: &[Range<u64>]) -> Result<(), Distrust> {
        let (mut set, mut missing) = (Vec::new(), 0);
        for_each_entry(self.chains.volume, ranges, |bytes| {
            let kind = bytes[0];
            if missing > 0 {
                if kind & (entries::IN_USE | entries::SECONDARY) != entries::IN_USE | entries::SECONDARY {
                    return Err(damaged());
                }
                set.extend_from_slice(bytes);
                missing -= 1;
                return if missing == 0 { self.file(&set) } else { Ok(()) };
            }
            match kind {
                entries::FILE => {
                    missing = entries::secondary_count(Fields(bytes));
                    set = bytes.to_vec();
                    if missing == 0 { Err(damaged()) } else { Ok(()) }
                }
                entries::BITMAP | entries::UPPER_CASE | entries::LABEL => Ok(()),
                kind if kind & entries::IN_USE == 0 || entries::HARMLESS.contains(&kind) => Ok(()),
                _ => Err(damaged()),
            }
        })?;
        if missing > 0 { Err(damaged()) } else { Ok(()) }
    }

    /// A file's whole set of entries.
    fn file(&mut self, set: &[u8]) -> Result<(), Distrust> {
        if !entries::is_whole(set) || set.get(entries::LEN) != Some(&entries::STREAM) {
            return Err(damaged());
        }
        let is_directory = entries::is_directory(Fields(set));
        for bytes in set.chunks_exact(entries::LEN).skip(1) {
            let Some(found) = Allocation::of_secondary(Fields(bytes)) else { continue };
            if is_directory && bytes[0] == entries::STREAM {
                if self.waiting.len() >= MAX_WAITING {
                    return Err(Distrust::because("it has too many directories to follow"));
                }
                self.waiting.push(found);
            } else {
                self.claim(found)?;
            }
        }
        Ok(())
    }

    fn claim(&mut self, what: Allocation) -> Result<Vec<Range<u64>>, Distrust> {
        if what.contiguous {
            return Ok(vec![self.chains.contiguous(what.first, what.len)?]);
        }
        self.chains.chain(what.first, what.len)
    }

    /// All clusters that anything leads to.
    pub(super) fn into_claimed(self) -> Set {
        self.chains.into_claimed()
    }
}

/// Every entry in the clusters of a directory, up to its end.
fn for_each_entry(
    volume: &Window<'_>,
    ranges: &[Range<u64>],
    mut each: impl FnMut(&[u8]) -> Result<(), Distrust>,
) -> Result<(), Distrust> {
    let mut ended = false;
    for_each_piece(volume, ranges, u64::MAX, |bytes| {
        for entry in bytes.chunks_exact(entries::LEN) {
            ended |= entry[0] == entries::END;
            if ended {
                return Ok(());
            }
            each(entry)?;
        }
        Ok(())
    })
}

fn damaged() -> Distrust {
    Distrust::because("its directories are damaged")
}
