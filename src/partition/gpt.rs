//! GUID partition tables, after the UEFI specification 2.10, section 5.3.
//!
//! Invariants: a copy is sound only if the checksums of its header and of its entries are right, and if it stands
//! where it says it does; sizes are bounded before anything is read.
//!
//! The primary is used before its backup, and a copy whose header is damaged, but not its entries, only if none is
//! sound. Where the copies differ, or the backup is not sound, that is told.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::bytes::{Fields, Window, printable};
use super::{Found, Notes, Slot, TableKind, types};

const SIGNATURE: &[u8] = b"EFI PART";

/// The smallest header, and the length of the part that has a meaning.
const HEADER_LEN: u32 = 92;

/// Where the header's own checksum stands.
const HEADER_CRC: usize = 16;

/// The smallest entry, and the length of the part that has a meaning.
const ENTRY_LEN: u32 = 128;

/// The largest entry that is believed; none but 128 is known to be in use.
const MAX_ENTRY_LEN: u32 = 4096;

/// The largest table that is read: 8192 entries of 128 bytes. Tools write 128 entries, and 1024 on request.
const MAX_ENTRIES_LEN: u64 = 1 << 20;

/// Room that every table keeps for its entries, in bytes.
const MIN_ENTRIES_LEN: u64 = 16 << 10;

/// Length of a partition's name in UTF-16 units.
const NAME_UNITS: usize = 36;

/// Which copies of the table to try.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Copies {
    /// The one at the disk's beginning.
    Primary,
    /// That, then the one at its end.
    Both,
}

/// The most partitions of which it is told that the copies differ.
const MAX_DIFFERENCES: usize = 8;

/// A table that was read, and where its other copy should be.
struct Copy {
    found: Found,
    other: u64,
    /// What is wrong with its header, if anything is.
    damage: Option<&'static str>,
}

/// Looks for a table with each of the sector sizes; all primaries come before all backups.
pub(super) fn read(whole: &Window<'_>, sectors: &[u32], copies: Copies, notes: &mut Notes) -> Option<Found> {
    let mut damaged = None;
    for &sector in sectors {
        match noted(read_copy(whole, sector, 1), sector, "primary", notes) {
            Some(copy) if copy.damage.is_none() => {
                compare(whole, sector, &copy, notes);
                return Some(copy.found);
            }
            copy => damaged = damaged.or(copy),
        }
    }
    if copies == Copies::Primary {
        return None;
    }
    for &sector in sectors {
        let Some(last) = (whole.len() / u64::from(sector)).checked_sub(1) else { continue };
        match noted(read_copy(whole, sector, last), sector, "backup", notes) {
            Some(copy) if copy.damage.is_none() => {
                notes.add(
                    "the primary GPT is missing or damaged; its backup at the disk's end is used".to_owned(),
                );
                return Some(copy.found);
            }
            copy => damaged = damaged.or(copy),
        }
    }
    let found = damaged?.found;
    notes.add(
        "no copy of the GPT has a sound header; what is listed are entries whose own checksum is right"
            .to_owned(),
    );
    Some(found)
}

/// The sound table, of either copy, that another table hides. Says nothing of what is not sound.
pub(super) fn hidden(whole: &Window<'_>, sectors: &[u32]) -> Option<Found> {
    let sound = |sector: u32, lba: u64| {
        let copy = read_copy(whole, sector, lba).ok().flatten();
        copy.filter(|copy| copy.damage.is_none()).map(|copy| copy.found)
    };
    let last = |sector: u32| (whole.len() / u64::from(sector)).checked_sub(1);
    let primary = sectors.iter().find_map(|sector| sound(*sector, 1));
    primary.or_else(|| sectors.iter().find_map(|sector| sound(*sector, last(*sector)?)))
}

