//! References to archives: `web01`, `web01~1`, `web01@2026-11-20`, `#a1b2c3`, `web*`.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use unicode_normalization::UnicodeNormalization;

use super::archives::Archive;
use super::error::{Error, Result};
use super::glob::Glob;
use crate::id::ArchiveId;

/// Longest reference, in bytes: a name has 200 at most, a pattern of its characters some more.
const MAX_REFERENCE: usize = 1024;
/// How many characters of a longer one are shown.
const SHOWN: usize = 40;

/// How an archive is named on a command line. Matching is done after NFC normalisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    text: String,
    select: Select,
    at: At,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Select {
    Name(String),
    Glob(String),
    Id(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    Newest,
    Back(usize),
    Time(i64),
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

impl Reference {
    /// Reads what stands behind `::`.
    ///
    /// # Errors
    /// [`Error::BadReference`].
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |reason: String| Error::BadReference { reference: text.to_owned(), reason };
        if text.is_empty() {
            return Err(bad("it is empty; name an archive behind '::'".into()));
        }
        if text.len() > MAX_REFERENCE {
            return Err(Error::BadReference {
                reference: text.chars().take(SHOWN).collect(),
                reason: format!("it is longer than {MAX_REFERENCE} bytes"),
            });
        }
        let (subject, at) = if let Some((subject, back)) = text.rsplit_once('~') {
            let back = back.parse().map_err(|_| bad(format!("{back:?} behind '~' is no number")))?;
            (subject, At::Back(back))
        } else if let Some((subject, time)) = text.rsplit_once('@') {
            (subject, At::Time(parse_time(time).map_err(bad)?))
        } else {
            (text, At::Newest)
        };
        let subject: String = subject.nfc().collect();
        let select = if let Some(hex) = subject.strip_prefix('#') {
            let prefix = hex.to_ascii_lowercase();
            if prefix.is_empty() || prefix.len() > 32 || !prefix.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad("behind '#' stand 1 to 32 hex digits of an archive's id".into()));
            }
            Select::Id(prefix)
        } else if subject.contains(['*', '?', '[']) {
            Select::Glob(subject)
        } else if subject.is_empty() {
            return Err(bad("a name is missing".into()));
        } else {
            Select::Name(subject)
        };
        Ok(Self { text: text.to_owned(), select, at })
    }

    /// The one name it stands for, if it is neither a glob nor an id.
    #[must_use]
    pub fn plain_name(&self) -> Option<&str> {
        match &self.select {
            Select::Name(name) => Some(name),
            _ => None,
        }
    }

    /// Whether it says which of a name's archives is meant.
    #[must_use]
    pub fn is_one_archive(&self) -> bool {
        self.at != At::Newest || matches!(self.select, Select::Id(_))
    }

    /// Whether it is the beginning of this id.
    #[must_use]
    pub fn is_id_of(&self, archive: ArchiveId) -> bool {
        matches!(&self.select, Select::Id(prefix) if archive.to_string().starts_with(prefix))
    }

    /// Every archive whose name or id fits, whatever its age; `archives` oldest first.
    ///
    /// # Errors
    /// [`Error::BadReference`] for a broken glob, [`Error::UnknownArchive`] if nothing fits.
    pub fn matches<'a>(&self, archives: &'a [Archive]) -> Result<Vec<&'a Archive>> {
        let found: Vec<&Archive> = match &self.select {
            Select::Name(name) => archives.iter().filter(|archive| archive.name.as_str() == name).collect(),
            Select::Id(prefix) => {
                archives.iter().filter(|a| a.id().to_string().starts_with(prefix)).collect()
            }
            Select::Glob(glob) => {
                let glob = Glob::parse(glob).ok_or_else(|| Error::BadReference {
                    reference: self.text.clone(),
                    reason: "a '[' is not closed by a ']'".into(),
                })?;
                archives.iter().filter(|archive| glob.matches(archive.name.as_str())).collect()
            }
        };
        if found.is_empty() { Err(self.unknown()) } else { Ok(found) }
    }

    /// Those that a command is to change; `archives` oldest first. A name or glob that fits several counts only with `all`: elsewhere it means
    /// the newest one, so nobody should have to remember that here it does not.
    ///
    /// # Errors
    /// [`Error::SeveralArchives`], and those of [`Self::resolve`].
    pub fn select<'a>(&self, archives: &'a [Archive], all: bool) -> Result<Vec<&'a Archive>> {
        if self.is_one_archive() {
            return Ok(vec![self.resolve(archives)?]);
        }
        let found = self.matches(archives)?;
        if all || found.len() == 1 {
            return Ok(found);
        }
        let shown = |archive: &&Archive| {
            let id = archive.id().to_string();
            format!("{}@{} (#{id:.8})", archive.name, format_time(archive.time()))
        };
        Err(Error::SeveralArchives {
            reference: self.text.clone(),
            candidates: found.iter().rev().map(shown).collect(),
            example: found.last().map_or_else(String::new, |newest| format!("{}~0", newest.name)),
        })
    }

    /// The one archive that is meant; `archives` oldest first.
    ///
    /// # Errors
    /// [`Error::UnknownArchive`], [`Error::AmbiguousArchive`], [`Error::BadReference`].
    pub fn resolve<'a>(&self, archives: &'a [Archive]) -> Result<&'a Archive> {
        let found = self.matches(archives)?;
        let names: std::collections::BTreeSet<&str> =
            found.iter().map(|archive| archive.name.as_str()).collect();
        let many_ids = matches!(self.select, Select::Id(_)) && found.len() > 1;
        if names.len() > 1 || many_ids {
            let shown = |archive: &&Archive| format!("{} (#{:.8})", archive.name, archive.id().to_string());
            return Err(Error::AmbiguousArchive {
                reference: self.text.clone(),
                candidates: found.iter().map(shown).collect(),
            });
        }
        let chosen = match self.at {
            At::Newest => found.last(),
            At::Back(back) => found.iter().rev().nth(back),
            At::Time(time) => found.iter().rev().find(|archive| archive.time() <= time),
        };
        chosen.copied().ok_or_else(|| self.unknown())
    }

    fn unknown(&self) -> Error {
        Error::UnknownArchive { reference: self.text.clone() }
    }
}

