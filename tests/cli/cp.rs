//! `copal cp`: where things go, what is refused, and what is said. That contents and metadata are right is judged by the kernel in `fuse-tests`.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use super::ls::with_disk;
use super::support::{Place, can, is_root};

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
    place.copal("cp repo::disk:1:/efi/boot/*.EFI loader").ok();
    assert_eq!(
        place.copal("cp").arg("repo::disk:1:/EFI/BOOT/a long file name.efi").arg("other").ok().code,
        0
    );
    assert_eq!((place.read("loader"), place.read("other")), (b"loader\n".to_vec(), b"loader\n".to_vec()));
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
    place.copal("cp repo::disk:2:/etc/hosts").fails(&["a destination is required"]);
    let help = place.copal("cp --help").ok().text();
    assert_eq!(help.matches("<FROM>").count(), 1, "{help}");
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

/// Gives an attribute to symbolic links, which Linux lets none have, and to a file.
fn with_odd_attributes(links: u32) -> Option<Place> {
    let place = with_disk()?;
    place
        .shell(&format!(
            r#"
            PATH=$PATH:/sbin:/usr/sbin
            mkdir many; for n in $(seq {links}); do ln -s target many/$n; done
            ln -s target "many/$(printf 'bad\377')"; echo plain > many/plain
            truncate -s 8M odd.img
            mke2fs -q -F -t ext4 -d many odd.img > mke2fs.log
            debugfs -w -R 'ea_set /plain user.fine value' odd.img 2> debugfs.log
            for n in $(seq {links}); do echo "ea_set /$n user.odd value"; done > commands
            printf 'ea_set /bad\377 user.odd value\n' >> commands
            debugfs -w -f commands odd.img > debugfs.log 2>&1
            "#
        ))
        .ok();
    place.copal("create repo::odd odd.img").ok();
    Some(place)
}

#[test]
fn what_the_destination_does_not_take_is_named() {
    let Some(place) = with_odd_attributes(2) else { return };
    let done = place.copal("cp -r repo::odd:1:/ few").warns(&[
        "/1 is copied without its attribute user.odd (Operation not permitted",
        "/bad\\xff is copied without its attribute user.odd",
        "the destination did not take all that belongs to 3 paths: 3 extended attributes",
    ]);
    assert!(!done.stderr.contains("/plain") && !done.stderr.contains("are named here"), "{done}");
    let json = place.copal("cp -r repo::odd:1:/ json --json").end().json();
    let listed = json["not_set"].as_array().expect("a list");
    let hex: Vec<_> = listed.iter().filter_map(|entry| entry["path_hex"].as_str()).collect();
    assert_eq!((listed.len(), &hex[..]), (3, &["2f626164ff"][..]), "{json:#}");
    let first = listed.iter().find(|entry| entry["path"] == "/1").expect("/1");
    assert_eq!(
        (&first["missing"][0]["what"], &first["missing"][0]["name"]),
        (&"attribute".into(), &"user.odd".into())
    );
    assert_eq!(
        (&json["copied"]["incomplete"], &json["copied"]["attributes_not_set"]),
        (&3.into(), &3.into())
    );
}

#[test]
fn many_are_named_in_the_document_and_few_on_the_terminal() {
    let Some(place) = with_odd_attributes(40) else { return };
    let done = place.copal("cp -r repo::odd:1:/ all --json").end();
    assert_eq!(done.json()["not_set"].as_array().map(Vec::len), Some(41));
    assert_eq!(done.stderr.matches("is copied without").count(), 20, "{done}");
    assert!(done.stderr.contains("41 paths: 41 extended attributes; 20 of them are named here"), "{done}");
}

#[test]
fn what_only_root_may_set_is_told_once() {
    let Some(place) = with_disk() else { return };
    if !can("root", is_root()) {
        return;
    }
    // As somebody else, whose own files these are not.
    place.shell("chmod -R a+rX . && mkdir -m 777 theirs && chmod 777 home && cp \"$COPAL\" copal && chmod 755 copal").ok();
    let as_nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    let run = format!("COPAL_STATE_DIR=home/state {as_nobody} ./copal cp -r repo::disk:2:/etc theirs --json");
    let done = place.shell(&run).end();
    assert_eq!(done.code, 0, "{done}");
    assert_eq!(done.stderr.lines().count(), 1, "{done}");
    assert!(
        done.stderr.contains("only root may: what was copied is yours: 7 owners, 1 set-id bit"),
        "{done}"
    );
    assert_eq!(done.json()["copied"]["owners_not_set"], 7);
    let as_root = place.copal("cp -r --no-owner repo::disk:2:/etc mine").end();
    assert!(as_root.code == 0 && as_root.stderr.contains("as --no-owner says: 1 set-id bit"), "{as_root}");
}

