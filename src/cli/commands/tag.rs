//! `copal tag`.

use std::collections::BTreeSet;

use serde_json::json;

use crate::cli::args::TagArgs;
use crate::cli::location::Location;
use crate::cli::output;
use crate::cli::repository::Opened;
use crate::cli::selection::{count, references, select};
use crate::format::name::{ArchiveName, NameError};
use crate::repository::archives::Archive;
use crate::repository::states::{Change, apply};

pub(in crate::cli) fn run(args: &TagArgs) -> anyhow::Result<()> {
    let location = Location::parse(Some(&args.location))?;
    let references = references(&location, &[])?;
    let tags = Tags::of(args)?;
    let opened = Opened::at(&location.repository, &args.secrets)?;
    let chosen = if args.all {
        select(&references, &opened.archives, true)?
    } else {
        let resolved = references.iter().map(|reference| reference.resolve(&opened.archives));
        resolved.collect::<Result<Vec<_>, _>>()?
    };
    let changes: Vec<_> = chosen
        .iter()
        .flat_map(|archive| tags.changes(args, archive).map(|change| (archive.id(), change)))
        .collect();
    if !changes.is_empty() {
        apply(&opened.repository, "tag", &changes)?;
    }
    let changed: BTreeSet<_> = changes.iter().map(|(archive, _)| *archive).collect();
    if args.json {
        return output::json(&json!({ "changed": changed }));
    }
    output::lines([format!("{} changed", count(changed.len()))])
}

/// Checked tags.
struct Tags {
    add: Vec<ArchiveName>,
    remove: Vec<ArchiveName>,
    set: Vec<ArchiveName>,
}

impl Tags {
    fn of(args: &TagArgs) -> Result<Self, NameError> {
        let names =
            |texts: &[String]| texts.iter().map(|text| ArchiveName::new(text)).collect::<Result<_, _>>();
        Ok(Self { add: names(&args.add)?, remove: names(&args.remove)?, set: names(&args.set)? })
    }

    /// What has to be said of an archive; nothing that is so already.
    fn changes(&self, args: &TagArgs, archive: &Archive) -> impl Iterator<Item = Change> + use<> {
        let mut tags = if args.clear || !self.set.is_empty() { Vec::new() } else { archive.tags.clone() };
        tags.retain(|tag| !self.remove.contains(tag));
        for tag in self.set.iter().chain(&self.add) {
            if !tags.contains(tag) {
                tags.push(tag.clone());
            }
        }
        let tags = (tags != archive.tags).then_some(Change::Tag(tags));
        let comment = args.comment.as_ref().filter(|comment| **comment != archive.comment);
        tags.into_iter().chain(comment.cloned().map(Change::Comment))
    }
}
