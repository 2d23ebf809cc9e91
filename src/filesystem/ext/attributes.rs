//! Extended attributes: in the inode behind its fields, in a block of their own, and values in inodes of their own.

use super::super::{Attribute, Filesystem, Result, damaged};
use super::Ext;
use super::inode::Inode;
use crate::partition::bytes::Fields;

const MAGIC: u32 = 0xea02_0000;
/// In front of the entries in a block.
const BLOCK_HEAD: usize = 32;
/// In front of an entry's name: lengths of name and kind, place, inode and length of the value, hash.
const HEAD: usize = 16;
/// The longest value; the kernel's interface has no longer ones.
const MAX_VALUE: usize = 64 << 10;
/// All values together: entries can share an inode.
const MAX_VALUES: usize = 4 << 20;
/// The kind of `system.` attributes, one of which continues the content of the inode.
const SYSTEM: u8 = 7;
const CONTENT: &[u8] = b"data";

/// Entries of access control lists: their kinds with an owner.
const USER: u16 = 2;
const GROUP: u16 = 8;

/// An entry with its value: kind, name, value.
type Raw = (u8, Vec<u8>, Vec<u8>);

impl Ext<'_> {
    pub(super) fn all_attributes(&self, inode: &Inode) -> Result<Vec<Attribute>> {
        let mut found = self.in_inode(inode)?;
        let block = inode.attributes_block();
        if block != 0 {
            let bytes = self.block(block)?;
            if Fields(&bytes).u32(0) != MAGIC {
                return Err(damaged("a block of attributes is none"));
            }
            found.extend(self.parse(&bytes, BLOCK_HEAD, 0)?);
        }
        found.retain(|(kind, name, _)| *kind != SYSTEM || name != CONTENT);
        found.into_iter().map(|(kind, name, value)| attribute(kind, &name, value)).collect()
    }

    /// What continues an inline content.
    pub(super) fn inline_rest(&self, inode: &Inode) -> Result<Option<Vec<u8>>> {
        let mut found = self.in_inode(inode)?.into_iter();
        Ok(found.find(|(kind, name, _)| *kind == SYSTEM && name == CONTENT).map(|(_, _, value)| value))
    }

    fn in_inode(&self, inode: &Inode) -> Result<Vec<Raw>> {
        let tail = inode.tail();
        if Fields(tail).u32(0) == MAGIC { self.parse(tail, 4, 4) } else { Ok(Vec::new()) }
    }

    /// Entries from `at` on; values are counted from `base`.
    fn parse(&self, bytes: &[u8], mut at: usize, base: usize) -> Result<Vec<Raw>> {
        let wrong = || damaged("extended attributes make no sense");
        let fields = Fields(bytes);
        let (mut found, mut total) = (Vec::new(), 0);
        // Four zeros end the list, and so does the end of the bytes, which reads as zeros.
        while fields.u32(at) != 0 {
            let name = fields.slice(at + HEAD, usize::from(fields.u8(at)));
            if name.len() < usize::from(fields.u8(at)) {
                return Err(wrong());
            }
            let (place, owner) = (base + usize::from(fields.u16(at + 2)), fields.u32(at + 4));
            let len = usize::try_from(fields.u32(at + 8)).ok().filter(|len| *len <= MAX_VALUE);
            let len = len.ok_or_else(wrong)?;
            let value =
                if owner == 0 { fields.slice(place, len).to_vec() } else { self.value_of(owner, len)? };
            if value.len() < len {
                return Err(wrong());
            }
            total += value.len();
            if total > MAX_VALUES {
                return Err(wrong());
            }
            found.push((fields.u8(at + 1), name.to_vec(), value));
            at += (HEAD + name.len()).next_multiple_of(4);
        }
        Ok(found)
    }

    /// A value that fills an inode.
    fn value_of(&self, inode: u32, len: usize) -> Result<Vec<u8>> {
        let inode = self.inode(inode)?;
        // It would be continued by an attribute, which could be this one.
        if inode.has_inline_data() {
            return Err(damaged("extended attributes make no sense"));
        }
        let content = self.content(&inode)?;
        let mut value = vec![0; len];
        self.read(&content, 0, &mut value)?;
        Ok(value)
    }
}

/// An attribute by the names and in the form of the kernel's interface.
fn attribute(kind: u8, name: &[u8], value: Vec<u8>) -> Result<Attribute> {
    let (prefix, value): (&[u8], _) = match kind {
        1 => (b"user.", value),
        2 => (b"system.posix_acl_access", access_list(&value)?),
        3 => (b"system.posix_acl_default", access_list(&value)?),
        4 => (b"trusted.", value),
        6 => (b"security.", value),
        SYSTEM => (b"system.", value),
        8 => (b"system.richacl", value),
        _ => (b"", value),
    };
    Ok(Attribute { name: [prefix, name].concat(), value })
}

/// An access control list, stored in version 1 where entries without an owner are short, in version 2.
fn access_list(stored: &[u8]) -> Result<Vec<u8>> {
    let wrong = || damaged("an access control list makes no sense");
    let fields = Fields(stored);
    if stored.len() < 4 || fields.u32(0) != 1 {
        return Err(wrong());
    }
    let mut list = 2_u32.to_le_bytes().to_vec();
    let mut at = 4;
    while at < stored.len() {
        let kind = fields.u16(at);
        let len = if matches!(kind, USER | GROUP) { 8 } else { 4 };
        let entry = stored.get(at..at + len).ok_or_else(wrong)?;
        list.extend(&entry[..4]);
        list.extend(entry.get(4..).filter(|owner| !owner.is_empty()).unwrap_or(&[0xff; 4]));
        at += len;
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_lists_are_widened() {
        let stored = [1, 0, 0, 0, 1, 0, 6, 0, 2, 0, 4, 0, 0xe8, 3, 0, 0, 4, 0, 4, 0];
        let list = access_list(&stored).unwrap();
        assert_eq!(list[..4], [2, 0, 0, 0]);
        assert_eq!(list[4..12], [1, 0, 6, 0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(list[12..20], [2, 0, 4, 0, 0xe8, 3, 0, 0]);
        assert_eq!(list.len(), 28);
        assert!(access_list(&stored[..10]).is_err() && access_list(&[2, 0, 0, 0]).is_err());
    }
}
