//! Loop devices: made and given back by `losetup`, looked at in `/sys/block`.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::super::plan::Access;
use super::super::system::{LoopDevice, LoopWish};
use super::super::{Error, Result};
use super::programs;

/// How often a device is asked for: another process may take the free one first.
const TRIES: usize = 20;
/// What a loop device shows unless asked for something else.
const SECTOR: u32 = 512;
/// How long to wait for a device to be let go: udev opens each for a moment when it changes.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often to look.
const PAUSE: Duration = Duration::from_millis(20);

pub(super) fn add(wish: &LoopWish) -> Result<PathBuf> {
    let mut args: Vec<OsString> = ["--find", "--show", "--direct-io=on"].map(OsString::from).to_vec();
    args.push(format!("--offset={}", wish.offset).into());
    args.push(format!("--sizelimit={}", wish.len).into());
    if wish.access == Access::Read {
        args.push("--read-only".into());
    }
    if wish.sector != SECTOR {
        args.push(format!("--sector-size={}", wish.sector).into());
    }
    if wish.scan {
        args.push("--partscan".into());
    }
    args.push(wish.file.clone().into());
    let args: Vec<&OsStr> = args.iter().map(OsString::as_os_str).collect();
    let device = ask(&args)?;
    if !has_direct_io(&device) {
        // What waits in the page cache behind a server that needs memory to write it could wait for ever; and the loop driver of Linux 6.1
        // fills what it did not get through the page cache with zeros, and says that all is well.
        remove(&LoopDevice { device: device.clone(), file: wish.file.clone(), offset: wish.offset })?;
        let said =
            format!("{} has no direct I/O, without which errors may be shown as zeros", device.display());
        return Err(Error::Program { program: "losetup", said });
    }
    Ok(device)
}

fn ask(args: &[&OsStr]) -> Result<PathBuf> {
    let mut tries = 0;
    loop {
        match programs::run("losetup", args) {
            Ok(said) => return Ok(PathBuf::from(OsString::from_vec(said.trim_ascii().to_vec()))),
            Err(Error::Program { said, .. }) if tries < TRIES && is_race(&said) => {
                tries += 1;
                std::thread::sleep(PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_race(said: &str) -> bool {
    ["busy", "unavailable", "No such device"].iter().any(|word| said.contains(word))
}

fn attributes(device: &Path) -> PathBuf {
    Path::new("/sys/block").join(device.file_name().unwrap_or_default())
}

fn has_direct_io(device: &Path) -> bool {
    fs::read(attributes(device).join("loop/dio")).is_ok_and(|text| text.trim_ascii() == b"1")
}

/// What is behind a device, as the kernel names it.
fn file_of(name: &OsStr) -> Option<PathBuf> {
    let text = fs::read(Path::new("/sys/block").join(name).join("loop/backing_file")).ok()?;
    Some(PathBuf::from(OsStr::from_bytes(text.strip_suffix(b"\n").unwrap_or(&text))))
}

pub(super) fn list() -> io::Result<Vec<LoopDevice>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block")? {
        let name = entry?.file_name();
        if let Some(file) = file_of(&name) {
            let offset = fs::read_to_string(Path::new("/sys/block").join(&name).join("loop/offset"));
            let offset = offset.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(u64::MAX);
            found.push(LoopDevice { device: Path::new("/dev").join(name), file, offset });
        }
    }
    found.sort_by(|one, other| one.device.cmp(&other.device));
    Ok(found)
}

/// The kernel lets go of a device when the last of its users does; until then it is still there. It is asked once: as soon as it has let go, the device may be
/// somebody else's, behind whose back a second time would take it away.
pub(super) fn remove(device: &LoopDevice) -> Result<bool> {
    let is_gone = || file_of(device.device.file_name().unwrap_or_default()).as_ref() != Some(&device.file);
    let start = Instant::now();
    let mut is_asked = false;
    while !is_gone() {
        if !is_asked && users(&device.device).is_empty() {
            match programs::run("losetup", &["--detach".as_ref(), device.device.as_os_str()]) {
                Err(error) if !is_gone() => return Err(error),
                _ => is_asked = true,
            }
        }
        if is_gone() {
            return Ok(true);
        }
        if start.elapsed() > PATIENCE {
            return Ok(false);
        }
        std::thread::sleep(PAUSE);
    }
    Ok(true)
}

/// Devices on it, mounts of it in any namespace, and processes that have it open.
pub(super) fn users(device: &Path) -> Vec<String> {
    let nodes = nodes(device);
    let mut users = BTreeSet::new();
    for node in &nodes {
        let name = node.file_name().unwrap_or_default();
        let holders = fs::read_dir(Path::new("/sys/class/block").join(name).join("holders"));
        for holder in holders.into_iter().flatten().flatten() {
            users.insert(format!("device /dev/{}", holder.file_name().to_string_lossy()));
        }
    }
    let mut namespaces = BTreeSet::new();
    for process in std::iter::once("/proc/self".into()).chain(processes()) {
        // One process of each namespace tells its mounts.
        let namespace = fs::read_link(process.join("ns/mnt")).unwrap_or_default();
        if namespaces.insert(namespace) {
            users.extend(mounts(&process, &nodes, namespaces.len() == 1));
        }
        users.extend(opener(&process, &nodes));
    }
    users.into_iter().collect()
}

/// The directories of all processes but this one.
fn processes() -> impl Iterator<Item = PathBuf> {
    let own = std::process::id().to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_process = move |name: &str| name != own && name.bytes().all(|byte| byte.is_ascii_digit());
    entries.filter(move |entry| entry.file_name().to_str().is_some_and(&is_process)).map(|entry| entry.path())
}

/// A device and its partitions.
fn nodes(device: &Path) -> Vec<PathBuf> {
    let name = device.file_name().unwrap_or_default();
    let below = fs::read_dir(Path::new("/sys/block").join(name)).into_iter().flatten().flatten();
    let parts =
        below.map(|entry| entry.file_name()).filter(|part| part.as_bytes().starts_with(name.as_bytes()));
    std::iter::once(device.to_owned()).chain(parts.map(|part| Path::new("/dev").join(part))).collect()
}

/// Mounts of these devices in the namespace of a process.
fn mounts(process: &Path, nodes: &[PathBuf], is_own: bool) -> Vec<String> {
    let mounts = crate::fuse::mountpoint::mounts_of(process).unwrap_or_default();
    let here = mounts.iter().filter(|mount| nodes.contains(&mount.source));
    let whose = if is_own {
        String::new()
    } else {
        format!(" of {}, which has a mount namespace of its own", name_of(process))
    };
    here.map(|mount| format!("mount {}{whose}", mount.path.display())).collect()
}

/// A process that has one of these devices open.
fn opener(process: &Path, nodes: &[PathBuf]) -> Option<String> {
    let mut open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let is_one = |target: PathBuf| nodes.contains(&target);
    let has = process != Path::new("/proc/self") && open.any(|fd| fs::read_link(fd.path()).is_ok_and(is_one));
    has.then(|| name_of(process))
}

fn name_of(process: &Path) -> String {
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    let pid = process.file_name().unwrap_or_default().to_string_lossy();
    format!("process {pid} ({})", name.trim_end())
}
