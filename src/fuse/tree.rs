//! Names, inodes and attributes of a mount.
//!
//! The tree is a snapshot of the repository's archives, made anew when a listing shows others. Inode numbers are hashes of what they
//! name, the same in every mount. What has left the listing stays reachable by its inode, so that open files live on.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use unicode_normalization::UnicodeNormalization;

use super::attributes::{
    Attributes, BAD_RANGES, Kind, bad_ranges, blocks_of, extended, part_facts, system_time,
};
use super::errno::Errno;
use super::files::Shown;
use super::names::{archive_names, member_names};
use super::parts::{Parts, Piece};
use super::stats::{STATS_DIRECTORY, STATS_FILE};
use crate::format::name::ArchiveName;
use crate::id::ArchiveId;
use crate::image::reader::ImageReader;
use crate::repository::archives::{Archive, chain, listing_mark};
use crate::repository::{Repository, Result};

/// The inode of the mount's root.
pub const ROOT: u64 = 1;
/// The inode of the directory with the mount's statistics, which is found by its name and not listed.
const STATS_FOLDER: u64 = 2;
/// The inode of the mount's statistics.
pub const STATS: u64 = 3;
/// How old a snapshot may be before a look at a directory asks the repository again.
pub const REFRESH: Duration = Duration::from_secs(1);

/// The ending of images.
const IMAGE_ENDING: &str = ".img";
/// The ending of directories with an image's parts.
const PARTS_ENDING: &str = ".parts";
/// Leads to the newest archive of a name.
const LATEST: &str = "latest";
/// Members that are smaller, in bytes, are files such as a machine's configuration, and have no parts.
const SMALLEST_DISK: u64 = 64 << 10;

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

/// What an inode is.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A directory, with its entries by name.
    Directory(BTreeMap<String, u64>),
    /// An image: its archive, and which member.
    Image(Arc<Archive>, usize),
    /// The directory of an image's parts, which are read when somebody looks.
    Parts(Arc<Archive>, usize),
    /// A link, with its target.
    Link(String),
    /// The mount's statistics.
    Stats,
}

#[derive(Debug, Clone)]
struct Node {
    entry: Entry,
    time: i64,
}

#[derive(Debug, Default)]
struct Snapshot {
    nodes: HashMap<u64, Node>,
    /// Bytes in images, and how many images there are.
    totals: (u64, u64),
}

/// The names of a mount.
#[derive(Debug)]
pub struct Tree {
    repository: Arc<Repository>,
    parts: Parts,
    scope: Scope,
    snapshot: RwLock<Arc<Snapshot>>,
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
        let snapshot = RwLock::new(Arc::new(Snapshot::of(archives, &scope, None)));
        let refreshed = Mutex::new(Refreshed { at: Instant::now(), mark });
        Self { repository, parts: Parts::new(reader), scope, snapshot, refreshed }
    }

    fn current(&self) -> Arc<Snapshot> {
        self.snapshot.read().clone()
    }

    /// Asks the repository again if the last time is long ago. One caller does; others see the old snapshot meanwhile. A failure
    /// keeps the old one and is logged.
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
                let snapshot = Snapshot::of(archives, &self.scope, Some(&self.current()));
                *self.snapshot.write() = Arc::new(snapshot);
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
        let snapshot = self.current();
        let inode = match &snapshot.node(directory)?.entry {
            Entry::Directory(_) if directory == ROOT && name == STATS_DIRECTORY => STATS_FOLDER,
            Entry::Directory(entries) => find(entries, name)?,
            Entry::Parts(archive, member) => {
                let parts = self.parts.directory(directory, archive, *member)?;
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
        let snapshot = self.current();
        let own = |(name, inode): (&str, u64)| Ok((name.to_owned(), snapshot.attributes(inode)?));
        let parents = [(".", directory), ("..", ROOT)].into_iter().map(own);
        match &snapshot.node(directory)?.entry {
            Entry::Directory(entries) => {
                parents.chain(entries.iter().map(|(name, inode)| own((name, *inode)))).collect()
            }
            Entry::Parts(archive, member) => {
                let parts = self.parts.directory(directory, archive, *member)?;
                let entries = parts.entries.iter();
                let entries = entries.map(|(name, inode)| Ok((name.clone(), parts.attributes(*inode)?)));
                parents.chain(entries).collect()
            }
            _ => Err(Errno::NOT_A_DIRECTORY),
        }
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
        self.current().totals
    }

    /// The repository behind the names.
    #[must_use]
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }
}

impl Snapshot {
    fn of(archives: Vec<Archive>, scope: &Scope, old: Option<&Snapshot>) -> Self {
        // Of most archives, an image and the directory of its parts.
        let mut builder = Builder { nodes: HashMap::with_capacity(archives.len() * 2) };
        let mut by_name: BTreeMap<ArchiveName, Vec<Arc<Archive>>> = BTreeMap::new();
        for archive in archives {
            let shown = match scope {
                Scope::All => true,
                Scope::Name(name) => archive.name.as_str() == name,
                Scope::Archive(id) => archive.id() == *id,
            };
            if shown {
                by_name.entry(archive.name.clone()).or_default().push(Arc::new(archive));
            }
        }
        let newest = by_name.values().flatten().map(|archive| archive.time()).max().unwrap_or(0);
        let root = if *scope == Scope::All {
            let folders = by_name.iter().map(|(name, archives)| {
                let folder = builder.folder(archives);
                let time = archives.iter().map(|archive| archive.time()).max().unwrap_or(0);
                let inode = builder.add(&format!("name {name}"), Entry::Directory(folder), time);
                (name.to_string(), inode)
            });
            folders.collect()
        } else {
            by_name.values().next().map(|archives| builder.folder(archives)).unwrap_or_default()
        };
        builder.nodes.insert(ROOT, Node { entry: Entry::Directory(root), time: newest });
        let mut totals = (0, builder.nodes.len() as u64);
        for archive in by_name.values().flatten() {
            totals.0 += archive.data();
        }
        let mut nodes = builder.nodes;
        let folder = BTreeMap::from([(STATS_FILE.to_owned(), STATS)]);
        nodes.insert(STATS_FOLDER, Node { entry: Entry::Directory(folder), time: newest });
        nodes.insert(STATS, Node { entry: Entry::Stats, time: newest });
        // Inodes of what has gone stay, for files that are still open; directories' entries are those of now.
        for (inode, node) in old.iter().flat_map(|old| &old.nodes) {
            nodes.entry(*inode).or_insert_with(|| node.clone());
        }
        Self { nodes, totals }
    }

