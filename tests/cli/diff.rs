//! `copal diff`.

use std::fs;
use std::os::unix::fs::FileExt;

use serde_json::{Value, json};

use super::support::{Place, noise, partitioned, sparse};

/// Chunks of one length, so that it is known which ranges differ.
const CUT: &str = "--chunker fixed,64K";

fn overwrite(place: &Place, file: &str, offset: u64, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(place.path(file)).expect("open");
    file.write_all_at(bytes, offset).expect("write");
}

/// `disk.img` of 1 MiB as `web01`, and again with its 100,000th byte changed and 5,000 bytes more.
fn two_archives() -> Place {
    let place = Place::with_repository();
    let mut bytes = noise(1, 1 << 20);
    place.write("disk.img", &bytes);
    place.copal(&format!("create repo::web01 disk.img {CUT}")).ok();
    bytes[100_000] ^= 1;
    bytes.extend(noise(2, 5000));
    place.write("disk.img", &bytes);
    place.copal(&format!("create repo::web01 disk.img {CUT}")).ok();
    place
}

fn tally(changed: u64, added: u64, removed: u64, ranges: u64) -> Value {
    json!({ "changed": changed, "added": added, "removed": removed, "unknown": 0, "ranges": ranges })
}

#[test]
fn what_changed_and_what_was_added() {
    let place = two_archives();
    let text = place.copal("diff repo::web01~1 web01").ok();
    text.prints(&[
        "A  ",
        "B  ",
        "Member disk.img: 1.0 MiB in A, 1.0 MiB in B",
        "           65536           65536  changed\n",
        "         1048576            5000  added\n",
        "CHUNKS OF CHANGED SPANS",
    ]);
    let json = place.copal("diff repo::web01~1 web01 --json").ok().json();
    let member = &json["members"][0];
    let ranges = json!([
        { "offset": 65536, "length": 65536, "kind": "changed" },
        { "offset": 1 << 20, "length": 5000, "kind": "added" },
    ]);
    assert_eq!((&member["name"], &member["ranges"]), (&"disk.img".into(), &ranges));
    assert_eq!((&member["a_size"], &member["b_size"]), (&(1 << 20).into(), &((1 << 20) + 5000).into()));
    assert_eq!(member["total"], tally(65536, 5000, 0, 2));
    let chunks = &json["chunks"];
    assert_eq!((&chunks["shared"]["chunks"], &chunks["shared"]["plain"]), (&15.into(), &(15 << 16).into()));
    assert_eq!((&chunks["added"]["chunks"], &chunks["removed"]["chunks"]), (&2.into(), &1.into()));
    assert_eq!((&chunks["added"]["plain"], &chunks["exact"]), (&(65536 + 5000).into(), &true.into()));
    assert_eq!((&chunks["spans"], &chunks["complete"]), (&"changed".into(), &true.into()));
    let ids = ["web01~1", "web01"].map(|name| place.copal(&format!("info repo::{name} --json")).ok().json());
    assert_eq!((&json["a"]["id"], &json["b"]["id"]), (&ids[0]["id"], &ids[1]["id"]));

    let back = place.copal("diff repo::web01 web01~1 --json --summary").ok().json();
    assert_eq!(back["members"][0]["total"], tally(65536, 0, 5000, 2));
    assert_eq!(back["members"][0].get("ranges"), None);
    let summary = place.copal("diff repo::web01~1 web01 --summary").ok().text();
    assert!(!summary.contains("OFFSET  ") || !summary.contains("65536"), "{summary}");
}

