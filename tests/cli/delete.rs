//! `copal delete`, `copal undelete` and `copal list --deleted`.

use super::support::{Place, noise};

/// Three of web01 at different days, one of db01.
pub(crate) fn several() -> Place {
    let place = Place::with_repository();
    for (at, (name, time)) in
        [("web01", "2026-11-18"), ("web01", "2026-11-19"), ("db01", "2026-11-19"), ("web01", "2026-11-20")]
            .into_iter()
            .enumerate()
    {
        place.write("disk.img", &noise(at as u64, 1000 + at));
        place.copal(&format!("create repo::{name} disk.img --timestamp {time}T03:00")).ok();
    }
    place
}

fn deleted(place: &Place) -> Vec<String> {
    let listed = place.copal("list repo --deleted --json").ok().json();
    let times = listed["archives"].as_array().expect("archives").iter();
    times.map(|archive| archive["time"].as_str().expect("a time")[..10].to_owned()).collect()
}

#[test]
fn one_archive_goes_and_comes_back() {
    let place = several();
    let text = place.copal("delete repo::web01~1").ok().text();
    assert!(text.starts_with("web01  2026-11-19 03:00:00Z  #"), "{text}");
    assert!(text.contains("copal compact repo") && text.contains("copal undelete 'repo::#"), "{text}");
    assert_eq!(place.archives(), ["web01", "db01", "web01"]);
    assert_eq!(deleted(&place), ["2026-11-19"]);
    place.copal("list repo --deleted").ok().prints(&["web01  2026-11-19 03:00:00Z", "deleted 20", " on "]);
    place.copal("list repo::web01 --deleted").ok().prints(&["2026-11-19"]);
    place.copal("info repo::web01@2026-11-19").ok().prints(&["2026-11-18"]);
    let back = place.copal("undelete repo::web01").ok().prints(&["web01  2026-11-19", "1 archive restored"]);
    drop(back);
    assert_eq!(place.archives(), ["web01", "web01", "db01", "web01"]);
    assert!(deleted(&place).is_empty());
    place.copal("extract repo::web01~1 back.img").ok();
    assert_eq!(place.read("back.img"), noise(1, 1001));
    place.assert_no_leftovers();
}

#[test]
fn a_name_with_several_archives_needs_more_words() {
    let place = several();
    let before = place.tree("repo");
    place.copal("delete repo::web01").fails(&[
        "\"web01\" fits 3 archives: web01@20261120T030000Z (#",
        "web01@20261118T030000Z (#",
        "say which one (web01~0, or # and its id), or give --all",
    ]);
    place.copal("delete repo::*").fails(&["fits 4 archives", "--all"]);
    place.copal("delete repo::db01 web02").fails(&["no archive fits \"web02\""]);
    place.copal("delete repo::db01 other::web01").fails(&["other is another repository than repo"]);
    place.copal("delete repo").fails(&["name an archive as repo::ARCHIVE"]);
    assert!(place.tree("repo") == before, "nothing was changed");
    place.copal("delete repo::db01").ok();
    place.copal("delete repo::web01~0 repo::web01@2026-11-18").ok().prints(&["2 archives deleted"]);
    assert_eq!(deleted(&place), ["2026-11-18", "2026-11-19", "2026-11-20"]);
}

#[test]
fn all_means_all() {
    let place = several();
    place.copal("delete repo::web01 --all").ok().prints(&["3 archives deleted"]);
    assert_eq!(place.archives(), ["db01"]);
    place.copal("undelete repo::web01").fails(&["among deleted archives", "fits 3 archives"]);
    place.copal("undelete repo::w* --all").ok().prints(&["3 archives restored"]);
    assert_eq!(place.archives().len(), 4);
    place.copal("undelete repo::web01").fails(&["what fits is not deleted", "copal list --deleted"]);
}

#[test]
fn a_lost_archive_holds_compaction_up_until_it_is_given_up() {
    let place = several();
    place.copal("init other --encryption none").ok();
    let listed = place.copal("list repo --json").ok().json();
    let id = listed["archives"][0]["id"].as_str().expect("an id").to_owned();
    for copy in ["repo/archives", "repo/mirror/archives"] {
        std::fs::remove_file(place.path(format!("{copy}/{id}"))).expect("remove");
    }
    for command in ["list repo", "info repo", "prune repo -n --keep-last 9", "copy -n repo other"] {
        place.copal(command).warns(&[&id, "cannot be shown", "is gone"]);
    }
    let lost = place.copal("list repo --json").warns(&[&id]).json();
    assert_eq!((&lost["lost"][0]["id"], &lost["lost"][0]["name"]), (&id.clone().into(), &"web01".into()));
    let checked = place.copal("check repo").end();
    assert_eq!(checked.code, 1, "{checked}");
    checked.says(&["bring the records back"]).prints(&[&id, "web01", "is damaged"]);
    place.copal("compact repo --now").fails(&[&id, "nothing was deleted", "give the archive up"]);
    place.copal("delete").arg(format!("repo::#{id}")).ok().prints(&["which cannot be read, is given up"]);
    place.copal("compact repo --now").ok();
    place.copal("check repo").ok().prints(&["No damage found"]);
}

#[test]
fn a_dry_run_changes_nothing() {
    let place = several();
    let before = place.tree("repo");
    place
        .copal("delete repo::web01 --all --dry-run")
        .ok()
        .prints(&["2026-11-18", "3 archives would be deleted"]);
    let json = place.copal("delete repo::web01~0 -n --json").ok().json();
    assert_eq!((&json["dry_run"], &json["deleted"][0]["name"]), (&true.into(), &"web01".into()));
    assert!(place.tree("repo") == before);
}

#[test]
fn json_for_programs() {
    let place = several();
    let json = place.copal("delete repo::db01 --json").ok().json();
    let id = json["deleted"][0]["id"].as_str().expect("an id").to_owned();
    let listed = place.copal("list repo --deleted --json").ok().json();
    assert_eq!(listed["archives"][0]["id"], id.as_str());
    assert!(listed["archives"][0]["deleted"]["time"].as_str().is_some_and(|time| time.starts_with("20")));
    let json = place.copal("undelete --json").arg(format!("repo::#{id}")).ok().json();
    assert_eq!(json["restored"][0]["id"], id.as_str());
}

#[test]
fn what_was_reclaimed_stays_deleted() {
    let place = several();
    place.copal("delete repo::db01").ok();
    // All data packs vanish, as if a compaction had taken them.
    std::fs::remove_dir_all(place.path("repo/packs")).expect("remove");
    let failed =
        place.copal("undelete repo::db01").fails(&["cannot come back", "already reclaimed", "stays deleted"]);
    drop(failed);
    assert_eq!(deleted(&place), ["2026-11-19"]);
    place.assert_no_leftovers();
}

#[test]
fn another_machine_is_not_alarmed() {
    let place = several();
    let elsewhere = |args: &str| place.copal(args).env("COPAL_STATE_DIR", place.path("elsewhere"));
    elsewhere("list repo").ok();
    place.copal("delete repo::db01").ok();
    place.copal("rename repo::web01~0 web02").ok();
    elsewhere("list repo").ok();
    elsewhere("undelete repo::db01").ok();
    place.copal("list repo").ok().prints(&["db01", "web02"]);
}

#[test]
fn a_repository_that_cannot_be_written_says_so() {
    let place = several();
    place.copal("delete repo::db01 --passphrase-file nowhere").end();
    place.copal("delete nowhere::db01").fails(&["there is no repository at nowhere"]);
}
