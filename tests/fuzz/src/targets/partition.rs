//! Partition tables and filesystem signatures on a disk that is mostly zeros.

use std::collections::BTreeSet;
use std::io;

use copal::partition::{MAX_PARTITIONS, ReadAt, parts, read_table};

/// The longest disk: the last signature at a disk's beginning ends at 65 KiB, and a backup GPT takes 33 sectors.
const MAX_DISK: usize = 256 << 10;

/// Bytes of the head: length of the disk (u16, in 512 bytes), the sector's size as a power of two, flags.
const HEAD: usize = 4;

/// Flag: makes the checksums of a GPT right, as far as its sizes permit.
const SEAL_512: u8 = 1;
const SEAL_4096: u8 = 2;

/// A disk that stops the run when it is read beyond its end.
pub(super) struct Disk(pub(super) Vec<u8>);

impl ReadAt for Disk {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).expect("no read overflows");
        assert!(end <= self.len(), "a read of {} bytes at {offset} of {}", buf.len(), self.len());
        buf.copy_from_slice(&self.0[offset as usize..end as usize]);
        Ok(())
    }
}

/// The head, then pieces: where (u16, in 8 bytes), how long (u8), the bytes.
pub(super) fn table(input: &[u8]) -> bool {
    let Some(([len_low, len_high, hint, flags], mut pieces)) = input.split_first_chunk::<HEAD>() else {
        return false;
    };
    let len = (usize::from(u16::from_le_bytes([*len_low, *len_high])) * 512).min(MAX_DISK);
    let mut disk = vec![0; len];
    while let Some(([low, high, piece], rest)) = pieces.split_first_chunk::<3>() {
        let (bytes, behind) = rest.split_at(rest.len().min(usize::from(*piece)));
        let at = usize::from(u16::from_le_bytes([*low, *high])) * 8;
        disk.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
        pieces = behind;
    }
    for (flag, sector) in [(SEAL_512, 512), (SEAL_4096, 4096)] {
        if flags & flag != 0 {
            seal(&mut disk, sector, 1);
            seal(&mut disk, sector, (len / sector).saturating_sub(1));
        }
    }
    let hint = 1_u32.checked_shl(u32::from(*hint)).unwrap_or(u32::MAX);
    let table = read_table(&Disk(disk), hint).expect("the disk can be read");
    assert!(table.partitions.len() <= MAX_PARTITIONS && table.notes.len() < 64);
    for part in &table.partitions {
        assert!(part.len > 0 && part.start.checked_add(part.len).is_some_and(|end| end <= len as u64));
    }
    let parts = parts(&table, len as u64);
    let names: BTreeSet<&str> = parts.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names.len(), parts.len(), "two parts have the same name");
    for part in &parts {
        assert!(part.start.checked_add(part.len).is_some_and(|end| part.len > 0 && end <= len as u64));
        let is_fit = |c: char| !c.is_control() && !c.is_whitespace() && !matches!(c, '/' | '\\' | ':');
        assert!(part.name.len() < 80 && part.name.chars().all(is_fit), "{:?}", part.name);
    }
    !table.partitions.is_empty() || table.filesystem.is_some()
}

/// Makes the checksums of the copy of a GPT right whose header is in sector `header`, if one is there.
fn seal(disk: &mut [u8], sector: usize, header: usize) {
    let at = header * sector;
    if disk.get(at..at + 92).is_none_or(|bytes| !bytes.starts_with(b"EFI PART")) {
        return;
    }
    let field = |disk: &[u8], at: usize| {
        disk[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes)) as usize
    };
    let entries = field(disk, at + 72).saturating_mul(sector);
    let end = field(disk, at + 80).saturating_mul(field(disk, at + 84)).saturating_add(entries);
    let crc = disk.get(entries..end).map_or(0, crc32fast::hash);
    disk[at + 88..at + 92].copy_from_slice(&crc.to_le_bytes());
    disk[at + 16..at + 20].fill(0);
    let end = at.saturating_add(field(disk, at + 12));
    let crc = disk.get(at..end).map_or(0, crc32fast::hash);
    disk[at + 16..at + 20].copy_from_slice(&crc.to_le_bytes());
}

