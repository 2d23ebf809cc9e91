//! The recovery form: a repository's keys as text, to be kept apart from it (`docs/format.md`, section 15).
//!
//! Two forms of the same bytes: a file for programs, and lines for paper that a person can type back. Nothing protects the keys in either.
//! What is typed is hostile input as all else: bounded, and never a reason to panic. Errors name lines, and never show what is in them.

mod base32;
mod paper;
mod text;

use zeroize::Zeroizing;

use super::FormatError;
use super::wire::{Reader, checksum, verify_checksum};
use crate::codec::keys::{KeyClass, KeySet, Secret32};
use crate::id::RepositoryId;

/// Longest form that is read, in bytes: [`MAX_KEYS`] on paper, with room for blanks and remarks.
pub const MAX_FORM: u64 = 256 << 10;
/// Keys of a form, in number: far more than the epochs of a repository.
pub const MAX_KEYS: u16 = 1024;
const VERSION: u16 = 1;
const WHAT: &str = "recovery form";
/// Version, repository id, number of keys.
const HEAD: usize = 2 + 16 + 2;
/// Class, epoch, key.
const ENTRY: usize = 1 + 4 + 32;
const SUM: usize = 16;
/// Wrong lines that a message names.
const SHOWN: usize = 12;

/// A line that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {number}: {problem}")]
pub struct WrongLine {
    /// Its number on the paper, or in the file.
    pub number: usize,
    /// What is wrong with it.
    pub problem: String,
}

/// Why text is no recovery form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    /// Nothing in it looks like one.
    #[error(
        "this is no recovery form: its first line is neither 'copal-recovery-keys 1' nor a numbered line of the printed form"
    )]
    NoForm,
    /// Lines are wrong.
    #[error("{}", shown(.0))]
    Lines(Vec<WrongLine>),
    /// All lines are right by themselves, but not together.
    #[error("the checksum over the whole form does not fit: {hint}")]
    Checksum {
        /// Where to look.
        hint: &'static str,
    },
    /// The bytes break the format.
    #[error(transparent)]
    Format(#[from] FormatError),
}

fn shown(lines: &[WrongLine]) -> String {
    let mut text = lines.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join("; ");
    if lines.len() > SHOWN {
        text.push_str(&format!("; and {} more", lines.len() - SHOWN));
    }
    text
}

fn wrong(number: usize, problem: impl Into<String>) -> RecoveryError {
    RecoveryError::Lines(vec![WrongLine { number, problem: problem.into() }])
}

/// The keys of one slot, and whose they are.
#[derive(Debug, Clone)]
pub struct RecoveryForm {
    /// The repository that they open.
    pub repository: RepositoryId,
    /// All of them.
    pub keys: KeySet,
}

impl RecoveryForm {
    /// The form for a file.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        text::print(self)
    }

    /// The form for paper.
    #[must_use]
    pub fn to_paper(&self) -> Zeroizing<String> {
        paper::print(self)
    }

    /// Reads either form. Empty lines and lines that begin with `#` do not count.
    ///
    /// # Errors
    /// [`RecoveryError`].
    pub fn parse(text: &str) -> Result<Self, RecoveryError> {
        if text.len() as u64 > MAX_FORM {
            let what = "length of a recovery form";
            return Err(FormatError::OutOfBounds { what, value: text.len() as u64, limit: MAX_FORM }.into());
        }
        let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
        let lines: Vec<(usize, &str)> = lines
            .map(|(at, line)| (at + 1, line.trim()))
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
            .collect();
        match lines.first() {
            Some((_, first)) if first.starts_with(text::HEAD_LINE) => text::parse(&lines),
            Some((_, first)) if first.starts_with(|c: char| c.is_ascii_digit()) => paper::parse(&lines),
            _ => Err(RecoveryError::NoForm),
        }
    }

    /// Version, repository, keys and checksum.
    fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let keys: Vec<_> = self.keys.iter().collect();
        let mut out = Zeroizing::new(Vec::with_capacity(HEAD + ENTRY * keys.len() + SUM));
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(self.repository.as_bytes());
        let count = u16::try_from(keys.len()).expect("a slot of 64 KiB holds fewer keys");
        out.extend_from_slice(&count.to_le_bytes());
        for (class, epoch, key) in keys {
            out.push(class as u8);
            out.extend_from_slice(&epoch.to_le_bytes());
            out.extend_from_slice(key.as_ref());
        }
        let sum = checksum(&out);
        out.extend_from_slice(&sum);
        out
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, RecoveryError> {
        let mut reader = Reader::new(WHAT, bytes);
        reader.version(VERSION)?;
        let covered = verify_checksum(WHAT, bytes).map_err(|_| RecoveryError::Checksum {
            hint: "a line was replaced by one of another form, or lines are missing at the end",
        })?;
        let repository = RepositoryId(reader.array()?);
        let count = usize::from(reader.u16()?);
        if count == 0 || count > usize::from(MAX_KEYS) || covered.len() != HEAD + ENTRY * count {
            return Err(FormatError::malformed(WHAT, "its length does not fit its number of keys").into());
        }
        let mut keys = KeySet::default();
        for _ in 0..count {
            let class = KeyClass::from_tag(reader.u8()?);
            let class = class.ok_or_else(|| {
                FormatError::malformed(
                    WHAT,
                    "it holds a class of key that this Copal does not know: use a newer one",
                )
            })?;
            let epoch = reader.u32()?;
            keys = keys.with(class, epoch, Secret32::new(reader.array()?));
        }
        let form = Self { repository, keys };
        if *form.to_bytes() != bytes {
            return Err(FormatError::malformed(WHAT, "its keys are not sorted, or one is there twice").into());
        }
        Ok(form)
    }
}

#[cfg(test)]
mod tests;
