//! Mounting by system calls, or by `ntfs-3g`; what holds a mount.

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::super::plan::{Driver, Way};
use super::super::system::{MountFailure, MountWish};
use super::super::{Error, chain};
use super::programs;
use crate::fuse::mountpoint;

/// How long to wait for a mount that is in use.
const PATIENCE: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(20);
/// Restrictions of every mount.
const ALWAYS: MountFlags = MountFlags::NODEV.union(MountFlags::NOSUID).union(MountFlags::NOEXEC);

pub(super) fn mount(wish: &MountWish, way: &Way) -> Result<(), MountFailure> {
    match way.driver {
        Driver::Kernel(name) => by_kernel(wish, name, &way.options),
        Driver::Ntfs3g => by_ntfs_3g(wish, &way.options),
    }
}

fn by_kernel(wish: &MountWish, name: &str, options: &str) -> Result<(), MountFailure> {
    if !wish.device.exists() {
        let said = "the kernel has found no such partition; attach without --scan";
        return Err(MountFailure::Refused(said.to_owned()));
    }
    let mut flags = ALWAYS;
    if !wish.write {
        flags |= MountFlags::RDONLY;
    }
    let mut options = options.to_owned();
    for other in &wish.with {
        options.push_str(&format!(",device={}", other.display()));
    }
    let refused = |said: String| MountFailure::Refused(said);
    let data = CString::new(options).map_err(|error| refused(error.to_string()))?;
    match rustix::mount::mount(&wish.device, &wish.path, name, flags, data.as_c_str()) {
        Ok(()) => Ok(()),
        Err(Errno::NODEV) => Err(MountFailure::NoDriver(format!("this kernel has no {name}"))),
        Err(error) => Err(refused(explain(name, error))),
    }
}

/// What an errno means when it comes from mounting.
fn explain(driver: &str, error: Errno) -> String {
    let meaning = match error {
        Errno::NOSPC => {
            "what it writes, such as the replay of its journal, does not fit into --overlay-size; give more"
        }
        Errno::IO => {
            "it is damaged, or what it writes does not fit into --overlay-size; the kernel's log (dmesg) says more"
        }
        Errno::INVAL | Errno::UCLEAN | Errno::FBIG => {
            "it is damaged, or of a kind that this kernel does not know; the kernel's log (dmesg) says more"
        }
        Errno::ROFS | Errno::ACCESS => "it has a journal to replay; try without --no-replay, or --overlay",
        Errno::BUSY => "the kernel has it mounted already",
        Errno::EXIST => "the kernel has another filesystem with the same id mounted",
        _ => "the kernel's log (dmesg) may say more",
    };
    format!("{driver}: {} ({meaning})", io::Error::from(error))
}

fn by_ntfs_3g(wish: &MountWish, options: &str) -> Result<(), MountFailure> {
    let mode = if wish.write { "rw" } else { "ro" };
    let options = format!("{mode},nodev,nosuid,noexec,{options}");
    let args = ["-o".as_ref(), options.as_ref(), wish.device.as_os_str(), wish.path.as_os_str()];
    match programs::run("ntfs-3g", &args) {
        Ok(_) => Ok(()),
        Err(error @ Error::Missing { .. }) => Err(MountFailure::NoDriver(error.to_string())),
        Err(error) => Err(MountFailure::Refused(chain(&error))),
    }
}

/// Ends the newest mount on a path, once those are done that look at it for a moment.
pub(super) fn unmount(path: &Path) -> io::Result<()> {
    let start = Instant::now();
    loop {
        match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW) {
            Err(Errno::BUSY) if start.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            done => return Ok(done?),
        }
    }
}

/// Processes, loop devices and mounts that keep a mount from ending.
pub(super) fn holders(path: &Path) -> Vec<String> {
    let mounts = mountpoint::mounts().unwrap_or_default();
    let below = mounts.iter().filter(|mount| mount.path != path && mount.path.starts_with(path));
    let mut found: Vec<String> =
        below.map(|mount| format!("mount {} (umount it first)", mount.path.display())).collect();
    let running = mountpoint::holders(path);
    if found.is_empty() || !is_unknown(&running) {
        found.extend(running);
    }
    found
}

/// Whether nothing was found.
fn is_unknown(holders: &[String]) -> bool {
    fs::metadata("/proc/self").is_ok() && holders.len() == 1 && holders[0].starts_with("something")
}
