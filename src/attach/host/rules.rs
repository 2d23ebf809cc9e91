//! Rules of udev.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::super::udev::{CONTROL, FOLDERS};
use super::super::{Result, failed};
use super::programs;

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