#[test]
fn the_second_archive_may_be_named_with_its_repository() {
    let place = two_archives();
    let expected = place.copal("diff repo::web01~1 web01 --json").ok().text();
    let absolute = format!("{}::web01", place.path("repo").display());
    for other in ["::web01", "repo::web01", "./repo/::web01", &absolute] {
        assert_eq!(
            place.copal("diff repo::web01~1").args([other, "--json"]).ok().text(),
            expected,
            "{other}"
        );
    }
    place.copal("diff ::web01~1 web01").env("COPAL_REPO", place.path("repo")).ok();
    place.copal("init other --encryption none").ok();
    place.copal("diff repo::web01 other::web01").fails(&["must be in one repository", "repo", "other"]);
    place.copal("diff repo web01").fails(&["name an archive as repo::ARCHIVE"]);
    place.copal("diff repo::web01 repo::").fails(&["name an archive"]);
    place.copal("diff repo::web01 web02").fails(&["no archive fits \"web02\""]);
    place.copal("diff repo::web01").fails(&["<B>"]);
}

#[test]
fn equal_archives_say_so() {
    let place = two_archives();
    place.copal("diff repo::web01 web01").ok().prints(&["Member disk.img: 1.0 MiB\nequal\n"]);
    place.copal(&format!("create repo::web01 disk.img {CUT}")).ok();
    let json = place.copal("diff repo::web01~1 web01 --json --full").ok().json();
    assert_eq!(
        (&json["members"][0]["ranges"], &json["members"][0]["total"]),
        (&json!([]), &tally(0, 0, 0, 0))
    );
    let chunks = &json["chunks"];
    assert_eq!((&chunks["shared"]["chunks"], &chunks["added"]["chunks"]), (&17.into(), &0.into()));
    assert_eq!(chunks["spans"], "all");
}

#[test]
fn members_are_matched_by_name() {
    let place = Place::with_repository();
    for (file, seed) in [("one", 1), ("two", 2), ("three", 3)] {
        place.write(file, &noise(seed, 70_000));
    }
    place.copal("create repo::vm vda=one vdb=two gone=three").ok();
    place.copal("create repo::vm new=three vdb=one vda=one").ok();
    let diff = |args: &str| place.copal(&format!("diff repo::vm~1 vm --json --summary {args}")).ok().json();
    let json = diff("");
    let members = json["members"].as_array().expect("members");
    let told: Vec<(&Value, &Value)> =
        members.iter().map(|member| (&member["name"], &member["total"])).collect();
    let names: Vec<&Value> = told.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["new", "vdb", "vda", "gone"]);
    assert_eq!(*told[0].1, tally(0, 70_000, 0, 1));
    assert_eq!(*told[1].1, tally(70_000, 0, 0, 1));
    assert_eq!(*told[2].1, tally(0, 0, 0, 0));
    assert_eq!(*told[3].1, tally(0, 0, 70_000, 1));
    assert_eq!((&members[0]["a_size"], &members[3]["b_size"]), (&Value::Null, &Value::Null));

    let only = diff("--member gone");
    assert_eq!(only["members"].as_array().map(Vec::len), Some(1));
    assert_eq!(only["members"][0]["name"], "gone");
    place
        .copal("diff repo::vm~1 vm")
        .ok()
        .prints(&["Member new: 68.4 KiB, in B only", "Member gone: 68.4 KiB, in A only"]);
    place
        .copal("diff repo::vm~1 vm --member vdx")
        .fails(&["neither archive has a member \"vdx\"", "new, vdb, vda, gone"]);
}

const MIB: u64 = 1 << 20;