/// Reads the last moment that is meant by a time in UTC: `2026-11-20` (that day), `2026-11-20T03:00[:00]` or `20261120T030000Z` (that
/// second, as times are shown without its fraction), or RFC 3339 with an offset.
///
/// # Errors
/// What the text should have looked like.
pub fn parse_time(text: &str) -> std::result::Result<i64, String> {
    let first = parse_moment(text)?;
    let meant = match () {
        () if text.contains('.') => 0,
        () if is_date(text) => 86_400_000_000_000 - 1,
        () => 1_000_000_000 - 1,
    };
    Ok(first.saturating_add(meant))
}

/// Reads the first moment that is meant by a time, in the forms of [`parse_time`].
///
/// # Errors
/// What the text should have looked like.
pub fn parse_moment(text: &str) -> std::result::Result<i64, String> {
    let nanoseconds = |time: jiff::Timestamp| i64::try_from(time.as_nanosecond()).ok();
    let civil =
        |time: DateTime| time.to_zoned(TimeZone::UTC).ok().and_then(|zoned| nanoseconds(zoned.timestamp()));
    let compact = || civil(DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?);
    let time = compact()
        .or_else(|| text.parse::<jiff::Timestamp>().ok().and_then(nanoseconds))
        .or_else(|| text.parse::<DateTime>().ok().and_then(civil));
    time.ok_or_else(|| {
        format!("{text:?} is no time; write 2026-11-20, 2026-11-20T03:00 or 20261120T030000Z (UTC)")
    })
}

/// Whether this is a day without a time.
fn is_date(text: &str) -> bool {
    !text.contains(['T', 't', ' ']) && text.parse::<Date>().is_ok()
}

