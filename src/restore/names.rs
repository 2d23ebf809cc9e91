//! Names for what the destination cannot hold as it is called in the image. No I/O.
//!
//! A name is changed only if it has to be, and so that it can be read back: a byte that cannot stand becomes `%` and two hex digits, and so does every `%` of
//! such a name. A name that is too long keeps its beginning, behind which `%~` and 16 hex digits of its hash stand; so does one that became another's name. Of names
//! that are one where case is ignored, capitals are escaped. Whoever changes one says so.

use std::collections::{HashMap, HashSet};

/// The longest name that Linux knows, in bytes.
const MAX_NAME: usize = 255;
/// `%~` and digits.
const MARK: usize = 18;
/// What FAT and NTFS know for something else.
const RESERVED: &[u8] = b"\"*/:<>?\\|";
/// What Windows takes for devices, whatever stands behind a dot; those with a digit behind, too.
const DEVICES: [&[u8]; 4] = [b"con", b"prn", b"aux", b"nul"];
const NUMBERED: [&[u8]; 2] = [b"com", b"lpt"];

/// Whether Windows takes a name for that of a device.
fn is_device(name: &[u8]) -> bool {
    let stem = name.split(|byte| *byte == b'.').next().unwrap_or_default();
    let stem = stem.trim_ascii_end().to_ascii_lowercase();
    let is_number = |rest: &[u8]| matches!(rest, [b'0'..=b'9'] | [0xc2, 0xb9 | 0xb2 | 0xb3]);
    DEVICES.contains(&&stem[..])
        || NUMBERED.iter().any(|device| stem.strip_prefix(*device).is_some_and(is_number))
}

/// What no filesystem of Linux can hold, changed; `None` if the name can stand.
pub(super) fn possible(name: &[u8]) -> Option<Vec<u8>> {
    if matches!(name, b"" | b"." | b"..") {
        // The empty one becomes a lone sign, which nothing else does.
        return Some(if name.is_empty() { b"%".to_vec() } else { "%2e".repeat(name.len()).into_bytes() });
    }
    name.iter()
        .any(|byte| matches!(byte, b'/' | 0))
        .then(|| escaped(name, |byte, _| matches!(byte, b'/' | 0)))
}

/// What FAT, NTFS and filesystems of text can hold, too.
pub(super) fn portable(name: &[u8]) -> Vec<u8> {
    let wrong = unportable(name);
    escaped(name, |_, at| wrong[at])
}

/// The bytes of a name that FAT, NTFS and filesystems of text cannot hold, or not in that place.
fn unportable(name: &[u8]) -> Vec<bool> {
    let mut wrong: Vec<bool> =
        name.iter().map(|byte| *byte < b' ' || *byte == 0x7f || RESERVED.contains(byte)).collect();
    let mut at = 0;
    for chunk in name.utf8_chunks() {
        at += chunk.valid().len();
        wrong[at..at + chunk.invalid().len()].fill(true);
        at += chunk.invalid().len();
    }
    if let [first, ..] = &mut wrong[..] {
        *first |= is_device(name);
    }
    if let ([.., b'.' | b' '], [.., last]) = (name, &mut wrong[..]) {
        *last = true;
    }
    wrong
}

/// A character as it is where case is ignored, which may be several.
fn folded(c: char) -> impl Iterator<Item = char> {
    c.to_uppercase().flat_map(char::to_lowercase)
}

/// A name as it may be where case is ignored, and dots and blanks at the end. Different names may become one, although not all such filesystems take them for one.
fn fold(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        out.extend(chunk.valid().chars().flat_map(folded).collect::<String>().bytes());
        out.extend_from_slice(chunk.invalid());
    }
    out.truncate(out.iter().rposition(|byte| !matches!(byte, b'.' | b' ')).map_or(0, |last| last + 1));
    out
}

/// A name that stays apart where case is ignored: without what makes it another one's.
fn apart(name: &[u8]) -> Vec<u8> {
    let mut wrong = unportable(name);
    let mut at = 0;
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            if !folded(c).eq([c]) {
                wrong[at..at + c.len_utf8()].fill(true);
            }
            at += c.len_utf8();
        }
        at += chunk.invalid().len();
    }
    escaped(name, |_, at| wrong[at])
}

/// What is known of the names that come into one directory.
#[derive(Debug, Default)]
pub(super) struct Expected {
    /// Those that get another one, so that two do not become one.
    others: HashMap<Vec<u8>, Vec<u8>>,
    /// Those that look as if they had been changed, folded: nothing that is changed becomes one of them.
    taken: HashSet<Vec<u8>>,
}

