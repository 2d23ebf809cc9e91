//! A whole disk: each of its partitions, or the disk itself if it has no table.
//!
//! A volume is surveyed only if exactly one signature stands on it, wherever signatures stand, and if nothing else lies where it lies: no other
//! partition, no part of the table. With a table that is in doubt itself, no volume is. What lies between volumes is nobody's, and never free.

use std::io;
use std::ops::Range;

use super::{Distrust, Survey, survey};
use crate::partition::bytes::Window;
use crate::partition::{Partition, ReadAt, Table, TableKind, read_table, signatures};

/// A partition, or a disk that is not divided.
#[derive(Debug)]
pub struct Volume {
    /// The partition's number.
    pub number: Option<u32>,
    /// Where it lies on the disk, in bytes.
    pub range: Range<u64>,
    /// What it holds, by the names of `blkid`.
    pub filesystem: Option<String>,
    /// The label of what it holds, or what the table calls it.
    pub label: String,
    /// What its filesystem says, in bytes of the volume.
    pub survey: Survey,
}

/// Surveys all volumes of a disk, in the order in which they lie there. Partitions that hold others are not among them. `sector` is the logical
/// sector size in bytes, 0 if unknown.
///
/// # Errors
/// If the disk's first bytes cannot be read.
pub fn volumes(disk: &dyn ReadAt, sector: u32) -> io::Result<Vec<Volume>> {
    let table = read_table(disk, sector)?;
    let mut volumes = match table.kind {
        TableKind::None => vec![undivided(disk, &table)],
        _ => table
            .partitions
            .iter()
            .filter(|part| !part.container)
            .map(|part| divided(disk, &table, part))
            .collect(),
    };
    volumes.sort_by_key(|volume| volume.range.start);
    Ok(volumes)
}

fn undivided(disk: &dyn ReadAt, table: &Table) -> Volume {
    let range = 0..disk.len();
    let doubt = table.doubt.clone().map(Distrust::Because);
    Volume {
        number: None,
        filesystem: table.filesystem.clone(),
        label: table.filesystem_label.clone().unwrap_or_default(),
        survey: doubt.map_or_else(|| look(disk, range.clone()), Err),
        range,
    }
}

fn divided(disk: &dyn ReadAt, table: &Table, part: &Partition) -> Volume {
    let range = part.start..part.start + part.len;
    let label = part.filesystem_label.as_ref().filter(|label| !label.is_empty()).unwrap_or(&part.label);
    Volume {
        number: Some(part.number),
        filesystem: part.filesystem.clone(),
        label: label.clone(),
        survey: doubt(table, part).map_or_else(|| look(disk, range.clone()), Err),
        range,
    }
}

/// What is wrong with a partition whatever it holds.
fn doubt(table: &Table, part: &Partition) -> Option<Distrust> {
    if let Some(note) = &table.doubt {
        return Some(Distrust::Because(format!("the partition table is in doubt: {note}")));
    }
    let range = part.start..part.start + part.len;
    if table.own.iter().any(|own| overlap(own, &range)) {
        return Some(Distrust::because("it overlaps the partition table"));
    }
    // A logical partition lies within the extended one.
    let is_other = |other: &&Partition| {
        other.number != part.number && !(other.container && part.number > 4) && overlaps(other, &range)
    };
    let other = table.partitions.iter().find(is_other)?;
    Some(Distrust::Because(format!("it overlaps partition {}", other.number)))
}

