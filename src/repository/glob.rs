//! Globs over names: `*` any characters, `?` one, `[a-z]` one of a set, `[!a-z]` one of all others.
//!
//! Characters are those of Unicode, not bytes. Nothing else is special: the three characters that are cannot stand in names. Matching takes
//! time in proportion to pattern times name at most.

use std::ops::RangeInclusive;

/// A pattern that names are held against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(Vec<Token>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Any,
    One,
    Set { ranges: Vec<RangeInclusive<char>>, others: bool },
    Plain(char),
}

impl Token {
    /// Whether it fits this one character.
    fn fits(&self, c: char) -> bool {
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
        let mut rest = text.chars();
        let mut tokens = Vec::new();
        while let Some(c) = rest.next() {
            tokens.push(match c {
                '*' => Token::Any,
                '?' => Token::One,
                '[' => {
                    let (token, behind) = set(rest.as_str())?;
                    rest = behind.chars();
                    token
                }
                plain => Token::Plain(plain),
            });
        }
        Some(Self(tokens))
    }

    /// Whether all of a name fits.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
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

/// A set, given what stands behind its bracket; also what stands behind the set. A `]` that comes first is a member.
fn set(text: &str) -> Option<(Token, &str)> {
    let (text, others) = match text.strip_prefix(['!', '^']) {
        Some(text) => (text, true),
        None => (text, false),
    };
    let first = text.chars().next()?.len_utf8();
    let end = first + text[first..].find(']')?;
    let members: Vec<char> = text[..end].chars().collect();
    let mut ranges = Vec::new();
    let mut rest = &members[..];
    loop {
        rest = match rest {
            [] => break,
            [low, '-', high, tail @ ..] => {
                ranges.push(*low..=*high);
                tail
            }
            [one, tail @ ..] => {
                ranges.push(*one..=*one);
                tail
            }
        };
    }
    Some((Token::Set { ranges, others }, &text[end + 1..]))
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
    fn many_stars_take_no_time() {
        let name = "a".repeat(200);
        assert!(!Glob::parse(&("*a".repeat(60) + "b")).unwrap().matches(&name));
    }
}