/// Tells what is wrong with a copy.
fn noted(copy: Result<Option<Copy>, String>, sector: u32, which: &str, notes: &mut Notes) -> Option<Copy> {
    let (copy, problem) = match copy {
        Ok(copy) => {
            let damage = copy.as_ref().and_then(|copy| copy.damage).map(str::to_owned);
            (copy, damage)
        }
        Err(problem) => (None, Some(problem)),
    };
    if let Some(problem) = problem {
        notes.add(format!("the {which} GPT for sectors of {sector} bytes is not valid: {problem}"));
    }
    copy
}

/// Tells whether the backup of a sound primary is there and says the same.
fn compare(whole: &Window<'_>, sector: u32, primary: &Copy, notes: &mut Notes) {
    let Some(last) = (whole.len() / u64::from(sector)).checked_sub(1) else { return };
    // On a disk that was enlarged the backup is where the end was.
    let at = if (2..=last).contains(&primary.other) { primary.other } else { last };
    let backup = match read_copy(whole, sector, at) {
        Ok(Some(Copy { found, damage: None, .. })) => found,
        Ok(Some(Copy { damage: Some(problem), .. })) => {
            return notes.mention(format!("the backup GPT is damaged: {problem}"));
        }
        Ok(None) if primary.other > last => {
            return notes
                .mention("the backup GPT is missing: it should lie beyond the disk's end".to_owned());
        }
        Ok(None) => return notes.mention(format!("the backup GPT is missing: it should be in sector {at}")),
        Err(problem) => return notes.mention(format!("the backup GPT is damaged: {problem}")),
    };
    let differing = differing(&primary.found.slots, &backup.slots);
    if !differing.is_empty() {
        let shown: Vec<_> = differing.iter().take(MAX_DIFFERENCES).map(u32::to_string).collect();
        let more = if differing.len() > shown.len() { " and more" } else { "" };
        let numbers = shown.join(", ");
        notes.add(format!(
            "the GPT and its backup differ in partitions {numbers}{more}; what is listed is that of the primary"
        ));
    } else if backup.disk_id != primary.found.disk_id {
        notes.add("the GPT and its backup name different disks; the primary is used".to_owned());
    }
}

/// The numbers of partitions that only one of two tables has, or that are not the same in both.
fn differing(one: &[Slot], other: &[Slot]) -> BTreeSet<u32> {
    let by_number = |slots: &[Slot]| slots.iter().map(|slot| (slot.number, slot.clone())).collect();
    let (one, other): (BTreeMap<u32, Slot>, BTreeMap<u32, Slot>) = (by_number(one), by_number(other));
    let numbers = one.keys().chain(other.keys());
    numbers.copied().filter(|number| one.get(number) != other.get(number)).collect()
}

/// Reads the copy whose header is in sector `lba`; `None` if nothing there claims to be one. A header whose own
/// checksum is wrong is damaged, but the table is read if its entries are right for what the header says of them.
fn read_copy(whole: &Window<'_>, sector: u32, lba: u64) -> Result<Option<Copy>, String> {
    let read = |offset: u64, len: usize| whole.read_up_to(offset, len).map_err(|error| error.to_string());
    let bytes = read(lba.saturating_mul(u64::from(sector)), sector as usize)?;
    if !Fields(&bytes).has(0, SIGNATURE) {
        return Ok(None);
    }
    let (header, damage) = Header::parse(&bytes, lba)?;
    let wrong = |problem: &str| damage.unwrap_or(problem).to_owned();
    let start = header.entries_lba.checked_mul(u64::from(sector));
    let start = start.ok_or_else(|| wrong("its entries lie nowhere"))?;
    let entries = read(start, header.entries_len().map_err(wrong)?)?;
    if crc32fast::hash(&entries) != header.entries_crc {
        return Err(wrong("the checksum of its entries is wrong"));
    }
    let slots = slots(&entries, header.entry_len, sector);
    // The checksum of nothing proves nothing.
    if let Some(problem) = damage.filter(|_| slots.is_empty()) {
        return Err(problem.to_owned());
    }
    let own = header.unusable(whole.len(), u64::from(sector));
    let found = Found { kind: TableKind::Gpt, sector, disk_id: header.disk_id, slots, own };
    Ok(Some(Copy { found, other: header.other, damage }))
}

