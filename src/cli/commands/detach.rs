//! `copal detach`.

use std::path::Path;

use anyhow::{Context, bail};

use super::attach::store;
use crate::attach::Error;
use crate::attach::host::{Host, boot_id};
use crate::attach::salvage::salvage;
use crate::attach::state::{Process, Record, Store, id_of};
use crate::attach::teardown::{Left, Report, take_down};
use crate::cli::args::DetachArgs;
use crate::cli::{logger, output};

pub(in crate::cli) fn run(args: &DetachArgs) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("only root may detach, as only root may attach");
    }
    let store = store();
    let (records, strange) = known(&store)?;
    let Some(what) = &args.what else {
        strange.iter().for_each(|error| log::warn!("{error}"));
        return all(&store, &records);
    };
    let Some(record) = records.iter().find(|record| is_meant(record, what)) else {
        strange.iter().for_each(|error| log::warn!("{error}"));
        bail!("nothing is attached as {}; 'copal attached' lists what is", what.display());
    };
    if one(&store, &record.id)? { Ok(()) } else { bail!("{} stays attached for now", what.display()) }
}

/// All records that can be read; a warning for each of the others.
pub(super) fn records(store: &Store) -> anyhow::Result<Vec<Record>> {
    let mut records = Vec::new();
    for record in store.list()? {
        match record {
            Ok(record) => records.push(record),
            Err(error) => log::warn!("{error}"),
        }
    }
    Ok(records)
}

/// All records; in place of those that cannot be read, what is found of their attaches. And what is no record at all.
fn known(store: &Store) -> anyhow::Result<(Vec<Record>, Vec<Error>)> {
    let (mut records, mut strange) = (Vec::new(), Vec::new());
    for record in store.list()? {
        match record {
            Ok(record) => records.push(record),
            Err(error) => match unreadable(&error) {
                Some(id) => match salvage(&Host::without_server(store.clone()), id) {
                    Ok(found) => records.push(found),
                    Err(error) => strange.push(error),
                },
                None => strange.push(error),
            },
        }
    }
    Ok((records, strange))
}

/// The attach of a record that cannot be read.
fn unreadable(error: &Error) -> Option<&str> {
    let Error::Record { path, .. } = error else { return None };
    id_of(path)
}

/// Whether an attach goes by this name: its directory, one of its devices or mounts, or its id.
fn is_meant(record: &Record, what: &Path) -> bool {
    // A mount whose server has died has no canonical path.
    let absolute = std::fs::canonicalize(what)
        .or_else(|_| std::path::absolute(what))
        .unwrap_or_else(|_| what.to_owned());
    let is_device = record.loops.iter().any(|found| found.device.as_deref() == Some(&absolute));
    let is_here = boot_id().is_ok_and(|boot| boot == record.boot);
    what == Path::new(&record.id)
        || record.directory == absolute
        || record.mounts.iter().any(|mount| mount.path == absolute)
        || is_device && is_here
}

fn all(store: &Store, records: &[Record]) -> anyhow::Result<()> {
    let mut stay = Vec::new();
    for record in records {
        match one(store, &record.id) {
            Ok(true) => {}
            Ok(false) => stay.push(record.directory.display().to_string()),
            Err(error) => {
                log::warn!("{}: {error:#}", record.directory.display());
                stay.push(record.directory.display().to_string());
            }
        }
    }
    store.sweep();
    if stay.is_empty() { Ok(()) } else { bail!("{} stays attached for now", stay.join(", ")) }
}

/// Takes down an attach; whether it is gone.
fn one(store: &Store, id: &str) -> anyhow::Result<bool> {
    let _lock = store.lock_soon(id)?;
    let mut host = Host::without_server(store.clone());
    // It may have changed, or gone, before it was locked.
    let mut record = match store.load(id) {
        Ok(None) => {
            // Whoever was waited for has taken it down, and its lock away that this one made anew.
            store.remove(id)?;
            return Ok(true);
        }
        Ok(Some(record)) => record,
        Err(error) => match unreadable(&error) {
            Some(id) => {
                logger::line(&format!(
                    "copal: the record of {id} cannot be read; what is found of it by its id is taken down"
                ));
                salvage(&host, id)?
            }
            None => return Err(error.into()),
        },
    };
    let report: Report = take_down(&mut host, &mut record)
        .with_context(|| format!("{} is not taken down in full; try again", record.directory.display()))?;
    tell(&record, &report.left);
    if let Some(kept) = record.kept_overlay.filter(|kept| report.gone && kept.exists()) {
        output::lines([format!("What was written is kept in {}.", kept.display())])?;
    }
    Ok(report.gone)
}

/// Tells what is left.
pub(super) fn tell(record: &Record, left: &[Left]) {
    for left in left {
        match left {
            Left::Busy { what, users } => {
                log::warn!(
                    "{} is in use by {}; end that, then detach again",
                    what.display(),
                    users.join(", ")
                );
            }
            Left::Strange { what, found } => log::warn!(
                "{what} shows {found} now, which 'copal attach' has not mounted; 'umount {what}' ends that, then 'copal detach {id}' takes down the rest",
                what = what.display(),
                id = record.id
            ),
            Left::Stopped { server: Process { pid, .. } } => log::warn!(
                "the server, process {pid}, is stopped, and what unmounts would wait for it; 'kill -CONT {pid}' lets it go on, or 'kill -KILL {pid}' ends it; then detach again"
            ),
            Left::Stays { what } => log::warn!("{what} stays"),
        }
    }
}
