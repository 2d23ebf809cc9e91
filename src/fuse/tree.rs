//! Names, inodes and attributes of a mount.
//!
//! The tree is a snapshot of the repository's archives, made anew when a listing shows others; the directory of a disk is made when somebody looks
//! into it, since of thousands of archives few are looked for. Inode numbers are hashes of what they name, the same in every mount. What has left the
//! listing stays reachable by its inode, so that open files live on.

mod snapshot;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use unicode_normalization::UnicodeNormalization;

use self::snapshot::{Entry, ROOT, STATS_FOLDER, Snapshot};
use super::attributes::{Attributes, BAD_RANGES, bad_ranges, extended, part_facts};
use super::errno::Errno;
use super::files::Shown;
use super::parts::{Parts, Piece};
use super::stats::STATS_DIRECTORY;
use crate::id::ArchiveId;
use crate::image::reader::ImageReader;
use crate::repository::archives::{Archive, chain, listing_mark};
use crate::repository::{Repository, Result};

/// How old a snapshot may be before a look at a directory asks the repository again.
pub const REFRESH: Duration = Duration::from_secs(1);

/// Which archives a mount shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All, a directory for each name.
    All,
    /// Those of one name.
    Name(String),
    /// Just one.
    Archive(ArchiveId),
}

/// The names of a mount.
#[derive(Debug)]
pub struct Tree {
    repository: Arc<Repository>,
    parts: Parts,
    scope: Scope,
    snapshot: RwLock<Snapshot>,
    refreshed: Mutex<Refreshed>,
}

/// When the repository was last asked, and what it listed.
#[derive(Debug)]
struct Refreshed {
    at: Instant,
    mark: [u8; 32],
}

impl Tree {
    /// Shows archives, and those that come later, from the listing of that mark on.
    #[must_use]
    pub fn new(reader: Arc<ImageReader>, scope: Scope, archives: Vec<Archive>, mark: [u8; 32]) -> Self {
        let repository = reader.repository().clone();
        let mut snapshot = Snapshot::default();
        snapshot.show(archives, &scope);
        let refreshed = Mutex::new(Refreshed { at: Instant::now(), mark });
        Self { repository, parts: Parts::new(reader), scope, snapshot: RwLock::new(snapshot), refreshed }
    }

