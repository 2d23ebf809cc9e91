//! What a directory adds to the contract: modes, links, leftovers, and media that must not be written.

use super::*;
use crate::storage::aligned::LARGEST_BLOCK;
use crate::storage::conformance::{conformance, name};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use tempfile::TempDir;

fn fresh() -> (TempDir, LocalStorage) {
    let dir = tempfile::tempdir().unwrap();
    let storage = LocalStorage::create(&dir.path().join("repo")).unwrap();
    (dir, storage)
}

/// Everything below a directory: mode, length and times of change, by path.
fn picture(path: &Path, into: &mut BTreeMap<PathBuf, (u32, u64, i64, i64)>) {
    let meta = fs::symlink_metadata(path).unwrap();
    into.insert(path.to_owned(), (meta.mode(), meta.size(), meta.ctime(), meta.ctime_nsec()));
    if meta.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| picture(&entry.unwrap().path(), into));
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[track_caller]
fn assert_unreadable(storage: &LocalStorage, object: &str) {
    let object = name(object);
    storage.read(&object, 100).unwrap_err();
    storage.read_range(&object, 0, &mut [0; 1]).unwrap_err();
    storage.len(&object).unwrap_err();
}

#[test]
fn a_folder_tells_whether_anything_came_or_went() {
    let (dir, storage) = fresh();
    let file_system = rustix::fs::statfs(dir.path()).unwrap().f_type as u32;
    if !tree::TIMED_FILE_SYSTEMS.contains(&file_system) {
        eprintln!("NOT TESTED: a directory's times, on a file system of type {file_system:#x}");
        return;
    }
    let [one, two] = ["folder/one", "folder/two"].map(name);
    assert_eq!(storage.folder_mark("folder"), None);
    // What changed just now may change again unnoticed.
    let settled = || {
        loop {
            if let Some(mark) = storage.folder_mark("folder") {
                return mark;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    storage.put(&one, &[b"1"]).unwrap();
    assert_eq!(storage.folder_mark("folder"), None);
    let first = settled();
    assert_eq!(storage.names("folder").unwrap(), [one]);
    assert_eq!(storage.folder_mark("folder"), Some(first.clone()));
    storage.put(&two, &[b"2"]).unwrap();
    assert_eq!(storage.folder_mark("folder"), None);
    let second = settled();
    storage.delete(&two).unwrap();
    assert_eq!(storage.folder_mark("folder"), None);
    let third = settled();
    assert!(first != second && second != third && first != third);
}

#[test]
fn conforms() {
    let dirs = RefCell::new(Vec::new());
    conformance(|| {
        let (dir, storage) = fresh();
        dirs.borrow_mut().push(dir);
        Box::new(storage)
    });
}

#[test]
fn create_makes_only_the_last_directory() {
    let dir = tempfile::tempdir().unwrap();
    let missing = LocalStorage::create(&dir.path().join("missing/repo")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let repo = dir.path().join("repo");
    assert_eq!(LocalStorage::create(&repo).unwrap().path(), repo);
    assert_eq!(LocalStorage::create(&repo).unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);
}

#[test]
fn create_takes_an_empty_directory_or_a_new_file_system() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    LocalStorage::create(dir.path()).unwrap();
}

#[test]
fn create_refuses_a_used_directory_and_leaves_it_alone() {
    for used in [&["notes"][..], &[".hidden"], &["lost+found", "notes"]] {
        let dir = tempfile::tempdir().unwrap();
        used.iter().for_each(|file| fs::write(dir.path().join(file), "x").unwrap());
        let error = LocalStorage::create(dir.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DirectoryNotEmpty);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), used.len());
    }
}

#[test]
fn open_needs_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "x").unwrap();
    let open = |path: &str| LocalStorage::open(&dir.path().join(path)).unwrap_err().kind();
    assert_eq!(open("none"), ErrorKind::NotFound);
    assert_eq!(open("file"), ErrorKind::NotADirectory);
}

#[test]
fn open_and_reads_write_nothing() {
    let (dir, storage) = fresh();
    storage.put(&name("a/b/x"), &[b"x"]).unwrap();
    fs::remove_dir(storage.path().join(TMP)).unwrap();
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    picture(dir.path(), &mut before);

    let reader = LocalStorage::open(storage.path()).unwrap();
    reader.read(&name("a/b/x"), 1).unwrap();
    reader.read_range(&name("a/b/x"), 0, &mut [0; 1]).unwrap();
    reader.len(&name("a/b/x")).unwrap();
    assert_eq!(reader.list("a").unwrap().len(), 1);
    reader.read(&name("none/x"), 1).unwrap_err();
    reader.delete(&name("none/x")).unwrap_err();
    assert_eq!(reader.stale_temporaries(Duration::ZERO).unwrap(), Vec::<PathBuf>::new());

    picture(dir.path(), &mut after);
    assert_eq!(before, after);
    reader.put(&name("a/b/y"), &[b"y"]).unwrap();
}

