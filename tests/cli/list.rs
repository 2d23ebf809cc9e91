//! `copal list`, and references to archives.

use super::support::{COPAL, Ended, Place, can, noise};

/// Three of web01, one of db01.
fn several() -> Place {
    let place = Place::with_repository();
    for (at, (name, time)) in [
        ("web01", "2026-11-18T03:00"),
        ("web01", "2026-11-19T03:00"),
        ("db01", "2026-11-19T04:00"),
        ("web01", "2026-11-20T03:00"),
    ]
    .into_iter()
    .enumerate()
    {
        place.write("disk.img", &noise(at as u64, 1000 + at));
        place.copal(&format!("create repo::{name} disk.img --timestamp {time}")).ok();
    }
    place
}

fn size_of(place: &Place, reference: &str) -> u64 {
    place.copal("info --json").arg(format!("repo::{reference}")).ok().json()["size"].as_u64().expect("a size")
}

#[test]
fn an_empty_repository_is_listed() {
    let place = Place::with_repository();
    place.copal("list repo").ok();
    assert_eq!(place.copal("list repo --json").ok().json()["archives"], serde_json::json!([]));
}

#[test]
fn a_table_for_people() {
    let place = several();
    let text = place.copal("list repo").ok().text();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[0].split_whitespace().collect::<Vec<_>>(),
        ["NAME", "TIME", "(UTC)", "SIZE", "DATA", "ID"]
    );
    assert!(lines[1].starts_with("web01  2026-11-18 03:00:00Z  1000 B  1000 B  #"), "{text}");
    assert!(lines[3].starts_with("db01   2026-11-19 04:00:00Z  1002 B"), "{text}");
    assert_eq!(lines.len(), 5);
}

#[test]
fn json_for_programs() {
    let place = several();
    let listed = place.copal("list repo --json").ok().json();
    assert_eq!(listed["repository"].as_str().expect("id").len(), 32);
    let last = &listed["archives"][3];
    assert_eq!(
        (&last["name"], &last["time"], &last["size"]),
        (&"web01".into(), &"2026-11-20T03:00:00Z".into(), &1003.into())
    );
    assert_eq!(last["members"], serde_json::json!([{ "name": "disk.img", "size": 1003, "data": 1003 }]));
    assert_eq!(last["unconfirmed"], false);
}

#[test]
fn references_find_what_they_mean() {
    let place = several();
    for (reference, size) in [
        ("web01", 1003),
        ("web01~0", 1003),
        ("web01~1", 1001),
        ("web01~2", 1000),
        ("web01@2026-11-19", 1001),
        ("web01@2026-11-20T02:59", 1001),
        ("web01@20261120T030000Z", 1003),
        ("web01@2026-11-20 03:00:00Z", 1003),
        ("web01@2026-11-20T04:00:00+01:00", 1003),
        ("web01@2030-01-01", 1003),
        ("db*", 1002),
        ("?b01", 1002),
    ] {
        assert_eq!(size_of(&place, reference), size, "{reference}");
    }
    let listed = place.copal("list repo --json").ok().json();
    let id = listed["archives"][2]["id"].as_str().expect("an id");
    assert_eq!(size_of(&place, &format!("#{id}")), 1002);
    assert_eq!(size_of(&place, &format!("#{}", id[..12].to_uppercase())), 1002);
}

#[test]
fn a_time_as_the_list_shows_it_finds_that_archive() {
    let place = Place::with_archive();
    place.write("disk.img", b"newer");
    place.copal("create repo::web01 disk.img").ok();
    let text = place.copal("list repo").ok().text();
    let shown = text.lines().last().and_then(|line| line.get(7..27)).expect("a time").to_owned();
    assert_eq!(size_of(&place, &format!("web01@{shown}")), 5);
}

#[test]
fn lists_of_names_and_globs_hold_every_age() {
    let place = several();
    let count = |reference: &str| {
        place.copal("list --json").arg(reference).ok().json()["archives"].as_array().map(Vec::len)
    };
    assert_eq!(count("repo::web01"), Some(3));
    assert_eq!(count("repo::web01~1"), Some(1));
    assert_eq!(count("repo::*01"), Some(4));
    assert_eq!(count("repo::[d]*"), Some(1));
}

