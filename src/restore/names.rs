//! Names for what the destination cannot hold as it is called in the image. No I/O.
//!
//! A name is changed only if it has to be, and so that it can be read back: a byte that cannot stand becomes `%` and two hex digits, and so does every `%` of
//! such a name. A name that is too long keeps its beginning, behind which `%~` and 16 hex digits of its hash stand. Whoever changes one says so.

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
    let last = name.len() - 1;
    let mut wrong = vec![false; name.len()];
    let mut at = 0;
    for chunk in name.utf8_chunks() {
        at += chunk.valid().len();
        wrong[at..at + chunk.invalid().len()].fill(true);
        at += chunk.invalid().len();
    }
    wrong[0] |= is_device(name);
    escaped(name, |byte, at| {
        wrong[at]
            || byte < b' '
            || byte == 0x7f
            || RESERVED.contains(&byte)
            || (at == last && matches!(byte, b'.' | b' '))
    })
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

    #[test]
    fn long_names_stay_apart() {
        let long = "ä".repeat(200);
        let (one, other) = (short(long.as_bytes()), short(format!("{long}x").as_bytes()));
        assert!(one.len() <= MAX_NAME && one != other);
        assert!(std::str::from_utf8(&one).is_ok());
    }
}
