//! The form for a file.

use zeroize::Zeroizing;

use super::{HEAD, MAX_KEYS, RecoveryError, RecoveryForm, VERSION, wrong};
use crate::codec::keys::{KeyClass, KeySet, Secret32};
use crate::format::FormatError;
use crate::format::wire::checksum;
use crate::id::RepositoryId;

/// Begins the first line; the version follows.
pub(super) const HEAD_LINE: &str = "copal-recovery-keys";
/// Bytes of a line with a key, and of all other lines together: for one allocation, so that no copy stays behind unwiped.
const KEY_LINE: usize = 96;
const FRAME: usize = 512;

pub(super) fn print(form: &RecoveryForm) -> Zeroizing<String> {
    let keys: Vec<_> = form.keys.iter().collect();
    let mut out = Zeroizing::new(String::with_capacity(FRAME + KEY_LINE * keys.len()));
    out.push_str(&format!("{HEAD_LINE} {VERSION}\n"));
    out.push_str("# These keys open the repository WITHOUT any passphrase: who has this file can read every backup in it.\n");
    out.push_str("# Keep it apart from the repository, where nobody else gets at it. 'copal key import' makes a new slot of it.\n");
    out.push_str(&format!("repository {}\n", form.repository));
    for (class, epoch, key) in keys {
        out.push_str(&format!("{} {epoch} ", class.name()));
        push_hex(&mut out, key.as_ref());
        out.push('\n');
    }
    let bytes = form.to_bytes();
    out.push_str("checksum ");
    push_hex(&mut out, &bytes[bytes.len() - super::SUM..]);
    out.push('\n');
    out
}

fn push_hex(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            out.push(char::from_digit(digit.into(), 16).expect("four bits are a hex digit"));
        }
    }
}

/// `lines` with their numbers; the first begins with [`HEAD_LINE`].
pub(super) fn parse(lines: &[(usize, &str)]) -> Result<RecoveryForm, RecoveryError> {
    let [(head_number, head), (repository_number, repository), keys @ .., (sum_number, sum)] = lines else {
        return Err(wrong(lines.len(), "the form ends too early"));
    };
    check_version(*head_number, head)?;
    let repository = repository.strip_prefix("repository").map(str::trim).and_then(|id| id.parse().ok());
    let repository: RepositoryId = repository
        .ok_or_else(|| wrong(*repository_number, "'repository' and its id of 32 hex digits are expected"))?;
    if keys.len() > usize::from(MAX_KEYS) {
        return Err(FormatError::OutOfBounds {
            what: "number of keys",
            value: keys.len() as u64,
            limit: MAX_KEYS.into(),
        }
        .into());
    }
    let sum = sum.strip_prefix("checksum").map(str::trim).and_then(hex::<16>);
    let sum = sum.ok_or_else(|| {
        wrong(*sum_number, "'checksum' and its 32 hex digits are expected as the last line")
    })?;
    let mut set = KeySet::default();
    for (number, line) in keys {
        let (class, epoch, key) = parse_key(*number, line)?;
        if set.iter().any(|(other, of, _)| (other, of) == (class, epoch)) {
            return Err(wrong(*number, "this key was there already"));
        }
        set = set.with(class, epoch, key);
    }
    if keys.is_empty() {
        return Err(wrong(*sum_number, "there is no key before the checksum"));
    }
    let form = RecoveryForm { repository, keys: set };
    let bytes = form.to_bytes();
    debug_assert!(bytes.len() > HEAD);
    if checksum(&bytes[..bytes.len() - super::SUM]) != *sum {
        return Err(RecoveryError::Checksum { hint: "a digit was changed, or a line with a key is missing" });
    }
    Ok(form)
}

fn check_version(number: usize, line: &str) -> Result<(), RecoveryError> {
    let version = line.strip_prefix(HEAD_LINE).and_then(|version| version.trim().parse::<u16>().ok());
    match version {
        Some(VERSION) => Ok(()),
        Some(found) => Err(FormatError::Version { what: super::WHAT, found, supported: VERSION }.into()),
        None => Err(wrong(number, format!("'{HEAD_LINE} {VERSION}' is expected"))),
    }
}

fn parse_key(number: usize, line: &str) -> Result<(KeyClass, u32, Secret32), RecoveryError> {
    let mut words = line.split_whitespace();
    let [class, epoch, key, end] = [words.next(), words.next(), words.next(), words.next()];
    let shape = || wrong(number, "a class, an epoch and a key of 64 hex digits are expected");
    let (Some(class), Some(epoch), Some(key), None) = (class, epoch, key, end) else { return Err(shape()) };
    let class = (0..=u8::MAX).filter_map(KeyClass::from_tag).find(|known| known.name() == class);
    let class = class.ok_or_else(|| {
        wrong(number, "this class of key is not known; if it is no slip, use a newer Copal")
    })?;
    let epoch = epoch.parse::<u32>().map_err(|_| wrong(number, "the epoch is no number"))?;
    if key.chars().count() != 64 {
        return Err(wrong(
            number,
            format!("the key has {} hex digits, 64 are expected", key.chars().count()),
        ));
    }
    let key =
        hex::<32>(key).ok_or_else(|| wrong(number, "the key holds other characters than hex digits"))?;
    Ok((class, epoch, key))
}

fn hex<const N: usize>(text: &str) -> Option<Zeroizing<[u8; N]>> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let digit = |at: usize| char::from(digits[at]).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = Zeroizing::new([0; N]);
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = digit(2 * at)? << 4 | digit(2 * at + 1)?;
    }
    Some(bytes)
}
