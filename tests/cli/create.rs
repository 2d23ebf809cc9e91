//! `copal create`: its options, and what it prints.

use super::support::{Place, noise};

#[test]
fn it_is_silent_unless_asked() {
    let place = Place::with_archive();
    let silent = place.copal("create repo::web01 disk.img").ok();
    assert!(silent.stdout.is_empty(), "{silent}");
    place.write("new.img", &noise(2, 200_000));
    let stats = place.copal("create repo::web01 new.img --stats").ok();
    stats.prints(&[
        "Archive   web01 #",
        "Size      195.3 KiB, of which 195.3 KiB in data",
        "Read ",
        "Chunks ",
        "Stored ",
    ]);
}

#[test]
fn json_is_one_document() {
    let place = Place::with_repository();
    place.write("disk.img", &noise(1, 300_000));
    let first = place.copal("create repo::web01 disk.img --json --stats").ok().json();
    assert_eq!(
        (&first["name"], &first["size"], &first["data"]),
        (&"web01".into(), &300_000.into(), &300_000.into())
    );
    assert_eq!((&first["read"], &first["new_plain"]), (&300_000.into(), &300_000.into()));
    assert_eq!((&first["dry_run"], &first["warnings"]), (&false.into(), &serde_json::json!([])));
    assert_eq!(first["id"].as_str().expect("an id").len(), 32);
    let second = place.copal("create repo::web01 disk.img --json").ok().json();
    assert_eq!((&second["new_chunks"], &second["new_stored"]), (&0.into(), &0.into()));
    assert_eq!(second["reused_chunks"], first["new_chunks"]);
}

#[test]
fn a_dry_run_changes_no_byte() {
    let place = Place::with_archive();
    place.write("new.img", &noise(2, 200_000));
    let (repository, state) = (place.tree("repo"), place.tree("state"));
    place.copal("create repo::web01 new.img --dry-run").ok().prints(&["Dry run   web01: nothing was stored"]);
    let counted = place.copal("create repo::new new.img -n --json").ok().json();
    assert_eq!((&counted["id"], &counted["dry_run"]), (&serde_json::Value::Null, &true.into()));
    assert_eq!(counted["new_plain"], 200_000);
    assert_eq!(place.copal("create repo::web01 disk.img -n --json").ok().json()["new_chunks"], 0);
    assert_eq!(place.tree("repo"), repository);
    assert_eq!(place.tree("state"), state);
}

#[test]
fn words_tags_and_the_time_are_kept() {
    let place = Place::with_archive();
    place
        .copal("create repo::old disk.img --tag weekly --tag köln --timestamp 2025-03-01T02:00 --comment")
        .arg("before the\nupgrade")
        .ok();
    let info = place.copal("info repo::old --json").ok().json();
    assert_eq!(info["time"], "2025-03-01T02:00:00Z");
    assert_eq!(info["tags"], serde_json::json!(["weekly", "köln"]));
    assert_eq!(info["comment"], "before the\nupgrade");
    let shown = [
        "Time         2025-03-01 02:00:00Z",
        "Tags         weekly, köln",
        "Comment      before the\\nupgrade",
    ];
    place.copal("info repo::old").ok().prints(&shown);
    place.copal("list repo").ok().prints(&["[weekly] [köln] before the\\nupgrade"]);
    assert_eq!(place.archives(), ["old", "web01"], "in the order of their times");

    for (text, time) in [("2025-03-02", "2025-03-02T00:00:00Z"), ("20250302T010203Z", "2025-03-02T01:02:03Z")]
    {
        let created =
            place.copal(&format!("create repo::old disk.img --json --timestamp {text}")).ok().json();
        assert_eq!(created["time"], time);
    }
    let create = "create repo::old disk.img";
    place
        .copal(&format!("{create} --timestamp yesterday"))
        .fails(&["\"yesterday\" is no time", "2026-11-20T03:00"]);
    place.copal(&format!("{create} --tag a/b")).fails(&["\"a/b\" is not a usable name", "has a meaning"]);
    place
        .copal(&format!("{create} --comment"))
        .arg("x".repeat(5000))
        .fails(&["5000 bytes long, 4096 are allowed"]);
    place.copal(create).args(["--tag=x"; 65]).fails(&["65 tags are too many, 64 are allowed"]);
}

#[test]
fn compression_and_chunker_are_choices() {
    let place = Place::with_repository();
    place.write("text", &b"all work and no play ".repeat(20_000));
    let create = |args: &str| place.copal(&format!("create repo::text text --json {args}")).ok().json();
    let plain = create("--compression none --chunker fixed,64K");
    let packed = create("--compression zstd,19 --chunker fixed,128K");
    // All but equal chunks, stored as they are; the others small.
    assert!(plain["new_stored"].as_u64() > plain["new_plain"].as_u64(), "{plain}");
    assert!(packed["new_stored"].as_u64() < Some(10_000), "{packed}");
    for archive in ["text", "text~1"] {
        let out = place.copal(&format!("extract repo::{archive} --stdout")).ok();
        assert!(out.stdout == place.read("text"));
    }
    place
        .copal("create repo::x text --compression lz4")
        .fails(&["no compression; write zstd,1 to zstd,19 or none"]);
    place
        .copal("create repo::x text --chunker rabin,1M")
        .fails(&["no chunker; write fastcdc,32K or fixed,32K"]);
}

#[test]
fn what_is_missing_is_asked_for() {
    let place = Place::with_archive();
    place.copal("create repo::x").fails(&["[MEMBER=]SOURCE"]);
    place.copal("create repo disk.img").fails(&["name an archive as repo::ARCHIVE"]);
    place.copal("create repo:: disk.img").fails(&["name an archive as repo::ARCHIVE"]);
    place.copal("create ::x disk.img").fails(&["no repository is named", "COPAL_REPO"]);
    place.copal("create ::x disk.img").env("COPAL_REPO", "repo").ok();
    place.copal("create none::x disk.img").fails(&["there is no repository at none", "copal init"]);
    place.copal("create home::x disk.img").fails(&["home holds no Copal repository", "copal init"]);
    place.copal("create disk.img::x disk.img").fails(&["disk.img is not a directory, so no repository"]);
    place.copal("").fails(&["Usage: copal"]);
    place.copal("destroy").fails(&["unrecognized subcommand"]);
}

#[test]
fn a_failure_prints_no_json() {
    let place = Place::with_repository();
    for command in
        ["create repo::x none --json", "list repo::x --json", "info repo::x --json", "info repo::y --json"]
    {
        place.copal(command).fails(&["copal: "]);
    }
}

#[test]
fn a_source_is_never_taken_for_a_program() {
    let place = Place::with_repository();
    place.write("a.img", b"data");
    place.copal("create repo::x a.img --command -- echo hi").fails(&["cannot be used with"]);
    place.copal("create repo::x --command").fails(&["program"]);
    place.copal("create repo::x a.img -- echo").fails(&["--command"]);
    place.copal("create repo::x --command -- echo hi").ok();
    assert_eq!(place.archives(), ["x"]);
}
