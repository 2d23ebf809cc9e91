//! Rules of udev.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::super::udev::{CONTROL, DATABASE, FOLDERS, is_applied};
use super::super::{Result, failed};
use super::programs;

/// How long udev is waited for, each time that it is told: it takes milliseconds, unless the machine is very busy.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often is looked.
const PAUSE: Duration = Duration::from_millis(10);

/// Whether rules have an effect on this machine.
pub(super) fn matter() -> bool {
    Path::new(CONTROL).exists()
}

/// Puts a rule into force before anything happens that it is for.
pub(super) fn add(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed("make", folder))?;
    }
    let before = newest();
    fs::write(path, text).map_err(failed("write", path))?;
    reload(path, before)
}

/// Waits until a rule was applied to all of some devices; where it was not, has udev read its rules and look at them once more. Returns those
/// to which it was not applied even then.
pub(super) fn wait(path: &Path, devices: &[PathBuf]) -> Vec<PathBuf> {
    let left = still_without(devices);
    if left.is_empty() {
        return left;
    }
    let named = left.iter().map(|device| format!("--name-match={}", device.display()));
    let args: Vec<String> = ["trigger".into(), "--action=change".into()].into_iter().chain(named).collect();
    let args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
    let again = reload(path, newest()).and_then(|()| programs::run("udevadm", &args));
    if let Err(error) = again {
        log::debug!("udev cannot be told again: {error}");
        return left;
    }
    still_without(&left)
}

/// The devices that a rule was not applied to in time.
fn still_without(devices: &[PathBuf]) -> Vec<PathBuf> {
    let mut left = devices.to_owned();
    let end = Instant::now() + PATIENCE;
    loop {
        left.retain(|device| !has_rule(device));
        if left.is_empty() || Instant::now() >= end {
            return left;
        }
        thread::sleep(PAUSE);
    }
}

fn has_rule(device: &Path) -> bool {
    let Ok(found) = fs::metadata(device) else { return false };
    let (major, minor) = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
    fs::read_to_string(Path::new(DATABASE).join(format!("b{major}:{minor}")))
        .is_ok_and(|entry| is_applied(&entry))
}

/// Takes a rule out of force. It may be gone.
pub(super) fn remove(path: &Path) -> Result<()> {
    let before = newest();
    match fs::remove_file(path) {
        Ok(()) if matter() => reload(path, before),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Has udev read its rules again, after a change of a file in one of their directories, which had a newest one before.
///
/// Told to, udev reads them only if a directory is younger than all were when it last did. And it reads them unasked, too, which may happen while a file is
/// half written; or a clock was ahead once. So the directory is made younger than any was until now.
fn reload(changed: &Path, before: SystemTime) -> Result<()> {
    if let Some(folder) = changed.parent() {
        let time = SystemTime::now().max(before.max(newest()) + Duration::from_millis(1));
        let opened = fs::File::open(folder).and_then(|folder| folder.set_modified(time));
        opened.map_err(failed("set the time of", folder))?;
    }
    programs::run("udevadm", &["control".as_ref(), "--reload".as_ref()]).map(drop)
}

/// When a rule last came or went.
fn newest() -> SystemTime {
    let modified = |folder: &&str| fs::metadata(folder).and_then(|metadata| metadata.modified()).ok();
    FOLDERS.iter().filter_map(modified).max().unwrap_or(SystemTime::UNIX_EPOCH)
}
