//! What is on a disk: its partition table and the filesystems it holds.
//!
//! Reads GPT (the backup copy where the primary is damaged), MBR with logical partitions, and the signatures of
//! common filesystems and containers, from anything that reads at offsets. Hostile disks are the normal case.
//! Invariants: nothing panics; no read goes beyond the disk; every partition reported lies on the disk; memory and
//! the number of reads are bounded, whatever the disk says (256 partitions, 66 KiB of each, tables of 1 MiB).
//!
//! The parsers are our own because those on crates.io trust the disk: `gptman` 3.1 allocates what a 32-bit count
//! asks for before reading an entry, `gpt` 4.1 asserts the entry size, and `mbrman` 0.6 adds sector numbers without
//! a check and follows a chain of logical partitions of any length.
//!
//! It changes nothing, mounts nothing, and knows no BSD, Sun or Apple tables. Names of filesystems are those of
//! `blkid`. What it says is for people and for finding partitions; nothing is restored by it.

pub(crate) mod bytes;
mod filesystem;
mod gpt;
mod mbr;
mod parts;
#[cfg(test)]
mod tests;
mod types;
pub(crate) mod update_sequence;

use std::io;
use std::ops::Range;

use serde::Serialize;

use self::bytes::Window;
use self::filesystem::Filesystem;
pub(crate) use self::filesystem::{SUSPENDED, signatures};
pub use self::parts::{Part, parts, remarks};

/// The most partitions that are listed, empty slots not counted.
pub const MAX_PARTITIONS: usize = 256;

/// The most notes a table carries; a hostile table could cause one for every slot.
const MAX_NOTES: usize = 32;

/// Something that is read at offsets.
pub trait ReadAt {
    /// Its length in bytes.
    fn len(&self) -> u64;

    /// Fills all of `buf` from byte `offset`.
    ///
    /// # Errors
    /// The medium's, or `UnexpectedEof` beyond [`Self::len`]. `buf` then holds nothing of use.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl ReadAt for crate::image::disk::Disk<'_> {
    fn len(&self) -> u64 {
        self.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(offset, buf)
    }
}

impl ReadAt for crate::source::Seekable {
    fn len(&self) -> u64 {
        self.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        Ok(self.read_at(offset, buf)?)
    }
}

/// How a disk is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    /// It is not, or in a way that is not known here.
    None,
    /// A DOS table, with logical partitions.
    Mbr,
    /// A GUID partition table.
    Gpt,
}

/// What a disk holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Table {
    /// How it is divided.
    pub kind: TableKind,
    /// The sector size in bytes that the table counts in.
    pub sector: u32,
    /// The disk's GUID in lower case (GPT), `0x` and eight digits (MBR), or empty.
    pub disk_id: String,
    /// Its partitions in the order of the table; empty for [`TableKind::None`].
    pub partitions: Vec<Partition>,
    /// The filesystem or container that fills the whole disk; with a table, only that of a hybrid ISO 9660 image.
    pub filesystem: Option<String>,
    /// Its label.
    pub filesystem_label: Option<String>,
    /// Its UUID or serial number, written as `blkid` does.
    pub uuid: Option<String>,
    /// Oddities to tell the user about: damage, entries left out or cut short.
    pub notes: Vec<String>,
    /// Where the table itself lies, in bytes: boot sector, both copies of a GPT, links of a chain. Neither sorted nor disjoint.
    #[serde(skip)]
    pub own: Vec<Range<u64>>,
    /// The first of the notes for which one cannot be sure that these are the partitions.
    #[serde(skip)]
    pub doubt: Option<String>,
}

/// A part of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// Its number as Linux counts: `2` for `sda2`. Logical partitions of an MBR begin at 5.
    pub number: u32,
    /// Its first byte.
    pub start: u64,
    /// Its length in bytes, at least 1. `start + len` is within the disk.
    pub len: u64,
    /// The type as the table has it: a GUID in lower case, or `0x83`.
    pub type_code: String,
    /// The type in words; empty if it is not a known one.
    pub type_name: String,
    /// The name that a GPT gives it; empty for an MBR.
    pub label: String,
    /// The partition's own id, as in `/dev/disk/by-partuuid`: a GUID, or the disk's id and the number.
    pub partition_uuid: Option<String>,
    /// What it holds, by the names of `blkid`.
    pub filesystem: Option<String>,
    /// The label of what it holds.
    pub filesystem_label: Option<String>,
    /// The UUID or serial number of what it holds, written as `blkid` does.
    pub uuid: Option<String>,
    /// Whether it holds other partitions rather than a filesystem.
    #[serde(skip)]
    pub container: bool,
    /// Whether a disk with a GPT names it in its MBR only. Its number is then none of Linux, but follows those of the GPT.
    pub only_in_mbr: bool,
}

