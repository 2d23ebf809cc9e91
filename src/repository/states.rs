//! Changing what is said of archives: deleted, renamed, tagged, commented (`docs/format.md`, section 11).
//!
//! States are only ever added; of those of one kind the highest (counter, nonce) wins, so whoever looks sees the same. What is published here
//! needs no confirmation but for a restoration, which relies on packs: `maintenance::undelete` has the order for that.

use super::Repository;
use super::archives::{chain, deletion, list_states, refresh_catalogue};
use super::error::{Error, Result};
use super::objects::Objects;
use super::reserve;
use super::session::Session;
use crate::format::FormatError;
use crate::format::envelope::ObjectKind;
use crate::format::limits::{MAX_COMMENT, MAX_TAGS};
use crate::format::name::ArchiveName;
use crate::format::state::{ArchiveState, ChangeKind, StateName, believable};
use crate::id::{ArchiveId, Nonce16};

/// What becomes of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is not shown any more, and its space may be reclaimed.
    Delete,
    /// It has this name.
    Rename(ArchiveName),
    /// It has these tags and no others.
    Tag(Vec<ArchiveName>),
    /// It has this comment.
    Comment(String),
}

impl Change {
    fn kind(&self) -> ChangeKind {
        match self {
            Self::Delete => ChangeKind::Deleted,
            Self::Rename(_) => ChangeKind::Name,
            Self::Tag(_) => ChangeKind::Tags,
            Self::Comment(_) => ChangeKind::Comment,
        }
    }

    fn check(&self) -> Result<()> {
        let within = |what, count, limit| {
            if count > limit { Err(Error::TooLong { what, count, limit }) } else { Ok(()) }
        };
        match self {
            Self::Tag(tags) => within("tags of an archive", tags.len(), MAX_TAGS),
            Self::Comment(comment) => within("bytes of a comment", comment.len(), MAX_COMMENT),
            Self::Delete | Self::Rename(_) => Ok(()),
        }
    }

    fn state(&self, session: &Session<'_>, name: &StateName) -> ArchiveState {
        let mut state = session.state(name);
        match self.clone() {
            Self::Delete => state.deleted = Some(true),
            Self::Rename(name) => state.name = Some(name),
            Self::Tag(tags) => state.tags = Some(tags),
            Self::Comment(comment) => state.comment = Some(comment),
        }
        state
    }
}

/// Changes archives, one after the other, within one session; `what` is for people. When this returns, the changes are durable and show.
/// Deletions use the reserve where the storage is full, and set it aside again.
///
/// # Errors
/// [`Error::TooLong`] before anything is changed; [`Error::Partly`] where some were changed; what storage says.
pub fn apply(repository: &Repository, what: &str, changes: &[(ArchiveId, Change)]) -> Result<()> {
    changes.iter().try_for_each(|(_, change)| change.check())?;
    // On a full storage, deleting is how space comes back.
    if changes.is_empty() || changes.iter().any(|(_, change)| *change != Change::Delete) {
        return apply_all(repository, what, changes);
    }
    repository.objects().allow_reserve();
    let applied = apply_all(repository, what, changes);
    reserve::set_aside_again(repository);
    applied
}

fn apply_all(repository: &Repository, what: &str, changes: &[(ArchiveId, Change)]) -> Result<()> {
    let session = Session::begin(repository, what)?;
    for (done, (archive, change)) in changes.iter().enumerate() {
        if let Err(error) = publish(&session, *archive, change) {
            drop(session);
            refresh(repository);
            let total = changes.len();
            return Err(if done == 0 { error } else { Error::Partly { done, total, source: error.into() } });
        }
    }
    // Whoever changes these archives after this has returned must see what was said, to say something higher.
    repository.objects().settle();
    if let Err(error) = session.end() {
        log::warn!("all was changed, but the session could not be removed: {}", chain(&error));
    }
    refresh(repository);
    Ok(())
}

/// Puts states into the catalogue, so that listings stay fast.
pub fn refresh(repository: &Repository) {
    if let Err(error) = refresh_catalogue(repository.objects()) {
        log::warn!(
            "the catalogue could not be refreshed: {}; listings are slower until it is",
            chain(&error)
        );
    }
}

