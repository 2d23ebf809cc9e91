//! A small NTFS filesystem: sectors and clusters of 512 bytes. Its counts of writes are 0, so that nothing is replaced at the ends of sectors.

use super::{input, put};

const CLUSTERS: usize = 72;
const RECORD: usize = 1024;
/// Records of the table, the last one being a file's.
const RECORDS: usize = 26;
/// First cluster and number of clusters.
const TABLE: (u8, u8) = (4, 52);
/// Behind all else.
const MIRROR: (u8, u8) = (64, 8);
const LOG: (u8, u8) = (1, 2);
const BITMAP: (u8, u8) = (3, 1);
const FILE: (u8, u8) = (60, 1);
const RECORD_BITMAP: (u8, u8) = (61, 1);

pub(in super::super) fn seeds() -> Vec<Vec<u8>> {
    vec![input(&volume(*b"file.txt    ")), input(&volume(*b"hiberfil.sys"))]
}

fn volume(name: [u8; 12]) -> Vec<u8> {
    // The last sector has the copy of the first one.
    let mut volume = vec![0; (CLUSTERS + 1) * 512];
    let mut boot = [0; 512];
    put(&mut boot, 0, b"\xeb\x52\x90NTFS    \0\x02\x01");
    boot[40] = CLUSTERS as u8;
    (boot[48], boot[56], boot[64], boot[68]) = (TABLE.0, MIRROR.0, 0xf6, 1);
    put(&mut boot, 510, &[0x55, 0xaa]);
    put(&mut volume, 0, &boot);
    put(&mut volume, CLUSTERS * 512, &boot);
    for page in [1, 2] {
        put(&mut volume, page * 512, b"RSTR\x1e\0\x02\0");
        put(&mut volume, page * 512 + 16, b"\0\x02\0\0\0\x02\0\0\x30\0\x01\0\x01\0");
        put(&mut volume, page * 512 + 60, &[0xff, 0xff]);
    }
    put(&mut volume, 3 * 512, &[0xff; 7]);
    // Free: clusters 56 to 59, 62 and 63.
    put(&mut volume, 3 * 512 + 7, &[0b0011_0000, 0xff]);
    put(&mut volume, usize::from(RECORD_BITMAP.0) * 512, &[0b0110_1111, 0, 0, 0b10]);
    records(&mut volume, name);
    volume
}

fn records(volume: &mut [u8], name: [u8; 12]) {
    let len = (RECORDS * RECORD) as u32;
    let name: Vec<u8> = name.iter().flat_map(|byte| [*byte, 0]).collect();
    let mut file_name = vec![0; 66];
    (file_name[0], file_name[64]) = (5, 12);
    file_name.extend(name);
    let records = [
        (0, vec![stream(0x80, TABLE, len), stream(0xb0, RECORD_BITMAP, 8)]),
        (1, vec![stream(0x80, MIRROR, 4096)]),
        (2, vec![stream(0x80, LOG, 1024)]),
        (3, vec![resident(0x60, b"L\0"), resident(0x70, &[0, 0, 0, 0, 0, 0, 0, 0, 3, 1, 0, 0])]),
        (5, Vec::new()),
        (6, vec![stream(0x80, BITMAP, 9)]),
        (25, vec![resident(0x30, &file_name), stream(0x80, FILE, 500)]),
    ];
    let at = usize::from(TABLE.0) * 512;
    for (number, attributes) in records {
        put(volume, at + number * RECORD, &record(number as u8, &attributes.concat()));
    }
    volume.copy_within(at..at + 4 * RECORD, usize::from(MIRROR.0) * 512);
}

fn record(number: u8, attributes: &[u8]) -> Vec<u8> {
    let mut record = vec![0; 56];
    put(&mut record, 0, b"FILE\x30\0\x03\0");
    (record[20], record[22], record[44]) = (56, 1, number);
    record.extend(attributes);
    record.extend([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    let len = record.len() as u16;
    put(&mut record, 24, &len.to_le_bytes());
    record
}

/// An attribute in one run of clusters.
fn stream(kind: u8, (first, count): (u8, u8), len: u32) -> Vec<u8> {
    let mut attribute = vec![0; 72];
    (attribute[0], attribute[4], attribute[8]) = (kind, 72, 1);
    (attribute[24], attribute[32]) = (count - 1, 64);
    put(&mut attribute, 40, &(u32::from(count) * 512).to_le_bytes());
    put(&mut attribute, 48, &len.to_le_bytes());
    put(&mut attribute, 56, &len.to_le_bytes());
    put(&mut attribute, 64, &[0x11, count, first]);
    attribute
}

/// An attribute in its record.
fn resident(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut attribute = vec![0; (24 + value.len()).next_multiple_of(8)];
    (attribute[0], attribute[4]) = (kind, attribute.len() as u8);
    (attribute[16], attribute[20]) = (value.len() as u8, 24);
    put(&mut attribute, 24, value);
    attribute
}
