//! Archive states: what happened to an archive after it was made (`docs/format.md`, section 11).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::name::ArchiveName;
use super::{FormatError, limits, msgpack};
use crate::id::{ArchiveId, Nonce16, SessionId};

/// A counter this far above the next lower one was not written by a Copal.
const MAX_COUNTER_STEP: u64 = 1 << 32;

/// What a state changes; the letter stands in its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChangeKind {
    /// Deleted or restored.
    Deleted,
    /// Renamed.
    Name,
    /// Other tags.
    Tags,
    /// Another comment.
    Comment,
    /// Never was a finished archive.
    Withdrawn,
}

impl ChangeKind {
    const ALL: [(Self, &str); 5] = [
        (Self::Deleted, "d"),
        (Self::Name, "n"),
        (Self::Tags, "t"),
        (Self::Comment, "c"),
        (Self::Withdrawn, "w"),
    ];

    fn letter(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("", |(_, letter)| letter)
    }
}

/// The name of a state: `states/<archive>/<counter>-<change>-<nonce>`. Ordered by what wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateName {
    /// Whose state it is.
    pub archive: ArchiveId,
    /// What it changes.
    pub kind: ChangeKind,
    /// Higher wins.
    pub counter: u64,
    /// Decides between equals.
    pub nonce: Nonce16,
}

impl StateName {
    /// Reads an object's name; `None` for names that are no state's.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (archive, rest) = name.strip_prefix("states/")?.split_once('/')?;
        let mut parts = rest.split('-');
        let (counter, letter, nonce) = (parts.next()?, parts.next()?, parts.next()?);
        let (kind, _) = ChangeKind::ALL.into_iter().find(|(_, known)| *known == letter)?;
        let counter_ok = counter.len() == 16 && !counter.bytes().any(|b| b.is_ascii_uppercase() || b == b'+');
        if !counter_ok || parts.next().is_some() {
            return None;
        }
        Some(Self {
            archive: archive.parse().ok()?,
            kind,
            counter: u64::from_str_radix(counter, 16).ok()?,
            nonce: nonce.parse().ok()?,
        })
    }
}

impl fmt::Display for StateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "states/{}/{:016x}-{}-{}", self.archive, self.counter, self.kind.letter(), self.nonce)
    }
}

/// The states of one archive whose counters can be believed, in the order of what wins.
#[must_use]
pub fn believable(mut names: Vec<StateName>) -> Vec<StateName> {
    names.sort_by_key(|name| (name.counter, name.nonce));
    let mut believable = Vec::new();
    let mut last = 0u64;
    for name in names {
        if name.counter.saturating_sub(last) > MAX_COUNTER_STEP {
            log::warn!("{name} has an unbelievable counter and is ignored");
            continue;
        }
        last = name.counter;
        believable.push(name);
    }
    believable
}

/// The content of a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveState {
    /// Whose state it is, as in its name.
    pub archive: ArchiveId,
    /// Its counter, as in its name.
    pub counter: u64,
    /// When it was written, in ns since 1970, UTC.
    pub time: i64,
    /// Where.
    pub host: String,
    /// By which session.
    pub session: SessionId,
    /// Deleted or restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<bool>,
    /// The new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ArchiveName>,
    /// The new tags.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "msgpack::some_at_most::<_, _, { limits::MAX_TAGS }>"
    )]
    pub tags: Option<Vec<ArchiveName>>,
    /// The new comment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

impl ArchiveState {
    /// The stored form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        msgpack::to_bytes(self)
    }

    /// Decodes the state stored as `name`.
    ///
    /// # Errors
    /// [`FormatError`], also where it does not fit its name.
    pub fn from_bytes(name: &StateName, bytes: &[u8]) -> Result<Self, FormatError> {
        let state: Self = msgpack::from_bytes("archive state", bytes)?;
        let carries = match name.kind {
            ChangeKind::Deleted => state.deleted.is_some(),
            ChangeKind::Name => state.name.is_some(),
            ChangeKind::Tags => state.tags.is_some(),
            ChangeKind::Comment => state.comment.is_some(),
            ChangeKind::Withdrawn => true,
        };
        if !carries || state.archive != name.archive || state.counter != name.counter {
            return Err(FormatError::malformed("archive state", "it does not fit its name"));
        }
        let long = state.comment.as_ref().is_some_and(|comment| comment.len() > limits::MAX_COMMENT);
        let many = state.tags.as_ref().is_some_and(|tags| tags.len() > limits::MAX_TAGS);
        if long || many || state.host.len() > limits::MAX_HOST {
            return Err(FormatError::malformed(
                "archive state",
                "host or comment too long, or too many tags",
            ));
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(counter: u64, kind: ChangeKind, nonce: u8) -> StateName {
        StateName { archive: ArchiveId([1; 16]), kind, counter, nonce: Nonce16([nonce; 16]) }
    }

    #[test]
    fn names_round_trip_and_order() {
        let state = name(0x1f, ChangeKind::Tags, 9);
        assert_eq!(StateName::parse(&state.to_string()), Some(state));
        for bad in ["states/x", "states/01/1-d-2", "archives/00", &state.to_string().replace("-t-", "-x-")] {
            assert_eq!(StateName::parse(bad), None);
        }
    }

    #[test]
    fn the_highest_counter_then_nonce_wins_if_it_can_be_believed() {
        use ChangeKind::{Deleted, Name};
        let all = vec![name(1, Deleted, 9), name(2, Deleted, 3), name(2, Deleted, 1), name(1, Name, 0)];
        let ranked = [name(1, Name, 0), name(1, Deleted, 9), name(2, Deleted, 1), name(2, Deleted, 3)];
        assert_eq!(believable(all), ranked);
        let leap = vec![name(1, Deleted, 1), name(u64::MAX, Deleted, 1)];
        assert_eq!(believable(leap), [name(1, Deleted, 1)]);
    }
}
