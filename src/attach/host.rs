//! The machine that this runs on.

mod loops;
mod lvm;
mod mounts;
mod programs;
mod rules;
pub mod servers;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::plan::{Access, KnownFilesystems, Way};
use super::state::{Process, Record, Store};
use super::system::{LoopDevice, LoopWish, MountFailure, MountWish, System, Volume};
use super::{Result, SHOWN};
use crate::allocation::journal::{Journal, journal};
use crate::fuse::mountpoint::{self, MountEntry};
use crate::partition::{Part, ReadAt, parts, read_table};

/// Starts the server of an archive on a directory, with or without an overlay, and returns when it is ready.
pub type Serve<'a> = dyn FnMut(&Path, bool) -> Result<Process> + 'a;

/// The machine. What serves is given from outside: a server is a program with a command line.
pub struct Host<'a> {
    store: Store,
    serve: Option<Box<Serve<'a>>>,
}

impl<'a> Host<'a> {
    /// With records in a store, and what serves.
    #[must_use]
    pub fn new(store: Store, serve: Box<Serve<'a>>) -> Self {
        Self { store, serve: Some(serve) }
    }

    /// For taking down alone.
    #[must_use]
    pub fn without_server(store: Store) -> Self {
        Self { store, serve: None }
    }
}

impl std::fmt::Debug for Host<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("store", &self.store).finish_non_exhaustive()
    }
}

/// The id of the running boot.
///
/// # Errors
/// If the kernel does not tell.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The btrfs filesystems that this machine knows: mounted ones, and those on its block devices, all of which are looked at.
#[must_use]
pub fn known_btrfs() -> KnownFilesystems {
    let mut known = KnownFilesystems::new();
    for device in fs::read_dir("/sys/class/block").into_iter().flatten().flatten() {
        let size = fs::read_to_string(device.path().join("size")).unwrap_or_default();
        let suspended = fs::read_to_string(device.path().join("dm/suspended")).unwrap_or_default();
        // An empty drive would be waited for, and a suspended device for ever.
        if size.trim() == "0" || size.is_empty() || suspended.trim() == "1" {
            continue;
        }
        let node = Path::new("/dev").join(device.file_name().to_string_lossy().replace('!', "/"));
        let Some((part, _)) = look(&node).filter(|(part, _)| part.filesystem.as_deref() == Some("btrfs"))
        else {
            continue;
        };
        if let Some(uuid) = part.uuid {
            known.insert(uuid, node.display().to_string());
        }
    }
    for mounted in fs::read_dir("/sys/fs/btrfs").into_iter().flatten().flatten() {
        let name = mounted.file_name().to_string_lossy().into_owned();
        known.insert(name, "mounted, or known to its kernel".into());
    }
    known
}

/// What fills a device.
fn look(device: &Path) -> Option<(Part, Journal)> {
    let disk = Opened::open(device).ok()?;
    let table = read_table(&disk, 0).ok()?;
    let part = parts(&table, disk.len()).into_iter().next().filter(|part| part.whole)?;
    let state = journal(&disk, 0..disk.len(), part.filesystem.as_deref().unwrap_or_default());
    Some((part, state))
}

/// A block device that is read.
struct Opened {
    file: fs::File,
    len: u64,
}

impl Opened {
    fn open(path: &Path) -> io::Result<Self> {
        use std::io::Seek;
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = fs::OpenOptions::new();
        let mut file = options.read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let len = file.seek(io::SeekFrom::End(0))?;
        Ok(Self { file, len })
    }
}

impl ReadAt for Opened {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, buf, offset)
    }
}

impl System for Host<'_> {
    fn boot(&self) -> String {
        boot_id().unwrap_or_default()
    }

    fn save(&mut self, record: &Record) -> Result<()> {
        self.store.save(record)
    }

    fn forget(&mut self, record: &Record) -> Result<()> {
        self.store.remove(&record.id)
    }

    fn make_directory(&mut self, path: &Path) -> io::Result<()> {
        let all_may_pass = DirBuilder::new().recursive(true).mode(0o755).create(SHOWN);
        if let Some(parent) = path.parent().filter(|parent| parent.starts_with(super::RUN)) {
            all_may_pass?;
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        DirBuilder::new().mode(0o700).create(path)
    }

    fn remove_directory(&mut self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn has_udev(&self) -> bool {
        rules::matter()
    }

    fn add_rule(&mut self, path: &Path, text: &str) -> Result<()> {
        rules::add(path, text)
    }

    fn await_rule(&mut self, path: &Path, devices: &[PathBuf]) -> Vec<PathBuf> {
        rules::wait(path, devices)
    }

    fn remove_rule(&mut self, path: &Path) -> Result<()> {
        rules::remove(path)
    }

    fn serve(&mut self, on: &Path, overlay: bool) -> Result<Process> {
        match &mut self.serve {
            Some(serve) => serve(on, overlay),
            None => Err(super::Error::Server("nothing is to be served".into())),
        }
    }

    fn servers(&self, on: &Path) -> Vec<Process> {
        servers::find(on)
    }

    fn is_stopped(&self, server: Process) -> bool {
        servers::is_stopped(server)
    }

    fn end_server(&mut self, server: Process) -> bool {
        servers::end(server)
    }

    fn add_loop(&mut self, wish: &LoopWish) -> Result<PathBuf> {
        loops::add(wish)
    }

    fn loops(&self) -> io::Result<Vec<LoopDevice>> {
        loops::list()
    }

    fn remove_loop(&mut self, device: &LoopDevice) -> Result<bool> {
        loops::remove(device)
    }

    fn users(&self, device: &Path) -> Vec<String> {
        loops::users(device)
    }

    fn mount(&mut self, wish: &MountWish, way: &Way) -> std::result::Result<(), MountFailure> {
        mounts::mount(wish, way)
    }

    fn mounts(&self) -> io::Result<Vec<MountEntry>> {
        mountpoint::mounts()
    }

    fn unmount(&mut self, path: &Path) -> io::Result<()> {
        mounts::unmount(path)
    }

    fn holders(&self, path: &Path) -> Vec<String> {
        mounts::holders(path)
    }

    fn usage(&self, path: &Path) -> Option<u64> {
        let found = rustix::fs::statvfs(path).ok()?;
        found.f_blocks.checked_sub(found.f_bfree)?.checked_mul(found.f_frsize)
    }

    fn forget_btrfs(&mut self, device: &Path) {
        let args = ["device".as_ref(), "scan".as_ref(), "--forget".as_ref(), device.as_os_str()];
        if let Err(error) = programs::run("btrfs", &args) {
            log::debug!("the kernel may remember the btrfs on {}: {error}", device.display());
        }
    }

    fn look(&self, device: &Path) -> Option<(Part, Journal)> {
        look(device)
    }

    fn groups(&mut self, devices: &[PathBuf]) -> Result<Vec<(String, Vec<PathBuf>)>> {
        lvm::groups(devices)
    }

    fn import_group(&mut self, name: &str, devices: &[PathBuf], access: Access) -> Result<Vec<Volume>> {
        lvm::import(name, devices, access)
    }

    fn let_write(&mut self, name: &str, devices: &[PathBuf], volume: &Volume) -> Result<()> {
        lvm::let_write(name, devices, volume)
    }

    fn release_group(&mut self, name: &str, devices: &[PathBuf]) -> Result<bool> {
        lvm::release(name, devices)
    }

    fn active_groups(&self, prefix: &str) -> Vec<String> {
        lvm::active(prefix)
    }
}
