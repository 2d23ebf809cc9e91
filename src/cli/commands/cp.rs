//! `copal cp`.

mod report;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::json;

use self::report::Voice;
use crate::cli::apart::{identity, refuse_inside};
use crate::cli::args::CpArgs;
use crate::cli::inside::{Inner, Inside, archive, named};
use crate::cli::output::{self, escaped};
use crate::cli::progress::Progress;
use crate::cli::repository::Opened;
use crate::cli::signals;
use crate::filesystem::path::{Place, expand, find};
use crate::filesystem::{Filesystem, Kind};
use crate::image::reader::ImageReader;
use crate::restore::{Goal, Options, Summary, restore, to_stream};

/// For chunks: files that lie beside each other share them.
const CACHE: usize = 256 << 20;

pub(in crate::cli) fn run(args: &CpArgs) -> anyhow::Result<()> {
    let [first, more @ .., destination] = &args.words[..] else {
        bail!("a destination is required: name what to copy, and last where to, such as '.'")
    };
    let inside = Inside::parse(first)?;
    let paths = paths(&inside, more)?;
    let repository = &inside.location.repository;
    if destination != "-" {
        refuse_inside(Path::new(destination), repository)?;
    }
    let opened = Opened::at(&inside.location.repository, &args.secrets)?;
    let (archive, part) = archive(&inside, &opened)?;
    let record = opened.repository.record(archive.id())?;
    let reader = ImageReader::new(opened.repository.clone(), CACHE);
    let inner = Inner::new(&reader, &record, args.member.as_deref(), named(&inside, archive, part))?;
    let part = inner.part(part)?;
    let filesystem = inner.open(part)?;
    if destination == "-" {
        if args.dry_run {
            bail!(
                "--dry-run counts what would be written to a directory; leave it out to see a file's content"
            );
        }
        return stream(&*filesystem, &paths);
    }
    let places = places(&*filesystem, &paths)?;
    let mut goal = goal(Path::new(destination), &places, &*filesystem, args)?;
    goal.closed = identity(repository);
    let voice = Voice::new(Progress::new(false, args.json), args.json);
    let summary = copy(&*filesystem, &places, &goal, args, &voice)?;
    if !args.json {
        return if args.stats || args.dry_run {
            output::lines([report::counted(&summary, args.dry_run)])
        } else {
            Ok(())
        };
    }
    let mut document = voice.document();
    document["archive"] = json!(archive.id());
    document["member"] = json!(inner.member.name);
    document["part"] = json!(part.name);
    document["copied"] = report::counts(&summary);
    document["dry_run"] = args.dry_run.into();
    output::json(&document)
}

/// Copies, and tells what is to be told.
fn copy(
    filesystem: &dyn Filesystem,
    places: &[Place],
    goal: &Goal,
    args: &CpArgs,
    voice: &Voice,
) -> anyhow::Result<Summary> {
    let stop = signals::stop()?;
    allow_many_files();
    let done = restore(filesystem, places, goal, options(args), &stop, &voice.progress, voice);
    voice.progress.clear();
    let summary = done.context("not all was copied; files that have their names are whole")?;
    report::tell(&summary, args.no_owner);
    Ok(summary)
}

/// All paths of the command line, which lie in one part.
fn paths(inside: &Inside, more: &[OsString]) -> anyhow::Result<Vec<Vec<u8>>> {
    let Some(first) = &inside.path else {
        bail!("name what to copy as REPO::ARCHIVE:PART:/PATH; 'copal ls REPO::ARCHIVE' lists the parts")
    };
    let mut paths = vec![first.clone()];
    for word in more {
        let other = if word.as_bytes().windows(2).any(|pair| pair == b"::") {
            Inside::parse(word).ok()
        } else {
            None
        };
        match other {
            Some(Inside { location, path: Some(path) }) if location == inside.location => paths.push(path),
            Some(Inside { path: Some(_), .. }) => {
                bail!("{} is in another archive or part: copy from one at a time", escaped(word.as_bytes()))
            }
            _ => paths.push(word.as_bytes().to_vec()),
        }
    }
    Ok(paths)
}

/// What the paths stand for, each once.
fn places(filesystem: &dyn Filesystem, paths: &[Vec<u8>]) -> anyhow::Result<Vec<Place>> {
    let mut places: Vec<Place> = Vec::new();
    for path in paths {
        let found = if path.ends_with(b"/") {
            find(filesystem, path, true).map(|place| vec![place])
        } else {
            expand(filesystem, path)
        };
        for place in found.with_context(|| format!("cannot copy {}", escaped(path)))? {
            if !places.contains(&place) {
                places.push(place);
            }
        }
    }
    Ok(places)
}

/// Where to: into a directory that exists, or under a new name beside others.
fn goal(
    destination: &Path,
    places: &[Place],
    filesystem: &dyn Filesystem,
    args: &CpArgs,
) -> anyhow::Result<Goal> {
    let shown = destination.display();
    if destination.is_dir() {
        return Ok(Goal { directory: destination.to_owned(), name: None, closed: None });
    }
    let [place] = places else {
        bail!("{shown} is no directory, and several files are to be copied: make it first, mkdir {shown}")
    };
    let is_directory = filesystem.metadata(place.node)?.kind == Kind::Directory;
    let wants_directory = destination.as_os_str().as_bytes().ends_with(b"/");
    if wants_directory && !is_directory {
        bail!("there is no directory {shown}: make it first, mkdir {shown}")
    }
    if is_directory && !args.recursive {
        bail!("{} is a directory; give -r to copy it with all below it", escaped(&place.path()))
    }
    if destination.symlink_metadata().is_ok() && (is_directory || !args.force) {
        let advice = if is_directory {
            "give a directory, or another name"
        } else {
            "give another name, or --force to replace it"
        };
        bail!("{shown} exists; {advice}")
    }
    let name = destination.file_name().map(OsStr::as_bytes);
    let name = name.with_context(|| format!("{shown} cannot be made: it has no name"))?;
    let above = destination.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !above.is_dir() {
        bail!("{shown} cannot be made: {} is no directory; make that first", above.display())
    }
    Ok(Goal { directory: PathBuf::from(above), name: Some(name.to_vec()), closed: None })
}

fn options(args: &CpArgs) -> Options {
    Options {
        recursive: args.recursive,
        force: args.force,
        dry_run: args.dry_run,
        owners: rustix::process::geteuid().is_root() && !args.no_owner,
        devices: args.devices,
        own: args.all,
    }
}

/// One file to standard output.
fn stream(filesystem: &dyn Filesystem, paths: &[Vec<u8>]) -> anyhow::Result<()> {
    let [path] = paths else { bail!("only one file can be written to standard output") };
    let cannot = || format!("cannot copy {}", escaped(path));
    let place = match &expand(filesystem, path).with_context(cannot)?[..] {
        // Where a link leads is what is wanted.
        [place] => find(filesystem, &place.path(), true).with_context(cannot)?,
        places => bail!(
            "{} stands for {} files; only one can be written to standard output",
            escaped(path),
            places.len()
        ),
    };
    let progress = Progress::new(false, false);
    let done = to_stream(filesystem, place.node, io::stdout().lock(), &signals::stop()?, &progress);
    progress.clear();
    done.with_context(|| format!("{} was not written whole", escaped(&place.path())))?;
    Ok(())
}

/// Directories of deep trees are held open; the soft limit is for programs that use `select`.
fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
