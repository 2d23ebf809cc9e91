//! `copal rename` and `copal tag`.

use super::delete::several;
use super::support::{Place, noise};

fn names(place: &Place) -> String {
    place.archives().join(" ")
}

#[test]
fn one_archive_or_all_of_a_name() {
    let place = several();
    place.copal("rename repo::web01~1 before-upgrade").ok().prints(&["1 archive renamed to before-upgrade"]);
    assert_eq!(names(&place), "web01 before-upgrade db01 web01");
    place.copal("rename repo::web01 www").fails(&["fits 2 archives", "--all"]);
    place.copal("rename repo::web01 www --all").ok().prints(&["2 archives renamed"]);
    assert_eq!(names(&place), "www before-upgrade db01 www");
    place.copal("extract repo::www old.img").ok();
    assert_eq!(place.read("old.img"), noise(3, 1003));
    place.copal("rename repo::www www --all").ok().prints(&["0 archives renamed"]);
    place.write("disk.img", b"new");
    place.copal("create repo::www disk.img").ok();
    let info = place.copal("info repo::www --json").ok().json();
    let before = place.copal("info repo::www~1 --json").ok().json();
    assert_eq!(info["previous"], before["id"], "the new name's archives go on");
    place.assert_no_leftovers();
}

#[test]
fn histories_are_not_mixed_by_accident() {
    let place = several();
    place.copal("rename repo::db01 web01").fails(&["3 archives are called web01 already", "--merge"]);
    assert_eq!(names(&place), "web01 web01 db01 web01");
    place.copal("rename repo::db01 web01 --merge").ok();
    assert_eq!(names(&place), "web01 web01 web01 web01");
}

#[test]
fn names_keep_their_grammar() {
    let place = several();
    for bad in ["a/b", "a@b", "a~1", "#a", ".a", "a*", ""] {
        place.copal("rename repo::db01").arg(bad).fails(&["is not a usable name"]);
    }
    place.copal("rename repo::db01").arg("Bu\u{308}ro Ko\u{308}ln").ok();
    assert_eq!(names(&place), "web01 web01 Büro Köln web01");
}

fn tags(place: &Place, reference: &str) -> String {
    let listed = place.copal(&format!("info repo::{reference} --json")).ok().json();
    let tags = listed["tags"].as_array().expect("tags").iter();
    tags.map(|tag| tag.as_str().expect("text")).collect::<Vec<_>>().join(" ")
}

#[test]
fn tags_and_comments() {
    let place = several();
    place.copal("tag repo::web01 --add keep --add weekly").ok().prints(&["1 archive changed"]);
    assert_eq!((tags(&place, "web01"), tags(&place, "web01~1")), ("keep weekly".into(), String::new()));
    place.copal("tag repo::web01 --add keep").ok().prints(&["0 archives changed"]);
    place.copal("tag repo::web01 --remove weekly --add x --comment moved").ok();
    assert_eq!(tags(&place, "web01"), "keep x");
    place.copal("list repo::web01~0").ok().prints(&["[keep] [x] moved"]);
    place.copal("tag repo::web01 --set a --set b --all").ok().prints(&["3 archives changed"]);
    assert_eq!((tags(&place, "web01"), tags(&place, "web01~2")), ("a b".into(), "a b".into()));
    place.copal("tag repo::web01 --clear").ok();
    assert_eq!(tags(&place, "web01"), "");
    let json = place.copal("tag repo::db01 --add y --json").ok().json();
    assert_eq!(json["changed"].as_array().map(Vec::len), Some(1));
}

#[test]
fn bad_tags_are_refused() {
    let place = several();
    place.copal("tag repo::web01").fails(&["required"]);
    place.copal("tag repo::web01 --add a --set b").fails(&["cannot be used with"]);
    place.copal("tag repo::web01 --add a/b").fails(&["is not a usable name"]);
    let many = (0..65).map(|n| format!(" --add t{n}")).collect::<String>();
    place
        .copal(&format!("tag repo::web01{many}"))
        .fails(&["tags of an archive: 65 are too many, 64 are allowed"]);
    place.copal("tag repo::web01 --comment").arg("x".repeat(4097)).fails(&["bytes of a comment: 4097"]);
    assert_eq!(tags(&place, "web01"), "");
}
