//! Mounting, serving, ending.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use rustix::mount::MountFlags;

use super::attributes::Ownership;
use super::files::{Files, Overlays};
use super::kernel::Kernel;
use super::mountpoint::{MOUNT_TYPE, detach, detach_device, mount_on};
use super::overlay::{Budget, Overlay, OverlayError, OverlayOptions};
use super::tree::{Scope, Tree};
use crate::format::name::ArchiveName;
use crate::format::record::Member;
use crate::image::reader::ImageReader;
use crate::repository::archives::Archive;
use crate::repository::{self, Repository};
use crate::task::workers;

/// Readahead of the mount where it may be set, in KiB. The kernel's own 128 KiB halve a sequential reader's speed.
const READ_AHEAD_KB: u32 = 4096;
/// Threads that serve requests beyond one per core: one that waits for storage or for another's chunk keeps no core busy, and more of them wait where
/// storage is slow.
const EXTRA_THREADS: usize = 30;
/// The same where somebody writes: each holds what it was given last.
const EXTRA_WRITERS: usize = 6;

/// Options that are always so, that mean nothing on a read-only mount, or that only mount(8) looks at.
const IGNORED: [&str; 26] = [
    "ro",
    "nosuid",
    "nodev",
    "noatime",
    "default_permissions",
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "nofail",
    "_netdev",
    "exec",
    "relatime",
    "norelatime",
    "strictatime",
    "lazytime",
    "nodiratime",
    "diratime",
    "silent",
    "loud",
    "async",
    "iversion",
];

/// Who may look into a mount besides its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// Nobody.
    #[default]
    Owner,
    /// Root, so that its loop devices reach a user's mount.
    Root,
    /// Everybody, as far as permission bits go.
    Other,
}

/// How to mount.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// Which archives are shown.
    pub scope: Scope,
    /// Owner and permissions of everything.
    pub owner: Ownership,
    /// Who may look.
    pub access: Access,
    /// Bytes for all caches together.
    pub cache_size: usize,
    /// What the mount table shows as its source.
    pub source: String,
    /// Further options as `mount -o` takes them.
    pub extra: Vec<String>,
    /// Makes the images of a single archive writable.
    pub overlay: Option<OverlayOptions>,
}

/// Why a mount failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The repository failed.
    #[error(transparent)]
    Repository(#[from] repository::Error),
    /// The system refused.
    #[error("cannot mount on {path}")]
    Refused {
        /// The mountpoint.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is written would have nowhere to go.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// Several archives cannot be made writable at once.
    #[error(
        "--overlay makes one archive writable: name it as REPO::NAME, which means the newest, or REPO::NAME@WHEN"
    )]
    ManyWritable,
    /// FUSE is not there.
    #[error("this system has no FUSE (/dev/fuse is missing): load the kernel module with 'modprobe fuse'")]
    NoFuse,
    /// FUSE is not for this user.
    #[error(
        "this user may not use FUSE (/dev/fuse cannot be opened): mount as root, or have its permissions changed"
    )]
    FuseForbidden,
}

/// A mount that is being served.
#[derive(Debug)]
pub struct Mounted {
    session: BackgroundSession,
    path: PathBuf,
    /// Its number in the mount table; empty if it has left that already.
    device: String,
    files: Arc<Files>,
}

/// Mounts a repository, whose archives were just listed under a mark, and serves it from threads of this process. `path` is absolute and was
/// checked.
///
/// # Errors
/// [`MountError`].
pub fn mount(
    repository: &Arc<Repository>,
    (archives, mark): (Vec<Archive>, [u8; 32]),
    path: &Path,
    options: &MountOptions,
) -> Result<Mounted, MountError> {
    match open_device() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(MountError::NoFuse),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(MountError::FuseForbidden);
        }
        _ => {}
    }
    let reader = Arc::new(ImageReader::new(repository.clone(), options.cache_size));
    let tree = Tree::new(reader.clone(), options.scope.clone(), archives, mark);
    let files = Arc::new(Files::new(reader, overlays(repository, options)?));
    let kernel = Kernel::new(tree, files.clone(), options.owner);
    let refused = |source| MountError::Refused { path: path.to_owned(), source };
    let session = open_session(kernel, path, options).map_err(refused)?;
    // Before the mount is of use to anybody, who might end it and put another in its place.
    let device = mount_on(path).map(|mount| mount.device).unwrap_or_default();
    let session = session.spawn().map_err(|error| {
        let _ = detach_device(path, &device);
        refused(error)
    })?;
    raise_read_ahead(&device);
    Ok(Mounted { session, path: path.to_owned(), device, files })
}

