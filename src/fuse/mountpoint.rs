//! Where a mount may go, and what holds it.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Type of our mounts in the kernel's table.
pub const MOUNT_TYPE: &str = "fuse.copal";

/// Why a mount cannot go there.
#[derive(Debug, thiserror::Error)]
pub enum MountpointError {
    /// Not there.
    #[error("{path} does not exist; make it with 'mkdir -p' first")]
    Missing {
        /// The mountpoint.
        path: PathBuf,
    },
    /// Not a directory.
    #[error("{path} is not a directory")]
    NotADirectory {
        /// The mountpoint.
        path: PathBuf,
    },
    /// It and the repository contain each other.
    #[error(
        "{path} and the repository {repository} lie in each other: a mount there would wait for itself; choose another directory"
    )]
    Overlap {
        /// The mountpoint.
        path: PathBuf,
        /// The repository.
        repository: PathBuf,
    },
    /// A repository is mounted there.
    #[error("a repository is already mounted on {path}; 'copal umount {path}' ends it")]
    Mounted {
        /// The mountpoint.
        path: PathBuf,
    },
    /// Nothing of ours is mounted there.
    #[error("no Copal repository is mounted on {path}")]
    NotMounted {
        /// The mountpoint.
        path: PathBuf,
    },
    /// Something uses the mount.
    #[error("{path} is in use by {}; end that first, or 'copal umount --lazy {path}'", .holders.join(", "))]
    Busy {
        /// The mountpoint.
        path: PathBuf,
        /// Loop devices and processes.
        holders: Vec<String>,
    },
    /// The system refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The mountpoint.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// One line of the kernel's mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Major and minor number, as in `/sys/class/bdi`.
    pub device: String,
    /// Where it is mounted.
    pub path: PathBuf,
    /// Its type.
    pub kind: String,
    /// What it shows: a device, or whatever its filesystem calls it.
    pub source: PathBuf,
}

/// The mounts of this namespace, oldest first.
///
/// # Errors
/// If `/proc/self/mountinfo` cannot be read.
pub fn mounts() -> io::Result<Vec<MountEntry>> {
    mounts_of(Path::new("/proc/self"))
}

/// The mounts of the namespace of a process, given by its directory in `/proc`, oldest first.
///
/// # Errors
/// If its mount table cannot be read.
pub fn mounts_of(process: &Path) -> io::Result<Vec<MountEntry>> {
    let table = fs::read(process.join("mountinfo"))?;
    Ok(table.split(|byte| *byte == b'\n').filter_map(parse_line).collect())
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let separator = fields.iter().position(|field| *field == b"-")?;
    let kind = fields.get(separator + 1)?;
    let path = |field: &[u8]| PathBuf::from(std::ffi::OsStr::from_bytes(&unescape(field)));
    Some(MountEntry {
        device: String::from_utf8_lossy(fields.get(2)?).into_owned(),
        path: path(fields.get(4)?),
        source: path(fields.get(separator + 2)?),
        kind: String::from_utf8_lossy(kind).into_owned(),
    })
}

/// The kernel writes blanks and the like in octal.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                out.push(byte);
                rest = &tail[3..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// The newest mount on exactly this path.
#[must_use]
pub fn mount_on(path: &Path) -> Option<MountEntry> {
    mounts().ok()?.into_iter().rev().find(|mount| mount.path == path)
}

/// An absolute path without links, also where a dead mount stands, which cannot be looked into.
///
/// # Errors
/// [`MountpointError::Missing`] and the like.
pub fn absolute(path: &Path) -> Result<PathBuf, MountpointError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => MountpointError::Missing { path: path.to_owned() },
        _ => MountpointError::Io { action: "use", path: path.to_owned(), source },
    };
    match fs::canonicalize(path) {
        Err(error) if is_dead(&error) => {}
        result => return result.map_err(failed),
    }
    let (Some(parent), Some(last)) = (path.parent(), path.file_name()) else {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    Ok(fs::canonicalize(parent).map_err(failed)?.join(last))
}

/// Whether an error says that a mount's server has died.
fn is_dead(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED | libc::EIO))
}

/// Checks a mountpoint and clears away a dead mount of ours. Returns its absolute path.
///
/// # Errors
/// [`MountpointError`].
pub fn prepare(path: &Path, repository: &Path) -> Result<PathBuf, MountpointError> {
    let absolute = absolute(path)?;
    let ours = |mount: &MountEntry| mount.kind == MOUNT_TYPE;
    if mount_on(&absolute).as_ref().is_some_and(ours) {
        // The server itself has to answer: attributes of a dead mount may still be cached.
        match rustix::fs::statvfs(&absolute).map_err(io::Error::from) {
            Err(error) if is_dead(&error) => {
                log::warn!(
                    "the server of an earlier mount on {} has died; its mount is removed",
                    absolute.display()
                );
                detach(&absolute).map_err(|source| MountpointError::Io {
                    action: "remove the dead mount on",
                    path: absolute.clone(),
                    source,
                })?;
            }
            _ => return Err(MountpointError::Mounted { path: absolute }),
        }
    }
    let found = fs::metadata(&absolute).map_err(|source| MountpointError::Io {
        action: "use",
        path: absolute.clone(),
        source,
    })?;
    if !found.is_dir() {
        return Err(MountpointError::NotADirectory { path: absolute });
    }
    let repository = fs::canonicalize(repository).unwrap_or_else(|_| repository.to_owned());
    if absolute.starts_with(&repository) || repository.starts_with(&absolute) {
        return Err(MountpointError::Overlap { path: absolute, repository });
    }
    Ok(absolute)
}

