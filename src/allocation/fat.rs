//! FAT12, FAT16 and FAT32 (Microsoft, *FAT32 File System Specification* 1.03).
//!
//! The table of clusters has no checksum, so it is believed only where all that tells of clusters agrees: both copies of it, the count that FAT32 keeps,
//! and every chain and directory. What a chain or a directory entry leads to must be in use, by nothing else. Clusters that are marked bad, and those that nothing leads to,
//! count as used.

pub(crate) mod boot;
mod directories;
mod table;

use std::ops::Range;

use self::boot::{Boot, Width};
use self::table::Table;
use super::clusters::{Gatherer, joined, read_all};
use super::{Distrust, Survey, Usage};
use crate::partition::bytes::{Fields, Window};

/// What FSInfo says if it does not know how many clusters are free.
const UNKNOWN: u32 = u32::MAX;

pub(super) fn survey(volume: &Window<'_>) -> Survey {
    let boot = Boot::read(volume)?;
    let table = Table::read(volume, &boot)?;
    let label = directories::check(volume, &boot, &table)?;
    let mut gatherer = Gatherer::new(boot.clusters);
    for cluster in 0..boot.clusters.count {
        gatherer.take(1, table.used.has(cluster));
    }
    let (free, free_count) = gatherer.finish()?;
    check_free_count(volume, &boot, free_count)?;
    Ok(Usage {
        filesystem: "vfat",
        label: label.or(boot.label.clone()).unwrap_or_default(),
        used: boot.len - free_count * boot.clusters.size,
        free,
        fixed: fixed(&boot),
    })
}

/// The count of free clusters that FAT32 keeps must be right, if it says that it knows it.
fn check_free_count(volume: &Window<'_>, boot: &Boot, found: u64) -> Result<(), Distrust> {
    let Some(at) = boot.info else { return Ok(()) };
    let bytes = read_all(volume, at, 512)?;
    let info = Fields(&bytes);
    if !info.has(0, b"RRaA") || !info.has(484, b"rrAa") || !info.has(508, &[0, 0, 0x55, 0xaa]) {
        return Err(Distrust::because("its information sector is damaged"));
    }
    let said = info.u32(488);
    if said != UNKNOWN && u64::from(said) != found {
        return Err(Distrust::because(format!("it counts {said} free clusters, but has {found}")));
    }
    Ok(())
}

/// Boot sectors, the count, and all copies of the table.
fn fixed(boot: &Boot) -> Vec<Range<u64>> {
    let reserved = if boot.width == Width::Bits32 { 0..boot.tables } else { 0..512 };
    joined(vec![reserved, boot.tables..boot.tables + boot.table_len * boot.copies])
}
