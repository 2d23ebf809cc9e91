//! NTFS, as Windows since 2000 and `ntfs-3g` write it.
//!
//! There is no specification. The bitmap of clusters has no checksum and no count, so it is believed only where the whole master file table agrees with it: every record
//! is read, and each run of clusters that one names must be in use. A volume that Windows may go on with, from its log or from hibernation, is not believed.

pub(crate) mod boot;
mod files;
mod log;
pub(crate) mod record;
pub(crate) mod runs;
mod stream;

use std::ops::Range;

use self::boot::Boot;
use self::record::{Attribute, Record};
use self::stream::Stream;
use super::clusters::{Gatherer, is_free, joined, read_all, text_of_utf16};
use super::journal::Journal;
use super::{Distrust, Survey, Usage};
use crate::partition::bytes::{Fields, Window};

/// Records of the master file table, by their numbers.
const MFT: u64 = 0;
const MIRROR: u64 = 1;
const LOG: u64 = 2;
const VOLUME: u64 = 3;
const ROOT: u64 = 5;
const BITMAP: u64 = 6;
/// How many of them the mirror repeats.
const MIRRORED: u64 = 4;
/// Those in front of this one are the filesystem's own.
const FIRST_FILE: u64 = 24;

/// What belongs to the code to boot with, and to shadow copies.
const BOOT_AREA: u64 = 8192;

/// Flags of the volume: dirty; its log is to be resized, itself to be upgraded; a journal is being deleted; being checked.
const UNSETTLED: u16 = 0x0001 | 0x0002 | 0x0004 | 0x0010 | 0x4000;

/// Where Windows keeps what leads to a volume's shadow copies, and how that begins.
const SHADOWS: u64 = 0x1e00;
const SHADOWS_MAGIC: [u8; 16] = *b"\x6b\x87\x08\x38\x76\xc1\x48\x4e\xb7\xae\x04\x04\x6e\x6c\xc7\x52";

/// The flag of a volume that is mounted, or was not unmounted.
const DIRTY: u16 = 0x0001;

/// Whether Windows closed its log.
pub(super) fn journal(volume: &Window<'_>) -> Journal {
    let system = Boot::read(volume).and_then(|boot| System::read(volume, &boot));
    let Ok(system) = system else { return Journal::Unknown };
    match log::check(volume, &system.log) {
        Ok(()) => Journal::of(system.flags & DIRTY == 0),
        Err(Distrust::Because(_)) => Journal::NeedsReplay,
        Err(Distrust::Unreadable(_)) => Journal::Unknown,
    }
}

pub(super) fn survey(volume: &Window<'_>) -> Survey {
    let boot = Boot::read(volume)?;
    let system = System::read(volume, &boot)?;
    system.check_state(volume)?;
    let mut gatherer = Gatherer::new(boot.clusters);
    let bitmap = system.bitmap.prefix(boot.clusters.count.div_ceil(8))?;
    bitmap.for_each_piece(volume, |bytes| {
        gatherer.take_bitmap(bytes);
        Ok(())
    })?;
    let (free, free_count) = gatherer.finish()?;
    let fixed = system.fixed(&boot);
    if fixed.iter().any(|range| is_free(&free, range)) {
        return Err(Distrust::because("its bitmap calls the filesystem's own clusters free"));
    }
    files::check(volume, &boot, &system.mft, &system.mft_bitmap, &free)?;
    Ok(Usage {
        filesystem: "ntfs",
        label: system.label.clone(),
        used: boot.len - free_count * boot.clusters.size,
        free,
        fixed,
    })
}

/// What the records of the filesystem itself say.
struct System {
    mft: Stream,
    mft_bitmap: Stream,
    mirror: Stream,
    log: Stream,
    bitmap: Stream,
    label: String,
    flags: u16,
}

