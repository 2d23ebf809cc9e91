//! The superblock: whether the filesystem is one that is understood, whole and at rest, and its geometry.

use super::super::Distrust;
use super::super::journal::Journal;
use super::sums::{Sums, crc16, crc32c};
use crate::partition::bytes::{Fields, Window};

/// Where it stands in the volume, in bytes.
pub(crate) const AT: u64 = 1024;
/// Its length in bytes.
pub(crate) const LEN: usize = 1024;
const MAGIC: u16 = 0xef53;
/// Offset of its checksum, which covers all before.
const OWN_SUM: usize = 0x3fc;

/// The most groups that are believed: 128 TiB in blocks of 4 KiB. Descriptors and structures of so many take 80 MiB.
const MAX_GROUPS: u64 = 1 << 20;

/// States: unmounted cleanly, errors were found, orphans were being removed.
const CLEAN: u16 = 1;
const ERRORS: u16 = 2;
const ORPHANS: u16 = 4;

/// A feature that decides where things are, or what is at rest.
const HAS_JOURNAL: u32 = 0x4;
const SPARSE_SUPER_2: u32 = 0x200;
const RECOVER: u32 = 0x4;
const JOURNAL_DEVICE: u32 = 0x8;
const META_BG: u32 = 0x10;
const WIDE: u32 = 0x80;
const MMP: u32 = 0x100;
const CSUM_SEED: u32 = 0x2000;
const SPARSE_SUPER: u32 = 0x1;
const GDT_CSUM: u32 = 0x10;
const BIGALLOC: u32 = 0x200;
const METADATA_CSUM: u32 = 0x400;
const ORPHANS_PRESENT: u32 = 0x1_0000;

/// Features that change nothing of what is free beyond what is done here. Compatible ones: preallocation, imagic inodes, journal, extended attributes,
/// resize inode, indexed directories, sparse_super2, fast commit, stable inodes, orphan file.
const KNOWN_COMPAT: u32 =
    0x1 | 0x2 | HAS_JOURNAL | 0x8 | 0x10 | 0x20 | SPARSE_SUPER_2 | 0x400 | 0x800 | 0x1000;
/// File types, meta_bg, extents, 64 bits, multiple-mount protection, flex_bg, attribute inodes, checksum seed, large directories, inline data,
/// encryption, case folding.
const KNOWN_INCOMPAT: u32 =
    0x2 | META_BG | 0x40 | WIDE | MMP | 0x200 | 0x400 | CSUM_SEED | 0x4000 | 0x8000 | 0x1_0000 | 0x2_0000;
/// Sparse superblocks, large files, btree directories, huge files, group checksums, many links, larger inodes, quota, bigalloc, metadata checksums,
/// read-only, project quota, verity.
const KNOWN_RO_COMPAT: u32 = SPARSE_SUPER
    | 0x2
    | 0x4
    | 0x8
    | GDT_CSUM
    | 0x20
    | 0x40
    | 0x100
    | BIGALLOC
    | METADATA_CSUM
    | 0x1000
    | 0x2000
    | 0x8000;

/// What ext3 knows; any other feature makes it ext4.
const EXT3_INCOMPAT: u32 = 0x2 | META_BG;
const EXT3_RO_COMPAT: u32 = SPARSE_SUPER | 0x2 | 0x4;

/// Which groups hold copies of the superblock.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Copies {
    /// All of them.
    All,
    /// 0, 1 and the powers of 3, 5 and 7.
    Sparse,
    /// 0 and these.
    These([u32; 2]),
}

impl Copies {
    /// Whether group number `group` holds one.
    pub(crate) fn has(self, group: u64) -> bool {
        match self {
            Self::All => true,
            Self::Sparse => group <= 1 || [3, 5, 7].into_iter().any(|base| is_power(group, base)),
            Self::These(groups) => group == 0 || groups.into_iter().any(|copy| u64::from(copy) == group),
        }
    }
}

fn is_power(mut number: u64, base: u64) -> bool {
    while number > 1 && number.is_multiple_of(base) {
        number /= base;
    }
    number == 1
}

/// The geometry of a filesystem, checked: it fits its volume, and no product of its numbers overflows. Counts in blocks unless said otherwise.
#[derive(Debug, Clone)]
pub(crate) struct Superblock {
    pub(crate) kind: &'static str,
    pub(crate) label: String,
    /// Bytes of a block: 1 to 64 KiB.
    pub(crate) block_size: u64,
    /// Blocks that one bit of a bitmap stands for.
    pub(crate) cluster: u64,
    /// The first block of the first group.
    pub(crate) first_block: u64,
    /// The end of the last group.
    pub(crate) blocks: u64,
    pub(crate) free_blocks: u64,
    pub(crate) group_len: u64,
    /// At least 1, at most [`MAX_GROUPS`].
    pub(crate) groups: u64,
    /// Inodes of a group.
    pub(crate) group_inodes: u64,
    /// Bytes of an inode.
    pub(crate) inode_size: u64,
    /// Bytes of a group descriptor.
    pub(crate) descriptor_size: usize,
    /// Blocks kept free behind the descriptors, for more of them.
    pub(crate) reserved: u64,
    /// From which block of descriptors on these lie in the groups that they describe; `None` if all lie together.
    pub(crate) first_meta: Option<u64>,
    pub(crate) copies: Copies,
    pub(crate) sums: Sums,
    /// The journal's inode, if there is a journal.
    pub(crate) journal: Option<u64>,
    /// The block of multiple-mount protection, if there is one.
    pub(crate) mmp: Option<u64>,
}

