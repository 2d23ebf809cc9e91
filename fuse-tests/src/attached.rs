//! Archives that `copal attach` has attached, held by guards.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::devices::{LoopDevice, Mounted};
use crate::images::{Names, assert_names, empty_file, partition, populate};
use crate::process::run;
use crate::sandbox::{Sandbox, files_below};
use crate::tool;
use crate::trees::{Tree, assert_same, scan};

/// Attaches of one sandbox. What is left of them is taken down with the guard.
#[derive(Debug)]
pub struct Attaches<'a> {
    sandbox: &'a Sandbox,
    records: PathBuf,
}

impl<'a> Attaches<'a> {
    /// With records in the sandbox.
    #[must_use]
    pub fn of(sandbox: &'a Sandbox) -> Self {
        Self::recorded_in(sandbox, "attached")
    }

    /// With records in a directory of the sandbox, of which those in others know nothing.
    #[must_use]
    pub fn recorded_in(sandbox: &'a Sandbox, name: &str) -> Self {
        Self { sandbox, records: sandbox.path(name) }
    }

    /// Where the records are.
    #[must_use]
    pub fn records(&self) -> &Path {
        &self.records
    }

    /// The program with arguments.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.sandbox.copal();
        command.env("COPAL_ATTACH_STATE", &self.records).args(args);
        command
    }

    /// The repository with what stands behind `::`.
    #[must_use]
    pub fn reference(&self, archive: &str) -> String {
        self.sandbox.reference(archive)
    }

    /// `copal attach --json` of an archive, which may end with warnings.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn attach(&self, archive: &str, args: &[&str]) -> Value {
        let reference = self.sandbox.reference(archive);
        let output = self.output(&[&["attach", "--json", &reference], args].concat());
        assert!(matches!(output.status.code(), Some(0 | 1)), "{}", said(&output));
        if !output.status.success() {
            // Only a test that fails shows it.
            eprintln!("not all was attached: {}{}", String::from_utf8_lossy(&output.stdout), said(&output));
        }
        serde_json::from_slice(&output.stdout).expect("one JSON document")
    }

    /// Runs the program to its end.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("copal starts")
    }

    /// Runs the program, which must succeed without a warning.
    ///
    /// # Panics
    /// If it does not.
    pub fn run(&self, args: &[&str]) -> String {
        String::from_utf8(run(&mut self.command(args)).stdout).expect("text")
    }

    /// Runs the program, which must fail; returns what it said.
    ///
    /// # Panics
    /// If it does not fail.
    #[must_use]
    pub fn fails(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert_eq!(output.status.code(), Some(2), "copal {args:?}: {}", said(&output));
        said(&output)
    }

    /// What `copal attached --json` lists.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn listed(&self) -> Vec<Value> {
        let all: Value = serde_json::from_str(&self.run(&["attached", "--json"])).expect("JSON");
        all["attached"].as_array().expect("a list").clone()
    }
}

impl Drop for Attaches<'_> {
    fn drop(&mut self) {
        let output = self.output(&["detach", "--all"]);
        if !output.status.success() && !std::thread::panicking() {
            panic!("not all is taken down: {}", said(&output));
        }
    }
}

/// What a program wrote to standard error.
#[must_use]
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A partition of what `copal attach --json` says, by its name.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn part<'a>(attached: &'a Value, name: &str) -> &'a Value {
    let parts = attached["partitions"].as_array().expect("a list");
    parts.iter().find(|part| part["name"] == name).unwrap_or_else(|| panic!("no {name}: {attached}"))
}

/// Where a partition is mounted.
///
/// # Panics
/// If it is not.
#[must_use]
pub fn mounted(attached: &Value, name: &str) -> PathBuf {
    let part = part(attached, name);
    part["mounted"].as_str().unwrap_or_else(|| panic!("{name} is not mounted: {part}")).into()
}

/// Options and source of the newest mount on a path.
///
/// # Panics
/// If nothing is mounted there.
#[must_use]
pub fn mount_line(path: &Path) -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("mount table");
    let wanted = format!(" {} ", path.display());
    table.lines().rev().find(|line| line.contains(&wanted)).expect("a mount").to_owned()
}

