//! Signatures of filesystems and of what holds them (encryption, volume managers, RAID).
//!
//! A signature is a magic number where it belongs plus checks that make chance hits unlikely. Containers are
//! looked for first, since a mirror or an unlocked image can leave a filesystem's signature visible behind their
//! own. Names, labels and UUIDs are written as `blkid` writes them.
//!
//! It checks no checksums and cannot tell whether a filesystem is whole. It reads no labels that stand in a
//! directory of the filesystem (exFAT, a FAT label set after formatting).

mod all;
mod containers;
mod linux;
mod ntfs;
mod others;

use std::io;

pub(crate) use self::all::signatures;
pub(crate) use self::linux::SUSPENDED;
use super::bytes::{Fields, Window};

/// How much of the beginning is read: the last signature there is that of btrfs at 64 KiB, with a label after it.
const HEAD: usize = (64 << 10) + 1024;

pub(super) const ISO9660: &str = "iso9660";

/// What a disk or partition holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filesystem {
    pub(super) kind: &'static str,
    pub(super) label: Option<String>,
    pub(super) uuid: Option<String>,
    /// What it says itself of being ailing: the end of a sentence.
    pub(super) condition: Option<&'static str>,
}

impl Filesystem {
    fn new(kind: &'static str) -> Self {
        Self { kind, label: None, uuid: None, condition: None }
    }

    /// Kind, label and UUID.
    pub(super) fn into_parts(found: Option<Self>) -> (Option<String>, Option<String>, Option<String>) {
        found.map_or((None, None, None), |fs| (Some(fs.kind.to_owned()), fs.label, fs.uuid))
    }

    /// Whether its first sector looks like an MBR without being one.
    pub(super) fn owns_boot_sector(&self) -> bool {
        matches!(self.kind, "vfat" | "exfat" | "ntfs")
    }
}

/// Looks for a signature; `None` if there is none that is known.
///
/// # Errors
/// The medium's.
pub(super) fn probe(window: &Window<'_>) -> io::Result<Option<Filesystem>> {
    let bytes = window.read_up_to(0, HEAD)?;
    let head = Fields(&bytes);
    let first = containers::in_head(head);
    let found = match first {
        Some(found) => Some(found),
        None => containers::at_end(window)?,
    };
    let mut found = found.or_else(|| linux::detect(head)).or_else(|| others::detect(head));
    if let Some(found) = found.as_mut().filter(|found| found.kind == "ntfs") {
        found.label = ntfs::label(window, head);
    }
    Ok(found)
}
