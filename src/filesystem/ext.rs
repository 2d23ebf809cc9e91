//! ext2, ext3 and ext4 (Linux, *Documentation/filesystems/ext4*), whatever state they are in.
//!
//! A journal that was not replayed is replayed in memory ([`journal`]): what it holds stands in for the blocks that it is for. Checksums of inodes, directories
//! and extents are held against what they cover, where there are any, as the kernel does. Encrypted files are refused.

mod attributes;
mod blocks;
mod directory;
mod inode;
mod journal;

use self::inode::Inode;
use self::journal::Overlay;
use super::content::Content;
use super::volume::Volume;
use super::{Attribute, Entry, Filesystem, Kind, Metadata, Node, Result, damaged, unsupported};
use crate::allocation::ext::sums::{Sums, crc32c};
use crate::allocation::ext::superblock::{AT, LEN, Superblock, geometry};
use crate::partition::bytes::Fields;

const MAGIC: u16 = 0xef53;
/// Features without which files cannot be found: compression, a journal's own device.
const COMPRESSION: u32 = 0x1;
const JOURNAL_DEVICE: u32 = 0x8;
const RECOVER: u32 = 0x4;
/// File types in directories, recovery, meta_bg, extents, 64 bits, multiple-mount protection, flex_bg, attribute inodes, data in directories, checksum seed, large
/// directories, inline data, encryption, case folding.
const KNOWN: u32 = 0x2
    | RECOVER
    | 0x10
    | 0x40
    | 0x80
    | 0x100
    | 0x200
    | 0x400
    | 0x1000
    | 0x2000
    | 0x4000
    | 0x8000
    | 0x1_0000
    | 0x2_0000;
const FILE_TYPE: u32 = 0x2;
const LARGE_DIRECTORIES: u32 = 0x4000;
/// The journal of such holds more than blocks.
const FAST_COMMIT: u32 = 0x400;

/// The inode of the root directory.
const ROOT: u32 = 2;
/// The longest target of a symbolic link.
const MAX_TARGET: u64 = 4096;

/// Such a filesystem.
pub(super) struct Ext<'a> {
    volume: Volume<'a>,
    superblock: Superblock,
    overlay: Overlay,
    /// What checksums of inodes begin with, if there are any.
    seed: Option<u32>,
    features: u32,
    notes: Vec<String>,
    /// What may be wrong with all that is shown.
    warnings: Vec<String>,
}

/// Refuses what is stored in ways that are not known here.
fn check_features(fields: Fields<'_>) -> Result<()> {
    let features = fields.u32(0x60);
    let what = match features {
        _ if features & COMPRESSION != 0 => "it is compressed, which is not known here".to_owned(),
        _ if features & JOURNAL_DEVICE != 0 => "it is a journal, not a filesystem".to_owned(),
        _ if features & !KNOWN != 0 => {
            format!("it has features that are not known here ({:#x})", features & !KNOWN)
        }
        _ if fields.u32(0x4c) > 1 => "it is of an unknown revision".to_owned(),
        _ => return Ok(()),
    };
    Err(unsupported(what))
}

impl<'a> Ext<'a> {
    pub(super) fn open(volume: Volume<'a>) -> Result<Self> {
        let mut bytes = volume.read(AT, LEN)?;
        // What revision 0 leaves open has fixed values.
        if Fields(&bytes).u32(0x4c) == 0 {
            bytes[0x58..0x5a].copy_from_slice(&128_u16.to_le_bytes());
        }
        let fields = Fields(&bytes);
        let features = fields.u32(0x60);
        if fields.u16(0x38) != MAGIC {
            return Err(damaged("the superblock is missing"));
        }
        check_features(fields)?;
        let superblock = geometry(fields).ok_or_else(|| damaged("the superblock contradicts itself"))?;
        let seed = match superblock.sums {
            Sums::Crc32c(seed) => Some(seed),
            _ => None,
        };
        let fast = fields.u32(0x5c) & FAST_COMMIT != 0;
        let overlay = Overlay::default();
        let mut ext =
            Self { volume, superblock, overlay, seed, features, notes: Vec::new(), warnings: Vec::new() };
        if features & RECOVER != 0 {
            ext.replay(fast);
        }
        ext.tell_of_length();
        // Whoever opens a filesystem without a root would be told so only later.
        if !ext.inode(ROOT)?.is_directory() {
            return Err(damaged("its root is no directory"));
        }
        Ok(ext)
    }

    /// Reads the journal into memory. Without it, the filesystem is what it was at some time before.
    fn replay(&mut self, fast: bool) {
        let note = match journal::read(self) {
            Ok(overlay) => {
                if overlay.is_cut() {
                    self.warnings.push(
                        "its journal is damaged: it was replayed as far as it is whole, and what was written later is missing"
                            .to_owned(),
                    );
                }
                let note = format!(
                    "the filesystem was in use: its journal was replayed in memory ({} blocks)",
                    overlay.len()
                );
                self.overlay = overlay;
                if fast {
                    format!("{note}, but not its fast commits: the last seconds may be missing")
                } else {
                    note
                }
            }
            Err(error) => {
                self.warnings.push(format!(
                    "the filesystem was in use and its journal cannot be read ({error}): what is shown is older, and may contradict itself"
                ));
                return;
            }
        };
        self.notes.push(note);
    }

