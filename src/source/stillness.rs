//! Whether a source holds still while it is read: nobody writes to it, neither a process nor a mount.
//!
//! A file must have no writer: no open descriptor, shared mapping, swap area or writable loop device. A device must be read-only, or be held by us alone;
//! nothing on it or stacked upon it may be mounted read-write, and no process may have it open for writing. A process that not even root may look into, as hardened
//! systems have them, and a writer that comes later, are noticed by what changed: times of the file, structures of its filesystems.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{fstatfs, major, minor};

use super::{Seekable, SourceKind};

/// File systems whose files other machines, or a server in user space, may write: NFS, SMB in three versions, FUSE, 9P, Ceph.
const SHARED: [u32; 7] = [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x6573_5546, 0x0102_1997, 0x00c3_6400];
/// The first namespace of processes, in which all of them are seen.
const FIRST_NAMESPACE: &str = "pid:[4026531836]";

/// Why something may write to a source while it is read.
type Restless = String;

/// Looks for writers.
///
/// # Errors
/// The first that is found, as the end of a sentence, or why none can be looked for.
pub(super) fn check(source: &Seekable, file: &File) -> Result<(), Restless> {
    let found = file.metadata().map_err(|error| format!("it cannot be looked at: {error}"))?;
    match source.kind() {
        SourceKind::Device => check_device(found.rdev(), source.in_use()),
        _ => {
            let kind = fstatfs(file).map_err(|error| format!("its file system cannot be told: {error}"))?;
            if SHARED.contains(&(kind.f_type as u32)) {
                return Err("other machines may write to its file system".into());
            }
            check_file(source.path(), (found.dev(), found.ino()), None)
        }
    }
}

/// Looks for writers of a file; `own` is the loop device that is read.
fn check_file(path: &Path, id: (u64, u64), own: Option<&OsStr>) -> Result<(), Restless> {
    let same = |path: &Path| fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == id);
    let opened = |link: &Path, inode: Option<u64>| inode.is_none_or(|inode| inode == id.1) && same(link);
    no_process_writes(&opened, Some((path, id)))?;
    if swaps().iter().any(|swap| same(swap)) {
        return Err("it is in use as swap space".into());
    }
    for (name, backing) in writable_loops() {
        let hidden = !backing.exists() && backing.file_name() == path.file_name();
        if own != Some(&name) && (hidden || same(&backing)) {
            return Err(format!("the writable loop device {} is attached to it", name.to_string_lossy()));
        }
    }
    Ok(())
}

fn check_device(device: u64, in_use: bool) -> Result<(), Restless> {
    let folder = PathBuf::from(format!("/sys/dev/block/{}:{}", major(device), minor(device)));
    let read_only = fs::read(folder.join("ro")).is_ok_and(|flag| flag.starts_with(b"1"));
    if in_use && !read_only {
        return Err("something else holds the device".into());
    }
    let mut above = HashSet::new();
    stacked(&folder, &mut above);
    above.insert(device);
    let is_one = |path: &Path| {
        fs::metadata(path)
            .is_ok_and(|found| found.file_type().is_block_device() && above.contains(&found.rdev()))
    };
    if let Some(place) = mounted_writable(&above, &is_one) {
        return Err(format!("it is mounted read-write on {place}"));
    }
    if swaps().iter().any(|swap| is_one(swap)) {
        return Err("it is in use as swap space".into());
    }
    if let Some((name, _)) = writable_loops().into_iter().find(|(_, backing)| is_one(backing)) {
        return Err(format!("the writable loop device {} is attached to it", name.to_string_lossy()));
    }
    if !read_only {
        let opened =
            |link: &Path, _| fs::read_link(link).is_ok_and(|to| to.starts_with("/dev")) && is_one(link);
        no_process_writes(&opened, None)?;
    }
    check_backing_file(&folder)
}

/// The file behind a loop device must have no other writer.
fn check_backing_file(folder: &Path) -> Result<(), Restless> {
    let Ok(real) = folder.canonicalize() else { return Err("the device is not known to the system".into()) };
    let disk = if real.join("partition").exists() { real.parent().unwrap_or(&real) } else { &real };
    let Ok(backing) = fs::read(disk.join("loop/backing_file")) else { return Ok(()) };
    let backing = Path::new(OsStr::from_bytes(backing.trim_ascii_end())).to_owned();
    let found =
        fs::metadata(&backing).map_err(|_| "the file behind the loop device is not found".to_owned())?;
    let own = disk.file_name();
    if found.file_type().is_block_device() {
        Ok(())
    } else {
        check_file(&backing, (found.dev(), found.ino()), own)
    }
}

/// Adds the numbers of the partitions of a device and of what is stacked upon these and upon itself.
fn stacked(folder: &Path, found: &mut HashSet<u64>) {
    let entries =
        |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let partitions = entries(folder).filter(|entry| entry.join("partition").exists());
    for entry in partitions.chain(entries(&folder.join("holders"))) {
        let number = fs::read_to_string(entry.join("dev")).ok().and_then(|text| device_number(text.trim()));
        if number.is_some_and(|number| found.insert(number)) {
            stacked(&entry, found);
        }
    }
}

