//! Names of archives and members.

use super::support::Place;

const MEANING: &str = "has a meaning in paths or references";

#[test]
fn each_rule_of_the_grammar_says_what_is_wrong() {
    let place = Place::with_archive();
    let long = "長".repeat(67);
    let cases = [
        ("a/b", MEANING),
        ("a@b", MEANING),
        ("a~1", MEANING),
        ("#a", MEANING),
        ("web*", MEANING),
        ("a?", MEANING),
        ("a[b", MEANING),
        (".hidden", "it begins with a dot"),
        (" a", "begins or ends with white space"),
        ("a\t", "begins or ends with white space"),
        ("a\u{7}b", "is a control character"),
        ("a\u{2028}b", "is a control character"),
        (&long, "201 bytes long, 200 are allowed"),
    ];
    let before = place.tree("repo");
    for (name, rule) in cases {
        let words = ["is not a usable name", rule];
        let archive = place.copal("create").arg(format!("repo::{name}")).arg("disk.img").fails(&words);
        assert!(!archive.stderr.contains('\u{7}'), "{archive}");
        if !name.contains('/') {
            place.copal("create repo::x").arg(format!("{name}=disk.img")).fails(&words);
        }
        place.copal("create repo::x disk.img --tag").arg(name).fails(&words);
    }
    assert_eq!(place.tree("repo"), before);
    let binary = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"repo::\xff");
    place.copal("create").arg(binary).arg("disk.img").fails(&["always text in UTF-8"]);
}

#[test]
fn composed_and_decomposed_names_are_the_same() {
    let place = Place::with_archive();
    place.copal("create").arg("repo::Bu\u{308}ro").arg("e\u{301}=disk.img").ok();
    for name in ["B\u{fc}ro", "Bu\u{308}ro", "B?ro", "Bu\u{308}*", "Bu\u{308}ro~0"] {
        let listed = place.copal("list --json").arg(format!("repo::{name}")).ok().json();
        assert_eq!(listed["archives"][0]["name"], "B\u{fc}ro", "{name}");
    }
    for member in ["\u{e9}", "e\u{301}"] {
        let out = place.copal("extract --stdout --member").arg(member).arg("repo::Bu\u{308}ro").ok();
        assert!(out.stdout == place.read("disk.img"));
    }
    let twice = place.copal("create repo::x").arg("e\u{301}=disk.img").arg("\u{e9}=disk.img");
    twice.fails(&["two sources would be called \u{e9}"]);
}

#[test]
fn names_of_every_script_work() {
    let place = Place::with_archive();
    for name in ["web01", "日本語", "שלום", "😀", "a:b", "x..y", "a b", "C\\D", "-x", "%s", "$(x)"] {
        place.copal("create").arg(format!("repo::{name}")).arg("disk.img").ok();
        place.copal("list").arg(format!("repo::{name}")).ok().prints(&[name]);
        place.copal("extract --force").arg(format!("repo::{name}")).arg("out").ok();
    }
}
