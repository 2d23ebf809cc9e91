//! Every sort of source but block devices, which need root.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::support::{Ended, Place, noise, sparse};

/// Backs a source up and compares what comes back with `expected`.
fn round_trip(place: &Place, source: &str, expected: &[u8]) {
    let created = place.copal("create repo::x --json").arg(source).ok().json();
    assert_eq!(created["size"], expected.len());
    let out = place.copal("extract repo::x --stdout").ok();
    assert!(out.stdout == expected, "{source}: {} bytes came back", out.stdout.len());
}

#[test]
fn files_of_every_length_are_exact() {
    let place = Place::with_repository();
    for len in [0, 1, 511, 512, 513, 4095, 4096, 4097, 300_001, (16 << 20) + 1] {
        let bytes = noise(len as u64, len);
        place.write("disk.img", &bytes);
        round_trip(&place, "disk.img", &bytes);
    }
    place.write("zeros", &[0; 10_001]);
    round_trip(&place, "zeros", &[0; 10_001]);
}

#[test]
fn holes_are_not_read() {
    let place = Place::with_repository();
    sparse(&place.path("disk.img"), 1 << 40, &[(0, 5000), (3 << 30, 100_000), ((1 << 40) - 4096, 4096)]);
    let created = place.copal("create repo::x disk.img --json").ok().json();
    assert_eq!(created["size"], 1u64 << 40);
    assert!(created["read"].as_u64() < Some(1 << 20), "{created}");
    assert!(created["data"].as_u64() < Some(1 << 20), "{created}");
}

#[test]
fn standard_input() {
    let place = Place::with_repository();
    let bytes = noise(5, (16 << 20) + 777);
    place.copal("create repo::x -").input(&bytes).ok();
    assert!(place.copal("extract repo::x --stdout").ok().stdout == bytes);
    place.copal("create repo::x -").ok();
    assert!(place.copal("extract repo::x --stdout").ok().stdout.is_empty());
    place
        .copal("create repo::x root=-")
        .stdin(File::open(place.path("home")).expect("open"))
        .fails(&["standard input cannot be read", "redirect a file or a pipe into it"]);
    let info = place.copal("info repo::x --json").ok().json();
    assert_eq!(info["members"][0]["source"]["kind"], "stdin");
    assert_eq!(info["members"][0]["name"], "stdin");
}

#[test]
fn a_command() {
    let place = Place::with_repository();
    place.copal("create repo::x --command -- printf").arg("a b;\\0c").ok();
    let out = place.copal("extract repo::x --stdout").input(b"never read").ok();
    assert_eq!(out.stdout, b"a b;\0c");
    let info = place.copal("info repo::x --json").ok().json();
    assert_eq!(info["members"][0]["source"]["kind"], "command");
    assert_eq!(info["members"][0]["name"], "printf");
}

#[test]
fn a_command_that_fails_makes_no_archive() {
    let place = Place::with_archive();
    let create = |script: &str| place.copal("create repo::x --command -- sh -c").arg(script);
    let whole = create("head -c 100000 /dev/zero; echo told >&2; exit 3");
    whole.fails(&["told\n", "command \"sh\" failed (exit status: 3)", "not a whole image"]);
    create("echo part; kill -9 $$").fails(&["signal: 9"]);
    let missing = place.copal("create repo::x --command -- no-such-program x").env("PATH", "/usr/bin:/bin");
    missing.fails(&["command \"no-such-program\" was not found", "give its full path"]);
    place
        .copal("create repo::x --command -- ./disk.img")
        .fails(&["could not be run: check that it is executable"]);
    place.copal("create repo::x --command").fails(&["--command needs a program behind '--'"]);
    assert_eq!(place.archives(), ["web01"]);
    place.assert_no_leftovers();
}

