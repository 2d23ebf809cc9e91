//! The table of clusters, read once from its beginning to its end.

use super::super::Distrust;
use super::super::clusters::{Set, read_all};
use super::boot::{Boot, Width};
use crate::partition::bytes::{Fields, Window};

/// Read at once of each copy. A multiple of 12, so that it holds an even number of entries of any width.
const PIECE: u64 = 3 << 20;
/// Bits of the second entry, counted from its highest: unmounted cleanly, no errors of the medium.
const CLEAN: u32 = 0b11;

/// What the table says of every cluster. Clusters are counted from 0, and called 2 more in the table.
pub(super) struct Table {
    /// Those that are not free.
    pub(super) used: Set,
    /// Those that follow another in a chain.
    pub(super) followers: Set,
}

impl Table {
    /// Reads the table and checks that all copies are equal, that every chain goes on in clusters that are in use, and that no two meet.
    pub(super) fn read(volume: &Window<'_>, boot: &Boot) -> Result<Self, Distrust> {
        let count = boot.clusters.count;
        let mut table = Self { used: Set::new(count)?, followers: Set::new(count)? };
        let len = boot.width.bytes(count + 2);
        let mut number = 0;
        for at in (0..len).step_by(PIECE as usize) {
            let piece = read_copies(volume, boot, at, PIECE.min(len - at))?;
            if at == 0 {
                check_first(Fields(&piece), boot)?;
            }
            let entries = (count + 2 - number).min(PIECE / boot.width.bytes(2) * 2);
            for index in 0..entries as usize {
                table.add(number, boot.width.entry(Fields(&piece), index), boot)?;
                number += 1;
            }
        }
        for cluster in 0..count {
            if table.followers.has(cluster) && !table.used.has(cluster) {
                return Err(Distrust::because("a chain of clusters leads to a free one"));
            }
        }
        Ok(table)
    }

    /// The entry of cluster `number - 2`.
    fn add(&mut self, number: u64, entry: u32, boot: &Boot) -> Result<(), Distrust> {
        let Some(cluster) = number.checked_sub(2) else { return Ok(()) };
        if entry == 0 {
            return Ok(());
        }
        let known = self.used.insert(cluster);
        let ends = entry >= boot.width.max() - 8;
        if !known || !ends && !u64::from(entry).checked_sub(2).is_some_and(|next| self.followers.insert(next))
        {
            return Err(Distrust::because("its table of clusters is damaged"));
        }
        Ok(())
    }
}

/// A piece of the table, which is the same in all copies.
fn read_copies(volume: &Window<'_>, boot: &Boot, at: u64, len: u64) -> Result<Vec<u8>, Distrust> {
    let len = usize::try_from(len).expect("at most PIECE");
    let first = read_all(volume, boot.tables + at, len)?;
    for copy in 1..boot.copies {
        if read_all(volume, boot.tables + boot.table_len * copy + at, len)? != first {
            return Err(Distrust::because("the copies of its table of clusters differ"));
        }
    }
    Ok(first)
}

/// The first two entries, which stand for no cluster: the kind of medium, and whether it was unmounted.
fn check_first(table: Fields<'_>, boot: &Boot) -> Result<(), Distrust> {
    let max = boot.width.max();
    if boot.width.entry(table, 0) != max & !0xff | u32::from(boot.media) {
        return Err(Distrust::because("its table of clusters is damaged"));
    }
    let shift = match boot.width {
        Width::Bits12 => return Ok(()),
        Width::Bits16 => 14,
        Width::Bits32 => 26,
    };
    if boot.width.entry(table, 1) >> shift & CLEAN != CLEAN {
        return Err(Distrust::because("it was not unmounted cleanly"));
    }
    Ok(())
}
