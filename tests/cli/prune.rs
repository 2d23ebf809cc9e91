//! `copal prune`.

use super::delete::several;
use super::support::{Place, noise};

fn count(place: &Place) -> usize {
    place.archives().len()
}

#[test]
fn what_no_rule_keeps_goes_and_can_come_back() {
    let place = several();
    let text = place.copal("prune repo --keep-last 2 --utc").ok().text();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("web01  2026-11-18 03:00:00Z  #"), "{text}");
    assert_eq!(lines[1..3], ["db01: 1 kept, 0 pruned", "web01: 2 kept, 1 pruned"]);
    assert!(lines[3].contains("copal compact repo"), "{text}");
    assert_eq!(count(&place), 3);
    place.copal("prune repo --keep-last 2 --utc").ok().prints(&["web01: 2 kept, 0 pruned"]);
    place.copal("undelete repo::web01").ok();
    assert_eq!(count(&place), 4);
    place.assert_no_leftovers();
}

#[test]
fn the_list_says_why() {
    let place = several();
    place.copal("tag repo::web01~2 --add keep").ok();
    let run =
        "prune repo --keep-daily 2 --keep-yearly 1 --keep-tag keep --keep-within 12h --list --dry-run --utc";
    let text = place.copal(run).ok().text();
    let rules = |line: usize| {
        text.lines().nth(line).expect("a line").split("  ").skip(3).collect::<Vec<_>>().join("|")
    };
    assert_eq!(rules(0), "keep|tag keep");
    assert_eq!(rules(1), "keep|daily 2 of 2");
    assert_eq!(rules(2), "keep|newest, daily 1 of 2, yearly 1 of 1, within 12h");
    assert_eq!(rules(3), "keep|newest, daily 1 of 2, yearly 1 of 1, within 12h");
    assert!(text.contains("web01: 3 would be kept, 0 would be pruned"), "{text}");
    let json = place.copal("prune repo --keep-last 1 --dry-run --json").ok().json();
    assert_eq!(json["pruned"].as_array().map(Vec::len), Some(2));
    assert_eq!(json["kept"][0]["rules"], serde_json::json!(["newest", "last 1 of 1"]));
    assert_eq!(count(&place), 4);
}

#[test]
fn an_empty_policy_is_refused() {
    let place = several();
    for policy in ["", "--keep-daily 0", "--keep-last 0 --keep-yearly 0", "--keep-tag keep"] {
        place
            .copal("prune repo")
            .args(policy.split_whitespace())
            .fails(&["the policy keeps nothing", "--keep-last"]);
    }
    for bad in ["--keep-last -1", "--keep-daily x", "--keep-within 30", "--keep-within 0d"] {
        place
            .copal("prune repo")
            .args(bad.split_whitespace())
            .fails(&[bad.split_once(' ').expect("two words").1]);
    }
    assert_eq!(count(&place), 4);
}

#[test]
fn names_limit_it() {
    let place = several();
    place.copal("prune repo::db* --keep-last 1").ok().prints(&["db01: 1 kept"]);
    assert_eq!(count(&place), 4);
    place.copal("prune repo::x --keep-last 1").fails(&["no archive fits"]);
    for one in ["repo::web01~1", "repo::web01@2026-11-19", "repo::#ab"] {
        place.copal("prune --keep-last 1").arg(one).fails(&["prune judges all archives of a name"]);
    }
    place.copal("prune repo::web01 --keep-last 1").ok().prints(&["web01: 1 kept, 2 pruned"]);
    place.copal("info repo::web01").ok().prints(&["2026-11-20"]);
}

#[test]
fn an_archive_from_the_future_is_kept_with_a_warning_and_displaces_none() {
    let place = several();
    place.write("disk.img", &noise(9, 1000));
    place.copal("create repo::web01 disk.img --timestamp 2150-01-01").ok();
    place.copal("prune repo --keep-last 1").warns(&["yet to come"]).prints(&["web01: 2 kept, 2 pruned"]);
    place.copal("info repo::web01~1").ok().prints(&["2026-11-20"]);
}

#[test]
fn days_are_those_of_the_machine_unless_told_otherwise() {
    let place = Place::with_repository();
    place.write("disk.img", b"x");
    for time in ["2026-11-19T22:30", "2026-11-19T23:30"] {
        place.copal(&format!("create repo::web01 disk.img --timestamp {time}")).ok();
    }
    let kept = |args: &str| {
        let run = place.copal("prune repo --keep-daily 9 --dry-run --json").args(args.split_whitespace());
        run.env("TZ", "CET-1").ok().json()["kept"].as_array().map(Vec::len)
    };
    assert_eq!((kept(""), kept("--utc")), (Some(2), Some(1)));
}