/// A partition as a table describes it, before it is checked against the disk. Counts in bytes.
#[derive(Clone, PartialEq)]
struct Slot {
    number: u32,
    start: u64,
    len: u64,
    type_code: String,
    type_name: &'static str,
    label: String,
    partition_uuid: Option<String>,
    /// Holds other partitions rather than a filesystem.
    container: bool,
    only_in_mbr: bool,
}

/// What one of the parsers found.
struct Found {
    kind: TableKind,
    sector: u32,
    disk_id: String,
    slots: Vec<Slot>,
    own: Vec<Range<u64>>,
}

impl Found {
    /// Whether it names a partition of the same place.
    fn has(&self, slot: &Slot) -> bool {
        self.slots.iter().any(|own| (own.start, own.len) == (slot.start, slot.len))
    }
}

/// Reads the partition table and the filesystem signatures of `disk`.
///
/// `logical_sector_hint` is the device's sector size in bytes, 0 if unknown: it is what an MBR counts in (512 if
/// unknown), and the first that is tried for a GPT, before 512 and 4096.
///
/// # Errors
/// Only if the disk's first bytes cannot be read. Damage elsewhere becomes a note.
pub fn read_table(disk: &dyn ReadAt, logical_sector_hint: u32) -> Result<Table, io::Error> {
    let whole = Window::whole(disk);
    let mut notes = Notes::default();
    let boot = whole.read_up_to(0, mbr::BOOT_SECTOR)?;
    let filesystem = notes.probe(&whole, "the disk");
    let found = find_table(&whole, &boot, filesystem.as_ref(), logical_sector_hint, &mut notes);
    let found = found.unwrap_or_else(|| Found {
        kind: TableKind::None,
        sector: sector_or_512(logical_sector_hint),
        disk_id: String::new(),
        slots: Vec::new(),
        own: Vec::new(),
    });
    let filesystem = whole_disk_filesystem(found.kind, filesystem, &mut notes);
    notes.condition(filesystem.as_ref(), "the disk");
    let (filesystem, filesystem_label, uuid) = Filesystem::into_parts(filesystem);
    let Found { kind, sector, disk_id, slots, own } = found;
    let partitions = place(slots, disk, &mut notes);
    let Notes { notes, doubt } = notes;
    Ok(Table { kind, sector, disk_id, partitions, filesystem, filesystem_label, uuid, notes, own, doubt })
}

/// Decides which table counts, by the order that Linux and `blkid` use: a boot sector that is a filesystem's is no
/// table; an MBR counts unless it only protects a GPT; a GPT without its protective MBR is a damaged disk, and its
/// backup counts only if nothing else claims the disk.
fn find_table(
    whole: &Window<'_>,
    boot: &[u8],
    filesystem: Option<&Filesystem>,
    hint: u32,
    notes: &mut Notes,
) -> Option<Found> {
    let sectors = sector_sizes(hint);
    let mbr = mbr::Boot::parse(boot);
    let protecting = mbr.as_ref().filter(|boot| boot.protects_gpt());
    if let Some(boot) = protecting {
        if let Some(mut found) = gpt::read(whole, &sectors, gpt::Copies::Both, notes) {
            add_hybrid(whole, boot, &mut found, notes);
            return Some(found);
        }
        notes.add("the first sector protects a GPT, but neither copy of that is valid".to_owned());
    }
    if filesystem.is_some_and(Filesystem::owns_boot_sector) {
        return None;
    }
    let was_searched = protecting.is_some();
    if let Some(boot) = mbr.filter(mbr::Boot::has_partitions) {
        let found = mbr::read(whole, &boot, sector_or_512(hint), notes);
        let hidden = if was_searched { None } else { gpt::hidden(whole, &sectors) };
        if hidden.is_some_and(|gpt| gpt.slots.iter().any(|slot| !found.has(slot))) {
            notes.add("the MBR is used, but there is a GPT too, which names other partitions".to_owned());
        }
        return Some(found);
    }
    if was_searched {
        return None;
    }
    let copies = if filesystem.is_some() { gpt::Copies::Primary } else { gpt::Copies::Both };
    let found = gpt::read(whole, &sectors, copies, notes)?;
    notes.add("the protective MBR in front of the GPT is missing".to_owned());
    Some(found)
}