/// Reads the superblock of a volume; distrusts what is not at rest or not understood.
pub(super) fn read(volume: &Window<'_>) -> Result<Superblock, Distrust> {
    let bytes = volume.read_up_to(AT, LEN)?;
    let fields = Fields(&bytes);
    if bytes.len() < LEN || fields.u16(0x38) != MAGIC {
        return Err(Distrust::because("its superblock is missing"));
    }
    check_features(fields)?;
    check_sum(fields)?;
    check_state(fields)?;
    let superblock =
        geometry(fields).ok_or_else(|| Distrust::because("its superblock contradicts itself"))?;
    let len = superblock.blocks.checked_mul(superblock.block_size);
    if len.is_none_or(|len| len > volume.len()) {
        return Err(Distrust::too_long());
    }
    if superblock.groups > MAX_GROUPS {
        let groups = superblock.groups;
        return Err(Distrust::because(format!("it has {groups} block groups, {MAX_GROUPS} are followed")));
    }
    check_copy(volume, &superblock, fields)?;
    Ok(superblock)
}

/// What it says of its journal; `None` if it is no superblock, or its journal is elsewhere.
pub(super) fn journal(volume: &Window<'_>) -> Option<Journal> {
    let bytes = volume.read_up_to(AT, LEN).ok()?;
    let fields = Fields(&bytes);
    if fields.u16(0x38) != MAGIC {
        return None;
    }
    let elsewhere = fields.u32(0x5c) & HAS_JOURNAL != 0 && fields.u32(0xe0) == 0;
    (!elsewhere).then(|| Journal::of(fields.u32(0x60) & RECOVER == 0))
}

fn check_features(fields: Fields<'_>) -> Result<(), Distrust> {
    let (compat, incompat, ro_compat) = (fields.u32(0x5c), fields.u32(0x60), fields.u32(0x64));
    if fields.u32(0x4c) != 1 {
        return Err(Distrust::because("it is of an unknown revision"));
    }
    if incompat & JOURNAL_DEVICE != 0 {
        return Err(Distrust::because("it is a journal"));
    }
    if incompat & RECOVER != 0 {
        return Err(Distrust::because("its journal was not replayed"));
    }
    if ro_compat & ORPHANS_PRESENT != 0 {
        return Err(Distrust::because("it was not unmounted cleanly"));
    }
    let unknown = [compat & !KNOWN_COMPAT, incompat & !KNOWN_INCOMPAT, ro_compat & !KNOWN_RO_COMPAT];
    if unknown != [0; 3] {
        let [compat, incompat, ro_compat] = unknown;
        return Err(Distrust::because(format!(
            "it has features that are not known here ({compat:#x}, {incompat:#x}, {ro_compat:#x})"
        )));
    }
    Ok(())
}

fn check_sum(fields: Fields<'_>) -> Result<(), Distrust> {
    if fields.u32(0x64) & METADATA_CSUM == 0 {
        return Ok(());
    }
    // 1 is CRC-32C; no other is defined.
    let right = fields.u8(0x175) == 1 && crc32c(!0, fields.slice(0, OWN_SUM)) == fields.u32(OWN_SUM);
    if right { Ok(()) } else { Err(Distrust::because("the checksum of its superblock is wrong")) }
}

fn check_state(fields: Fields<'_>) -> Result<(), Distrust> {
    let (state, orphan, errors) = (fields.u16(0x3a), fields.u32(0xe8), fields.u32(0x194));
    if state & ERRORS != 0 || errors != 0 {
        return Err(Distrust::because("errors were found in it, and not repaired since"));
    }
    if state != CLEAN || state & ORPHANS != 0 || orphan != 0 {
        return Err(Distrust::because("it was not unmounted cleanly"));
    }
    Ok(())
}

