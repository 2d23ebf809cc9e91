//! `copal init`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::support::Place;

#[test]
fn a_used_directory_is_refused_and_left_alone() {
    let place = Place::new();
    fs::create_dir(place.path("used")).expect("mkdir");
    place.write("used/notes", b"mine");
    let before = place.tree("used");
    for args in ["--encryption none", "--encryption keyfile --key-file key", ""] {
        let refused = place.copal("init used").args(args.split_whitespace()).env("COPAL_PASSPHRASE", "");
        let refused = if args.is_empty() { refused } else { place.copal(&format!("init used {args}")) };
        refused.fails(&["used is not empty", "new or empty directory", "nothing was changed"]);
    }
    assert_eq!(place.tree("used"), before);
    assert!(!place.path("key").exists(), "no key file is made for nothing");
}

#[test]
fn a_repository_is_not_made_twice() {
    let place = Place::with_archive();
    let before = place.tree("repo");
    place.copal("init repo --encryption none").fails(&["repo is not empty"]);
    assert_eq!(place.tree("repo"), before);
}

#[test]
fn an_empty_directory_or_a_new_filesystem_will_do() {
    let place = Place::new();
    fs::create_dir_all(place.path("disk/lost+found")).expect("mkdir");
    place.copal("init disk --encryption none").ok();
    place.copal("list disk").ok();
    place.copal("init --encryption none").env("COPAL_REPO", "other").ok();
    place.copal("list other").ok();
}

#[test]
fn places_that_cannot_hold_a_repository_say_why() {
    let place = Place::new();
    place.write("file", b"");
    for encryption in ["--encryption none", "--encryption keyfile --key-file key"] {
        let init = |at: &str| place.copal(&format!("init {at} {encryption}"));
        init("no/such/repo").fails(&["no/such/repo", "directory above it does not exist; make that first"]);
        init("file").fails(&["file is not a directory"]);
        init("file/repo").fails(&["file/repo", "directory above it does not exist"]);
        init("repo::web01").fails(&["takes a repository, without '::web01'"]);
        init("").fails(&["no repository is named", "COPAL_REPO"]);
    }
    assert!(!place.path("key").exists());
}

#[test]
fn it_says_what_to_keep_safe() {
    let place = Place::new();
    let passphrase = place.copal("init a").env("COPAL_PASSPHRASE", "s").ok();
    passphrase.prints(&[
        "Made repository",
        "Keep the passphrase safe",
        "apart from this machine",
        "nothing can bring it back",
    ]);
    let key = place.copal("init b --encryption keyfile --key-file key").ok();
    key.prints(&["Made key file key.", "Keep a copy of the key file safe", "nothing can bring it back"]);
    place.copal("init c --encryption none").ok().prints(&["NOT encrypted"]);
}

#[test]
fn only_the_owner_enters() {
    let place = Place::new();
    place.copal("init repo --encryption keyfile --key-file key").ok();
    let mode = |name: &str| fs::metadata(place.path(name)).expect("stat").permissions().mode() & 0o7777;
    assert_eq!(mode("repo"), 0o700);
    assert_eq!(mode("repo/config"), 0o600);
    assert_eq!(mode("key"), 0o600);
}

#[test]
fn an_existing_key_file_is_used_as_it_is() {
    let place = Place::new();
    place.write("key", &[7; 40]);
    let made = place.copal("init repo --encryption keyfile --key-file key").ok();
    assert!(!made.text().contains("Made key file"), "{made}");
    assert_eq!(place.read("key"), [7; 40]);
    place.copal("list repo --key-file key").ok();
    place.write("short", &[7; 31]);
    let short = place.copal("init other --encryption keyfile --key-file short");
    short.fails(&["key file short has 31 bytes", "32 to 1048576"]);
    assert!(!place.path("other").exists());
}

#[test]
fn secrets_that_do_not_fit_the_encryption_are_refused() {
    let place = Place::new();
    place.write("key", &[7; 40]);
    place.write("pass", b"s\n");
    let none = "init repo --encryption none";
    place
        .copal(none)
        .env("COPAL_PASSPHRASE", "s")
        .fails(&["a secret was given together with --encryption none"]);
    place.copal(&format!("{none} --passphrase-file pass")).fails(&["take one of them away"]);
    place.copal(&format!("{none} --key-file key")).fails(&["take one of them away"]);
    place.copal("init repo --key-file key").fails(&["a key file was given; ask for --encryption keyfile"]);
    place.copal("init repo --encryption keyfile").fails(&["--encryption keyfile needs --key-file FILE"]);
    place.copal("init repo --key-file key --passphrase-file pass").fails(&["cannot be used with"]);
    assert!(!place.path("repo").exists());
}

#[test]
fn an_empty_passphrase_is_refused() {
    let place = Place::new();
    place.write("empty", b"\nsecond line\n");
    let words = ["the passphrase is empty", "--encryption none"];
    place.copal("init repo").env("COPAL_PASSPHRASE", "").fails(&words);
    place.copal("init repo --passphrase-file empty").fails(&words);
    place.copal("init repo").env("COPAL_PASSCOMMAND", "true").fails(&words);
    assert!(!place.path("repo").exists());
}

#[test]
fn without_terminal_or_secret_the_channels_are_named() {
    let place = Place::new();
    place.copal("init repo").fails(&[
        "no terminal to ask on",
        "COPAL_PASSPHRASE",
        "COPAL_PASSCOMMAND",
        "COPAL_PASSPHRASE_FD",
        "--passphrase-file",
        "--key-file",
    ]);
    assert!(!place.path("repo").exists());
}

#[test]
fn chunkers_are_checked() {
    let place = Place::new();
    for bad in ["rabin,64K", "fastcdc", "fastcdc,60K", "fixed,5000"] {
        place.copal("init repo --encryption none --chunker").arg(bad).fails(&["--chunker"]);
    }
    place.copal("init repo --encryption none --chunker fixed,128K").ok();
    place.copal("info repo").ok().prints(&["fixed, 128.0 KiB", "Encryption   none"]);
}

#[test]
fn small_objects_are_stored_once_if_asked() {
    let place = Place::new();
    place.copal("init repo --encryption none --no-mirror").ok();
    place.write("x", b"x");
    place.copal("create repo::x x").ok();
    assert!(!place.path("repo/mirror").exists());
    place.copal("list repo").ok();
}

#[test]
fn json_is_one_document() {
    let place = Place::new();
    let json = place.copal("init made --encryption keyfile --key-file key --json").ok().json();
    assert_eq!(json["encrypted"], true);
    assert_eq!(json["repository"].as_str().map(str::len), Some(32));
}
