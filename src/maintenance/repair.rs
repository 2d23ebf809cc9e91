//! Repairing what a check found: copies, the index, bad packs. Never deletes the only bytes of anything.
//!
//! Order, under a session of its own: copies are written again from good ones; good blobs of bad packs are copied to new packs, indexed and
//! forwarded, and only then the bad packs' bytes go to `quarantine/`, as a sweep takes them, so that creates that claimed in them notice; the
//! index is rebuilt from packs; what is lost is listed in `lost/`. A crash at any point leaves everything readable that was, and a second
//! repair goes on.

mod copies;
mod index;
mod lost;
mod packs;
mod protocol;

use std::sync::Arc;

use serde::Serialize;

use super::check::report::{Amount, Fault, Report};
use super::check::{CheckOptions, check, examine};
use super::error::{Error, Result};
use crate::repository::archives::chain;
use crate::repository::reserve;
use crate::repository::session::Session;
use crate::repository::{self, Repository};
use crate::storage::{Settle, Storage};
use crate::task::{Monitor, Stop};

/// What a repair did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Repaired {
    /// What was found before.
    pub before: Report,
    /// Copies that were written again from good ones.
    pub copies: u64,
    /// Bad packs that went to `quarantine/`.
    pub quarantined: Amount,
    /// Good blobs of theirs that were copied to new packs, and their sealed bytes.
    pub salvaged: Amount,
    /// Index segments that were written from packs; 0: the index was good.
    pub segments: u64,
    /// Blobs that are given up from now on.
    pub given_up: u64,
    /// Blobs that were missed and are found again where others stored them.
    pub healed: u64,
    /// What could not be done, and why.
    pub refused: Vec<String>,
    /// What is left, without opening blobs again.
    pub after: Report,
}

/// Checks a repository and repairs what can be repaired.
///
/// # Errors
/// [`Error`](super::Error): what was done until then stays, and a second repair goes on.
pub fn repair(
    repository: &Arc<Repository>,
    options: &CheckOptions,
    stop: &Stop,
    monitor: &dyn Monitor,
) -> Result<Repaired> {
    repository.objects().allow_reserve();
    let session = Session::begin(repository, "check --repair")?;
    let done = session.keep_alive(|| repair_within(repository, &session, options, stop, monitor));
    let done = done.and_then(|repaired| {
        session.end()?;
        Ok(repaired)
    });
    reserve::set_aside_again(repository);
    let mut repaired = done?;
    let structure = CheckOptions { archives: options.archives.clone(), ..CheckOptions::default() };
    // A handle of its own: this one remembers what it could not read before.
    repaired.after = check(&Arc::new(repository.again()), &structure, stop, monitor)?;
    Ok(repaired)
}

fn repair_within(
    repository: &Arc<Repository>,
    session: &Session<'_>,
    options: &CheckOptions,
    stop: &Stop,
    monitor: &dyn Monitor,
) -> Result<Repaired> {
    let found = examine(repository, options, stop, monitor)?;
    let mut repaired = Repaired::default();
    stop.check()?;
    let doomed_is_known = match protocol::Doomed::read(repository, session.id(), false) {
        Ok(_) => true,
        Err(Error::Repository(
            error @ (repository::Error::Damaged { .. } | repository::Error::Format(_)),
        )) => {
            repaired.refused.push(format!(
                "copies and packs stay as they are, since nobody knows what is about to be deleted: {}; when no compaction runs anywhere, delete that file and its second copy",
                chain(&error)
            ));
            false
        }
        Err(error) => return Err(error),
    };
    let mut bad = Vec::new();
    if doomed_is_known {
        let mixed = copies::heal(repository, &found, &mut repaired)?;
        bad = packs::bad_packs(&found, &mixed);
    }
    stop.check()?;
    let candidates = packs::Candidates::collect(repository, &found)?;
    let mut taken = Vec::new();
    if !bad.is_empty() {
        if repository.objects().storage().settle() == Settle::Unknown {
            repaired.refused.push(format!(
                "{} bad packs stay where they are: nothing can be taken away safely on a network file system; run this on the machine that has the disk",
                bad.len()
            ));
        } else {
            taken = packs::quarantine(repository, session.id(), &bad, &candidates, &mut repaired)?;
        }
    }
    stop.check()?;
    let index_is_bad = found.report.findings.iter().any(|finding| finding.fault == Fault::Index);
    if index_is_bad || !taken.is_empty() {
        index::rebuild(repository, &candidates, &mut repaired)?;
    }
    stop.check()?;
    lost::keep_account(repository, &found, &mut repaired)?;
    repaired.before = found.report;
    Ok(repaired)
}