#[test]
fn files_and_directories_are_for_their_owner() {
    let (_dir, storage) = fresh();
    storage.put(&name("a/b/x"), &[b"x"]).unwrap();
    let modes = ["", "tmp", "a", "a/b", "a/b/x"].map(|path| mode(&storage.path().join(path)));
    assert_eq!(modes, [0o700, 0o700, 0o700, 0o700, 0o600]);
}

#[test]
fn a_failed_put_leaves_no_temporary_file() {
    let (_dir, storage) = fresh();
    storage.put(&name("a/b/x"), &[b"x"]).unwrap();
    let error = storage.put(&name("a/b"), &[b"over a directory"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IsADirectory);
    let error = storage.put(&name("a/b/x/y"), &[b"under a file"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotADirectory);
    assert_eq!(fs::read_dir(storage.path().join(TMP)).unwrap().count(), 0);
    assert_eq!(storage.read(&name("a/b/x"), 1).unwrap(), b"x");
}

#[test]
fn links_are_refused_at_every_place() {
    let (dir, storage) = fresh();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    storage.put(&name("a/x"), &[b"x"]).unwrap();
    symlink(outside.join("secret"), storage.path().join("a/link")).unwrap();
    symlink("x", storage.path().join("a/near")).unwrap();
    symlink(&outside, storage.path().join("out")).unwrap();

    for object in ["a/link", "a/near", "out/secret"] {
        assert_unreadable(&storage, object);
    }
    storage.list("a").unwrap_err();
    storage.list("out").unwrap_err();
    storage.names("a").unwrap_err();
    storage.names("out").unwrap_err();
    storage.put(&name("out/x"), &[b"x"]).unwrap_err();
    storage.delete(&name("out/secret")).unwrap_err();
    storage.put(&name("a/link"), &[b"replaces the link"]).unwrap();
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn other_things_than_files_are_refused_without_waiting() {
    let (_dir, storage) = fresh();
    storage.put(&name("a/x"), &[b"x"]).unwrap();
    let pipe = storage.path().join("a/pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert_unreadable(&storage, "a/pipe");
    storage.list("a").unwrap_err();
    storage.names("a").unwrap_err();
}

#[test]
fn lists_ignore_what_is_no_name() {
    let (_dir, storage) = fresh();
    storage.put(&name("a/x"), &[b"x"]).unwrap();
    for stray in ["UPPER", "under_score", "sp ace", "lost+found", "é"] {
        fs::create_dir(storage.path().join("a").join(stray)).unwrap();
        fs::write(storage.path().join("a").join(stray).join("x"), "x").unwrap();
    }
    fs::write(storage.path().join("a/X"), "x").unwrap();
    let listed = storage.list("a").unwrap();
    assert_eq!(listed, [Listed { name: name("a/x"), len: 1 }]);
    assert_eq!(storage.names("a").unwrap(), [name("a/x")]);
}

#[test]
fn nothing_lives_under_tmp() {
    let (_dir, storage) = fresh();
    fs::write(storage.path().join("tmp/x"), "x").unwrap();
    for object in ["tmp", "tmp/x", "tmp/a/x"] {
        assert_eq!(storage.put(&name(object), &[b"x"]).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(storage.list("tmp").unwrap(), []);
    storage.put(&name("a/tmp/x"), &[b"only the top one is reserved"]).unwrap();
    assert_eq!(storage.list("a").unwrap().len(), 1);
}

#[test]
fn stale_temporaries_are_listed_and_kept_until_they_are_cleared() {
    let (_dir, storage) = fresh();
    let left = storage.path().join("tmp").join(temporary_name().unwrap());
    fs::write(&left, "half").unwrap();
    fs::write(storage.path().join("tmp/notes"), "not of a put").unwrap();
    let storage = LocalStorage::open(storage.path()).unwrap();
    assert_eq!(storage.stale_temporaries(Duration::from_secs(1 << 40)).unwrap(), Vec::<PathBuf>::new());
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    for file in fs::read_dir(storage.path().join("tmp")).unwrap() {
        File::options().write(true).open(file.unwrap().path()).unwrap().set_modified(hour_ago).unwrap();
    }
    assert_eq!(storage.stale_temporaries(Duration::from_secs(1800)).unwrap(), std::slice::from_ref(&left));
    assert_eq!(storage.clear_unpublished(Duration::from_secs(7200)).unwrap(), 0);
    assert!(left.exists());
    assert_eq!(storage.clear_unpublished(Duration::from_secs(1800)).unwrap(), 1);
    assert!(!left.exists() && storage.path().join("tmp/notes").exists());
}

#[test]
fn what_is_begun_is_in_a_temporary_file_that_goes_with_its_writer_and_is_cleared_when_it_is_silent() {
    let (_dir, storage) = fresh();
    let temporaries = || storage.stale_temporaries(Duration::ZERO).unwrap();
    let begin = || {
        let mut begun = storage.begin_put().unwrap().unwrap();
        begun.append(&[7; LARGEST_BLOCK]).unwrap();
        begun
    };
    let dropped = begin();
    assert_eq!(temporaries().len(), 1);
    drop(dropped);
    assert!(temporaries().is_empty());

    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    for touched in [true, false] {
        let mut begun = begin();
        File::options().write(true).open(&temporaries()[0]).unwrap().set_modified(hour_ago).unwrap();
        if touched {
            begun.touch().unwrap();
        }
        let cleared = storage.clear_unpublished(Duration::from_secs(1800)).unwrap();
        assert_eq!(cleared, u64::from(!touched));
        let published = begun.publish(&name("a/x"), &[b"end"]);
        assert_eq!(
            published.map_err(|error| error.kind()),
            if touched { Ok(()) } else { Err(ErrorKind::NotFound) }
        );
        drop(begun);
        assert_eq!(storage.len(&name("a/x")).unwrap(), LARGEST_BLOCK as u64 + 3);
        assert!(temporaries().is_empty());
    }
    assert_eq!(begin().publish(&name("tmp/x"), &[]).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert!(temporaries().is_empty());
}

#[test]
fn ranged_reads_reuse_a_descriptor_until_this_storage_changes_the_object() {
    let (_dir, storage) = fresh();
    let object = name("a/x");
    let ranged = || {
        let mut buf = [0; 3];
        storage.read_range(&object, 0, &mut buf).map(|()| buf)
    };
    storage.put(&object, &[b"old"]).unwrap();
    assert_eq!(&ranged().unwrap(), b"old");
    fs::remove_file(storage.path().join("a/x")).unwrap();
    assert_eq!(&ranged().unwrap(), b"old", "as when another process deletes it");
    storage.put(&object, &[b"new"]).unwrap();
    assert_eq!(&ranged().unwrap(), b"new");
    storage.delete(&object).unwrap();
    assert_eq!(ranged().unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn the_root_is_held_though_its_path_moves() {
    let (dir, storage) = fresh();
    storage.put(&name("a/x"), &[b"x"]).unwrap();
    fs::rename(storage.path(), dir.path().join("moved")).unwrap();
    fs::create_dir(storage.path()).unwrap();
    assert_eq!(storage.list("a").unwrap().len(), 1);
}

#[test]
fn error_kinds_are_those_of_the_standard_library() {
    let kind = |errno: Errno| io::Error::from(errno).kind();
    assert_eq!(kind(Errno::NOSPC), ErrorKind::StorageFull);
    assert_eq!(kind(Errno::DQUOT), ErrorKind::QuotaExceeded);
    assert_eq!(kind(Errno::ROFS), ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn long_reads_are_whole_and_do_not_go_beyond_the_end() {
    let (_dir, storage) = fresh();
    let object = name("packs/long");
    let bytes: Vec<u8> = (0..3 * LONG_READ as u32).map(|at| (at / 7) as u8).collect();
    storage.put(&object, &[&bytes]).unwrap();
    // Once as this file system does it, once as one does that keeps pages.
    for keeps_pages in [false, true] {
        storage.uncached.set_keeps_pages(keeps_pages);
        let mut buf = vec![0; 2 * LONG_READ];
        storage.read_range(&object, 5, &mut buf).unwrap();
        assert!(buf == bytes[5..][..buf.len()]);
        let beyond = storage.read_range(&object, LONG_READ as u64 + 1, &mut buf);
        assert_eq!(beyond.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
