//! The boot sector of a FAT filesystem: where everything lies.

use std::ops::Range;

use super::super::Distrust;
use super::super::clusters::{Clusters, read_all};
use crate::partition::bytes::{Fields, Window};

/// Fewer clusters than this are FAT12.
const MIN_FAT16: u64 = 4085;
/// From this many on, all drivers agree on FAT16: one of them counts up to here for FAT12.
const SURELY_FAT16: u64 = 4087;
/// As many clusters or more are not FAT16.
const MIN_FAT32: u64 = 65_525;
/// The highest number of clusters in FAT32: numbers from 0x0ffffff7 on mean something else.
const MAX_FAT32: u64 = 0x0fff_fff5;
/// Boot sector flags, in a byte that is otherwise 0: not unmounted, and to be scanned for bad sectors.
const DIRTY: u8 = 0b11;
/// What marks an extended boot record: the lower value one with a serial number, the higher one with a label too.
const EXTENDED: Range<u8> = 0x28..0x2a;

/// How wide an entry of the table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    Bits12,
    Bits16,
    Bits32,
}

/// What the boot sector says, checked against the volume. Offsets and lengths are in bytes.
#[derive(Debug)]
pub(crate) struct Boot {
    pub(crate) width: Width,
    /// The filesystem's length.
    pub(crate) len: u64,
    /// Where the first copy of the table begins; the others follow it.
    pub(crate) tables: u64,
    pub(crate) table_len: u64,
    pub(crate) copies: u64,
    pub(crate) media: u8,
    pub(crate) root: Root,
    /// Clusters from the one that the table calls 2.
    pub(crate) clusters: Clusters,
    /// FAT32's count of free clusters.
    pub(crate) info: Option<u64>,
    pub(crate) label: Option<String>,
    /// Whether a copy of the boot sector says the same.
    pub(crate) is_confirmed: bool,
}

/// Where the root directory lies.
#[derive(Debug, Clone)]
pub(crate) enum Root {
    /// In front of the clusters.
    Fixed(Range<u64>),
    /// In a chain that begins with this number.
    Chain(u32),
}

impl Boot {
    pub(crate) fn read(volume: &Window<'_>) -> Result<Self, Distrust> {
        let bytes = read_all(volume, 0, 512)?;
        let head = Fields(&bytes);
        if !is_sane(head) {
            return Err(nonsense());
        }
        Self::lay_out(head, volume.len())?.extended(head, volume)
    }

    /// The same, whatever state it is in, and whatever a copy says. The table is the one that is kept up to date.
    pub(crate) fn lenient(volume: &Window<'_>) -> Result<Self, Distrust> {
        let bytes = read_all(volume, 0, 512)?;
        let head = Fields(&bytes);
        if !is_sane(head) {
            return Err(nonsense());
        }
        let mut boot = Self::lay_out(head, volume.len())?;
        // Flag of FAT32: only one copy of the table is kept up to date, this one.
        if boot.width == Width::Bits32 && head.u16(40) & 0x80 != 0 {
            let active = u64::from(head.u16(40) & 0xf);
            if active >= boot.copies {
                return Err(nonsense());
            }
            boot.tables += active * boot.table_len;
        }
        Ok(boot)
    }

    fn lay_out(head: Fields<'_>, volume_len: u64) -> Result<Self, Distrust> {
        let sector = u64::from(head.u16(11));
        let copies = u64::from(head.u8(16));
        let len = either(head.u16(19), head.u32(32)) * sector;
        if len > volume_len {
            return Err(Distrust::too_long());
        }
        let (tables, table_len) =
            (u64::from(head.u16(14)) * sector, either(head.u16(22), head.u32(36)) * sector);
        let root_at = tables + table_len * copies;
        let root_len = (u64::from(head.u16(17)) * 32).next_multiple_of(sector);
        let start = root_at + root_len;
        let size = u64::from(head.u8(13)) * sector;
        let count = len.checked_sub(start).ok_or_else(nonsense)? / size;
        let width = width(head, count)?;
        let boot = Self {
            width,
            len,
            tables,
            table_len,
            copies,
            media: head.u8(21),
            root: if width == Width::Bits32 {
                Root::Chain(head.u32(44))
            } else {
                Root::Fixed(root_at..start)
            },
            clusters: Clusters { start, size, count },
            info: None,
            label: None,
            is_confirmed: false,
        };
        boot.check(root_len)
    }