#[test]
fn ranges_are_told_by_partition() {
    let place = Place::with_repository();
    // Chunks of one block, so that no hole moves data into another chunk.
    const CUT: &str = "--chunker fixed,4K";
    sparse(&place.path("disk.img"), 64 * MIB, &[(0, 20 << 20)]);
    if !partitioned(&place, "label: gpt\nstart=1MiB,size=4M\nstart=5MiB,size=8M\n") {
        return;
    }
    place.copal(&format!("create repo::x disk.img {CUT}")).ok();
    // Across the border of both partitions, and behind them in a hole.
    overwrite(&place, "disk.img", 5 * MIB - 10, &noise(5, 20));
    overwrite(&place, "disk.img", 50 * MIB, &[1]);
    place.copal(&format!("create repo::x disk.img {CUT}")).ok();
    let json = place.copal("diff repo::x~1 x --json").ok().json();
    let member = &json["members"][0];
    let expected = json!([
        { "offset": 5 * MIB - 4096, "length": 4096, "kind": "changed", "partition": 1, "partition_offset": 4 * MIB - 4096 },
        { "offset": 5 * MIB, "length": 4096, "kind": "changed", "partition": 2, "partition_offset": 0 },
        { "offset": 50 * MIB, "length": 4096, "kind": "changed" },
    ]);
    assert_eq!(member["ranges"], expected);
    assert_eq!(member["total"], tally(3 * 4096, 0, 0, 2));
    let layouts = member["by_partition"].as_array().expect("layouts");
    assert_eq!(layouts.len(), 1);
    let partitions = &layouts[0]["partitions"];
    assert_eq!(
        (&partitions[0]["differs"], &partitions[1]["differs"]),
        (&tally(4096, 0, 0, 1), &tally(4096, 0, 0, 1))
    );
    assert_eq!((&partitions[1]["start"], &layouts[0]["outside"]), (&(5 * MIB).into(), &tally(4096, 0, 0, 1)));
    place.copal("diff repo::x~1 x").ok().prints(&[
        "changed  partition 1 at 4190208\n",
        "changed  partition 2 at 0\n",
        "partition 2            5242880   8.0 MiB   4.0 KiB  0.05",
        "outside of partitions",
    ]);

    // Another table: both divisions are shown.
    assert!(partitioned(&place, "label: gpt\nstart=1MiB,size=12M\n"));
    place.copal(&format!("create repo::x disk.img {CUT}")).ok();
    let json = place.copal("diff repo::x~2 x --json --summary").ok().json();
    let layouts = json["members"][0]["by_partition"].as_array().expect("layouts");
    assert_eq!((&layouts[0]["table_of"], &layouts[1]["table_of"]), (&"b".into(), &"a".into()));
    assert_eq!(layouts[0]["partitions"][0]["differs"], tally(2 * 4096, 0, 0, 1));
    assert_eq!(layouts[1]["partitions"][1]["differs"], tally(4096, 0, 0, 1));
    place.copal("diff repo::x~2 x").ok().prints(&["In A, partitioned otherwise:"]);
}

#[test]
fn lost_maps_are_unknown_and_a_warning() {
    let place = two_archives();
    let before: Vec<_> = place.tree("repo/maps").into_iter().map(|(path, _)| path).collect();
    overwrite(&place, "disk.img", 0, b"again");
    place.copal(&format!("create repo::web01 disk.img {CUT}")).ok();
    for folder in ["repo/maps", "repo/mirror/maps"] {
        for (path, bytes) in place.tree(folder) {
            let first = path.to_string_lossy().replace("/mirror/", "/");
            if bytes.is_some() && !before.iter().any(|old| old.to_string_lossy() == first) {
                fs::remove_file(path).expect("remove");
            }
        }
    }
    let words = [
        "disk.img: bytes 0 to 1053576 of B are not known",
        "is lost",
        "the partitions of disk.img cannot be read",
    ];
    let text = place.copal("diff repo::web01~1 web01").warns(&words);
    text.prints(&["               0         1053576  unknown\n", "Chunks of lost maps are not counted."]);
    let json = place.copal("diff repo::web01~1 web01 --json").warns(&words).json();
    assert_eq!(json["members"][0]["total"]["unknown"], 1_053_576);
    assert_eq!(json["chunks"]["complete"], false);
    // What lies between whole archives is told as before.
    place.copal("diff repo::web01~2 web01~1").ok().prints(&["changed"]);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let place = two_archives();
    let piped = place.shell("\"$COPAL\" diff repo::web01~1 web01 | head -n 1").ok();
    assert!(piped.text().starts_with("A  "), "{piped}");
}
