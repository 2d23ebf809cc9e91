//! The reader of integers: a short program of calls, then the bytes that it reads.

use copal::format::wire::{Reader, checksum, verify_checksum};

/// A byte that says how many calls follow, one byte for each, then what is read.
pub(super) fn read(input: &[u8]) -> bool {
    if let Ok(body) = verify_checksum("input", input) {
        assert_eq!(checksum(body), input[body.len()..]);
    }
    let Some((count, rest)) = input.split_first() else { return false };
    let (calls, bytes) = rest.split_at(rest.len().min(usize::from(*count)));
    let mut reader = Reader::new("input", bytes);
    for call in calls {
        let wide = u32::from(*call) << (call & 31);
        let result = match call % 9 {
            0 => reader.u8().map(|_| ()),
            1 => reader.u16().map(|_| ()),
            2 => reader.u32().map(|_| ()),
            3 => reader.u64().map(|_| ()),
            4 => reader.bytes(wide as usize).map(|taken| assert_eq!(taken.len(), wide as usize)),
            5 => reader.zeros::<3>(),
            6 => reader.version(1),
            7 => {
                let size = 1 + wide as usize;
                let left = reader.clone().rest().len().saturating_sub(4);
                reader.count("things", u32::MAX, size).map(|count| assert!(count * size <= left))
            }
            _ => reader.magic(b"COPALOBJ"),
        };
        if result.is_err() {
            return false;
        }
    }
    reader.finish().is_ok()
}

pub(super) fn read_seeds() -> Vec<Vec<u8>> {
    let program = [&[9, 0, 1, 2, 3, 13, 5, 6, 7, 8][..], &[1; 15], &[2; 13 << 13][..0], &[0; 3]].concat();
    let all = [&[3, 0, 1, 2][..], &[5; 7]].concat();
    let counted = [&[2, 7, 0][..], &[0; 5]].concat();
    let magic = [&[2, 8, 6][..], b"COPALOBJ\x01\0"].concat();
    vec![program, all, counted, [&magic[..], &checksum(&magic)].concat(), magic]
}
