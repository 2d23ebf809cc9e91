//! exFAT (Microsoft, *exFAT file system specification* 1.00).
//!
//! The bitmap of clusters has no checksum, so it is believed only where all directories agree with it: every file is followed, and each of its clusters must be in use, by
//! nothing else. Clusters in use that nothing leads to stay used.

mod boot;
mod chains;
mod directories;
mod entries;

use std::ops::Range;

use self::boot::Boot;
use self::chains::Chains;
use self::directories::{Found, Walk};
use super::clusters::{Gatherer, Set, for_each_piece, joined};
use super::{Distrust, Survey, Usage};
use crate::partition::bytes::Window;

/// The longest upper-case table: two bytes for each of 65536 characters.
const MAX_UPPER_CASE: u64 = 128 << 10;

pub(super) fn survey(volume: &Window<'_>) -> Survey {
    let boot = Boot::read(volume)?;
    let mut chains = Chains::new(volume, &boot)?;
    let (root, found) = directories::open_root(&mut chains, boot.root)?;
    let bitmap = chains.chain(found.bitmap.first, found.bitmap.len)?;
    let (used, gatherer) = read_bitmap(volume, &boot, &bitmap, found.bitmap.len)?;
    check_upper_case(volume, &mut chains, &found)?;
    let mut walk = Walk::new(chains);
    walk.list(&root)?;
    walk.all()?;
    let (free, free_count) = gatherer.finish()?;
    if !walk.into_claimed().is_within(&used) {
        return Err(Distrust::because("a file lies in clusters that its bitmap calls free"));
    }
    let fixed = [vec![0..boot.regions(), boot.table.clone()], bitmap, root].concat();
    Ok(Usage {
        filesystem: "exfat",
        label: found.label,
        used: boot.len - free_count * boot.clusters.size,
        free,
        fixed: joined(fixed),
    })
}

/// Reads the bitmap: the clusters in use, and those that are not.
fn read_bitmap(
    volume: &Window<'_>,
    boot: &Boot,
    bitmap: &[Range<u64>],
    len: u64,
) -> Result<(Set, Gatherer), Distrust> {
    let mut used = Set::new(boot.clusters.count)?;
    let mut gatherer = Gatherer::new(boot.clusters);
    for_each_piece(volume, bitmap, len.min(boot.clusters.count.div_ceil(8)), |bytes| {
        used.insert_bitmap(gatherer.told(), bytes);
        gatherer.take_bitmap(bytes);
        Ok(())
    })?;
    Ok((used, gatherer))
}

/// The upper-case table is no part of this, but its checksum tells of a damaged disk.
fn check_upper_case(volume: &Window<'_>, chains: &mut Chains<'_>, found: &Found) -> Result<(), Distrust> {
    let table = &found.upper_case;
    if table.len > MAX_UPPER_CASE {
        return Err(Distrust::because("its upper-case table is damaged"));
    }
    let ranges = chains.chain(table.first, table.len)?;
    let mut sum = 0;
    for_each_piece(volume, &ranges, table.len, |bytes| {
        sum = entries::checksum(sum, bytes);
        Ok(())
    })?;
    if sum != found.upper_case_checksum {
        return Err(Distrust::because("its upper-case table is damaged"));
    }
    Ok(())
}
