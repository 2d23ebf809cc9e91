//! The command line, which fstab and scripts write, too.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// Words, separated by line feeds.
pub(super) fn words(input: &[u8]) -> bool {
    let words = input.split(|byte| *byte == b'\n').map(|word| OsString::from_vec(word.to_vec()));
    copal::cli::understands(words.collect())
}

pub(super) fn words_seeds() -> Vec<Vec<u8>> {
    [
        "copal init /r --encryption none --chunker fixed,64K",
        "copal create /r::web01 vda=/dev/x --compression zstd,19 --tag a --timestamp 2026-11-20",
        "copal mount /r::web01@2026-11-20 /mnt -o rw,uid=0,gid=7,mode=0440,cache_size=1.5G,nodev",
        "/sbin/mount.fuse.copal ::web01 /mnt -n -o allow_other,key_file=/k -t fuse.copal",
        "copal list /r --json",
    ]
    .map(|line| line.replace(' ', "\n").into_bytes())
    .to_vec()
}
