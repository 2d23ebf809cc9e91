//! Tests of sources: here on real files; below on pipes, processes and (as root) loop devices.

mod device;
mod streams;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use tempfile::TempDir;

use super::*;

const MIB: u64 = 1 << 20;

fn open(path: &Path) -> Result<Source, SourceError> {
    Source::open(&SourceSpec::Path(path.to_owned()))
}

fn open_seekable(path: &Path) -> Seekable {
    match open(path).unwrap() {
        Source::Seekable(seekable) => seekable,
        Source::Stream(stream) => panic!("{stream:?} is a stream"),
    }
}

fn all_ranges(source: &Seekable) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    while let Some(range) = source.data_ranges(ranges.last().map_or(0, |last| last.end)) {
        assert!(range.start < range.end && range.end <= source.len(), "{range:?}");
        ranges.push(range);
    }
    ranges
}

fn all_data(source: &Seekable) -> bool {
    source.data_ranges(0) == Some(0..source.len())
}

fn file_with(dir: &TempDir, len: u64, data: &[(u64, &[u8])]) -> PathBuf {
    let path = dir.path().join("disk.img");
    let file = File::create(&path).unwrap();
    file.set_len(len).unwrap();
    data.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
    path
}

#[test]
fn sparse_file_gives_its_data_and_little_else() {
    let dir = TempDir::new().unwrap();
    let block = [7; 65536];
    let path = file_with(&dir, 100 * MIB, &[(MIB, &block), (50 * MIB, &block), (100 * MIB - 1, &[1])]);
    let source = open_seekable(&path);
    let ranges = all_ranges(&source);
    for at in [MIB, MIB + 65535, 50 * MIB, 50 * MIB + 65535, 100 * MIB - 1] {
        assert!(ranges.iter().any(|range| range.contains(&at)), "{at} is missing from {ranges:?}");
    }
    assert!(ranges.iter().map(|range| range.end - range.start).sum::<u64>() < MIB, "{ranges:?}");
    assert_eq!(
        source.data_ranges(MIB + 100).unwrap().start,
        MIB + 100,
        "a range begins where it was asked for"
    );
    assert_eq!(source.data_ranges(100 * MIB), None);
    assert_eq!(source.data_ranges(u64::MAX), None);
}

#[test]
fn hole_of_a_tebibyte_has_no_data() {
    let dir = TempDir::new().unwrap();
    let source = open_seekable(&file_with(&dir, 1 << 40, &[]));
    assert_eq!(source.len(), 1 << 40);
    assert_eq!(source.data_ranges(0), None);
    let mut last = [9; 10];
    source.read_at((1 << 40) - 10, &mut last).unwrap();
    assert_eq!(last, [0; 10]);
}

#[test]
fn empty_and_one_byte_files() {
    let dir = TempDir::new().unwrap();
    let empty = open_seekable(&file_with(&dir, 0, &[]));
    assert!(empty.is_empty());
    assert_eq!(empty.data_ranges(0), None);
    empty.read_at(0, &mut []).unwrap();
    assert!(matches!(
        empty.read_at(0, &mut [0]),
        Err(SourceError::OutOfRange { offset: 0, wanted: 1, len: 0, .. })
    ));
    let one = open_seekable(&file_with(&dir, 1, &[(0, b"x")]));
    assert!(all_data(&one));
    let mut byte = [0];
    one.read_at(0, &mut byte).unwrap();
    assert_eq!(&byte, b"x");
    assert!(matches!(one.read_at(u64::MAX, &mut byte), Err(SourceError::OutOfRange { .. })));
    one.drop_behind(0..1);
    one.drop_behind(Range { start: 1, end: 0 });
}

#[test]
fn facts_of_a_file() {
    let dir = TempDir::new().unwrap();
    let path = file_with(&dir, 10, &[]);
    let source = open(&path).unwrap();
    assert_eq!((source.kind(), source.kind().as_str()), (SourceKind::File, "file"));
    assert_eq!(source.path_bytes(), path.as_os_str().as_bytes());
    assert_eq!((source.logical_sector(), source.physical_sector(), source.in_use()), (0, 0, false));
    let here = std::env::current_dir().unwrap();
    let relative = open_seekable(Path::new("Cargo.toml"));
    assert_eq!(relative.path(), here.join("Cargo.toml"));
}

#[test]
fn files_in_memory_have_the_holes_that_they_have() {
    let Ok(dir) = TempDir::new_in("/dev/shm") else { return eprintln!("NOT TESTED: no /dev/shm") };
    let full = file_with(&dir, 2 * MIB, &[(0, &[0; 2 << 20])]);
    assert!(all_data(&open_seekable(&full)), "zeros that were written are data");
    let with_a_hole = open_seekable(&file_with(&dir, 4 * MIB, &[(MIB, &[5; 4096])]));
    assert_eq!(all_ranges(&with_a_hole).first(), Some(&(MIB..MIB + 4096)));
    assert!(!all_data(&with_a_hole));
}

