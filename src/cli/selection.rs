//! Which archives a command changes: those that were said, and never several by accident.

use std::ffi::{OsStr, OsString};

use anyhow::bail;

use super::location::Location;
use super::output::{self, time};
use super::repository::Opened;
use crate::id::ArchiveId;
use crate::repository::archives::Archive;
use crate::repository::reference::Reference;

/// The references of a command line: what stands behind `::` in the first argument, then those of the same repository, with or without it.
pub(super) fn references(location: &Location, more: &[OsString]) -> anyhow::Result<Vec<Reference>> {
    let mut references = vec![Reference::parse(location.required_reference()?)?];
    for argument in more {
        references.push(reference(location, argument)?);
    }
    Ok(references)
}

/// A further reference to archives of a command's repository, with or without that in front.
pub(super) fn reference(location: &Location, argument: &OsStr) -> anyhow::Result<Reference> {
    if let Some(text) = argument.to_str().filter(|text| !text.contains("::")) {
        return Ok(Reference::parse(text)?);
    }
    let other = Location::parse(Some(argument))?;
    if other.repository != location.repository {
        bail!(
            "{} is another repository than {}: name one in each command",
            other.repository.display(),
            location.repository.display()
        );
    }
    Ok(Reference::parse(other.required_reference()?)?)
}

/// The archives that are meant, each once, oldest first, as `archives` are. A name or pattern that fits several needs `all`.
pub(super) fn select<'a>(
    references: &[Reference],
    archives: &'a [Archive],
    all: bool,
) -> anyhow::Result<Vec<&'a Archive>> {
    let mut chosen = Vec::new();
    for reference in references {
        chosen.extend(reference.select(archives, all)?.into_iter().map(Archive::id));
    }
    Ok(archives.iter().filter(|archive| chosen.contains(&archive.id())).collect())
}

/// Archives that cannot be shown and that references name by their ids; and all other references.
pub(super) fn take_lost(references: Vec<Reference>, opened: &Opened) -> (Vec<ArchiveId>, Vec<Reference>) {
    let mut given_up = Vec::new();
    let mut others = Vec::new();
    for reference in references {
        let is_shown = opened.archives.iter().any(|archive| reference.is_id_of(archive.id()));
        let mut lost = opened.lost.iter().map(|lost| lost.id).filter(|id| reference.is_id_of(*id));
        match (lost.next(), lost.next()) {
            (Some(id), None) if !is_shown => given_up.push(id),
            _ => others.push(reference),
        }
    }
    (given_up, others)
}

/// An archive in a table of those that were changed.
pub(super) fn row(archive: &Archive) -> Vec<String> {
    vec![archive.name.to_string(), time(archive.time()), format!("#{:.8}", archive.id().to_string())]
}

/// So many archives.
pub(super) fn count(archives: usize) -> String {
    output::count(archives, "archive")
}
