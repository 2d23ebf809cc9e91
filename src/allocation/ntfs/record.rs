//! Records of the master file table and their attributes. No I/O.

use super::super::Distrust;
use crate::partition::bytes::Fields;
use crate::partition::update_sequence::{self, Wrong};

/// Kinds of attributes.
pub(crate) const ATTRIBUTE_LIST: u32 = 0x20;
pub(crate) const FILE_NAME: u32 = 0x30;
pub(crate) const VOLUME_NAME: u32 = 0x60;
pub(crate) const VOLUME_INFORMATION: u32 = 0x70;
pub(crate) const DATA: u32 = 0x80;
pub(crate) const BITMAP: u32 = 0xb0;
const END: u32 = 0xffff_ffff;

/// Bytes of the longest name: 255 characters.
pub(crate) const MAX_NAME: usize = 510;
/// Records that know their own number have their fix-ups behind it.
const NUMBERED: u16 = 48;
const FLAG_IN_USE: u16 = 1;
/// Bytes that both kinds of attributes have at least.
const MIN_ATTRIBUTE: usize = 24;

/// Puts back what was replaced in a structure of NTFS.
///
/// # Errors
/// If it was torn.
pub(crate) fn put_back(bytes: &mut [u8]) -> Result<(), Distrust> {
    update_sequence::put_back(bytes).map_err(|wrong| match wrong {
        Wrong::Nonsense => damaged(),
        Wrong::Torn => Distrust::because("a write to its master file table or its log was torn"),
    })
}

/// A record, put back.
#[derive(Clone, Copy)]
pub(crate) struct Record<'a>(Fields<'a>);

/// An attribute of a record.
#[derive(Clone, Copy)]
pub(crate) struct Attribute<'a> {
    pub(crate) kind: u32,
    pub(crate) is_named: bool,
    /// Compressed, encrypted or sparse.
    pub(crate) is_special: bool,
    /// All of it, its head included.
    pub(crate) bytes: Fields<'a>,
    /// What it holds, if that is in the record.
    pub(crate) value: Option<Fields<'a>>,
}

impl<'a> Record<'a> {
    /// Puts back and checks what has the number `number`.
    pub(crate) fn open(bytes: &'a mut [u8], number: u64) -> Result<Self, Distrust> {
        if !bytes.starts_with(b"FILE") {
            return Err(damaged());
        }
        put_back(bytes)?;
        let head = Fields(bytes);
        let used = head.u32(24) as usize;
        let numbered = head.u16(4) >= NUMBERED;
        if used > bytes.len() || numbered && u64::from(head.u32(44)) != number {
            return Err(damaged());
        }
        Ok(Self(Fields(&bytes[..used])))
    }

    /// Whether a record that was not opened says that it is in use.
    pub(crate) fn seems_in_use(bytes: &[u8]) -> bool {
        let head = Fields(bytes);
        head.has(0, b"FILE") && head.u16(22) & FLAG_IN_USE != 0
    }

    pub(crate) fn is_in_use(self) -> bool {
        self.0.u16(22) & FLAG_IN_USE != 0
    }

    /// The bytes that mean something.
    pub(crate) fn used_bytes(self) -> &'a [u8] {
        self.0.0
    }

    /// The attributes up to the first that is damaged, or the end.
    pub(crate) fn attributes(self) -> impl Iterator<Item = Result<Attribute<'a>, Distrust>> {
        let mut at = Some(usize::from(self.0.u16(20)));
        std::iter::from_fn(move || {
            let start = at?;
            // Zeros lie beyond the end, and no attribute is of the kind 0.
            if self.0.u32(start) == END {
                at = None;
                return None;
            }
            let attribute = self.attribute(start);
            at = attribute.as_ref().ok().map(|attribute| start + attribute.bytes.0.len());
            Some(attribute)
        })
    }

    fn attribute(self, at: usize) -> Result<Attribute<'a>, Distrust> {
        let (kind, len) = (self.0.u32(at), self.0.u32(at + 4) as usize);
        let bytes = Fields(self.0.slice(at, len));
        if kind == 0 || at < MIN_ATTRIBUTE || len < MIN_ATTRIBUTE || len % 8 != 0 || bytes.0.len() < len {
            return Err(damaged());
        }
        let value = match bytes.u8(8) {
            0 => Some(resident(bytes)?),
            1 => None,
            _ => return Err(damaged()),
        };
        Ok(Attribute { kind, is_named: bytes.u8(9) != 0, is_special: bytes.u16(12) != 0, bytes, value })
    }
}

fn resident(attribute: Fields<'_>) -> Result<Fields<'_>, Distrust> {
    let (len, at) = (attribute.u32(16) as usize, usize::from(attribute.u16(20)));
    let value = attribute.slice(at, len);
    if value.len() < len { Err(damaged()) } else { Ok(Fields(value)) }
}

pub(crate) fn damaged() -> Distrust {
    Distrust::because("its master file table is damaged")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::update_sequence::tests::marked;

    #[test]
    fn attributes_end_or_are_damaged() {
        let mut bytes = marked();
        bytes[20] = 56;
        bytes[24..28].copy_from_slice(&96_u32.to_le_bytes());
        bytes[56..64].copy_from_slice(b"\x80\0\0\0\x20\0\0\0");
        bytes[72..78].copy_from_slice(b"\x03\0\0\0\x18\0");
        bytes[80..83].copy_from_slice(b"abc");
        bytes[88..92].fill(0xff);
        let mut whole = bytes.clone();
        let found: Result<Vec<_>, _> = Record::open(&mut whole, 0).unwrap().attributes().collect();
        let found = found.unwrap();
        assert_eq!((found.len(), found[0].kind, found[0].value.unwrap().0), (1, DATA, &b"abc"[..]));
        for (at, byte) in [(60, 0), (60, 0x21), (61, 2), (64, 2), (72, 9), (88, 0), (20, 0), (20, 90)] {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            let record = Record::open(&mut bytes, 0).unwrap();
            assert!(record.attributes().any(|attribute| attribute.is_err()), "byte {at}");
        }
    }
}
