//! `copal extract`.

use std::io;
use std::path::Path;

use anyhow::{Context, bail};

use crate::archiver::extract::{extract, extract_to_stream};
use crate::archiver::target::Target;
use crate::cli::args::ExtractArgs;
use crate::cli::location::Location;
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
    let opened = Opened::at(&location.repository, &args.secrets)?;
    let archive = reference.resolve(&opened.archives)?;
    let record = opened.repository.record(archive.id())?;
    let reader = ImageReader::new(opened.repository.clone(), CACHE);
    match (chosen(args, &record)?, &args.target) {
        (Some(member), None) => to_stdout(&reader, member),
        (Some(member), Some(target)) => {
            let into_directory = target.is_dir();
            let path = if into_directory { target.join(member.name.as_str()) } else { target.clone() };
            to_target(args, &reader, member, &path)
        }
        (None, None) => {
            bail!("the archive has several members; choose one with --member: {}", names(&record))
        }
        (None, Some(directory)) => {
            if !directory.is_dir() {
                std::fs::create_dir(directory).with_context(|| {
                    format!(
                        "the archive has several members ({}): the target must be a directory, or choose one with --member; cannot make {}",
                        names(&record),
                        directory.display()
                    )
                })?;
            }
            record.members.iter().try_for_each(|member| {
                to_target(args, &reader, member, &directory.join(member.name.as_str()))
            })
        }
    }
}

/// The one member that is meant; `None` if it is all of several.
fn chosen<'a>(args: &ExtractArgs, record: &'a ArchiveRecord) -> anyhow::Result<Option<&'a Member>> {
    match (&args.member, &record.members[..]) {
        (None, [only]) => Ok(Some(only)),
        (None, _) => Ok(None),
        (Some(name), members) => {
            let found = members.iter().find(|member| member.name.as_str() == name);
            found
                .map(Some)
                .with_context(|| format!("the archive has no member {name:?}; it has: {}", names(record)))
        }
    }
}

fn names(record: &ArchiveRecord) -> String {
    record.members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn to_stdout(reader: &ImageReader, member: &Member) -> anyhow::Result<()> {
    let image = Image::of(member, reader.repository().config().span_shift);
    let progress = Progress::new(false, false);
    let done = extract_to_stream(reader, &image, io::stdout().lock(), &signals::stop()?, &progress);
    progress.clear();
    Ok(done?)
}

fn to_target(args: &ExtractArgs, reader: &ImageReader, member: &Member, path: &Path) -> anyhow::Result<()> {
    let image = Image::of(member, reader.repository().config().span_shift);
    let target = Target::open(path, image.size, args.force)?;
    let progress = Progress::new(false, false);
    let done = extract(reader, &image, &target, &signals::stop()?, &progress);
    progress.clear();
    done?;
    Ok(target.finish()?)
}
