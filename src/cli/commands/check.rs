//! `copal check`.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::args::CheckArgs;
use crate::cli::disk::table;
use crate::cli::location::Location;
use crate::cli::output::{self, count, escaped, rfc3339, size, time};
use crate::cli::progress::Progress;
use crate::cli::repository::Opened;
use crate::cli::{logger, signals};
use crate::id::ArchiveId;
use crate::image::reader::ImageReader;
use crate::maintenance::check::report::{DamagedArchive, DamagedMember, Fault, Finding, Report};
use crate::maintenance::check::{CheckOptions, check};
use crate::maintenance::repair::{Repaired, repair};
use crate::partition::{Partition, Table};
use crate::repository::Repository;
use crate::repository::reference::Reference;
use crate::storage::local::LocalStorage;

/// Memory for looking at the partition tables of damaged images, in bytes.
const CACHE: usize = 32 << 20;
/// How many damaged ranges of a member are shown to people.
const MOST_RANGES: usize = 20;
/// Temporary files that were last written this long ago belong to no put that still runs.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

pub(in crate::cli) fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let location = Location::parse(args.location.as_deref())?;
    let opened = Opened::at(&location.repository, &args.secrets)?;
    let archives = chosen(args, location.reference.as_deref(), &opened)?;
    let verify_data = args.verify_data || args.repair;
    let options = CheckOptions { verify_data, subset: args.subset, archives };
    let stop = signals::stop()?;
    logger::errors_only();
    let progress = Progress::new(false, args.json);
    let stale = stale_temporaries(&location.repository);
    if args.repair {
        let repaired = repair(&opened.repository, &options, &stop, &progress);
        progress.clear();
        return show_repaired(args, &opened.repository, &repaired?, stale);
    }
    let checked = check(&opened.repository, &options, &stop, &progress);
    progress.clear();
    let report = checked?;
    let tables = Tables::of(&opened.repository, &report);
    if args.json {
        output::json(&document(&opened.repository, &report, &tables, stale))?;
    } else {
        output::lines(lines(&report, &tables, stale))?;
    }
    if !report.is_clean() {
        log::error!("{}; {}", verdict(&report), advice(&report));
    }
    Ok(())
}

fn show_repaired(
    args: &CheckArgs,
    repository: &Arc<Repository>,
    repaired: &Repaired,
    stale: usize,
) -> anyhow::Result<()> {
    let before = Tables::of(repository, &repaired.before);
    let after = Tables::of(repository, &repaired.after);
    if args.json {
        output::json(&json!({
            "before": document(repository, &repaired.before, &before, stale),
            "repaired": {
                "copies": repaired.copies, "quarantined": repaired.quarantined, "salvaged": repaired.salvaged,
                "index_segments": repaired.segments, "given_up": repaired.given_up, "healed": repaired.healed,
                "refused": repaired.refused,
            },
            "after": document(repository, &repaired.after, &after, stale),
        }))?;
    } else {
        output::lines(lines(&repaired.before, &before, stale))?;
        output::lines(done_lines(repaired))?;
        output::lines(left_lines(&repaired.after, &after))?;
    }
    if !repaired.after.is_clean() || !repaired.refused.is_empty() {
        let left = if repaired.after.is_clean() {
            "not all could be repaired".into()
        } else {
            verdict(&repaired.after)
        };
        let records = repaired.after.damaged.iter().any(|archive| archive.reason.is_some());
        log::error!("{left}; {}", if records { GIVE_UP } else { AFTER_REPAIR });
    }
    Ok(())
}

fn done_lines(repaired: &Repaired) -> Vec<String> {
    let mut lines = Vec::new();
    if repaired.copies > 0 {
        lines.push(format!("{} copies were written again", repaired.copies));
    }
    if repaired.quarantined.count > 0 {
        lines.push(format!(
            "{} with {} went into 'quarantine'; {} good chunks and maps from there are in new packs",
            count(repaired.quarantined.count, "bad pack"),
            size(repaired.quarantined.bytes),
            repaired.salvaged.count
        ));
    }
    if repaired.segments > 0 {
        lines.push(format!("the index was made anew, in {} segments", repaired.segments));
    }
    if repaired.given_up > 0 {
        lines.push(format!(
            "{} chunks and maps are given up until a backup stores them again; what only lost maps lead to goes with the next 'copal compact': if there is a copy of the repository, bring back what is missing before that",
            repaired.given_up
        ));
    }
    if repaired.healed > 0 {
        lines.push(format!("{} chunks and maps were found where others stored them again", repaired.healed));
    }
    if lines.is_empty() && repaired.refused.is_empty() {
        lines.push("nothing was to be done".into());
    }
    let done = lines.into_iter().map(|line| format!("Repaired     {line}"));
    done.chain(repaired.refused.iter().map(|refused| format!("Refused      {refused}"))).collect()
}

fn left_lines(report: &Report, tables: &Tables) -> Vec<String> {
    if report.is_clean() {
        return vec!["No damage is left".into()];
    }
    let mut lines = vec!["Left:".to_owned()];
    lines.extend(report.findings.iter().map(finding_line));
    for (number, archive) in report.damaged.iter().enumerate() {
        lines.extend(archive_lines(archive, number, tables));
    }
    lines
}

