//! Reparse points: links of several kinds, what Linux knows and Windows does not, and files that are kept elsewhere. No I/O.

use super::super::{Error, Kind, Result, bytes_of_utf16, unsupported};
use crate::partition::bytes::Fields;

const MOUNT_POINT: u32 = 0xa000_0003;
const SYMLINK: u32 = 0xa000_000c;
/// Of the Windows Subsystem for Linux: the target in UTF-8.
const LINUX_SYMLINK: u32 = 0xa000_001d;
/// Others of it.
const SOCKET: u32 = 0x8000_0023;
const FIFO: u32 = 0x8000_0024;
const CHARACTER: u32 = 0x8000_0025;
const BLOCK: u32 = 0x8000_0026;
/// Compressed by Windows with other methods than that of NTFS, and deduplicated.
const OVERLAY: u32 = 0x8000_0017;
const DEDUPLICATED: u32 = 0x8000_0013;
/// Those of clouds differ in these bits.
const CLOUD: u32 = 0x9000_001a;
const CLOUD_MASK: u32 = 0xffff_0fff;

/// What a reparse point says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reparse {
    /// A link to somewhere, with slashes for backslashes.
    Link(Vec<u8>),
    /// A pipe or socket, or a device whose numbers stand elsewhere and are 0 here.
    Special(Kind),
    /// Something else, by its tag.
    Other(u32),
}

impl Reparse {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let fields = Fields(bytes);
        let data = Fields(fields.slice(8, usize::from(fields.u16(4))));
        // Both names stand behind their places and lengths; that of a symbolic link has flags, too.
        let target = match fields.u32(0) {
            MOUNT_POINT => windows(data, 8),
            SYMLINK => windows(data, 12),
            LINUX_SYMLINK => data.0.get(4..).unwrap_or_default().to_vec(),
            SOCKET => return Ok(Self::Special(Kind::Socket)),
            FIFO => return Ok(Self::Special(Kind::Fifo)),
            CHARACTER => return Ok(Self::Special(Kind::Character(0, 0))),
            BLOCK => return Ok(Self::Special(Kind::Block(0, 0))),
            tag => return Ok(Self::Other(tag)),
        };
        if target.is_empty() || target.contains(&0) {
            return Err(unsupported("where it leads cannot be told"));
        }
        Ok(Self::Link(target))
    }
}

/// The name that is shown, or the other one without what only Windows understands.
fn windows(data: Fields<'_>, names: usize) -> Vec<u8> {
    let name = |at: usize| {
        let (start, len) = (usize::from(data.u16(at)), usize::from(data.u16(at + 2)));
        bytes_of_utf16(data.slice(names + start, len))
    };
    let mut target = name(4);
    if target.is_empty() {
        target = name(0);
        target = target.strip_prefix(b"\\??\\").map(<[u8]>::to_vec).unwrap_or(target);
    }
    target.iter_mut().filter(|byte| **byte == b'\\').for_each(|byte| *byte = b'/');
    target
}

/// Why the content of a file with such a tag is refused.
pub(super) fn refused(tag: u32) -> Error {
    let what = match tag {
        OVERLAY => "Windows has compressed it with a method that is not known here".to_owned(),
        DEDUPLICATED => "Windows has deduplicated it, and keeps its content elsewhere".to_owned(),
        tag if tag & CLOUD_MASK == CLOUD => "its content may be in a cloud".to_owned(),
        tag => format!("its content is kept elsewhere (reparse point {tag:#010x})"),
    };
    unsupported(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    fn point(tag: u32, head: &[u16], names: &[u8]) -> Vec<u8> {
        let data: Vec<u8> =
            head.iter().flat_map(|number| number.to_le_bytes()).chain(names.iter().copied()).collect();
        let len = (data.len() as u16).to_le_bytes();
        [&tag.to_le_bytes()[..], &len, &[0; 2], &data].concat()
    }

    #[test]
    fn links_lead_where_they_show() {
        let names = [utf16("\\??\\C:\\a"), utf16("C:\\a")].concat();
        let link = |text: &str| Reparse::Link(text.as_bytes().to_vec());
        assert_eq!(Reparse::parse(&point(SYMLINK, &[0, 16, 16, 8, 0, 0], &names)).unwrap(), link("C:/a"));
        assert_eq!(Reparse::parse(&point(MOUNT_POINT, &[0, 16, 16, 0], &names)).unwrap(), link("C:/a"));
        assert_eq!(Reparse::parse(&point(LINUX_SYMLINK, &[2, 0], b"../x")).unwrap(), link("../x"));
        assert_eq!(Reparse::parse(&point(FIFO, &[], b"")).unwrap(), Reparse::Special(Kind::Fifo));
        assert_eq!(Reparse::parse(&point(OVERLAY, &[], b"")).unwrap(), Reparse::Other(OVERLAY));
        assert!(Reparse::parse(&point(SYMLINK, &[0, 0xffff, 0, 0, 0, 0], b"")).is_err());
        assert!(Reparse::parse(&point(LINUX_SYMLINK, &[2, 0], b"a\0")).is_err());
        assert_eq!(Reparse::parse(b"").unwrap(), Reparse::Other(0));
    }
}