/// The number of a device written as `8:1`.
fn device_number(text: &str) -> Option<u64> {
    let (high, low) = text.split_once(':')?;
    Some(rustix::fs::makedev(high.parse().ok()?, low.parse().ok()?))
}

/// Where a file system on one of these devices is mounted read-write.
fn mounted_writable(devices: &HashSet<u64>, is_one: &dyn Fn(&Path) -> bool) -> Option<String> {
    // Without the list nothing is known, which must not look like nothing is mounted.
    let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else {
        return Some("an unknown place".into());
    };
    mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(2);
        let (number, mut kind) = (place.next()?, kind.split(' ').skip(1));
        let (device, options) = (kind.next()?, kind.next()?);
        // Some file systems have numbers of their own.
        let ours = device_number(number).is_some_and(|number| devices.contains(&number))
            || device.starts_with("/dev/") && is_one(Path::new(device));
        let writable = options.split(',').any(|option| option == "rw");
        (ours && writable).then(|| place.nth(1).unwrap_or_default().to_owned())
    })
}

/// Swap areas that are in use.
fn swaps() -> Vec<PathBuf> {
    let list = fs::read_to_string("/proc/swaps").unwrap_or_default();
    list.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(PathBuf::from).collect()
}

/// Loop devices that write, and the files behind them. A file that was deleted is not the one that is read.
fn writable_loops() -> Vec<(std::ffi::OsString, PathBuf)> {
    let mut loops = Vec::new();
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let Ok(backing) = fs::read(entry.path().join("loop/backing_file")) else { continue };
        let backing = backing.trim_ascii_end();
        let read_only = fs::read(entry.path().join("ro")).is_ok_and(|flag| flag.starts_with(b"1"));
        if !read_only && !backing.ends_with(b" (deleted)") {
            loops.push((entry.file_name(), OsStr::from_bytes(backing).into()));
        }
    }
    loops
}

/// Looks through the descriptors of all processes. `is_source` is asked of those that may write, with the inode if the system tells it, so that nothing
/// else is looked at: a file of a server that hangs would make this hang. Shared mappings of `mapped` count, too.
fn no_process_writes(
    is_source: &dyn Fn(&Path, Option<u64>) -> bool,
    mapped: Option<(&Path, (u64, u64))>,
) -> Result<(), Restless> {
    let sees_all = fs::read_link("/proc/self/ns/pid").is_ok_and(|name| name == Path::new(FIRST_NAMESPACE));
    if !rustix::process::geteuid().is_root() || !sees_all {
        return Err("only root outside of containers can tell who writes to it".into());
    }
    let processes = fs::read_dir("/proc").map_err(|error| format!("processes cannot be listed: {error}"))?;
    for process in processes.flatten() {
        let Some(number) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let writes = writes(&process.path(), is_source, mapped);
        // One that has ended meanwhile writes no more.
        if writes.unwrap_or(false) {
            return Err(format!("process {number} has it open for writing"));
        }
    }
    Ok(())
}

fn writes(
    process: &Path,
    is_source: &dyn Fn(&Path, Option<u64>) -> bool,
    mapped: Option<(&Path, (u64, u64))>,
) -> io::Result<bool> {
    for entry in fs::read_dir(process.join("fd"))? {
        let entry = entry?;
        let Ok(info) = fs::read_to_string(process.join("fdinfo").join(entry.file_name())) else { continue };
        let field =
            |name: &str| info.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
        let flags = field("flags:").and_then(|flags| u32::from_str_radix(&flags, 8).ok());
        // Not O_RDONLY.
        let may_write = flags.is_none_or(|flags| flags & 3 != 0);
        if may_write && is_source(&entry.path(), field("ino:").and_then(|inode| inode.parse().ok())) {
            return Ok(true);
        }
    }
    let Some((path, (device, inode))) = mapped else { return Ok(false) };
    let maps = fs::read(process.join("maps"))?;
    let maps_it = |line: &[u8]| {
        let line = String::from_utf8_lossy(line).into_owned();
        let mut fields = line.split_whitespace();
        let (shared, at) = (fields.nth(1).unwrap_or_default(), fields.nth(1).unwrap_or_default().to_owned());
        let same_inode = fields.next().is_some_and(|number| number.parse() == Ok(inode));
        let hex = |text: &str| u32::from_str_radix(text, 16).ok();
        let number =
            at.split_once(':').and_then(|(high, low)| Some(rustix::fs::makedev(hex(high)?, hex(low)?)));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        shared.starts_with("rw-s") && same_inode && (number == Some(device) || line.ends_with(&*name))
    };
    Ok(maps.split(|byte| *byte == b'\n').any(maps_it))
}
