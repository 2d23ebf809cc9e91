//! Memory for the chunks of a cache: blocks of one length, used again and again.
//!
//! Chunks are of all lengths, are made by many threads and displaced by others. A general allocator would keep free pieces for each of those
//! threads, between chunks that are used, and the process would come to need half as much again as its cache. Blocks of one length
//! leave nothing between them, and the system never has to clear them anew.

use std::sync::Arc;

use parking_lot::Mutex;

/// Bytes of a block. On average half of one is wasted at the end of a chunk.
const BLOCK: usize = 16 << 10;

type Block = Box<[u8; BLOCK]>;

/// Blocks that are free.
#[derive(Debug, Default)]
pub struct Blocks(Mutex<Vec<Block>>);

/// Bytes in blocks, which are free again when it is dropped.
#[derive(Debug)]
pub struct Plain {
    blocks: Vec<Block>,
    len: usize,
    home: Arc<Blocks>,
}

impl Blocks {
    /// Keeps a copy of `bytes`.
    #[must_use]
    pub fn keep(self: &Arc<Self>, bytes: &[u8]) -> Plain {
        let count = bytes.len().div_ceil(BLOCK);
        let mut blocks = {
            let mut free = self.0.lock();
            let left = free.len().saturating_sub(count);
            free.split_off(left)
        };
        blocks.resize_with(count, || Box::new([0; BLOCK]));
        for (block, part) in blocks.iter_mut().zip(bytes.chunks(BLOCK)) {
            block[..part.len()].copy_from_slice(part);
        }
        Plain { blocks, len: bytes.len(), home: self.clone() }
    }

    /// How many blocks are free.
    #[must_use]
    pub fn free(&self) -> usize {
        self.0.lock().len()
    }
}

impl Plain {
    /// The memory it takes, in bytes.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.blocks.len() * BLOCK
    }

    /// Fills `to` with the bytes from `at` on. False, and `to` is unspecified, if there are not so many.
    #[must_use]
    pub fn copy_to(&self, at: usize, to: &mut [u8]) -> bool {
        if at.checked_add(to.len()).is_none_or(|end| end > self.len) {
            return false;
        }
        let mut filled = 0;
        while filled < to.len() {
            let (block, within) = ((at + filled) / BLOCK, (at + filled) % BLOCK);
            let len = (BLOCK - within).min(to.len() - filled);
            to[filled..filled + len].copy_from_slice(&self.blocks[block][within..within + len]);
            filled += len;
        }
        true
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.home.0.lock().append(&mut self.blocks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
    }

    #[test]
    fn bytes_come_back_from_anywhere() {
        let blocks = Arc::new(Blocks::default());
        for len in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 7] {
            let bytes = noise(len);
            let plain = blocks.keep(&bytes);
            assert_eq!(plain.cost(), len.div_ceil(BLOCK) * BLOCK);
            for at in [0, 1, BLOCK - 1, BLOCK, BLOCK + 5, len].into_iter().filter(|at| *at <= len) {
                for end in [at, at + 1, len / 2, len].into_iter().filter(|end| (at..=len).contains(end)) {
                    let mut found = vec![0; end - at];
                    assert!(plain.copy_to(at, &mut found) && found == bytes[at..end], "{at}..{end} of {len}");
                }
            }
            assert!(!plain.copy_to(len, &mut [0]) && !plain.copy_to(usize::MAX, &mut [0]));
        }
    }

    #[test]
    fn blocks_are_used_again() {
        let blocks = Arc::new(Blocks::default());
        drop([blocks.keep(&noise(3 * BLOCK)), blocks.keep(&noise(1))]);
        assert_eq!(blocks.free(), 4);
        let long = noise(5 * BLOCK);
        let plain = blocks.keep(&long);
        assert_eq!(blocks.free(), 0);
        let mut found = vec![0; long.len()];
        assert!(plain.copy_to(0, &mut found) && found == long);
        drop(plain);
        assert_eq!(blocks.free(), 5);
    }
}
