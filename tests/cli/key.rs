//! `copal key`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::support::{Place, Run};

/// A repository under the passphrase `old`, with an archive.
fn encrypted() -> Place {
    let place = Place::new();
    place.write("disk.img", b"contents");
    old(&place, "init repo").ok();
    old(&place, "create repo::x disk.img").ok();
    place
}

fn old(place: &Place, args: &str) -> Run {
    place.copal(args).env("COPAL_PASSPHRASE", "old")
}

fn opens(place: &Place, passphrase: &str) -> bool {
    place.copal("list repo").env("COPAL_PASSPHRASE", passphrase).end().code == 0
}

fn added(place: &Place, args: &str, new: &str) -> String {
    let made =
        old(place, &format!("key add repo --json {args}")).env("COPAL_NEW_PASSPHRASE", new).ok().json();
    made["slot"].as_str().expect("an id").to_owned()
}

/// The numbered lines of the paper form.
fn paper(place: &Place) -> Vec<String> {
    let text = old(place, "key export repo - --paper").ok().text();
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

#[test]
fn slots_are_listed_added_and_removed() {
    let place = encrypted();
    let second = added(&place, "--label night", "second");
    let listed = old(&place, "key list repo").ok();
    listed.prints(&[
        "ID",
        "Argon2id, 64.0 MiB, 3 passes, 4 lanes",
        "first",
        "(sealed)",
        "opened with your secret",
    ]);
    let json = old(&place, "key list repo --json").ok().json();
    let slots = json["slots"].as_array().expect("slots");
    assert_eq!(slots.len(), 2);
    for slot in slots {
        let ours = slot["opened"] == true;
        assert_eq!(slot["label"].as_str(), ours.then_some("first"), "{slot}");
        assert_eq!((slot["id"] == second.as_str(), &slot["derivation"]["kind"]), (!ours, &"argon2id".into()));
        assert_eq!((&slot["copies"][0], &slot["copies"][1]), (&true.into(), &true.into()));
    }
    let removed = old(&place, &format!("key remove repo {}", &second[..8])).ok();
    removed.prints(&["Removed key slot #", "Copies of the repository made before still open"]);
    assert!(opens(&place, "old") && !opens(&place, "second"));
}

#[test]
fn the_repository_may_come_from_the_environment() {
    let place = encrypted();
    let second = added(&place, "", "second");
    let with = |args: &str| old(&place, args).env("COPAL_REPO", "repo");
    with("key list").ok();
    with(&format!("key remove {second}")).ok();
    with("key export keys.txt").ok();
    old(&place, &format!("key remove {second}")).fails(&["no repository is named", "COPAL_REPO"]);
    old(&place, "key list repo::x").fails(&["takes a repository, without '::x'"]);
}

#[test]
fn the_slot_that_opens_is_not_removed() {
    let place = encrypted();
    let before = place.tree("repo");
    for name in ["first", "#"] {
        let words: &[&str] = if name == "first" {
            &["is the one that your secret opens", "key add", "key change-passphrase"]
        } else {
            &["no key slot fits", "key list"]
        };
        old(&place, &format!("key remove repo {name}")).fails(words);
    }
    assert_eq!(place.tree("repo"), before);
    let second = added(&place, "", "second");
    place.copal("key remove repo").arg(&second).env("COPAL_PASSPHRASE", "second").fails(&["the one that"]);
    place
        .copal("key remove repo night")
        .env("COPAL_PASSPHRASE", "second")
        .fails(&["other slots' labels are sealed"]);
}

#[test]
fn a_key_file_is_added_and_made_if_it_is_not_there() {
    let place = encrypted();
    let made = old(&place, "key add repo --new-key-file key").ok();
    made.prints(&["Made key file key.", "Made key slot #"]);
    assert_eq!(fs::metadata(place.path("key")).expect("stat").permissions().mode() & 0o777, 0o600);
    place.copal("list repo --key-file key").ok();
    let listed = place.copal("key list repo --key-file key").ok();
    listed.prints(&["key file"]);
    place.write("short", b"short");
    old(&place, "key add repo --new-key-file short").fails(&["key file short has 5 bytes"]);
}

#[test]
fn labels_are_checked_and_doubles_are_told() {
    let place = encrypted();
    old(&place, "key add repo --label").arg("a\nb").fails(&["label is malformed", "control character"]);
    let again = old(&place, "key add repo --label first").env("COPAL_NEW_PASSPHRASE", "x");
    again.warns(&["is called \"first\", too"]);
}

#[test]
fn a_passphrase_is_changed() {
    let place = encrypted();
    let change = |args: &str| old(&place, &format!("key change-passphrase repo {args}"));
    change("").env("COPAL_NEW_PASSPHRASE", "old").fails(&["the new secret is the old one"]);
    change("").env("COPAL_NEW_PASSPHRASE", "").fails(&["the new passphrase is empty", "nothing was changed"]);
    change("").fails(&[
        "no terminal to ask on",
        "COPAL_NEW_PASSPHRASE",
        "--new-passphrase-file",
        "--new-key-file",
    ]);
    place.copal("key change-passphrase repo").env("COPAL_PASSPHRASE", "wrong").fails(&["wrong passphrase"]);
    change("")
        .env("COPAL_NEW_PASSPHRASE", "new")
        .ok()
        .prints(&["replaces #", "still open with the old secret"]);
    assert!(opens(&place, "new") && !opens(&place, "old"));

    // As a script may, whose first run was cut off behind the change.
    change("").env("COPAL_NEW_PASSPHRASE", "new").ok().prints(&["Nothing to change"]);
    change("").env("COPAL_NEW_PASSPHRASE", "newer").fails(&["wrong passphrase"]);

    place.write("words", b"newest\n");
    place.copal("key change-passphrase repo --new-passphrase-file words").env("COPAL_PASSPHRASE", "new").ok();
    assert!(opens(&place, "newest") && !opens(&place, "new"));
    assert_eq!(place.tree("repo/keys").len(), 1);
    assert!(place.tree("repo/key-removals").iter().all(|(_, bytes)| bytes.is_none()));
    place.copal("extract repo::x out").env("COPAL_PASSPHRASE", "newest").ok();
    assert_eq!(place.read("out"), b"contents");
}

#[test]
fn a_wrong_passphrase_says_what_to_do() {
    let place = encrypted();
    let list = |passphrase| place.copal("key list repo").env("COPAL_PASSPHRASE", passphrase);
    list("wrong").fails(&["wrong passphrase", "caps lock", "--key-file", "copal key import"]);
}

#[test]
fn without_encryption_there_are_no_keys() {
    let place = Place::with_repository();
    for command in ["list repo", "add repo", "remove repo x", "change-passphrase repo", "export repo x"] {
        place.copal(&format!("key {command}")).fails(&["not encrypted: it has no key slots"]);
    }
    place.write("form", b"copal-recovery-keys 1\n");
    place.copal("key import repo form").fails(&["not encrypted"]);
    assert!(!place.path("x").exists());
}

#[test]
fn exported_keys_open_the_repository_when_every_slot_is_lost() {
    let place = encrypted();
    old(&place, "key export repo keys.txt").ok().prints(&["NOTHING PROTECTS THEM", "copal key import"]);
    assert_eq!(fs::metadata(place.path("keys.txt")).expect("stat").permissions().mode() & 0o777, 0o600);
    let lines = paper(&place);
    for folder in ["repo/keys", "repo/mirror/keys"] {
        fs::remove_dir_all(place.path(folder)).expect("rm");
    }
    old(&place, "list repo").fails(&["no readable key slot", "copal key import"]);
    let import = |source: &str, new: &str| {
        place.copal(&format!("key import repo {source} --label rescue")).env("COPAL_NEW_PASSPHRASE", new)
    };
    import("keys.txt", "from file").ok().prints(&["Made key slot #"]);
    // As somebody types it.
    let typed = lines.join("\n").to_lowercase().replace('0', "o").replace('1', "l");
    let typed: Vec<_> = (1..).zip(typed.lines()).map(|(n, line)| format!("{n}{}", &line[4..])).collect();
    import("-", "from paper").input(typed.join("\n").as_bytes()).ok();
    for passphrase in ["from file", "from paper"] {
        let out = place.copal("extract repo::x --stdout").env("COPAL_PASSPHRASE", passphrase).ok();
        assert_eq!(out.text(), "contents");
    }
}

#[test]
fn an_export_overwrites_nothing_and_stays_out_of_the_repository() {
    let place = encrypted();
    place.write("mine", b"mine");
    std::os::unix::fs::symlink("nowhere", place.path("link")).expect("symlink");
    for there in ["mine", "link"] {
        old(&place, &format!("key export repo {there}")).fails(&["exists; give the name of a new file"]);
    }
    assert_eq!(place.read("mine"), b"mine");
    old(&place, "key export repo repo/keys.txt").fails(&["lies in the repository"]);
    old(&place, "key export repo no/such/keys").fails(&["cannot write no/such/keys"]);
    place.copal("key export repo new").env("COPAL_PASSPHRASE", "wrong").fails(&["wrong passphrase"]);
    assert!(!place.path("new").exists());
}

#[test]
fn a_wrong_line_is_named_and_nothing_is_made() {
    let place = encrypted();
    let before = place.tree("repo/keys");
    let lines = paper(&place);
    let import = |lines: &[String]| {
        let run = place.copal("key import repo -").env("COPAL_NEW_PASSPHRASE", "new");
        run.input(lines.join("\n").as_bytes())
    };
    let changed = |from: char| if from == 'X' { "Y" } else { "X" };
    let mut slip = lines.clone();
    let at = slip[2].rfind(|c: char| c.is_ascii_alphanumeric()).expect("a character");
    let other = changed(char::from(slip[2].as_bytes()[at]));
    slip[2].replace_range(at..=at, other);
    import(&slip).fails(&["line 3: its checksum does not fit", "compare it with the paper"]);
    let mut odd = lines.clone();
    odd[1].replace_range(6..=6, "U");
    import(&odd).fails(&["line 2: character 1 is 'U', which no line has"]);
    import(&lines[..lines.len() - 1]).fails(&["is missing"]);
    import(&["hello".to_owned()]).fails(&["this is no recovery form"]);
    import(&[]).fails(&["this is no recovery form"]);
    assert_eq!(place.tree("repo/keys"), before);
}

#[test]
fn a_form_of_another_repository_is_refused_by_name() {
    let place = encrypted();
    old(&place, "init other").ok();
    old(&place, "key export other keys.txt").ok();
    let import = place.copal("key import repo keys.txt").env("COPAL_NEW_PASSPHRASE", "new");
    import.fails(&["the recovery form is of repository", "this is repository"]);
    // The same, with the right id, but other keys.
    let form = String::from_utf8(place.read("keys.txt")).expect("text");
    let id = |name: &str| old(&place, &format!("key list {name} --json")).ok().json()["repository"].clone();
    let [ours, theirs] = ["repo", "other"].map(|name| id(name).as_str().expect("an id").to_owned());
    place.write("forged", form.replace(&theirs, &ours).as_bytes());
    place
        .copal("key import repo forged")
        .env("COPAL_NEW_PASSPHRASE", "new")
        .fails(&["checksum over the whole form"]);
    assert!(!opens(&place, "new"));
}

#[test]
fn keys_and_new_secrets_appear_nowhere() {
    let place = encrypted();
    let secret = "new correct horse";
    let with = |args: &str| old(&place, args).env("COPAL_NEW_PASSPHRASE", secret).env("COPAL_LOG", "trace");
    let form = old(&place, "key export repo -").ok().text();
    let key = form.lines().find_map(|line| line.strip_prefix("master 1 ")).expect("a key").to_owned();
    place.write("keys.txt", form.as_bytes());
    place.write("bad.txt", form.replace("checksum ", "checksum 0").as_bytes());
    let outputs = [
        with("key add repo --json").end(),
        with("key list repo").end(),
        with("key export repo out.txt").end(),
        with("key import repo keys.txt").end(),
        with("key import repo bad.txt").end(),
        with("key change-passphrase repo").end(),
    ];
    for output in &outputs {
        let said = format!("{output}");
        assert!(!said.contains(secret) && !said.contains(&key), "{said}");
    }
    let holds = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    for folder in ["repo", "state", "home"] {
        for (path, bytes) in place.tree(folder) {
            let bytes = bytes.unwrap_or_default();
            assert!(!holds(&bytes, secret) && !holds(&bytes, &key), "{}", path.display());
        }
    }
}
