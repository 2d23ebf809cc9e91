//! Taking down what a record names: mounts, volume groups, loop devices, the server, directories, the rule, and last the record itself.
//!
//! Each step is verified to be ours when it is taken; what is not there any more is done. What is in use is named with its users, and then nothing beneath it is
//! touched: the record stays, and another detach goes on from there.

use std::path::{Path, PathBuf};

use super::state::{LoopRecord, Process, Record};
use super::system::{LoopDevice, System};
use super::{Result, failed};
use crate::fuse::mountpoint::{MOUNT_TYPE, MountEntry};

/// How often all steps are taken while something is in use. A program that a killed attach has started, such as `losetup`, may still be at work, and leave what
/// an earlier step would have taken away.
const TRIES: usize = 2;

/// What could not be taken down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// It is in use.
    Busy {
        /// A mount or a device.
        what: PathBuf,
        /// Who uses it.
        users: Vec<String>,
    },
    /// It is not what was made, or covers that, so it was left alone.
    Strange {
        /// Where it is mounted.
        what: PathBuf,
        /// What is there.
        found: String,
    },
    /// The server was stopped by a signal, so that nothing was touched: an unmount would wait for it, and could not be killed.
    Stopped {
        /// The server.
        server: Process,
    },
    /// It is still there, for nobody knows which reason.
    Stays {
        /// A directory or a process.
        what: String,
    },
}

/// What a teardown came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Whether the attach is no more. Directories in which somebody has put something may be left all the same.
    pub gone: bool,
    /// What is left.
    pub left: Vec<Left>,
}

/// Takes down an attach, as far as nobody uses it.
///
/// # Errors
/// The system's; the record stays then.
pub fn take_down(system: &mut dyn System, record: &mut Record) -> Result<Report> {
    // Of another boot, only files are left.
    let left = if record.boot == system.boot() { take_down_devices(system, record)? } else { Vec::new() };
    if !left.is_empty() {
        return Ok(Report { gone: false, left });
    }
    let left = remove_directories(system, record)?;
    if let Some(rule) = &record.rule {
        system.remove_rule(rule)?;
    }
    system.forget(record)?;
    Ok(Report { gone: true, left })
}

fn take_down_devices(system: &mut dyn System, record: &mut Record) -> Result<Vec<Left>> {
    // From now on it is half of an attach, whatever happens.
    if record.complete {
        record.complete = false;
        system.save(record)?;
    }
    let mut left = Vec::new();
    for _ in 0..TRIES {
        left = take_steps(system, record)?;
        if left.is_empty() {
            break;
        }
    }
    Ok(left)
}

fn take_steps(system: &mut dyn System, record: &Record) -> Result<Vec<Left>> {
    for step in [find_stopped, unmount_all, release_groups, remove_loops, end_server] {
        let left = step(system, record)?;
        if !left.is_empty() {
            return Ok(left);
        }
    }
    Ok(Vec::new())
}

fn find_stopped(system: &mut dyn System, record: &Record) -> Result<Vec<Left>> {
    let servers = record.server.into_iter().chain(system.servers(&record.image()));
    let mut stopped = servers.filter(|server| system.is_stopped(*server));
    Ok(stopped.next().map(|server| Left::Stopped { server }).into_iter().collect())
}

/// The loop devices of an attach: nothing else has files beneath its directory. When a signal ended its server, which takes the mount away at once, their files
/// have lost that directory: a device that was written down, at its place in a file of that name, is ours as well.
pub(crate) fn own_loops(system: &dyn System, record: &Record) -> Result<Vec<LoopDevice>> {
    let image = record.image();
    let loops = system.loops().map_err(failed("list loop devices in", Path::new("/sys/block")))?;
    let is_orphan = |found: &LoopDevice| {
        let is_it = |made: &LoopRecord| {
            let within = made.file.strip_prefix(&image).map(|within| Path::new("/").join(within));
            made.device.as_ref() == Some(&found.device)
                && made.offset == found.offset
                && within.is_ok_and(|within| within == found.file)
        };
        record.loops.iter().any(is_it)
    };
    Ok(loops.into_iter().filter(|found| found.file.starts_with(&image) || is_orphan(found)).collect())
}

/// Whether a node is one of these loop devices, a partition of one, or a volume of the attach's groups.
pub(super) fn is_own(device: &Path, loops: &[LoopDevice], record: &Record) -> bool {
    let is_of = |whole: &LoopDevice| {
        let Ok(rest) = device.strip_prefix("/dev") else { return false };
        let Some(name) = whole.device.file_name() else { return false };
        let (rest, name) = (rest.to_string_lossy(), name.to_string_lossy());
        rest.strip_prefix(&*name).is_some_and(|behind| {
            behind.is_empty()
                || behind.strip_prefix('p').is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
        })
    };
    let is_volume = device.starts_with("/dev/mapper")
        && device.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&record.group_prefix()));
    loops.iter().any(is_of) || is_volume
}