/// Everything that attaches make on a machine: loop devices and mounts of theirs, and their directories.
#[must_use]
pub fn traces(id: &str) -> Vec<String> {
    let own = format!("/run/copal/attach/{id}");
    let mut found = Vec::new();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found.extend(table.lines().filter(|line| line.contains(&own)).map(str::to_owned));
    for device in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let file = fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
        if file.starts_with(&own) {
            found.push(format!("{} on {file}", device.file_name().to_string_lossy()));
        }
    }
    let rule = format!("/run/udev/rules.d/12-copal-attach-{id}.rules");
    found.extend([own, rule].into_iter().filter(|path| Path::new(path).exists()));
    found
}

/// What all bytes of a repository are, file by file.
///
/// # Panics
/// If one cannot be read.
#[must_use]
pub fn contents(sandbox: &Sandbox) -> Vec<(PathBuf, Vec<u8>)> {
    files_below(&sandbox.repository())
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).expect("read")))
        .collect()
}

/// Bytes of a MiB.
pub const MIB: u64 = 1 << 20;

/// A disk with a GPT: ext4 (2), XFS (3), btrfs (4), swap (5), and an EFI partition (1).
pub struct Disk {
    /// Its archive is `web01`.
    pub sandbox: Sandbox,
    /// The disk itself.
    pub image: PathBuf,
    /// What is in each filesystem.
    pub trees: Vec<(&'static str, Tree)>,
}

/// Partitions of [`Disk`]: name, filesystem, first byte and length.
pub const PARTS: [(&str, &str, u64, u64); 3] =
    [("p2-root", "ext4", 9, 32), ("p3-xfs", "xfs", 41, 320), ("p4-büro", "btrfs", 361, 128)];
const TABLE: &str = "label: gpt\n\
    start=1MiB, size=8MiB, type=U\n\
    start=9MiB, size=32MiB, type=L, name=root\n\
    start=41MiB, size=320MiB, type=L\n\
    start=361MiB, size=128MiB, type=L, name=\"B\u{fc}ro\"\n\
    start=489MiB, size=8MiB, type=S\n";

impl Disk {
    /// Makes it, and backs it up.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "it takes seconds")]
    pub fn new() -> Self {
        let sandbox = Sandbox::plain();
        let image = sandbox.path("disk.img");
        empty_file(&image, 500 * MIB);
        partition(&image, TABLE);
        let esp = at(&image, 1, 8);
        tool!("mkfs.vfat", "-n", "ESP", esp.path());
        drop(esp);
        let swap = at(&image, 489, 8);
        tool!("mkswap", "-q", swap.path());
        drop(swap);
        let mut trees = Vec::new();
        for (name, kind, start, len) in PARTS {
            let device = at(&image, start, len);
            let force = if kind == "ext4" { "-F" } else { "-f" };
            tool!(&format!("mkfs.{kind}"), "-q", force, device.path());
            let filled = Mounted::device(kind, "rw", device.path(), &sandbox.mountpoint("fill"));
            populate(filled.path(), Names::Bytes);
            trees.push((name, scan(filled.path())));
            filled.unmount();
        }
        sandbox.back_up("web01", &image);
        Self { sandbox, image, trees }
    }

    /// Fails unless all files of all filesystems are there.
    ///
    /// # Panics
    /// If they are not.
    pub fn assert_trees(&self, attached: &Value) {
        for (name, tree) in &self.trees {
            let found = scan(&mounted(attached, name));
            assert_names(&found, Names::Bytes);
            assert_same(tree, &found);
        }
    }
}

/// A part of an image as a device; offsets and lengths in MiB.
fn at(image: &Path, start: u64, len: u64) -> LoopDevice {
    let args = [format!("--offset={}", start * MIB), format!("--sizelimit={}", len * MIB)];
    LoopDevice::attach(image, &args.each_ref().map(String::as_str))
}

/// What an attach is called.
///
/// # Panics
/// If it has no name.
#[must_use]
pub fn id(attached: &Value) -> &str {
    attached["id"].as_str().expect("an id")
}