#[test]
fn what_fits_nothing_or_too_much_says_so() {
    let place = several();
    for command in ["info", "extract", "mount"] {
        let target = if command == "info" { None } else { Some("home") };
        let ask = |reference: &str| place.copal(command).arg(format!("repo::{reference}")).args(target);
        for unknown in ["web02", "web01~3", "web01@2026-11-17", "#ffffffffffffffffffffffffffffffff", "x*"] {
            ask(unknown).fails(&["no archive fits", "'copal list' shows what there is"]);
        }
        for bad in ["web01~x", "web01@noon", "#xyz", "~1", "#"] {
            ask(bad).fails(&["is no archive reference"]);
        }
        ask("*01").fails(&["\"*01\" fits 4 archives: ", "web01 (#", "db01 (#"]);
    }
    place.copal("list repo::web02").fails(&["no archive fits \"web02\""]);
    place.copal("list repo::").fails(&["it is empty; name an archive behind '::'"]);
    place.copal("list repo::[").fails(&["is no archive reference"]);
}

#[test]
fn an_id_that_fits_several_is_ambiguous() {
    let place = Place::with_repository();
    place.write("disk.img", b"x");
    // Seventeen ids begin with at most sixteen different digits.
    for _ in 0..17 {
        place.copal("create repo::x disk.img").ok();
    }
    let listed = place.copal("list repo --json").ok().json();
    let ids: Vec<String> = listed["archives"]
        .as_array()
        .expect("archives")
        .iter()
        .map(|a| a["id"].as_str().expect("id").to_owned())
        .collect();
    let digit = ids
        .iter()
        .map(|id| &id[..1])
        .find(|digit| ids.iter().filter(|id| id.starts_with(*digit)).count() > 1)
        .expect("two");
    place.copal(&format!("info repo::#{digit}")).fails(&["fits", "archives: x (#"]);
}

#[test]
fn a_reader_that_goes_away_is_told_nothing() {
    let place = several();
    for args in [
        "list repo",
        "list repo --json",
        "info repo",
        "info repo::db01 --json",
        "create repo::x disk.img --json",
        "extract repo::web01 --stdout",
    ] {
        let (reader, writer) = std::io::pipe().expect("pipe");
        drop(reader);
        let ended: Ended = place.copal(args).stdout(writer).end();
        assert_eq!((ended.code, ended.stderr.as_str()), (141, ""), "{args}");
    }
    place.shell("$COPAL list repo | head -n1").ok().prints(&["NAME"]);
}

#[test]
fn help_and_version_are_no_failure() {
    let place = Place::new();
    place.copal("--version").ok().prints(&["copal "]);
    place.copal("--help").ok().prints(&["COPAL_PASSPHRASE", "Exit codes", "mount"]);
    for command in [
        "init", "create", "list", "info", "extract", "mount", "umount", "delete", "undelete", "prune",
        "rename", "tag",
    ] {
        place.copal(&format!("{command} --help")).ok().prints(&["Example", "copal "]);
    }
    assert!(std::path::Path::new(COPAL).exists());
}

#[test]
fn archives_are_listed_without_a_look_at_each() {
    let place = several();
    let there = std::process::Command::new("strace").args(["-o", "/dev/null", "true"]).status();
    if !can("strace", there.is_ok_and(|status| status.success())) {
        return;
    }
    let listed =
        place.shell("exec strace -f -e trace=%file -o trace \"$COPAL\" list --json repo").ok().json();
    let trace = String::from_utf8(place.read("trace")).expect("text");
    let archives = listed["archives"].as_array().expect("a list");
    assert!(archives.len() == 4 && trace.contains("\"archives\""), "{trace}");
    for archive in archives {
        let id = archive["id"].as_str().expect("an id");
        let looks: Vec<&str> = trace.lines().filter(|line| line.contains(id)).collect();
        assert_eq!(looks, Vec::<&str>::new());
    }
}
