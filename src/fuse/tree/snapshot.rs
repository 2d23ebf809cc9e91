//! What a mount shows at one time: the names and inodes of archives.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::Scope;
use crate::format::name::ArchiveName;
use crate::fuse::attributes::{Attributes, Kind, blocks_of, system_time};
use crate::fuse::errno::Errno;
use crate::fuse::names::{archive_names, member_names};
use crate::fuse::stats::STATS_FILE;
use crate::repository::archives::Archive;

/// The inode of the mount's root.
pub(super) const ROOT: u64 = 1;
/// The inode of the directory with the mount's statistics, which is found by its name and not listed.
pub(super) const STATS_FOLDER: u64 = 2;
/// The inode of the mount's statistics.
const STATS: u64 = 3;

/// The ending of images.
const IMAGE_ENDING: &str = ".img";
/// The ending of directories with an image's parts.
const PARTS_ENDING: &str = ".parts";
/// Leads to the newest archive of a name.
const LATEST: &str = "latest";
/// Members that are smaller, in bytes, are files such as a machine's configuration, and have no parts.
const SMALLEST_DISK: u64 = 64 << 10;

/// What an inode is.
#[derive(Debug)]
pub(super) enum Entry {
    /// The directory of a disk, whose archives these are, oldest first: nobody looked into it yet.
    Folder(Vec<Arc<Archive>>),
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

#[derive(Debug)]
pub(super) struct Node {
    /// What it stands for, hashed.
    key: [u8; 32],
    pub(super) entry: Entry,
    time: i64,
}

#[derive(Debug, Default)]
pub(super) struct Snapshot {
    nodes: HashMap<u64, Node>,
    /// Bytes not in holes of all images.
    data: u64,
}

impl Snapshot {
    /// Shows these archives instead of those before, oldest first. Inodes of what has gone stay, for files that are still open.
    pub(super) fn show(&mut self, archives: Vec<Archive>, scope: &Scope) {
        let mut by_name: BTreeMap<ArchiveName, Vec<Arc<Archive>>> = BTreeMap::new();
        self.data = 0;
        for archive in archives {
            let shown = match scope {
                Scope::All => true,
                Scope::Name(name) => archive.name.as_str() == name,
                Scope::Archive(id) => archive.id() == *id,
            };
            if shown {
                self.data = self.data.saturating_add(archive.data());
                by_name.entry(archive.name.clone()).or_default().push(Arc::new(archive));
            }
        }
        let newest = by_name.values().flatten().map(|archive| archive.time()).max().unwrap_or(0);
        let root = if *scope == Scope::All {
            by_name
                .into_iter()
                .map(|(name, archives)| (name.to_string(), self.folder(&name, archives)))
                .collect()
        } else {
            by_name.values().next().map(|archives| self.entries(archives)).unwrap_or_default()
        };
        // A directory that has gone, and that nobody looked into, has nothing: what was in it may be elsewhere.
        let shown: HashSet<u64> = root.values().copied().collect();
        let left = self
            .nodes
            .iter_mut()
            .filter(|(inode, node)| matches!(node.entry, Entry::Folder(_)) && !shown.contains(inode));
        left.for_each(|(_, node)| node.entry = Entry::Directory(BTreeMap::new()));
        let stats = BTreeMap::from([(STATS_FILE.to_owned(), STATS)]);
        let fixed =
            [(ROOT, Entry::Directory(root)), (STATS_FOLDER, Entry::Directory(stats)), (STATS, Entry::Stats)];
        self.nodes.extend(fixed.map(|(inode, entry)| (inode, Node { key: [0; 32], entry, time: newest })));
    }

    /// The inode of a disk's directory. If somebody looked into it before, it has entries, for they are known by their inodes.
    fn folder(&mut self, name: &ArchiveName, archives: Vec<Arc<Archive>>) -> u64 {
        let time = archives.iter().map(|archive| archive.time()).max().unwrap_or(0);
        let key = key_of(&format!("name {name}"));
        let inode = self.inode(&key);
        let was_opened = self.nodes.contains_key(&inode) && !self.is_unopened(inode);
        self.nodes.insert(inode, Node { key, entry: Entry::Folder(archives), time });
        if was_opened {
            self.open(inode);
        }
        inode
    }

    /// Whether nobody looked into a directory yet.
    pub(super) fn is_unopened(&self, inode: u64) -> bool {
        self.nodes.get(&inode).is_some_and(|node| matches!(node.entry, Entry::Folder(_)))
    }

    /// Makes the entries of a directory, if nobody looked into it before.
    pub(super) fn open(&mut self, inode: u64) {
        let Some(Node { entry, .. }) = self.nodes.get_mut(&inode) else { return };
        let Entry::Folder(archives) = entry else { return };
        let archives = std::mem::take(archives);
        let entries = self.entries(&archives);
        if let Some(node) = self.nodes.get_mut(&inode) {
            node.entry = Entry::Directory(entries);
        }
    }

