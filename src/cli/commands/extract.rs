//! `copal extract`.

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, bail};
use serde_json::json;
use unicode_normalization::UnicodeNormalization;

use crate::archiver::extract::{extract, extract_to_stream};
use crate::archiver::stream::Stream;
use crate::archiver::target::Target;
use crate::archiver::{Error, Stop};
use crate::cli::apart::refuse_inside;
use crate::cli::args::ExtractArgs;
use crate::cli::disk::table;
use crate::cli::location::Location;
use crate::cli::output;
use crate::cli::progress::Progress;
use crate::cli::repository::Opened;
use crate::cli::signals;
use crate::format::record::{ArchiveRecord, Member};
use crate::image::Image;
use crate::image::reader::ImageReader;
use crate::repository::reference::Reference;

/// Chunks that neighbouring spans share stay in memory: this many bytes of them.
const CACHE: usize = 64 << 20;

pub(in crate::cli) fn run(args: &ExtractArgs) -> anyhow::Result<()> {
    let location = Location::parse(Some(&args.location))?;
    let reference = Reference::parse(location.required_reference()?)?;
    if let Some(target) = &args.target {
        refuse_inside(target, &location.repository)?;
    }
    let opened = Opened::at(&location.repository, &args.secrets)?;
    let archive = reference.resolve(&opened.archives)?;
    if archive.unconfirmed {
        log::warn!(
            "{} is unconfirmed: its create has not ended, or died before it was sure of all chunks",
            archive.name
        );
    }
    let record = opened.repository.record(archive.id())?;
    let reader = ImageReader::new(opened.repository.clone(), CACHE);
    // Before any temporary file is made, so that a signal does not leave it behind.
    let extraction = Extraction { reader: &reader, force: args.force, stop: signals::stop()? };
    let chosen = chosen(args, &record)?;
    let range = match (chosen, args.partition) {
        (Some(member), Some(number)) => extraction.partition(member, number)?,
        (None, Some(_)) => {
            bail!("the archive has several members; choose one with --member: {}", names(&record))
        }
        (member, None) => 0..member.map_or(0, |member| member.size),
    };
    match (chosen, &args.target) {
        (Some(member), None) => extraction.to_stdout(member, &range)?,
        (Some(member), Some(target)) => {
            let own = match args.partition {
                Some(number) => format!("{}-{number}.img", member.name.as_str().trim_end_matches(".img")),
                None => member.name.to_string(),
            };
            let path = if target.is_dir() { target.join(own) } else { target.clone() };
            extraction.to_target(member, &range, &path)?;
        }
        (None, None) => {
            bail!("the archive has several members; choose one with --member: {}", names(&record))
        }
        (None, Some(directory)) => extraction.all(&record, directory)?,
    }
    if !args.json {
        return Ok(());
    }
    let restored = record.members.iter().filter(|member| chosen.is_none_or(|only| only.name == member.name));
    let members: Vec<_> = restored
        .map(|member| json!({ "name": member.name, "size": member.size, "data": member.data }))
        .collect();
    let mut document = json!({ "archive": archive.id(), "target": args.target, "members": members });
    if let Some(number) = args.partition {
        document["partition"] =
            json!({ "number": number, "start": range.start, "len": range.end - range.start });
    }
    output::json(&document)
}

/// The one member that is meant; `None` if it is all of several.
fn chosen<'a>(args: &ExtractArgs, record: &'a ArchiveRecord) -> anyhow::Result<Option<&'a Member>> {
    match (&args.member, &record.members[..]) {
        (None, [only]) => Ok(Some(only)),
        (None, _) => Ok(None),
        (Some(name), members) => {
            let normal: String = name.nfc().collect();
            let found = members.iter().find(|member| member.name.as_str() == normal);
            found
                .map(Some)
                .with_context(|| format!("the archive has no member {name:?}; it has: {}", names(record)))
        }
    }
}

fn names(record: &ArchiveRecord) -> String {
    record.members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// How members are restored.
struct Extraction<'a> {
    reader: &'a ImageReader,
    force: bool,
    stop: Stop,
}

impl Extraction<'_> {
    fn image(&self, member: &Member) -> Image {
        Image::of(member, self.reader.repository().config().span_shift)
    }

    /// Where a partition lies.
    fn partition(&self, member: &Member, number: u32) -> anyhow::Result<Range<u64>> {
        let partitions = table(self.reader, member).map(|table| table.partitions).unwrap_or_default();
        let numbers: Vec<_> = partitions.iter().map(|partition| partition.number.to_string()).collect();
        let found = partitions.iter().find(|partition| partition.number == number).with_context(|| {
            let has = if numbers.is_empty() { "none".to_owned() } else { numbers.join(", ") };
            format!("{} has no partition {number}; it has: {has}", member.name)
        })?;
        Ok(found.start..found.start + found.len)
    }

    fn to_stdout(&self, member: &Member, range: &Range<u64>) -> anyhow::Result<()> {
        let progress = Progress::new(false, false);
        let out = Stream::new(io::stdout().as_fd().try_clone_to_owned().context("standard output")?);
        let done = extract_to_stream(self.reader, &self.image(member), range, out, &self.stop, &progress);
        progress.clear();
        done.map_err(|error| told(error, "the image that was written to standard output is not whole"))
    }

    fn to_target(&self, member: &Member, range: &Range<u64>, path: &Path) -> anyhow::Result<()> {
        let image = self.image(member);
        let target = Target::open(path, range.end - range.start, self.force)?;
        let device = target.is_device();
        let progress = Progress::new(false, false);
        let done = extract(self.reader, &image, range, &target, &self.stop, &progress);
        progress.clear();
        done.and_then(|()| target.finish()).map_err(|error| {
            let left = if device { "holds a part of the image now: extract again" } else { "was not made" };
            told(error, &format!("{} {left}", path.display()))
        })
    }

    /// Restores all members into a directory, which is made if it is not there.
    fn all(&self, record: &ArchiveRecord, directory: &Path) -> anyhow::Result<()> {
        let made = !directory.is_dir();
        if made {
            std::fs::create_dir(directory).with_context(|| {
                format!(
                    "the archive has several members ({}): the target must be a directory, or choose one with --member; cannot make {}",
                    names(record),
                    directory.display()
                )
            })?;
        }
        let path = |member: &Member| directory.join(member.name.as_str());
        // All refusals before the first member is restored.
        let taken = record.members.iter().map(path).find(|path| path.symlink_metadata().is_ok());
        if let Some(taken) = taken.filter(|_| !self.force) {
            bail!("{} exists; give another directory, or --force to replace it", taken.display());
        }
        let mut members = record.members.iter();
        let restored =
            members.try_for_each(|member| self.to_target(member, &(0..member.size), &path(member)));
        if made && restored.is_err() {
            // Stays if it holds members that are whole.
            let _ = std::fs::remove_dir(directory);
        }
        restored
    }
}

/// A failure that went on for a while, and what it leaves. A reader of standard output that went away is told nothing.
fn told(error: Error, left: &str) -> anyhow::Error {
    anyhow::Error::from(error).context(left.to_owned())
}
