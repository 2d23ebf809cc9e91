//! The create side of the protocol that keeps chunks alive (`docs/format.md`, section 13; the order is `design.md`'s).
//!
//! publish session → list condemned packs → list packs → (store, publish) → settle → list intents, then packs → confirm
//! → remove session. A session that ends otherwise withdraws what it published.

use std::collections::HashSet;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};
use parking_lot::Mutex;

use super::archives::record_name;
use super::error::Result;
use super::liveness::boot_id;
use super::objects::Objects;
use super::packs::{Moved, Packs};
use super::{Repository, guards, now};
use crate::codec::keys::BlobKind;
use crate::format::envelope::ObjectKind;
use crate::format::msgpack;
use crate::format::pack::PackKind;
use crate::format::protocol::Session as SessionObject;
use crate::format::record::ArchiveRecord;
use crate::format::state::{ArchiveState, ChangeKind, StateName};
use crate::id::{ArchiveId, BlobId, Nonce16, PackId, SessionId};

/// How often a living session says so.
pub const HEARTBEAT: Duration = Duration::from_secs(60);

/// A running writer.
#[derive(Debug)]
pub struct Session<'a> {
    repository: &'a Repository,
    id: SessionId,
    object: SessionObject,
    published: Mutex<Vec<ArchiveId>>,
    /// States that say that an archive is not deleted any more.
    pub(super) restored: Mutex<Vec<StateName>>,
    ended: bool,
}

impl<'a> Session<'a> {
    /// Publishes a session; `what` is for people.
    ///
    /// # Errors
    /// [`super::Error::Storage`], [`super::Error::ReadOnlyFeatures`].
    pub fn begin(repository: &'a Repository, what: &str) -> Result<Self> {
        repository.check_writable()?;
        let object = SessionObject {
            host: host_name(),
            pid: std::process::id(),
            boot: boot_id(),
            started: now(),
            heartbeat: now(),
            what: what.chars().take(500).collect(),
        };
        let id = SessionId::random();
        let (published, restored) = (Mutex::default(), Mutex::default());
        let mut session = Self { repository, id, object, published, restored, ended: false };
        if let Err(error) = session.write() {
            // One of two copies may be there. On read-only media there is nothing to remove, and nothing to say about it.
            let _ = session.objects().delete(&format!("sessions/{id}"));
            session.ended = true;
            return Err(error);
        }
        Ok(session)
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    pub(super) fn objects(&self) -> &Objects {
        self.repository.objects()
    }

    fn write(&self) -> Result<()> {
        let object = SessionObject { heartbeat: now(), ..self.object.clone() };
        self.objects().put(ObjectKind::Session, &format!("sessions/{}", self.id), &msgpack::to_bytes(&object))
    }

    /// Says that it lives. A failure only costs patience elsewhere, and is logged.
    pub fn heartbeat(&self) {
        if let Err(error) = self.write() {
            log::warn!("the session's heartbeat failed: {}", super::archives::chain(&error));
        }
    }

    /// Runs `work` while a thread of its own keeps the session alive.
    pub fn keep_alive<T>(&self, work: impl FnOnce() -> T) -> T {
        let (done, waiting) = bounded::<()>(0);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while let Err(RecvTimeoutError::Timeout) = waiting.recv_timeout(HEARTBEAT) {
                    self.heartbeat();
                }
            });
            let result = work();
            drop(done);
            result
        })
    }

    /// The content of a state of this name that changes nothing yet.
    pub(super) fn state(&self, name: &StateName) -> ArchiveState {
        ArchiveState {
            archive: name.archive,
            counter: name.counter,
            time: now(),
            host: self.object.host.clone(),
            session: self.id,
            deleted: None,
            name: None,
            tags: None,
            comment: None,
        }
    }

    /// Publishes an archive's record. It is unconfirmed until the session ends.
    ///
    /// # Errors
    /// [`super::Error::Storage`], [`super::Error::Format`].
    pub fn publish(&self, record: &ArchiveRecord) -> Result<ArchiveId> {
        let id = ArchiveId::random();
        let bytes = record.to_bytes()?;
        // Whoever sees the record sees the session.
        self.objects().settle();
        // Before the put: even one that fails may have published.
        self.published.lock().push(id);
        self.objects().put(ObjectKind::Record, &record_name(id), &bytes)?;
        Ok(id)
    }

    /// Withdraws an archive that this session published.
    ///
    /// # Errors
    /// [`super::Error::Storage`].
    pub fn withdraw(&self, archive: ArchiveId) -> Result<()> {
        let name = StateName { archive, kind: ChangeKind::Withdrawn, counter: 1, nonce: Nonce16::random() };
        let state = self.state(&name);
        self.objects().put(ObjectKind::State, &name.to_string(), &state.to_bytes())?;
        self.published.lock().retain(|published| *published != archive);
        Ok(())
    }

    /// The confirmation: which of the claimed packs are missing, or named by an intent. None: the archive is safe.
    ///
    /// # Errors
    /// [`super::Error::Storage`]; an intent that cannot be read is an error too.
    pub fn confirm(&self, claimed: &HashSet<PackId>) -> Result<Unconfirmed> {
        let objects = self.objects();
        objects.settle();
        let mut named = HashSet::new();
        let (mut moved, mut archives) = (HashSet::new(), HashSet::new());
        for (_, intent) in guards::intents(objects)? {
            named.extend(intent.packs);
            moved.extend(intent.moved);
            archives.extend(intent.archives);
        }
        let mut safe = listed_packs(objects)?;
        safe.retain(|pack| !named.contains(pack));
        let gone = claimed.difference(&safe).copied().collect();
        Ok(Unconfirmed { gone, safe, moved, archives })
    }

    /// Ends the session: everything it published is confirmed.
    ///
    /// # Errors
    /// [`super::Error::Storage`].
    pub fn end(mut self) -> Result<()> {
        self.ended = true;
        self.objects().delete(&format!("sessions/{}", self.id))
    }
}

