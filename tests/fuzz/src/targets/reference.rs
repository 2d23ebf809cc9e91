//! What users write: references to archives, globs, times.

use copal::format::catalogue::CatalogueEntry;
use copal::id::ArchiveId;
use copal::repository::archives::Archive;
use copal::repository::glob::Glob;
use copal::repository::reference::{Reference, format_time, parse_moment, parse_time};

use crate::samples::{archive_name, record};

thread_local! {
    static ARCHIVES: Vec<Archive> = ["web01", "web01", "b\u{fc}ro"].iter().zip(1..).map(|(name, id)| archive(name, id)).collect();
}

fn archive(name: &str, id: u8) -> Archive {
    let entry = CatalogueEntry::of(ArchiveId([id; 16]), &record());
    Archive {
        entry,
        name: archive_name(name),
        tags: vec![],
        comment: String::new(),
        unconfirmed: false,
        doubtful: false,
        deleted: None,
    }
}

pub(super) fn reference(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let Ok(reference) = Reference::parse(text) else { return false };
    assert!(reference.plain_name().is_none_or(|name| !name.is_empty()));
    ARCHIVES.with(|archives| {
        let matched = reference.matches(archives).map_or(0, |found| found.len());
        assert!(reference.resolve(archives).is_err() || matched > 0, "what resolves is among what matches");
    });
    true
}

pub(super) fn reference_seeds() -> Vec<Vec<u8>> {
    [
        "web01",
        "web01~1",
        "web01@2026-11-19",
        "w?b*@2026-11-20T04:00:00+01:00",
        "#01",
        "[a-c]\u{fc}ro",
        "bu\u{308}ro",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// A pattern, a line feed, a name.
pub(super) fn glob(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let (pattern, name) = text.split_once('\n').unwrap_or((text, "web01"));
    let Some(glob) = Glob::parse(pattern) else {
        assert!(pattern.contains('['), "only a set can be left open");
        return false;
    };
    let matched = glob.matches(name);
    let plain = !pattern.contains(['*', '?', '[']);
    assert!(!plain || matched == (pattern == name), "a pattern without wildcards means itself");
    if let Some(either) = Glob::parse(&format!("*{pattern}*")) {
        assert!(!matched || either.matches(name), "more stars match no less");
    }
    true
}

pub(super) fn glob_seeds() -> Vec<Vec<u8>> {
    ["web*\nweb01", "B?ro\nB\u{fc}ro", "*a*b\nxaxbxb", "[!a-cx]1\nd1", "[]]*[a-]\n]x-"]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}

pub(super) fn time(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let Ok(moment) = parse_moment(text) else {
        assert!(parse_time(text).is_err());
        return false;
    };
    assert!(parse_time(text).is_ok_and(|end| end >= moment));
    let shown = format_time(moment);
    let again = parse_moment(&shown).expect("what is shown is understood");
    assert!(moment.abs_diff(again) < 1_000_000_000, "{text:?} shown as {shown} is another time");
    true
}

pub(super) fn time_seeds() -> Vec<Vec<u8>> {
    [
        "2026-11-20",
        "2026-11-20T03:00",
        "20261120T030000Z",
        "2026-11-20T04:00:00.123456789+01:00",
        "2026-11-19 03:00:00Z",
        "1969-12-31T23:59:59Z",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
