//! Bytes and numbers that look random and are the same for the same seed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// SplitMix64: small, and without visible patterns.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end as u64) as usize
    }
}

/// Bytes that do not compress.
#[must_use]
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| random.number().to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}

/// An image with data, text, holes on and off the 4 KiB grid, lone blocks, and any tail.
#[must_use]
pub fn mixed(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes = Vec::with_capacity(len + (1 << 20));
    while bytes.len() < len {
        let part = 1 + random.below(600 << 10);
        match random.below(8) {
            0..=2 => bytes.extend(noise(random.number(), part)),
            3 => bytes.extend(b"all work and no play makes jack a dull boy\n".iter().cycle().take(part)),
            4 => {
                for _ in 0..16 {
                    bytes.resize(bytes.len().next_multiple_of(4096) + 4096, 0);
                    bytes.extend(noise(random.number(), 4096));
                }
            }
            _ => bytes.resize(bytes.len() + part, 0),
        }
    }
    bytes.truncate(len);
    bytes
}

/// Writes bytes as a sparse file: whole 4 KiB blocks of zeros are left out.
///
/// # Panics
/// If that fails.
pub fn write_sparse(path: &Path, bytes: &[u8]) {
    let file = File::create(path).expect("create");
    file.set_len(bytes.len() as u64).expect("set length");
    for (number, block) in bytes.chunks(4096).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, number as u64 * 4096).expect("write");
        }
    }
}
