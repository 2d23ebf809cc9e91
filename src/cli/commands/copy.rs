//! `copal copy`.

use anyhow::{anyhow, bail};
use serde_json::{Value, json};

use crate::archiver::Error;
use crate::archiver::copy::{CopyOptions, Outcome, copy};
use crate::cli::args::CopyArgs;
use crate::cli::exit::is_broken_pipe;
use crate::cli::location::Location;
use crate::cli::output::{self, rfc3339, size, time};
use crate::cli::progress::Progress;
use crate::cli::repository::Opened;
use crate::cli::signals;
use crate::repository::archives::{Archive, chain};
use crate::repository::reference::Reference;

pub(in crate::cli) fn run(args: &CopyArgs) -> anyhow::Result<()> {
    let source = Location::parse(Some(&args.from))?;
    let target = Location::parse(Some(&args.to))?.repository_only()?;
    let from = Opened::at(&source.repository, &args.secrets)?;
    from.warn_of_lost();
    let chosen = chosen(source.reference.as_deref(), &from.archives)?;
    let to = Opened::at(&target, &args.to_secrets.secrets())?;
    let options = CopyOptions { compression: args.compression, recut: args.recut, dry_run: args.dry_run };
    let stop = signals::stop()?;
    let progress = Progress::new(true, args.json);
    let mut report = Report::new(args);
    let copied = copy(
        &from.repository,
        &to.repository,
        &chosen,
        &options,
        &stop,
        &progress,
        &mut |archive, outcome| progress.aside(|| report.take(archive, outcome)),
    );
    progress.clear();
    if report.copied > 0 && !args.dry_run {
        to.remember()?;
    }
    let told = report.finish(&from, &to, copied.is_ok());
    copied.map_err(|error| match error {
        Error::Stopped { .. } => anyhow!(error)
            .context("not all archives were copied; repeat the command to go on where it stopped"),
        error => error.into(),
    })?;
    match told {
        Err(error) if !args.dry_run && !is_broken_pipe(&error) => {
            log::warn!("the archives are copied, but that could not be told: {error}");
            Ok(())
        }
        told => told,
    }
}

/// The archives to copy, oldest first.
fn chosen<'a>(reference: Option<&str>, archives: &'a [Archive]) -> anyhow::Result<Vec<&'a Archive>> {
    let Some(text) = reference else { return Ok(archives.iter().collect()) };
    let reference = Reference::parse(text)?;
    if !reference.is_one_archive() {
        return Ok(reference.matches(archives)?);
    }
    let archive = reference.resolve(archives)?;
    if archive.unconfirmed {
        bail!(
            "{} is unconfirmed: its create has not ended, or died before it was sure of all chunks; only confirmed archives are copied",
            shown(archive)
        );
    }
    Ok(vec![archive])
}

/// An archive in messages.
fn shown(archive: &Archive) -> String {
    format!("{} #{:.8}, {}", archive.name, archive.id().to_string(), time(archive.time()))
}

/// What is told: line by line to people, at the end to programs.
struct Report<'a> {
    args: &'a CopyArgs,
    archives: Vec<Value>,
    copied: usize,
    present: usize,
    left_out: usize,
    /// The first failure of telling.
    told: anyhow::Result<()>,
}

impl<'a> Report<'a> {
    fn new(args: &'a CopyArgs) -> Self {
        Self { args, archives: Vec::new(), copied: 0, present: 0, left_out: 0, told: Ok(()) }
    }

    fn take(&mut self, archive: &Archive, outcome: &Outcome) {
        match outcome {
            Outcome::Copied { id, record, warnings } => {
                self.copied += 1;
                let stats = record.stats;
                let id = id.map(|id| format!(" as #{:.8}", id.to_string())).unwrap_or_default();
                self.line(format!(
                    "{}  {}{id}: {}, {} chunks new, {} already there, {} stored",
                    if self.args.dry_run { "Would copy" } else { "Copied" },
                    shown(archive),
                    size(archive.size()),
                    stats.new_chunks,
                    stats.reused_chunks,
                    size(stats.new_sealed)
                ));
                warnings.iter().for_each(|warning| log::warn!("{}: {warning}", shown(archive)));
            }
            Outcome::Present(_) => self.present += 1,
            Outcome::Unconfirmed => {
                self.left_out += 1;
                self.line(format!("Left out  {}: it is unconfirmed", shown(archive)));
            }
            Outcome::Damaged(error) => {
                self.left_out += 1;
                log::error!("{} is damaged and was not copied: {}", shown(archive), chain(error));
            }
        }
        if self.args.json {
            self.archives.push(entry(archive, outcome));
        }
    }

    fn line(&mut self, line: String) {
        if self.told.is_ok() && !self.args.json {
            self.told = output::lines([line]);
        }
    }

    fn finish(mut self, from: &Opened, to: &Opened, complete: bool) -> anyhow::Result<()> {
        if !complete && self.copied + self.present + self.left_out == 0 {
            return Ok(());
        }
        if self.args.json {
            return output::json(&json!({
                "from": from.repository.id(), "to": to.repository.id(), "archives": self.archives,
                "dry_run": self.args.dry_run, "complete": complete,
            }));
        }
        let (verb, there) = if self.args.dry_run { ("would be copied", "are") } else { ("copied", "were") };
        let Self { copied, present, left_out, .. } = self;
        self.line(format!("{copied} {verb}, {present} {there} there already, {left_out} left out"));
        self.told
    }
}

/// What became of an archive, for programs.
fn entry(archive: &Archive, outcome: &Outcome) -> Value {
    let mut entry = json!({ "id": archive.id(), "name": archive.name, "time": rfc3339(archive.time()) });
    let more = match outcome {
        Outcome::Copied { id, record, warnings } => json!({
            "outcome": "copied", "copy": id, "size": record.size(), "read": record.stats.read,
            "new_chunks": record.stats.new_chunks, "new_plain": record.stats.new_plain,
            "new_stored": record.stats.new_sealed, "reused_chunks": record.stats.reused_chunks, "warnings": warnings,
        }),
        Outcome::Present(id) => json!({ "outcome": "present", "copy": id }),
        Outcome::Unconfirmed => json!({ "outcome": "unconfirmed" }),
        Outcome::Damaged(error) => json!({ "outcome": "damaged", "error": chain(error) }),
    };
    if let (Value::Object(entry), Value::Object(more)) = (&mut entry, more) {
        entry.extend(more);
    }
    entry
}