/// The archives that are asked for; `None`: all.
fn chosen(
    args: &CheckArgs,
    reference: Option<&str>,
    opened: &Opened,
) -> anyhow::Result<Option<Vec<ArchiveId>>> {
    let mut ids = Vec::new();
    for text in reference.into_iter().chain(args.archives.iter().map(String::as_str)) {
        let reference = Reference::parse(text)?;
        if reference.is_one_archive() {
            ids.push(reference.resolve(&opened.archives)?.id());
        } else {
            ids.extend(reference.matches(&opened.archives)?.iter().map(|archive| archive.id()));
        }
    }
    let limited = reference.is_some() || !args.archives.is_empty();
    Ok(limited.then_some(ids))
}

fn stale_temporaries(repository: &Path) -> usize {
    let storage = LocalStorage::open(repository);
    storage.and_then(|storage| storage.stale_temporaries(STALE)).map_or(0, |stale| stale.len())
}

/// The partitions of each damaged member, in the order of the report.
struct Tables(Vec<Vec<Option<Table>>>);

impl Tables {
    fn of(repository: &Arc<Repository>, report: &Report) -> Self {
        let reader = ImageReader::new(repository.clone(), CACHE);
        let of_archive = |archive: &DamagedArchive| {
            let Ok(record) = repository.record(archive.id) else { return Vec::new() };
            let members = archive.members.iter();
            members.map(|damaged| table(&reader, record.members.get(damaged.number)?)).collect()
        };
        Self(report.damaged.iter().map(of_archive).collect())
    }

    /// The partitions over which a range lies.
    fn over(&self, archive: usize, member: usize, range: &Range<u64>) -> Vec<&Partition> {
        let table = self.0.get(archive).and_then(|members| members.get(member)?.as_ref());
        let partitions = table.map(|table| &table.partitions[..]).unwrap_or_default();
        let over = |partition: &&Partition| {
            partition.start < range.end && range.start < partition.start + partition.len
        };
        partitions.iter().filter(over).collect()
    }
}

fn lines(report: &Report, tables: &Tables, stale: usize) -> Vec<String> {
    let checked = &report.checked;
    let mut lines = vec![format!(
        "Checked      {}, {} with {}, {}",
        count(checked.archives, "archive"),
        count(checked.packs.count, "pack"),
        size(checked.packs.bytes),
        count(checked.objects.count, "other object")
    )];
    if checked.verified_packs > 0 {
        let speed = checked.blobs.bytes as f64 / checked.verify_seconds.max(1e-3);
        lines.push(format!(
            "Opened       {} chunks and maps of {} packs, {} in {:.1} s ({}/s)",
            checked.blobs.count,
            checked.verified_packs,
            size(checked.blobs.bytes),
            checked.verify_seconds,
            size(speed as u64)
        ));
    }
    lines.extend(report.findings.iter().map(finding_line));
    for (number, archive) in report.damaged.iter().enumerate() {
        lines.extend(archive_lines(archive, number, tables));
    }
    lines.extend(report.unconfirmed.iter().map(|archive| {
        format!(
            "Unconfirmed  {} #{:.8}; the session that made it is {}",
            archive.name,
            archive.id.to_string(),
            archive.session
        )
    }));
    lines.extend(notes(report, stale));
    if report.is_clean() {
        lines.push("No damage found".into());
    }
    lines
}

fn finding_line(finding: &Finding) -> String {
    let what = match finding.fault {
        Fault::Copy => "Degraded    ",
        Fault::Index => "Index       ",
        Fault::Object | Fault::PackMissing | Fault::PackList | Fault::Blobs => "Damaged     ",
    };
    format!("{what} {}: {}", finding.object, escaped(finding.reason.as_bytes()))
}

fn archive_lines(archive: &DamagedArchive, number: usize, tables: &Tables) -> Vec<String> {
    let name = archive.name.as_ref().map_or("of unknown name".into(), ToString::to_string);
    let when = archive.time.map(|at| format!(", {}", time(at))).unwrap_or_default();
    let mut lines = vec![format!("Archive      {name} #{}{when} is damaged", archive.id)];
    if let Some(reason) = &archive.reason {
        lines.push(format!("  its record cannot be read: {}", escaped(reason.as_bytes())));
    }
    for (member_number, member) in archive.members.iter().enumerate() {
        lines.push(format!(
            "  {}: {} of {} cannot be read",
            member.name,
            size(member.bytes()),
            size(member.size)
        ));
        for range in member.ranges.iter().take(MOST_RANGES) {
            let partitions = tables.over(number, member_number, range);
            lines.push(range_line(range, &partitions));
        }
        if member.ranges.len() > MOST_RANGES {
            lines.push(format!("    and {} more; --json shows all", member.ranges.len() - MOST_RANGES));
        }
    }
    lines
}

