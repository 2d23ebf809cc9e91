//! What a test needs from the machine it runs on.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Set, a test that cannot run fails instead of being skipped.
const MUST_RUN: &str = "COPAL_TESTS_MUST_RUN";
/// What `statfs` says of a tmpfs.
const TMPFS: u32 = 0x0102_1994;
/// Where tools lie that an ordinary PATH leaves out.
const SYSTEM_FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Ends a test early, and says so loudly, where something it needs is not there. With `COPAL_TESTS_MUST_RUN` in the environment the
/// test fails instead.
///
/// `fuse`, `root` and `loop` are what they say, `times` are times of files that tell of every change, as those on tmpfs do not, `"fs:NAME"` is a file system that the kernel can mount; all else is a tool in PATH.
/// ```text
/// requires!(fuse, root, loop, "fs:xfs", "mkfs.xfs");
/// ```
#[macro_export]
macro_rules! requires {
    ($($need:tt),+ $(,)?) => {
        if !$crate::need::all_met(&[$(stringify!($need)),+]) {
            return;
        }
    };
}

/// Whether all needs are met; if not, tells which is not.
///
/// # Panics
/// If one is not and `COPAL_TESTS_MUST_RUN` is set.
#[must_use]
pub fn all_met(needs: &[&str]) -> bool {
    let missing: Vec<&str> =
        needs.iter().map(|need| need.trim_matches('"')).filter(|need| !is_met(need)).collect();
    if missing.is_empty() {
        return true;
    }
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let missing = missing.join(", ");
    assert!(
        std::env::var_os(MUST_RUN).is_none(),
        "{test} cannot run here: it needs {missing}, and {MUST_RUN} is set"
    );
    // Not through the macros: the test harness would keep their output to itself.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test} needs {missing}");
    false
}

fn is_met(need: &str) -> bool {
    match need {
        "fuse" => fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok(),
        "root" => rustix::process::geteuid().is_root(),
        "loop" => Path::new("/dev/loop-control").exists(),
        "times" => rustix::fs::statfs(std::env::temp_dir()).is_ok_and(|found| found.f_type as u32 != TMPFS),
        tool => tool.strip_prefix("fs:").map_or_else(|| find_tool(tool).is_some(), kernel_mounts),
    }
}

fn kernel_mounts(filesystem: &str) -> bool {
    let listed = || {
        let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        known.lines().any(|line| line.trim_start_matches("nodev").trim() == filesystem)
    };
    listed()
        || (Command::new("modprobe").arg("-q").arg(filesystem).status().is_ok_and(|s| s.success())
            && listed())
}

/// Where a tool lies.
#[must_use]
pub fn find_tool(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(SYSTEM_FOLDERS.map(PathBuf::from));
    folders.map(|folder| folder.join(tool)).find(|path| path.is_file())
}
