//! Compressed bytes.

use copal::codec::compress::{Compression, pack_into, unpack as decode};

/// The longest that is unpacked here.
pub(super) const LIMIT: usize = 64 << 10;

pub(super) fn unpack(input: &[u8]) -> bool {
    let Ok(plain) = decode(input, LIMIT) else { return false };
    assert!(plain.len() <= LIMIT);
    let mut again = Vec::new();
    pack_into(&mut again, &plain[..plain.len().min(8 << 10)], Compression::Zstd(1));
    assert_eq!(decode(&again, LIMIT).as_deref(), Ok(&plain[..plain.len().min(8 << 10)]));
    true
}

pub(super) fn unpack_seeds() -> Vec<Vec<u8>> {
    let text: Vec<u8> = (0..600_u32).flat_map(|i| format!("line {} ", i * i % 97).into_bytes()).collect();
    let packed = |plain: &[u8], compression| {
        let mut out = Vec::new();
        pack_into(&mut out, plain, compression);
        out
    };
    vec![
        packed(b"", Compression::None),
        packed(b"raw bytes", Compression::None),
        packed(&[7; 60_000], Compression::Zstd(3)),
        packed(&text, Compression::Zstd(1)),
        packed(&text, Compression::Zstd(19)),
    ]
}
