//! Disks that are full. A small filesystem of its own, in a mount namespace of its own, needs root.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::support::{COPAL, Place, Run, is_root, noise, sparse, tree};

/// A mount that only its own processes see, and that ends with the last of them, even if the tests are killed.
pub(crate) struct Space<'a> {
    place: &'a Place,
    holder: Child,
}

impl<'a> Space<'a> {
    /// Runs `mount` (a shell script) in a new namespace, in the place's directory.
    pub(crate) fn new(place: &'a Place, mount: &str) -> Self {
        let script = format!("{mount}; echo ready; exec cat");
        let mut run = place.run(Command::new("unshare"));
        run = run.args(["--mount", "--propagation", "private", "sh", "-euc", &script]);
        let mut holder = run.stdin(Stdio::piped()).stderr(Stdio::inherit()).spawn();
        let mut said = String::new();
        BufReader::new(holder.stdout.as_mut().expect("a pipe")).read_line(&mut said).expect("read");
        assert_eq!(said, "ready\n", "cannot mount");
        Self { place, holder }
    }

    fn enter(&self, program: &str) -> Run {
        let pid = self.holder.id().to_string();
        let run = self.place.run(Command::new("nsenter")).args(["--mount", "--target", &pid, "sh", "-euc"]);
        run.arg("cd \"$1\"; shift; exec \"$@\"").arg("sh").arg(self.place.path("")).arg(program)
    }

    /// The program in this namespace.
    pub(crate) fn copal(&self, args: &str) -> Run {
        self.enter(COPAL).args(args.split_whitespace())
    }

    pub(crate) fn shell(&self, script: &str) -> Run {
        self.enter("sh").args(["-euc", script])
    }

    /// A file of the namespace, seen from outside.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        let inside = self.place.path(name);
        PathBuf::from(format!("/proc/{}/root{}", self.holder.id(), inside.display()))
    }
}

impl Drop for Space<'_> {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

const TMPFS: &str = "mkdir small; mount -t tmpfs -o size=90m,mode=755 none small";

#[test]
fn a_backup_to_a_full_disk_fails_cleanly_and_works_when_there_is_space() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let space = Space::new(&place, TMPFS);
    space.copal("init small/repo --encryption none --reserve 0").ok();
    place.write("disk.img", &noise(1, 1 << 20));
    space.copal("create small/repo::web01 disk.img").ok();
    space.shell("head -c 56M /dev/zero > small/filler").ok();
    // The second pack does not fit, and workers still have a third one to give.
    place.write("big.img", &noise(2, 75 << 20));
    let failed = space.copal("create small/repo::big big.img");
    failed.fails(&["No space left on device", "copal: no space is left: free some, or use another disk"]);
    space.copal("create small/repo::big big.img").fails(&["No space left on device"]);
    let listed = space.copal("list small/repo --json").ok().json();
    assert_eq!(listed["archives"].as_array().map(Vec::len), Some(1));
    assert!(space.copal("extract small/repo::web01 --stdout").ok().stdout == place.read("disk.img"));
    space.shell("rm small/filler").ok();
    let resumed = space.copal("create small/repo::big big.img").ok();
    assert!(String::from_utf8_lossy(&resumed.stdout).contains("were there from a backup that did not end"));
    assert!(space.copal("extract small/repo::big --stdout").ok().stdout == place.read("big.img"));
}

#[test]
fn a_disk_without_one_free_byte() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let space = Space::new(&place, "mkdir small; mount -t tmpfs -o size=4m,mode=755 none small");
    space.copal("init small/repo --encryption none --reserve 0").ok();
    place.write("disk.img", &noise(1, 100_000));
    space.copal("create small/repo::web01 disk.img").ok();
    space.shell("head -c 8M /dev/zero > small/filler || true").end();
    let words = ["No space left on device", "no space is left: free some"];
    space.copal("create small/repo::web01 disk.img").fails(&words);
    space.copal("init small/other --encryption none").fails(&words[..1]);
    space.copal("list small/repo").ok();
    space.copal("extract small/repo::web01 small/out.img").fails(&[
        "small/out.img was not made",
        words[0],
        words[1],
    ]);
    space.copal("extract small/repo::web01 out.img").ok();
    assert!(place.read("out.img") == place.read("disk.img"));
    let left = tree(&space.path("small"));
    assert!(!left.iter().any(|(path, _)| path.display().to_string().contains(".copal-")), "{left:?}");
}

#[test]
fn a_restore_to_a_full_disk_leaves_nothing() {
    if !is_root() {
        return;
    }
    let place = Place::with_repository();
    let space = Space::new(&place, "mkdir small; mount -t tmpfs -o size=8m,mode=755 none small");
    sparse(&place.path("disk.img"), 1 << 30, &[(0, 1000), (500 << 20, 20 << 20)]);
    space.copal("create repo::x disk.img").ok();
    let failed = space.copal("extract repo::x small/out.img");
    failed.fails(&["small/out.img was not made", "No space left on device", "no space is left: free some"]);
    assert_eq!(fs::read_dir(space.path("small")).expect("read_dir").count(), 0);
}
