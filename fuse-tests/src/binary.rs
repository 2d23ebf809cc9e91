//! The program under test.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Names a binary to test instead of the one that cargo builds.
const GIVEN: &str = "COPAL_TESTS_BINARY";

/// The `copal` binary of the profile that the tests were built with. Cargo brings it up to date, once in each test process.
///
/// # Panics
/// If it does not build.
#[must_use]
pub fn copal() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| std::env::var_os(GIVEN).map_or_else(build, PathBuf::from))
}

fn build() -> PathBuf {
    let folder = profile_folder();
    let target = folder.parent().expect("a profile's folder lies in the target directory");
    // Cross builds put another folder between, and then find their way by themselves.
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => panic!("{} has no name", folder.display()),
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--locked", "--quiet", "--package", "copal", "--bin", "copal", "--profile", profile])
        .arg("--target-dir")
        .arg(target)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo runs");
    assert!(built.status.success(), "copal does not build:\n{}", String::from_utf8_lossy(&built.stderr));
    unshared(&folder, folder.join("copal"))
}

/// `TARGET/PROFILE`, two above the test executable.
fn profile_folder() -> PathBuf {
    let executable = std::env::current_exe().expect("this executable has a path");
    let folder = executable.ancestors().nth(2).expect("tests lie in TARGET/PROFILE/deps");
    folder.to_owned()
}

/// Cargo's own copy of the binary, whose name has a hash in it: a build of another checkout in the same target directory replaces the
/// plain name, but never this one.
fn unshared(folder: &Path, plain: PathBuf) -> PathBuf {
    let identity = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let wanted = identity(&plain);
    let all = fs::read_dir(folder.join("deps")).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut named = all.filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("copal-") && !name.contains('.'))
    });
    named.find(|path| wanted.is_some() && identity(path) == wanted).unwrap_or(plain)
}
