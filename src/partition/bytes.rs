//! Bounded access to bytes that cannot be trusted.
//!
//! [`Window`] reads a part of a disk and never beyond it. [`Fields`] takes numbers and text out of a buffer; what
//! lies outside the buffer reads as zero, so that a short buffer fails the checks of magic numbers and sizes that
//! every parser makes anyway, and nothing can panic.

use std::io;

use super::ReadAt;

/// A part of a disk.
pub(crate) struct Window<'a> {
    disk: &'a dyn ReadAt,
    start: u64,
    len: u64,
}

impl<'a> Window<'a> {
    pub(crate) fn whole(disk: &'a dyn ReadAt) -> Self {
        Self { disk, start: 0, len: disk.len() }
    }

    /// The `len` bytes from `start`, cut at the disk's end.
    pub(crate) fn part(disk: &'a dyn ReadAt, start: u64, len: u64) -> Self {
        let start = start.min(disk.len());
        Self { disk, start, len: len.min(disk.len() - start) }
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Up to `limit` bytes from `offset`; fewer, or none, where the window ends.
    pub(crate) fn read_up_to(&self, offset: u64, limit: usize) -> io::Result<Vec<u8>> {
        let left = self.len.saturating_sub(offset);
        let mut buf = vec![0; usize::try_from(left).map_or(limit, |left| left.min(limit))];
        if !buf.is_empty() {
            self.disk.read_at(self.start + offset, &mut buf)?;
        }
        Ok(buf)
    }
}

/// A buffer whose fields are taken by offset; zeros lie beyond its end.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    /// The `N` bytes at `at`.
    pub(crate) fn array<const N: usize>(self, at: usize) -> [u8; N] {
        self.0.get(at..).and_then(|tail| tail.first_chunk()).copied().unwrap_or([0; N])
    }

    /// Up to `len` bytes at `at`.
    pub(crate) fn slice(self, at: usize, len: usize) -> &'a [u8] {
        let tail = self.0.get(at..).unwrap_or_default();
        tail.get(..len).unwrap_or(tail)
    }

    /// Whether `magic` stands at `at`.
    pub(crate) fn has(self, at: usize, magic: &[u8]) -> bool {
        self.slice(at, magic.len()) == magic
    }

    pub(crate) fn u8(self, at: usize) -> u8 {
        self.array::<1>(at)[0]
    }

    pub(crate) fn u16(self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    pub(crate) fn u32(self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    pub(crate) fn u64(self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    /// Text of at most `len` bytes at `at`; `None` if it is empty.
    pub(crate) fn text(self, at: usize, len: usize) -> Option<String> {
        let bytes = self.slice(at, len);
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        let text = printable(&String::from_utf8_lossy(&bytes[..end]));
        (!text.is_empty()).then_some(text)
    }

    /// A UUID of 16 bytes in the order they are written; `None` if all are zero.
    pub(crate) fn uuid(self, at: usize) -> Option<String> {
        let bytes = self.array::<16>(at);
        (bytes != [0; 16]).then(|| hyphenated(bytes))
    }

    /// A GUID: a UUID whose first three groups are little-endian.
    pub(crate) fn guid(self, at: usize) -> Option<String> {
        let [a, b, c, d, e, f, g, h, rest @ ..] = self.array::<16>(at);
        let [i, j, k, l, m, n, o, p] = rest;
        let bytes = [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p];
        (bytes != [0; 16]).then(|| hyphenated(bytes))
    }
}

/// Text from a disk, fit to be shown: no control characters, which could drive a terminal, and no padding.
pub(crate) fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.trim_end_matches(' ').chars().map(shown).collect()
}

fn hyphenated(bytes: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