#[test]
fn shrinking_is_noticed_by_reads_and_hides_behind_no_hole() {
    let dir = TempDir::new().unwrap();
    let path = file_with(&dir, 2 * MIB, &[(0, &[5; 8192])]);
    let source = open_seekable(&path);
    assert_eq!(source.data_ranges(MIB), None, "a hole while the file is whole");
    assert!(!source.changed_since_open());
    OpenOptions::new().write(true).open(&path).unwrap().set_len(6000).unwrap();
    assert!(source.changed_since_open());
    let error = source.read_at(4096, &mut [0; 4096]).unwrap_err();
    let SourceError::Shrank { path: named, offset, expected } = &error else { panic!("{error:?}") };
    assert_eq!((named, *offset, *expected), (&path, 6000, 2 * MIB));
    assert!(error.to_string().contains("6000"), "{error}");
    assert_eq!(io_kind(error), std::io::ErrorKind::UnexpectedEof);
    assert_eq!(source.data_ranges(MIB), Some(MIB..2 * MIB), "the lost tail must be read, and fail");
    let ranges = all_ranges(&source);
    assert_eq!(ranges.last().unwrap().end, 2 * MIB, "{ranges:?}");
}

fn io_kind(error: SourceError) -> std::io::ErrorKind {
    std::io::Error::from(error).kind()
}

#[test]
fn growth_is_not_read_but_noticed() {
    let dir = TempDir::new().unwrap();
    let path = file_with(&dir, 4096, &[(0, &[5; 4096])]);
    let source = open_seekable(&path);
    OpenOptions::new().append(true).open(&path).unwrap().write_all(&[6; 8192]).unwrap();
    assert_eq!(source.len(), 4096);
    assert!(all_data(&source));
    assert!(source.changed_since_open());
}

#[test]
fn replacement_is_noticed() {
    let dir = TempDir::new().unwrap();
    let path = file_with(&dir, 4096, &[]);
    let source = open_seekable(&path);
    fs::write(dir.path().join("new"), [0; 4096]).unwrap();
    fs::rename(dir.path().join("new"), &path).unwrap();
    assert!(source.changed_since_open());
}

#[test]
fn many_threads_read_and_seek_at_once() {
    let dir = TempDir::new().unwrap();
    let bytes: Vec<u8> = (0..MIB).map(|n| (n / 4096) as u8).collect();
    let source = open_seekable(&file_with(&dir, MIB, &[(0, &bytes)]));
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let (source, bytes) = (&source, &bytes);
            scope.spawn(move || {
                for step in 0..200 {
                    let at = (thread * 7919 + step * 104_729) % (MIB - 5000);
                    let mut buf = [0; 5000];
                    assert_eq!(source.data_ranges(at), Some(at..MIB));
                    source.read_at(at, &mut buf).unwrap();
                    assert_eq!(buf[..], bytes[at as usize..][..5000]);
                }
            });
        }
    });
}

#[test]
fn what_is_no_image_is_refused() {
    let dir = TempDir::new().unwrap();
    let refused = |path: &Path| match open(path) {
        Err(SourceError::NotAnImage { path: named, found }) if named == path => found,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(dir.path()), "a directory");
    assert_eq!(refused(Path::new("/dev/null")), "a character device");
    let socket = dir.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    assert_eq!(refused(&socket), "a socket");
    let missing = dir.path().join("missing");
    assert!(matches!(open(&missing), Err(SourceError::Missing { path }) if path == missing));
    let below_a_file = file_with(&dir, 1, &[]).join("below");
    assert!(matches!(open(&below_a_file), Err(SourceError::Missing { .. })));
}

/// Runs `test` on a thread that, even as root, has to respect permissions.
fn without_privileges<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    let unprivileged = || {
        let none = CapabilitySet::empty();
        let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
        set_capabilities(None, sets).unwrap();
        test()
    };
    std::thread::scope(|scope| scope.spawn(unprivileged).join()).unwrap()
}

#[test]
fn unreadable_file_is_named() {
    let dir = TempDir::new().unwrap();
    let path = file_with(&dir, 1, &[]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o0)).unwrap();
    let error = without_privileges(|| open(&path).unwrap_err());
    assert!(matches!(&error, SourceError::Permission { path: named, .. } if *named == path), "{error:?}");
    assert_eq!(io_kind(error), std::io::ErrorKind::PermissionDenied);
}

#[test]
fn file_of_another_owner_is_read() {
    // Its access time may not be left alone, which must not matter. Where the owner cannot be changed, this only
    // opens a file of our own.
    let dir = TempDir::new().unwrap();
    let path = file_with(&dir, 1, &[(0, b"x")]);
    let _ = chown(&path, Some(1), Some(1));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    without_privileges(|| open_seekable(&path).read_at(0, &mut [0]).unwrap());
}

#[test]
fn path_that_is_not_utf8() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(OsStr::from_bytes(b"d\xffsk.img"));
    fs::write(&path, b"abc").unwrap();
    let source = open(&path).unwrap();
    assert!(source.path_bytes().ends_with(b"/d\xffsk.img"));
    assert_eq!(default_member_name(&SourceSpec::Path(path)), "d\u{fffd}sk.img");
}

#[test]
fn default_names() {
    let path = |text: &str| default_member_name(&SourceSpec::Path(text.into()));
    assert_eq!(path("/dev/vg0/web01-snap"), "web01-snap");
    assert_eq!(path("a/disk.img"), "disk.img");
    assert_eq!(path("/"), "image");
    assert_eq!(default_member_name(&SourceSpec::Stdin), "stdin");
    let program = SourceSpec::Command { program: "/usr/bin/pg_dump".into(), args: vec!["x".into()] };
    assert_eq!(default_member_name(&program), "pg_dump");
}
