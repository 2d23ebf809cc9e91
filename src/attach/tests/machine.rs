//! A machine in memory, with things of others on it, that stops at a step.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::entry;
use crate::allocation::journal::Journal;
use crate::attach::Result;
use crate::attach::plan::{Access, Driver, Way};
use crate::attach::state::{Process, Record};
use crate::attach::system::{LoopDevice, LoopWish, MountFailure, MountWish, System, Volume};
use crate::fuse::mountpoint::{MOUNT_TYPE, MountEntry};
use crate::partition::Part;

/// When the process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crash {
    /// Instead of this step.
    Before(usize),
    /// When it is done, but nobody was told.
    After(usize),
}

/// The machine; what others have on it is marked by being in `others`.
#[derive(Debug)]
pub(super) struct Machine {
    records: BTreeMap<String, Record>,
    directories: BTreeSet<PathBuf>,
    files: BTreeSet<PathBuf>,
    rules: BTreeSet<PathBuf>,
    loops: Vec<LoopDevice>,
    mounts: Vec<MountEntry>,
    servers: Vec<Process>,
    groups: BTreeMap<String, Vec<PathBuf>>,
    stopped: Vec<Process>,
    busy: Option<PathBuf>,
    boot: &'static str,
    crash: Option<Crash>,
    dead: bool,
    steps: usize,
    log: Vec<String>,
}

const SERVER: Process = Process { pid: 4711, started: 1 };

impl Machine {
    pub(super) fn new() -> Self {
        let theirs = LoopDevice { device: "/dev/loop0".into(), file: "/srv/a.img".into(), offset: 0 };
        Self {
            records: BTreeMap::new(),
            directories: BTreeSet::from(["/mnt".into()]),
            files: BTreeSet::new(),
            rules: BTreeSet::from(["/run/udev/rules.d/99-theirs.rules".into()]),
            loops: vec![theirs],
            mounts: vec![entry(Path::new("/"), Path::new("/dev/sda1"), "ext4")],
            servers: Vec::new(),
            groups: BTreeMap::new(),
            stopped: Vec::new(),
            busy: None,
            boot: "this boot",
            crash: None,
            dead: false,
            steps: 0,
            log: Vec::new(),
        }
    }

    pub(super) fn crash(&mut self, crash: Crash) {
        self.crash = Some(crash);
    }

    pub(super) fn revive(&mut self) {
        (self.crash, self.dead) = (None, false);
    }

    pub(super) fn steps(&self) -> usize {
        self.steps
    }

    pub(super) fn log(&self) -> &[String] {
        &self.log
    }

    pub(super) fn saved(&self) -> Option<Record> {
        self.records.values().next().cloned()
    }

    pub(super) fn has_rule(&self) -> bool {
        self.rules.len() > 1
    }

    pub(super) fn has_loop(&self, device: &Path) -> bool {
        self.loops.iter().any(|found| found.device == device)
    }

    pub(super) fn nothing(&mut self) {}

    /// Its mount stays, and so does what hangs from it.
    pub(super) fn server_killed(&mut self) {
        self.servers.clear();
    }

    /// By a signal: its mount is taken away at once, and the kernel has no other name for what hangs from it than that within the mount.
    pub(super) fn server_ended(&mut self) {
        self.servers.clear();
        let Some(at) = self.mounts.iter().position(|mount| mount.kind == MOUNT_TYPE) else { return };
        let image = self.mounts.remove(at).path;
        // What is not written down has to be found by its path: it cannot have been served for long.
        let known: Vec<PathBuf> = self
            .records
            .values()
            .flat_map(|record| &record.loops)
            .filter_map(|made| made.device.clone())
            .collect();
        self.loops.retain(|found| !found.file.starts_with(&image) || known.contains(&found.device));
        for found in &mut self.loops {
            if let Ok(within) = found.file.strip_prefix(&image) {
                found.file = Path::new("/").join(within);
            }
        }
    }

    /// Only files and directories of disks stay.
    pub(super) fn reboot(&mut self) {
        self.boot = "another boot";
        self.servers.clear();
        self.groups.clear();
        self.loops.truncate(1);
        self.mounts.truncate(1);
        self.rules.retain(|rule| rule.ends_with("99-theirs.rules"));
        self.directories.retain(|path| !path.starts_with("/run"));
    }

    pub(super) fn stop_servers(&mut self) {
        self.stopped.clone_from(&self.servers);
    }

    pub(super) fn continue_servers(&mut self) {
        self.stopped.clear();
    }

    pub(super) fn use_mount(&mut self, path: &str) {
        self.busy = Some(path.into());
    }

    pub(super) fn use_nothing(&mut self) {
        self.busy = None;
    }

    pub(super) fn mount_of_others(&mut self, path: &Path, source: &str) {
        self.mounts.push(entry(path, Path::new(source), "theirs"));
    }

    pub(super) fn unmount_of_others(&mut self) {
        self.mounts.retain(|mount| mount.kind != "theirs");
    }

