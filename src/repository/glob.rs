//! Globs over names: `*` any characters, `?` one, `[a-z]` one of a set, `[!a-z]` one of all others.
//!
//! Characters are those of Unicode, not bytes. Nothing else is special: the three characters that are cannot stand in names of archives. Names inside images may be
//! any bytes: what is not UTF-8 counts as one character for each byte. Matching takes time in proportion to pattern times name at most.

use std::ops::RangeInclusive;

/// Above all characters.
const NO_CHARACTER: u32 = 0x11_0000;

/// A pattern that names are held against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(Vec<Token>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Any,
    One,
    Set { ranges: Vec<RangeInclusive<u32>>, others: bool },
    Plain(u32),
}

impl Token {
    /// Whether it fits this one character.
    fn fits(&self, c: u32) -> bool {
        match self {
            Self::Any | Self::One => true,
            Self::Set { ranges, others } => ranges.iter().any(|range| range.contains(&c)) != *others,
            Self::Plain(plain) => *plain == c,
        }
    }
}

impl Glob {
    /// Reads a pattern; `None` if a set is not closed.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::parse_bytes(text.as_bytes())
    }

    /// Reads a pattern of any bytes; `None` if a set is not closed.
    #[must_use]
    pub fn parse_bytes(pattern: &[u8]) -> Option<Self> {
        let pattern = characters(pattern);
        let mut rest = &pattern[..];
        let mut tokens = Vec::new();
        while let Some((c, behind)) = rest.split_first() {
            rest = behind;
            tokens.push(match char::from_u32(*c) {
                Some('*') => Token::Any,
                Some('?') => Token::One,
                Some('[') => {
                    let (token, behind) = set(rest)?;
                    rest = behind;
                    token
                }
                _ => Token::Plain(*c),
            });
        }
        Some(Self(tokens))
    }

    /// Whether all of a name fits.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.matches_bytes(name.as_bytes())
    }

    /// Whether all of a name of any bytes fits.
    #[must_use]
    pub fn matches_bytes(&self, name: &[u8]) -> bool {
        let name = characters(name);
        let (mut token, mut at) = (0, 0);
        // Where the last star stands, and up to where it reaches so far.
        let mut star: Option<(usize, usize)> = None;
        while at < name.len() {
            match self.0.get(token) {
                Some(Token::Any) => {
                    star = Some((token, at));
                    token += 1;
                }
                Some(one) if one.fits(name[at]) => {
                    token += 1;
                    at += 1;
                }
                _ => {
                    let Some((last, reach)) = star else { return false };
                    star = Some((last, reach + 1));
                    token = last + 1;
                    at = reach + 1;
                }
            }
        }
        self.0[token..].iter().all(|token| *token == Token::Any)
    }
}

/// Characters, and bytes that are none as what no character is.
fn characters(bytes: &[u8]) -> Vec<u32> {
    let mut found = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        found.extend(chunk.valid().chars().map(u32::from));
        found.extend(chunk.invalid().iter().map(|byte| NO_CHARACTER + u32::from(*byte)));
    }
    found
}

/// A set, given what stands behind its bracket; also what stands behind the set. A `]` that comes first is a member.
fn set(pattern: &[u32]) -> Option<(Token, &[u32])> {
    let is = |c: u32, of: &[char]| of.iter().any(|one| u32::from(*one) == c);
    let (pattern, others) = match pattern {
        [first, rest @ ..] if is(*first, &['!', '^']) => (rest, true),
        all => (all, false),
    };
    let end = 1 + pattern.get(1..)?.iter().position(|c| is(*c, &[']']))?;
    let mut ranges = Vec::new();
    let mut rest = &pattern[..end];
    loop {
        rest = match rest {
            [] => break,
            [low, dash, high, tail @ ..] if is(*dash, &['-']) => {
                ranges.push(*low..=*high);
                tail
            }
            [one, tail @ ..] => {
                ranges.push(*one..=*one);
                tail
            }
        };
    }
    Some((Token::Set { ranges, others }, &pattern[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (glob, fits, not) in [
            ("web*", &["web", "web01", "web*"][..], &["we", "aweb"][..]),
            ("*", &["", "a", "\u{65e5}\u{672c}"], &[]),
            ("B?ro", &["B\u{fc}ro", "Baro"], &["Bro", "Baaro"]),
            ("*a*b", &["ab", "xaxbxb", "aab"], &["ba", "abx"]),
            ("[a-cx]1", &["a1", "b1", "x1"], &["d1", "1", "-1"]),
            ("[!a-c]", &["d", "\u{1f600}"], &["a", "", "dd"]),
            ("[]]", &["]"], &["["]),
            ("[a-]", &["a", "-"], &["b"]),
            ("a{b,c}", &["a{b,c}"], &["ab"]),
            ("a\\*", &["a\\b"], &["a*"]),
        ] {
            let glob = Glob::parse(glob).unwrap();
            fits.iter().for_each(|name| assert!(glob.matches(name), "{glob:?} {name}"));
            not.iter().for_each(|name| assert!(!glob.matches(name), "{glob:?} {name}"));
        }
        for open in ["[", "[a", "[]", "[!", "a[b"] {
            assert_eq!(Glob::parse(open), None, "{open}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_characters_too() {
        let glob = Glob::parse_bytes(b"caf?.[\xe0-\xff]*").unwrap();
        assert!(glob.matches_bytes(b"caf\xe9.\xe9") && !glob.matches_bytes("caf\u{e9}.".as_bytes()));
        assert!(!Glob::parse_bytes(b"\xe9").unwrap().matches_bytes("\u{e9}".as_bytes()));
    }

    #[test]
    fn many_stars_take_no_time() {
        let name = "a".repeat(200);
        assert!(!Glob::parse(&("*a".repeat(60) + "b")).unwrap().matches(&name));
    }
}
