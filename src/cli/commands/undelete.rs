//! `copal undelete`.

use anyhow::anyhow;
use serde_json::json;

use super::list::summary;
use crate::cli::args::DeleteArgs;
use crate::cli::location::Location;
use crate::cli::output;
use crate::cli::repository::Opened;
use crate::cli::selection::{count, references, row, select};
use crate::cli::signals;
use crate::maintenance::undelete::undelete;
use crate::repository::archives::Archive;

pub(in crate::cli) fn run(args: &DeleteArgs) -> anyhow::Result<()> {
    let location = Location::parse(Some(&args.location))?;
    let references = references(&location, &args.more)?;
    let opened = Opened::at(&location.repository, &args.secrets)?;
    let mut deleted = opened.deleted.clone();
    // What an earlier undelete did not end, or of which nobody knows whether it was deleted, can be brought back for certain.
    let uncertain = opened.archives.iter().filter(|archive| archive.unconfirmed || archive.doubtful);
    deleted.extend(uncertain.cloned());
    deleted.sort_by_key(|archive| (archive.time(), archive.entry.finished, archive.id()));
    let chosen = select(&references, &deleted, args.all).map_err(|error| {
        if select(&references, &opened.archives, true).is_ok_and(|there| !there.is_empty()) {
            return anyhow!("what fits is not deleted; 'copal list --deleted' shows what is");
        }
        error.context("among deleted archives, which 'copal list --deleted' shows")
    })?;
    if args.dry_run {
        return report(args, &chosen, true);
    }
    let stop = signals::stop()?;
    let mut restored = Vec::new();
    let mut failed = None;
    for archive in &chosen {
        match undelete(&opened.repository, archive.id(), &stop) {
            Ok(()) => restored.push(*archive),
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    if !restored.is_empty() {
        opened.remember()?;
        report(args, &restored, false)?;
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

fn report(args: &DeleteArgs, restored: &[&Archive], dry_run: bool) -> anyhow::Result<()> {
    if args.json {
        let archives: Vec<_> = restored.iter().map(|archive| summary(archive)).collect();
        return output::json(&json!({ "restored": archives, "dry_run": dry_run }));
    }
    output::table(&restored.iter().map(|archive| row(archive)).collect::<Vec<_>>(), &[])?;
    let done = if dry_run { "would be restored, if all data is still there" } else { "restored" };
    output::lines([format!("{} {done}", count(restored.len()))])
}
