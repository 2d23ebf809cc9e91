//! Repositories that are damaged, incomplete, or of the future.

use std::fs;

use super::support::Place;

const CONFIGS: [&str; 2] = ["repo/config", "repo/mirror/config"];

fn patch(place: &Place, file: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = place.read(file);
    change(&mut bytes);
    // The checksum at its end: whoever writes a version of the future writes that too.
    let end = bytes.len() - 16;
    let sum = blake3::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(&sum.as_bytes()[..16]);
    place.write(file, &bytes);
}

fn all_commands(place: &Place, words: &[&str]) {
    for command in [
        "list repo",
        "info repo",
        "info repo::web01",
        "create repo::web01 disk.img",
        "extract repo::web01 out.img",
        "mount repo home",
    ] {
        place.copal(command).fails(words);
    }
    assert!(!place.path("out.img").exists());
}

#[test]
fn a_version_of_the_future_is_named() {
    let place = Place::with_archive();
    CONFIGS.iter().for_each(|config| patch(&place, config, |bytes| bytes[8] = 7));
    let before = place.tree("repo");
    all_commands(&place, &["config has version 7; this Copal reads version 1: use a newer one"]);
    assert_eq!(place.tree("repo"), before);
}

#[test]
fn an_unknown_feature_is_named_by_its_bit() {
    let place = Place::with_archive();
    CONFIGS.iter().for_each(|config| patch(&place, config, |bytes| bytes[16] = 0b10_0001));
    all_commands(&place, &["features that this Copal does not know (bits [0, 5])", "use a newer one"]);
}

#[test]
fn one_damaged_config_is_a_warning() {
    for change in ["flip", "cut", "remove", "empty"] {
        let place = Place::with_archive();
        let mut bytes = place.read("repo/config");
        match change {
            "flip" => bytes[60] ^= 1,
            "cut" => bytes.truncate(70),
            _ => bytes.clear(),
        }
        place.write("repo/config", &bytes);
        if change == "remove" {
            fs::remove_file(place.path("repo/config")).expect("remove");
        }
        let words = ["config", "read from its second copy"];
        place.copal("list repo").warns(&words).prints(&["web01"]);
        place.copal("create repo::web01 disk.img").warns(&words);
        place.copal("extract repo::web01 --stdout").warns(&words);
        fs::remove_file(place.path("repo/mirror/config")).expect("remove");
        if change == "remove" {
            all_commands(&place, &["config is gone from both its places", "restore the file 'config'"]);
        } else {
            all_commands(
                &place,
                &["the config of the repository in repo is damaged", "no whole second copy"],
            );
        }
    }
}

#[test]
fn two_damaged_configs_are_an_error() {
    let place = Place::with_archive();
    for config in CONFIGS {
        let mut bytes = place.read(config);
        bytes[60] ^= 1;
        place.write(config, &bytes);
    }
    let words = [
        "the config of the repository in repo is damaged",
        "restore the file 'config'",
        "its checksum does not fit",
    ];
    all_commands(&place, &words);
    fs::remove_file(place.path("repo/config")).expect("remove");
    all_commands(&place, &words);
}

#[test]
fn what_is_no_repository_says_so() {
    let place = Place::with_archive();
    let refused = |at: &str, words: &[&str]| {
        for command in ["list", "info"] {
            place.copal(command).arg(at).fails(words);
        }
        place.copal("mount").arg(at).arg("mnt").fails(words);
    };
    fs::create_dir(place.path("mnt")).expect("mkdir");
    refused("none", &["there is no repository at none: no such directory", "copal init"]);
    refused("home", &["home holds no Copal repository", "copal init"]);
    refused("disk.img", &["disk.img is not a directory, so no repository"]);
}

#[test]
fn missing_keys_say_what_to_restore() {
    let place = Place::new();
    place.copal("init repo").env("COPAL_PASSPHRASE", "s").ok();
    let list = || place.copal("list repo").env("COPAL_PASSPHRASE", "s");
    fs::rename(place.path("repo/keys"), place.path("keys")).expect("rename");
    list().warns(&["key slot keys/", "read from its second copy"]);
    fs::remove_dir_all(place.path("repo/mirror/keys")).expect("remove");
    list().fails(&["has no readable key slot", "restore its 'keys' folder from a copy"]);
    fs::rename(place.path("keys"), place.path("repo/keys")).expect("rename");
    list().ok();
    for (path, bytes) in place.tree("repo/keys") {
        let mut bytes = bytes.expect("a file");
        bytes[80] ^= 1;
        fs::write(path, bytes).expect("write");
    }
    list().fails(&["key slot", "has no readable key slot"]);
}

#[test]
fn a_damaged_record_is_told_and_the_others_are_shown() {
    let place = Place::with_archive();
    place.copal("create repo::db01 disk.img").ok();
    let id = place.copal("info repo::web01 --json").ok().json()["id"].as_str().expect("an id").to_owned();
    fs::write(place.path(format!("repo/archives/{id}")), b"x").expect("write");
    place.copal("info repo::web01").warns(&["archives/", "read from its second copy"]);
    fs::write(place.path(format!("repo/mirror/archives/{id}")), b"x").expect("write");
    place.copal("info repo::web01").fails(&["archives/", "damaged"]);
    place.copal("extract repo::db01 out.img").ok();
    for catalogue in ["repo/catalogue", "repo/mirror/catalogue"] {
        fs::remove_dir_all(place.path(catalogue)).expect("remove");
    }
    let listed = place.copal("list repo --json --trust-changed").end();
    assert_eq!(listed.code, 1, "{listed}");
    assert_eq!(listed.json()["archives"].as_array().map(Vec::len), Some(1));
    listed.says(&[&format!("archive {id} cannot be shown"), "damaged"]);
}
