//! Paths inside a filesystem: looking one up, and finding all that fit a pattern.
//!
//! Symbolic links are followed within the filesystem, as if it were the whole system, and a limited number of times. `..` never leads out of the root.

use std::collections::{HashSet, VecDeque};

use super::{Entry, Error, Filesystem, Kind, Node, Result, unsupported};
use crate::repository::glob::Glob;

/// As many links as Linux follows.
const MAX_LINKS: usize = 40;
/// How deep `**` looks.
const MAX_DEPTH: usize = 256;
/// Directories of any depth in a pattern.
const ANYWHERE: &[u8] = b"**";

/// A place in a filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The names that lead from the root to it; none for the root.
    pub names: Vec<Vec<u8>>,
    /// What is there.
    pub node: Node,
}

impl Place {
    /// The path that begins with `/`.
    #[must_use]
    pub fn path(&self) -> Vec<u8> {
        if self.names.is_empty() {
            return b"/".to_vec();
        }
        self.names.iter().flat_map(|name| [&b"/"[..], name].concat()).collect()
    }

    /// A place in this one.
    #[must_use]
    pub fn below(&self, entry: &Entry) -> Self {
        let mut names = self.names.clone();
        names.push(entry.name.clone());
        Self { names, node: entry.node }
    }
}

/// The root of a filesystem.
#[must_use]
pub fn root(filesystem: &dyn Filesystem) -> Place {
    Place { names: Vec::new(), node: filesystem.root() }
}

/// The parts of a path: nothing between slashes and `.` are left out.
fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."))
}

/// Looks a path up, from the root whether it begins with a slash or not. Links on the way are followed, one at its end only with `follow` or a slash behind.
///
/// # Errors
/// [`Error::NotFound`], [`Error::NotDirectory`], [`Error::Loop`], and those of reading.
pub fn find(filesystem: &dyn Filesystem, path: &[u8], follow: bool) -> Result<Place> {
    let follow = follow || path.ends_with(b"/");
    walk(filesystem, vec![root(filesystem)], parts(path).map(<[u8]>::to_vec).collect(), follow)
}

/// Follows parts from the last of `above`, which are the places that lead there.
fn walk(
    filesystem: &dyn Filesystem,
    mut above: Vec<Place>,
    mut parts: VecDeque<Vec<u8>>,
    follow: bool,
) -> Result<Place> {
    let mut links = 0;
    while let Some(part) = parts.pop_front() {
        if part == b".." {
            above.truncate((above.len() - 1).max(1));
            continue;
        }
        let here = above.last().ok_or(Error::NotFound)?;
        let entry = look_up(filesystem, here.node, &part)?;
        let is_last = parts.is_empty();
        if (!is_last || follow) && filesystem.metadata(entry.node)?.kind == Kind::Link {
            links += 1;
            if links > MAX_LINKS {
                return Err(Error::Loop);
            }
            let target = filesystem.target(entry.node)?;
            if target.starts_with(b"/") {
                above.truncate(1);
            }
            self::parts(&target).rev().for_each(|part| parts.push_front(part.to_vec()));
        } else {
            let place = here.below(&entry);
            above.push(place);
        }
    }
    above.pop().ok_or(Error::NotFound)
}

/// A name in a directory: as it is, or the one that differs in case only where that does not count.
fn look_up(filesystem: &dyn Filesystem, directory: Node, name: &[u8]) -> Result<Entry> {
    let entries = filesystem.list(directory)?;
    if let Some(entry) = entries.iter().find(|entry| entry.name == name) {
        return Ok(entry.clone());
    }
    if !filesystem.ignores_case() {
        return Err(Error::NotFound);
    }
    let name = folded(name);
    entries.into_iter().find(|entry| folded(&entry.name) == name).ok_or(Error::NotFound)
}

/// A name in lower case, character by character as filesystems do it; what is not text stays as it is.
fn folded(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            let mut lower = c.to_lowercase();
            let c = lower.next().filter(|_| lower.next().is_none()).unwrap_or(c);
            out.extend(c.encode_utf8(&mut [0; 4]).bytes());
        }
        out.extend(chunk.invalid());
    }
    out
}

/// A part of a pattern; where case does not count, in lower case as well.
struct Pattern {
    written: Glob,
    folded: Option<Glob>,
}

impl Pattern {
    fn parse(part: &[u8], ignores_case: bool) -> Result<Self> {
        let parse =
            |part: &[u8]| Glob::parse_bytes(part).ok_or_else(|| unsupported("a '[' is not closed by a ']'"));
        let folded = ignores_case.then(|| parse(&folded(part))).transpose()?;
        Ok(Self { written: parse(part)?, folded })
    }

    fn matches(&self, name: &[u8]) -> bool {
        self.written.matches_bytes(name)
            || self.folded.as_ref().is_some_and(|glob| glob.matches_bytes(&folded(name)))
    }
}

