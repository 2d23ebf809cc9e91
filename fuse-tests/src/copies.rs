//! Filesystems in images, what the kernel sees of them, and what `copal cp` copies of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::devices::{LoopDevice, Mounted};
use crate::images::empty_file;
use crate::process::run;
use crate::sandbox::Sandbox;
use crate::trees::{Tree, scan};

/// Copies all of a part as root would, and reads what is there then.
///
/// # Panics
/// If that fails.
#[must_use]
pub fn copied(sandbox: &Sandbox, archive: &str, part: &str) -> Tree {
    let to = sandbox.path("copied");
    let from = format!("{}:{part}:/", sandbox.reference(archive));
    run(sandbox.copal().args(["cp", "-r", "--devices", &from]).arg(&to));
    let tree = scan(&to);
    fs::remove_dir_all(&to).expect("remove");
    tree
}

/// What the kernel sees of an image, but for flags, which no copy has.
///
/// # Panics
/// If that fails.
#[must_use]
pub fn seen(sandbox: &Sandbox, kind: &str, options: &str, image: &Path) -> Tree {
    let device = LoopDevice::attach(image, &["--read-only"]);
    let mounted = Mounted::device(kind, options, device.path(), &sandbox.mountpoint("look"));
    let mut tree = scan(mounted.path());
    mounted.unmount();
    tree.values_mut().for_each(|entry| entry.flags = 0);
    tree
}

/// An image that the kernel fills.
///
/// # Panics
/// If that fails.
#[must_use]
pub fn filled(sandbox: &Sandbox, kind: &str, len: u64, args: &[&str], fill: impl FnOnce(&Path)) -> PathBuf {
    let image = sandbox.path("filled.img");
    empty_file(&image, len);
    let mkfs = crate::need::find_tool("mke2fs").expect("mke2fs");
    run(Command::new(mkfs).args(["-q", "-F", "-t", kind]).args(args).arg(&image));
    let device = LoopDevice::writable(&image);
    let mounted = Mounted::device(kind, "rw", device.path(), &sandbox.mountpoint("fill"));
    fill(mounted.path());
    mounted.unmount();
    image
}
