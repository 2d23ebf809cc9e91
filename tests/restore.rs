//! Restoring files from images that lie: nothing is ever made outside of the destination, and nothing stands under a name that is not whole.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Mutex;

use copal::filesystem::path::Place;
use copal::filesystem::{Content, Entry, Error, Filesystem, Kind, Metadata, Node, Result, Time};
use copal::restore::{self, Goal, Options, Summary, Teller, Unset, restore};
use copal::task::{Monitor, Silent, Stop};

/// What a node is in a filesystem that was made up.
enum Thing {
    Directory(Vec<(&'static [u8], u64)>),
    File(Vec<u8>),
    Link(&'static [u8]),
    /// A file of which nothing can be read.
    Lost,
    Pipe,
}

/// A filesystem that says what it is told to.
struct Made(BTreeMap<u64, Thing>);

impl Filesystem for Made {
    fn kind(&self) -> &'static str {
        "made"
    }

    fn notes(&self) -> &[String] {
        &[]
    }

    fn root(&self) -> Node {
        Node(0)
    }

    fn metadata(&self, node: Node) -> Result<Metadata> {
        let kind = match self.0.get(&node.0).ok_or(Error::NotFound)? {
            Thing::Directory(_) => Kind::Directory,
            Thing::File(_) | Thing::Lost => Kind::File,
            Thing::Link(_) => Kind::Link,
            Thing::Pipe => Kind::Fifo,
        };
        let time = Time { seconds: 1_000_000_000, nanoseconds: 7 };
        let names = self.0.values().map(|thing| match thing {
            Thing::Directory(entries) => entries.iter().filter(|(_, other)| *other == node.0).count(),
            _ => 0,
        });
        Ok(Metadata {
            kind,
            size: 0,
            mode: Some(0o640),
            owner: None,
            modified: time,
            accessed: time,
            links: names.sum::<usize>() as u32,
            streams: Vec::new(),
        })
    }

    fn list(&self, node: Node) -> Result<Vec<Entry>> {
        let Some(Thing::Directory(entries)) = self.0.get(&node.0) else { return Err(Error::NotDirectory) };
        let entry = |(name, node): &(&[u8], u64)| Entry {
            name: name.to_vec(),
            node: Node(*node),
            is_directory: None,
        };
        Ok(entries.iter().map(entry).collect())
    }

    fn target(&self, node: Node) -> Result<Vec<u8>> {
        match self.0.get(&node.0) {
            Some(Thing::Link(target)) => Ok(target.to_vec()),
            _ => Err(Error::NotFound),
        }
    }

    fn open(&self, node: Node) -> Result<Content> {
        match self.0.get(&node.0) {
            Some(Thing::File(bytes)) => Ok(Content::inline(bytes.clone(), bytes.len() as u64)),
            Some(Thing::Lost) => Ok(Content::inline(vec![0xee; 100], 100)),
            _ => Err(Error::NotFound),
        }
    }

    fn read(&self, content: &Content, offset: u64, buf: &mut [u8]) -> Result<()> {
        let file = self.0.values().find_map(|thing| match thing {
            Thing::File(bytes) if bytes.len() as u64 == content.len() => Some(bytes),
            _ => None,
        });
        let lost = || std::io::Error::other("chunk 12 is lost");
        buf.copy_from_slice(&file.ok_or_else(lost)?[offset as usize..][..buf.len()]);
        Ok(())
    }
}

#[derive(Default)]
struct Heard(Mutex<Vec<(Vec<u8>, String)>>);

impl Teller for Heard {
    fn failed(&self, path: &[u8], why: &str) {
        self.0.lock().expect("it works").push((path.to_vec(), why.to_owned()));
    }

    fn renamed(&self, path: &[u8], name: &[u8]) {
        self.0.lock().expect("it works").push((path.to_vec(), format!("as {}", name.escape_ascii())));
    }

    fn skipped(&self, path: &[u8], kind: Kind) {
        self.0.lock().expect("it works").push((path.to_vec(), format!("skipped, a {}", kind.name())));
    }

    fn unset(&self, path: &[u8], missing: &[Unset]) {
        let missing: Vec<_> = missing.iter().map(|one| format!("{:?}", one.what)).collect();
        self.0.lock().expect("it works").push((path.to_vec(), format!("without {}", missing.join(", "))));
    }
}

impl Heard {
    fn of(&self, path: &str) -> String {
        let heard = self.0.lock().expect("it works");
        let found: Vec<&str> =
            heard.iter().filter(|(at, _)| at == path.as_bytes()).map(|(_, why)| why.as_str()).collect();
        found.join("; ")
    }
}

const OPTIONS: Options =
    Options { recursive: true, force: false, dry_run: false, owners: false, devices: false, own: false };

fn run(
    made: &Made,
    to: &Path,
    options: Options,
    heard: &Heard,
) -> std::result::Result<Summary, restore::Error> {
    run_with(made, to, options, heard, &Stop::default(), &Silent)
}

fn run_with(
    made: &Made,
    to: &Path,
    options: Options,
    heard: &Heard,
    stop: &Stop,
    monitor: &dyn Monitor,
) -> std::result::Result<Summary, restore::Error> {
    let goal = Goal { directory: to.to_owned(), name: None, closed: None };
    let root = Place { names: Vec::new(), node: Node(0) };
    restore(made, &[root], &goal, options, stop, monitor, heard)
}

fn made(things: impl IntoIterator<Item = (u64, Thing)>) -> Made {
    Made(things.into_iter().collect())
}

/// Paths below a directory, links not followed.
fn below(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).expect("it works") {
            let path = entry.expect("it works").path();
            if path.symlink_metadata().expect("it works").is_dir() {
                open.push(path.clone());
            }
            found.push(
                path.strip_prefix(directory)
                    .expect("it works")
                    .as_os_str()
                    .as_bytes()
                    .escape_ascii()
                    .to_string(),
            );
        }
    }
    found.sort();
    found
}