/// Takes a mount away at once; users of it keep it until they are done.
///
/// # Errors
/// The system's.
pub fn detach(path: &Path) -> io::Result<()> {
    unmount_with(path, rustix::mount::UnmountFlags::DETACH, "-uz")
}

/// [`detach`], but only if the newest mount on the path is the one with this device number: another may have followed it there.
///
/// # Errors
/// The system's.
pub fn detach_device(path: &Path, device: &str) -> io::Result<()> {
    match mount_on(path) {
        Some(mount) if mount.device == device => detach(path),
        _ => Ok(()),
    }
}

fn unmount_with(path: &Path, flags: rustix::mount::UnmountFlags, helper_flags: &str) -> io::Result<()> {
    match rustix::mount::unmount(path, flags | rustix::mount::UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        // Ordinary users unmount through the setuid helper that mounted for them.
        Err(rustix::io::Errno::PERM) => fusermount(path, helper_flags),
        Err(error) => Err(error.into()),
    }
}

fn fusermount(path: &Path, flags: &str) -> io::Result<()> {
    let output = std::process::Command::new("fusermount3").arg(flags).arg("--").arg(path).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let kind =
        if said.contains("busy") { io::ErrorKind::ResourceBusy } else { io::ErrorKind::PermissionDenied };
    Err(io::Error::new(kind, said))
}

/// Ends a mount of ours.
///
/// # Errors
/// [`MountpointError::NotMounted`], [`MountpointError::Busy`] with what holds it.
pub fn unmount(path: &Path, lazy: bool) -> Result<(), MountpointError> {
    let absolute = absolute(path)?;
    match mount_on(&absolute) {
        Some(mount) if mount.kind == MOUNT_TYPE => {}
        _ => return Err(MountpointError::NotMounted { path: absolute }),
    }
    let done = if lazy {
        detach(&absolute)
    } else {
        unmount_with(&absolute, rustix::mount::UnmountFlags::empty(), "-u")
    };
    match done {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            let holders = holders(&absolute);
            Err(MountpointError::Busy { path: absolute, holders })
        }
        done => done.map_err(|source| MountpointError::Io { action: "unmount", path: absolute, source }),
    }
}

/// Loop devices and processes that use a mount, for people.
#[must_use]
pub fn holders(path: &Path) -> Vec<String> {
    let mut found = loop_holders(path);
    found.extend(process_holders(path));
    if found.is_empty() {
        found.push("something this user may not see (try as root)".into());
    }
    found
}

fn loop_holders(path: &Path) -> Vec<String> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let backed = devices.filter_map(|device| {
        let file = fs::read(device.path().join("loop/backing_file")).ok()?;
        let file = PathBuf::from(std::ffi::OsStr::from_bytes(file.trim_ascii_end()));
        let name = device.file_name().to_string_lossy().into_owned();
        file.starts_with(path).then(|| format!("loop device /dev/{name} (losetup -d /dev/{name})"))
    });
    backed.collect()
}

fn process_holders(path: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let holding = processes.filter_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        if pid == std::process::id() {
            return None;
        }
        let within = |link: PathBuf| fs::read_link(link).is_ok_and(|target| target.starts_with(path));
        let open = || fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let holds = within(process.path().join("cwd"))
            || within(process.path().join("root"))
            || open().any(|descriptor| within(descriptor.path()));
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        holds.then(|| format!("process {pid} ({})", name.trim_end()))
    });
    holding.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_table_is_read_with_blanks_in_paths() {
        let line = br"36 35 0:45 / /mnt/my\040backups\134x rw,relatime shared:1 - fuse.copal copal rw";
        let entry = parse_line(line).unwrap();
        assert_eq!(entry.path, Path::new(r"/mnt/my backups\x"));
        assert_eq!((entry.device.as_str(), entry.kind.as_str()), ("0:45", "fuse.copal"));
        assert_eq!(entry.source, Path::new("copal"));
        assert_eq!(parse_line(b""), None);
        assert!(!mounts().unwrap().is_empty());
    }

    #[test]
    fn a_mountpoint_must_be_a_directory_apart_from_the_repository() {
        let dir = tempfile::tempdir().unwrap();
        let (repository, inside) = (dir.path().join("repo"), dir.path().join("repo/in"));
        fs::create_dir_all(&inside).unwrap();
        fs::create_dir(dir.path().join("mnt")).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let prepare = |path: &str| prepare(&dir.path().join(path), &repository);
        assert!(prepare("mnt").is_ok());
        assert!(matches!(prepare("repo/in"), Err(MountpointError::Overlap { .. })));
        assert!(matches!(prepare(""), Err(MountpointError::Overlap { .. })));
        assert!(matches!(prepare("file"), Err(MountpointError::NotADirectory { .. })));
        assert!(matches!(prepare("none"), Err(MountpointError::Missing { .. })));
        assert!(matches!(unmount(&dir.path().join("mnt"), false), Err(MountpointError::NotMounted { .. })));
    }
}
