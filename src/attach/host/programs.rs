//! Programs that do what has no safe system call here.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::super::{Error, Result};

/// Where system programs lie that root's search path may leave out, as after `su`.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Programs and Debian's packages of them.
const PACKAGES: [(&str, &str); 10] = [
    ("losetup", "mount (util-linux)"),
    ("udevadm", "udev"),
    ("ntfs-3g", "ntfs-3g"),
    ("btrfs", "btrfs-progs"),
    ("vgimportclone", "lvm2"),
    ("vgchange", "lvm2"),
    ("lvchange", "lvm2"),
    ("lvs", "lvm2"),
    ("pvs", "lvm2"),
    ("dmsetup", "dmsetup"),
];

/// Runs a program to its end, in the C locale and with nothing to read; returns its standard output.
pub(super) fn run(program: &'static str, args: &[&OsStr]) -> Result<Vec<u8>> {
    let missing = || {
        let package =
            PACKAGES.iter().find(|(name, _)| *name == program).map_or("util-linux", |(_, package)| package);
        Error::Missing { program, package }
    };
    let path = find(program).ok_or_else(missing)?;
    let output = Command::new(path).args(args).env("LC_ALL", "C").stdin(Stdio::null()).output();
    let output = output.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => missing(),
        _ => Error::Program { program, said: error.to_string() },
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let said = if said.is_empty() { output.status.to_string() } else { said };
    Err(Error::Program { program, said })
}

/// Where a program lies.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(FOLDERS.map(PathBuf::from));
    folders
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}