/// A writable layer for each member of the archive that is shown, if they are asked for.
fn overlays(repository: &Repository, options: &MountOptions) -> Result<Overlays, MountError> {
    let Some(OverlayOptions { directory, size, keep }) = &options.overlay else {
        return Ok(Overlays::new());
    };
    let Scope::Archive(archive) = options.scope else { return Err(MountError::ManyWritable) };
    let members = repository.record(archive)?.members;
    let budget = Budget::of_bytes(*size);
    let layer = |(number, member): (usize, &Member)| {
        let overlay = match keep {
            None => Overlay::discarded(directory, member.size, &budget)?,
            Some(path) => {
                let path = if members.len() == 1 { path.clone() } else { beside(path, &member.name) };
                Overlay::kept(&path, archive, number as u32, member.size, &budget)?
            }
        };
        Ok(((archive, number), Arc::new(overlay)))
    };
    members.iter().enumerate().map(layer).collect()
}

/// A path with a member's name behind it.
fn beside(path: &Path, member: &ArchiveName) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push("-");
    path.push(member.as_str());
    path.into()
}

fn open_device() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/fuse")
}

/// Root mounts directly, so that the mount table shows our type, which fuser leaves out. Others go through the setuid helper.
fn open_session(kernel: Kernel, path: &Path, options: &MountOptions) -> io::Result<Session<Kernel>> {
    let config = config(options);
    if !rustix::process::geteuid().is_root() {
        return Session::new(kernel, path, &config);
    }
    let device = open_device()?;
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    if options.access != Access::Owner {
        data.push_str(",allow_other");
    }
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    if options.overlay.is_none() {
        flags |= MountFlags::RDONLY;
    }
    for option in &config.mount_options {
        match option {
            MountOption::NoExec => flags |= MountFlags::NOEXEC,
            MountOption::CUSTOM(custom) => data.extend([",", custom]),
            _ => {}
        }
    }
    let data = CString::new(data)?;
    rustix::mount::mount(options.source.as_str(), path, MOUNT_TYPE, flags, data.as_c_str())?;
    let session = Session::from_fd(kernel, device.into(), config.acl, config);
    if session.is_err() {
        let _ = detach(path);
    }
    session
}

fn config(options: &MountOptions) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(options.source.replace(',', "_")),
        MountOption::Subtype("copal".into()),
        MountOption::DefaultPermissions,
        if options.overlay.is_some() { MountOption::RW } else { MountOption::RO },
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoAtime,
    ];
    config.mount_options.extend(options.extra.iter().filter_map(|option| match option.as_str() {
        "noexec" => Some(MountOption::NoExec),
        other if IGNORED.contains(&other) => None,
        other if other.starts_with("x-") || other.starts_with("comment=") => None,
        other => Some(MountOption::CUSTOM(other.to_owned())),
    }));
    config.acl = match options.access {
        Access::Owner => SessionACL::Owner,
        Access::Root => SessionACL::RootAndOwner,
        Access::Other => SessionACL::All,
    };
    let extra = if options.overlay.is_some() { EXTRA_WRITERS } else { EXTRA_THREADS };
    config.n_threads = Some(workers() + extra);
    config.clone_fd = true;
    config
}

/// Only root may; others do with what the kernel gives.
fn raise_read_ahead(device: &str) {
    let file = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(error) = std::fs::write(&file, READ_AHEAD_KB.to_string()) {
        log::debug!("readahead stays as it is: {file}: {error}");
    }
}

impl Mounted {
    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The images that are served.
    #[must_use]
    pub fn files(&self) -> Arc<Files> {
        self.files.clone()
    }

    /// What takes the mount away from its path, should it still be there, for use by another thread.
    pub fn ender(&self) -> impl Fn() -> io::Result<()> + Send + use<> {
        let (path, device) = (self.path.clone(), self.device.clone());
        move || detach_device(&path, &device)
    }

    /// Waits until the mount is gone: unmounted, or detached and its last user done.
    ///
    /// # Errors
    /// The session's.
    pub fn wait(self) -> io::Result<()> {
        match self.session.join() {
            // The mount went while a request was being fetched, such as the last file's release.
            Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => Ok(()),
            result => result,
        }
    }

    /// Takes the mount away and waits until its last user is done.
    ///
    /// # Errors
    /// The system's.
    pub fn end(self) -> io::Result<()> {
        self.ender()()?;
        self.wait()
    }
}
