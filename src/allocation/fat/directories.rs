//! The tree of directories: every entry must lead to the beginning of a chain of its own.
//!
//! A directory also tells its own number, and so that clusters lie where the boot sector puts them. Where that has neither a checksum nor a copy, nothing else does.
//!
//! Only the chains of directories are followed. Those of files need not be: the table was checked to lead from a cluster in use to clusters in use only, and two
//! chains to never meet.

use super::super::Distrust;
use super::super::clusters::{Set, read_all};
use super::boot::{Boot, Root};
use super::table::Table;
use crate::partition::bytes::{Fields, Window};

/// Directories that may wait to be read: 16 MiB of their numbers.
const MAX_WAITING: usize = 4 << 20;
/// Bytes of an entry.
const ENTRY: usize = 32;
/// First byte of an entry that was deleted.
const DELETED: u8 = 0xe5;
/// Names of the entries that a directory begins with.
const SELF: &[u8] = b".          ";
const PARENT: &[u8] = b"..         ";
const ATTRIBUTE_LABEL: u8 = 0x08;
const ATTRIBUTE_DIRECTORY: u8 = 0x10;
/// A part of a long name.
const ATTRIBUTES_LONG: u8 = 0x0f;

/// Walks all directories. Returns the label, if the root has one.
pub(super) fn check(volume: &Window<'_>, boot: &Boot, table: &Table) -> Result<Option<String>, Distrust> {
    let mut walk = Walk { volume, boot, table, begun: Set::new(boot.clusters.count)?, waiting: Vec::new() };
    let label = match &boot.root {
        Root::Fixed(range) => walk.list(range.start, range.end - range.start)?,
        Root::Chain(first) => {
            let first = walk.begin(*first)?;
            walk.follow(first)?
        }
    };
    let mut is_confirmed = boot.is_confirmed;
    while let Some(first) = walk.waiting.pop() {
        walk.check_place(first)?;
        // The first cluster has the same place whatever the length of clusters.
        is_confirmed |= first > 0;
        walk.follow(first)?;
    }
    if !is_confirmed {
        return Err(Distrust::because("it has no directory that shows where its clusters lie"));
    }
    Ok(label)
}

struct Walk<'a> {
    volume: &'a Window<'a>,
    boot: &'a Boot,
    table: &'a Table,
    /// Clusters that an entry leads to, and those of directories.
    begun: Set,
    /// Directories that were not read yet.
    waiting: Vec<u64>,
}

impl Walk<'_> {
    /// Reads a directory from its first cluster on, each cluster once, even if the table changes meanwhile.
    fn follow(&mut self, first: u64) -> Result<Option<String>, Distrust> {
        let mut label = None;
        let mut next = Some(first);
        while let Some(cluster) = next {
            let bytes = self.boot.clusters.bytes(cluster..cluster + 1);
            let found = self.list(bytes.start, bytes.end - bytes.start)?;
            label = label.or(found);
            next = self.after(cluster)?;
            if next.is_some_and(|next| !self.begun.insert(next)) {
                return Err(damaged());
            }
        }
        Ok(label)
    }

    /// The cluster that follows in the chain.
    fn after(&self, cluster: u64) -> Result<Option<u64>, Distrust> {
        // In FAT12 two entries share three bytes.
        let pair = (cluster + 2) / 2;
        let at = self.boot.tables + self.boot.width.bytes(pair * 2);
        let bytes = self.volume.read_up_to(at, 8)?;
        let entry = self.boot.width.entry(Fields(&bytes), usize::from(cluster % 2 == 1));
        let next = u64::from(entry).checked_sub(2);
        Ok(next.filter(|next| self.table.followers.has(*next)))
    }

    /// Reads some clusters, or the fixed root, as entries. Returns the label if there is one.
    fn list(&mut self, at: u64, len: u64) -> Result<Option<String>, Distrust> {
        // Less than 2 MiB: 65535 entries, or a cluster of 128 sectors of 4096 bytes.
        let bytes = read_all(self.volume, at, usize::try_from(len).map_err(|_| damaged())?)?;
        let mut label = None;
        for entry in bytes.chunks_exact(ENTRY).map(Fields) {
            let attributes = entry.u8(11);
            if matches!(entry.u8(0), 0 | DELETED) || attributes & 0x3f == ATTRIBUTES_LONG {
                continue;
            }
            if attributes & ATTRIBUTE_LABEL != 0 {
                label = label.or_else(|| entry.text(0, 11));
                continue;
            }
            if !entry.has(0, SELF) && !entry.has(0, PARENT) {
                self.visit(entry, attributes & ATTRIBUTE_DIRECTORY != 0)?;
            }
        }
        Ok(label)
    }

    /// The number of the cluster that an entry leads to.
    fn number(&self, entry: Fields<'_>) -> u32 {
        // The upper half means something else where numbers have 16 bits at most.
        let high = if self.boot.width.max() > 0xffff { u32::from(entry.u16(20)) << 16 } else { 0 };
        high | u32::from(entry.u16(26))
    }

    /// A directory begins with an entry for itself.
    fn check_place(&self, first: u64) -> Result<(), Distrust> {
        let bytes = read_all(self.volume, self.boot.clusters.bytes(first..first + 1).start, ENTRY)?;
        let entry = Fields(&bytes);
        if !entry.has(0, SELF) || u64::from(self.number(entry)) != first + 2 {
            return Err(damaged());
        }
        Ok(())
    }

    fn visit(&mut self, entry: Fields<'_>, is_directory: bool) -> Result<(), Distrust> {
        let first = self.number(entry);
        if first == 0 && !is_directory {
            return Ok(());
        }
        let first = self.begin(first)?;
        if is_directory {
            if self.waiting.len() >= MAX_WAITING {
                return Err(Distrust::because("it has too many directories to follow"));
            }
            self.waiting.push(first);
        }
        Ok(())
    }

    /// The first cluster of a chain, by its number in the table.
    fn begin(&mut self, number: u32) -> Result<u64, Distrust> {
        let cluster = u64::from(number).checked_sub(2).ok_or_else(damaged)?;
        if !self.table.used.has(cluster) {
            return Err(Distrust::because("a file begins in a free cluster"));
        }
        if self.table.followers.has(cluster) || !self.begun.insert(cluster) {
            return Err(damaged());
        }
        Ok(cluster)
    }
}

fn damaged() -> Distrust {
    Distrust::because("its directories are damaged")
}
