//! What tests of parsers share.

use std::io;

use crate::partition::ReadAt;

/// Bytes as a disk; a read beyond its end stops the test.
pub(super) struct Disk<'a>(pub(super) &'a [u8]);

impl ReadAt for Disk<'_> {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).expect("no read overflows");
        let bytes = self.0.get(start..start + buf.len()).expect("no read goes beyond the end");
        buf.copy_from_slice(bytes);
        Ok(())
    }
}

#[test]
fn an_unknown_filesystem_is_named() {
    let said = super::survey(&Disk(&[0; 4096]), 0..4096, "zfs_member").unwrap_err().to_string();
    assert_eq!(said, "its filesystem is not one whose free blocks are known here (zfs_member)");
}