impl System {
    fn read(volume: &Window<'_>, boot: &Boot) -> Result<Self, Distrust> {
        let first = boot.cluster_at(boot.mft, boot.record)?;
        let mut bytes = read_all(volume, first, boot.record)?;
        let record = Record::open(&mut bytes, MFT)?;
        let mft = Stream::open(record, record::DATA, boot.clusters)?;
        let mft_bitmap = Stream::open(record, record::BITMAP, boot.clusters)?;
        let stream = |number: u64| {
            let mut bytes = mft.read(volume, number * boot.record as u64, boot.record)?;
            Stream::open(Record::open(&mut bytes, number)?, record::DATA, boot.clusters)
        };
        let (mirror, log, bitmap) = (stream(MIRROR)?, stream(LOG)?, stream(BITMAP)?);
        if mft.start() != Some(first) || mirror.start() != boot.cluster_at(boot.mirror, boot.record).ok() {
            return Err(Distrust::because("its boot sector and its master file table differ"));
        }
        let mut bytes = mft.read(volume, VOLUME * boot.record as u64, boot.record)?;
        let (label, flags) = describe(Record::open(&mut bytes, VOLUME)?)?;
        let system = Self { mft, mft_bitmap, mirror, log, bitmap, label, flags };
        system.check_mirror(volume, boot)?;
        Ok(system)
    }

    /// The first records must be the same in the mirror.
    fn check_mirror(&self, volume: &Window<'_>, boot: &Boot) -> Result<(), Distrust> {
        for number in 0..MIRRORED {
            let copy = |of: &Stream| of.read(volume, number * boot.record as u64, boot.record);
            let (mut ours, mut theirs) = (copy(&self.mft)?, copy(&self.mirror)?);
            if Record::open(&mut ours, number)?.used_bytes()
                != Record::open(&mut theirs, number)?.used_bytes()
            {
                return Err(Distrust::because("its master file table and the mirror of it differ"));
            }
        }
        Ok(())
    }

    /// Nothing may be left to do for whoever mounts it next.
    fn check_state(&self, volume: &Window<'_>) -> Result<(), Distrust> {
        if self.flags & UNSETTLED != 0 {
            return Err(Distrust::because("it is marked as not unmounted cleanly"));
        }
        let shadows = volume.read_up_to(SHADOWS, 512)?;
        let shadows = Fields(&shadows);
        if shadows.has(0, &SHADOWS_MAGIC) && shadows.u64(48) != 0 {
            return Err(Distrust::because("it has shadow copies, which live in blocks that are free"));
        }
        log::check(volume, &self.log)
    }

    /// The boot area and the sector behind the last one, the filesystem's own records, the head of the log, and both bitmaps.
    fn fixed(&self, boot: &Boot) -> Vec<Range<u64>> {
        let records = self.mft.bytes(0..FIRST_FILE * boot.record as u64);
        let log = self.log.bytes(0..log::HEAD);
        let mirror = self.mirror.bytes(0..MIRRORED * boot.record as u64);
        let bitmaps = [&self.bitmap, &self.mft_bitmap].map(|stream| stream.bytes(0..stream.len())).concat();
        let boot_sectors = vec![0..BOOT_AREA.min(boot.len), boot.len..boot.len + boot.sector];
        joined([boot_sectors, records, mirror, log, bitmaps].concat())
    }
}

/// The label and the flags of the volume.
fn describe(record: Record<'_>) -> Result<(String, u16), Distrust> {
    let (mut label, mut found) = (String::new(), None);
    for attribute in record.attributes() {
        let Attribute { kind, value: Some(value), .. } = attribute? else { continue };
        match kind {
            record::VOLUME_NAME => label = text_of_utf16(value.slice(0, record::MAX_NAME)),
            record::VOLUME_INFORMATION => found = Some((value.u8(8), value.u16(10))),
            _ => {}
        }
    }
    match found {
        Some((3, flags)) => Ok((label, flags)),
        Some((version, _)) => Err(Distrust::because(format!("it is of the unknown version {version}"))),
        None => Err(Distrust::because("it does not say whether it was unmounted")),
    }
}
