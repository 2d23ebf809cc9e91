//! What is on the disk, and in which order, as the system calls of the program tell: before a pack goes, everything that was published is
//! durable, and so is the intent that names it.

use std::collections::{HashMap, HashSet};

use super::support::{Place, can, noise};

const CALLS: &str = "trace=fsync,fdatasync,renameat,renameat2,rename,unlinkat,unlink,mkdirat,mkdir";

/// One system call that succeeded: its name and arguments, and the line of the trace where it began.
struct Call {
    name: String,
    args: String,
    began: usize,
}

impl Call {
    /// The paths that stand behind descriptors, as in `6</srv/repo/tmp>`, and the names in quotes, joined in this order.
    fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        let mut rest = self.args.as_str();
        while let Some(at) = rest.find(['<', '"']) {
            let quoted = rest.as_bytes()[at] == b'"';
            let end = rest[at + 1..].find(if quoted { '"' } else { '>' }).expect("it ends") + at + 1;
            let text = &rest[at + 1..end];
            match paths.last_mut() {
                Some(dir) if quoted => *dir = format!("{dir}/{text}"),
                _ => paths.push(text.to_owned()),
            }
            rest = &rest[end + 1..];
        }
        paths
    }
}

/// All calls, in the order in which they ended. Those of several threads are cut in two by each other.
fn calls(trace: &str) -> Vec<Call> {
    let mut open: HashMap<&str, (usize, String)> = HashMap::new();
    let mut calls = Vec::new();
    for (number, line) in trace.lines().enumerate() {
        let (thread, line) = line.split_once(' ').expect("a thread");
        let line = line.trim_start();
        let (began, whole) = if let Some(head) = line.strip_suffix(" <unfinished ...>") {
            open.insert(thread, (number, head.to_owned()));
            continue;
        } else if let Some(tail) = line.strip_prefix("<... ") {
            let (began, head) = open.remove(thread).expect("it began");
            (began, head + tail.split_once("resumed>").expect("resumed").1)
        } else {
            (number, line.to_owned())
        };
        let Some((call, result)) = whole.rsplit_once(" = ") else { continue };
        let (name, args) = call.split_once('(').expect("arguments");
        if result.starts_with('0') {
            calls.push(Call { name: name.to_owned(), args: args.to_owned(), began });
        }
    }
    calls
}

fn dir(path: &str) -> String {
    path.rsplit_once('/').expect("a directory").0.to_owned()
}

/// Follows what is durable.
#[derive(Default)]
struct Disk {
    /// Files whose contents were synced.
    synced: HashSet<String>,
    /// Entries of directories that were made and not synced yet.
    loose: HashSet<String>,
    /// Objects that have their name for good.
    durable: HashSet<String>,
    packs_deleted: usize,
}

impl Disk {
    fn follow(&mut self, call: &Call) {
        let paths = call.paths();
        match (call.name.as_str(), &paths[..]) {
            ("fsync" | "fdatasync", [path]) => {
                self.synced.insert(path.clone());
                let settled: Vec<_> =
                    self.loose.iter().filter(|entry| dir(entry) == *path).cloned().collect();
                for entry in settled {
                    self.loose.remove(&entry);
                    self.durable.insert(entry);
                }
            }
            ("renameat" | "renameat2" | "rename", [from, to]) => {
                assert!(self.synced.contains(from), "{to} got its name before its contents were durable");
                self.loose.insert(to.clone());
            }
            ("mkdirat" | "mkdir", [path]) => drop(self.loose.insert(path.clone())),
            ("unlinkat" | "unlink", [path]) => self.delete(path, call.began),
            _ => panic!("{}({}", call.name, call.args),
        }
    }

    fn delete(&mut self, path: &str, line: usize) {
        self.durable.remove(path);
        let in_repository = path.split_once("/repo/").map_or("", |(_, object)| object);
        let pack = in_repository.strip_prefix("mirror/").unwrap_or(in_repository);
        if !pack.starts_with("packs/") && !pack.starts_with("maps/") {
            return;
        }
        self.packs_deleted += 1;
        assert!(self.loose.is_empty(), "line {line}: {path} goes while {:?} may vanish", self.loose);
        for folder in ["/repo/intents/", "/repo/mirror/intents/"] {
            let is_there = self.durable.iter().any(|object| object.contains(folder));
            assert!(is_there, "line {line}: {path} goes before an intent in {folder} is durable");
        }
    }
}

#[test]
fn packs_go_only_after_all_that_makes_them_needless_is_durable() {
    let place = Place::with_repository();
    let there = std::process::Command::new("strace").args(["-o", "/dev/null", "true"]).status();
    if !can("strace", there.is_ok_and(|status| status.success())) {
        return;
    }
    for seed in 0..3 {
        place.write("disk.img", &[noise(9, 3 << 20), noise(seed, 2 << 20)].concat());
        place.copal("create repo::web01 disk.img").ok();
    }
    place.copal("delete repo::web01~1").ok();
    place.copal("delete repo::web01~1").ok();
    let traced =
        place.shell(&format!("exec strace -f -y -e {CALLS} -o trace \"$COPAL\" compact repo --threshold 1"));
    traced.ok();
    let trace = String::from_utf8(place.read("trace")).expect("text");
    let mut disk = Disk::default();
    calls(&trace).iter().for_each(|call| disk.follow(call));
    // A data pack that was rewritten and one that was dead, and maps in both their places.
    assert!(disk.packs_deleted >= 4, "{}", disk.packs_deleted);
    let kinds = ["packs", "index", "moved", "condemned"];
    for kind in kinds {
        assert!(trace.contains(&format!("/repo/{kind}")), "{kind}");
    }
    assert!(place.copal("extract repo::web01 --stdout").ok().stdout == place.read("disk.img"));
}