impl Drop for Session<'_> {
    /// Withdraws what was published but not confirmed, and retracts what was restored. Where that fails, as on a full storage, the records are deleted and the session stays:
    /// one that appears late, or cannot be deleted either, is then shown as unconfirmed.
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let published = self.published.lock().clone();
        let withdrawn = published.into_iter().try_for_each(|archive| {
            self.withdraw(archive).inspect_err(|_| {
                let _ = self.objects().delete(&record_name(archive));
            })
        });
        let restored = self.restored.lock().clone();
        let retracted = || restored.iter().try_for_each(|state| super::states::retract(self, state.archive));
        let ended = withdrawn.and_then(|()| retracted()).and_then(|()| {
            self.objects().settle();
            self.objects().delete(&format!("sessions/{}", self.id))
        });
        if let Err(error) = ended {
            log::warn!("session {} could not be cleaned up: {}", self.id, super::archives::chain(&error));
        }
    }
}

/// The packs in which chunks may be claimed: listed, and not condemned. Condemned lists are read first, and the session of the one who
/// asks is published before.
///
/// # Errors
/// [`super::Error::Storage`]; a condemned list that cannot be read is an error too, since what it names is unknown.
pub fn claimable_packs(objects: &Objects) -> Result<HashSet<PackId>> {
    let mut condemned = HashSet::new();
    for (_, list) in guards::condemned_lists(objects)? {
        condemned.extend(list.packs);
    }
    let mut packs = listed_packs(objects)?;
    packs.retain(|pack| !condemned.contains(pack));
    Ok(packs)
}

/// All packs that are listed, of both kinds.
///
/// # Errors
/// [`super::Error::Storage`].
pub fn listed_packs(objects: &Objects) -> Result<HashSet<PackId>> {
    let mut packs: HashSet<PackId> = objects.list_ids(PackKind::Data.folder())?.into_iter().collect();
    packs.extend(objects.list_ids::<PackId>(PackKind::Maps.folder())?);
    Ok(packs)
}

/// What a confirmation found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unconfirmed {
    /// Claimed packs that are missing or will be.
    pub gone: HashSet<PackId>,
    /// Packs that are listed and named by no intent.
    safe: HashSet<PackId>,
    /// Forwardings that intents name.
    moved: HashSet<String>,
    /// Archives whose records intents name.
    archives: HashSet<ArchiveId>,
}

impl Unconfirmed {
    /// Whether a pack is listed, and no intent names it.
    #[must_use]
    pub fn is_safe(&self, pack: PackId) -> bool {
        self.safe.contains(&pack)
    }

    /// Whether no intent names a forwarding.
    #[must_use]
    pub fn stays(&self, moved: &Moved) -> bool {
        !self.moved.contains(&moved.name)
    }

    /// Whether an intent names this archive: its record will go.
    #[must_use]
    pub fn names(&self, archive: ArchiveId) -> bool {
        self.archives.contains(&archive)
    }

    /// Whether a blob stays that somebody believes in `pack`: there, if it is listed and no intent names it, or by forwardings that stay.
    #[must_use]
    pub fn keeps(&self, packs: &Packs, pack: PackId, kind: BlobKind, id: &BlobId) -> bool {
        self.safe.contains(&pack) || self.all_forwarded(packs, pack, &[(kind, *id)])
    }

    /// Whether each of these blobs, all of the pack that is gone, is forwarded to a pack that is safe, by a forwarding that no intent names.
    #[must_use]
    pub fn all_forwarded(&self, packs: &Packs, pack: PackId, blobs: &[(BlobKind, BlobId)]) -> bool {
        let stays = |moved: &Moved| self.stays(moved);
        let safe = |pack: PackId| self.is_safe(pack);
        blobs.iter().all(|(kind, id)| packs.is_forwarded(pack, *kind, id, &stays, &safe))
    }
}

/// This machine's name.
#[must_use]
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().chars().take(60).collect()
}
