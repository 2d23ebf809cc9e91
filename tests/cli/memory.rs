//! What this machine remembers of a repository: swaps, downgrades and rollbacks are refused until they are trusted.

use std::fs;

use super::support::{Place, tool};

const SECRET: &str = "the passphrase";

fn refused_then_trusted(place: &Place, words: &[&str]) {
    for command in [
        "list repo",
        "info repo",
        "create repo::web01 disk.img",
        "extract repo::web01 out",
        "mount repo home",
    ] {
        place.copal(command).fails(words);
    }
    assert!(!place.path("out").exists());
    place.copal("list repo --trust-changed").ok();
    place.copal("list repo").ok();
}

#[test]
fn a_swapped_repository() {
    let place = Place::with_archive();
    fs::rename(place.path("repo"), place.path("mine")).expect("rename");
    place.copal("init other --encryption none").ok();
    fs::rename(place.path("other"), place.path("repo")).expect("rename");
    refused_then_trusted(&place, &["it was replaced, or another disk is mounted there", "--trust-changed"]);
    place.copal("list mine").ok().prints(&["web01"]);
}

#[test]
fn a_rolled_back_repository() {
    let place = Place::with_archive();
    tool(
        "cp",
        &["-a", place.path("repo").to_str().expect("text"), place.path("old").to_str().expect("text")],
    );
    place.copal("create repo::web01 disk.img").ok();
    fs::remove_dir_all(place.path("repo")).expect("remove");
    fs::rename(place.path("old"), place.path("repo")).expect("rename");
    refused_then_trusted(&place, &["lacks archive", "(web01, ", "it was rolled back", "--trust-changed"]);
}

#[test]
fn a_name_that_vanished() {
    let place = Place::with_archive();
    tool(
        "cp",
        &["-a", place.path("repo").to_str().expect("text"), place.path("old").to_str().expect("text")],
    );
    place.copal("create repo::db01 disk.img").ok();
    place.copal("list repo").ok();
    fs::remove_dir_all(place.path("repo")).expect("remove");
    fs::rename(place.path("old"), place.path("repo")).expect("rename");
    refused_then_trusted(&place, &["lacks archive", "(db01, "]);
}

/// A repository that says it has the id of the one at `repo`, but is not encrypted.
fn downgrade(place: &Place) {
    use copal::format::config::{ChunkerParams, ConfigBody, ConfigHeader, EncryptionMode, SealedConfig};
    let known = SealedConfig::from_bytes(&place.read("repo/config")).expect("a config").header;
    let header = ConfigHeader { encryption: EncryptionMode::None, ..known };
    let keys = copal::codec::keys::KeySet::public(&known.repository);
    let keyring = copal::codec::keys::Keyring::new(known.repository, &keys, 1);
    let body = ConfigBody {
        generation: 1,
        created: 0,
        chunker: ChunkerParams::fastcdc(64 << 10),
        span_shift: 24,
        pack_size: 24 << 20,
        mirror: true,
        reserve: 0,
        generator: "an attacker".into(),
    };
    fs::remove_dir_all(place.path("repo")).expect("remove");
    fs::create_dir(place.path("repo")).expect("mkdir");
    place.write("repo/config", &SealedConfig::seal(header, &body, &keyring).expect("seal"));
}

#[test]
fn a_repository_that_is_no_longer_encrypted() {
    let place = Place::new();
    place.write("disk.img", b"secret");
    place.copal("init repo").env("COPAL_PASSPHRASE", SECRET).ok();
    downgrade(&place);
    let words = ["was encrypted and now says it is not", "do not back up to it", "--trust-changed"];
    for command in ["list repo", "create repo::web01 disk.img", "extract repo::x out", "mount repo home"] {
        place.copal(command).fails(&words);
        place.copal(command).env("COPAL_PASSPHRASE", SECRET).fails(&words);
    }
    assert_eq!(place.tree("repo").len(), 1, "nothing was sent there");
    place.copal("list repo --trust-changed").ok();
    place.copal("list repo").ok();
}

#[test]
fn a_secret_for_an_open_repository_is_suspicious_at_first_sight() {
    let place = Place::with_archive();
    fs::remove_dir_all(place.path("state")).expect("remove");
    place.write("key", &[1; 32]);
    let words = [
        "a passphrase or key file was given",
        "is not encrypted",
        "somebody may have replaced it",
        "take the secret away",
    ];
    for command in ["list repo", "create repo::web01 disk.img", "mount repo home"] {
        place.copal(command).env("COPAL_PASSPHRASE", SECRET).fails(&words);
        place.copal(command).arg("--key-file=key").fails(&words);
        place.copal(command).env("COPAL_PASSCOMMAND", "touch ran").fails(&words);
    }
    assert!(!place.path("ran").exists(), "no secret is fetched for it");
    assert!(!place.path("state").exists());
    place.copal("list repo").ok();
}

#[test]
fn a_repository_may_move() {
    let place = Place::with_archive();
    fs::rename(place.path("repo"), place.path("moved")).expect("rename");
    place.copal("create moved::web01 disk.img").ok();
    fs::rename(place.path("moved"), place.path("repo")).expect("rename");
    place.copal("list repo").ok();
}

#[test]
fn a_memory_that_cannot_be_kept_is_a_warning() {
    let place = Place::with_archive();
    let words = ["cannot remember this repository in", "a later swap or rollback will go unnoticed"];
    for command in
        ["list repo", "create repo::web01 disk.img", "extract repo::web01 out", "init new --encryption none"]
    {
        place.copal(command).env("COPAL_STATE_DIR", "/proc/no/state").warns(&words);
    }
    place.write("file", b"");
    place.copal("list repo").env("COPAL_STATE_DIR", place.path("file")).warns(&words);
}

#[test]
fn a_damaged_memory_is_a_warning_and_mended() {
    let place = Place::with_archive();
    for (path, _) in place.tree("state") {
        fs::write(path, b"{").expect("write");
    }
    place.copal("list repo").warns(&["cannot be read and is ignored"]);
    place.copal("list repo").ok();
}

#[test]
fn memories_are_where_the_environment_says() {
    let place = Place::with_archive();
    let run = |script: &str| place.shell(&format!("unset COPAL_STATE_DIR; {script} $COPAL list repo")).ok();
    run("XDG_STATE_HOME=$PWD/xdg");
    assert_eq!(place.tree("xdg/copal").len(), 2);
    run("");
    assert_eq!(place.tree("home/.local/state/copal").len(), 2);
}