struct Header {
    disk_id: String,
    /// The sector of the other copy's header.
    other: u64,
    first_usable: u64,
    last_usable: u64,
    entries_lba: u64,
    entry_count: u32,
    entry_len: u32,
    entries_crc: u32,
}

impl Header {
    /// Checks the header in `bytes`, one sector, that was read at `lba`. Returns what is wrong as well if only that is
    /// its checksum.
    fn parse(bytes: &[u8], lba: u64) -> Result<(Self, Option<&'static str>), &'static str> {
        let fields = Fields(bytes);
        let len = fields.u32(12);
        if len < HEADER_LEN || len as usize > bytes.len() {
            return Err("its header has an impossible length");
        }
        let mut header = fields.slice(0, len as usize).to_vec();
        header[HEADER_CRC..HEADER_CRC + 4].fill(0);
        let is_whole = crc32fast::hash(&header) == fields.u32(HEADER_CRC);
        if is_whole && fields.u64(24) != lba {
            return Err("its header belongs elsewhere");
        }
        let header = Self {
            disk_id: fields.guid(56).unwrap_or_default(),
            other: fields.u64(32),
            first_usable: fields.u64(40),
            last_usable: fields.u64(48),
            entries_lba: fields.u64(72),
            entry_count: fields.u32(80),
            entry_len: fields.u32(84),
            entries_crc: fields.u32(88),
        };
        Ok((header, (!is_whole).then_some("the checksum of its header is wrong")))
    }

    /// What no partition may use, for both copies of the table lie there: all before the first and behind the last usable sector, and at least a
    /// sector and the 16 KiB of the smallest table on both sides.
    fn unusable(&self, disk: u64, sector: u64) -> Vec<Range<u64>> {
        let least = MIN_ENTRIES_LEN + sector;
        let first = self.first_usable.saturating_mul(sector).max(least + sector);
        let last = self.last_usable.saturating_add(1).saturating_mul(sector).min(disk.saturating_sub(least));
        vec![0..first.min(disk), last..disk]
    }

    /// The length of all entries in bytes, if it is believable.
    fn entries_len(&self) -> Result<usize, &'static str> {
        if !(ENTRY_LEN..=MAX_ENTRY_LEN).contains(&self.entry_len) || !self.entry_len.is_multiple_of(8) {
            return Err("its entries have an impossible length");
        }
        let len = u64::from(self.entry_len) * u64::from(self.entry_count);
        if len > MAX_ENTRIES_LEN {
            return Err("it has too many entries");
        }
        usize::try_from(len).map_err(|_| "it has too many entries")
    }
}

/// The used entries.
fn slots(entries: &[u8], entry_len: u32, sector: u32) -> Vec<Slot> {
    let numbered = (1..).zip(entries.chunks_exact(entry_len as usize));
    numbered.filter_map(|(number, entry)| slot(number, Fields(entry), sector)).collect()
}

fn slot(number: u32, entry: Fields<'_>, sector: u32) -> Option<Slot> {
    let type_code = entry.guid(0)?;
    let (first, last) = (entry.u64(32), entry.u64(40));
    let sector = u64::from(sector);
    // What overflows lies beyond any disk; a length of zero is left out with a note by the caller.
    let count = (last.checked_sub(first)).map_or(0, |sectors| sectors.saturating_add(1));
    Some(Slot {
        number,
        start: first.saturating_mul(sector),
        len: count.saturating_mul(sector),
        type_name: types::gpt(&type_code),
        type_code,
        label: name(entry.slice(56, 2 * NAME_UNITS)),
        partition_uuid: entry.guid(16),
        container: false,
        only_in_mbr: false,
    })
}

fn name(bytes: &[u8]) -> String {
    let (pairs, _) = bytes.as_chunks::<2>();
    let units: Vec<u16> =
        pairs.iter().map(|pair| u16::from_le_bytes(*pair)).take_while(|unit| *unit != 0).collect();
    printable(&String::from_utf16_lossy(&units))
}