#[test]
fn a_fifo() {
    let place = Place::with_repository();
    rustix::fs::mknodat(rustix::fs::CWD, place.path("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .expect("mkfifo");
    let bytes = noise(6, 1_000_003);
    let ended = std::thread::scope(|scope| {
        let running = scope.spawn(|| place.copal("create repo::x fifo --json").ok());
        File::options().write(true).open(place.path("fifo")).expect("open").write_all(&bytes).expect("write");
        running.join().expect("join")
    });
    assert_eq!(ended.json()["size"], 1_000_003);
    assert!(place.copal("extract repo::x --stdout").ok().stdout == bytes);
}

#[test]
fn several_members() {
    let place = Place::with_archive();
    place.write("b.img", &noise(2, 70_000));
    let create = "create repo::vm disk.img root=b.img conf=- x=y=z";
    place.write("y=z", b"a file with a sign in its name");
    place.copal(create).input(b"<domain/>").ok();
    let info = place.copal("info repo::vm --json").ok().json();
    let members = info["members"].as_array().expect("members");
    let facts: Vec<_> =
        members.iter().map(|m| (m["name"].as_str().expect("name"), m["size"].as_u64())).collect();
    assert_eq!(
        facts,
        [("disk.img", Some(300_000)), ("root", Some(70_000)), ("conf", Some(9)), ("x", Some(30))]
    );
    let out = place.copal("extract repo::vm --stdout --member conf").ok();
    assert_eq!(out.stdout, b"<domain/>");
    place.copal("list repo").ok().prints(&["4 members"]);

    place
        .copal("create repo::vm disk.img home/../disk.img")
        .fails(&["two sources would be called disk.img", "MEMBER=SOURCE"]);
    place.copal("create repo::vm a=disk.img a=b.img").fails(&["two sources would be called a"]);
    place.copal("create repo::vm a=- b=-").fails(&["standard input ('-') can be read once only"]);
    let many: Vec<_> = (0..65).map(|i| format!("m{i}=disk.img")).collect();
    place
        .copal("create repo::vm")
        .args(many)
        .fails(&["65 sources are too many for one archive, 64 are allowed"]);
    place
        .copal("create repo::vm disk.img b=none.img")
        .fails(&["\"none.img\" does not exist: check the path"]);
    assert_eq!(place.archives(), ["web01", "vm"]);
}

#[test]
fn things_that_are_no_image() {
    let place = Place::with_archive();
    let create = |source: &str| place.copal("create repo::x").arg(source);
    create("none.img").fails(&["\"none.img\" does not exist: check the path"]);
    create("disk.img/x").fails(&["does not exist"]);
    create("home").fails(&["\"home\" is a directory: name an image file, a block device or a FIFO"]);
    create("/dev/null").fails(&["\"/dev/null\" is a character device"]);
    let _socket = std::os::unix::net::UnixListener::bind(place.path("socket")).expect("bind");
    create("socket").fails(&["\"socket\" is a socket"]);
    create("\u{1b}[31mred").fails(&["\\u{1b}[31mred"]);
    assert_eq!(place.archives(), ["web01"]);
    place.assert_no_leftovers();
}

#[test]
fn paths_that_are_not_text_are_kept_and_shown_escaped() {
    let place = Place::with_repository();
    let name = OsString::from_vec(b"caf\xe9 \x1b[31m\n.img".to_vec());
    place.write(Path::new(&name), b"image");
    place.copal("create repo::x").arg(&name).ok();
    let shown = "caf\\xe9 \\u{1b}[31m\\n.img";
    place.copal("info repo::x").ok().prints(&[shown]);
    let info = place.copal("info repo::x --json").ok().json();
    assert!(info["members"][0]["source"]["path"].as_str().expect("a path").ends_with(shown), "{info}");
    let member = info["members"][0]["name"].as_str().expect("a name").to_owned();
    assert_eq!(member, "caf\u{fffd} _[31m_.img".replace('[', "_"));
    place.copal("extract repo::x --member").args([OsStr::new(&member), OsStr::from_bytes(b"out\xff")]).ok();
    assert_eq!(place.read(OsStr::from_bytes(b"out\xff")), b"image");
    place
        .copal("create")
        .arg(OsStr::from_bytes(b"r\xff::x"))
        .arg(&name)
        .fails(&["there is no repository at"]);
}

/// Changes a source while a create reads: it is the second member, and the first one, a FIFO, is only ended after the change.
fn change_while_read(place: &Place, change: impl FnOnce(&File)) -> Ended {
    rustix::fs::mknodat(rustix::fs::CWD, place.path("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .expect("mkfifo");
    std::thread::scope(|scope| {
        let running = scope.spawn(|| place.copal("create repo::x first=fifo second=disk.img").end());
        let mut fifo = File::options().write(true).open(place.path("fifo")).expect("open");
        // More than a pipe holds: when it is written, all sources are open and the first is being read.
        fifo.write_all(&noise(1, 1 << 20)).expect("write");
        change(&File::options().write(true).open(place.path("disk.img")).expect("open"));
        drop(fifo);
        running.join().expect("join")
    })
}

#[test]
fn a_source_that_shrinks_makes_no_archive() {
    let place = Place::with_archive();
    let ended = change_while_read(&place, |file| file.set_len(100_000).expect("set_len"));
    assert_eq!(ended.code, 2, "{ended}");
    ended.says(&["disk.img\" shrank from 300000 to 100000 bytes", "stop what changes it, then try again"]);
    assert_eq!(place.archives(), ["web01"]);
    place.assert_no_leftovers();
}

#[test]
fn a_source_that_grows_is_kept_as_long_as_it_was_with_a_warning() {
    let place = Place::with_archive();
    let ended = change_while_read(&place, |file| file.set_len(900_000).expect("set_len"));
    assert_eq!(ended.code, 1, "{ended}");
    ended.says(&["warning: ", "disk.img\" changed while it was read", "may mix several moments"]);
    let out = place.copal("extract repo::x --stdout --member second").ok();
    assert!(out.stdout == noise(1, 300_000));
}

#[test]
fn a_backup_leaves_no_trace_on_its_source() {
    let place = Place::with_repository();
    place.write("disk.img", b"image");
    let times = |path: &Path| {
        fs::metadata(path).map(|m| (m.atime(), m.atime_nsec(), m.mtime_nsec(), m.ctime_nsec())).expect("stat")
    };
    let before = times(&place.path("disk.img"));
    place.copal("create repo::x disk.img").ok();
    assert_eq!(times(&place.path("disk.img")), before);
}
