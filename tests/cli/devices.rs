//! Block devices as sources and targets. They need root.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::support::{Place, is_root, noise, sparse, tool};

/// A loop device that goes away with the last descriptor of it, even if this process is killed.
struct Loop {
    path: PathBuf,
    file: File,
}

impl Loop {
    fn on(image: &Path) -> Self {
        let image = image.to_str().expect("a temporary path is text");
        // Others take loop devices too: the free one that is found may be taken a moment later.
        for _ in 0..20 {
            let Some(path) = attach(image) else { continue };
            let file = File::options().read(true).write(true).open(&path).expect("open");
            tool("losetup", &["-d", path.to_str().expect("text")]);
            return Self { path, file };
        }
        panic!("there is no free loop device");
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset).expect("read");
        bytes
    }
}

fn attach(image: &str) -> Option<PathBuf> {
    let output =
        std::process::Command::new("losetup").args(["-f", "--show", image]).output().expect("losetup");
    let path =
        output.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))?;
    // Whoever had the device before may have marked it read-only.
    let name = path.file_name().expect("a device").to_string_lossy().into_owned();
    let read_only = std::fs::read_to_string(format!("/sys/block/{name}/ro")).is_ok_and(|ro| ro.trim() == "1");
    if !read_only {
        return Some(path);
    }
    let device = path.to_str().expect("text");
    tool("blockdev", &["--setrw", device]);
    tool("losetup", &["-d", device]);
    None
}

#[test]
fn a_device_is_a_source() {
    if !is_root() {
        return;
    }
    let place = Place::with_repository();
    sparse(&place.path("backing"), 8 << 20, &[(0, 100_000), (5 << 20, 4096)]);
    let device = Loop::on(&place.path("backing"));
    place.copal("create repo::x").arg(device.path()).ok();
    assert!(place.copal("extract repo::x --stdout").ok().stdout == place.read("backing"));
    let info = place.copal("info repo::x --json").ok().json();
    let member = &info["members"][0];
    assert_eq!((&member["source"]["kind"], &member["logical_sector"]), (&"device".into(), &512.into()));
    assert!(member["data"].as_u64() < Some(200_000), "zeros of a device are not stored: {member}");
    place.copal("info repo::x").ok().prints(&["Sectors      512 logical"]);
}

#[test]
fn a_device_in_use_is_read_with_a_warning() {
    if !is_root() {
        return;
    }
    let place = Place::with_repository();
    sparse(&place.path("backing"), 1 << 20, &[(0, 9000)]);
    let device = Loop::on(&place.path("backing"));
    let exclusive = rustix::fs::OFlags::EXCL.bits().cast_signed();
    let held = std::os::unix::fs::OpenOptionsExt::custom_flags(File::options().read(true), exclusive)
        .open(device.path());
    let held = held.expect("nobody else uses it");
    place.copal("create repo::x").arg(device.path()).warns(&["is in use; back up a snapshot of it"]);
    place.copal("extract repo::x").arg(device.path()).fails(&["is in use", "unmount it first"]);
    drop(held);
}

#[test]
fn a_device_that_cannot_be_read_makes_no_archive() {
    if !is_root() {
        return;
    }
    let place = Place::with_archive();
    sparse(&place.path("backing"), 4 << 20, &[(0, 4 << 20)]);
    let device = Loop::on(&place.path("backing"));
    // What lies behind the end of its file is gone, like a bad sector.
    fs::File::options()
        .write(true)
        .open(place.path("backing"))
        .expect("open")
        .set_len(2 << 20)
        .expect("set_len");
    let failed = place.copal("create repo::x").arg(device.path());
    failed.fails(&[
        "cannot read \"/dev/loop",
        " at byte 2097152",
        "check the device's health",
        "ddrescue",
        "Input/output error",
    ]);
    assert_eq!(place.archives(), ["web01"]);
    place.assert_no_leftovers();
}

#[test]
fn a_device_is_a_target_whose_holes_are_zeroed() {
    if !is_root() {
        return;
    }
    let place = Place::with_repository();
    let len = (6 << 20) + 700;
    sparse(&place.path("disk.img"), len, &[(4096, 50_000), (3 << 20, 4096)]);
    place.copal("create repo::x disk.img").ok();
    place.write("backing", &noise(9, 8 << 20));
    let device = Loop::on(&place.path("backing"));
    place.copal("extract repo::x").arg(device.path()).ok();
    assert!(device.read(0, len as usize) == place.read("disk.img"));
    let behind = (8 << 20) - len as usize;
    assert!(
        device.read(len, behind) == noise(9, 8 << 20)[len as usize..],
        "what lies behind the image is left alone"
    );
}

#[test]
fn a_device_that_is_too_small_is_left_alone() {
    if !is_root() {
        return;
    }
    let place = Place::with_archive();
    place.write("backing", &noise(9, 200 << 10));
    let device = Loop::on(&place.path("backing"));
    let refused = place.copal("extract repo::web01 --force").arg(device.path());
    refused.fails(&["/dev/loop", "holds 204800 bytes, the image has 300000: it is 95200 bytes too small"]);
    assert!(device.read(0, 200 << 10) == noise(9, 200 << 10));
}

#[test]
fn a_device_that_holds_something_is_overwritten_only_by_force() {
    if !is_root() {
        return;
    }
    let place = Place::with_archive();
    sparse(&place.path("backing"), 16 << 20, &[]);
    let device = Loop::on(&place.path("backing"));
    let at = device.path().to_str().expect("text").to_owned();
    tool("mkfs.ext4", &["-q", "-F", &at]);
    let before = device.read(0, 16 << 20);
    place.copal("extract repo::web01").arg(&at).fails(&["holds a ext4 signature", "--force to overwrite it"]);
    assert!(device.read(0, 16 << 20) == before);
    place.copal("extract repo::web01 --force").arg(&at).ok();
    assert!(device.read(0, 300_000) == place.read("disk.img"));
}

#[test]
fn a_partition_table_is_a_signature_too() {
    if !is_root() {
        return;
    }
    let place = Place::with_archive();
    let mut table = vec![0; 1 << 20];
    table[446..462].copy_from_slice(&[0, 0, 2, 0, 0x83, 0, 0, 0, 8, 0, 0, 0, 0, 4, 0, 0]);
    table[510..512].copy_from_slice(&[0x55, 0xaa]);
    place.write("backing", &table);
    let device = Loop::on(&place.path("backing"));
    place.copal("extract repo::web01").arg(device.path()).fails(&["holds a partition table", "--force"]);
    assert!(device.read(0, 1 << 20) == table);
}

#[test]
fn a_failed_restore_says_what_the_device_holds() {
    if !is_root() {
        return;
    }
    let place = Place::with_archive();
    for (path, bytes) in place.tree("repo/packs") {
        if let Some(mut bytes) = bytes {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, bytes).expect("write");
        }
    }
    place.write("backing", &[0; 1 << 20]);
    let device = Loop::on(&place.path("backing"));
    place
        .copal("extract repo::web01")
        .arg(device.path())
        .fails(&["holds a part of the image now: extract again", "chunk"]);
}

#[test]
fn a_device_without_a_size_is_refused() {
    if !is_root() {
        return;
    }
    let place = Place::with_repository();
    place.write("backing", b"");
    let Ok(device) = io::Result::Ok(Loop::on(&place.path("backing"))) else { return };
    place.copal("create repo::x").arg(device.path()).fails(&["has a size of zero", "insert its medium"]);
}