/// Adds to a GPT what only the MBR in front of it names, with numbers behind those of the GPT.
fn add_hybrid(whole: &Window<'_>, boot: &mbr::Boot, found: &mut Found, notes: &mut Notes) {
    if !boot.has_partitions() {
        return;
    }
    let mut within = Notes::default();
    let mbr = mbr::read(whole, boot, found.sector, &mut within);
    within.notes.into_iter().for_each(|note| notes.add(format!("in the MBR in front of the GPT: {note}")));
    let is_extra = |slot: &Slot| !slot.container && !mbr::is_protective(slot) && !found.has(slot);
    let extra: Vec<Slot> = mbr.slots.into_iter().filter(is_extra).collect();
    if extra.is_empty() {
        return;
    }
    let last = found.slots.iter().map(|slot| slot.number).max().unwrap_or(0);
    for (number, slot) in (last + 1..).zip(extra) {
        let entry = slot.number;
        notes.add(format!("partition {number} is only in the MBR (there number {entry}), not in the GPT"));
        found.slots.push(Slot { number, partition_uuid: None, only_in_mbr: true, ..slot });
    }
    found.own.extend(mbr.own);
}

/// The sector sizes to look for a GPT with, without repetition.
fn sector_sizes(hint: u32) -> Vec<u32> {
    let first = sector_or_512(hint);
    std::iter::once(first).chain([512, 4096].into_iter().filter(|size| *size != first)).collect()
}

/// What a disk reports as a whole: everything without a table, only a hybrid image with one.
fn whole_disk_filesystem(
    kind: TableKind,
    filesystem: Option<Filesystem>,
    notes: &mut Notes,
) -> Option<Filesystem> {
    let filesystem = filesystem?;
    if kind == TableKind::None || filesystem.kind == filesystem::ISO9660 {
        return Some(filesystem);
    }
    notes.add(format!("besides the partition table, the disk carries the signature of {}", filesystem.kind));
    None
}

/// Keeps what lies on the disk, cuts what goes beyond its end, and looks for filesystems.
fn place(slots: Vec<Slot>, disk: &dyn ReadAt, notes: &mut Notes) -> Vec<Partition> {
    let mut partitions = Vec::new();
    for slot in slots {
        let number = slot.number;
        if slot.len == 0 || slot.start >= disk.len() {
            notes.add(format!("partition {number} is left out: it does not lie on the disk"));
            continue;
        }
        if partitions.len() == MAX_PARTITIONS {
            notes.add(format!("only the first {MAX_PARTITIONS} partitions are listed"));
            break;
        }
        let len = slot.len.min(disk.len() - slot.start);
        if len < slot.len {
            // What the table says may not even fit into 64 bits.
            let beyond = slot.len - len;
            let told = if beyond < 1 << 60 {
                format!("{beyond} of its bytes lie")
            } else {
                "it reaches far".to_owned()
            };
            notes.add(format!("partition {number} is cut short: {told} beyond the disk's end"));
        }
        let window = Window::part(disk, slot.start, len);
        let filesystem =
            if slot.container { None } else { notes.probe(&window, &format!("partition {number}")) };
        notes.condition(filesystem.as_ref(), &format!("partition {number}"));
        let (filesystem, filesystem_label, uuid) = Filesystem::into_parts(filesystem);
        partitions.push(Partition {
            number,
            start: slot.start,
            len,
            type_code: slot.type_code,
            type_name: slot.type_name.to_owned(),
            label: slot.label,
            partition_uuid: slot.partition_uuid,
            filesystem,
            filesystem_label,
            uuid,
            container: slot.container,
            only_in_mbr: slot.only_in_mbr,
        });
    }
    partitions
}

/// A bounded list of remarks, none of them twice.
#[derive(Default)]
struct Notes {
    notes: Vec<String>,
    /// The first that puts the table in doubt.
    doubt: Option<String>,
}

impl Notes {
    /// Adds a note that puts the table in doubt.
    fn add(&mut self, note: String) {
        self.doubt.get_or_insert_with(|| note.clone());
        self.mention(note);
    }

    /// Adds a note that leaves no doubt of what the partitions are.
    fn mention(&mut self, note: String) {
        if self.notes.len() < MAX_NOTES && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Tells what a filesystem says of its own condition.
    fn condition(&mut self, filesystem: Option<&Filesystem>, what: &str) {
        if let Some((kind, condition)) = filesystem.and_then(|found| Some((found.kind, found.condition?))) {
            self.mention(format!("{what} ({kind}) is {condition}"));
        }
    }

    /// Looks for a filesystem; what cannot be read is a note, not an error.
    fn probe(&mut self, window: &Window<'_>, what: &str) -> Option<Filesystem> {
        filesystem::probe(window).unwrap_or_else(|error| {
            self.add(format!("{what} could not be searched for a filesystem: {error}"));
            None
        })
    }
}

/// A sector size that can be counted in: a power of two from 512 to 64 KiB, or else 512.
fn sector_or_512(hint: u32) -> u32 {
    if hint.is_power_of_two() && (512..=65536).contains(&hint) { hint } else { 512 }
}