    fn check(self, root_len: u64) -> Result<Self, Distrust> {
        let fits = self.width.bytes(self.clusters.count + 2) <= self.table_len;
        let rooted = (root_len == 0) == (self.width == Width::Bits32);
        if self.clusters.count == 0 || !fits || !rooted {
            return Err(nonsense());
        }
        Ok(self)
    }

    /// Adds what stands in the extended part of the boot sector, and in other sectors of FAT32.
    fn extended(self, head: Fields<'_>, volume: &Window<'_>) -> Result<Self, Distrust> {
        let at = if self.width == Width::Bits32 { 64 } else { 36 };
        let has_state = EXTENDED.contains(&head.u8(at + 2));
        if has_state && head.u8(at + 1) & DIRTY != 0 {
            return Err(Distrust::because("it was not unmounted cleanly"));
        }
        let label = head.text(at + 7, 11).filter(|label| head.u8(at + 2) == 0x29 && label != "NO NAME");
        if self.width != Width::Bits32 {
            return Ok(Self { label, ..self });
        }
        // Flag: only one copy of the table is kept up to date.
        if head.u16(40) & 0x80 != 0 || head.u16(42) != 0 {
            return Err(Distrust::because("it is of an unknown version"));
        }
        let reserved = |number: u16| match number {
            0 | u16::MAX => Ok(None),
            number => {
                let at = u64::from(number) * u64::from(head.u16(11));
                if at < self.tables { Ok(Some(at)) } else { Err(nonsense()) }
            }
        };
        let backup = reserved(head.u16(50))?;
        if let Some(at) = backup {
            check_backup(head, Fields(&read_all(volume, at, 512)?))?;
        }
        Ok(Self { info: reserved(head.u16(48))?, label, is_confirmed: backup.is_some(), ..self })
    }
}

/// Whether it looks like a boot sector of FAT at all.
fn is_sane(head: Fields<'_>) -> bool {
    head.has(510, &[0x55, 0xaa])
        && matches!(head.u8(0), 0xeb | 0xe9)
        && matches!(head.u16(11), 512 | 1024 | 2048 | 4096)
        && head.u8(13).is_power_of_two()
        && head.u16(14) != 0
        && matches!(head.u8(16), 1 | 2)
        && head.u8(21) >= 0xf0
}

/// The copy must describe the same filesystem; it may be for another place on the disk, and an older state.
fn check_backup(head: Fields<'_>, backup: Fields<'_>) -> Result<(), Distrust> {
    let same = |at: usize, end: usize| head.slice(at, end - at) == backup.slice(at, end - at);
    if same(11, 24) && same(32, 52) {
        return Ok(());
    }
    Err(Distrust::because("its boot sector and the copy of it differ"))
}

/// The field of 16 bits, or that of 32 bits if it is 0.
fn either(short: u16, long: u32) -> u64 {
    if short == 0 { u64::from(long) } else { u64::from(short) }
}

/// The number of clusters decides, but where drivers disagree nobody is believed.
fn width(head: Fields<'_>, count: u64) -> Result<Width, Distrust> {
    match count {
        _ if head.u16(22) == 0 && count <= MAX_FAT32 => Ok(Width::Bits32),
        _ if head.u16(22) == 0 => Err(nonsense()),
        ..MIN_FAT16 => Ok(Width::Bits12),
        SURELY_FAT16..MIN_FAT32 => Ok(Width::Bits16),
        _ => Err(Distrust::because("it cannot be told whether it is FAT12, FAT16 or FAT32")),
    }
}

impl Width {
    /// Bytes that `entries` of the table take.
    pub(crate) fn bytes(self, entries: u64) -> u64 {
        match self {
            Self::Bits12 => (entries * 3).div_ceil(2),
            Self::Bits16 => entries * 2,
            Self::Bits32 => entries * 4,
        }
    }

    /// The entry of this number in a part of the table that begins with an even one.
    pub(crate) fn entry(self, table: Fields<'_>, number: usize) -> u32 {
        match self {
            Self::Bits12 if number.is_multiple_of(2) => u32::from(table.u16(number / 2 * 3)) & 0xfff,
            Self::Bits12 => u32::from(table.u16(number / 2 * 3 + 1)) >> 4,
            Self::Bits16 => u32::from(table.u16(number * 2)),
            Self::Bits32 => table.u32(number * 4) & 0x0fff_ffff,
        }
    }

    /// The highest value of an entry.
    pub(crate) fn max(self) -> u32 {
        match self {
            Self::Bits12 => 0xfff,
            Self::Bits16 => 0xffff,
            Self::Bits32 => 0x0fff_ffff,
        }
    }
}

fn nonsense() -> Distrust {
    Distrust::because("its boot sector makes no sense")
}