fn range_line(range: &Range<u64>, partitions: &[&Partition]) -> String {
    let shown = |partition: &&Partition| {
        let filesystem = partition.filesystem.as_deref().unwrap_or("nothing recognised");
        format!("{} ({filesystem})", partition.number)
    };
    let inside = match partitions {
        [] => String::new(),
        [one] => format!(", in partition {}", shown(one)),
        more => format!(", in partitions {}", more.iter().map(shown).collect::<Vec<_>>().join(", ")),
    };
    format!("    offset {:>13}  {:>10}{inside}", range.start, size(range.end - range.start))
}

fn notes(report: &Report, stale: usize) -> Vec<String> {
    let (notes, mut lines) = (&report.notes, Vec::new());
    let unreferenced = notes.unreferenced_blobs;
    if unreferenced.count > 0 {
        lines.push(format!(
            "unreferenced: {}, {} in all; {}",
            count(notes.unreferenced_packs.count, "pack"),
            size(unreferenced.bytes),
            if report.damaged.is_empty() {
                "'copal compact' frees whole packs, and parts of others that are worth it"
            } else {
                "some of it may be of archives that are damaged"
            }
        ));
    }
    if notes.unindexed_packs.count > 0 {
        lines.push(format!(
            "of a running command, or left by an interrupted one: {} with {}",
            count(notes.unindexed_packs.count, "pack"),
            size(notes.unindexed_packs.bytes)
        ));
    }
    if !notes.interrupted.is_empty() {
        lines.push(format!(
            "stored once instead of twice by interrupted commands, and not needed: {}",
            count(notes.interrupted.len(), "object")
        ));
    }
    if report.given_up.healed > 0 {
        lines.push(format!(
            "lost, and stored again by later backups: {}; the archives that need them are whole there",
            count(report.given_up.healed, "chunk")
        ));
    }
    if report.given_up.lost > 0 {
        lines.push(format!(
            "known to be lost: {}; a backup that meets them heals them",
            count(report.given_up.lost, "chunk")
        ));
    }
    if notes.unknown_names > 0 {
        lines.push(format!("with names that mean nothing here: {}", count(notes.unknown_names, "file")));
    }
    if stale > 0 {
        lines.push(format!(
            "left in 'tmp' by interrupted commands: {}; 'copal compact' removes them",
            count(stale, "temporary file")
        ));
    }
    lines.into_iter().map(|line| format!("Note         {line}")).collect()
}

/// What helps where a repair does not.
const AFTER_REPAIR: &str = "a new backup of the same disks heals what it still finds there";
/// What helps where a record is lost.
const GIVE_UP: &str = "bring the records back from a copy of the repository, or give the archives up with copal delete 'REPO::#ID'";

fn advice(report: &Report) -> String {
    if report.findings.iter().any(|finding| finding.repairable) {
        return "'copal check --repair' mends what can be mended".into();
    }
    if report.damaged.is_empty() {
        return "what a damaged state said may be said again ('copal tag', 'rename', 'delete', 'undelete'); 'copal compact' removes what deleted archives left".into();
    }
    if report.damaged.iter().all(|archive| archive.reason.is_some()) {
        return GIVE_UP.into();
    }
    if report.given_up.lost > 0 {
        AFTER_REPAIR.into()
    } else {
        "'copal check --repair' bounds the damage".into()
    }
}

fn verdict(report: &Report) -> String {
    let degraded = report.findings.iter().filter(|finding| finding.fault == Fault::Copy).count();
    match report.damaged.len() {
        0 if degraded == report.findings.len() => format!(
            "one good copy of two is left of {}: every archive is whole, but the next damage may not spare it",
            count(degraded, "object")
        ),
        0 => format!("damaged: {}; every archive is whole", count(report.findings.len(), "object")),
        1 => "1 archive is damaged".into(),
        archives => format!("{archives} archives are damaged"),
    }
}

fn document(repository: &Repository, report: &Report, tables: &Tables, stale: usize) -> Value {
    let range = |archive: usize, member: usize, range: &Range<u64>| {
        let partitions = tables.over(archive, member, range);
        let partitions: Vec<_> = partitions.iter().map(|partition| partition.number).collect();
        json!({ "offset": range.start, "length": range.end - range.start, "partitions": partitions })
    };
    let member = |archive: usize, (number, member): (usize, &DamagedMember)| {
        let ranges = member.ranges.iter().map(|damaged| range(archive, number, damaged));
        let ranges: Vec<_> = ranges.collect();
        json!({ "name": member.name, "size": member.size, "lost": member.bytes(), "ranges": ranges })
    };
    let archive = |(number, archive): (usize, &DamagedArchive)| {
        let members = archive.members.iter().enumerate().map(|damaged| member(number, damaged));
        let members: Vec<_> = members.collect();
        json!({
            "id": archive.id, "name": archive.name, "time": archive.time.map(rfc3339), "reason": archive.reason,
            "members": members,
        })
    };
    let damaged: Vec<_> = report.damaged.iter().enumerate().map(archive).collect();
    json!({
        "repository": repository.id(), "clean": report.is_clean(), "checked": report.checked,
        "findings": report.findings, "damaged": damaged, "unconfirmed": report.unconfirmed,
        "given_up": report.given_up, "notes": report.notes, "stale_temporaries": stale,
    })
}
