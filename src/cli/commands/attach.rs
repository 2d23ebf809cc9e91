//! `copal attach`: from an archive to its mounted filesystems.

mod report;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};

use crate::allocation::journal::journal;
use crate::attach::host::{Host, boot_id, known_btrfs, servers};
use crate::attach::plan::{Disk as PlannedDisk, KnownFilesystems, Wishes, plan};
use crate::attach::setup::{Outcome, Shown, set_up};
use crate::attach::state::{Process, Record, Served, Store, new_id};
use crate::attach::teardown::take_down;
use crate::attach::{Error, RUN, SHOWN, directory};
use crate::cli::args::AttachArgs;
use crate::cli::disk::table;
use crate::cli::location::Location;
use crate::cli::output::rfc3339;
use crate::cli::repository::{Found, Opened};
use crate::cli::server::{self, Start};
use crate::cli::signals;
use crate::codec::slot_key::Secret;
use crate::format::record::Member;
use crate::fuse::names::path_of;
use crate::image::Image;
use crate::image::disk::Disk;
use crate::image::reader::ImageReader;
use crate::partition::{TableKind, parts, remarks};
use crate::repository::archives::Archive;
use crate::repository::reference::{Reference, format_time};

/// Memory for looking at images, in bytes.
const CACHE: usize = 32 << 20;
/// Where records are, unless the environment says otherwise.
const STATE: &str = "/var/lib/copal/attached";
/// Names another directory for them.
const STATE_VARIABLE: &str = "COPAL_ATTACH_STATE";

/// Where records of attaches are.
pub(super) fn store() -> Store {
    let path = std::env::var_os(STATE_VARIABLE).filter(|path| !path.is_empty());
    Store::new(path.map_or_else(|| STATE.into(), PathBuf::from))
}

pub(in crate::cli) fn run(args: &AttachArgs) -> anyhow::Result<()> {
    let location = Location::parse(Some(&args.location))?;
    let Some(reference) = location.reference.as_deref() else {
        bail!("name an archive to attach, as in {}::web01", location.repository.display());
    };
    need_root()?;
    let stop = signals::stop()?;
    let found = Found::at(&location.repository, &args.secrets, args.secrets.is_given())?;
    let secret = if found.needs_secret() { Some(args.secrets.get(&location.repository)?) } else { None };
    let opened = found.unlock(secret.as_ref())?;
    let archive = Reference::parse(reference)?.resolve(&opened.archives)?;
    let disks = disks(args, &opened, archive)?;
    let mut parts = disks.iter().flat_map(|disk| &disk.parts);
    let is_btrfs = parts.any(|(part, _)| part.filesystem.as_deref() == Some("btrfs"));
    let known = if is_btrfs || args.lvm { known_btrfs() } else { KnownFilesystems::new() };
    let plan = plan(&disks, wishes(args), &known);
    let store = store();
    let words = words(args, &location, archive)?;
    let choosing = store.lock_directories()?;
    let mut record = new_record(args, &location, archive, &store)?;
    let _lock = store.lock(&record.id)?;
    store.save(&record)?;
    drop(choosing);
    let serve = Box::new(|on: &Path, overlay| serve(&words, on, overlay, args, secret.as_ref()));
    let mut host = Host::new(store, serve);
    let done = set_up(&mut host, &mut record, &disks, &plan, &stop);
    if let Ok(outcomes) = &done
        && is_of_use(outcomes)
    {
        return report::tell(args, &record, outcomes, &disks);
    }
    undo(&mut host, &mut record)?;
    match done {
        Err(error) => Err(error.into()),
        Ok(outcomes) => {
            report::show(args, &record, &outcomes, &disks)?;
            bail!(
                "nothing of this archive could be mounted, and nothing is left attached; 'copal attach --no-mount' gives block devices"
            )
        }
    }
}

fn need_root() -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    bail!(
        "only root may attach, for it takes loop devices and mounts; without root, 'copal ls' and 'copal cp' list and copy files, and 'copal mount' shows each partition as a file for fuse2fs or ntfs-3g"
    )
}

fn wishes(args: &AttachArgs) -> Wishes {
    Wishes {
        mount: !args.no_mount,
        scan: args.scan,
        overlay: args.overlay || args.keep_overlay.is_some(),
        replay: !args.no_replay,
        lvm: args.lvm,
    }
}

/// The members that are disks.
fn disks(args: &AttachArgs, opened: &Opened, archive: &Archive) -> anyhow::Result<Vec<PlannedDisk>> {
    let record = opened.repository.record(archive.id())?;
    let reader = Arc::new(ImageReader::new(opened.repository.clone(), CACHE));
    let names: Vec<&str> = record.members.iter().map(|member| member.name.as_str()).collect();
    let (mut disks, mut notes) = (Vec::new(), Vec::new());
    for (number, member) in record.members.iter().enumerate() {
        if args.member.as_ref().is_some_and(|name| name != member.name.as_str()) {
            continue;
        }
        let Some(image) = path_of(archive, number) else { continue };
        let Some(disk) = disk(&reader, member, image) else { continue };
        if disk.parts.is_empty() {
            notes.extend(disk.notes);
        } else {
            disks.push(disk);
        }
    }
    if let Some(name) = args.member.as_deref().filter(|name| !names.contains(name)) {
        bail!("this archive has no member {name:?}; it has: {}", names.join(", "));
    }
    if disks.is_empty() {
        let which =
            args.member.as_deref().map_or("this archive".to_owned(), |name| format!("member {name:?}"));
        let why = if notes.is_empty() { String::new() } else { format!(" ({})", notes.join("; ")) };
        bail!(
            "no partition and no filesystem is recognised in {which}{why}; 'copal info' shows what is in an archive"
        );
    }
    Ok(disks)
}

