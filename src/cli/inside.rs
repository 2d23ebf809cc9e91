//! `REPO::ARCHIVE[:PART][:/PATH]`: a part of a disk in an archive, and a path in its filesystem.
//!
//! The grammar: PATH begins at the first `:/`, which can be in no archive's name and in no part's. A reference to an archive may hold colons itself (in times and in
//! names): it is the longest text that fits an archive, and what stands behind the colon that follows is PART. `…@20261120T030000Z:2` is clear at a glance.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, anyhow, bail};
use unicode_normalization::UnicodeNormalization;

use super::disk::table;
use super::location::Location;
use super::output;
use super::repository::Opened;
use crate::filesystem::{self, Filesystem};
use crate::format::record::{ArchiveRecord, Member};
use crate::image::Image;
use crate::image::disk::Disk;
use crate::image::reader::ImageReader;
use crate::partition::{Part, parts, remarks};
use crate::repository::archives::Archive;
use crate::repository::error::Error as RepositoryError;
use crate::repository::reference::Reference;

/// What an argument says, before it is known which archives there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inside {
    /// The repository, and what stands behind `::` up to the path: an archive, and perhaps a part.
    pub(super) location: Location,
    /// The path, with its first slash.
    pub(super) path: Option<Vec<u8>>,
}

impl Inside {
    /// Reads an argument.
    pub(super) fn parse(argument: &OsStr) -> anyhow::Result<Self> {
        let bytes = argument.as_bytes();
        let Some(at) = path_at(bytes) else {
            return Ok(Self { location: Location::parse(Some(argument))?, path: None });
        };
        let location = Location::parse(Some(OsStr::from_bytes(&bytes[..at])))?;
        Ok(Self { location, path: Some(bytes[at + 1..].to_vec()) })
    }
}

/// Where the colon in front of the path is: the first that a slash follows, behind a `::` with neither `::` nor a slash in between.
fn path_at(bytes: &[u8]) -> Option<usize> {
    let starts = (0..bytes.len().saturating_sub(1)).filter(|at| bytes[*at..].starts_with(b"::"));
    starts.into_iter().find_map(|start| {
        let behind = &bytes[start + 2..];
        let slash = behind.iter().position(|byte| *byte == b'/')?;
        let head = behind[..slash].strip_suffix(b":")?;
        let is_plain = !head.windows(2).any(|pair| pair == b"::");
        is_plain.then_some(start + 2 + head.len())
    })
}

/// Every way to take a text as a reference and a part, the longest reference first.
fn splits(text: &str) -> Vec<(&str, Option<&str>)> {
    let whole = (text.strip_suffix(':').unwrap_or(text), None);
    let cut = text.rmatch_indices(':').map(|(at, _)| (&text[..at], Some(&text[at + 1..])));
    let cut = cut.filter(|(_, part)| {
        part.is_some_and(|part| !part.is_empty() && !part.contains(':')) || part.is_none()
    });
    std::iter::once(whole).chain(cut).collect()
}

/// The archive that is meant, and the part.
pub(super) fn resolve<'a, 't>(
    text: &'t str,
    archives: &'a [Archive],
) -> anyhow::Result<(&'a Archive, Option<&'t str>)> {
    let mut failed = Vec::new();
    for (reference, part) in splits(text) {
        match Reference::parse(reference) {
            Ok(parsed) => match parsed.resolve(archives) {
                Ok(archive) => return Ok((archive, part)),
                Err(error) => failed.push(Failed { reference, parsed: Some(parsed), error }),
            },
            Err(error) => failed.push(Failed { reference, parsed: None, error }),
        }
    }
    Err(blamed(failed, archives))
}

/// A text that stands for no archive.
struct Failed<'t> {
    reference: &'t str,
    /// What it says, if it is a reference at all.
    parsed: Option<Reference>,
    error: RepositoryError,
}

