//! GUID partition tables, after the UEFI specification 2.10, section 5.3.
//!
//! Invariants: a copy counts only if the checksums of its header and of its entries are right, and if it stands
//! where it says it does; sizes are bounded before anything is read.
//!
//! The two copies are not compared; the backup is read only if the primary does not count.

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

/// Looks for a valid table with each of the sector sizes; all primaries come before all backups.
pub(super) fn read(whole: &Window<'_>, sectors: &[u32], copies: Copies, notes: &mut Notes) -> Option<Found> {
    for &sector in sectors {
        if let Some(found) = read_copy(whole, sector, 1, "primary", notes) {
            return Some(found);
        }
    }
    if copies == Copies::Primary {
        return None;
    }
    for &sector in sectors {
        let Some(last) = (whole.len() / u64::from(sector)).checked_sub(1) else { continue };
        if let Some(found) = read_copy(whole, sector, last, "backup", notes) {
            notes.add(
                "the primary GPT is missing or damaged; its backup at the disk's end is used".to_owned(),
            );
            return Some(found);
        }
    }
    None
}

/// Reads the copy whose header is in sector `lba`; what is wrong with one that claims to be there becomes a note.
fn read_copy(whole: &Window<'_>, sector: u32, lba: u64, which: &str, notes: &mut Notes) -> Option<Found> {
    let read = |offset: u64, len: usize| whole.read_up_to(offset, len).map_err(|error| error.to_string());
    let parse = || -> Result<Option<Found>, String> {
        let bytes = read(lba * u64::from(sector), sector as usize)?;
        if !Fields(&bytes).has(0, SIGNATURE) {
            return Ok(None);
        }
        let header = Header::parse(&bytes, lba)?;
        let start = header.entries_lba.checked_mul(u64::from(sector)).ok_or("its entries lie nowhere")?;
        let entries = read(start, header.entries_len()?)?;
        if crc32fast::hash(&entries) != header.entries_crc {
            return Err("the checksum of its entries is wrong".to_owned());
        }
        let slots = slots(&entries, header.entry_len, sector);
        let own = header.unusable(whole.len(), u64::from(sector));
        Ok(Some(Found { kind: TableKind::Gpt, sector, disk_id: header.disk_id, slots, own }))
    };
    parse().unwrap_or_else(|problem| {
        notes.add(format!("the {which} GPT for sectors of {sector} bytes is not valid: {problem}"));
        None
    })
}

struct Header {
    disk_id: String,
    first_usable: u64,
    last_usable: u64,
    entries_lba: u64,
    entry_count: u32,
    entry_len: u32,
    entries_crc: u32,
}

impl Header {
    /// Checks the header in `bytes`, one sector, that was read at `lba`.
    fn parse(bytes: &[u8], lba: u64) -> Result<Self, &'static str> {
        let fields = Fields(bytes);
        let len = fields.u32(12);
        if len < HEADER_LEN || len as usize > bytes.len() {
            return Err("its header has an impossible length");
        }
        let mut header = fields.slice(0, len as usize).to_vec();
        header[HEADER_CRC..HEADER_CRC + 4].fill(0);
        if crc32fast::hash(&header) != fields.u32(HEADER_CRC) {
            return Err("the checksum of its header is wrong");
        }
        if fields.u64(24) != lba {
            return Err("its header belongs elsewhere");
        }
        Ok(Self {
            disk_id: fields.guid(56).unwrap_or_default(),
            first_usable: fields.u64(40),
            last_usable: fields.u64(48),
            entries_lba: fields.u64(72),
            entry_count: fields.u32(80),
            entry_len: fields.u32(84),
            entries_crc: fields.u32(88),
        })
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
    })
}

fn name(bytes: &[u8]) -> String {
    let (pairs, _) = bytes.as_chunks::<2>();
    let units: Vec<u16> =
        pairs.iter().map(|pair| u16::from_le_bytes(*pair)).take_while(|unit| *unit != 0).collect();
    printable(&String::from_utf16_lossy(&units))
}