    /// Bytes not in holes of all images, and how many inodes there are.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.data, self.count(ROOT))
    }

    /// How many inodes are at one and beneath it.
    fn count(&self, inode: u64) -> u64 {
        let beneath = match self.nodes.get(&inode).map(|node| &node.entry) {
            Some(Entry::Directory(entries)) => entries.values().map(|inode| self.count(*inode)).sum(),
            Some(Entry::Folder(archives)) => count_of(archives),
            _ => 0,
        };
        1 + beneath
    }

    pub(super) fn node(&self, inode: u64) -> std::result::Result<&Node, Errno> {
        self.nodes.get(&inode).ok_or(Errno::STALE)
    }

    pub(super) fn attributes(&self, inode: u64) -> std::result::Result<Attributes, Errno> {
        let node = self.node(inode)?;
        let (kind, size, blocks, links) = match &node.entry {
            // Each archive has one of its own: that of its parts, or of its members.
            Entry::Folder(archives) => (Kind::Directory, 0, 0, links_of(archives.len())),
            Entry::Directory(entries) => {
                let folders = entries.values().filter(|inode| self.is_directory(**inode)).count();
                (Kind::Directory, 0, 0, links_of(folders))
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
        let is_directory =
            |node: &Node| !matches!(node.entry, Entry::Image(..) | Entry::Link(_) | Entry::Stats);
        self.nodes.get(&inode).is_some_and(is_directory)
    }

    /// The inode of what a key describes: a part of its hash, or the next free number should two ever meet.
    fn inode(&self, key: &[u8; 32]) -> u64 {
        let mut inode = key.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)) >> 1;
        while inode <= STATS || self.nodes.get(&inode).is_some_and(|node| node.key != *key) {
            inode += 1;
        }
        inode
    }

    /// The inode under which an entry is now, instead of what had its key before.
    fn add(&mut self, key: &str, entry: Entry, time: i64) -> u64 {
        let key = key_of(key);
        let inode = self.inode(&key);
        self.nodes.insert(inode, Node { key, entry, time });
        inode
    }

