//! The superblock: how the volume is divided, and what the filesystem may hold.

use super::super::{Distrust, checked};
use super::big::Big;
use crate::partition::bytes::{Window, printable};

const MAGIC: &[u8; 4] = b"XFSB";
/// The largest sector, of which a superblock takes one.
const MAX_SECTOR: usize = 32 << 10;
const MAX_BLOCK: u64 = 64 << 10;
/// Fewer blocks make no allocation group, not even at the end.
const MIN_GROUP_BLOCKS: u64 = 64;
const MAX_GROUP_BYTES: u64 = 1 << 40;
const MAX_LOG_BYTES: u64 = 1 << 31;
const CHECKSUM_AT: usize = 224;

/// Version bit: blocks are shared in a way that no kernel ever could.
const SHARED: u16 = 0x0200;
/// Version bit: `features2` is used.
const MORE_BITS: u16 = 0x8000;
/// Lazy counters, attributes of version 2, 32-bit project ids, checksums, types in directories.
const KNOWN_FEATURES_2: u32 = 0x002 | 0x008 | 0x080 | 0x100 | 0x200;
/// Trees of free inodes, reverse mappings, shared extents, counts of inode blocks.
const KNOWN_RO_COMPAT: u32 = 0x1 | 0x2 | 0x4 | 0x8;
const FREE_INODES: u32 = 0x1;
const REVERSE_MAP: u32 = 0x2;
const SHARED_EXTENTS: u32 = 0x4;
/// Types in directories, sparse inodes, a second UUID, big timestamps, large extent counts, exchanged ranges, parent pointers.
const KNOWN_INCOMPAT: u32 = 0x01 | 0x02 | 0x04 | 0x08 | 0x20 | 0x40 | 0x80;
const SECOND_UUID: u32 = 0x04;
const NEEDS_REPAIR: u32 = 0x10;

/// What a superblock says.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    pub(super) geometry: Geometry,
    pub(super) label: String,
    /// Blocks that are free or kept for trees to grow; right after an unmount only.
    pub(super) free_blocks: u64,
}

/// What of a superblock does not change while files do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Bytes of a block, 512 to 64 KiB.
    pub(super) block: u64,
    /// Bytes of a sector; the headers of a group take four.
    pub(super) sector: u64,
    /// Blocks of the filesystem. They lie within the volume.
    pub(super) blocks: u64,
    /// Blocks of each group but the last.
    pub(super) group_blocks: u64,
    pub(super) groups: u32,
    /// The log's first byte and length.
    pub(super) log: (u64, u64),
    /// The UUID that users see.
    pub(super) uuid: [u8; 16],
    /// The UUID that stands in metadata.
    pub(super) meta_uuid: [u8; 16],
    /// Version 5: metadata has checksums.
    pub(super) checksums: bool,
    pub(super) ro_compat: u32,
    incompat: u32,
}

impl Superblock {
    /// Reads the first superblock; also returns its sector as it stands there.
    pub(super) fn read(volume: &Window<'_>) -> Result<(Self, Vec<u8>), Distrust> {
        let mut sector = volume.read_up_to(0, MAX_SECTOR)?;
        let len = usize::from(Big(&sector).u16(102));
        if len > sector.len() {
            return Err(Distrust::because("its superblock is damaged"));
        }
        sector.truncate(len);
        let superblock = Self::parse(&sector)?;
        let Geometry { block, blocks, .. } = superblock.geometry;
        if blocks.checked_mul(block).is_none_or(|bytes| bytes > volume.len()) {
            return Err(Distrust::too_long());
        }
        Ok((superblock, sector))
    }

    /// Takes a sector apart whose checksum is right.
    fn parse(sector: &[u8]) -> Result<Self, Distrust> {
        if Big(sector).u16(100) & 0xf == 5 && !Big(sector).has_checksum(CHECKSUM_AT) {
            return Err(Distrust::because("the checksum of its superblock is wrong"));
        }
        Self::parse_unsealed(sector)
    }

    /// Takes a sector apart; what is replayed from a log has no checksum yet.
    pub(super) fn parse_unsealed(sector: &[u8]) -> Result<Self, Distrust> {
        let fields = Big(sector);
        if !sector.starts_with(MAGIC) {
            return Err(Distrust::because("it has no superblock"));
        }
        let version = check_features(fields)?;
        let geometry = Geometry::parse(fields, version == 5)?;
        if geometry.sector != sector.len() as u64 {
            return Err(damaged());
        }
        let name: [u8; 12] = fields.array(108);
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let label = printable(&String::from_utf8_lossy(name));
        Ok(Self { geometry, label, free_blocks: fields.u64(144) })
    }

    /// Whether the copy in another group agrees in all that places blocks. Copies stay marked as unfinished, and their counters as they were at first;
    /// some tools add features to the first alone.
    pub(super) fn agrees_with_copy(&self, sector: &[u8]) -> bool {
        let (own, fields) = (&self.geometry, Big(sector));
        let sealed = !own.checksums || fields.has_checksum(CHECKSUM_AT);
        let copy = Geometry::parse(fields, own.checksums);
        sector.starts_with(MAGIC)
            && sealed
            && copy.is_ok_and(|copy| {
                (own.block, own.sector, own.blocks, own.group_blocks, own.log, own.uuid)
                    == (copy.block, copy.sector, copy.blocks, copy.group_blocks, copy.log, copy.uuid)
            })
    }
}

