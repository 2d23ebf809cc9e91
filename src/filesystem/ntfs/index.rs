//! Directories: an index of names, in the record and in blocks of which a bitmap tells which are in use.
//!
//! The order of the index is not needed, so no tree is walked: the blocks are read one by one.

use super::super::{Entry, Names, Result, bytes_of_utf16, damaged, unsupported};
use super::file::File;
use super::{Ntfs, ROOT, Reference};
use crate::allocation::ntfs::record::{BITMAP, put_back};
use crate::partition::bytes::Fields;

/// `$I30` in UTF-16: the index of names.
const NAME: &[u8] = b"$\0I\x003\x000\0";
pub(super) const INDEX_ROOT: u32 = 0x90;
const INDEX_ALLOCATION: u32 = 0xa0;
/// Where the index's own head stands in its root and in a block.
const ROOT_HEAD: usize = 16;
const BLOCK_HEAD: usize = 24;
/// Lengths of a block, and the most blocks.
const BLOCK: std::ops::RangeInclusive<u32> = 512..=64 << 10;
const MAX_BLOCKS: u64 = 1 << 19;
/// The last entry has no name.
const LAST: u16 = 2;
const DOS: u8 = 2;
const DIRECTORY: u32 = 0x1000_0000;

impl Ntfs<'_> {
    /// The names in a directory.
    pub(super) fn entries(&self, file: &File) -> Result<Vec<Entry>> {
        let mut names = Names::default();
        let root =
            file.content(self, INDEX_ROOT, NAME)?.ok_or_else(|| damaged("a directory has no index"))?;
        let mut bytes = vec![0; usize::try_from(root.len()).unwrap_or(0).min(self.boot.record)];
        root.fill(&self.volume, 0, &mut bytes)?;
        self.names(&bytes, ROOT_HEAD, &mut names)?;
        let Some(blocks) = file.content(self, INDEX_ALLOCATION, NAME)? else { return Ok(names.entries) };
        let size =
            Some(Fields(&bytes).u32(8)).filter(|size| BLOCK.contains(size) && size.is_multiple_of(512));
        let size = u64::from(size.ok_or_else(|| damaged("a directory's index makes no sense"))?);
        let count = blocks.len() / size;
        if count > MAX_BLOCKS {
            return Err(unsupported("the directory is longer than can be listed"));
        }
        let used =
            file.content(self, BITMAP, NAME)?.ok_or_else(|| damaged("a directory's index makes no sense"))?;
        let mut bitmap = vec![0; count.div_ceil(8).min(used.len()) as usize];
        used.fill(&self.volume, 0, &mut bitmap)?;
        let is_used =
            |block: &u64| bitmap.get((block / 8) as usize).is_some_and(|byte| byte & (1 << (block % 8)) != 0);
        for block in (0..count).filter(is_used) {
            let mut bytes = vec![0; size as usize];
            blocks.fill(&self.volume, block * size, &mut bytes)?;
            if !bytes.starts_with(b"INDX") {
                return Err(damaged("a block of a directory is none"));
            }
            put_back(&mut bytes)?;
            self.names(&bytes, BLOCK_HEAD, &mut names)?;
        }
        Ok(names.entries)
    }

    /// The entries of a node whose head stands at `head`.
    fn names(&self, bytes: &[u8], head: usize, names: &mut Names) -> Result<()> {
        let wrong = || damaged("a directory's index makes no sense");
        let fields = Fields(bytes);
        let mut at = head.checked_add(fields.u32(head) as usize).ok_or_else(wrong)?;
        let end = head
            .checked_add(fields.u32(head + 4) as usize)
            .filter(|end| *end <= bytes.len())
            .ok_or_else(wrong)?;
        while at < end {
            let len = usize::from(fields.u16(at + 8));
            if fields.u16(at + 12) & LAST != 0 {
                return Ok(());
            }
            let entry = Fields(fields.slice(at, len));
            let key = Fields(entry.slice(16, usize::from(entry.u16(10))));
            let name = key.slice(66, usize::from(key.u8(64)) * 2);
            if len < 16 || at + len > end || name.len() < usize::from(key.u8(64)) * 2 {
                return Err(wrong());
            }
            let reference = Reference::of(entry.u64(0));
            // The root is a name in itself.
            if key.u8(65) != DOS && reference.number != ROOT {
                names.add(Entry {
                    name: bytes_of_utf16(name),
                    node: reference.node(),
                    // Links to directories say that they are some.
                    is_directory: (key.u32(56) & DIRECTORY == 0).then_some(false),
                })?;
            }
            at += len;
        }
        Ok(())
    }
}