/// What is wrong if no way to take a text fits an archive: the longest whose name there is has a wrong age or time; else the name is wrong; and if there is no
/// reference, what stands in front of the part is none.
fn blamed(mut failed: Vec<Failed<'_>>, archives: &[Archive]) -> anyhow::Error {
    let is_known =
        |one: &Failed<'_>| one.parsed.as_ref().is_some_and(|parsed| parsed.matches(archives).is_ok());
    if let Some(at) = failed.iter().position(is_known) {
        return failed.swap_remove(at).error.into();
    }
    let mut named: Vec<&str> =
        failed.iter().filter(|one| one.parsed.is_some()).map(|one| one.reference).collect();
    // A time is cut nowhere if all of it is one.
    if named.first().is_some_and(|longest| longest.contains('@')) {
        named.truncate(1);
    }
    match (&named[..], failed.pop()) {
        ([longest, .., shortest], _) => {
            anyhow!("no archive fits {shortest:?}, nor {longest:?}; 'copal list' shows what there is")
        }
        ([only], Some(_)) => RepositoryError::UnknownArchive { reference: (*only).to_owned() }.into(),
        (_, Some(last)) => last.error.into(),
        (_, None) => anyhow!("name an archive behind '::'; 'copal list' shows what there is"),
    }
}

/// A disk whose parts are looked into.
pub(super) struct Inner<'a> {
    pub(super) member: &'a Member,
    pub(super) disk: Disk<'a>,
    pub(super) parts: Vec<Part>,
    /// What is odd about the table.
    pub(super) remarks: Vec<String>,
    named: Named,
}

impl<'a> Inner<'a> {
    /// Opens the disk of an archive: its only one, or the member that is named.
    pub(super) fn new(
        reader: &'a ImageReader,
        record: &'a ArchiveRecord,
        member: Option<&str>,
        named: Named,
    ) -> anyhow::Result<Self> {
        let member = chosen(record, member)?;
        let disk = Disk(reader, Image::of(member, reader.repository().config().span_shift));
        let table = table(reader, member);
        let parts = table.as_ref().map(|table| parts(table, member.size)).unwrap_or_default();
        let remarks = table.map(|table| remarks(&table, &parts)).unwrap_or_default();
        Ok(Self { member, disk, parts, remarks, named })
    }

    /// The part that is meant: by number, name, or the word of its name; the only readable one if nothing is said.
    pub(super) fn part(&self, wanted: Option<&str>) -> anyhow::Result<&Part> {
        let Some(wanted) = wanted else { return self.only() };
        let normal: String = wanted.nfc().collect();
        let word = |part: &Part| part.name.split_once('-').is_some_and(|(_, word)| word == normal);
        let exact = self.parts.iter().find(|part| part.name == normal || part.number.to_string() == normal);
        let mut by_word = self.parts.iter().filter(|part| word(part));
        match (exact, by_word.next(), by_word.next()) {
            (Some(part), ..) | (None, Some(part), None) => Ok(part),
            (None, Some(_), Some(_)) => {
                bail!(
                    "several parts of {} are called {wanted:?}: {}",
                    self.member.name,
                    self.names(|part| word(part))
                )
            }
            (None, None, _) if wanted.contains('/') => {
                bail!(
                    "{} has no part {wanted:?}; in front of a path stand a colon and a slash, as in PART:/PATH",
                    self.member.name
                )
            }
            (None, None, _) => {
                let written = &self.named.written;
                // Times have colons, too.
                let split = written.contains(':').then(|| format!(" (behind the archive {written:?})"));
                bail!(
                    "{} has no part {wanted:?}{}; it has: {}",
                    self.member.name,
                    split.unwrap_or_default(),
                    self.names(|_| true)
                )
            }
        }
    }

    fn only(&self) -> anyhow::Result<&Part> {
        let is_readable = |part: &&Part| part.filesystem.as_deref().is_some_and(filesystem::is_known);
        let mut readable = self.parts.iter().filter(is_readable);
        match (readable.next(), readable.next()) {
            (Some(part), None) => Ok(part),
            (Some(_), Some(_)) => {
                bail!(
                    "{} has several parts; name one as {}:PART: {}",
                    self.member.name,
                    self.named.again,
                    self.names(|_| true)
                )
            }
            (None, _) => bail!(
                "no part of {} can be read here; it has: {}; {}",
                self.member.name,
                self.names(|_| true),
                self.advice()
            ),
        }
    }

    fn names(&self, which: impl Fn(&Part) -> bool) -> String {
        let shown = |part: &Part| match &part.filesystem {
            Some(kind) => format!("{} ({kind})", part.name),
            None => part.name.clone(),
        };
        let names: Vec<_> = self.parts.iter().filter(|part| which(part)).map(shown).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }

    fn advice(&self) -> String {
        format!("'copal attach {}' mounts what the kernel can read", self.named.again)
    }