    /// What is shown now. Not to be held while anything is read.
    fn current(&self) -> RwLockReadGuard<'_, Snapshot> {
        self.snapshot.read()
    }

    /// The same, in which an inode's directory has its entries.
    fn opened(&self, directory: u64) -> RwLockReadGuard<'_, Snapshot> {
        let snapshot = self.current();
        if !snapshot.is_unopened(directory) {
            return snapshot;
        }
        drop(snapshot);
        let mut snapshot = self.snapshot.write();
        snapshot.open(directory);
        RwLockWriteGuard::downgrade(snapshot)
    }

    /// Asks the repository again if the last time is long ago. One caller does; others see what was shown meanwhile. A failure
    /// keeps that and is logged.
    fn refresh(&self) {
        let Some(mut refreshed) = self.refreshed.try_lock() else { return };
        if refreshed.at.elapsed() < REFRESH {
            return;
        }
        refreshed.at = Instant::now();
        match self.changed(&refreshed.mark) {
            Ok(None) => {}
            Ok(Some((mark, archives))) => {
                refreshed.mark = mark;
                self.snapshot.write().show(archives, &self.scope);
            }
            Err(error) => log::warn!("cannot look for new archives: {}", chain(&error)),
        }
    }

    /// The archives, if the listing is another one than that of `mark`.
    fn changed(&self, mark: &[u8; 32]) -> Result<Option<([u8; 32], Vec<Archive>)>> {
        let now = listing_mark(self.repository.objects())?;
        if now == *mark { Ok(None) } else { Ok(Some((now, self.repository.archives()?))) }
    }

    /// What a name in a directory is.
    ///
    /// # Errors
    /// [`Errno::NOT_FOUND`], [`Errno::NOT_A_DIRECTORY`]; [`Errno::IO`] and the like if an image's table cannot be read.
    pub fn lookup(&self, directory: u64, name: &str) -> std::result::Result<Attributes, Errno> {
        self.refresh();
        let snapshot = self.opened(directory);
        let inode = match &snapshot.node(directory)?.entry {
            Entry::Directory(_) if directory == ROOT && name == STATS_DIRECTORY => STATS_FOLDER,
            Entry::Directory(entries) => find(entries, name)?,
            Entry::Parts(archive, member) => {
                let (archive, member) = (archive.clone(), *member);
                drop(snapshot);
                let parts = self.parts.directory(directory, &archive, member)?;
                return parts.attributes(find(&parts.entries, name)?);
            }
            _ => return Err(Errno::NOT_A_DIRECTORY),
        };
        snapshot.attributes(inode)
    }

    /// What `stat` shows of an inode.
    ///
    /// # Errors
    /// [`Errno::STALE`].
    pub fn attributes(&self, inode: u64) -> std::result::Result<Attributes, Errno> {
        if Parts::owns(inode) { self.parts.attributes(inode) } else { self.current().attributes(inode) }
    }

    /// A directory's entries, sorted by name, with `.` and `..` first.
    ///
    /// # Errors
    /// [`Errno::NOT_A_DIRECTORY`], [`Errno::STALE`]; as [`Self::lookup`].
    pub fn list(&self, directory: u64) -> std::result::Result<Vec<(String, Attributes)>, Errno> {
        self.refresh();
        let snapshot = self.opened(directory);
        let own = |(name, inode): (&str, u64)| Ok((name.to_owned(), snapshot.attributes(inode)?));
        let mut listed = vec![own((".", directory))?, own(("..", ROOT))?];
        match &snapshot.node(directory)?.entry {
            Entry::Directory(entries) => {
                for (name, inode) in entries {
                    listed.push(own((name, *inode))?);
                }
            }
            Entry::Parts(archive, member) => {
                let (archive, member) = (archive.clone(), *member);
                drop(snapshot);
                let parts = self.parts.directory(directory, &archive, member)?;
                for (name, inode) in &parts.entries {
                    listed.push((name.clone(), parts.attributes(*inode)?));
                }
            }
            _ => return Err(Errno::NOT_A_DIRECTORY),
        }
        Ok(listed)
    }

    /// Where a link points.
    ///
    /// # Errors
    /// [`Errno::INVALID`], [`Errno::STALE`].
    pub fn read_link(&self, inode: u64) -> std::result::Result<String, Errno> {
        if Parts::owns(inode) {
            return Err(Errno::INVALID);
        }
        match &self.current().node(inode)?.entry {
            Entry::Link(target) => Ok(target.clone()),
            _ => Err(Errno::INVALID),
        }
    }

    /// What the file with an inode shows.
    ///
    /// # Errors
    /// [`Errno::INVALID`] if it is no file, [`Errno::STALE`].
    pub fn shown(&self, inode: u64) -> std::result::Result<Shown, Errno> {
        if Parts::owns(inode) {
            return Ok(match self.parts.piece(inode)? {
                Piece::Part(file) => Shown::Image(file.archive.clone(), file.member, Some(file.range())),
                Piece::Notes(text) => Shown::Text(text),
            });
        }
        match &self.current().node(inode)?.entry {
            Entry::Image(archive, member) => Ok(Shown::Image(archive.clone(), *member, None)),
            Entry::Stats => Ok(Shown::Stats),
            _ => Err(Errno::INVALID),
        }
    }

    /// The value of an extended attribute, if the inode has it: only images and their parts have some.
    ///
    /// # Errors
    /// [`Errno::STALE`], [`Errno::IO`].
    pub fn attribute(&self, inode: u64, name: &[u8]) -> std::result::Result<Option<Vec<u8>>, Errno> {
        let (archive, member, part) = match self.shown(inode) {
            Ok(Shown::Image(archive, member, part)) => (archive, member, part),
            Ok(_) | Err(Errno::INVALID) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        if name == BAD_RANGES.as_bytes() {
            // Only the record has them, and only who asks for them pays for reading it.
            let record = self.repository.record(archive.id()).map_err(|error| {
                log::error!("archive {}: {}", archive.id(), chain(&error));
                Errno::IO
            })?;
            let bad = record.members.get(member).map(|member| within(&member.bad, part.as_ref()));
            return Ok(bad.map(|bad| bad_ranges(&bad)));
        }
        let mut all = extended(&archive, member);
        all.extend(self.part_facts(inode));
        Ok(all.into_iter().find(|(key, _)| key.as_bytes() == name).map(|(_, value)| value))
    }

    /// The names of an inode's extended attributes.
    ///
    /// # Errors
    /// [`Errno::STALE`].
    pub fn attribute_names(&self, inode: u64) -> std::result::Result<Vec<String>, Errno> {
        match self.shown(inode) {
            Ok(Shown::Image(archive, member, _)) => {
                let cheap = extended(&archive, member).into_iter().chain(self.part_facts(inode));
                Ok(cheap.map(|(name, _)| name).chain([BAD_RANGES.to_owned()]).collect())
            }
            Ok(_) | Err(Errno::INVALID) => Ok(Vec::new()),
            Err(errno) => Err(errno),
        }
    }

    /// What else is known of a part.
    fn part_facts(&self, inode: u64) -> Vec<(String, Vec<u8>)> {
        match Parts::owns(inode).then(|| self.parts.piece(inode)) {
            Some(Ok(Piece::Part(file))) => part_facts(&file.part),
            _ => Vec::new(),
        }
    }

    /// Bytes not in holes of all images, and how many inodes there are.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        self.current().totals()
    }

    /// The repository behind the names.
    #[must_use]
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }
}

/// The inode that a name in a directory stands for.
fn find(entries: &BTreeMap<String, u64>, name: &str) -> std::result::Result<u64, Errno> {
    // Names are NFC; one typed in another form means the same.
    let found = entries.get(name).or_else(|| entries.get(&name.nfc().collect::<String>()));
    found.copied().ok_or(Errno::NOT_FOUND)
}

/// Ranges of (offset, length) as far as they lie in a part, counted from its beginning.
fn within(ranges: &[(u64, u64)], part: Option<&Range<u64>>) -> Vec<(u64, u64)> {
    let Some(part) = part else { return ranges.to_vec() };
    let cut = ranges.iter().filter_map(|(offset, len)| {
        let from = part.start.max(*offset);
        let to = part.end.min(offset.saturating_add(*len));
        (from < to).then(|| (from - part.start, to - from))
    });
    cut.collect()
}