/// Refuses whatever is not known to leave the trees of free space as they are; returns the version.
fn check_features(fields: Big<'_>) -> Result<u16, Distrust> {
    let (bits, more) = (fields.u16(100), fields.u32(200));
    let version = bits & 0xf;
    let [compat, ro_compat, incompat, log_incompat] = [208, 212, 216, 220].map(|at| fields.u32(at));
    let unknown = match version {
        4 => false,
        5 => compat != 0 || ro_compat & !KNOWN_RO_COMPAT != 0 || log_incompat != 0,
        _ => return Err(Distrust::because(format!("version {version} of its format is not known"))),
    };
    if version == 5 && incompat & NEEDS_REPAIR != 0 {
        return Err(Distrust::because("it is marked as needing repair"));
    }
    let unknown = unknown
        || version == 5 && incompat & !KNOWN_INCOMPAT != 0
        || bits & SHARED != 0
        || bits & MORE_BITS != 0 && more & !KNOWN_FEATURES_2 != 0;
    if unknown {
        return Err(Distrust::because("it has features that are not known here"));
    }
    if fields.array::<1>(126) != [0] {
        return Err(Distrust::because("it was never made to its end"));
    }
    if fields.u64(16) != 0 || fields.u64(24) != 0 {
        return Err(Distrust::because("it has a realtime section"));
    }
    if fields.u64(48) == 0 {
        return Err(Distrust::because("its log lies on another device"));
    }
    Ok(version)
}

impl Geometry {
    fn parse(fields: Big<'_>, checksums: bool) -> Result<Self, Distrust> {
        let block = u64::from(fields.u32(4));
        let sector = u64::from(fields.u16(102));
        let [block_log, sector_log, _, _, group_log] = fields.array::<5>(120);
        let sizes_agree = block.is_power_of_two()
            && sector.is_power_of_two()
            && (512..=MAX_BLOCK).contains(&block)
            && (512..=MAX_SECTOR as u64).contains(&sector)
            && sector <= block
            && (u32::from(block_log), u32::from(sector_log)) == (block.ilog2(), sector.ilog2());
        if !sizes_agree {
            return Err(damaged());
        }
        let blocks = fields.u64(8);
        let group_blocks = u64::from(fields.u32(84));
        let groups = fields.u32(88);
        let divided = group_blocks >= MIN_GROUP_BLOCKS
            && group_blocks * block <= MAX_GROUP_BYTES
            && blocks.div_ceil(group_blocks) == u64::from(groups)
            && blocks.checked_mul(block).is_some()
            && u32::from(group_log) == group_blocks.next_power_of_two().ilog2();
        if !divided {
            return Err(damaged());
        }
        let (ro_compat, incompat) = if checksums { (fields.u32(212), fields.u32(216)) } else { (0, 0) };
        let uuid = fields.array(32);
        let meta_uuid = if incompat & SECOND_UUID != 0 { fields.array(248) } else { uuid };
        let mut geometry = Self {
            block,
            sector,
            blocks,
            group_blocks,
            groups,
            log: (0, 0),
            uuid,
            meta_uuid,
            checksums,
            ro_compat,
            incompat,
        };
        geometry.log = geometry.place_log(fields.u64(48), u64::from(fields.u32(96)), group_log)?;
        Ok(geometry)
    }

    /// The log's bytes: it must lie in one group, behind its headers. Block numbers have the group's in their upper bits.
    fn place_log(&self, first: u64, blocks: u64, group_log: u8) -> Result<(u64, u64), Distrust> {
        let group = first >> group_log;
        let within = first - (group << group_log);
        let fits = group < u64::from(self.groups)
            && blocks > 0
            && within + blocks <= self.blocks_of(group)
            && within * self.block >= 4 * self.sector
            && blocks * self.block <= MAX_LOG_BYTES;
        if fits {
            Ok(((group * self.group_blocks + within) * self.block, blocks * self.block))
        } else {
            Err(damaged())
        }
    }

    /// Blocks of a group that exists.
    pub(super) fn blocks_of(&self, group: u64) -> u64 {
        self.group_blocks.min(self.blocks - group * self.group_blocks)
    }

    pub(super) fn has_free_inodes_tree(&self) -> bool {
        self.ro_compat & FREE_INODES != 0
    }

    pub(super) fn has_reverse_map(&self) -> bool {
        self.ro_compat & REVERSE_MAP != 0
    }

    pub(super) fn has_shared_extents(&self) -> bool {
        self.ro_compat & SHARED_EXTENTS != 0
    }
}

/// The four sectors at the beginning of each group: superblock, and headers of space, inodes and spare blocks.
pub(super) fn group_headers(
    volume: &Window<'_>,
    geometry: &Geometry,
    start: u64,
) -> Result<Vec<u8>, Distrust> {
    checked::read(volume, start, 4 * geometry.sector as usize)
}

fn damaged() -> Distrust {
    Distrust::because("its superblock is damaged")
}