/// What a superblock says of where everything is, whatever state the filesystem is in; `None` if that contradicts itself. Its magic number is the caller's
/// to check, and so are its features and whether the volume is long enough.
pub(crate) fn geometry(fields: Fields<'_>) -> Option<Superblock> {
    let (compat, incompat, ro_compat) = (fields.u32(0x5c), fields.u32(0x60), fields.u32(0x64));
    let (block_shift, cluster_shift) = (fields.u32(0x18), fields.u32(0x1c));
    let has = |features: u32, feature: u32| features & feature != 0;
    let number = |low: usize, high: usize| {
        u64::from(fields.u32(low)) | if has(incompat, WIDE) { u64::from(fields.u32(high)) << 32 } else { 0 }
    };
    let bigalloc = has(ro_compat, BIGALLOC);
    let shifts = block_shift <= 6 && cluster_shift <= 20 && cluster_shift >= block_shift;
    if !shifts || (!bigalloc && cluster_shift != block_shift) {
        return None;
    }
    let block_size = 1024_u64 << block_shift;
    let first_block = u64::from(fields.u32(0x14));
    let blocks = number(0x4, 0x150);
    let group_len = u64::from(fields.u32(0x20));
    let group_inodes = u64::from(fields.u32(0x28));
    if first_block != u64::from(block_shift == 0 && !bigalloc) || blocks <= first_block || group_len == 0 {
        return None;
    }
    let reserved = u64::from(fields.u16(0xce));
    let meta = has(incompat, META_BG);
    let superblock = Superblock {
        kind: kind(compat, incompat, ro_compat),
        label: fields.text(0x78, 16).unwrap_or_default(),
        block_size,
        cluster: 1 << (cluster_shift - block_shift),
        first_block,
        blocks,
        free_blocks: number(0xc, 0x158),
        group_len,
        groups: (blocks - first_block).div_ceil(group_len),
        group_inodes,
        inode_size: u64::from(fields.u16(0x58)),
        descriptor_size: if has(incompat, WIDE) { usize::from(fields.u16(0xfe)) } else { 32 },
        reserved,
        first_meta: meta.then(|| u64::from(fields.u32(0x104))),
        copies: if has(compat, SPARSE_SUPER_2) {
            Copies::These([fields.u32(0x24c), fields.u32(0x250)])
        } else if has(ro_compat, SPARSE_SUPER) {
            Copies::Sparse
        } else {
            Copies::All
        },
        sums: sums(fields),
        journal: has(compat, HAS_JOURNAL).then(|| u64::from(fields.u32(0xe0))),
        mmp: has(incompat, MMP).then(|| fields.u64(0x168)),
    };
    let inodes = superblock.groups.checked_mul(group_inodes)?;
    let right = superblock.is_consistent() && inodes == u64::from(fields.u32(0)) && (reserved == 0 || !meta);
    right.then_some(superblock)
}

impl Superblock {
    fn is_consistent(&self) -> bool {
        let bits = self.block_size * 8;
        let clusters = self.group_len / self.cluster;
        self.group_len.is_multiple_of(self.cluster)
            && clusters.is_multiple_of(8)
            && clusters <= bits
            && (1..=bits).contains(&self.group_inodes)
            && self.inode_size.is_power_of_two()
            && (128..=self.block_size).contains(&self.inode_size)
            && (self.descriptor_size == 32 || self.descriptor_size >= 64)
            && self.descriptor_size.is_power_of_two()
            && self.descriptor_size as u64 <= self.block_size
            && self.free_blocks <= self.blocks.next_multiple_of(self.cluster)
    }
}

/// The name that `blkid` gives it.
fn kind(compat: u32, incompat: u32, ro_compat: u32) -> &'static str {
    if incompat & !EXT3_INCOMPAT != 0 || ro_compat & !EXT3_RO_COMPAT != 0 {
        "ext4"
    } else if compat & HAS_JOURNAL != 0 {
        "ext3"
    } else {
        "ext2"
    }
}

fn sums(fields: Fields<'_>) -> Sums {
    let (incompat, ro_compat) = (fields.u32(0x60), fields.u32(0x64));
    let uuid = fields.slice(0x68, 16);
    if ro_compat & METADATA_CSUM != 0 {
        let stored = incompat & CSUM_SEED != 0;
        Sums::Crc32c(if stored { fields.u32(0x270) } else { crc32c(!0, uuid) })
    } else if ro_compat & GDT_CSUM != 0 {
        Sums::Crc16(crc16(!0, uuid))
    } else {
        Sums::None
    }
}

/// Compares the first copy of the superblock, if there is one: another geometry there means that one of them is of an older filesystem.
fn check_copy(volume: &Window<'_>, superblock: &Superblock, primary: Fields<'_>) -> Result<(), Distrust> {
    let first = match superblock.copies {
        Copies::All | Copies::Sparse => 1,
        Copies::These([first, _]) => u64::from(first),
    };
    if first == 0 || first >= superblock.groups {
        return Ok(());
    }
    let block = superblock.first_block + first * superblock.group_len;
    let bytes = volume.read_up_to(block * superblock.block_size, LEN)?;
    let copy = Fields(&bytes);
    // Blocks, first block, sizes of blocks and clusters, blocks and inodes of a group, high half of blocks.
    let same =
        [0x4, 0x14, 0x18, 0x1c, 0x20, 0x28, 0x150].into_iter().all(|at| copy.u32(at) == primary.u32(at));
    let right = copy.u16(0x38) == MAGIC && u64::from(copy.u16(0x5a)) == (first & 0xffff) && same;
    if right { Ok(()) } else { Err(Distrust::because("a copy of its superblock differs")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_lie_where_they_belong() {
        let sparse: Vec<u64> = (0..130).filter(|group| Copies::Sparse.has(*group)).collect();
        assert_eq!(sparse, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125]);
        let these: Vec<u64> = (0..130).filter(|group| Copies::These([1, 77]).has(*group)).collect();
        assert_eq!(these, [0, 1, 77]);
    }
}
