//! A swap area of 16 pages.

use super::{input, put};

pub(in super::super) fn seeds() -> Vec<Vec<u8>> {
    let mut volume = vec![0; 64 << 10];
    put(&mut volume, 1024, &[1, 0, 0, 0, 15, 0, 0, 0]);
    put(&mut volume, 4086, b"SWAPSPACE2");
    vec![input(&volume)]
}