    pub(super) fn unmounted_by_hand(&mut self, below: &str) {
        self.mounts.retain(|mount| !mount.path.starts_with(below));
    }

    pub(super) fn record_damaged(&mut self) -> String {
        self.records.pop_first().unwrap().0
    }

    pub(super) fn make_directory_by_hand(&mut self, path: &str) {
        self.directories.insert(path.into());
    }

    pub(super) fn remove_directory_by_hand(&mut self, path: &str) {
        assert!(self.directories.remove(Path::new(path)));
    }

    pub(super) fn put_file(&mut self, directory: &str) {
        self.files.insert(Path::new(directory).join("file"));
    }

    /// Makes the device of a mount somebody else's, and the mount go.
    pub(super) fn hand_over(&mut self, mount: &str, file: &str) -> PathBuf {
        let at = self.mounts.iter().position(|found| found.path == Path::new(mount)).unwrap();
        let device = self.mounts.remove(at).source;
        let found = self.loops.iter_mut().find(|found| found.device == device).unwrap();
        found.file = file.into();
        device
    }

    /// Fails unless just what others have is there.
    pub(super) fn assert_only_others(&self) {
        assert!(self.records.is_empty(), "{:?}", self.records);
        assert_eq!(self.directories, BTreeSet::from(["/mnt".into()]));
        assert_eq!(self.rules.len(), 1, "{:?}", self.rules);
        assert!(self.loops.iter().all(|found| found.file.starts_with("/srv")), "{:?}", self.loops);
        assert_eq!(self.mounts.len(), 1, "{:?}", self.mounts);
        assert!(self.servers.is_empty() && self.groups.is_empty());
    }

    /// Takes a step, unless the process dies.
    fn act<T>(&mut self, what: String, effect: impl FnOnce(&mut Self) -> T) -> io::Result<T> {
        let died = || io::Error::other("the process has died");
        if self.dead {
            return Err(died());
        }
        self.steps += 1;
        if self.crash == Some(Crash::Before(self.steps)) {
            self.dead = true;
            return Err(died());
        }
        self.log.push(what);
        let done = effect(self);
        if self.crash == Some(Crash::After(self.steps)) {
            self.dead = true;
            return Err(died());
        }
        Ok(done)
    }

    fn own(&mut self, what: String, effect: impl FnOnce(&mut Self)) -> Result<()> {
        self.act(what, effect).map_err(crate::attach::failed("work on", Path::new("/")))
    }

    fn is_busy(&self, mount: &MountEntry) -> bool {
        self.busy.as_ref() == Some(&mount.path)
            || mount.kind == MOUNT_TYPE && self.loops.iter().any(|found| found.file.starts_with(&mount.path))
    }

    fn uses(&self, device: &Path) -> bool {
        let below = |node: &Path| node.to_string_lossy().starts_with(&*device.to_string_lossy());
        self.mounts.iter().any(|mount| below(&mount.source))
            || self.groups.values().flatten().any(|node| below(node))
    }
}

impl System for Machine {
    fn boot(&self) -> String {
        self.boot.into()
    }

    fn save(&mut self, record: &Record) -> Result<()> {
        let copy = record.clone();
        self.own("save".into(), |machine| drop(machine.records.insert(copy.id.clone(), copy)))
    }

    fn forget(&mut self, record: &Record) -> Result<()> {
        self.own("forget".into(), |machine| drop(machine.records.remove(&record.id)))
    }

