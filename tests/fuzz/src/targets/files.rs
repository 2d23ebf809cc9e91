//! Files in filesystems that real tools made (`mke2fs -d`, `mcopy`, `mkntfs`), cut down to what is not zeros.
//!
//! `scripts/fuzz-images` says how the images were made.

use super::volume::try_files;

pub(super) fn ext(input: &[u8]) -> bool {
    try_files(input, "ext4", 64 << 10)
}

pub(super) fn ext_seeds() -> Vec<Vec<u8>> {
    vec![include_bytes!("../../images/ext2").to_vec(), include_bytes!("../../images/ext4").to_vec()]
}

pub(super) fn fat(input: &[u8]) -> bool {
    try_files(input, "vfat", 256 << 10)
}

pub(super) fn fat_seeds() -> Vec<Vec<u8>> {
    vec![include_bytes!("../../images/fat12").to_vec()]
}

pub(super) fn ntfs(input: &[u8]) -> bool {
    try_files(input, "ntfs", 1088 << 10)
}

pub(super) fn ntfs_seeds() -> Vec<Vec<u8>> {
    vec![include_bytes!("../../images/ntfs").to_vec()]
}