fn overlaps(part: &Partition, range: &Range<u64>) -> bool {
    overlap(&(part.start..part.start + part.len), range)
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

/// Surveys a volume by its signature, if it has a single one.
fn look(disk: &dyn ReadAt, range: Range<u64>) -> Survey {
    let found = signatures(&Window::part(disk, range.start, range.end - range.start))?;
    match found[..] {
        [] => Err(Distrust::because("nothing known is on it")),
        [kind] => survey(disk, range, kind),
        _ => Err(Distrust::Because(format!("it has signatures of {}", found.join(" and ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Disk;
    use super::*;

    const MIB: usize = 1 << 20;

    /// A swap area.
    fn swap(bytes: &mut [u8]) {
        let last = (bytes.len() / 4096 - 1) as u32;
        bytes[4086..4096].copy_from_slice(b"SWAPSPACE2");
        bytes[1024..1028].copy_from_slice(&1_u32.to_le_bytes());
        bytes[1028..1032].copy_from_slice(&last.to_le_bytes());
    }

    /// An MBR with slots of (type, first sector, sectors).
    fn mbr(bytes: &mut [u8], slots: &[(u8, u32, u32)]) {
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        for (slot, (code, start, len)) in slots.iter().enumerate() {
            let at = 446 + 16 * slot;
            bytes[at + 4] = *code;
            bytes[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
            bytes[at + 12..at + 16].copy_from_slice(&len.to_le_bytes());
        }
    }

    fn of(bytes: &[u8]) -> Vec<Result<u64, String>> {
        let volumes = volumes(&Disk(bytes), 512).unwrap();
        let told =
            |volume: Volume| volume.survey.map(|usage| usage.free.bytes()).map_err(|why| why.to_string());
        volumes.into_iter().map(told).collect()
    }

    #[test]
    fn a_disk_without_a_table_is_one_volume() {
        let mut disk = vec![0; 4 * MIB];
        assert_eq!(of(&disk), [Err("nothing known is on it".to_owned())]);
        swap(&mut disk);
        assert_eq!(of(&disk), [Ok(4 * MIB as u64 - 4096)]);
    }

    #[test]
    fn a_second_signature_at_either_end_is_a_doubt() {
        let len = 4 * MIB;
        let strays: [(usize, &[u8], &str); 7] = [
            (1080, b"\x53\xef", "ext2"),
            (0, b"LUKS\xba\xbe\0\x01", "crypto_LUKS"),
            (512, b"EFI PART", "gpt"),
            (len - 512, b"EFI PART", "gpt"),
            (len - 4096 + 60, b"\x83\x74\x02\x6b", "drbd"),
            (len - (256 << 10) + (128 << 10), b"\x0c\xb1\xba\0\0\0\0\0", "zfs_member"),
            (4120, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "bcache"),
        ];
        for (at, magic, name) in strays {
            let mut disk = vec![0; len];
            swap(&mut disk);
            disk[at..at + magic.len()].copy_from_slice(magic);
            if name == "ext2" {
                disk[1028] = 1;
            }
            let said = of(&disk).remove(0).unwrap_err().replace("GPT", "gpt");
            assert!(said.contains(name), "{name}: {said}");
        }
    }

    #[test]
    fn partitions_that_overlap_are_taken_whole() {
        let mut disk = vec![0; 4 * MIB];
        swap(&mut disk[MIB..2 * MIB]);
        swap(&mut disk[3 * MIB..]);
        mbr(&mut disk, &[(0x82, 2048, 2048), (0x82, 6144, 2048)]);
        let one = Ok(MIB as u64 - 4096);
        assert_eq!(of(&disk), [one.clone(), one.clone()]);
        mbr(&mut disk, &[(0x82, 2048, 2048), (0x82, 6144, 2048), (0x83, 4000, 100)]);
        assert_eq!(
            of(&disk),
            [Err("it overlaps partition 3".to_owned()), Err("it overlaps partition 1".to_owned()), one]
        );
        // The first sector of a partition that holds others is a part of the table.
        mbr(&mut disk, &[(0x82, 2048, 2048), (0x82, 6144, 2048), (0x05, 4000, 100)]);
        assert!(of(&disk)[0].as_ref().is_err_and(|said| said.contains("overlaps")));
    }

    #[test]
    fn a_table_in_doubt_makes_all_partitions_doubtful() {
        let mut disk = vec![0; 4 * MIB];
        swap(&mut disk[MIB..2 * MIB]);
        mbr(&mut disk, &[(0x82, 2048, 2048), (0x83, 6144, 9999)]);
        assert!(of(&disk)[0].as_ref().is_err_and(|said| said.contains("the partition table is in doubt")));
    }
}
