//! What the actors do, each with a handle of its own, and how it ended.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use copal::archiver;
use copal::archiver::create::create;
use copal::id::ArchiveId;
use copal::image::Image;
use copal::image::reader::ImageReader;
use copal::maintenance;
use copal::maintenance::compact::compact;
use copal::maintenance::undelete::undelete;
use copal::repository::archives::list_all;
use copal::repository::states::{Change, apply};
use copal::repository::{self, Repository};
use copal::task::{Silent, Stop};
use parking_lot::Mutex;

use super::client::{Breach, Client, Mishap};
use super::common::{name, open, options};
use super::scene::{World, archive_name, compact_options};

/// What an actor is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Role {
    Create {
        image: u64,
        maker: String,
    },
    Compact {
        now: bool,
    },
    Delete(ArchiveId),
    Undelete(ArchiveId),
    Rename(ArchiveId),
    /// Reads all archives.
    Read,
}

/// An actor.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) role: Role,
    pub(crate) mishap: Option<(u64, Mishap)>,
    pub(crate) breach: Option<Breach>,
}

/// How an actor ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    Created(ArchiveId),
    Done,
    /// By an error that may come of what others do at the same time.
    Gave(&'static str),
    /// By any other.
    Failed(String),
}

/// What all actors of a round know of each other.
#[derive(Debug, Default)]
pub(crate) struct Round {
    /// Archives that are whole and stay.
    pub(crate) stay: Mutex<BTreeSet<ArchiveId>>,
    /// Archives that may go meanwhile.
    pub(crate) may_go: BTreeSet<ArchiveId>,
    /// Lists lag: what a list shows as confirmed need not be.
    pub(crate) lags: bool,
}

/// Plays a part; the second value says whether its mishap came.
pub(crate) fn play(world: &World, round: &Round, part: &Part, client: &Arc<Client>) -> (End, bool) {
    let repository = open(client.clone());
    client.begin();
    let act = || act(world, round, &part.role, &repository);
    let end = catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|_| End::Failed("it panicked".to_owned()));
    (end, client.is_struck())
}

fn act(world: &World, round: &Round, role: &Role, repository: &Arc<Repository>) -> End {
    let stop = Stop::default();
    match role {
        Role::Create { image, maker } => {
            let path = world.images[*image as usize].path.as_path();
            match create(repository, &options(&archive_name(*image, maker), &[path]), &stop, &Silent) {
                Ok(created) => {
                    let id = created.id.expect("not a dry run");
                    round.stay.lock().insert(id);
                    End::Created(id)
                }
                Err(archiver::Error::NeverConfirmed) => End::Gave("never confirmed"),
                Err(error) => failed(&error),
            }
        }
        Role::Compact { now } => match compact(repository, &compact_options(*now), &stop, &Silent) {
            Ok(_) => End::Done,
            Err(maintenance::Error::UnknownNeeds { .. }) => End::Gave("unknown needs"),
            Err(error) => failed(&error),
        },
        Role::Delete(id) => changed(apply(repository, "delete", &[(*id, Change::Delete)])),
        Role::Rename(id) => changed(apply(repository, "rename", &[(*id, Change::Rename(name("renamed")))])),
        Role::Undelete(id) => match undelete(repository, *id, &stop) {
            Ok(()) => End::Done,
            Err(maintenance::Error::Reclaimed { .. }) => End::Gave("reclaimed"),
            Err(maintenance::Error::NotDeleted { .. }) => End::Gave("not deleted"),
            Err(maintenance::Error::DeletedAgain { .. }) => End::Gave("deleted again"),
            Err(maintenance::Error::Contended { .. }) => End::Gave("contended"),
            Err(error) => failed(&error),
        },
        Role::Read => match read_all(world, round, repository) {
            Ok(()) => End::Done,
            Err(reason) => End::Failed(reason),
        },
    }
}

fn changed(result: repository::Result<()>) -> End {
    result.map_or_else(|error| failed(&error), |()| End::Done)
}

fn failed(error: &dyn std::error::Error) -> End {
    End::Failed(repository::archives::chain(error))
}

/// Lists and reads all archives while others work.
fn read_all(world: &World, round: &Round, repository: &Arc<Repository>) -> Result<(), String> {
    let stay = round.stay.lock().clone();
    let listing = list_all(repository.objects()).map_err(|error| repository::archives::chain(&error))?;
    let listed: BTreeSet<_> = listing.archives.iter().map(repository::archives::Archive::id).collect();
    if let Some(missing) = stay.difference(&listed).next() {
        return Err(format!("archive {missing} is not listed"));
    }
    let reader = ImageReader::new(repository.clone(), 1 << 20);
    for archive in &listing.archives {
        let id = archive.id();
        let sure = stay.contains(&id) || !(round.lags || archive.unconfirmed || round.may_go.contains(&id));
        match is_whole(world, &reader, id) {
            Ok(true) => {}
            Ok(false) => return Err(format!("archive {id} has wrong bytes")),
            Err(reason) if sure => return Err(format!("archive {id} is not whole: {reason}")),
            Err(_) => {}
        }
    }
    Ok(())
}

/// Whether an archive has the bytes that it should have; an error if it cannot be read.
pub(crate) fn is_whole(world: &World, reader: &ImageReader, id: ArchiveId) -> Result<bool, String> {
    let repository = reader.repository();
    let record = repository.record(id).map_err(|error| repository::archives::chain(&error))?;
    let image = Image::of(&record.members[0], repository.config().span_shift);
    world.content(record.name.as_str()).is(reader, &image)
}