/// A place with a directory to copy into, and one that nothing may be copied to.
fn place() -> (tempfile::TempDir, std::path::PathBuf, std::path::PathBuf) {
    let place = tempfile::tempdir().expect("it works");
    let (to, other) = (place.path().join("to"), place.path().join("other"));
    fs::create_dir(&to).expect("it works");
    fs::create_dir(&other).expect("it works");
    fs::write(other.join("treasure"), "gold").expect("it works");
    (place, to, other)
}

#[test]
fn names_never_lead_out_of_the_destination() {
    let (place, to, _) = place();
    let names: [&[u8]; 9] =
        [b"..", b".", b"", b"a/b", b"../other/treasure", b"/abs", b"nul\0x", &[b'n'; 300], b"fine"];
    let leaked: Vec<&'static [u8]> = names.map(|name| &*Box::leak(name.to_vec().into_boxed_slice())).to_vec();
    let entries = leaked.iter().zip(10..).map(|(name, node)| (*name, node)).collect();
    let mut things = vec![(0, Thing::Directory(entries))];
    things.extend((10..19).map(|node| (node, Thing::File(vec![node as u8; node as usize]))));
    // Directories of such names, too.
    things.push((1, Thing::Directory(vec![(b"inner", 18)])));
    let Thing::Directory(entries) = &mut things[0].1 else { unreachable!() };
    entries.push((b"../dir", 1));
    let heard = Heard::default();
    let summary = run(&made(things), &to, OPTIONS, &heard).expect("it works");
    assert_eq!((summary.failed, summary.renamed), (0, 9));
    let found = below(&to);
    let expected = ["%", "%00", "%2e", "%2e%2e", "..%2fdir", "..%2fother%2ftreasure", "a%2fb", "fine"];
    for name in expected.iter().filter(|name| **name != "%00") {
        assert!(found.iter().any(|path| path == name), "{name} is missing: {found:?}");
    }
    assert!(found.contains(&"nul%00x".to_owned()) && found.contains(&"%2fabs".to_owned()));
    assert!(found.contains(&"..%2fdir/inner".to_owned()));
    assert_eq!(heard.of("/.."), "as %2e%2e");
    assert_eq!(below(place.path()).iter().filter(|path| !path.starts_with("to")).count(), 2);
    assert_eq!(fs::read(place.path().join("other/treasure")).expect("it works"), b"gold");
}

