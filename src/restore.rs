//! Files out of a filesystem in an image into a directory: trees with hard links, holes, times, modes, owners and attributes.
//!
//! What is read is hostile, and so are its names. Invariants: nothing is written, made or changed outside of the directory that was given, whatever names, links and cycles the
//! image holds, for every step is taken from an open directory, by a name without a slash, and no link is ever followed there; a file stands under its name only
//! when it is whole; what exists is left alone unless replacing it was asked for; no file of one run replaces another.
//!
//! A file that cannot be read or made is told of, and the others go on. What concerns all of them (a full disk, a signal) ends the run.

mod access;
mod attributes;
mod contents;
mod directory;
mod leftovers;
mod links;
mod names;
mod tree;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

pub use self::access::{ACCESS, DEFAULT};
pub use self::tree::{Goal, restore};
use crate::filesystem::{self, Filesystem, Kind, Node};
use crate::task::{Monitor, Stop, Stopped};

/// Bytes that are read at once.
const PIECE: u64 = 1 << 20;

/// What ends a run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A signal came.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The destination failed, in a way that every other file would meet, too.
    #[error("cannot {action} {path}")]
    Target {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What was to be copied cannot be read.
    #[error(transparent)]
    Filesystem(#[from] filesystem::Error),
    /// A reader of standard output, or what stands for it, failed.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

/// What to copy, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Copy directories with all below them.
    pub recursive: bool,
    /// Replace files that exist.
    pub force: bool,
    /// Only count.
    pub dry_run: bool,
    /// Set owners, and what goes with them: set-id bits, `security.` and `trusted.` attributes. Needs root.
    pub owners: bool,
    /// Make devices, pipes and sockets.
    pub devices: bool,
    /// Copy the filesystem's own files.
    pub own: bool,
}

/// Is told of single files, by any thread. Paths are those in the image.
pub trait Teller: Sync {
    /// This was not copied.
    fn failed(&self, path: &[u8], why: &str);

    /// This is a device, pipe or socket, which was not asked for.
    fn skipped(&self, path: &[u8], kind: Kind);

    /// The destination cannot hold this name; the file has another one there.
    fn renamed(&self, path: &[u8], name: &[u8]);

    /// This was copied, but without what is named here. Each path is told of once at most.
    fn unset(&self, path: &[u8], missing: &[Unset]);
}

/// What a file has besides its content, and the destination did not take.
#[derive(Debug)]
pub struct Unset {
    /// What.
    pub what: Fact,
    /// Why not.
    pub why: io::Error,
}

/// What a file has besides its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// Its user and group.
    Owner(u32, u32),
    /// Its permission bits.
    Mode(u16),
    /// When it was read and changed last.
    Times,
    /// An extended attribute of this name.
    Attribute(Vec<u8>),
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Regular files, those that are links to others not included.
    pub files: u64,
    /// Directories that were made.
    pub directories: u64,
    /// Symbolic links.
    pub links: u64,
    /// Further names of files.
    pub hard_links: u64,
    /// Devices, pipes and sockets.
    pub specials: u64,
    /// Devices, pipes and sockets that were left out.
    pub skipped: u64,
    /// Bytes of data; holes are none.
    pub bytes: u64,
    /// Contents beside that of a file (NTFS), which are not copied.
    pub streams: u64,
    /// Paths that were copied without something that could not be set.
    pub unset: u64,
    /// Owners that could not be set.
    pub unset_owners: u64,
    /// Permission bits that could not be set.
    pub unset_modes: u64,
    /// Times that could not be set.
    pub unset_times: u64,
    /// Extended attributes that could not be set.
    pub unset_attributes: u64,
    /// Owners that were not to be set, and are different now.
    pub left_owners: u64,
    /// Files without their set-id bits, since they have not their owners.
    pub left_identities: u64,
    /// Extended attributes that were not to be set.
    pub left_attributes: u64,
    /// Names that the destination cannot hold.
    pub renamed: u64,
    /// Temporary files of killed runs that were removed.
    pub swept: u64,
    /// What was not copied.
    pub failed: u64,
}

/// The same while it is being counted.
#[derive(Debug, Default)]
struct Counts {
    files: AtomicU64,
    directories: AtomicU64,
    links: AtomicU64,
    hard_links: AtomicU64,
    specials: AtomicU64,
    skipped: AtomicU64,
    bytes: AtomicU64,
    streams: AtomicU64,
    unset: AtomicU64,
    unset_owners: AtomicU64,
    unset_modes: AtomicU64,
    unset_times: AtomicU64,
    unset_attributes: AtomicU64,
    left_owners: AtomicU64,
    left_identities: AtomicU64,
    left_attributes: AtomicU64,
    renamed: AtomicU64,
    swept: AtomicU64,
    failed: AtomicU64,
}

fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

impl Counts {
    fn summary(&self) -> Summary {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Summary {
            files: of(&self.files),
            directories: of(&self.directories),
            links: of(&self.links),
            hard_links: of(&self.hard_links),
            specials: of(&self.specials),
            skipped: of(&self.skipped),
            bytes: of(&self.bytes),
            streams: of(&self.streams),
            unset: of(&self.unset),
            unset_owners: of(&self.unset_owners),
            unset_modes: of(&self.unset_modes),
            unset_times: of(&self.unset_times),
            unset_attributes: of(&self.unset_attributes),
            left_owners: of(&self.left_owners),
            left_identities: of(&self.left_identities),
            left_attributes: of(&self.left_attributes),
            renamed: of(&self.renamed),
            swept: of(&self.swept),
            failed: of(&self.failed),
        }
    }
}

/// Writes the content of one file to a stream, holes as zeros.
///
/// # Errors
/// [`Error`].
pub fn to_stream(
    filesystem: &dyn Filesystem,
    node: Node,
    mut out: impl Write,
    stop: &Stop,
    monitor: &dyn Monitor,
) -> Result<u64, Error> {
    let kind = filesystem.metadata(node)?.kind;
    if kind != Kind::File {
        let what = "only a file can be written to standard output".to_owned();
        return Err(filesystem::Error::Unsupported { what }.into());
    }
    let content = filesystem.open(node)?;
    monitor.total(content.len());
    let mut buffer = Vec::new();
    let mut at = 0;
    while at < content.len() {
        stop.check()?;
        let len = PIECE.min(content.len() - at);
        buffer.resize(usize::try_from(len).unwrap_or(0), 0);
        filesystem.read(&content, at, &mut buffer)?;
        out.write_all(&buffer).map_err(Error::Output)?;
        monitor.advanced(len, 0);
        at += len;
    }
    out.flush().map_err(Error::Output)?;
    Ok(at)
}
