//! `copal check`.

use std::fs;
use std::path::PathBuf;

use super::support::Place;

fn packs(place: &Place, folder: &str) -> Vec<PathBuf> {
    let files = place.tree(folder).into_iter().filter(|(_, bytes)| bytes.is_some());
    files.map(|(path, _)| path).collect()
}

fn flip(path: &PathBuf, at: usize) {
    let mut bytes = fs::read(path).expect("read");
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("write");
}

#[test]
fn a_sound_repository() {
    let place = Place::with_archive();
    let before = place.tree("repo");
    place.copal("check repo").ok().prints(&["Checked      1 archive, 2 packs", "No damage found"]);
    place.copal("check repo --verify-data").ok().prints(&["Opened       ", " of 2 packs", "/s)"]);
    place.copal("check repo::web01 --verify-data --subset 100%").ok().prints(&["No damage found"]);
    place.copal("check repo --archive web01").ok();
    let json = place.copal("check repo --verify-data --json").ok().json();
    assert_eq!((&json["clean"], &json["checked"]["archives"]), (&true.into(), &1.into()));
    assert_eq!(json["findings"], serde_json::json!([]));
    assert_eq!(place.tree("repo"), before);
}

#[test]
fn damage_names_the_archive_and_its_bytes() {
    let place = Place::with_archive();
    flip(&packs(&place, "repo/packs")[0], 100);
    place.copal("check repo").ok();
    let checked = place.copal("check repo --verify-data").end();
    assert_eq!(checked.code, 1, "{checked}");
    let checked = checked.says(&["copal: error: 1 archive is damaged"]);
    checked.prints(&[
        "Damaged      packs/",
        " blobs are damaged",
        "Archive      web01 #",
        "offset             0",
    ]);
    let json = place.copal("check repo --verify-data --json").end();
    assert_eq!(json.code, 1, "{json}");
    let range = &json.json()["damaged"][0]["members"][0]["ranges"][0];
    assert_eq!(range["offset"], 0, "{json}");
    assert!(range["length"].as_u64().is_some_and(|length| (1..300_000).contains(&length)), "{json}");
    place.copal("check repo::db01").fails(&["no archive fits"]);
}

#[test]
fn a_missing_copy_is_degraded_and_harms_nothing() {
    let place = Place::with_archive();
    fs::remove_file(&packs(&place, "repo/mirror/maps")[0]).expect("remove");
    let checked = place.copal("check repo").end();
    assert_eq!(checked.code, 1, "{checked}");
    checked.says(&["every archive is whole"]).prints(&["Degraded     mirror/maps/", "its pack is missing"]);
}

#[test]
fn repairs_say_what_they_did_and_what_is_left() {
    let place = Place::with_archive();
    place.copal("check repo --repair").ok().prints(&["nothing was to be done", "No damage is left"]);
    fs::remove_file(&packs(&place, "repo/mirror/maps")[0]).expect("remove");
    fs::remove_file(&packs(&place, "repo/index")[0]).expect("remove");
    let repaired = place.copal("check repo --repair").ok();
    repaired.prints(&["1 copies were written again", "the index was made anew", "No damage is left"]);
    place.copal("check repo --verify-data").ok();

    flip(&packs(&place, "repo/packs")[0], 100);
    let repaired = place.copal("check repo --repair").end();
    assert_eq!(repaired.code, 1, "{repaired}");
    let words = ["1 bad pack with ", "'quarantine'", "1 chunks and maps are given up", "Left:", "web01"];
    repaired.says(&["1 archive is damaged"]).prints(&words);
    assert_eq!(packs(&place, "repo/quarantine").len(), 1);
    place.copal("create repo::web01 disk.img").ok();
    place.copal("check repo --verify-data").ok().prints(&["stored again by later backups: 1 chunk;"]);
    place.copal("extract repo::web01~1 out.img").ok();
    assert!(place.read("out.img") == place.read("disk.img"));
    let json = place.copal("check repo --repair --json").ok().json();
    assert_eq!((&json["repaired"]["healed"], &json["after"]["clean"]), (&1.into(), &true.into()));
    place.assert_no_leftovers();
}

#[test]
fn parts_are_refused_where_they_make_no_sense() {
    let place = Place::with_archive();
    place.copal("check repo --subset 1/3").fails(&["required arguments"]);
    place.copal("check repo --verify-data --subset 4/3").fails(&["parts of 3 are 1/3 to 3/3"]);
    place.copal("check repo --verify-data --subset 0%").fails(&["percentage"]);
}
