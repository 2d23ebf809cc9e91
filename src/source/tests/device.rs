//! Tests of block devices, on loop devices of our own.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::super::*;
use super::{MIB, all_data, file_with, open};

/// Says loudly that a test could not run; fails if it was expected to.
fn skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
    assert!(std::env::var_os("COPAL_TESTS_MUST_RUN").is_none(), "this test was expected to run: {why}");
}

/// A loop device, detached on drop.
struct Loop(PathBuf);

impl Loop {
    fn attach(image: &Path, sector: u32) -> Result<Self, String> {
        let sector = sector.to_string();
        let tool = Command::new("losetup").args(["-f", "--show", "-r", "-b", &sector]).arg(image).output();
        let output = tool.map_err(|error| format!("losetup: {error}"))?;
        if !output.status.success() {
            return Err(format!("losetup: {}", String::from_utf8_lossy(&output.stderr)));
        }
        Ok(Self(String::from_utf8_lossy(&output.stdout).trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

#[test]
fn block_device() {
    let dir = TempDir::new().unwrap();
    let image = file_with(&dir, 4 * MIB, &[(MIB, b"here")]);
    let device = match Loop::attach(&image, 4096) {
        Ok(device) => device,
        Err(why) => return skipped(&format!("no loop device to test block devices with: {why}")),
    };
    let source = open(&device.0).unwrap();
    assert_eq!((source.kind().as_str(), source.in_use()), ("device", false));
    assert_eq!((source.logical_sector(), source.physical_sector()), (4096, 4096));
    assert_eq!(source.path_bytes(), device.0.as_os_str().as_bytes());
    let Source::Seekable(seekable) = &source else { panic!("a device has a length") };
    assert_eq!(seekable.len(), 4 * MIB);
    assert!(all_data(seekable));
    let mut buf = [0; 6];
    seekable.read_at(MIB - 1, &mut buf).unwrap();
    assert_eq!(&buf, b"\0here\0");
    seekable.drop_behind(0..4 * MIB);
    assert!(!seekable.changed_since_open());
    let second = open(&device.0).unwrap();
    assert!(second.in_use(), "the first holds the claim");
    drop((source, second));
    assert!(!open(&device.0).unwrap().in_use(), "a closed source gives its claim back");
}