/// A moment as it stands in file names: `20261120T030000Z`, without a colon, which some tools take for a protocol.
#[must_use]
pub fn format_time(nanoseconds: i64) -> String {
    jiff::Timestamp::from_nanosecond(nanoseconds.into())
        .map_or_else(|_| "unknown".into(), |time| time.strftime("%Y%m%dT%H%M%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::catalogue::CatalogueEntry;
    use crate::format::name::ArchiveName;
    use crate::id::ArchiveId;

    fn archive(name: &str, id: u8, time: &str) -> Archive {
        let mut record = crate::format::record::tests::sample();
        record.name = ArchiveName::new(name).unwrap();
        record.time = parse_moment(time).unwrap();
        Archive {
            entry: CatalogueEntry::of(ArchiveId([id; 16]), &record),
            name: record.name.clone(),
            tags: vec![],
            comment: String::new(),
            unconfirmed: false,
            doubtful: false,
            deleted: None,
        }
    }

    fn archives() -> Vec<Archive> {
        vec![
            archive("web01", 0xa1, "2026-11-18T03:00"),
            archive("web01", 0xa2, "2026-11-19T03:00"),
            archive("b\u{fc}ro", 0xb1, "2026-11-19T04:00"),
            archive("web01", 0xc3, "2026-11-20T03:00"),
        ]
    }

    fn resolve(text: &str) -> std::result::Result<u8, String> {
        let reference = Reference::parse(text).map_err(|error| error.to_string())?;
        reference.resolve(&archives()).map(|archive| archive.id().0[0]).map_err(|error| error.to_string())
    }

    #[test]
    fn references_find_what_they_mean() {
        for (text, id) in [
            ("web01", 0xc3),
            ("web01~0", 0xc3),
            ("web01~1", 0xa2),
            ("web01@2026-11-19", 0xa2),
            ("web01@2026-11-20T02:59", 0xa2),
            ("web01@20261119T030000Z", 0xa2),
            ("web01@2026-11-20T04:00:00+01:00", 0xc3),
            ("bu\u{308}ro", 0xb1),
            ("web*", 0xc3),
            ("w?b01~2", 0xa1),
            ("#b1", 0xb1),
            ("#C3c3", 0xc3),
        ] {
            assert_eq!(resolve(text), Ok(id), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_says_so() {
        assert!(resolve("web02").unwrap_err().contains("no archive fits"));
        assert!(resolve("web01~3").unwrap_err().contains("no archive fits"));
        assert!(resolve("web01@2026-11-17").unwrap_err().contains("no archive fits"));
        assert!(resolve("*").unwrap_err().contains("fits 4 archives"));
        assert!(resolve("#a").unwrap_err().contains("fits 2 archives"));
        let long = "x".repeat(1025);
        for bad in ["", &long, "~1", "web01~x", "web01@noon", "#", "#xyz"] {
            assert!(resolve(bad).unwrap_err().contains("is no archive reference"), "{bad}");
        }
    }

    #[test]
    fn a_time_as_it_is_shown_finds_its_archive() {
        let mut archives = archives();
        archives[1].entry.time += 123_456_789;
        let find = |text: &str| Reference::parse(text).unwrap().resolve(&archives).unwrap().id().0[0];
        for shown in
            ["2026-11-19 03:00:00Z", "20261119T030000Z", "2026-11-19T03:00:00.123456789Z", "2026-11-19"]
        {
            assert_eq!(find(&format!("web01@{shown}")), 0xa2, "{shown}");
        }
        assert_eq!(find("web01@2026-11-19T03:00:00.1Z"), 0xa1);
        assert_eq!(parse_moment("2026-11-19"), parse_moment("20261119T000000Z"));
        assert_eq!(parse_moment("2026-11-19T01:00:00+01:00"), parse_moment("2026-11-19"));
    }

    #[test]
    fn times_in_file_names_have_no_colon() {
        assert_eq!(format_time(parse_moment("2026-11-20T03:00").unwrap()), "20261120T030000Z");
        assert_eq!(format_time(i64::MAX), "22620411T234716Z");
    }
}