fn top(mounts: &[MountEntry], path: &Path) -> Option<MountEntry> {
    mounts.iter().rev().find(|mount| mount.path == path).cloned()
}

/// What was mounted over a directory above a mount later than that: its path leads elsewhere now.
fn cover(mounts: &[MountEntry], path: &Path) -> Option<Left> {
    let at = mounts.iter().rposition(|mount| mount.path == path)?;
    let is_above = |mount: &&MountEntry| mount.path != path && path.starts_with(&mount.path);
    mounts[at + 1..].iter().rev().find(is_above).map(strange)
}

fn strange(found: &MountEntry) -> Left {
    Left::Strange { what: found.path.clone(), found: shown(found) }
}

fn shown(found: &MountEntry) -> String {
    format!("{} of {}", found.kind, found.source.display())
}

fn list_mounts(system: &dyn System) -> Result<Vec<MountEntry>> {
    system.mounts().map_err(failed("read", Path::new("/proc/self/mountinfo")))
}

fn unmount_all(system: &mut dyn System, record: &Record) -> Result<Vec<Left>> {
    let loops = own_loops(system, record)?;
    let mut left = Vec::new();
    for mount in record.mounts.iter().rev() {
        let mounts = list_mounts(system)?;
        let Some(found) = top(&mounts, &mount.path) else { continue };
        if let Some(cover) = cover(&mounts, &mount.path) {
            if !left.contains(&cover) {
                left.push(cover);
            }
            continue;
        }
        if found.source != mount.device || !is_own(&found.source, &loops, record) {
            left.push(strange(&found));
            continue;
        }
        match system.unmount(&mount.path) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                left.push(Left::Busy { what: mount.path.clone(), users: system.holders(&mount.path) });
            }
            done => done.map_err(failed("unmount", &mount.path))?,
        }
    }
    // Whatever of btrfs was mounted, in this run or before: the kernel keeps a device in mind when it is unmounted.
    if left.is_empty() && record.mounts.iter().any(|mount| mount.filesystem == "btrfs") {
        loops.iter().for_each(|found| system.forget_btrfs(&found.device));
    }
    Ok(left)
}

fn release_groups(system: &mut dyn System, record: &Record) -> Result<Vec<Left>> {
    let mut left = Vec::new();
    for group in &record.groups {
        if !system.release_group(&group.name, &group.devices)? {
            let users = group.devices.iter().flat_map(|device| system.users(device)).collect();
            left.push(Left::Busy { what: Path::new("/dev").join(&group.name), users });
        }
    }
    Ok(left)
}

fn remove_loops(system: &mut dyn System, record: &Record) -> Result<Vec<Left>> {
    let mut left = Vec::new();
    for found in own_loops(system, record)? {
        if !system.remove_loop(&found)? {
            let users = system.users(&found.device);
            left.push(Left::Busy { what: found.device, users });
        }
    }
    Ok(left)
}

fn end_server(system: &mut dyn System, record: &Record) -> Result<Vec<Left>> {
    if !record.serving {
        return Ok(Vec::new());
    }
    let image = record.image();
    let left = unmount_image(system, &image)?;
    if !left.is_empty() {
        return Ok(left);
    }
    // One that was just started may not be written down yet, nor have mounted.
    for server in record.server.into_iter().chain(system.servers(&image)) {
        if !system.end_server(server) {
            return Ok(vec![Left::Stays { what: format!("the server, process {},", server.pid) }]);
        }
    }
    unmount_image(system, &image)
}

fn unmount_image(system: &mut dyn System, image: &Path) -> Result<Vec<Left>> {
    loop {
        let mounts = list_mounts(system)?;
        let Some(found) = top(&mounts, image) else { return Ok(Vec::new()) };
        if let Some(cover) = cover(&mounts, image) {
            return Ok(vec![cover]);
        }
        if found.kind != MOUNT_TYPE {
            return Ok(vec![strange(&found)]);
        }
        match system.unmount(image) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                let users = system.holders(image);
                return Ok(vec![Left::Busy { what: image.to_owned(), users }]);
            }
            done => done.map_err(failed("unmount", image))?,
        }
    }
}

/// Directories that were made and are empty. One that is not stays, with what somebody put there.
fn remove_directories(system: &mut dyn System, record: &Record) -> Result<Vec<Left>> {
    let mut left = Vec::new();
    for directory in record.directories.iter().rev() {
        match system.remove_directory(directory) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
                left.push(Left::Stays { what: format!("{}, which is not empty,", directory.display()) });
            }
            Err(error) => match top(&list_mounts(system)?, directory) {
                Some(found) => {
                    let (directory, found) = (directory.display(), shown(&found));
                    left.push(Left::Stays { what: format!("{directory}, where {found} is mounted by now,") });
                }
                None => return Err(failed("remove", directory)(error)),
            },
        }
    }
    Ok(left)
}
