//! Devices, pipes, sockets and links as Interix and the Windows Subsystem for Linux keep them. No I/O.
//!
//! `ntfs-3g` writes the former unless told otherwise: files with the attribute "system", whose contents begin with a magic number, or are empty for a pipe and one
//! byte long for a socket. The latter are reparse points, and a device's numbers stand in an extended attribute. Source: what `ntfs-3g` 2022.10.3 writes.

use super::super::{Kind, bytes_of_utf16};
use crate::partition::bytes::Fields;

/// Attributes of a file, in its standard information.
const HIDDEN: u32 = 2;
const SYSTEM: u32 = 4;

const LINK: &[u8] = b"IntxLNK\x01";
const CHARACTER: &[u8] = b"IntxCHR\0";
const BLOCK: &[u8] = b"IntxBLK\0";
/// Behind the magic number: both numbers in 64 bits each.
const DEVICE_LEN: usize = 24;
/// The longest content that may be one: a path of 4095 characters.
pub(super) const MAX_LEN: u64 = 8 + 2 * 4095;

/// The extended attribute of a device.
const DEVICE_NAME: &[u8] = b"$LXDEV";
/// What stands in front of an extended attribute's name.
const ATTRIBUTE_HEAD: usize = 8;

/// What is not what it seems.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Special {
    /// A symbolic link, and where it leads.
    Link(Vec<u8>),
    /// A device, pipe or socket.
    Node(Kind),
}

/// Whether a file of these attributes and this length may be one of Interix.
pub(super) fn may_be(attributes: u32, len: u64) -> bool {
    attributes & SYSTEM != 0 && len <= MAX_LEN && (len > 1 || attributes & HIDDEN == 0)
}

/// What the content of such a file says; `None` if it is a file like others.
pub(super) fn of_interix(content: &[u8]) -> Option<Special> {
    let node = |kind| Some(Special::Node(kind));
    match content.len() {
        0 => return node(Kind::Fifo),
        1 => return node(Kind::Socket),
        _ => {}
    }
    if let Some(target) = content.strip_prefix(LINK) {
        let is_text = !target.is_empty() && target.len().is_multiple_of(2);
        let target = bytes_of_utf16(target);
        return (is_text && !target.contains(&0)).then_some(Special::Link(target));
    }
    let fields = Fields(content);
    let (major, minor) = (u32::try_from(fields.u64(8)).ok()?, u32::try_from(fields.u64(16)).ok()?);
    match content {
        _ if content.len() != DEVICE_LEN => None,
        _ if content.starts_with(CHARACTER) => node(Kind::Character(major, minor)),
        _ if content.starts_with(BLOCK) => node(Kind::Block(major, minor)),
        _ => None,
    }
}

/// The numbers of a device, from a file's extended attributes.
pub(super) fn device(attributes: &[u8]) -> Option<(u32, u32)> {
    let mut rest = attributes;
    loop {
        let fields = Fields(rest);
        let (len, name_len) = (fields.u32(0) as usize, usize::from(fields.u8(5)));
        let name = fields.slice(ATTRIBUTE_HEAD, name_len);
        if name.eq_ignore_ascii_case(DEVICE_NAME) {
            let value = Fields(fields.slice(ATTRIBUTE_HEAD + name_len + 1, usize::from(fields.u16(6))));
            return (value.0.len() == 8).then(|| (value.u32(0), value.u32(4)));
        }
        rest = rest.get(len..).filter(|_| len > ATTRIBUTE_HEAD)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_device(magic: &[u8], major: u64, minor: u64) -> Vec<u8> {
        [magic, &major.to_le_bytes(), &minor.to_le_bytes()].concat()
    }

    #[test]
    fn contents_are_what_interix_means_by_them() {
        assert_eq!(of_interix(b""), Some(Special::Node(Kind::Fifo)));
        assert_eq!(of_interix(b"\0"), Some(Special::Node(Kind::Socket)));
        let link = [LINK, b".\0.\0/\0\xfc\0"].concat();
        assert_eq!(of_interix(&link), Some(Special::Link("../ü".into())));
        for (magic, made) in [(CHARACTER, Kind::Character(1, 3)), (BLOCK, Kind::Block(1, 3))] {
            assert_eq!(of_interix(&with_device(magic, 1, 3)), Some(Special::Node(made)));
            assert_eq!(of_interix(&with_device(magic, 1 << 32, 3)), None);
            assert_eq!(of_interix(&with_device(magic, 1, 3)[..23]), None);
        }
        for other in [&b"hi"[..], LINK, b"IntxLNK\x01/", b"IntxLNK\x01a\0\0\0", b"IntxLNK\x02a\0"] {
            assert_eq!(of_interix(other), None, "{}", other.escape_ascii());
        }
    }

    #[test]
    fn only_files_of_the_system_are_asked() {
        assert!(may_be(SYSTEM, 0) && may_be(SYSTEM | HIDDEN, 30) && may_be(SYSTEM | 0x20, MAX_LEN));
        assert!(!may_be(0x20, 30) && !may_be(SYSTEM | HIDDEN, 0) && !may_be(SYSTEM, MAX_LEN + 1));
    }

    #[test]
    fn numbers_of_devices_are_found_among_attributes() {
        let attribute = |next: u32, name: &[u8], value: &[u8]| {
            let head = [next.to_le_bytes().to_vec(), vec![0, name.len() as u8]].concat();
            [&head, &(value.len() as u16).to_le_bytes()[..], name, b"\0", value].concat()
        };
        let value = [44_u32.to_le_bytes(), 70_000_u32.to_le_bytes()].concat();
        let device_of = |bytes: &[u8]| device(bytes);
        let mut all = attribute(20, b"$LXMOD", &[0; 4]);
        all.resize(20, 0);
        all.extend(attribute(0, DEVICE_NAME, &value));
        assert_eq!(device_of(&all), Some((44, 70_000)));
        assert_eq!(device_of(&all[..30]), None);
        assert_eq!(device_of(&all[..all.len() - 1]), None);
        for next in [0_u32, 1, u32::MAX] {
            all[..4].copy_from_slice(&next.to_le_bytes());
            assert_eq!(device_of(&all), None, "{next}");
        }
        assert_eq!(device_of(b""), None);
    }
}