/// All places that a path stands for. One that is there as it is written stands for itself; otherwise `*`, `?` and `[…]` fit parts of names, leading dots too, and
/// `**` any number of directories; upper and lower case are the same where they are in names. What fits is sorted by name.
///
/// # Errors
/// As [`find`].
pub fn expand(filesystem: &dyn Filesystem, path: &[u8]) -> Result<Vec<Place>> {
    let written = find(filesystem, path, false);
    let is_pattern = parts(path).any(is_glob);
    match written {
        Err(Error::NotFound | Error::NotDirectory) if is_pattern => {}
        written => return written.map(|place| vec![place]),
    }
    let parts: Vec<&[u8]> = parts(path).collect();
    let mut search = Search { filesystem, found: Vec::new(), seen: HashSet::new() };
    search.below(&[root(filesystem)], &parts, 0)?;
    if search.found.is_empty() { Err(Error::NotFound) } else { Ok(search.found) }
}

fn is_glob(part: &[u8]) -> bool {
    part.iter().any(|byte| matches!(byte, b'*' | b'?' | b'['))
}

struct Search<'a> {
    filesystem: &'a dyn Filesystem,
    found: Vec<Place>,
    /// Places and how many parts of the pattern were left there: none is looked into twice.
    seen: HashSet<(Node, usize)>,
}

