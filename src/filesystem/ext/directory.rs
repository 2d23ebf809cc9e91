//! Directories: blocks of entries one behind the other. Their hash trees look like blocks of empty entries, so they are not needed.

use super::super::{Content, Entry, Filesystem, Names, Node, Result, damaged, unsupported};
use super::inode::Inode;
use super::{Ext, FILE_TYPE};
use crate::allocation::ext::sums::crc32c;
use crate::partition::bytes::Fields;

/// The longest directory, in bytes: the kernel makes them no longer unless it is asked to.
const MAX_LEN: u64 = 2 << 30;
/// In front of a name: inode, length of the entry and of the name, kind.
const HEAD: usize = 8;
/// The last entry of a block with a checksum: no name, and the checksum behind its head.
const TAIL: usize = 12;
const TAIL_KIND: u8 = 0xde;
/// An inline directory begins with its parent's number.
const PARENT: usize = 4;
/// An entry's length in a block of 64 KiB, which does not fit its field.
const WHOLE: [usize; 2] = [0, 0xffff];

/// Whether a block of an indexed directory leads to others: it looks as if it held one entry for nothing.
fn is_node(block: &[u8]) -> bool {
    let len = usize::from(Fields(block).u16(4));
    Fields(block).u32(0) == 0 && (len == block.len() || WHOLE.contains(&len))
}

impl Ext<'_> {
    /// The names in a directory.
    pub(super) fn entries(&self, inode: &Inode) -> Result<Vec<Entry>> {
        let content = self.content(inode)?;
        let mut names = Names::default();
        if inode.has_inline_data() {
            self.inline(inode, &content, &mut names)?;
            return Ok(names.entries);
        }
        if content.len() > MAX_LEN {
            return Err(unsupported("the directory is longer than can be listed"));
        }
        let size = self.superblock.block_size;
        let mut block = vec![0; self.block_size()];
        let mut at = 0;
        while let Some(data) = content.next_data(at) {
            // Holes are skipped; blocks are whole.
            at = data.start / size * size;
            if at + size > content.len() {
                return Err(damaged("a directory has a part of a block"));
            }
            self.read(&content, at, &mut block)?;
            if !(inode.is_indexed() && (at == 0 || is_node(&block))) {
                self.check_sum(inode, &block)?;
            }
            self.names(&block, &mut names)?;
            at += size;
        }
        Ok(names.entries)
    }

    /// Entries in the inode: behind the parent's number, and, as a list of their own, in the attribute that continues it.
    fn inline(&self, inode: &Inode, content: &Content, names: &mut Names) -> Result<()> {
        let first = inode.list().len();
        let len = usize::try_from(content.len()).unwrap_or(usize::MAX).min(self.block_size());
        let mut bytes = vec![0; len];
        self.read(content, 0, &mut bytes)?;
        let (head, rest) = bytes.split_at(first.min(len));
        self.names(head.get(PARENT..).unwrap_or_default(), names)?;
        self.names(rest, names)
    }

    /// The checksum of a block of entries. That of a node stands elsewhere, and the mark of a block of entries may have been left in it.
    fn check_sum(&self, inode: &Inode, block: &[u8]) -> Result<()> {
        let tail = block.len() - TAIL;
        let fields = Fields(block);
        let has_tail = fields.u32(tail) == 0
            && usize::from(fields.u16(tail + 4)) == TAIL
            && fields.u8(tail + 6) == 0
            && fields.u8(tail + 7) == TAIL_KIND;
        let Some(seed) = inode.seed.filter(|_| has_tail) else { return Ok(()) };
        if crc32c(seed, &block[..tail]) != fields.u32(tail + 8) {
            return Err(damaged("the checksum of a directory is wrong"));
        }
        Ok(())
    }

    fn names(&self, block: &[u8], names: &mut Names) -> Result<()> {
        let wrong = || damaged("a directory makes no sense");
        let fields = Fields(block);
        let mut at = 0;
        while at + HEAD <= block.len() {
            let mut len = usize::from(fields.u16(at + 4));
            if block.len() == 1 << 16 && WHOLE.contains(&len) {
                len = block.len();
            }
            let has_kind = self.features & FILE_TYPE != 0;
            // One byte, also where none behind it tells the kind: the tail of a block has its mark there.
            let name_len = usize::from(fields.u8(at + 6));
            if len < HEAD || !len.is_multiple_of(4) || at + len > block.len() || HEAD + name_len > len {
                return Err(wrong());
            }
            let name = fields.slice(at + HEAD, name_len);
            let number = fields.u32(at);
            if number != 0 && !matches!(name, b"" | b"." | b"..") {
                let kind = Some(fields.u8(at + 7)).filter(|kind| has_kind && *kind != 0);
                names.add(Entry {
                    name: name.to_vec(),
                    node: Node(number.into()),
                    is_directory: kind.map(|kind| kind == 2),
                })?;
            }
            at += len;
        }
        Ok(())
    }
}
