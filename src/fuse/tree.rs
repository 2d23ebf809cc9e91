//! Names, inodes and attributes of a mount.
//!
//! The tree is a snapshot of the repository's archives, made anew when a listing shows others. Inode numbers are hashes of what they
//! name, the same in every mount. What has left the listing stays reachable by its inode, so that open files live on.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use unicode_normalization::UnicodeNormalization;

use super::attributes::{Attributes, BAD_RANGES, Kind, bad_ranges, blocks_of, extended, system_time};
use super::errno::Errno;
use super::names::{archive_names, member_names};
use super::stats::{STATS_DIRECTORY, STATS_FILE};
use crate::id::ArchiveId;
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
    /// Lists the repository's archives.
    ///
    /// # Errors
    /// [`crate::repository::Error::Storage`].
    pub fn load(repository: Arc<Repository>, scope: Scope) -> Result<Self> {
        let mark = listing_mark(repository.objects())?;
        let archives = repository.archives()?;
        let snapshot = RwLock::new(Arc::new(Snapshot::of(&archives, &scope, None)));
        let refreshed = Mutex::new(Refreshed { at: Instant::now(), mark });
        Ok(Self { repository, scope, snapshot, refreshed })
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
                let snapshot = Snapshot::of(&archives, &self.scope, Some(&self.current()));
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
    /// [`Errno::NOT_FOUND`], [`Errno::NOT_A_DIRECTORY`].
    pub fn lookup(&self, directory: u64, name: &str) -> std::result::Result<Attributes, Errno> {
        self.refresh();
        let snapshot = self.current();
        let inode = match &snapshot.node(directory)?.entry {
            Entry::Directory(_) if directory == ROOT && name == STATS_DIRECTORY => STATS_FOLDER,
            Entry::Directory(entries) => {
                // Names are NFC; one typed in another form means the same.
                let found = entries.get(name).or_else(|| entries.get(&name.nfc().collect::<String>()));
                *found.ok_or(Errno::NOT_FOUND)?
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
        self.current().attributes(inode)
    }

    /// A directory's entries, sorted by name, with `.` and `..` first.
    ///
    /// # Errors
    /// [`Errno::NOT_A_DIRECTORY`], [`Errno::STALE`].
    pub fn list(&self, directory: u64) -> std::result::Result<Vec<(String, Attributes)>, Errno> {
        self.refresh();
        let snapshot = self.current();
        let Entry::Directory(entries) = &snapshot.node(directory)?.entry else {
            return Err(Errno::NOT_A_DIRECTORY);
        };
        let parents = [(".", directory), ("..", ROOT)].map(|(name, inode)| (name.to_owned(), inode));
        let entries = entries.iter().map(|(name, inode)| (name.clone(), *inode));
        parents
            .into_iter()
            .chain(entries)
            .map(|(name, inode)| Ok((name, snapshot.attributes(inode)?)))
            .collect()
    }

    /// Where a link points.
    ///
    /// # Errors
    /// [`Errno::INVALID`], [`Errno::STALE`].
    pub fn read_link(&self, inode: u64) -> std::result::Result<String, Errno> {
        match &self.current().node(inode)?.entry {
            Entry::Link(target) => Ok(target.clone()),
            _ => Err(Errno::INVALID),
        }
    }

    /// The archive and member behind an inode.
    ///
    /// # Errors
    /// [`Errno::INVALID`] if it is no image, [`Errno::STALE`].
    pub fn image(&self, inode: u64) -> std::result::Result<(Arc<Archive>, usize), Errno> {
        match &self.current().node(inode)?.entry {
            Entry::Image(archive, member) => Ok((archive.clone(), *member)),
            _ => Err(Errno::INVALID),
        }
    }

    /// The value of an extended attribute, if the inode has it: only images have some.
    ///
    /// # Errors
    /// [`Errno::STALE`], [`Errno::IO`].
    pub fn attribute(&self, inode: u64, name: &[u8]) -> std::result::Result<Option<Vec<u8>>, Errno> {
        let (archive, member) = match self.image(inode) {
            Err(Errno::INVALID) => return Ok(None),
            image => image?,
        };
        if name == BAD_RANGES.as_bytes() {
            // Only the record has them, and only who asks for them pays for reading it.
            let record = self.repository.record(archive.id()).map_err(|error| {
                log::error!("archive {}: {}", archive.id(), chain(&error));
                Errno::IO
            })?;
            return Ok(record.members.get(member).map(|member| bad_ranges(&member.bad)));
        }
        let all = extended(&archive, member);
        Ok(all.into_iter().find(|(key, _)| key.as_bytes() == name).map(|(_, value)| value))
    }

    /// The names of an inode's extended attributes.
    ///
    /// # Errors
    /// [`Errno::STALE`].
    pub fn attribute_names(&self, inode: u64) -> std::result::Result<Vec<String>, Errno> {
        match &self.current().node(inode)?.entry {
            Entry::Image(archive, member) => {
                let cheap = extended(archive, *member).into_iter().map(|(name, _)| name);
                Ok(cheap.chain([BAD_RANGES.to_owned()]).collect())
            }
            _ => Ok(Vec::new()),
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
    fn of(archives: &[Archive], scope: &Scope, old: Option<&Snapshot>) -> Self {
        let mut builder = Builder { nodes: HashMap::new(), inodes: HashMap::new() };
        let mut by_name: BTreeMap<&str, Vec<&Archive>> = BTreeMap::new();
        for archive in archives {
            let shown = match scope {
                Scope::All => true,
                Scope::Name(name) => archive.name.as_str() == name,
                Scope::Archive(id) => archive.id() == *id,
            };
            if shown {
                by_name.entry(archive.name.as_str()).or_default().push(archive);
            }
        }
        let newest = by_name.values().flatten().map(|archive| archive.time()).max().unwrap_or(0);
        let root = if *scope == Scope::All {
            let folders = by_name.iter().map(|(name, archives)| {
                let folder = builder.folder(archives);
                let time = archives.iter().map(|archive| archive.time()).max().unwrap_or(0);
                let inode = builder.add(&format!("name {name}"), Entry::Directory(folder), time);
                ((*name).to_owned(), inode)
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
        self.nodes.get(&inode).is_some_and(|node| matches!(node.entry, Entry::Directory(_)))
    }
}

/// Adds nodes under stable inode numbers.
struct Builder {
    nodes: HashMap<u64, Node>,
    inodes: HashMap<u64, String>,
}

impl Builder {
    /// The inode of what `key` describes: a hash of it, or the next free number should two ever meet.
    fn add(&mut self, key: &str, entry: Entry, time: i64) -> u64 {
        let hash = blake3::hash(key.as_bytes());
        let mut inode = hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)) >> 1;
        while inode <= STATS || self.inodes.contains_key(&inode) {
            inode += 1;
        }
        self.inodes.insert(inode, key.to_owned());
        self.nodes.insert(inode, Node { entry, time });
        inode
    }

    /// The entries of one name's directory; `archives` oldest first.
    fn folder(&mut self, archives: &[&Archive]) -> BTreeMap<String, u64> {
        let mut entries = BTreeMap::new();
        let mut shown = HashMap::new();
        for (name, archive) in archive_names(archives) {
            let (name, inode) = self.archive(name, archive);
            shown.insert(archive.id(), name.clone());
            entries.insert(name, inode);
        }
        let newest = archives.iter().rev().find(|archive| !archive.unconfirmed).or(archives.last());
        if let Some(newest) = newest
            && let Some(target) = shown.get(&newest.id())
        {
            let link = if target.ends_with(".img") { "latest.img" } else { "latest" };
            let inode =
                self.add(&format!("{link} {}", newest.name), Entry::Link(target.clone()), newest.time());
            entries.insert(link.to_owned(), inode);
        }
        entries
    }

    fn archive(&mut self, name: String, archive: &Archive) -> (String, u64) {
        let (id, time) = (archive.id(), archive.time());
        let shared = Arc::new(archive.clone());
        let mut image =
            |member| self.add(&format!("image {id} {member}"), Entry::Image(shared.clone(), member), time);
        if archive.entry.members.len() == 1 {
            return (format!("{name}.img"), image(0));
        }
        let members = member_names(archive).into_iter().enumerate();
        let members = members.map(|(number, name)| (name, image(number))).collect();
        (name, self.add(&format!("archive {id}"), Entry::Directory(members), time))
    }
}
