//! The grammar of archive names, member names and tags (`docs/format.md`, section 14).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use unicode_normalization::{UnicodeNormalization, is_nfc};

use super::limits::MAX_NAME;

/// A checked name: Unicode in NFC that is safe as a file name and in a reference.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ArchiveName(String);

/// Why text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a usable name: {reason}")]
pub struct NameError {
    /// What was given, shortened.
    pub text: String,
    /// The rule it breaks.
    pub reason: String,
}

impl ArchiveName {
    /// Normalises what a user typed to NFC and checks it.
    ///
    /// # Errors
    /// [`NameError`] with the rule that is broken.
    pub fn new(text: &str) -> Result<Self, NameError> {
        Self::checked(if text.is_ascii() { text.to_owned() } else { text.nfc().collect() })
    }

    /// Checks a name that is in NFC.
    fn checked(name: String) -> Result<Self, NameError> {
        match broken_rule(&name) {
            None => Ok(Self(name)),
            Some(reason) => Err(NameError { text: name.chars().take(80).collect(), reason }),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn broken_rule(name: &str) -> Option<String> {
    const SYNTAX: [char; 7] = ['/', '@', '~', '#', '*', '?', '['];
    if name.is_empty() {
        return Some("it is empty".into());
    }
    if name.len() > MAX_NAME {
        return Some(format!("it is {} bytes long, {MAX_NAME} are allowed", name.len()));
    }
    if name.starts_with('.') {
        return Some("it begins with a dot".into());
    }
    if name.trim() != name {
        return Some("it begins or ends with white space".into());
    }
    if name.contains("::") {
        return Some("'::' separates a repository from an archive".into());
    }
    if let Some(c) = name.chars().find(|c| SYNTAX.contains(c)) {
        return Some(format!("{c:?} has a meaning in paths or references"));
    }
    let unprintable = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    name.chars().find(|c| unprintable(*c)).map(|c| format!("{c:?} is a control character"))
}

impl fmt::Display for ArchiveName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ArchiveName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl<'de> Deserialize<'de> for ArchiveName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let text = String::deserialize(deserializer)?;
        if !text.is_ascii() && !is_nfc(&text) {
            return Err(D::Error::custom("a stored name is not in NFC"));
        }
        Self::checked(text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammar() {
        for good in ["web01", "Büro Köln", "日本語", "a:b", "x..y", "😀", &"長".repeat(66)] {
            assert_eq!(ArchiveName::new(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            ".x",
            "a/b",
            "a::b",
            "a@b",
            "a~1",
            "#a",
            "a*",
            "a?",
            "a[b",
            " a",
            "a ",
            "a\n",
            "a\0b",
            "a\u{2028}b",
            &"長".repeat(67),
        ] {
            assert!(ArchiveName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn typed_names_are_normalised_stored_ones_must_be() {
        assert_eq!(ArchiveName::new("e\u{301}").unwrap().as_str(), "\u{e9}");
        let stored = crate::format::msgpack::to_bytes(&"e\u{301}");
        assert!(crate::format::msgpack::from_bytes::<ArchiveName>("name", &stored).is_err());
    }
}