    /// Opens the filesystem of a part, and tells what is to be told of it.
    pub(super) fn open(&self, part: &Part) -> anyhow::Result<Box<dyn Filesystem + '_>> {
        let Some(kind) = part.filesystem.as_deref() else {
            bail!("part {} holds no filesystem that is known", part.name)
        };
        if !filesystem::is_known(kind) {
            bail!("files of part {} ({kind}) cannot be read here; {}", part.name, self.advice());
        }
        let opened = filesystem::open(&self.disk, part.start..part.start + part.len, kind);
        let opened = opened.with_context(|| format!("cannot read the {kind} of part {}", part.name));
        let opened = opened.with_context(|| self.advice())?;
        for note in opened.notes() {
            super::logger::line(&format!("copal: part {}: {note}", part.name));
        }
        for warning in opened.warnings() {
            log::warn!("part {}: {warning}", part.name);
        }
        Ok(opened)
    }
}

/// The member that is meant.
fn chosen<'a>(record: &'a ArchiveRecord, member: Option<&str>) -> anyhow::Result<&'a Member> {
    let names = || record.members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ");
    match (member, &record.members[..]) {
        (None, [only]) => Ok(only),
        (None, _) => bail!("the archive has several members; choose one with --member: {}", names()),
        (Some(name), members) => {
            let normal: String = name.nfc().collect();
            let found = members.iter().find(|member| member.name.as_str() == normal);
            found.with_context(|| format!("the archive has no member {name:?}; it has: {}", names()))
        }
    }
}

/// Opens the repository of an argument and finds its archive and part.
pub(super) fn archive<'a, 't>(
    inside: &'t Inside,
    opened: &'a Opened,
) -> anyhow::Result<(&'a Archive, Option<&'t str>)> {
    let (archive, part) = resolve(inside.location.required_reference()?, &opened.archives)?;
    if archive.unconfirmed {
        log::warn!(
            "{} is unconfirmed: its create has not ended, or died before it was sure of all chunks",
            archive.name
        );
    }
    Ok((archive, part))
}

/// How an archive was named, for advice.
pub(super) struct Named {
    /// How it can be named again.
    again: String,
    /// What was taken for its reference.
    written: String,
}

/// How an archive was named, in front of a part.
pub(super) fn named(inside: &Inside, archive: &Archive, part: Option<&str>) -> Named {
    let repository = output::escaped(inside.location.repository.as_os_str().as_bytes());
    let text = inside.location.reference.as_deref().unwrap_or_default();
    let written = part.and_then(|part| text.strip_suffix(part)?.strip_suffix(':')).unwrap_or(text).to_owned();
    Named { again: format!("{repository}::#{:.8}", archive.id().to_string()), written }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (String, String, Option<String>) {
        let inside = Inside::parse(OsStr::new(text)).unwrap();
        let path = inside.path.map(|path| String::from_utf8(path).unwrap());
        (
            inside.location.repository.display().to_string(),
            inside.location.reference.unwrap_or_default(),
            path,
        )
    }

    #[test]
    fn a_path_begins_at_the_first_colon_and_slash() {
        for (text, repository, reference, path) in [
            ("/r::web01", "/r", "web01", None),
            ("/r::web01:2", "/r", "web01:2", None),
            ("/r::web01:2:/etc", "/r", "web01:2", Some("/etc")),
            ("/r::web01:/", "/r", "web01", Some("/")),
            ("/r::web01:2:/a::b:/c", "/r", "web01:2", Some("/a::b:/c")),
            ("/r::x/y::web01:2-root:/etc", "/r::x/y", "web01:2-root", Some("/etc")),
            ("/r::x::web01:/etc", "/r::x", "web01", Some("/etc")),
            ("/r::web01@2026-11-20T03:00:00:2:/", "/r", "web01@2026-11-20T03:00:00:2", Some("/")),
        ] {
            assert_eq!(parse(text), (repository.into(), reference.into(), path.map(str::to_owned)), "{text}");
        }
    }

    #[test]
    fn the_longest_reference_comes_first() {
        assert_eq!(splits("web01"), [("web01", None)]);
        assert_eq!(splits("web01:2"), [("web01:2", None), ("web01", Some("2"))]);
        assert_eq!(
            splits("w@2026-11-20T03:00:00:2-root"),
            [("w@2026-11-20T03:00:00:2-root", None), ("w@2026-11-20T03:00:00", Some("2-root"))]
        );
    }
}