fn disk(reader: &ImageReader, member: &Member, image: PathBuf) -> Option<PlannedDisk> {
    let table = table(reader, member)?;
    let disk = Disk(reader, Image::of(member, reader.repository().config().span_shift));
    let state = |range, filesystem: Option<&str>| journal(&disk, range, filesystem.unwrap_or_default());
    let parts = parts(&table, member.size);
    let notes = remarks(&table, &parts);
    let parts = parts
        .into_iter()
        .map(|part| {
            let state = state(part.start..part.start + part.len, part.filesystem.as_deref());
            (part, state)
        })
        .collect();
    let sector = if table.kind == TableKind::None { member.logical_sector } else { table.sector };
    Some(PlannedDisk {
        member: member.name.to_string(),
        image,
        len: member.size,
        // Loop devices have no larger sectors than a page.
        sector: if sector == 4096 { 4096 } else { 512 },
        parts,
        notes,
    })
}

fn new_record(
    args: &AttachArgs,
    location: &Location,
    archive: &Archive,
    store: &Store,
) -> anyhow::Result<Record> {
    let repository = std::fs::canonicalize(&location.repository)
        .with_context(|| format!("cannot find {}", location.repository.display()))?;
    let id = new_id().context("the system has no random bytes")?;
    let boot = boot_id().context("cannot tell this boot from others")?;
    let served = Served {
        repository: repository.display().to_string(),
        name: archive.name.to_string(),
        id: archive.id().to_string(),
        time: rfc3339(archive.time()),
    };
    let taken: Vec<PathBuf> = store.list()?.into_iter().flatten().map(|record| record.directory).collect();
    let (directory, is_new) = match &args.directory {
        Some(wanted) => {
            let chosen = directory::choose(wanted, &repository, &taken)?;
            (chosen.path, chosen.is_new)
        }
        None if args.no_mount => (Path::new(RUN).join(&id), false),
        None => {
            let name = format!("{}-{}", archive.name, format_time(archive.time()));
            let plain = Path::new(SHOWN).join(&name);
            let is_free = !plain.exists() && !taken.contains(&plain);
            (if is_free { plain } else { Path::new(SHOWN).join(format!("{name}-{id}")) }, true)
        }
    };
    let mut record = Record::new(id, boot, served, directory);
    record.own_directory = is_new;
    record.any_name = args.directory.is_none();
    record.kept_overlay = args.keep_overlay.as_deref().map(std::path::absolute).transpose()?;
    Ok(record)
}

/// The arguments of the server, without those that depend on the plan.
fn words(args: &AttachArgs, location: &Location, archive: &Archive) -> anyhow::Result<Vec<OsString>> {
    let mut archive_of = std::fs::canonicalize(&location.repository)?.into_os_string();
    archive_of.push(format!("::#{}", archive.id()));
    let mut words = vec![OsString::from("mount")];
    if args.secrets.trust_changed {
        words.push("--trust-changed".into());
    }
    words.push(archive_of);
    Ok(words)
}

fn serve(
    words: &[OsString],
    on: &Path,
    overlay: bool,
    args: &AttachArgs,
    secret: Option<&Secret>,
) -> crate::attach::Result<Process> {
    let mut words = words.to_vec();
    words.push(on.into());
    if overlay {
        words.push("--overlay".into());
        let path =
            |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone()).into_os_string();
        if let Some(directory) = &args.overlay_dir {
            words.extend(["--overlay-dir".into(), path(directory)]);
        }
        if let Some(size) = args.overlay_size {
            words.extend(["--overlay-size".into(), size.to_string().into()]);
        }
        if let Some(file) = &args.keep_overlay {
            words.extend(["--keep-overlay".into(), path(file)]);
        }
    }
    match server::start(words, secret) {
        Ok(Start::Ready(pid)) => {
            servers::process(pid).ok_or_else(|| Error::Server("its server has ended at once".into()))
        }
        Ok(Start::Ended(code)) => Err(Error::Server(format!("its server ended with exit code {code}"))),
        Err(error) => Err(Error::Server(format!("{error:#}"))),
    }
}

/// Whether anybody has anything of it.
fn is_of_use(outcomes: &[Outcome]) -> bool {
    outcomes.iter().any(|outcome| matches!(outcome.shown, Shown::Mounted { .. } | Shown::Device(_)))
}

/// Takes back what was done of an attach that failed.
fn undo(host: &mut Host<'_>, record: &mut Record) -> anyhow::Result<()> {
    let report = take_down(host, record).with_context(|| {
        format!("the attach failed, and so did taking it back: 'copal detach {}' tries again", record.id)
    })?;
    super::detach::tell(record, &report.left);
    if !report.gone {
        bail!(
            "the attach failed, and not all of it could be taken back: 'copal detach {}' tries again",
            record.id
        );
    }
    Ok(())
}