impl Expected {
    /// More names come in. Whether the directory ignores case is asked only where it matters.
    pub(super) fn more<'n>(
        &mut self,
        names: impl Iterator<Item = &'n [u8]> + Clone,
        ignores_case: impl FnOnce() -> bool,
    ) {
        self.taken.extend(names.clone().filter(|name| name.contains(&b'%')).map(fold));
        let mut groups: HashMap<Vec<u8>, HashSet<&[u8]>> = HashMap::new();
        for name in names {
            groups.entry(fold(name)).or_default().insert(name);
        }
        groups.retain(|_, group| group.len() > 1);
        if !groups.is_empty() && ignores_case() {
            let clashing = groups.into_values().flatten();
            self.others.extend(clashing.map(|name| (name.to_vec(), apart(name))));
        }
    }

    /// What a name is tried as first.
    pub(super) fn first(&self, name: &[u8]) -> Vec<u8> {
        match self.others.get(name) {
            Some(other) if other == name => other.clone(),
            Some(other) => self.free(other.clone()),
            None => possible(name).map_or_else(|| name.to_vec(), |other| self.free(other)),
        }
    }

    /// A changed name that is no other's.
    pub(super) fn free(&self, other: Vec<u8>) -> Vec<u8> {
        if self.taken.contains(&fold(&other)) { short(&other) } else { other }
    }
}

/// A name that fits in `MAX_NAME` bytes, without cutting a character.
pub(super) fn short(name: &[u8]) -> Vec<u8> {
    let mut end = name.len().min(MAX_NAME - MARK);
    while end > 0 && name.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
        end -= 1;
    }
    let hash = blake3::hash(name).to_hex();
    [&name[..end], b"%~", &hash.as_bytes()[..16]].concat()
}

fn escaped(name: &[u8], is_wrong: impl Fn(u8, usize) -> bool) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, byte) in name.iter().enumerate() {
        if *byte == b'%' || is_wrong(*byte, at) {
            out.extend(format!("%{byte:02x}").bytes());
        } else {
            out.push(*byte);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_change_only_if_they_have_to() {
        for good in [&b"a"[..], b"100%", b"...", b" ", b"\xff", b"a\\b", b".hidden"] {
            assert_eq!(possible(good), None);
        }
        for (name, other) in [
            (&b""[..], "%"),
            (b".", "%2e"),
            (b"..", "%2e%2e"),
            (b"a/b%", "a%2fb%25"),
            (b"../../etc", "..%2f..%2fetc"),
            (b"a\0", "a%00"),
        ] {
            assert_eq!(possible(name), Some(other.as_bytes().to_vec()));
        }
    }

    #[test]
    fn portable_names_hold_nothing_special() {
        for (name, other) in [
            (&b"a:b?"[..], "a%3ab%3f"),
            (b"caf\xe9.", "caf%e9%2e"),
            ("Grüße ".as_bytes(), "Grüße%20"),
            (b"\x1b[0m%", "%1b[0m%25"),
            (b"CON", "%43ON"),
            (b"aux.tar.gz", "%61ux.tar.gz"),
            (b"lpt1 .txt", "%6cpt1 .txt"),
            ("Com\u{b9}".as_bytes(), "%43om\u{b9}"),
            (b"nul:", "nul%3a"),
            (b"console", "console"),
            (b"com.txt", "com.txt"),
            (b"LPT10", "LPT10"),
            (b".con", ".con"),
        ] {
            assert_eq!(portable(name), other.as_bytes());
        }
    }

    fn expected(names: &[&'static str], ignores_case: bool) -> Expected {
        let mut expected = Expected::default();
        expected.more(names.iter().map(|name| name.as_bytes()), || ignores_case);
        expected
    }

    #[test]
    fn names_that_are_one_where_case_is_ignored_stay_apart() {
        let names = ["Case", "case", "CASE", "x.", "x", "Ä", "ä", "ſ", "S", "Single", "a:B", "A:b"];
        let sensitive = expected(&names, false);
        assert!(names.iter().all(|name| sensitive.first(name.as_bytes()) == name.as_bytes()));
        let ignoring = expected(&names, true);
        let first = |name: &str| String::from_utf8(ignoring.first(name.as_bytes())).unwrap();
        let others = names.map(first);
        assert_eq!(
            others,
            [
                "%43ase",
                "case",
                "%43%41%53%45",
                "x%2e",
                "x",
                "%c3%84",
                "ä",
                "%c5%bf",
                "%53",
                "Single",
                "a%3a%42",
                "%41%3ab"
            ]
        );
        let distinct: HashSet<Vec<u8>> = others.iter().map(|other| fold(other.as_bytes())).collect();
        assert_eq!(distinct.len(), names.len());
    }

    #[test]
    fn case_is_asked_for_only_where_it_matters() {
        let mut expected = Expected::default();
        let names: [&[u8]; 3] = [b"one", b"Other", b"one"];
        expected.more(names.into_iter(), || unreachable!("nothing clashes"));
    }

    #[test]
    fn a_changed_name_is_never_another_ones() {
        let expected = expected(&["a:b", "A%3Ab", "c:d"], true);
        assert_eq!(expected.free(portable(b"c:d")), b"c%3ad");
        let other = expected.free(portable(b"a:b"));
        assert!(other.starts_with(b"a%3ab%~") && other.len() == "a%3ab".len() + MARK);
        assert_eq!(expected.first(b"A%3Ab"), b"A%3Ab");
    }

    #[test]
    fn long_names_stay_apart() {
        let long = "ä".repeat(200);
        let (one, other) = (short(long.as_bytes()), short(format!("{long}x").as_bytes()));
        assert!(one.len() <= MAX_NAME && one != other);
        assert!(std::str::from_utf8(&one).is_ok());
    }
}