#[test]
fn links_of_the_image_are_never_followed() {
    let (_place, to, other) = place();
    let outside: &'static [u8] = Box::leak(other.as_os_str().as_bytes().to_vec().into_boxed_slice());
    let file: &'static [u8] =
        Box::leak(other.join("treasure").as_os_str().as_bytes().to_vec().into_boxed_slice());
    for force in [false, true] {
        let things = made([
            (0, Thing::Directory(vec![(b"l", 1), (b"l", 2), (b"f", 3), (b"f", 4), (b"rel", 5), (b"rel", 6)])),
            (1, Thing::Link(outside)),
            (2, Thing::Directory(vec![(b"treasure", 4)])),
            (3, Thing::Link(file)),
            (4, Thing::File(b"lead".to_vec())),
            (5, Thing::Link(b"../other")),
            (6, Thing::Directory(vec![(b"treasure", 4)])),
        ]);
        let heard = Heard::default();
        let summary = run(&things, &to, Options { force, ..OPTIONS }, &heard).expect("it works");
        assert!(summary.failed > 0, "two of one name: one fails");
        assert_eq!(fs::read(other.join("treasure")).expect("it works"), b"gold");
        assert_eq!(below(&other), ["treasure"]);
        for entry in fs::read_dir(&to).expect("it works") {
            let path = entry.expect("it works").path();
            if path.is_symlink() {
                fs::remove_file(path)
            } else if path.is_dir() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            }
            .expect("it works");
        }
    }
}

#[test]
fn a_link_that_stands_in_the_destination_is_not_followed_either() {
    let (_place, to, other) = place();
    std::os::unix::fs::symlink(&other, to.join("d")).expect("it works");
    std::os::unix::fs::symlink(other.join("treasure"), to.join("f")).expect("it works");
    let things = made([
        (0, Thing::Directory(vec![(b"d", 1), (b"f", 2)])),
        (1, Thing::Directory(vec![(b"treasure", 2)])),
        (2, Thing::File(b"lead".to_vec())),
    ]);
    let heard = Heard::default();
    run(&things, &to, OPTIONS, &heard).expect("it works");
    assert_eq!((heard.of("/d").is_empty(), heard.of("/f").is_empty()), (false, false));
    // Replacing it replaces the link, but not by a directory.
    let forced = Heard::default();
    run(&things, &to, Options { force: true, ..OPTIONS }, &forced).expect("it works");
    assert!(forced.of("/d").contains("a link stands there, which is not followed"), "{}", forced.of("/d"));
    assert_eq!(fs::read(other.join("treasure")).expect("it works"), b"gold");
    assert_eq!(fs::read(to.join("f")).expect("it works"), b"lead");
    assert!(!to.join("f").is_symlink() && to.join("d").is_symlink());
}

#[test]
fn knots_of_directories_come_apart() {
    let (_place, to, _) = place();
    let things = made([
        (0, Thing::Directory(vec![(b"a", 1), (b"self", 0), (b"b", 2)])),
        (1, Thing::Directory(vec![(b"up", 0), (b"b", 2), (b"x", 3)])),
        (2, Thing::Directory(vec![(b"a", 1), (b"x", 3)])),
        (3, Thing::File(b"x".to_vec())),
    ]);
    let heard = Heard::default();
    let summary = run(&things, &to, OPTIONS, &heard).expect("it works");
    assert_eq!(summary.directories, 2);
    assert!(heard.of("/self").contains("two places"));
    assert_eq!(summary.failed, 4);
}

#[test]
fn what_lies_too_deep_is_told() {
    let (_place, to, _) = place();
    let chain = (0..1200).map(|at| (at, Thing::Directory(vec![(b"d", at + 1)])));
    let things = made(chain.chain([(1200, Thing::File(Vec::new()))]));
    // As the program does: each directory on the way is held open.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let all = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, all).expect("it works");
    let heard = Heard::default();
    let summary = run(&things, &to, OPTIONS, &heard).expect("it works");
    assert_eq!(summary.failed, 1);
    assert!(summary.directories > 500, "{summary:?}");
    assert!(heard.of(&"/d".repeat(summary.directories as usize + 1)).contains("too deep"));
}

