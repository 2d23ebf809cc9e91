//! `copal copy`: from one repository to another, each with its own secret.

use std::fs;

use super::support::{Place, noise};

const SECRET: &str = "correct horse";
const OTHER: &str = "battery staple";

/// A place with two archives in `repo`, and an empty `offsite` under a passphrase.
fn with_offsite() -> Place {
    let place = Place::with_archive();
    place.write("b.img", &noise(2, 200_000));
    place.copal("create repo::db01 b.img --comment nightly --tag weekly").ok();
    place.copal("init offsite").env("COPAL_PASSPHRASE", OTHER).ok();
    place
}

#[test]
fn all_archives_and_only_once() {
    let place = with_offsite();
    let before = place.tree("repo");
    let copy =
        |args: &str| place.copal(&format!("copy repo offsite {args}")).env("COPAL_TO_PASSPHRASE", OTHER);
    copy("--dry-run")
        .ok()
        .prints(&["Would copy  web01 #", "2 would be copied, 0 are there already, 0 left out"]);
    copy("").ok().prints(&[
        "Copied  web01 #",
        "Copied  db01 #",
        "2 copied, 0 were there already, 0 left out",
    ]);
    copy("").ok().prints(&["0 copied, 2 were there already, 0 left out"]);
    assert!(place.tree("repo") == before, "the source is only read");

    let offsite = |args: &str| place.copal(args).env("COPAL_PASSPHRASE", OTHER);
    let listed = offsite("list offsite --json").ok().json();
    let [web, db] = &listed["archives"].as_array().expect("archives")[..] else { panic!("{listed}") };
    assert_eq!((&web["name"], &db["name"]), (&"web01".into(), &"db01".into()));
    assert_eq!((&db["comment"], &db["tags"][0]), (&"nightly".into(), &"weekly".into()));
    let origin = place.copal("info repo::web01 --json").ok().json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(web["origin"]["archive"], origin.as_str());
    offsite("info offsite::web01").ok().prints(&[&format!("Copy of      #{origin} in repository ")]);
    offsite("extract offsite::web01 out.img").ok();
    offsite("extract offsite::db01 b2.img").ok();
    assert!(place.read("out.img") == place.read("disk.img") && place.read("b2.img") == place.read("b.img"));
    place.assert_no_leftovers();
}

#[test]
fn chosen_archives() {
    let place = with_offsite();
    place.copal("create repo::web01 b.img").ok();
    place.copal("init near --encryption none").ok();
    let copied = |args: &str| {
        let json = place.copal(&format!("copy {args} --json")).ok().json();
        assert_eq!(json["complete"], true);
        let archives = json["archives"].as_array().expect("archives").clone();
        archives.iter().filter(|archive| archive["outcome"] == "copied").count()
    };
    assert_eq!(copied("repo::web01~1 near"), 1);
    assert_eq!(copied("repo::web01 near"), 1, "a name means all of that name");
    assert_eq!(copied("repo::*01 near"), 1);
    assert_eq!(copied("repo near"), 0);
    place.copal("copy repo::none near").fails(&["no archive fits \"none\""]);
    place.copal("copy repo::web01~7 near").fails(&["no archive fits"]);
    place.copal("copy repo near::web01").fails(&["takes a repository, without '::web01'"]);
    place.copal("copy repo").fails(&["required arguments", "<DST>"]);
}

#[test]
fn each_repository_has_its_own_secret() {
    let place = Place::new();
    place.write("disk.img", &noise(1, 10_000));
    place.write("key", &[1; 32]);
    place.write("pass", OTHER.as_bytes());
    place.copal("init repo").env("COPAL_PASSPHRASE", SECRET).ok();
    place.copal("create repo::x disk.img").env("COPAL_PASSPHRASE", SECRET).ok();
    place.copal("init offsite").env("COPAL_PASSPHRASE", OTHER).ok();
    place.copal("init keyed --encryption keyfile --key-file key").ok();
    let copy = |args: &str| place.copal(&format!("copy {args}")).env("COPAL_PASSPHRASE", SECRET);
    copy("repo offsite").fails(&["Passphrase for offsite", "COPAL_TO_PASSPHRASE", "--to-passphrase-file"]);
    copy("repo offsite").env("COPAL_TO_PASSPHRASE", SECRET).fails(&["wrong passphrase"]);
    copy("repo offsite --to-key-file none").fails(&["cannot open key file none"]);
    copy("repo offsite").env("COPAL_TO_PASSCOMMAND", "'x").fails(&["COPAL_TO_PASSCOMMAND is empty"]);
    copy("repo offsite --to-passphrase-file pass").ok();
    copy("repo offsite").env("COPAL_TO_PASSCOMMAND", "cat pass").ok();
    copy("repo keyed --to-key-file key").ok();
    copy("repo keyed").env("COPAL_TO_KEY_FILE", "key").ok();
    let back = place.copal("copy offsite repo --passphrase-file pass").env("COPAL_TO_PASSPHRASE", SECRET);
    back.ok().prints(&["0 copied, 1 were there already"]);
}

#[test]
fn a_repository_is_not_copied_to_itself() {
    let place = Place::with_archive();
    let words = ["both are repository", "give another repository to copy to"];
    place.copal("copy repo repo").fails(&words);
    place.shell("cp -a repo twin").ok();
    place.copal("copy repo twin").fails(&words);
    place.copal("copy repo nowhere").fails(&["there is no repository at nowhere"]);
}

#[test]
fn a_damaged_archive_is_left_out_and_said() {
    let place = with_offsite();
    let damaged = place.tree("repo/packs").into_iter().find_map(|(path, bytes)| {
        let mut bytes = bytes.filter(|bytes| bytes.len() > 250_000)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).ok()
    });
    damaged.expect("the pack of web01");
    let copy = place.copal("copy repo offsite").env("COPAL_TO_PASSPHRASE", OTHER).end();
    assert_eq!(copy.code, 1, "{copy}");
    copy.says(&["web01 #", "is damaged and was not copied: bytes ", "of disk.img cannot be read", "chunk"])
        .prints(&["Copied  db01", "1 copied, 0 were there already, 1 left out"]);
    let listed = place.copal("list offsite --json").env("COPAL_PASSPHRASE", OTHER).ok().json();
    assert_eq!(listed["archives"].as_array().map(Vec::len), Some(1));
}

#[test]
fn both_are_remembered() {
    let place = with_offsite();
    let copy =
        |args: &str| place.copal(&format!("copy repo offsite {args}")).env("COPAL_TO_PASSPHRASE", OTHER);
    copy("").ok();
    fs::rename(place.path("offsite"), place.path("mine")).expect("rename");
    place.copal("init other --encryption none").ok();
    fs::rename(place.path("other"), place.path("offsite")).expect("rename");
    let swapped = ["offsite held repository", "--trust-changed"];
    copy("").fails(&swapped);
    place.copal("copy repo offsite").fails(&swapped);
    place.copal("copy repo offsite --to-trust-changed").ok();
    assert_eq!(place.archives(), ["web01", "db01"]);
}