    fn node(&self, inode: u64) -> std::result::Result<&Node, Errno> {
        self.nodes.get(&inode).ok_or(Errno::STALE)
    }

    fn attributes(&self, inode: u64) -> std::result::Result<Attributes, Errno> {
        let node = self.node(inode)?;
        let (kind, size, blocks, links) = match &node.entry {
            Entry::Directory(entries) => {
                let folders = entries.values().filter(|inode| self.is_directory(**inode)).count();
                (Kind::Directory, 0, 0, 2 + u32::try_from(folders).unwrap_or(u32::MAX - 2))
            }
            Entry::Parts(..) => (Kind::Directory, 0, 0, 2),
            Entry::Image(archive, member) => {
                let member = archive.entry.members.get(*member).ok_or(Errno::STALE)?;
                (Kind::File, member.size, blocks_of(member.data), 1)
            }
            Entry::Link(target) => (Kind::Link, target.len() as u64, 0, 1),
            Entry::Stats => (Kind::Report, 0, 0, 1),
        };
        Ok(Attributes { inode, kind, size, blocks, time: system_time(node.time), links })
    }

    fn is_directory(&self, inode: u64) -> bool {
        let is_directory = |node: &Node| matches!(node.entry, Entry::Directory(_) | Entry::Parts(..));
        self.nodes.get(&inode).is_some_and(is_directory)
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

/// Adds nodes under stable inode numbers.
struct Builder {
    nodes: HashMap<u64, Node>,
}

impl Builder {
    /// The inode of what `key` describes: a hash of it, or the next free number should two ever meet.
    fn add(&mut self, key: &str, entry: Entry, time: i64) -> u64 {
        let hash = blake3::hash(key.as_bytes());
        let mut inode = hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)) >> 1;
        while inode <= STATS || self.nodes.contains_key(&inode) {
            inode += 1;
        }
        self.nodes.insert(inode, Node { entry, time });
        inode
    }

    /// The entries of one name's directory; `archives` oldest first.
    fn folder(&mut self, archives: &[Arc<Archive>]) -> BTreeMap<String, u64> {
        let mut entries = BTreeMap::new();
        let newest = archives.iter().rev().find(|archive| !archive.unconfirmed).or(archives.last());
        for (name, archive) in archive_names(archives) {
            let added = self.archive(name, archive);
            if newest.is_some_and(|newest| newest.id() == archive.id()) {
                for (target, _) in &added {
                    let (link, inode) = self.latest(target, archive);
                    entries.insert(link, inode);
                }
            }
            entries.extend(added);
        }
        entries
    }

    /// The link to what is shown of the newest archive.
    fn latest(&mut self, target: &str, newest: &Archive) -> (String, u64) {
        let ending = [IMAGE_ENDING, PARTS_ENDING].into_iter().find(|ending| target.ends_with(ending));
        let link = format!("{LATEST}{}", ending.unwrap_or_default());
        let inode =
            self.add(&format!("{link} {}", newest.name), Entry::Link(target.to_owned()), newest.time());
        (link, inode)
    }

    /// What stands for an archive: its image and the directory of that one's parts, or a directory with those of all members.
    fn archive(&mut self, name: String, archive: &Arc<Archive>) -> Vec<(String, u64)> {
        let (id, time) = (archive.id(), archive.time());
        if archive.entry.members.len() == 1 {
            let image = self.image(archive, 0);
            let parts = self.parts(archive, 0);
            return vec![(format!("{name}{IMAGE_ENDING}"), image), (format!("{name}{PARTS_ENDING}"), parts)];
        }
        let names = member_names(archive);
        let mut members: BTreeMap<String, u64> = BTreeMap::new();
        for (member, name) in names.iter().enumerate() {
            members.insert(name.clone(), self.image(archive, member));
        }
        for (member, name) in names.iter().enumerate() {
            let is_disk =
                archive.entry.members.get(member).is_some_and(|member| member.size >= SMALLEST_DISK);
            let parts = format!("{}{PARTS_ENDING}", name.strip_suffix(IMAGE_ENDING).unwrap_or(name));
            if is_disk && !members.contains_key(&parts) {
                members.insert(parts, self.parts(archive, member));
            }
        }
        vec![(name, self.add(&format!("archive {id}"), Entry::Directory(members), time))]
    }

    fn image(&mut self, archive: &Arc<Archive>, member: usize) -> u64 {
        let key = format!("image {} {member}", archive.id());
        self.add(&key, Entry::Image(archive.clone(), member), archive.time())
    }

    fn parts(&mut self, archive: &Arc<Archive>, member: usize) -> u64 {
        let key = format!("parts {} {member}", archive.id());
        self.add(&key, Entry::Parts(archive.clone(), member), archive.time())
    }
}
