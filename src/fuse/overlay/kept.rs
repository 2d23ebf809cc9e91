//! The file of a writable layer that is kept: `docs/format.md`, section 16.
//!
//! The image's blocks, then a bit for each, then a header. Bits are written after the blocks that they speak of are durable, so that a crash loses
//! what was not synced and nothing else. The file is this machine's own and mode 0600; still, nothing in it is believed without a look.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::FlockOperation;

use super::{BLOCK, GROUP, OverlayError};
use crate::format::limits::MAX_IMAGE;
use crate::id::ArchiveId;

const MAGIC: &[u8; 16] = b"copal overlay 1\n";
/// Where the archive's id ends.
const ID_END: usize = MAGIC.len() + ArchiveId::LEN;
/// Bytes of the header.
const HEADER: usize = ID_END + 12;
/// Bytes of bits that are read at once.
const PIECE: usize = 1 << 20;

/// What a kept file belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) archive: ArchiveId,
    pub(super) member: u32,
    /// Length of the image in bytes.
    pub(super) len: u64,
}

impl Header {
    pub(super) fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..16].copy_from_slice(MAGIC);
        bytes[16..ID_END].copy_from_slice(self.archive.as_bytes());
        bytes[ID_END..ID_END + 4].copy_from_slice(&self.member.to_le_bytes());
        bytes[ID_END + 4..].copy_from_slice(&self.len.to_le_bytes());
        bytes
    }
}

/// Where the bits begin: behind the image's last block.
fn bits_at(len: u64) -> u64 {
    len.next_multiple_of(BLOCK)
}

/// How many groups of 64 blocks there are.
fn groups(len: u64) -> u64 {
    len.div_ceil(BLOCK).div_ceil(GROUP)
}

/// Where the header stands.
fn header_at(len: u64) -> u64 {
    bits_at(len) + 8 * groups(len)
}

/// Opens the file at `path`, or makes it, and locks it. Returns what was written before, by groups.
pub(super) fn open(path: &Path, header: &Header) -> Result<(File, HashMap<u64, u64>), OverlayError> {
    let failed = |source| OverlayError::Io { path: path.to_owned(), source };
    if header.len > MAX_IMAGE {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(path).map_err(failed)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(OverlayError::InUse { path: path.to_owned() }),
        locked => locked.map_err(io::Error::from).map_err(failed)?,
    }
    let at = header_at(header.len);
    if file.metadata().map_err(failed)?.len() == 0 {
        // One that somebody made before, empty, may have other permissions.
        file.set_permissions(Permissions::from_mode(0o600)).map_err(failed)?;
        file.write_all_at(&header.to_bytes(), at).and_then(|()| file.sync_all()).map_err(failed)?;
        return Ok((file, HashMap::new()));
    }
    check(&file, header).map_err(|reason| OverlayError::Foreign { path: path.to_owned(), reason })?;
    let written = load(&file, header.len).map_err(failed)?;
    Ok((file, written))
}

/// Whether the file is the one of this image.
fn check(file: &File, header: &Header) -> Result<(), &'static str> {
    let mut found = [0; HEADER];
    let at = header_at(header.len);
    file.read_exact_at(&mut found, at).map_err(|_| "it is too short")?;
    if found[..16] != *MAGIC {
        return Err("it is none that this version makes, or one of an image of another size");
    }
    if found != header.to_bytes() {
        return Err("it belongs to another archive or member");
    }
    let is_private = file.metadata().is_ok_and(|found| {
        found.is_file() && found.mode() & 0o077 == 0 && found.uid() == rustix::process::geteuid().as_raw()
    });
    if is_private { Ok(()) } else { Err("others may read or write it") }
}

/// Reads all bits that are not zero. Holes are passed over.
fn load(file: &File, len: u64) -> io::Result<HashMap<u64, u64>> {
    let end = header_at(len);
    let last = len.div_ceil(BLOCK);
    let mut written = HashMap::new();
    let mut buf = vec![0; PIECE];
    let mut at = bits_at(len);
    while at < end {
        // As a filesystem without holes has it, all of it is data.
        at = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
            // Data may begin in the middle of a group only if the filesystem's blocks are smaller than that.
            Ok(data) => at.max(data - (data - bits_at(len)) % 8),
            Err(rustix::io::Errno::NXIO) => break,
            Err(_) => at,
        };
        let piece = usize::try_from(end.saturating_sub(at)).map_or(PIECE, |left| left.min(PIECE));
        file.read_exact_at(&mut buf[..piece], at)?;
        let first = (at - bits_at(len)) / 8;
        let (words, _) = buf[..piece].as_chunks::<8>();
        for (group, word) in (first..).zip(words) {
            let bits = u64::from_le_bytes(*word) & beneath(last, group);
            if bits != 0 {
                written.insert(group, bits);
            }
        }
        at += piece as u64;
    }
    Ok(written)
}

/// The bits of a group that stand for blocks before the end.
fn beneath(last: u64, group: u64) -> u64 {
    match last.saturating_sub(group * GROUP) {
        0 => 0,
        blocks if blocks >= GROUP => u64::MAX,
        blocks => (1 << blocks) - 1,
    }
}

/// Writes the bits of some groups.
pub(super) fn save(file: &File, len: u64, groups: impl Iterator<Item = (u64, u64)>) -> io::Result<()> {
    for (group, bits) in groups {
        file.write_all_at(&bits.to_le_bytes(), bits_at(len) + 8 * group)?;
    }
    Ok(())
}