    fn make_directory(&mut self, path: &Path) -> io::Result<()> {
        if self.directories.contains(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.act(format!("mkdir {}", path.display()), |machine| {
            machine.directories.insert(path.into());
        })
    }

    fn remove_directory(&mut self, path: &Path) -> io::Result<()> {
        assert!(path != Path::new("/mnt"), "that is somebody else's");
        if self.mounts.iter().any(|mount| mount.path == path) {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let is_in = |other: &PathBuf| other != path && other.starts_with(path);
        if self.directories.iter().chain(&self.files).any(is_in) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let was =
            self.act(format!("rmdir {}", path.display()), |machine| machine.directories.remove(path))?;
        if was { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn has_udev(&self) -> bool {
        true
    }

    fn add_rule(&mut self, path: &Path, _text: &str) -> Result<()> {
        self.own("rule".into(), |machine| {
            machine.rules.insert(path.into());
        })
    }

    fn await_rule(&mut self, path: &Path, devices: &[PathBuf]) -> Vec<PathBuf> {
        self.log.push("wait for rule".into());
        if self.rules.contains(path) { Vec::new() } else { devices.to_owned() }
    }

    fn remove_rule(&mut self, path: &Path) -> Result<()> {
        self.own("no rule".into(), |machine| {
            machine.rules.remove(path);
        })
    }

    fn serve(&mut self, on: &Path, _overlay: bool) -> Result<Process> {
        self.own("serve".into(), |machine| {
            machine.servers.push(SERVER);
            machine.mounts.push(entry(on, Path::new("copal"), MOUNT_TYPE));
        })?;
        Ok(SERVER)
    }

    fn servers(&self, _on: &Path) -> Vec<Process> {
        self.servers.clone()
    }

    fn is_stopped(&self, server: Process) -> bool {
        self.stopped.contains(&server)
    }

    fn end_server(&mut self, server: Process) -> bool {
        let image = |mount: &MountEntry| mount.kind == MOUNT_TYPE;
        assert!(!self.mounts.iter().any(image), "its mount goes first");
        self.act("no server".into(), |machine| machine.servers.retain(|other| *other != server)).is_ok()
    }

    fn add_loop(&mut self, wish: &LoopWish) -> Result<PathBuf> {
        let device = PathBuf::from(format!("/dev/loop{}", self.loops.len() + 10));
        let made = LoopDevice { device: device.clone(), file: wish.file.clone(), offset: wish.offset };
        self.own(format!("loop {}", device.display()), |machine| machine.loops.push(made))?;
        Ok(device)
    }

    fn loops(&self) -> io::Result<Vec<LoopDevice>> {
        Ok(self.loops.clone())
    }

    fn remove_loop(&mut self, device: &LoopDevice) -> Result<bool> {
        assert!(!device.file.starts_with("/srv"), "that is somebody else's");
        if self.uses(&device.device) {
            return Ok(false);
        }
        self.own(format!("no loop {}", device.device.display()), |machine| {
            machine.loops.retain(|other| other != device);
        })?;
        Ok(true)
    }

    fn users(&self, _device: &Path) -> Vec<String> {
        vec!["somebody".into()]
    }

    fn mount(&mut self, wish: &MountWish, way: &Way) -> std::result::Result<(), MountFailure> {
        let Driver::Kernel(driver) = way.driver else { panic!("{way:?}") };
        if driver == "vfat" {
            return Err(MountFailure::NoDriver("this kernel has no vfat".into()));
        }
        let made = entry(&wish.path, &wish.device, driver);
        let done = self.act(format!("mount {}", wish.path.display()), |machine| machine.mounts.push(made));
        done.map_err(|error| MountFailure::Refused(error.to_string()))
    }

    fn mounts(&self) -> io::Result<Vec<MountEntry>> {
        Ok(self.mounts.clone())
    }

    fn unmount(&mut self, path: &Path) -> io::Result<()> {
        let at =
            self.mounts.iter().rposition(|mount| mount.path == path).expect("something is mounted there");
        assert!(self.mounts[at].kind != "theirs" && at > 0, "that is somebody else's");
        let covers = |later: &MountEntry| later.path != path && path.starts_with(&later.path);
        assert!(!self.mounts[at + 1..].iter().any(covers), "its path leads elsewhere");
        if self.is_busy(&self.mounts[at]) {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        self.act(format!("unmount {}", path.display()), |machine| drop(machine.mounts.remove(at)))
    }

    fn holders(&self, _path: &Path) -> Vec<String> {
        vec!["process 7 (less)".into()]
    }

    fn usage(&self, _path: &Path) -> Option<u64> {
        Some(4096)
    }

    fn forget_btrfs(&mut self, _device: &Path) {}

    fn look(&self, device: &Path) -> Option<(Part, Journal)> {
        let clean = device.to_string_lossy().ends_with("-clean");
        let journal = if clean { Journal::Clean } else { Journal::NeedsReplay };
        Some((Part { whole: true, ..super::part(1, "ext4") }, journal))
    }

    fn groups(&mut self, devices: &[PathBuf]) -> Result<Vec<(String, Vec<PathBuf>)>> {
        Ok(vec![("vg0".into(), devices.to_vec())])
    }

    fn import_group(&mut self, name: &str, devices: &[PathBuf], access: Access) -> Result<Vec<Volume>> {
        self.own(format!("group {name} {access:?}"), |machine| {
            machine.groups.insert(name.into(), devices.to_vec());
        })?;
        let volume = |volume: &str| Volume {
            name: volume.into(),
            device: format!("/dev/mapper/{name}-{volume}").into(),
        };
        Ok(vec![volume("root"), volume("clean")])
    }

    fn let_write(&mut self, name: &str, _devices: &[PathBuf], volume: &Volume) -> Result<()> {
        self.own(format!("write to {name}/{}", volume.name), |_| {})
    }

    fn release_group(&mut self, name: &str, _devices: &[PathBuf]) -> Result<bool> {
        let prefix = format!("/dev/mapper/{name}-");
        if self.mounts.iter().any(|mount| mount.source.to_string_lossy().starts_with(&prefix)) {
            return Ok(false);
        }
        self.own(format!("no group {name}"), |machine| drop(machine.groups.remove(name)))?;
        Ok(true)
    }

    fn active_groups(&self, prefix: &str) -> Vec<String> {
        self.groups.keys().filter(|name| name.starts_with(prefix)).cloned().collect()
    }
}
