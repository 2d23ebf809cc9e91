//! `copal delete`.

use serde_json::json;

use super::list::summary;
use crate::cli::args::DeleteArgs;
use crate::cli::location::Location;
use crate::cli::output;
use crate::cli::repository::Opened;
use crate::cli::selection::{count, references, row, select, take_lost};
use crate::id::ArchiveId;
use crate::repository::archives::Archive;
use crate::repository::states::{Change, apply};

pub(in crate::cli) fn run(args: &DeleteArgs) -> anyhow::Result<()> {
    let location = Location::parse(Some(&args.location))?;
    let references = references(&location, &args.more)?;
    let opened = Opened::at(&location.repository, &args.secrets)?;
    let (given_up, references) = take_lost(references, &opened);
    let chosen = select(&references, &opened.archives, args.all)?;
    if !args.dry_run {
        let ids = chosen.iter().map(|archive| archive.id()).chain(given_up.iter().copied());
        let changes: Vec<_> = ids.map(|id| (id, Change::Delete)).collect();
        let deleted = apply(&opened.repository, &format!("delete {}", count(changes.len())), &changes);
        // Some may be deleted even where not all are.
        opened.remember()?;
        deleted?;
    }
    report(args, &location, &chosen, &given_up)
}

fn report(
    args: &DeleteArgs,
    location: &Location,
    chosen: &[&Archive],
    given_up: &[ArchiveId],
) -> anyhow::Result<()> {
    if args.json {
        let archives: Vec<_> = chosen.iter().map(|archive| summary(archive)).collect();
        return output::json(&json!({ "deleted": archives, "given_up": given_up, "dry_run": args.dry_run }));
    }
    let verb = if args.dry_run { "would be" } else { "is" };
    let lost = given_up.iter().map(|id| format!("archive {id}, which cannot be read, {verb} given up"));
    output::lines(lost.collect::<Vec<_>>())?;
    output::table(&chosen.iter().map(|archive| row(archive)).collect::<Vec<_>>(), &[])?;
    let place = location.repository.display();
    let Some(last) = chosen.last().map(|archive| archive.id().to_string()) else { return Ok(()) };
    output::lines(match args.dry_run {
        true => vec![format!("{} would be deleted; nothing was changed", count(chosen.len()))],
        false => vec![
            format!("{} deleted. The space is free after 'copal compact {place}';", count(chosen.len())),
            format!(
                "until then they come back with 'copal undelete', as in: copal undelete '{place}::#{last:.8}'"
            ),
        ],
    })
}
