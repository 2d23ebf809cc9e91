//! The label of an NTFS, which does not stand in its boot sector but in a file of its own, `$Volume`: the fourth record of the master file table.
//!
//! Source: the structures that ntfs-3g's `layout.h` documents. What does not fit is no label.

use super::super::bytes::{Fields, Window, printable};
use super::super::update_sequence::put_back;

/// The record of `$Volume`.
const VOLUME: u64 = 3;
/// The attribute that holds the label.
const VOLUME_NAME: u32 = 0x60;
/// Lengths of a record that are believed, in bytes.
const RECORDS: std::ops::RangeInclusive<u64> = 512..=4096;
/// The longest label in bytes; Windows allows 32 characters.
const MAX_LABEL: usize = 256;

/// The label of the filesystem with this boot sector, if it has one that can be read.
pub(super) fn label(window: &Window<'_>, boot: Fields<'_>) -> Option<String> {
    let cluster = u64::from(boot.u16(11)).checked_mul(clusters(boot.u8(13)))?;
    let record = match boot.u8(64).cast_signed() {
        shift @ -31..0 => 1 << -shift,
        count => cluster.checked_mul(u64::try_from(count).ok()?)?,
    };
    if !RECORDS.contains(&record) {
        return None;
    }
    let at = boot.u64(48).checked_mul(cluster)?.checked_add(VOLUME * record)?;
    let mut bytes = window.read_up_to(at, usize::try_from(record).ok()?).ok()?;
    if !bytes.starts_with(b"FILE") {
        return None;
    }
    put_back(&mut bytes).ok()?;
    volume_name(Fields(&bytes), bytes.len())
}

/// Sectors of a cluster, or from 0x80 on the power of two as a negative number.
fn clusters(byte: u8) -> u64 {
    match byte.cast_signed() {
        shift @ -31..0 => 1 << -shift,
        _ => byte.into(),
    }
}

/// The value of the attribute that is the label.
fn volume_name(record: Fields<'_>, end: usize) -> Option<String> {
    let mut at = usize::from(record.u16(20));
    while at + 24 <= end {
        let len = record.u32(at + 4) as usize;
        if len < 24 || len > end - at {
            return None;
        }
        if record.u32(at) == VOLUME_NAME && record.u8(at + 8) == 0 {
            let value = (record.u32(at + 16) as usize).min(MAX_LABEL);
            let from = usize::from(record.u16(at + 20)).min(len);
            let (units, _) = record.slice(at + from, value.min(len - from)).as_chunks::<2>();
            let units: Vec<u16> = units.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
            let text = printable(&String::from_utf16_lossy(&units));
            return (!text.is_empty()).then_some(text);
        }
        at += len;
    }
    None
}