fn publish(session: &Session<'_>, archive: ArchiveId, change: &Change) -> Result<()> {
    let name = next_name(session.objects(), archive, change.kind())?;
    put(session.objects(), &name, &change.state(session, &name))
}

fn put(objects: &Objects, name: &StateName, state: &ArchiveState) -> Result<()> {
    objects.put(ObjectKind::State, &name.to_string(), &state.to_bytes())
}

/// A name that wins over all that are listed. Those with an unbelievable counter do not count: one above them would not count either.
fn next_name(objects: &Objects, archive: ArchiveId, kind: ChangeKind) -> Result<StateName> {
    let highest = believable(list_states(objects, archive)?).last().map_or(0, |name| name.counter);
    let counter = highest.checked_add(1);
    let counter = counter.ok_or_else(|| FormatError::malformed("archive state", "no counter is left"))?;
    Ok(StateName { archive, kind, counter, nonce: Nonce16::random() })
}

/// Says that an archive is not deleted any more. Until the session ends it is unconfirmed; if it ends otherwise than by
/// [`Session::end`], that is retracted.
///
/// # Errors
/// [`Error::Storage`].
pub fn restore(session: &Session<'_>, archive: ArchiveId) -> Result<StateName> {
    let mut name = next_name(session.objects(), archive, ChangeKind::Deleted)?;
    name.nonce = with_last_bit(name.nonce, false);
    let state = ArchiveState { deleted: Some(false), ..session.state(&name) };
    // Whoever sees the state sees the session.
    session.objects().settle();
    // Before the put: even one that fails may have published.
    session.restored.lock().push(name);
    put(session.objects(), &name, &state)?;
    Ok(name)
}

/// Takes back what [`restore`] said of an archive in this session, and nothing that anybody else said.
///
/// What wins but for our own states decides. A deletion is said again, just above ours: the same counter and the next nonce, so that it wins
/// over nobody who looked meanwhile. Another's restoration stands or falls by itself: our own states are removed.
///
/// # Errors
/// [`Error::Storage`], and what is wrong with the state that decides.
pub fn retract(session: &Session<'_>, archive: ArchiveId) -> Result<()> {
    let objects = session.objects();
    let own: Vec<StateName> =
        session.restored.lock().iter().filter(|name| name.archive == archive).copied().collect();
    // One that was never published is taken back by nothing: a deletion above it would win over what another one, who cannot have seen it, has
    // restored since.
    let own: Vec<StateName> = own.into_iter().filter(|name| !objects.is_absent(&name.to_string())).collect();
    let mut others = believable(list_states(objects, archive)?);
    others.retain(|name| !own.contains(name));
    // Without any it never was deleted.
    let is_restored = deletion(objects, &others)?.is_none_or(|(_, other)| other.deleted == Some(false));
    for name in &own {
        if is_restored {
            objects.delete(&name.to_string())?;
        } else {
            let above = StateName { nonce: with_last_bit(name.nonce, true), ..*name };
            put(objects, &above, &ArchiveState { deleted: Some(true), ..session.state(&above) })?;
        }
    }
    session.restored.lock().retain(|name| name.archive != archive);
    Ok(())
}

/// What has become of a state about deletion that was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It wins.
    Wins,
    /// Another one wins, which says the same. It may yet be retracted.
    Outdone,
    /// Another one wins, which says the contrary.
    Contradicted,
}

/// Whether a restoration wins, as states are listed now.
///
/// # Errors
/// [`Error::Storage`], and what is wrong with the state that wins.
pub fn outcome(session: &Session<'_>, restored: &StateName) -> Result<Outcome> {
    let objects = session.objects();
    let states = believable(list_states(objects, restored.archive)?);
    if states.iter().any(|name| name.kind == ChangeKind::Withdrawn) {
        return Ok(Outcome::Contradicted);
    }
    Ok(match deletion(objects, &states)? {
        Some((winner, _)) if winner == *restored => Outcome::Wins,
        Some((_, state)) if state.deleted == Some(false) => Outcome::Outdone,
        _ => Outcome::Contradicted,
    })
}

/// A restoration's nonce is even, and that of its retraction the next one.
fn with_last_bit(mut nonce: Nonce16, set: bool) -> Nonce16 {
    let [.., last] = &mut nonce.0;
    *last = *last & 0xfe | u8::from(set);
    nonce
}
