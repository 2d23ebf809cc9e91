//! Every signature on a volume, at its start and at its end: more than one means that nobody knows whose blocks these are.
//!
//! What stands here by its magic number alone needs no more: a chance hit costs a little space, a signature that is missed could cost data. Numbers of two bytes
//! are left out: chance hits among counters would be too many.

use std::io;

use super::super::bytes::{Fields, Window};
use super::{HEAD, containers, linux, others};

/// Magic numbers at fixed places from the start. Filesystems and containers that the detectors know are not repeated.
const AT_START: [(u64, &[u8], &str); 38] = [
    (0, b"verity\0\0", "DM_verity_hash"),
    (0, b"integrt\0", "DM_integrity"),
    (0, b"dmvdo001", "vdo"),
    (0, b"SnAp", "DM_snapshot_cow"),
    (0, b"HM\x01\0", "LVM1_member"),
    (0, b"bluestore block device", "ceph_bluestore"),
    (3, b"-FVE-FS-", "BitLocker"),
    (3, b"ReFS\0", "ReFS"),
    (3, b"MSDOS5.0-FVE", "BitLocker"),
    (32, b"ORCLDISK", "oracleasm"),
    (32, b"NXSB", "apfs"),
    (512, b"EFI PART", "gpt"),
    (4096, b"EFI PART", "gpt"),
    (516, b"!Stra0tis\x86\xff\x02^\x41rh", "stratis"),
    (1024, b"\x10\x20\xf5\xf2", "f2fs"),
    (1024, b"\xe2\xe1\xf5\xe0", "erofs"),
    (1024, b"H+\0\x04", "hfsplus"),
    (1024, b"HX\0\x05", "hfsplus"),
    (1024, b"OCFSV2", "ocfs2"),
    (2048, b"OCFSV2", "ocfs2"),
    (4096, b"OCFSV2", "ocfs2"),
    (4096, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "bcache"),
    (4120, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "bcache"),
    (4120, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", "bcachefs"),
    (4608, b"\x5a\x78\x16\xf0", "hpt37x_raid_member"),
    (8244, b"ReIsEr", "reiserfs"),
    (9564, b"\x54\x19\x01\0", "ufs"),
    (16384, b"SKUL\xba\xbe", "crypto_LUKS"),
    (32768, b"SKUL\xba\xbe", "crypto_LUKS"),
    (32768, b"JFS1", "jfs"),
    (34817, b"NSR0", "udf"),
    (36865, b"NSR0", "udf"),
    (65536, b"\x01\x16\x19\x70", "gfs2"),
    (65536, b"ReIsEr4", "reiser4"),
    (65588, b"ReIsEr", "reiserfs"),
    (66908, b"\x19\x01\x54\x19", "ufs2"),
    (1 << 20, b"\x0d\xd0\x01\xc0", "VMFS_volume_member"),
    (4086, b"S1SUSPEND", "swsuspend"),
];

/// Magic numbers in one of the last sectors: how far from the end, rounded to what, at which byte.
const AT_END: [(u64, u64, usize, &[u8], &str); 10] = [
    (512, 512, 0, b"EFI PART", "gpt"),
    (4096, 4096, 0, b"EFI PART", "gpt"),
    (1024, 512, 0, b"Intel Raid ISM Cfg Sig. ", "isw_raid_member"),
    (512, 512, 0, b"\xde\x11\xde\x11", "ddf_raid_member"),
    (512, 512, 0, b"\x11\xde\x11\xde", "ddf_raid_member"),
    (1024, 512, 0, b"NVIDIA", "nvidia_raid_member"),
    (512, 512, 0, b"$XIDE$", "lsi_mega_raid_member"),
    (4096, 4096, 60, b"\x83\x74\x02\x6b", "drbd"),
    (4096, 4096, 60, b"\x83\x74\x02\x6c", "drbd"),
    (4096, 4096, 60, b"\x83\x74\x02\x6d", "drbd"),
];

/// Labels of ZFS: two at the start and two at the end, each with a ring of uberblocks in its second half.
const ZFS_LABEL: u64 = 256 << 10;
const ZFS_RING: usize = 128 << 10;
const ZFS_SLOT: usize = 1024;
const ZFS_MAGIC: u64 = 0x00ba_b10c;

/// The names of all that leave a signature on a volume, each once.
///
/// # Errors
/// The medium's.
pub(crate) fn signatures(volume: &Window<'_>) -> io::Result<Vec<&'static str>> {
    let bytes = volume.read_up_to(0, HEAD)?;
    let head = Fields(&bytes);
    let mut names = Vec::new();
    names.extend(containers::all_in_head(head));
    names.extend(containers::at_end(volume)?.map(|found| found.kind));
    names.extend(linux::all(head));
    names.extend(others::all(head));
    for (at, magic, name) in AT_START {
        if volume.read_up_to(at, magic.len())? == magic {
            names.push(name);
        }
    }
    for (from_end, grid, at, magic, name) in AT_END {
        let Some(place) = (volume.len() / grid * grid).checked_sub(from_end) else { continue };
        if Fields(&volume.read_up_to(place, at + magic.len())?).has(at, magic) {
            names.push(name);
        }
    }
    if has_zfs(volume)? {
        names.push("zfs_member");
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

fn has_zfs(volume: &Window<'_>) -> io::Result<bool> {
    let end = volume.len() / ZFS_LABEL * ZFS_LABEL;
    let labels = [Some(0), Some(ZFS_LABEL), end.checked_sub(2 * ZFS_LABEL), end.checked_sub(ZFS_LABEL)];
    for label in labels.into_iter().flatten() {
        let ring = volume.read_up_to(label + ZFS_RING as u64, ZFS_RING)?;
        let is_uberblock = |slot: &[u8]| {
            let magic = Fields(slot).u64(0);
            magic == ZFS_MAGIC || magic.swap_bytes() == ZFS_MAGIC
        };
        if ring.chunks(ZFS_SLOT).any(is_uberblock) {
            return Ok(true);
        }
    }
    Ok(false)
}
