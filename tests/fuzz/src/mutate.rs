//! Changed copies of good inputs, the same ones every time: what a test without coverage can do.

/// Values that tend to stand at an edge.
const EDGES: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 56, 1 << 63, u64::MAX];

/// A sequence of numbers that is given by its start (splitmix64, Steele et al., OOPSLA 2014).
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// Starts from `name`, so that targets differ.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let hash = *blake3::hash(name.as_bytes()).as_bytes();
        Self(u64::from_le_bytes(*hash.first_chunk().expect("a hash has 32 bytes")))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 if there is none.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.next() % end as u64) as usize }
    }
}

/// One of `inputs`, changed in one to four places, at most [`crate::MAX_INPUT`] bytes long.
pub fn mutant(numbers: &mut Numbers, inputs: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = inputs.get(numbers.below(inputs.len())).cloned().unwrap_or_default();
    for _ in 0..=numbers.below(4) {
        change(numbers, &mut bytes, inputs);
    }
    bytes.truncate(crate::MAX_INPUT);
    bytes
}

fn change(numbers: &mut Numbers, bytes: &mut Vec<u8>, inputs: &[Vec<u8>]) {
    let at = numbers.below(bytes.len());
    match numbers.below(8) {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, numbers.next() as u8),
        2 => overwrite(bytes, at, &numbers.next().to_le_bytes()[..1]),
        3 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (numbers.next() % 8)),
        4 => {
            // An edge, as 1, 2, 4 or 8 bytes in either order.
            let edge = EDGES[numbers.below(EDGES.len())];
            let width = 1 << numbers.below(4);
            match numbers.below(2) {
                0 => overwrite(bytes, at, &edge.to_le_bytes()[..width]),
                _ => overwrite(bytes, at, &edge.to_be_bytes()[8 - width..]),
            }
        }
        5 => {
            let end = at + numbers.below(bytes.len() - at);
            bytes.drain(at..end);
        }
        6 => {
            let run = bytes[at..at + numbers.below(64).min(bytes.len() - at)].to_vec();
            bytes.splice(at..at, run);
        }
        _ => {
            let other = &inputs[numbers.below(inputs.len())];
            bytes.truncate(at);
            bytes.extend_from_slice(&other[numbers.below(other.len())..]);
        }
    }
}

fn overwrite(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes.iter_mut().skip(at).zip(value).for_each(|(byte, value)| *byte = *value);
}