    fn tell_of_length(&mut self) {
        let len = self.superblock.blocks.saturating_mul(self.superblock.block_size);
        if len > self.volume.len() {
            let missing = len - self.volume.len();
            self.notes.push(format!(
                "the filesystem is {missing} bytes longer than what holds it: what lies there is lost"
            ));
        }
    }

    fn block_size(&self) -> usize {
        // At most 64 KiB.
        self.superblock.block_size as usize
    }

    /// Where a block lies in the volume, by the journal if that has it; and whether its beginning is to be put back.
    fn place(&self, block: u64) -> Result<(u64, bool)> {
        if block == 0 || block < self.superblock.first_block || block >= self.superblock.blocks {
            return Err(damaged("a block lies outside of it"));
        }
        let (block, escaped) = self.overlay.find(block).unwrap_or((block, false));
        Ok((block * self.superblock.block_size, escaped))
    }

    /// A block of metadata.
    fn block(&self, block: u64) -> Result<Vec<u8>> {
        let (at, escaped) = self.place(block)?;
        let mut bytes = self.volume.read(at, self.block_size())?;
        if escaped {
            bytes[..4].copy_from_slice(&journal::MAGIC.to_be_bytes());
        }
        Ok(bytes)
    }

    fn inode(&self, number: u32) -> Result<Inode> {
        let lost = || damaged("an inode has an impossible number");
        let index = u64::from(number.checked_sub(1).ok_or_else(lost)?);
        let superblock = &self.superblock;
        let (group, index) = (index / superblock.group_inodes, index % superblock.group_inodes);
        if group >= superblock.groups {
            return Err(lost());
        }
        let per_block = superblock.block_size / superblock.descriptor_size as u64;
        let descriptors = self.block(superblock.descriptor_block(group / per_block))?;
        let descriptor = Fields(
            Fields(&descriptors)
                .slice((group % per_block) as usize * superblock.descriptor_size, superblock.descriptor_size),
        );
        let table = u64::from(descriptor.u32(8)) | u64::from(descriptor.u32(0x28)) << 32;
        let at = index * superblock.inode_size;
        let block = table.checked_add(at / superblock.block_size).ok_or_else(lost)?;
        let bytes = self.block(block)?;
        let bytes =
            Fields(&bytes).slice((at % superblock.block_size) as usize, superblock.inode_size as usize);
        let seed = self.seed.map(|seed| crc32c(seed, &number.to_le_bytes()));
        Inode::parse(bytes, seed)
    }

    fn node(&self, node: Node) -> Result<Inode> {
        let number = u32::try_from(node.0).map_err(|_| damaged("an inode has an impossible number"))?;
        self.inode(number)
    }

    /// Bytes of an inode's content.
    fn size(&self, inode: &Inode) -> u64 {
        let high = !inode.is_directory() || self.features & LARGE_DIRECTORIES != 0;
        inode.size(high)
    }

    fn content(&self, inode: &Inode) -> Result<Content> {
        if inode.is_encrypted() {
            return Err(unsupported("it is encrypted"));
        }
        let len = self.size(inode);
        if inode.has_inline_data() {
            let mut bytes = inode.list().to_vec();
            if let Some(rest) = self.inline_rest(inode)? {
                bytes.extend(rest);
            }
            bytes.truncate(usize::try_from(len).unwrap_or(usize::MAX));
            return Ok(Content::inline(bytes, len));
        }
        Ok(Content::runs(self.runs(inode, len)?, len))
    }
}

impl Filesystem for Ext<'_> {
    fn kind(&self) -> &'static str {
        self.superblock.kind
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn root(&self) -> Node {
        Node(ROOT.into())
    }

    fn metadata(&self, node: Node) -> Result<Metadata> {
        let inode = self.node(node)?;
        let kind = inode.kind()?;
        let [accessed, modified] = inode.times();
        Ok(Metadata {
            kind,
            size: self.size(&inode),
            mode: Some(inode.permissions()),
            owner: Some(inode.owner()),
            modified,
            accessed,
            links: inode.links(),
            streams: Vec::new(),
        })
    }

    fn list(&self, node: Node) -> Result<Vec<Entry>> {
        let inode = self.node(node)?;
        if !inode.is_directory() {
            return Err(super::Error::NotDirectory);
        }
        self.entries(&inode)
    }

    fn target(&self, node: Node) -> Result<Vec<u8>> {
        let inode = self.node(node)?;
        let len = self.size(&inode);
        if inode.kind()? != Kind::Link || len > MAX_TARGET {
            return Err(damaged("a symbolic link is none, or too long"));
        }
        if inode.is_encrypted() {
            return Err(unsupported("it is encrypted"));
        }
        let len = len as usize;
        if inode.is_short_link(len) {
            return Ok(inode.list()[..len].to_vec());
        }
        let content = self.content(&inode)?;
        let mut target = vec![0; len];
        self.read(&content, 0, &mut target)?;
        Ok(target)
    }

    fn attributes(&self, node: Node) -> Result<Vec<Attribute>> {
        self.all_attributes(&self.node(node)?)
    }

    fn open(&self, node: Node) -> Result<Content> {
        let inode = self.node(node)?;
        if inode.kind()? != Kind::File {
            return Err(damaged("a file is none"));
        }
        self.content(&inode)
    }

    fn read(&self, content: &Content, offset: u64, buf: &mut [u8]) -> Result<()> {
        content.fill(&self.volume, offset, buf)?;
        self.put_back(content, offset, buf)
    }
}
