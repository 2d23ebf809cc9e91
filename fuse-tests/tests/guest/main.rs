//! What a user's kernel makes of mounted archives, and of disks as users have them: partitions, LVM, filesystems that the kernel beneath the other tests
//! may not have. `scripts/vm-test` runs these in an emulated machine, where everything but the programs is as Debian ships it.

mod attach;
mod disks;
mod judges;
mod lvm;
mod overlay;
mod recipes;
mod trouble;
mod unused;

use std::path::{Path, PathBuf};

use fuse_tests::devices::{LoopDevice, Mounted};
use fuse_tests::images::Names;
use fuse_tests::ntfs;
use fuse_tests::sandbox::Sandbox;
use fuse_tests::trees::{Tree, scan};

/// Whether the running kernel is at least this one.
fn kernel_is_at_least(version: (u32, u32)) -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().expect("a kernel's version"));
    (numbers.next().expect("major"), numbers.next().expect("minor")) >= version
}

/// What a filesystem takes as names.
fn names_of(kind: &str) -> Names {
    match kind {
        "vfat" | "exfat" => Names::Dos,
        "ntfs" => Names::Text,
        _ => Names::Bytes,
    }
}

/// What reads a kind of filesystem here.
fn drivers(kind: &str) -> Vec<&str> {
    match kind {
        // Debian's kernel has a driver of its own since 6.12.
        "ntfs" if kernel_is_at_least((6, 12)) => vec!["ntfs-3g", "ntfs3"],
        "ntfs" => vec!["ntfs-3g"],
        kind => vec![kind],
    }
}

/// Mounts a filesystem by a driver.
fn mount(driver: &str, mode: &str, device: &Path, directory: &Path) -> Mounted {
    match driver {
        "ntfs-3g" => Mounted::ntfs(&format!("{mode},{}", ntfs::OPTIONS), device, directory),
        "vfat" | "exfat" | "ntfs3" => {
            Mounted::device(driver, &format!("{mode},iocharset=utf8"), device, directory)
        }
        _ => Mounted::device(driver, mode, device, directory),
    }
}

/// All that a driver shows of a filesystem, mounted as a user would, read-only.
fn look(sandbox: &Sandbox, driver: &str, device: &Path) -> Tree {
    let mounted = mount(driver, "ro", device, &sandbox.mountpoint("look"));
    let mut tree = match driver {
        "ntfs-3g" => ntfs::scan(mounted.path()),
        "ntfs3" => ntfs::scan_by_kernel(mounted.path()),
        _ => scan(mounted.path()),
    };
    mounted.unmount();
    if driver == "exfat" {
        // The root directory has no time of its own; the driver shows when it was mounted.
        tree.values_mut().next().expect("the root directory").modified = (0, 0);
    }
    tree
}

/// A disk on a loop device with nodes for its partitions.
fn with_partitions(disk: &Path, args: &[&str]) -> LoopDevice {
    LoopDevice::attach(disk, &[&["--partscan"], args].concat())
}

/// The disk that the emulated machine has for tests, 512 MiB.
fn scratch_disk() -> PathBuf {
    let disk = Path::new("/dev/vda");
    assert!(disk.exists(), "the guest has no disk");
    disk.to_owned()
}
