//! `copal cp`: where things go, what is refused, and what is said. That contents and metadata are right is judged by the kernel in `fuse-tests`.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use super::ls::with_disk;
use super::support::Place;

#[test]
fn a_file_goes_where_cp_would_put_it() {
    let Some(place) = with_disk() else { return };
    fs::create_dir(place.path("dir")).expect("mkdir");
    let silent = place.copal("cp repo::disk:2:/etc/hosts dir").ok();
    assert!(silent.stdout.is_empty());
    place.copal("cp repo::disk:2:/etc/hosts new").ok();
    assert_eq!(
        (place.read("dir/hosts"), place.read("new")),
        (place.read("from/etc/hosts"), place.read("from/etc/hosts"))
    );
    place.copal("cp repo::disk:2:/etc/fstab /etc/a.conf repo::disk:2:/home/sparse dir").ok();
    assert_eq!(place.read("dir/a.conf"), b"a\n");
    assert_eq!(fs::metadata(place.path("dir/fstab")).expect("stat").mtime(), 981_173_106);
    let sparse = fs::metadata(place.path("dir/sparse")).expect("stat");
    assert!(sparse.len() == (3 << 20) + 3 && sparse.blocks() < 100);
    assert_eq!(
        place.copal("cp repo::disk:2:/home/link -").ok().stdout,
        place.read("from/etc/hosts"),
        "where it leads"
    );
    assert_eq!(place.copal("cp repo::disk:2:/home/sparse -").ok().stdout, place.read("from/home/sparse"));
    place.copal("cp repo::disk:1:/efi/boot/*.EFI loader").end();
    assert_eq!(
        place.copal("cp").arg("repo::disk:1:/EFI/BOOT/a long file name.efi").arg("loader").ok().code,
        0
    );
    assert_eq!(place.read("loader"), b"loader\n");
}

#[test]
fn a_tree_comes_whole() {
    let Some(place) = with_disk() else { return };
    let done = place.copal("cp -r repo::disk:2:/ all --stats").end();
    assert_eq!(done.code, 0, "{done}");
    assert!(done.stderr.contains("1 left out (devices, pipes, sockets"), "{done}");
    assert!(done.text().contains("Copied 6 files") && done.text().contains("1 hard link"), "{done}");
    place.shell("rmdir all/lost+found; rm from/home/pipe; diff -r --no-dereference from all").ok();
    let same = |name: &str| fs::metadata(place.path(name)).expect("stat").ino();
    assert_eq!(same("all/etc/hosts"), same("all/home/hard"));
    assert_eq!(
        fs::read_link(place.path("all/home/link")).expect("link").as_os_str().as_bytes(),
        b"../etc/hosts"
    );
    // Into one that is there, what is in the root comes right in.
    fs::create_dir(place.path("into")).expect("mkdir");
    place.copal("cp -r repo::disk:1:/ into").ok();
    assert_eq!(place.read("into/EFI/BOOT/a long file name.efi"), b"loader\n");
    let json = place.copal("cp -rn repo::disk:2:/etc into --json").ok().json();
    assert_eq!(
        (&json["copied"]["files"], &json["copied"]["directories"], &json["dry_run"]),
        (&4.into(), &3.into(), &true.into())
    );
    assert!(!place.path("into/etc").exists());
}

#[test]
fn nothing_is_replaced_unasked() {
    let Some(place) = with_disk() else { return };
    place.write("hosts", b"mine");
    place.copal("cp repo::disk:2:/etc/hosts hosts").fails(&["hosts exists", "--force"]);
    place.copal("cp repo::disk:2:/etc/hosts .").warns(&["/etc/hosts: it exists there", "not copied: 1 path"]);
    assert_eq!(place.read("hosts"), b"mine");
    place.copal("cp --force repo::disk:2:/etc/hosts .").ok();
    place.copal("cp --dry-run repo::disk:2:/etc/hosts -").fails(&["--dry-run counts"]);
    let pipe = place.path("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .expect("mkfifo");
    let refused = place.copal("cp --force repo::disk:2:/etc/hosts pipe");
    refused.warns(&["is a device, pipe or socket, which is not replaced"]);
    assert!(!pipe.symlink_metadata().expect("it is there").is_file());
    assert_eq!(place.read("hosts"), place.read("from/etc/hosts"));
    place.assert_no_leftovers();
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_is_made() {
    let Some(place) = with_disk() else { return };
    place.copal("cp repo::disk:2:/etc all").fails(&["/etc is a directory; give -r"]);
    place.copal("cp repo::disk:2:/etc/hosts /etc/fstab none").fails(&["none is no directory", "mkdir none"]);
    place.copal("cp repo::disk:2:/etc/hosts none/").fails(&["there is no directory none/"]);
    place.copal("cp repo::disk:2:/etc/hosts no/ne").fails(&["no is no directory"]);
    place.copal("cp repo::disk:2:/gone .").fails(&["cannot copy /gone", "nothing of that name"]);
    place.copal("cp repo::disk:2:/gone* .").fails(&["cannot copy /gone*"]);
    place.copal("cp repo::disk:2 .").fails(&["REPO::ARCHIVE:PART:/PATH"]);
    place.copal("cp repo::disk:2:/etc/hosts repo::disk:1:/EFI .").fails(&["another archive or part"]);
    place.copal("cp repo::disk:2:/etc -").fails(&["only a file"]);
    place.copal("cp repo::disk:2:/etc/hosts").end().says(&["required"]);
    place.copal("cp -r repo::disk:3:/ x").fails(&["part 3-swap"]);
    assert!(!place.path("all").exists() && !place.path("none").exists());
}

#[test]
fn members_are_chosen_by_name() {
    let Some(place) = with_disk() else { return };
    place.copal("create repo::two disk.img root.img").ok();
    place.copal("cp repo::two:1:/etc/hosts x").fails(&["choose one with --member: disk.img, root.img"]);
    place.copal("cp repo::two:/etc/hosts x --member root.img").ok();
    assert_eq!(place.read("x"), place.read("from/etc/hosts"));
}

#[test]
fn a_device_is_made_only_on_request() {
    let Some(place) = with_disk() else { return };
    place.copal("cp repo::disk:2:/home/pipe pipe").end();
    assert!(!place.path("pipe").exists());
    place.copal("cp --devices repo::disk:2:/home/pipe pipe").ok();
    let made: Place = place;
    assert_eq!(fs::symlink_metadata(made.path("pipe")).expect("stat").mode() & 0o170_000, 0o010_000);
}
