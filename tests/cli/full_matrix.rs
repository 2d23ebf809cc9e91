//! Every command that writes, on a disk with hardly a free byte: it says so or does its work, nothing is lost, and once there is space it
//! works. What gives space back works without any.

use serde_json::Value;

use super::space::Space;
use super::support::{Ended, Place, is_root, noise};

/// Bytes left free.
const FREE: [u64; 5] = [0, 4 << 10, 64 << 10, 1 << 20, 5 << 20];
const WORDS: [&str; 2] = ["No space left on device", "no space is left: free some"];

/// A command, and whether it has to succeed with the reserve alone.
struct Case {
    args: &'static str,
    frees: bool,
}

const CASES: [Case; 9] = [
    Case { args: "create small/repo::new fresh.img", frees: false },
    Case { args: "delete small/repo::web01~1", frees: true },
    Case { args: "prune small/repo::web01 --keep-last 1", frees: true },
    Case { args: "compact small/repo --now", frees: true },
    Case { args: "undelete small/repo::gone", frees: false },
    Case { args: "rename small/repo::web01~1 web02", frees: false },
    Case { args: "tag small/repo::web01~1 --add night", frees: false },
    Case { args: "key add small/repo --new-key-file second.key", frees: false },
    Case { args: "copy other small/repo", frees: false },
];

/// A repository with three archives, one of them deleted, on a small filesystem; another one elsewhere.
struct Disk<'a> {
    place: &'a Place,
    space: Space<'a>,
}

impl<'a> Disk<'a> {
    fn new(place: &'a Place, mount: &str, reserve: &str) -> Self {
        let disk = Self { place, space: Space::new(place, mount) };
        place.write("main.key", &noise(9, 64));
        let images = [
            ("one.img", 1, 2 << 20),
            ("two.img", 2, 1 << 20),
            ("new.img", 3, 4 << 20),
            ("fresh.img", 4, 3 << 20),
        ];
        images.iter().for_each(|(name, seed, len)| place.write(name, &noise(*seed, *len)));
        disk.copal("init pristine --encryption keyfile --chunker fastcdc,16K --reserve").arg(reserve).ok();
        disk.copal("init other --encryption keyfile").ok();
        disk.copal("create other::far new.img").ok();
        for (name, image) in [("web01", "one.img"), ("web01", "two.img"), ("gone", "new.img")] {
            disk.copal(&format!("create pristine::{name} {image} --timestamp 2026-11-20")).ok();
        }
        disk.copal("delete pristine::gone").ok();
        disk
    }

    fn copal(&self, args: &str) -> super::support::Run {
        let key = self.place.path("main.key");
        self.space.copal(args).env("COPAL_KEY_FILE", &key).env("COPAL_TO_KEY_FILE", &key)
    }

    /// Puts everything back, and fills the disk but for so many bytes.
    fn prepare(&self, free: u64) {
        self.space
            .shell("rm -rf small/repo small/filler state second.key; cp -a pristine small/repo; sync")
            .ok();
        self.space.shell("dd if=/dev/zero of=small/filler bs=64K conv=fsync 2> /dev/null || true").end();
        self.space.shell("dd if=/dev/zero bs=512 conv=fsync 2> /dev/null >> small/filler || true").end();
        self.space.shell(&format!("truncate -s -{free} small/filler; sync")).ok();
    }

    fn archives(&self) -> Vec<Value> {
        let listed = self.copal("list small/repo --json").ok().json();
        listed["archives"].as_array().expect("archives").clone()
    }

    /// What is shown is whole.
    fn check(&self, at: &str) {
        for archive in self.archives() {
            assert_eq!(archive["unconfirmed"], false, "{at}: {archive}");
            let id = archive["id"].as_str().expect("an id");
            let bytes = self.copal(&format!("extract small/repo::#{id} --stdout")).ok().stdout;
            let image = archive["members"][0]["name"].as_str().expect("a name");
            assert!(bytes == self.place.read(image), "{at}: {archive}");
        }
    }

    fn run(&self, case: &Case, free: u64) -> Ended {
        let at = format!("{} with {free} bytes free", case.args);
        self.prepare(free);
        let before = self.archives();
        let ended = self.copal(case.args).end();
        println!("{at}: exit code {}", ended.code);
        match ended.code {
            0 => {}
            // Done, but for what only makes listings fast.
            1 => assert!(ended.stderr.contains("No space left on device"), "{at}: {ended}"),
            2 => {
                assert!(!case.frees, "{at}: {ended}");
                assert!(WORDS.iter().all(|word| ended.stderr.contains(word)), "{at}: {ended}");
                assert_eq!(self.archives(), before, "{at}: {ended}");
            }
            _ => panic!("{at}: {ended}"),
        }
        self.check(&at);
        self.space.shell("rm small/filler; sync").ok();
        if ended.code == 2 {
            let again = self.copal(case.args).end();
            assert_eq!(again.code, 0, "{at}, again: {again}");
            self.check(&at);
        }
        ended
    }
}

#[test]
fn commands_on_a_disk_that_is_full_or_nearly() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let disk = Disk::new(&place, "mkdir small; mount -t tmpfs -o size=40m,mode=755 none small", "1M");
    for case in &CASES {
        let failed = FREE.iter().filter(|free| disk.run(case, **free).code == 2).count();
        assert!(case.frees || (1..FREE.len()).contains(&failed), "{}: {failed} failures", case.args);
    }
}

#[test]
fn commands_on_a_full_filesystem_of_linux() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let mount =
        "truncate -s 48M disk.ext4; mkfs.ext4 -q -m 0 disk.ext4; mkdir small; mount -o loop disk.ext4 small";
    let disk = Disk::new(&place, mount, "1M");
    for case in &CASES {
        let failed = [0, 64 << 10].iter().filter(|free| disk.run(case, **free).code == 2).count();
        assert!(case.frees || failed > 0, "{}", case.args);
    }
}

#[test]
fn deleting_and_compacting_give_back_a_full_disk() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let disk = Disk::new(&place, "mkdir small; mount -t tmpfs -o size=40m,mode=755 none small", "1M");
    disk.prepare(0);
    // Whatever comes free is taken by somebody else at once, but for the reserve.
    let refill =
        || drop(disk.space.shell("head -c 64M /dev/zero >> small/filler 2> /dev/null || true").end());
    let reserve = || std::fs::metadata(disk.space.path("small/repo/reserve")).map_or(0, |found| found.len());
    disk.copal("delete small/repo::web01~1").ok();
    assert!(reserve() > 512 << 10, "{}", reserve());
    refill();
    disk.copal("tag small/repo::web01 --add x").fails(&WORDS);
    let freed = disk.copal("compact small/repo --json").ok().json();
    assert!(freed["removed"]["bytes"].as_u64().expect("a number") > 5 << 20, "{freed}");
    assert_eq!(reserve(), 1 << 20, "whole again");
    disk.copal("tag small/repo::web01 --add x").ok();
    disk.check("compacted");
}

#[test]
fn without_a_reserve_a_full_disk_is_said_to_be_full() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let disk = Disk::new(&place, "mkdir small; mount -t tmpfs -o size=40m,mode=755 none small", "0");
    for args in ["delete small/repo::web01~1", "compact small/repo"] {
        disk.prepare(0);
        let before = disk.archives();
        disk.copal(args).fails(&WORDS);
        assert_eq!(disk.archives(), before);
        disk.check(args);
    }
}
