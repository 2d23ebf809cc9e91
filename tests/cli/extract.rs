//! `copal extract` to files and standard output; devices are in `devices.rs`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::support::{Place, noise, partitioned, sparse};

#[test]
fn a_file_is_equal_and_sparse() {
    let place = Place::with_repository();
    sparse(&place.path("disk.img"), (40 << 20) + 333, &[(0, 70_000), (17 << 20, 4096), (39 << 20, 100)]);
    place.copal("create repo::x disk.img").ok();
    let silent = place.copal("extract repo::x out.img").ok();
    assert!(silent.stdout.is_empty());
    assert!(place.read("out.img") == place.read("disk.img"));
    let out = fs::metadata(place.path("out.img")).expect("stat");
    assert!(out.blocks() * 512 < 1 << 20, "{} blocks", out.blocks());
    assert_eq!(out.permissions().mode() & 0o777, 0o600, "a disk's contents are not for everybody");
    assert!(place.copal("extract repo::x --stdout").ok().stdout == place.read("disk.img"));
    place.assert_no_leftovers();
}

#[test]
fn a_partition_comes_by_itself() {
    const MIB: usize = 1 << 20;
    let place = Place::with_repository();
    sparse(&place.path("disk.img"), 64 << 20, &[(3 << 20, 3 << 20), (40 << 20, 5000)]);
    place.write("plain.img", &noise(1, 5000));
    if !partitioned(&place, "label: gpt\nstart=1MiB,size=4M\nstart=5MiB,size=40M\n") {
        return;
    }
    place.copal("create repo::x disk.img").ok();
    place.copal("create repo::two disk.img plain.img").ok();
    let disk = place.read("disk.img");
    for (number, range) in [(1, MIB..5 * MIB), (2, 5 * MIB..45 * MIB)] {
        place.copal(&format!("extract repo::x part{number} --partition {number}")).ok();
        assert!(place.read(format!("part{number}")) == disk[range.clone()], "partition {number}");
        let streamed = place.copal(&format!("extract repo::x --stdout --partition {number}")).ok();
        assert!(streamed.stdout == disk[range]);
    }
    let second = fs::metadata(place.path("part2")).expect("stat");
    assert!(second.blocks() * 512 < 2 << 20, "{} blocks", second.blocks());
    let json = place.copal("extract repo::two home --member disk.img --partition 1 --json").ok().json();
    let place_of = serde_json::json!({ "number": 1, "start": MIB, "len": 4 * MIB });
    assert_eq!(json["partition"], place_of);
    assert!(place.read("home/disk-1.img") == disk[MIB..5 * MIB]);

    place.copal("extract repo::x out --partition 7").fails(&["disk.img has no partition 7", "it has: 1, 2"]);
    place.copal("extract repo::two out --partition 1").fails(&["choose one with --member"]);
    let none = "extract repo::two out --member plain.img --partition 1";
    place.copal(none).fails(&["plain.img has no partition 1", "it has: none"]);
    assert!(!place.path("out").exists());
    place.assert_no_leftovers();
}

#[test]
fn an_existing_file_is_replaced_only_by_force() {
    let place = Place::with_archive();
    place.write("out.img", b"precious");
    place
        .copal("extract repo::web01 out.img")
        .fails(&["out.img: exists", "another name, or --force to replace it"]);
    assert_eq!(place.read("out.img"), b"precious");
    place.copal("extract repo::web01 out.img --force").ok();
    assert!(place.read("out.img") == place.read("disk.img"));
    place.assert_no_leftovers();
}

#[test]
fn a_directory_takes_the_member_under_its_name() {
    let place = Place::with_archive();
    place.copal("extract repo::web01 home").ok();
    assert!(place.read("home/disk.img") == place.read("disk.img"));
    place.copal("extract repo::web01 home").fails(&["home/disk.img: exists"]);
}

#[test]
fn members_one_by_one_or_all() {
    let place = Place::with_archive();
    place.write("b.img", &noise(2, 50_000));
    place.copal("create repo::vm vda=disk.img vdb=b.img").ok();
    place.copal("extract repo::vm all").ok();
    assert!(place.read("all/vda") == place.read("disk.img") && place.read("all/vdb") == place.read("b.img"));
    place.copal("extract repo::vm one.img --member vdb").ok();
    assert!(place.read("one.img") == place.read("b.img"));
    assert!(place.copal("extract repo::vm --stdout --member vda").ok().stdout == place.read("disk.img"));

    place.copal("extract repo::vm --stdout").fails(&["several members; choose one with --member: vda, vdb"]);
    place.copal("extract repo::vm x --member vdc").fails(&["no member \"vdc\"; it has: vda, vdb"]);
    place
        .copal("extract repo::vm one.img")
        .fails(&["must be a directory, or choose one with --member", "vda, vdb"]);
    place.copal("extract repo::vm no/such").fails(&["vda, vdb", "cannot make no/such"]);
}

#[test]
fn one_member_that_is_there_refuses_all() {
    let place = Place::with_archive();
    place.copal("create repo::vm vda=disk.img vdb=disk.img").ok();
    fs::create_dir(place.path("all")).expect("mkdir");
    place.write("all/vdb", b"precious");
    place.copal("extract repo::vm all").fails(&["all/vdb exists", "--force"]);
    assert!(!place.path("all/vda").exists());
    assert_eq!(place.read("all/vdb"), b"precious");
    place.copal("extract repo::vm all --force").ok();
    assert!(place.read("all/vdb") == place.read("disk.img"));
}

#[test]
fn targets_that_cannot_be() {
    let place = Place::with_archive();
    place.copal("extract repo::web01").fails(&["required arguments", "<TARGET>"]);
    place.copal("extract repo::web01 x --stdout").fails(&["cannot be used with"]);
    place.copal("extract repo out").fails(&["name an archive as repo::ARCHIVE"]);
    place
        .copal("extract repo::web01 no/such/out")
        .fails(&["no/such/out: cannot be made: its directory does not exist"]);
    place
        .copal("extract repo::web01 /dev/null --force")
        .fails(&["/dev/null: is neither a file nor a block device"]);
    place.copal("extract repo::web01 /proc/out").fails(&["/proc/out"]);
}

/// Flips a byte in the middle of every data pack.
fn damage_packs(place: &Place) {
    for (path, bytes) in place.tree("repo/packs") {
        if let Some(mut bytes) = bytes {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, bytes).expect("write");
        }
    }
}

#[test]
fn damage_fails_and_leaves_nothing() {
    let place = Place::with_archive();
    place.copal("create repo::vm vda=disk.img vdb=disk.img").ok();
    damage_packs(&place);
    place.copal("extract repo::web01 out.img").fails(&["out.img was not made", "chunk"]);
    assert!(!place.path("out.img").exists());
    place.write("old.img", b"precious");
    place.copal("extract repo::web01 old.img --force").fails(&["chunk"]);
    assert_eq!(place.read("old.img"), b"precious");
    place.copal("extract repo::vm all").fails(&["all/vda was not made"]);
    assert!(!place.path("all").exists());
    let stream = place.copal("extract repo::web01 --stdout").end();
    assert_eq!(stream.code, 2);
    stream.says(&["standard output is not whole"]);
    place.copal("list repo").ok();
    place.assert_no_leftovers();
}

#[test]
fn json_says_what_was_restored() {
    let place = Place::with_archive();
    let json = place.copal("extract repo::web01 out.img --json").ok().json();
    assert_eq!(json["members"][0]["name"], "disk.img");
    assert_eq!(json["members"][0]["size"], place.read("disk.img").len());
    assert!(place.read("out.img") == place.read("disk.img"));
}
