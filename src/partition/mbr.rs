//! DOS partition tables: four slots in the first sector, and a chain of logical partitions in an extended one.
//!
//! Invariants: a chain is followed only within the disk and never twice through the same sector; logical
//! partitions count from 5 in the order of the chain, as Linux does.
//!
//! Cylinders, heads and boot code are ignored.

use std::collections::HashSet;

use super::bytes::{Fields, Window};
use super::{Found, MAX_PARTITIONS, Notes, Slot, TableKind, types};

/// Length in bytes of what is parsed of the first sector, and of each link of a chain, whatever the sector size.
pub(super) const BOOT_SECTOR: usize = 512;

/// The number of the first logical partition.
const FIRST_LOGICAL: u32 = 5;

const EMPTY: u8 = 0x00;
const GPT_PROTECTIVE: u8 = 0xee;

/// One of the four slots of a sector. Counts in sectors.
#[derive(Clone, Copy)]
struct Entry {
    type_code: u8,
    start: u64,
    count: u64,
}

impl Entry {
    fn is_extended(self) -> bool {
        matches!(self.type_code, 0x05 | 0x0f | 0x85) && self.count > 0
    }

    fn is_data(self) -> bool {
        self.type_code != EMPTY && !self.is_extended() && self.count > 0
    }

    fn slot(self, number: u32, start: u64, sector: u32, disk_id: &str) -> Slot {
        let sector = u64::from(sector);
        Slot {
            number,
            // Both factors are sums of 32-bit numbers and at most 64 Ki: this cannot overflow.
            start: start * sector,
            len: self.count * sector,
            type_code: format!("0x{:02x}", self.type_code),
            type_name: types::mbr(self.type_code),
            label: String::new(),
            partition_uuid: disk_id.strip_prefix("0x").map(|id| format!("{id}-{number:02x}")),
            container: self.is_extended(),
            only_in_mbr: false,
        }
    }
}

impl Slot {
    /// Whether another lies within it. Of an MBR only: no sum there overflows.
    fn holds(&self, inner: &Self) -> bool {
        inner.start >= self.start && inner.start + inner.len <= self.start + self.len
    }
}

/// A boot sector with a plausible table.
pub(super) struct Boot {
    disk_id: u32,
    entries: [Entry; 4],
}

impl Boot {
    /// Parses the disk's first sector; `None` if it carries no table. Boot code that happens to end in the right
    /// signature is told from a table by the slots' first bytes, as `blkid` does.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let fields = Fields(bytes);
        let is_flag = |slot: usize| matches!(fields.u8(446 + 16 * slot), 0x00 | 0x80);
        if !fields.has(510, &[0x55, 0xaa]) || !(0..4).all(is_flag) {
            return None;
        }
        Some(Self { disk_id: fields.u32(440), entries: entries(fields) })
    }

    /// Whether it stands in front of a GPT.
    pub(super) fn protects_gpt(&self) -> bool {
        self.entries.iter().any(|entry| entry.type_code == GPT_PROTECTIVE)
    }

    /// Whether it holds a partition of its own.
    pub(super) fn has_partitions(&self) -> bool {
        self.entries
            .iter()
            .any(|entry| (entry.is_data() || entry.is_extended()) && entry.type_code != GPT_PROTECTIVE)
    }
}

/// Whether a slot stands for the GPT.
pub(super) fn is_protective(slot: &Slot) -> bool {
    slot.type_code == format!("{GPT_PROTECTIVE:#04x}")
}

fn entries(sector: Fields<'_>) -> [Entry; 4] {
    std::array::from_fn(|index| {
        let at = 446 + 16 * index;
        Entry {
            type_code: sector.u8(at + 4),
            start: u64::from(sector.u32(at + 8)),
            count: u64::from(sector.u32(at + 12)),
        }
    })
}

/// Lists the partitions of `boot`, the logical ones last.
pub(super) fn read(whole: &Window<'_>, boot: &Boot, sector: u32, notes: &mut Notes) -> Found {
    let disk_id = format!("{:#010x}", boot.disk_id);
    let numbered = || (1..).zip(boot.entries);
    let mut slots: Vec<Slot> = numbered()
        .filter(|(_, entry)| entry.is_data() || entry.is_extended())
        .map(|(number, entry)| entry.slot(number, entry.start, sector, &disk_id))
        .collect();
    let mut chain = Chain { whole, sector, seen: HashSet::new(), next_number: FIRST_LOGICAL };
    for (number, extended) in numbered().filter(|(_, entry)| entry.is_extended()) {
        let first = slots.len();
        if let Err(problem) = chain.follow(extended.start, &disk_id, &mut slots) {
            notes.add(format!("logical partitions of partition {number} may be missing: {problem}"));
        }
        let outer = extended.slot(number, extended.start, sector, &disk_id);
        for slot in slots.iter().skip(first).filter(|slot| !outer.holds(slot)) {
            notes.add(format!("logical partition {} does not lie within partition {number}", slot.number));
        }
    }
    let len = u64::from(sector);
    let links = chain.seen.into_iter().map(|link| link.saturating_mul(len)..(link + 1).saturating_mul(len));
    let own = std::iter::once(0..len).chain(links).collect();
    Found { kind: TableKind::Mbr, sector, disk_id, slots, own }
}

/// The state of following chains of logical partitions.
struct Chain<'a> {
    whole: &'a Window<'a>,
    sector: u32,
    /// Sectors that were read as links, of all chains.
    seen: HashSet<u64>,
    next_number: u32,
}

impl Chain<'_> {
    /// Follows the chain that begins in sector `first`, to which all links are relative.
    fn follow(&mut self, first: u64, disk_id: &str, slots: &mut Vec<Slot>) -> Result<(), String> {
        let mut at = first;
        while self.seen.len() < MAX_PARTITIONS {
            if !self.seen.insert(at) {
                return Err(format!("their chain loops at sector {at}"));
            }
            let read = self.whole.read_up_to(at * u64::from(self.sector), BOOT_SECTOR);
            let bytes = read.map_err(|error| format!("sector {at} cannot be read: {error}"))?;
            let fields = Fields(&bytes);
            if !fields.has(510, &[0x55, 0xaa]) {
                // An empty extended partition has no first link.
                return if at == first { Ok(()) } else { Err(format!("their chain breaks at sector {at}")) };
            }
            let links = entries(fields);
            for entry in links.iter().filter(|entry| entry.is_data()) {
                slots.push(entry.slot(self.next_number, at + entry.start, self.sector, disk_id));
                self.next_number += 1;
            }
            let Some(next) = links.iter().find(|entry| entry.is_extended()) else { return Ok(()) };
            at = first + next.start;
        }
        Err(format!("their chain is longer than {MAX_PARTITIONS}"))
    }
}