fn disk(sectors: u16, flags: u8, pieces: &[(usize, &[u8])]) -> Vec<u8> {
    let mut out = [&sectors.to_le_bytes()[..], &[9, flags]].concat();
    for (at, bytes) in pieces {
        out.extend_from_slice(&u16::try_from(at / 8).expect("within the disk").to_le_bytes());
        out.push(u8::try_from(bytes.len()).expect("a short piece"));
        out.extend_from_slice(bytes);
    }
    out
}

fn gpt_header(at: u64, entries: u64) -> Vec<u8> {
    let mut header = b"EFI PART\0\0\x01\0\x5c\0\0\0".to_vec();
    header.resize(92, 0);
    header[24..32].copy_from_slice(&at.to_le_bytes());
    header[56..72].fill(0xab);
    header[72..80].copy_from_slice(&entries.to_le_bytes());
    header[80] = 4;
    header[84] = 128;
    header
}

fn gpt(sector: usize, flags: u8) -> Vec<u8> {
    let mut entry = vec![0x11; 128];
    entry[32..48].copy_from_slice(&[10_u64.to_le_bytes(), 19_u64.to_le_bytes()].concat());
    entry[56..].fill(0);
    entry[56..60].copy_from_slice(b"a\0b\0");
    let protective: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xee, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 0, 0];
    let sectors = 48 * sector / 512;
    let (primary, backup) = (gpt_header(1, 2), gpt_header(47, 46));
    disk(
        sectors as u16,
        flags,
        &[
            (440, protective),
            (504, b"\0\0\0\0\0\0\x55\xaa"),
            (sector, &primary),
            (2 * sector, &entry),
            (46 * sector, &entry),
            (47 * sector, &backup),
        ],
    )
}

/// A sector of an MBR with two slots, its last 72 bytes.
fn slots(slots: [(u8, u32, u32); 2]) -> Vec<u8> {
    let mut bytes = vec![0; 72];
    for (index, (code, start, count)) in slots.into_iter().enumerate() {
        let at = 6 + 16 * index;
        bytes[at + 4] = code;
        bytes[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        bytes[at + 12..at + 16].copy_from_slice(&count.to_le_bytes());
    }
    bytes[70..].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

pub(super) fn table_seeds() -> Vec<Vec<u8>> {
    let boot = slots([(0x83, 10, 20), (0x05, 40, 60)]);
    let [first, second] = [slots([(0x83, 1, 9), (0x05, 20, 20)]), slots([(0x82, 2, 6), (0, 0, 0)])];
    let mbr = disk(128, 0, &[(440, &boot), (40 * 512 + 440, &first), (60 * 512 + 440, &second)]);
    let magic = |at: usize, magic: &[u8]| {
        // Pieces begin at multiples of 8.
        let bytes = [&vec![0; at % 8][..], magic, &[1; 100]].concat();
        disk(400, 0, &[(at / 8 * 8, &bytes)])
    };
    let signatures: [(usize, &[u8]); 18] = [
        (0, b"XFSB\0\0\x10\0"),
        (0, b"LUKS\xba\xbe\0\x02"),
        (0, b"LUKS\xba\xbe\0\x01"),
        (512, b"LABELONE\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0LVM2 001"),
        (1080, b"\x53\xef"),
        (1024, b"\x10\x20\xf5\xf2"),
        (4096, b"\xfc\x4e\x2b\xa9\x01\0\0\0"),
        (4086, b"SWAPSPACE2"),
        (32768, b"\x01CD001"),
        (65600, b"_BHRfS_M"),
        (3, b"EXFAT   "),
        (3, b"NTFS    "),
        (54, b"FAT16   "),
        (82, b"FAT32   "),
        (0, b"hsqs"),
        (0, b"-FVE-FS-"),
        (1024, b"\xe2\xe1\xf5\xe0"),
        (0, b"bcachefs"),
    ];
    let mut seeds = vec![gpt(512, SEAL_512), gpt(4096, SEAL_4096), mbr];
    seeds.extend(signatures.map(|(at, bytes)| magic(at, bytes)));
    seeds
}