impl Search<'_> {
    fn below(&mut self, above: &[Place], parts: &[&[u8]], depth: usize) -> Result<()> {
        let Some(here) = above.last() else { return Ok(()) };
        if !self.seen.insert((here.node, parts.len())) {
            return Ok(());
        }
        let Some((part, rest)) = parts.split_first() else {
            self.found.push(here.clone());
            return Ok(());
        };
        if !is_glob(part) {
            let follow = !rest.is_empty();
            return match walk(self.filesystem, above.to_vec(), [part.to_vec()].into(), follow) {
                Err(Error::NotFound | Error::NotDirectory) => Ok(()),
                found => self.on(above, found?, rest, depth),
            };
        }
        if *part == ANYWHERE {
            self.below(above, rest, depth)?;
        }
        self.fitting(above, parts, depth)
    }

    fn on(&mut self, above: &[Place], place: Place, parts: &[&[u8]], depth: usize) -> Result<()> {
        self.below(&[above, &[place]].concat(), parts, depth)
    }

    /// What fits a pattern in a directory.
    fn fitting(&mut self, above: &[Place], parts: &[&[u8]], depth: usize) -> Result<()> {
        let (part, rest) = (parts[0], &parts[1..]);
        let here = &above[above.len() - 1];
        let pattern = Pattern::parse(part, self.filesystem.ignores_case())?;
        let mut entries = match self.filesystem.list(here.node) {
            Err(Error::NotDirectory) => return Ok(()),
            entries => entries?,
        };
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        for entry in entries.iter().filter(|entry| pattern.matches(&entry.name)) {
            let place = here.below(entry);
            if part != ANYWHERE {
                self.on(above, place, rest, depth)?;
            } else if depth < MAX_DEPTH && self.is_directory(entry) {
                self.on(above, place, parts, depth + 1)?;
            } else if rest.is_empty() {
                self.on(above, place, rest, depth)?;
            }
        }
        Ok(())
    }

    fn is_directory(&self, entry: &Entry) -> bool {
        let look = || self.filesystem.metadata(entry.node).is_ok_and(|found| found.kind == Kind::Directory);
        entry.is_directory.unwrap_or_else(look)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io;

    use super::super::{Content, Metadata, Time};
    use super::*;
    use crate::partition::ReadAt;

    /// Bytes as a disk.
    pub(in super::super) struct Disk(pub(in super::super) Vec<u8>);

    impl ReadAt for Disk {
        fn len(&self) -> u64 {
            self.0.len() as u64
        }

        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            let end = offset as usize + buf.len();
            buf.copy_from_slice(self.0.get(offset as usize..end).ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }
    }

    /// Directories by their numbers; what is no number of one is a link to what its target says, or a file. Case counts if it says so.
    struct Tree {
        case: bool,
    }

    const TREE_WITHOUT_CASE: Tree = Tree { case: false };

    const TREE: [(u64, &[(&str, u64)]); 4] = [
        (0, &[("etc", 1), ("var", 2), ("a*b", 10), ("Run", 20), ("loop", 21)]),
        (1, &[("hosts", 11), ("fstab", 12), (".hidden", 13), ("up", 22)]),
        (2, &[("log", 3), ("run", 20), ("hosts", 14)]),
        (3, &[("hosts", 15), ("self", 3)]),
    ];

    impl Filesystem for Tree {
        fn kind(&self) -> &'static str {
            "tree"
        }

        fn notes(&self) -> &[String] {
            &[]
        }

        fn ignores_case(&self) -> bool {
            !self.case
        }

        fn root(&self) -> Node {
            Node(0)
        }

        fn metadata(&self, node: Node) -> Result<Metadata> {
            let kind = match node.0 {
                0..10 => Kind::Directory,
                20.. => Kind::Link,
                _ => Kind::File,
            };
            let time = Time::default();
            let (size, links) = (0, 1);
            Ok(Metadata {
                kind,
                size,
                mode: None,
                owner: None,
                modified: time,
                accessed: time,
                links,
                streams: vec![],
            })
        }

        fn list(&self, node: Node) -> Result<Vec<Entry>> {
            let (_, names) = TREE.iter().find(|(number, _)| *number == node.0).ok_or(Error::NotDirectory)?;
            let entry = |(name, node): &(&str, u64)| Entry {
                name: name.as_bytes().to_vec(),
                node: Node(*node),
                is_directory: None,
            };
            Ok(names.iter().map(entry).collect())
        }

        fn target(&self, node: Node) -> Result<Vec<u8>> {
            Ok([&b"/etc"[..], b"loop", b"../../etc"][node.0 as usize - 20].to_vec())
        }

        fn open(&self, _: Node) -> Result<Content> {
            Err(Error::NotFound)
        }

        fn read(&self, _: &Content, _: u64, _: &mut [u8]) -> Result<()> {
            Err(Error::NotFound)
        }
    }

    fn found(path: &str) -> String {
        let text = |place: Place| String::from_utf8(place.path()).unwrap();
        find(&TREE_WITHOUT_CASE, path.as_bytes(), false).map_or_else(|error| error.to_string(), text)
    }

    #[test]
    fn paths_stay_within_the_root_and_links_are_followed_on_the_way() {
        for (path, place) in [
            ("/", "/"),
            ("", "/"),
            ("etc/./hosts", "/etc/hosts"),
            ("/../../etc//hosts", "/etc/hosts"),
            ("/var/log/../hosts", "/var/hosts"),
            ("/run/hosts", "/etc/hosts"),
            ("/Run", "/Run"),
            ("/run/", "/etc"),
            ("/var/run/up/HOSTS", "/etc/hosts"),
            ("/none", "there is nothing of that name; 'copal ls' shows what there is"),
            ("/etc/hosts/x", "it is not a directory"),
            ("/loop/x", "too many symbolic links"),
        ] {
            assert_eq!(found(path), place, "{path}");
        }
    }

    fn expanded(path: &str) -> Vec<String> {
        let places = expand(&TREE_WITHOUT_CASE, path.as_bytes()).unwrap_or_default();
        places.into_iter().map(|place| String::from_utf8(place.path()).unwrap()).collect()
    }

    #[test]
    fn patterns_find_what_fits() {
        assert_eq!(expanded("/etc/*s*"), ["/etc/fstab", "/etc/hosts"]);
        assert_eq!(expanded("/etc/?h*"), ["/etc/.hidden"]);
        assert_eq!(expanded("/a*b"), ["/a*b"], "what is there as it is written");
        assert_eq!(expanded("/*/hosts"), ["/etc/hosts", "/var/hosts"]);
        assert_eq!(expanded("/**/hosts"), ["/etc/hosts", "/var/hosts", "/var/log/hosts"]);
        assert_eq!(expanded("/var/**"), ["/var", "/var/hosts", "/var/log", "/var/log/hosts", "/var/run"]);
        assert_eq!(expanded("/[xyz]*"), Vec::<String>::new());
        assert!(expand(&TREE_WITHOUT_CASE, b"/[x").is_err());
    }

    #[test]
    fn patterns_ignore_case_where_names_do() {
        let found = |case, pattern: &str| {
            let places = expand(&Tree { case }, pattern.as_bytes()).unwrap_or_default();
            places.into_iter().map(|place| String::from_utf8(place.path()).unwrap()).collect::<Vec<_>>()
        };
        for (pattern, places) in [
            ("/ETC/H*", &["/etc/hosts"][..]),
            ("/[E-F]tc/[H]ost?", &["/etc/hosts"]),
            ("/VA*/*/HOSTS", &["/var/log/hosts"]),
            ("/r*", &["/Run"]),
            ("/[!R]u?", &[]),
        ] {
            assert_eq!(found(false, pattern), places, "{pattern}");
            assert_eq!(found(true, pattern), Vec::<String>::new(), "{pattern}");
        }
        assert_eq!(found(true, "/R*"), ["/Run"]);
        assert_eq!(folded("ÄÖ\u{130}ẞ".as_bytes()), "äö\u{130}ß".as_bytes());
        assert_eq!(folded(b"A\xffB"), b"a\xffb");
    }
}
