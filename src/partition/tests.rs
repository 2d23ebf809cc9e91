//! Tests of partition tables: here on tables built by hand; below on those of real tools and on hostile bytes.

mod hostile;
mod signatures;
mod tools;

use super::*;

/// A disk in memory that fails the test when it is read beyond its end.
struct Memory {
    bytes: Vec<u8>,
    /// A range whose reading gives an error.
    bad: std::ops::Range<u64>,
}

impl Memory {
    fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, bad: 0..0 }
    }
}

impl ReadAt for Memory {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).expect("a read that overflows");
        assert!(end <= self.len(), "a read of {} bytes at {offset} of {}", buf.len(), self.len());
        if offset < self.bad.end && end > self.bad.start {
            return Err(io::Error::other("bad sector"));
        }
        buf.copy_from_slice(&self.bytes[offset as usize..end as usize]);
        Ok(())
    }
}

fn table_of(bytes: &[u8]) -> Table {
    read_table(&Memory::new(bytes.to_vec()), 0).unwrap()
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// The GUID of Linux filesystems, as it is stored.
const LINUX: [u8; 16] = *b"\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4";
const ENTRIES: usize = 16;

/// Sectors of a disk built by [`gpt`].
const SECTORS: usize = 256;

/// A disk of [`SECTORS`] sectors with both copies of a GPT of 16 entries.
fn gpt(sector: usize, partitions: &[(u64, u64, &str)]) -> Vec<u8> {
    let mut disk = vec![0; SECTORS * sector];
    put(&mut disk, 446 + 4, &[0xee]);
    put(&mut disk, 446 + 8, &1_u32.to_le_bytes());
    put(&mut disk, 446 + 12, &(SECTORS as u32 - 1).to_le_bytes());
    put(&mut disk, 510, &[0x55, 0xaa]);
    let last = SECTORS - 1;
    for (header, entries) in [(1, 2), (last, last - 2048_usize.div_ceil(sector))] {
        for (index, (first, end, name)) in partitions.iter().enumerate() {
            let at = entries * sector + 128 * index;
            put(&mut disk, at, &LINUX);
            put(&mut disk, at + 16, &[index as u8 + 1; 16]);
            put(&mut disk, at + 32, &first.to_le_bytes());
            put(&mut disk, at + 40, &end.to_le_bytes());
            let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
            put(&mut disk, at + 56, &name);
        }
        let at = header * sector;
        put(&mut disk, at, b"EFI PART\0\0\x01\0\x5c\0\0\0");
        put(&mut disk, at + 24, &(header as u64).to_le_bytes());
        put(&mut disk, at + 32, &((last + 1 - header) as u64).to_le_bytes());
        put(&mut disk, at + 56, &[0xab; 16]);
        put(&mut disk, at + 72, &(entries as u64).to_le_bytes());
        put(&mut disk, at + 80, &(ENTRIES as u32).to_le_bytes());
        put(&mut disk, at + 84, &128_u32.to_le_bytes());
        seal(&mut disk, sector, header);
    }
    disk
}

/// Makes the checksums of the copy with its header in sector `header` right again, as far as its sizes permit.
fn seal(disk: &mut [u8], sector: usize, header: usize) {
    let at = header * sector;
    let field = |at: usize| u32::from_le_bytes(disk[at..at + 4].try_into().unwrap()) as usize;
    let (len, entries) = (field(at + 12), field(at + 72).saturating_mul(sector));
    let end = field(at + 80).saturating_mul(field(at + 84)).saturating_add(entries);
    let crc = disk.get(entries..end).map_or(0, crc32fast::hash);
    put(disk, at + 88, &crc.to_le_bytes());
    put(disk, at + 16, &[0; 4]);
    let crc = disk.get(at..at + len).map_or(0, crc32fast::hash);
    put(disk, at + 16, &crc.to_le_bytes());
}

/// Writes one slot of a boot sector or of a link of a chain.
fn slot(disk: &mut [u8], sector: usize, index: usize, code: u8, start: u32, count: u32) {
    let at = sector * 512 + 446 + 16 * index;
    put(disk, at + 4, &[code]);
    put(disk, at + 8, &start.to_le_bytes());
    put(disk, at + 12, &count.to_le_bytes());
    put(disk, sector * 512 + 510, &[0x55, 0xaa]);
}

/// A disk with a primary partition, an extended one and two logical ones.
fn mbr() -> Vec<u8> {
    let mut disk = vec![0; 1000 * 512];
    put(&mut disk, 440, &0x1234_abcd_u32.to_le_bytes());
    slot(&mut disk, 0, 0, 0x83, 10, 90);
    slot(&mut disk, 0, 1, 0x05, 100, 900);
    slot(&mut disk, 100, 0, 0x83, 1, 50);
    slot(&mut disk, 100, 1, 0x05, 200, 100);
    slot(&mut disk, 300, 0, 0x82, 2, 60);
    disk
}

fn places(table: &Table) -> Vec<(u32, u64, u64)> {
    table.partitions.iter().map(|part| (part.number, part.start / 512, part.len / 512)).collect()
}

#[test]
fn gpt_with_its_facts() {
    let table = table_of(&gpt(512, &[(10, 19, "Grüße 🌲"), (20, 20, "")]));
    assert_eq!((table.kind, table.sector), (TableKind::Gpt, 512));
    assert_eq!(table.disk_id, "abababab-abab-abab-abab-abababababab");
    assert_eq!(places(&table), [(1, 10, 10), (2, 20, 1)]);
    let first = &table.partitions[0];
    assert_eq!(first.type_code, "0fc63daf-8483-4772-8e79-3d69d8477de4");
    assert_eq!((first.type_name.as_str(), first.label.as_str()), ("Linux filesystem", "Grüße 🌲"));
    assert_eq!(first.partition_uuid.as_deref(), Some("01010101-0101-0101-0101-010101010101"));
    assert_eq!(table.notes, [""; 0]);
}

#[test]
fn gpt_of_large_sectors_is_found_without_a_hint() {
    let bytes = gpt(4096, &[(10, 19, "a")]);
    for hint in [0, 1, 512, 4096, 3000, u32::MAX] {
        let table = read_table(&Memory::new(bytes.clone()), hint).unwrap();
        assert_eq!((table.kind, table.sector), (TableKind::Gpt, 4096), "hint {hint}");
        assert_eq!(places(&table), [(1, 80, 80)]);
    }
}

#[test]
fn backup_gpt_stands_in_for_a_damaged_primary() {
    let whole = gpt(512, &[(10, 19, "a")]);
    for damage in [512, 512 + 60, 1024 + 40] {
        let mut disk = whole.clone();
        disk[damage] ^= 1;
        let table = table_of(&disk);
        assert_eq!(places(&table), [(1, 10, 10)], "byte {damage}");
        assert!(table.notes.iter().any(|note| note.contains("backup")), "{:?}", table.notes);
    }
    let mut unreadable = Memory::new(whole);
    unreadable.bad = 1024..1025;
    let table = read_table(&unreadable, 0).unwrap();
    assert_eq!(places(&table), [(1, 10, 10)]);
    assert!(table.notes.iter().any(|note| note.contains("bad sector")), "{:?}", table.notes);
}

#[test]
fn gpt_that_is_damaged_twice_is_no_table() {
    let mut disk = gpt(512, &[(10, 19, "a")]);
    disk[600] ^= 1;
    let backup = (SECTORS - 1) * 512 + 88;
    disk[backup] ^= 1;
    let table = table_of(&disk);
    assert_eq!((table.kind, table.partitions.len()), (TableKind::None, 0));
    assert!(table.notes.iter().any(|note| note.contains("neither copy")), "{:?}", table.notes);
    let mut notes = table.notes.clone();
    notes.dedup();
    assert_eq!((notes.len(), &notes), (3, &table.notes), "each is said once");
}

#[test]
fn sound_entries_behind_damaged_headers_are_shown() {
    for copies in [[1, SECTORS - 1], [SECTORS - 1, 1]] {
        let mut disk = gpt(512, &[(10, 19, "a"), (30, 39, "b")]);
        copies.iter().for_each(|header| disk[header * 512 + 60] ^= 1);
        // Which one is used is no matter if the entries of the other are gone.
        let entries = if copies[0] == 1 { 2 } else { SECTORS - 1 - 4 };
        disk[entries * 512 + 40] ^= 1;
        let table = table_of(&disk);
        assert_eq!((table.kind, places(&table)), (TableKind::Gpt, vec![(1, 10, 10), (2, 30, 10)]));
        assert!(table.notes.iter().any(|note| note.contains("no copy of the GPT has a sound header")));
        assert!(table.doubt.is_some());
    }
    let mut nothing = gpt(512, &[]);
    [1, SECTORS - 1].iter().for_each(|header| nothing[header * 512 + 60] ^= 1);
    assert_eq!(table_of(&nothing).kind, TableKind::None, "nothing vouches for an empty table");
}

#[test]
fn a_backup_gpt_that_is_gone_or_damaged_is_told_and_is_no_doubt() {
    let whole = gpt(512, &[(10, 19, "a")]);
    let mut gone = whole.clone();
    gone[(SECTORS - 33) * 512..].fill(0);
    let mut damaged = whole.clone();
    damaged[(SECTORS - 1) * 512 + 60] ^= 1;
    let mut entries = whole.clone();
    entries[(SECTORS - 5) * 512 + 40] ^= 1;
    let cut = whole[..(SECTORS - 40) * 512].to_vec();
    let cases =
        [(gone, "missing"), (damaged, "header"), (entries, "entries"), (cut, "beyond the disk's end")];
    for (disk, said) in cases {
        let table = table_of(&disk);
        assert_eq!(places(&table), [(1, 10, 10)], "{said}");
        let [note] = &table.notes[..] else { panic!("{said}: {:?}", table.notes) };
        assert!(note.starts_with("the backup GPT is") && note.contains(said), "{note}");
        assert_eq!(table.doubt, None, "{said}");
    }
    let mut enlarged = whole;
    enlarged.resize(2 * SECTORS * 512, 0);
    assert_eq!(table_of(&enlarged).notes, [""; 0], "the backup is where the disk ended");
}

#[test]
fn copies_of_a_gpt_that_differ_are_told_by_their_partitions() {
    let mut disk = gpt(512, &[(10, 19, "a"), (30, 39, "b"), (50, 59, "c")]);
    let other = gpt(512, &[(10, 19, "a"), (30, 49, "b")]);
    disk[(SECTORS - 5) * 512..].copy_from_slice(&other[(SECTORS - 5) * 512..]);
    let table = table_of(&disk);
    assert_eq!(places(&table), [(1, 10, 10), (2, 30, 10), (3, 50, 10)]);
    let [note] = &table.notes[..] else { panic!("{:?}", table.notes) };
    assert!(note.contains("differ in partitions 2, 3;"), "{note}");
    assert_eq!(table.doubt.as_ref(), Some(note));
}

#[test]
fn partitions_that_only_a_hybrid_mbr_names_are_shown_behind_those_of_the_gpt() {
    let mut disk = gpt(512, &[(10, 19, "a"), (30, 39, "b")]);
    slot(&mut disk, 0, 1, 0x83, 10, 10);
    assert_eq!(table_of(&disk).notes, [""; 0], "the GPT has all that the MBR has");
    slot(&mut disk, 0, 2, 0x83, 60, 20);
    put(&mut disk, 60 * 512 + 1080, b"\x53\xef");
    put(&mut disk, 60 * 512 + 1028, &[1]);
    let table = table_of(&disk);
    assert_eq!((table.kind, places(&table)), (TableKind::Gpt, vec![(1, 10, 10), (2, 30, 10), (3, 60, 20)]));
    assert_eq!(table.notes, ["partition 3 is only in the MBR (there number 3), not in the GPT"]);
    assert!(table.doubt.is_some() && table.partitions[2].partition_uuid.is_none());
    let names: Vec<_> = parts(&table, disk.len() as u64).into_iter().map(|part| part.name).collect();
    assert_eq!(names, ["1-a", "2-b", "3-mbr-ext2"]);
}

#[test]
fn a_gpt_behind_an_mbr_is_told_if_it_names_others() {
    let mut disk = gpt(512, &[(10, 19, "a")]);
    slot(&mut disk, 0, 0, 0x83, 10, 10);
    let table = table_of(&disk);
    assert_eq!((table.kind, &table.notes[..]), (TableKind::Mbr, &[][..]));
    slot(&mut disk, 0, 0, 0x83, 30, 10);
    for part in [0..0, 512..1024, (SECTORS - 1) * 512..SECTORS * 512] {
        let mut disk = disk.clone();
        disk[part].fill(0);
        let table = table_of(&disk);
        assert_eq!((table.kind, places(&table)), (TableKind::Mbr, vec![(1, 30, 10)]));
        assert!(table.notes[0].contains("there is a GPT too"), "{:?}", table.notes);
        assert_eq!(table.doubt.as_ref(), table.notes.first());
    }
}

#[test]
fn logical_partitions_outside_of_theirs_are_told() {
    let mut disk = mbr();
    slot(&mut disk, 0, 1, 0x05, 100, 255);
    let table = table_of(&disk);
    assert_eq!(places(&table), [(1, 10, 90), (2, 100, 255), (5, 101, 50), (6, 302, 60)]);
    assert_eq!(table.notes, ["logical partition 6 does not lie within partition 2"]);
}

#[test]
fn filesystems_marked_as_ailing_are_told_and_are_no_doubt_of_the_table() {
    let mut disk = gpt(512, &[(10, 19, "a")]);
    put(&mut disk, 10 * 512 + 1028, &[1]);
    put(&mut disk, 10 * 512 + 1080, b"\x53\xef\x01\0");
    assert_eq!(table_of(&disk).notes, [""; 0]);
    disk[10 * 512 + 1082] = 2;
    let table = table_of(&disk);
    assert_eq!(table.notes, ["partition 1 (ext2) is marked as having errors; fsck was due"]);
    assert_eq!(table.doubt, None);
    let mut xfs = vec![0; 4096];
    put(&mut xfs, 0, b"XFSB\0\0\x10\0");
    put(&mut xfs, 100, &[0xb4, 0xa5]);
    assert_eq!(table_of(&xfs).notes, [""; 0]);
    xfs[219] = 0x10;
    assert_eq!(table_of(&xfs).notes, ["the disk (xfs) is marked as needing repair; xfs_repair was due"]);
}

#[test]
fn gpt_without_its_first_sectors_is_found_unless_the_disk_was_reused() {
    let mut disk = gpt(512, &[(10, 19, "a")]);
    disk[..512].fill(0);
    assert_eq!(table_of(&disk).kind, TableKind::Gpt);
    disk[..4096].fill(0);
    assert_eq!(places(&table_of(&disk)), [(1, 10, 10)], "by its backup");
    put(&mut disk, 0, b"XFSB\0\0\x10\0");
    let reused = table_of(&disk);
    assert_eq!((reused.kind, reused.filesystem.as_deref()), (TableKind::None, Some("xfs")));
    disk[..8].fill(0);
    slot(&mut disk, 0, 0, 0x83, 30, 5);
    assert_eq!(places(&table_of(&disk)), [(1, 30, 5)], "a newer MBR wins");
}

#[test]
fn partitions_off_the_disk_are_left_out_or_cut() {
    let sectors = SECTORS as u64;
    let table = table_of(&gpt(
        512,
        &[
            (10, 9, ""),
            (sectors, sectors + 1, ""),
            (200, sectors + 99, ""),
            (0, u64::MAX, ""),
            (u64::MAX, u64::MAX, ""),
        ],
    ));
    assert_eq!(places(&table), [(3, 200, sectors - 200), (4, 0, sectors)]);
    assert_eq!(table.notes.len(), 5, "{:?}", table.notes);
}

#[test]
fn mbr_with_logical_partitions() {
    let table = table_of(&mbr());
    assert_eq!((table.kind, table.disk_id.as_str()), (TableKind::Mbr, "0x1234abcd"));
    assert_eq!(places(&table), [(1, 10, 90), (2, 100, 900), (5, 101, 50), (6, 302, 60)]);
    let swap = &table.partitions[3];
    assert_eq!((swap.type_code.as_str(), swap.type_name.as_str()), ("0x82", "Linux swap"));
    assert_eq!(swap.partition_uuid.as_deref(), Some("1234abcd-06"));
    assert_eq!(table.notes, [""; 0]);
}

#[test]
fn mbr_counts_in_the_sectors_of_the_device() {
    let mut disk = vec![0; 1 << 20];
    slot(&mut disk, 0, 0, 0x83, 10, 20);
    let table = read_table(&Memory::new(disk), 4096).unwrap();
    assert_eq!((table.partitions[0].start, table.partitions[0].len), (40960, 81920));
}

#[test]
fn looping_broken_and_wild_chains_end() {
    let chain = |start: u32| {
        let mut disk = mbr();
        slot(&mut disk, 300, 1, 0x05, start, 100);
        table_of(&disk)
    };
    for (start, problem) in [(0, "loops"), (200, "loops"), (300, "breaks"), (u32::MAX, "breaks")] {
        let table = chain(start);
        assert_eq!(places(&table)[2..], [(5, 101, 50), (6, 302, 60)]);
        assert!(table.notes[0].contains(problem), "{:?}", table.notes);
    }
    let mut endless = vec![0; 100_000 * 512];
    slot(&mut endless, 0, 0, 0x0f, 1, 99_999);
    (1..90_000).for_each(|link| {
        slot(&mut endless, link, 0, 0x83, 1, 1);
        slot(&mut endless, link, 1, 0x05, link as u32, 1);
    });
    let table = table_of(&endless);
    assert_eq!(table.partitions.len(), MAX_PARTITIONS);
    assert!(table.notes.iter().any(|note| note.contains("longer than")), "{:?}", table.notes);
}

#[test]
fn huge_counts_cost_nothing() {
    let mut disk = gpt(512, &[(10, 19, "a")]);
    for (at, value) in [(80, u32::MAX), (84, u32::MAX), (84, 0), (84, 129), (12, u32::MAX), (12, 0)] {
        for header in [1, SECTORS - 1] {
            put(&mut disk, header * 512 + at, &value.to_le_bytes());
            seal(&mut disk, 512, header);
        }
        assert_eq!(table_of(&disk).kind, TableKind::None, "field {at} = {value}");
        disk = gpt(512, &[(10, 19, "a")]);
    }
}

#[test]
fn unreadable_partition_is_listed_with_a_note() {
    let mut disk = Memory::new(gpt(512, &[(10, 19, "a")]));
    disk.bad = 11 * 512..12 * 512;
    let table = read_table(&disk, 0).unwrap();
    assert_eq!(places(&table), [(1, 10, 10)]);
    assert!(table.notes.iter().any(|note| note.starts_with("partition 1 could not")), "{:?}", table.notes);
    disk.bad = 0..1;
    assert!(read_table(&disk, 0).is_err(), "nothing can be said of a disk whose first sector is bad");
}

#[test]
fn names_cannot_drive_a_terminal() {
    let table = table_of(&gpt(512, &[(10, 19, "a\u{1b}[2Jb\u{9b}c")]));
    assert_eq!(table.partitions[0].label, "a\u{fffd}[2Jb\u{fffd}c");
}

#[test]
fn tiny_disks() {
    for len in [0, 1, 511, 512, 513, 1024, 4096] {
        let table = table_of(&vec![0; len]);
        assert_eq!((table.kind, table.filesystem, table.notes.len()), (TableKind::None, None, 0));
    }
}

#[test]
fn table_is_serialised_flat() {
    let json = serde_json::to_value(table_of(&mbr())).unwrap();
    assert_eq!(json["kind"], "mbr");
    assert_eq!(json["partitions"][0]["start"], 5120);
    assert_eq!(json["partitions"][0]["filesystem"], serde_json::Value::Null);
}
