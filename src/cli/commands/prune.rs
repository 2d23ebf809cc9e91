//! `copal prune`.

use std::collections::BTreeMap;

use anyhow::bail;
use jiff::tz::TimeZone;
use serde_json::json;

use super::list::summary;
use crate::cli::args::PruneArgs;
use crate::cli::location::Location;
use crate::cli::output;
use crate::cli::repository::Opened;
use crate::cli::selection::{count, row};
use crate::format::name::ArchiveName;
use crate::maintenance::prune::{Policy, Rule, Verdict, judge};
use crate::repository::archives::Archive;
use crate::repository::now;
use crate::repository::reference::Reference;
use crate::repository::states::{Change, apply};

pub(in crate::cli) fn run(args: &PruneArgs) -> anyhow::Result<()> {
    let location = Location::parse(args.location.as_deref())?;
    let policy = policy(args)?;
    policy.check()?;
    let reference = location.reference.as_deref().map(Reference::parse).transpose()?;
    if let Some(reference) = reference.as_ref().filter(|reference| reference.is_one_archive()) {
        bail!("prune judges all archives of a name; {reference} names one: 'copal delete' is for that");
    }
    let opened = Opened::at(&location.repository, &args.secrets)?;
    opened.warn_of_lost();
    let judged: Vec<&Archive> = match &reference {
        None => opened.archives.iter().collect(),
        Some(reference) => reference.matches(&opened.archives)?,
    };
    let zone = if args.utc { TimeZone::UTC } else { TimeZone::system() };
    let verdicts = judge(&judged, &policy, now(), &zone)?;
    warn_of_the_future(&verdicts);
    let changes: Vec<_> = verdicts
        .iter()
        .filter(|verdict| !verdict.is_kept())
        .map(|verdict| (verdict.archive.id(), Change::Delete))
        .collect();
    if !args.dry_run && !changes.is_empty() {
        let pruned = apply(&opened.repository, &format!("prune {}", count(changes.len())), &changes);
        opened.remember()?;
        pruned?;
    }
    report(args, &location, &verdicts)
}

fn policy(args: &PruneArgs) -> anyhow::Result<Policy> {
    let tags = args.keep_tags.iter().map(|tag| ArchiveName::new(tag)).collect::<Result<_, _>>()?;
    let periods = [args.keep_hourly, args.keep_daily, args.keep_weekly, args.keep_monthly, args.keep_yearly];
    Ok(Policy { last: args.keep_last, periods, within: args.keep_within.clone(), tags })
}

fn warn_of_the_future(verdicts: &[Verdict<'_>]) {
    for Verdict { archive, .. } in verdicts.iter().filter(|verdict| verdict.rules.contains(&Rule::Future)) {
        log::warn!(
            "{} #{:.8} stands for {}, which is yet to come: it is kept and no rule counts it",
            archive.name,
            archive.id().to_string(),
            output::time(archive.time())
        );
    }
}

fn report(args: &PruneArgs, location: &Location, verdicts: &[Verdict<'_>]) -> anyhow::Result<()> {
    if args.json {
        return output::json(&document(args, verdicts));
    }
    let shown = verdicts.iter().filter(|verdict| args.list || !verdict.is_kept());
    let rows: Vec<_> = shown.map(|verdict| verdict_row(args, verdict)).collect();
    output::table(&rows, &[])?;
    let mut names: BTreeMap<&ArchiveName, (usize, usize)> = BTreeMap::new();
    for verdict in verdicts {
        let (kept, pruned) = names.entry(&verdict.archive.name).or_default();
        *(if verdict.is_kept() { kept } else { pruned }) += 1;
    }
    let (will, be) = if args.dry_run { ("would be ", "would be ") } else { ("", "") };
    output::lines(
        names.iter().map(|(name, (kept, pruned))| format!("{name}: {kept} {be}kept, {pruned} {will}pruned")),
    )?;
    let pruned: usize = names.values().map(|(_, pruned)| pruned).sum();
    if args.dry_run || pruned == 0 {
        return Ok(());
    }
    let place = location.repository.display();
    output::lines([format!(
        "The space is free after 'copal compact {place}'; until then 'copal undelete' brings archives back"
    )])
}

fn verdict_row(args: &PruneArgs, verdict: &Verdict<'_>) -> Vec<String> {
    let mut row = row(verdict.archive);
    if args.list {
        let word = if verdict.is_kept() { "keep" } else { "prune" };
        let rules = verdict.rules.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        row.extend([word.to_owned(), rules]);
    }
    row
}

fn document(args: &PruneArgs, verdicts: &[Verdict<'_>]) -> serde_json::Value {
    let of = |kept: bool| -> Vec<_> {
        let these = verdicts.iter().filter(|verdict| verdict.is_kept() == kept);
        these
            .map(|verdict| {
                let mut archive = summary(verdict.archive);
                archive["rules"] = verdict.rules.iter().map(ToString::to_string).collect();
                archive
            })
            .collect()
    };
    json!({ "kept": of(true), "pruned": of(false), "dry_run": args.dry_run })
}
