//! `copal compact`.

use std::fs::File;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use super::support::{Ended, Place, noise};

#[test]
fn the_space_of_deleted_archives_comes_back() {
    let place = Place::with_archive();
    place.write("other.img", &noise(2, 500_000));
    place.copal("create repo::db01 other.img").ok();
    place.copal("delete repo::db01").ok();
    let before = place.tree("repo");
    let planned = place.copal("compact repo --dry-run --json").ok().json();
    assert_eq!(
        (&planned["dead"]["packs"], &planned["deleted_archives"]),
        (&2.into(), &1.into()),
        "{planned}"
    );
    assert!(before == place.tree("repo"), "nothing was changed");
    let done = place.copal("compact repo --json").ok().json();
    assert_eq!(done["removed"]["packs"], 2, "{done}");
    assert!(done["removed"]["bytes"].as_u64().expect("a number") > 500_000, "{done}");
    place.copal("compact repo").ok().prints(&["Freed      nothing"]);
    place.copal("undelete repo::db01").fails(&["no archive fits"]);
    assert!(place.copal("extract repo::web01 --stdout").ok().stdout == place.read("disk.img"));
    place.assert_no_leftovers();
}

#[test]
fn what_a_killed_writer_left_goes_once_it_is_old_and_nobody_writes() {
    let place = Place::with_archive();
    let left = place.path("repo/tmp/put_0123456789abcdef0123456789abcdef");
    std::fs::write(&left, "half").expect("write");
    place.copal("compact repo").ok();
    assert!(left.exists(), "it may be somebody's who is about to publish it");
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    File::options().write(true).open(&left).expect("open").set_modified(hour_ago).expect("set_modified");

    let mut create = place.copal("create repo::x -").stdin(Stdio::piped()).spawn();
    let mut stdin = create.stdin.take().expect("a pipe");
    // More than the pipe holds: once it is written, the program is reading, and its session is there.
    stdin.write_all(&noise(1, 1 << 20)).expect("write");
    place.copal("compact repo").ok();
    assert!(left.exists(), "somebody writes, perhaps slowly");
    drop(stdin);
    let created = Ended::of(create.wait_with_output().expect("wait"));
    assert_eq!(created.code, 0, "{created}");

    place.copal("compact repo").ok().prints(&["Removed    1 files that interrupted writers left"]);
    assert!(!left.exists());
    place.assert_no_leftovers();
}