#[test]
fn paths_in_the_document_are_those_of_ls() {
    let Some(place) = with_disk() else { return };
    place.copal("cp -r repo::disk:2:/home .").end();
    let json = place.copal("cp -r repo::disk:2:/home . --json").end().json();
    let failed = json["failed"].as_array().expect("a list");
    let listed = place.copal("ls repo::disk:2:/home --json").ok().json();
    let odd =
        listed["entries"].as_array().expect("a list").iter().find(|entry| entry["path_hex"].is_string());
    let odd = odd.expect("a name that is no text");
    let same =
        |entry: &&serde_json::Value| entry["path"] == odd["path"] && entry["path_hex"] == odd["path_hex"];
    assert_eq!(failed.iter().filter(same).count(), 1, "{json:#}");
    // Text is as it is, whatever it holds.
    place.shell("PATH=$PATH:/sbin:/usr/sbin; mkdir back; printf x > 'back/a\\b'; truncate -s 8M back.img; mke2fs -q -F -t ext4 -d back back.img > log").ok();
    place.copal("create repo::back back.img").ok();
    place.write("a\\b", b"mine");
    let json = place.copal("cp repo::back:1:/a* . --json").end().json();
    assert_eq!(json["failed"][0]["path"], "/a\\b", "{json:#}");
}

#[test]
fn nothing_is_copied_into_the_repository() {
    let Some(place) = with_disk() else { return };
    let before = place.tree("repo");
    place.shell("ln -s repo link; ln -s repo/packs inner; mkdir other").ok();
    for to in ["repo", "repo/", "repo/new", "link", "link/packs", "inner", "other/../repo/packs", "inner/x"] {
        let refused = ["lies in the repository", "choose another place"];
        place.copal(&format!("cp -r repo::disk:2:/etc {to}")).fails(&refused);
        place.copal(&format!("cp --force repo::disk:2:/etc/hosts {to}")).fails(&refused);
        place.copal(&format!("extract repo::disk {to}")).fails(&refused);
    }
    // A tree that would go there on its way.
    place.shell("PATH=$PATH:/sbin:/usr/sbin; mkdir -p tree/repo/packs tree/more; echo x > tree/repo/config; echo y > tree/more/y; truncate -s 8M tree.img; mke2fs -q -F -t ext4 -d tree tree.img > log").ok();
    place.copal("create repo::tree tree.img").ok();
    let stored = place.tree("repo");
    place
        .copal("cp -r --force repo::tree:1:/ .")
        .warns(&["/repo: cannot write it: the repository itself lies there"]);
    assert_eq!(place.read("more/y"), b"y\n");
    assert_eq!(place.tree("repo"), stored);
    assert!(stored.len() > before.len());
}

#[test]
fn a_killed_copy_is_cleaned_up_after_by_the_next() {
    let Some(place) = with_disk() else { return };
    // Killed while it holds a temporary name: when it tries to give a file its own.
    let kill = "strace -f -o trace -e trace=renameat2 -e inject=renameat2:signal=KILL \"$COPAL\"";
    if !can("strace", place.shell("command -v strace").end().code == 0) {
        return;
    }
    place.shell("mkdir to").ok();
    let left = || -> Vec<_> {
        let names = place.tree("to").into_iter().map(|(path, _)| path);
        names.filter(|path| path.to_string_lossy().contains("/.copal-")).collect()
    };
    assert_ne!(place.shell(&format!("{kill} cp -r repo::disk:2:/etc to")).end().code, 0);
    let first = left();
    assert!(!first.is_empty(), "nothing was killed while it had a temporary file");
    let done = place.copal("cp -r repo::disk:2:/etc to --force").end();
    assert_eq!(done.code, 0, "{done}");
    assert!(done.stderr.contains("of a 'copal cp' that was killed removed"), "{done}");
    assert!(left().is_empty(), "{:?}", left());
    assert_eq!(place.read("to/etc/hosts"), place.read("from/etc/hosts"));
}
