//! Mounts of ours and their servers, held by guards.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use copal::fuse::mountpoint::{MOUNT_TYPE, detach, mount_on, mounts};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::devices::detach_loops_below;
use crate::process::{has_ended, holds_within, signal, wait_until};

/// How long a guard waits for a server to end by itself before it is killed.
const PATIENCE: Duration = Duration::from_secs(15);

/// A sandbox's directory. When it goes, so does whatever is still mounted or attached below it.
#[derive(Debug)]
pub struct Place {
    dir: TempDir,
    logs: AtomicU32,
}

impl Place {
    pub(crate) fn new(dir: TempDir) -> Self {
        Self { dir, logs: AtomicU32::new(0) }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn new_log(&self) -> PathBuf {
        self.path().join(format!("log-{}", self.logs.fetch_add(1, Ordering::Relaxed)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for mount in mounts().unwrap_or_default().into_iter().rev() {
            if mount.path.starts_with(self.path()) {
                let _ = detach(&mount.path);
            }
        }
        detach_loops_below(self.path());
    }
}

/// A process that serves a mount.
#[derive(Debug)]
pub enum Server {
    /// Started by the test, in the foreground.
    Child(Child),
    /// Left behind by `copal mount`.
    Stranger(u32),
}

impl Server {
    /// The background server of a mountpoint, which lies right in its sandbox.
    #[must_use]
    pub fn of(directory: &Path) -> Option<Self> {
        let processes = fs::read_dir("/proc").ok()?.flatten();
        let mut pids = processes.filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
        let read = |pid: u32, what: &str| fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
        // The command may have named its directory from another one; that the sandbox is the right one shows in the environment.
        let state = directory.parent()?.join("state");
        let state = [b"COPAL_STATE_DIR=", state.as_os_str().as_bytes()].concat();
        let serves = |pid: &u32| {
            let line = read(*pid, "cmdline");
            let mut words = line.split(|byte| *byte == 0);
            words.clone().any(|word| word == b"--serve")
                && words.any(|word| !word.is_empty() && directory.ends_with(OsStr::from_bytes(word)))
                && read(*pid, "environ").split(|byte| *byte == 0).any(|variable| variable == state)
        };
        pids.find(serves).map(Self::Stranger)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        match self {
            Self::Child(child) => child.id(),
            Self::Stranger(pid) => *pid,
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        match self {
            Self::Child(child) => !matches!(child.try_wait(), Ok(None)),
            Self::Stranger(pid) => has_ended(*pid),
        }
    }
}

/// A mount and its server. Both end with the guard.
#[derive(Debug)]
pub struct Mount {
    directory: PathBuf,
    server: Server,
    log: Option<PathBuf>,
    _place: Arc<Place>,
}

impl Mount {
    /// Starts a server in the foreground and waits until it has mounted.
    pub(crate) fn start(place: Arc<Place>, directory: PathBuf, command: Command) -> Self {
        let what = format!("{command:?}");
        Self::try_start(place, directory, command)
            .unwrap_or_else(|ended| panic!("{what} ended:\n{}", ended.log()))
    }

    /// Starts a server in the foreground and waits until it has mounted, or has ended: that is an error.
    pub(crate) fn try_start(
        place: Arc<Place>,
        directory: PathBuf,
        mut command: Command,
    ) -> Result<Self, Self> {
        let log = place.new_log();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).expect("log"));
        let child = command.spawn().expect("copal starts");
        let mut mount = Self { directory, server: Server::Child(child), log: Some(log), _place: place };
        let mut ended = false;
        wait_until("the repository is mounted", || {
            ended = mount.server.has_ended();
            // A dead mount that still stands there does not answer this; its attributes may be cached.
            ended || mount.is_mounted() && rustix::fs::statvfs(&mount.directory).is_ok()
        });
        if ended { Err(mount) } else { Ok(mount) }
    }

    /// Takes a mount that a background server serves.
    pub(crate) fn adopt(place: Arc<Place>, directory: PathBuf) -> Self {
        let server = Server::of(&directory).expect("a server was left behind");
        let mount = Self { directory, server, log: None, _place: place };
        assert!(mount.is_mounted(), "nothing of ours is mounted on {}", mount.directory.display());
        mount
    }

    /// The mountpoint.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A path in the mount.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The newest image of a name.
    #[must_use]
    pub fn latest(&self, name: &str) -> PathBuf {
        self.path(name).join("latest.img")
    }

    /// Opens the newest image of a name.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn open(&self, name: &str) -> File {
        File::open(self.latest(name)).expect("open")
    }

    /// The server's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// The most memory that the server has taken, in bytes.
    ///
    /// # Panics
    /// If it has ended.
    #[must_use]
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("status");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("peak");
        peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// What a server in the foreground has logged.
    #[must_use]
    pub fn log(&self) -> String {
        let read = |path: &PathBuf| fs::read(path).map(|log| String::from_utf8_lossy(&log).into_owned());
        self.log.as_ref().and_then(|path| read(path).ok()).unwrap_or_default()
    }

    /// Whether the kernel shows a mount of ours on the mountpoint.
    #[must_use]
    pub fn is_mounted(&self) -> bool {
        mount_on(&self.directory).is_some_and(|mount| mount.kind == MOUNT_TYPE)
    }

    /// Sends the server a signal.
    pub fn signal(&self, number: Signal) {
        signal(self.pid(), number);
    }

    /// Whether the server has ended.
    pub fn has_ended(&mut self) -> bool {
        self.server.has_ended()
    }

    /// The exit code of a server in the foreground, once it has ended.
    ///
    /// # Panics
    /// If it does not end.
    pub fn exit_code(&mut self) -> Option<i32> {
        wait_until("the server ends", || self.server.has_ended());
        match &mut self.server {
            Server::Child(child) => child.wait().ok()?.code(),
            Server::Stranger(_) => None,
        }
    }

    /// Waits until the mount is gone and its server has ended.
    ///
    /// # Panics
    /// If one stays.
    pub fn wait_for_end(&mut self) {
        wait_until("the mount is gone", || !self.is_mounted());
        wait_until("the server has ended", || self.server.has_ended());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if !self.server.has_ended() {
            self.signal(Signal::CONT);
        }
        while self.is_mounted() && detach(&self.directory).is_ok() {}
        if !holds_within(PATIENCE, || self.server.has_ended()) {
            self.signal(Signal::KILL);
        }
        if let Server::Child(child) = &mut self.server {
            let _ = child.wait();
        }
    }
}
