//! The partitions of images as files: what is in `TIMESTAMP.parts/`.
//!
//! A table is read when its directory is looked into, not before, and kept while it is among the last that were. A table that is damaged shows what it
//! has and says what is wrong with it in `notes.txt`. Inodes are hashes, the same in every mount; those of parts have their highest bit set, all
//! others of a mount have not.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use super::attributes::{Attributes, Kind, blocks_of, system_time};
use super::errno::{Errno, errno_of};
use crate::format::record::Member;
use crate::image::Image;
use crate::image::disk::Disk;
use crate::image::reader::ImageReader;
use crate::partition::{Part, Table, parts, read_table, remarks};
use crate::repository;
use crate::repository::archives::{Archive, chain};

/// The most parts that are kept, of all directories together: 20 MiB, should all of them have long labels.
const MAX_KEPT: usize = 1 << 16;
/// What tells the inodes of parts from all others.
const PART_INODE: u64 = 1 << 63;
/// The file that says what is wrong with a table.
const NOTES: &str = "notes.txt";

/// What stands behind the name of a part.
#[derive(Debug, Clone)]
pub(super) enum Piece {
    /// A part of an image.
    Part(Arc<PartFile>),
    /// A text.
    Notes(Arc<[u8]>),
}

/// A part of an image as a file.
#[derive(Debug)]
pub(super) struct PartFile {
    pub(super) part: Part,
    pub(super) archive: Arc<Archive>,
    pub(super) member: usize,
    /// Allocated units of 512 bytes.
    blocks: u64,
}

impl PartFile {
    /// Which bytes of the image it shows.
    pub(super) fn range(&self) -> Range<u64> {
        self.part.start..self.part.start + self.part.len
    }
}

/// A directory of parts.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) entries: BTreeMap<String, u64>,
    pieces: HashMap<u64, Piece>,
    time: i64,
}

/// The directories of parts that were looked into.
#[derive(Debug)]
pub(super) struct Parts {
    reader: Arc<ImageReader>,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    directories: LruCache<u64, Arc<Directory>>,
    /// Which directory a part is in.
    homes: HashMap<u64, u64>,
}

impl Parts {
    pub(super) fn new(reader: Arc<ImageReader>) -> Self {
        let kept = Kept { directories: LruCache::unbounded(), homes: HashMap::new() };
        Self { reader, kept: Mutex::new(kept) }
    }

    /// Whether an inode is a part's.
    pub(super) fn owns(inode: u64) -> bool {
        inode & PART_INODE != 0
    }

    /// The directory with this inode, which shows the parts of a member.
    pub(super) fn directory(
        &self,
        inode: u64,
        archive: &Arc<Archive>,
        member: usize,
    ) -> Result<Arc<Directory>, Errno> {
        if let Some(found) = self.kept.lock().directories.get(&inode) {
            return Ok(found.clone());
        }
        let made = Arc::new(self.read(archive, member)?);
        self.kept.lock().keep(inode, &made);
        Ok(made)
    }

    /// What stands behind a part's inode. One that was not asked for in a long time is gone, until its name is looked up again.
    pub(super) fn piece(&self, inode: u64) -> Result<Piece, Errno> {
        let mut kept = self.kept.lock();
        let home = *kept.homes.get(&inode).ok_or(Errno::STALE)?;
        let directory = kept.directories.get(&home).ok_or(Errno::STALE)?;
        directory.pieces.get(&inode).cloned().ok_or(Errno::STALE)
    }

    /// What `stat` shows of a part.
    pub(super) fn attributes(&self, inode: u64) -> Result<Attributes, Errno> {
        let mut kept = self.kept.lock();
        let home = *kept.homes.get(&inode).ok_or(Errno::STALE)?;
        kept.directories.get(&home).ok_or(Errno::STALE)?.attributes(inode)
    }

    fn read(&self, archive: &Arc<Archive>, member: usize) -> Result<Directory, Errno> {
        let repository = self.reader.repository();
        let failed = |error: &repository::Error| {
            log::error!("partitions of archive {} ({}): {}", archive.id(), archive.name, chain(error));
            errno_of(error)
        };
        let record = repository.record(archive.id()).map_err(|error| failed(&error))?;
        let found = record.members.get(member).ok_or(Errno::IO)?;
        let image = Image::of(found, repository.config().span_shift);
        let table = self.table(found, &image).map_err(|error| {
            log::error!("partitions of archive {} ({}): {error}", archive.id(), archive.name);
            error
                .get_ref()
                .and_then(|error| error.downcast_ref::<Arc<repository::Error>>())
                .map_or(Errno::IO, |error| errno_of(error))
        })?;
        let mut directory =
            Directory { entries: BTreeMap::new(), pieces: HashMap::new(), time: archive.time() };
        let parts = parts(&table, image.size);
        let remarks = remarks(&table, &parts);
        for part in parts {
            let key = format!("part {} {member} {}", archive.id(), part.number);
            // Where maps are damaged, as much as can be.
            let data = self.reader.maps().data_in(&image, &(part.start..part.start + part.len));
            let blocks = blocks_of(data.unwrap_or(part.len));
            let name = format!("{}.img", part.name);
            let file = PartFile { part, archive: archive.clone(), member, blocks };
            directory.add(name, &key, Piece::Part(Arc::new(file)));
        }
        if !remarks.is_empty() {
            let key = format!("notes {} {member}", archive.id());
            directory.add(NOTES.to_owned(), &key, Piece::Notes(notes(&remarks)));
        }
        Ok(directory)
    }

    fn table(&self, member: &Member, image: &Image) -> std::io::Result<Table> {
        read_table(&Disk(&self.reader, *image), member.logical_sector)
    }
}

impl Kept {
    fn keep(&mut self, inode: u64, directory: &Arc<Directory>) {
        self.homes.extend(directory.pieces.keys().map(|piece| (*piece, inode)));
        self.directories.put(inode, directory.clone());
        while self.homes.len() > MAX_KEPT
            && self.directories.len() > 1
            && let Some((_, old)) = self.directories.pop_lru()
        {
            for piece in old.pieces.keys() {
                self.homes.remove(piece);
            }
        }
    }
}

impl Directory {
    fn add(&mut self, name: String, key: &str, piece: Piece) {
        let hash = blake3::hash(key.as_bytes());
        let hash = hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let mut inode = hash | PART_INODE;
        while self.pieces.contains_key(&inode) {
            inode = inode.wrapping_add(1) | PART_INODE;
        }
        self.pieces.insert(inode, piece);
        self.entries.insert(name, inode);
    }

    /// What `stat` shows of one of its parts.
    pub(super) fn attributes(&self, inode: u64) -> Result<Attributes, Errno> {
        let (size, blocks) = match self.pieces.get(&inode).ok_or(Errno::STALE)? {
            Piece::Part(file) => (file.part.len, file.blocks),
            Piece::Notes(text) => (text.len() as u64, blocks_of(text.len() as u64)),
        };
        Ok(Attributes { inode, kind: Kind::File, size, blocks, time: system_time(self.time), links: 1 })
    }
}

/// Remarks, one a line.
fn notes(remarks: &[String]) -> Arc<[u8]> {
    let lines = remarks.iter().map(|note| format!("{note}\n"));
    lines.collect::<String>().into_bytes().into()
}