#[test]
fn names_of_one_file_are_links_and_its_times_come_back() {
    use std::os::unix::fs::MetadataExt;
    let (_place, to, _) = place();
    let entries: Vec<(&'static [u8], u64)> = vec![(b"a", 1), (b"b", 1), (b"d", 2)];
    let things = made([
        (0, Thing::Directory(entries)),
        (1, Thing::File(b"same".to_vec())),
        (2, Thing::Directory(vec![(b"c", 1), (b"pipe", 3)])),
        (3, Thing::Pipe),
    ]);
    let heard = Heard::default();
    let summary = run(&things, &to, OPTIONS, &heard).expect("it works");
    assert_eq!((summary.files, summary.hard_links, summary.skipped), (1, 2, 1));
    assert_eq!(heard.of("/d/pipe"), "skipped, a fifo");
    let of = |name: &str| fs::metadata(to.join(name)).expect("it works");
    assert_eq!((of("a").ino(), of("a").ino(), of("a").nlink()), (of("b").ino(), of("d/c").ino(), 3));
    for name in ["a", "d"] {
        assert_eq!(
            (of(name).mtime(), of(name).mtime_nsec(), of(name).mode() & 0o7777),
            (1_000_000_000, 7, 0o640)
        );
    }
}

#[test]
fn what_exists_is_left_alone_or_replaced_whole() {
    let (_place, to, _) = place();
    fs::write(to.join("a"), "old").expect("it works");
    fs::create_dir(to.join("b")).expect("it works");
    let things = made([
        (0, Thing::Directory(vec![(b"a", 1), (b"b", 1), (b"c", 2)])),
        (1, Thing::File(b"new".to_vec())),
        (2, Thing::Lost),
    ]);
    let heard = Heard::default();
    let summary = run(&things, &to, OPTIONS, &heard).expect("it works");
    assert_eq!(fs::read(to.join("a")).expect("it works"), b"old");
    assert!(heard.of("/a").contains("--force"));
    assert!(heard.of("/c").contains("chunk 12 is lost"));
    assert_eq!(summary.failed, 3);
    fs::write(to.join("c"), "kept").expect("it works");
    run(&things, &to, Options { force: true, ..OPTIONS }, &Heard::default()).expect("it works");
    assert_eq!(fs::read(to.join("a")).expect("it works"), b"new");
    assert_eq!(
        fs::read(to.join("c")).expect("it works"),
        b"kept",
        "a file that cannot be read replaces nothing"
    );
    assert_eq!(below(&to), ["a", "b", "c"], "nothing temporary is left");
}

/// Raises a stop when so many bytes were copied.
struct Impatient<'a>(&'a Stop);