    /// The entries of a disk's directory; its archives oldest first.
    fn entries(&mut self, archives: &[Arc<Archive>]) -> BTreeMap<String, u64> {
        let mut entries = BTreeMap::new();
        let newest = newest_of(archives);
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
        let pieces = pieces(archive).into_iter().map(|(name, member, piece)| {
            let inode = match piece {
                Piece::Image => self.image(archive, member),
                Piece::Parts => self.parts(archive, member),
            };
            (name, inode)
        });
        let members = pieces.collect();
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

/// What stands for a member of an archive.
enum Piece {
    Image,
    Parts,
}

/// What is in the directory of an archive of several members: names, and of which member which piece it is.
fn pieces(archive: &Archive) -> Vec<(String, usize, Piece)> {
    let names = member_names(archive);
    let taken: HashSet<&str> = names.iter().map(String::as_str).collect();
    let parts =
        names.iter().zip(&archive.entry.members).enumerate().filter_map(|(member, (name, summary))| {
            let parts = format!("{}{PARTS_ENDING}", name.strip_suffix(IMAGE_ENDING).unwrap_or(name));
            let shown = summary.size >= SMALLEST_DISK && !taken.contains(parts.as_str());
            shown.then_some((parts, member, Piece::Parts))
        });
    let images = names.iter().enumerate().map(|(member, name)| (name.clone(), member, Piece::Image));
    images.chain(parts).collect()
}

/// How many inodes the directory of a disk will have, with those beneath, once somebody looks into it.
fn count_of(archives: &[Arc<Archive>]) -> u64 {
    let is_single = |archive: &Archive| archive.entry.members.len() == 1;
    let each = archives.iter().map(|archive| if is_single(archive) { 2 } else { 1 + pieces(archive).len() });
    // The links to the newest are as many as it has entries.
    let links = newest_of(archives).map_or(0, |newest| if is_single(newest) { 2 } else { 1 });
    (each.sum::<usize>() + links) as u64
}

/// To which the links lead; archives oldest first.
fn newest_of(archives: &[Arc<Archive>]) -> Option<&Arc<Archive>> {
    archives.iter().rev().find(|archive| !archive.unconfirmed).or(archives.last())
}

/// How many links a directory has that holds so many others.
fn links_of(folders: usize) -> u32 {
    2 + u32::try_from(folders).unwrap_or(u32::MAX - 2)
}

fn key_of(text: &str) -> [u8; 32] {
    *blake3::hash(text.as_bytes()).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::catalogue::CatalogueEntry;
    use crate::format::record::tests::sample;
    use crate::id::ArchiveId;

    /// An archive with members of these names and sizes.
    fn archive(name: &str, id: u8, members: &[(&str, u64)]) -> Archive {
        let mut record = sample();
        let member = record.members[0].clone();
        record.name = ArchiveName::new(name).unwrap();
        record.time = i64::from(id);
        record.members = members
            .iter()
            .map(|(name, size)| {
                let mut member = member.clone();
                (member.name, member.size) = (ArchiveName::new(name).unwrap(), *size);
                member
            })
            .collect();
        let entry = CatalogueEntry::of(ArchiveId([id; 16]), &record);
        Archive {
            name: entry.name.clone(),
            tags: Vec::new(),
            comment: String::new(),
            unconfirmed: false,
            doubtful: false,
            deleted: None,
            entry,
        }
    }

    fn archives() -> Vec<Archive> {
        let large = SMALLEST_DISK;
        vec![
            archive("one", 1, &[("disk", large)]),
            archive("one", 2, &[("disk", 1)]),
            archive("several", 3, &[("vda", large), ("vdb", 1), ("vda.parts", large)]),
            archive("several", 4, &[("vda", large), ("vdb", large), ("domain.xml", 1)]),
            archive("none", 5, &[]),
        ]
    }

    #[test]
    fn a_directory_that_went_before_anybody_looked_into_it_is_empty() {
        let mut snapshot = Snapshot::default();
        snapshot.show(archives(), &Scope::All);
        let one = folders(&snapshot)[1];
        snapshot.show(archives().split_off(2), &Scope::All);
        snapshot.open(one);
        let Entry::Directory(entries) = &snapshot.node(one).unwrap().entry else { panic!("a directory") };
        assert!(entries.is_empty());
        snapshot.show(archives(), &Scope::All);
        assert_eq!(folders(&snapshot)[1], one);
        assert!(!snapshot.is_unopened(one), "who knew it finds what is in it");
    }

    fn folders(snapshot: &Snapshot) -> Vec<u64> {
        let Entry::Directory(folders) = &snapshot.node(ROOT).unwrap().entry else { panic!("the root") };
        folders.values().copied().collect()
    }

    #[test]
    fn a_directory_is_counted_alike_before_and_after_it_is_made() {
        let mut snapshot = Snapshot::default();
        snapshot.show(archives(), &Scope::All);
        let folders = folders(&snapshot);
        assert_eq!(folders.len(), 3);
        let look = |snapshot: &Snapshot| {
            let links = folders.iter().map(|inode| snapshot.attributes(*inode).unwrap().links);
            (links.collect::<Vec<_>>(), snapshot.totals())
        };
        let before = look(&snapshot);
        assert!(folders.iter().all(|inode| snapshot.is_unopened(*inode)));
        folders.iter().for_each(|inode| snapshot.open(*inode));
        assert!(!folders.iter().any(|inode| snapshot.is_unopened(*inode)));
        assert_eq!(look(&snapshot), before);
        // The root; three directories; two images with parts and links; archives of four and of five members and parts, and a link; an empty one, and a link.
        assert_eq!(before.1.1, 1 + 3 + (2 * 2 + 2) + (1 + 4) + (1 + 5) + 1 + 1 + 1);
    }

    #[test]
    fn what_was_looked_into_stays_known_by_its_inodes_and_nothing_else_is_made() {
        let mut snapshot = Snapshot::default();
        snapshot.show(archives(), &Scope::All);
        let [none, one, several] = folders(&snapshot)[..] else { panic!("three") };
        snapshot.open(one);
        let Entry::Directory(entries) = &snapshot.node(one).unwrap().entry else { panic!("made") };
        let entries = entries.clone();

        // The older is called otherwise now, and the newer has gone.
        let mut now = archives();
        now.remove(1);
        now[0].name = ArchiveName::new("none").unwrap();
        snapshot.show(now, &Scope::All);
        assert_eq!(folders(&snapshot), [none, several]);
        let of_one = |snapshot: &Snapshot| snapshot.attributes(one).unwrap().links;
        assert_eq!(of_one(&snapshot), 4, "its entries are those that were looked at");
        assert!(snapshot.is_unopened(none) && snapshot.is_unopened(several));
        assert!(entries.values().all(|inode| snapshot.attributes(*inode).is_ok()));
        snapshot.open(none);
        let Entry::Directory(renamed) = &snapshot.node(none).unwrap().entry else { panic!("made") };
        let shared = renamed.values().filter(|inode| entries.values().any(|before| before == *inode));
        assert_eq!(shared.count(), 2, "the image and its parts are what they were");
        snapshot.show(archives(), &Scope::All);
        assert!(!snapshot.is_unopened(one) && !snapshot.is_unopened(none) && snapshot.is_unopened(several));
        let Entry::Directory(again) = &snapshot.node(one).unwrap().entry else { panic!("made") };
        assert_eq!(*again, entries);
    }
}
