//! Repositories and sources that this user, or anybody, must not write or read.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::space::Space;
use super::support::{Place, Run, is_root};

#[test]
fn a_repository_on_read_only_media() {
    if !is_root() {
        return;
    }
    let place = Place::with_archive();
    let before = place.tree("repo");
    let space = Space::new(&place, "mount --bind repo repo; mount -o remount,bind,ro repo");
    space.copal("list repo").ok().prints(&["web01"]);
    space.copal("info repo").ok();
    space.copal("info repo::web01").ok();
    space.copal("extract repo::web01 out.img").ok();
    assert!(place.read("out.img") == place.read("disk.img"));
    space.copal("create repo::web01 disk.img --dry-run").ok();
    let refused = space.copal("create repo::web01 disk.img");
    let refused = refused.fails(&[
        "Read-only file system",
        "mounted read-only: mount it read-write to back up to it",
        "list, info, extract and mount work",
    ]);
    assert_eq!(refused.stderr.lines().count(), 2, "{refused}");
    assert_eq!(place.tree("repo"), before);
}

/// The program as a user who owns nothing. It is copied to where that user may run it.
fn as_nobody(place: &Place, args: &str) -> Run {
    let program = place.path("copal");
    if !program.exists() {
        fs::copy(super::support::COPAL, &program).expect("copy");
        open(place, "", 0o755);
        fs::create_dir(place.path("theirs")).expect("mkdir");
        open(place, "theirs", 0o777);
    }
    let run = place.run(Command::new("setpriv")).args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    run.arg(program).args(args.split_whitespace()).env("COPAL_STATE_DIR", place.path("theirs/state"))
}

fn open(place: &Place, name: &str, mode: u32) {
    fs::set_permissions(place.path(name), fs::Permissions::from_mode(mode)).expect("chmod");
}

#[test]
fn a_source_that_may_not_be_read() {
    if !is_root() {
        return;
    }
    let place = Place::with_archive();
    open(&place, "disk.img", 0o600);
    as_nobody(&place, "init theirs/repo --encryption none").ok();
    let refused = as_nobody(&place, "create theirs/repo::x disk.img");
    refused.fails(&["disk.img\" may not be read: run as root", "Permission denied"]);
    let listed = as_nobody(&place, "list theirs/repo --json").ok().json();
    assert_eq!(listed["archives"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_repository_of_somebody_else() {
    if !is_root() {
        return;
    }
    let place = Place::with_archive();
    let words = ["repo", "Permission denied"];
    for command in ["list repo", "create repo::x copal", "extract repo::web01 theirs/out"] {
        as_nobody(&place, command).fails(&words);
    }
    // Readable, as on a share, but not writable.
    for (path, bytes) in place.tree("repo") {
        let mode = if bytes.is_some() { 0o644 } else { 0o755 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    }
    open(&place, "repo", 0o755);
    open(&place, "disk.img", 0o644);
    as_nobody(&place, "list repo").ok().prints(&["web01"]);
    as_nobody(&place, "info repo::web01").ok();
    as_nobody(&place, "extract repo::web01 theirs/out").ok();
    assert!(place.read("theirs/out") == place.read("disk.img"));
    let refused = as_nobody(&place, "create repo::x disk.img");
    refused.fails(&[
        "cannot write sessions/",
        "Permission denied",
        "the user who owns the repository, or as root",
    ]);
    as_nobody(&place, "extract repo::web01 home/out").fails(&["home/out", "Permission denied"]);
}