impl Monitor for Impatient<'_> {
    fn advanced(&self, _: u64, _: u64) {
        self.0.flag().store(2, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn a_signal_leaves_no_half_file() {
    let (_place, to, _) = place();
    let things = made([
        (0, Thing::Directory(vec![(b"a", 1), (b"b", 2)])),
        (1, Thing::File(vec![1; 5 << 20])),
        (2, Thing::File(vec![2; 6 << 20])),
    ]);
    let stop = Stop::default();
    let ended = run_with(&things, &to, OPTIONS, &Heard::default(), &stop, &Impatient(&stop));
    assert!(matches!(ended, Err(restore::Error::Stopped(_))), "{ended:?}");
    assert_eq!(below(&to), Vec::<String>::new());
}

#[test]
fn a_dry_run_makes_nothing() {
    let (_place, to, _) = place();
    let things = made([
        (0, Thing::Directory(vec![(b"d", 1)])),
        (1, Thing::Directory(vec![(b"x", 2), (b"y", 2), (b"l", 3)])),
        (2, Thing::File(vec![7; 1000])),
        (3, Thing::Link(b"x")),
    ]);
    let summary =
        run(&things, &to, Options { dry_run: true, ..OPTIONS }, &Heard::default()).expect("it works");
    assert_eq!((summary.files, summary.hard_links, summary.links, summary.directories), (1, 1, 1, 1));
    assert_eq!((summary.bytes, below(&to).len()), (1000, 0));
}

#[test]
fn what_cannot_be_set_is_told_once_for_each_path() {
    let (_place, to, _) = place();
    let things = made([
        (0, Thing::Directory(vec![(b"a", 1), (b"again", 1), (b"l", 2)])),
        (1, Thing::File(b"x".to_vec())),
        (2, Thing::Link(b"a")),
    ]);
    let things = Attributed(things);
    let heard = Heard::default();
    let root = Place { names: Vec::new(), node: Node(0) };
    let goal = Goal { directory: to, name: None, closed: None };
    let options = Options { owners: true, ..OPTIONS };
    let summary =
        restore(&things, &[root], &goal, options, &Stop::default(), &Silent, &heard).expect("it works");
    let heard = heard.0.into_inner().expect("it works");
    let text = format!("without Owner({}, 7), Attribute({:?})", u32::MAX, b"nonsense");
    let mut paths: Vec<&[u8]> =
        heard.iter().filter(|(_, said)| *said == text).map(|(path, _)| &path[..]).collect();
    paths.sort_unstable();
    assert_eq!((heard.len(), paths.len()), (2, 2), "{heard:?}");
    assert_eq!(paths[1], b"/l");
    assert_eq!((summary.unset, summary.unset_owners, summary.unset_attributes), (2, 2, 2));
    assert_eq!((summary.failed, summary.files, summary.hard_links), (0, 1, 1), "they are there all the same");
}

/// With an owner that nobody can be, and an attribute of a name that none can have.
struct Attributed(Made);

impl Filesystem for Attributed {
    fn kind(&self) -> &'static str {
        self.0.kind()
    }

    fn notes(&self) -> &[String] {
        &[]
    }

    fn root(&self) -> Node {
        self.0.root()
    }

    fn metadata(&self, node: Node) -> Result<Metadata> {
        Ok(Metadata { owner: Some((u32::MAX, 7)), ..self.0.metadata(node)? })
    }

    fn list(&self, node: Node) -> Result<Vec<Entry>> {
        self.0.list(node)
    }

    fn target(&self, node: Node) -> Result<Vec<u8>> {
        self.0.target(node)
    }

    fn attributes(&self, _: Node) -> Result<Vec<copal::filesystem::Attribute>> {
        Ok(vec![copal::filesystem::Attribute { name: b"nonsense".to_vec(), value: b"x".to_vec() }])
    }

    fn open(&self, node: Node) -> Result<Content> {
        self.0.open(node)
    }

    fn read(&self, content: &Content, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.0.read(content, offset, buf)
    }
}

#[test]
fn what_a_killed_run_left_is_removed_and_nothing_else() {
    use rustix::fs::{CWD, FileType, FlockOperation, Mode, flock, mknodat};
    let (_place, to, _) = place();
    let mut ended = std::process::Command::new("true").spawn().expect("it works");
    let dead = ended.id();
    ended.wait().expect("it works");
    let name = |process: u32, number: u32| format!(".copal-{process:x}-0123456789abcdef-{number}");
    let inner = to.join("d");
    fs::create_dir(&inner).expect("it works");
    let leave = || {
        for directory in [&to, &inner] {
            fs::write(directory.join(name(dead, 0)), "half").expect("it works");
        }
        std::os::unix::fs::symlink("x", to.join(name(dead, 1))).expect("it works");
        mknodat(CWD, to.join(name(dead, 2)), FileType::Fifo, Mode::RUSR, 0).expect("it works");
    };
    let stays = [name(std::process::id(), 9), ".copal-AbCdEf".into(), format!(".copal-{dead:x}-1-0")];
    stays.iter().for_each(|name| fs::write(to.join(name), "").expect("it works"));
    fs::create_dir(to.join(name(dead, 3))).expect("it works");
    let things = made([
        (0, Thing::Directory(vec![(b"a", 2), (b"d", 1)])),
        (1, Thing::Directory(vec![(b"b", 2)])),
        (2, Thing::File(b"new".to_vec())),
    ]);
    leave();
    let before = below(&to);
    // Somebody else copies there.
    let others = [fs::File::open(&to), fs::File::open(&inner)].map(|opened| opened.expect("it works"));
    others.iter().for_each(|other| flock(other, FlockOperation::LockShared).expect("it works"));
    let summary = run(&things, &to, OPTIONS, &Heard::default()).expect("it works");
    assert_eq!((summary.swept, below(&to).len()), (0, before.len() + 2));
    drop(others);
    let options = Options { force: true, ..OPTIONS };
    let dry = Options { dry_run: true, ..options };
    assert_eq!(run(&things, &to, dry, &Heard::default()).expect("it works").swept, 0);
    let summary = run(&things, &to, options, &Heard::default()).expect("it works");
    assert_eq!((summary.swept, summary.failed), (4, 0));
    let mut left: Vec<String> = stays.into_iter().chain([name(dead, 3)]).collect();
    left.extend(["a", "d", "d/b"].map(str::to_owned));
    left.sort();
    assert_eq!(below(&to), left);
}
