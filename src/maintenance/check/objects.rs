//! Sealed objects, each copy by itself: whether it is there, opens, and says what its name says.

use parking_lot::Mutex;

use super::report::{Amount, Fault, Finding};
use crate::format::FormatError;
use crate::format::catalogue::{CatalogueSegment, SegmentName};
use crate::format::config::{MAX_CONFIG, SealedConfig};
use crate::format::envelope::ObjectKind;
use crate::format::msgpack;
use crate::format::pack::PackKind;
use crate::format::protocol::{Condemned, Forwarding, Intent, LostBlob, LostList, RemovalMarker, Session};
use crate::format::record::ArchiveRecord;
use crate::format::slot::{MAX_SLOT, Slot};
use crate::format::state::{ArchiveState, StateName};
use crate::id::{ArchiveId, Nonce16, PackId, SessionId, SlotId};
use crate::maintenance::error::Result;
use crate::maintenance::parallel::for_each;
use crate::repository::archives::chain;
use crate::repository::objects::{MIRRORED, name};
use crate::repository::packs::moved_folder;
use crate::repository::{self, Repository};
use crate::storage::{Name, Storage};
use crate::task::Stop;

/// Folders of sealed objects; index segments are read with the index, packs with the packs.
fn folders() -> impl Iterator<Item = &'static str> {
    MIRRORED.into_iter().filter(|folder| *folder != PackKind::Maps.folder())
}

/// What an object is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The config.
    Config,
    /// A key slot.
    Slot(SlotId),
    /// A removal marker.
    Marker(SlotId),
    /// An archive record.
    Record(ArchiveId),
    /// An archive state.
    State(StateName),
    /// A catalogue segment.
    Catalogue,
    /// A session.
    Session(SessionId),
    /// A condemned list.
    Condemned,
    /// An intent.
    Intent,
    /// A forwarding of this pack.
    Moved(PackId),
    /// A list of lost blobs.
    Lost,
}

impl Form {
    /// What a name means; `None` for one that is nothing's.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        if name == "config" {
            return Some(Self::Config);
        }
        let (folder, rest) = name.split_once('/')?;
        match folder {
            "keys" => rest.parse().ok().map(Self::Slot),
            "key-removals" => {
                let (slot, nonce) = rest.split_once('-')?;
                nonce.parse::<Nonce16>().ok()?;
                slot.parse().ok().map(Self::Marker)
            }
            "archives" => rest.parse().ok().map(Self::Record),
            "states" => StateName::parse(name).map(Self::State),
            "catalogue" => SegmentName::parse(name).map(|_| Self::Catalogue),
            "sessions" => rest.parse().ok().map(Self::Session),
            "condemned" => rest.parse::<Nonce16>().ok().map(|_| Self::Condemned),
            "intents" => rest.parse::<Nonce16>().ok().map(|_| Self::Intent),
            "lost" => rest.parse::<Nonce16>().ok().map(|_| Self::Lost),
            "moved" => {
                let (folder, nonce) = name.rsplit_once('/')?;
                nonce.parse::<Nonce16>().ok()?;
                let pack = folder.rsplit_once('/')?.1.parse().ok()?;
                (moved_folder(pack) == folder).then_some(Self::Moved(pack))
            }
            _ => None,
        }
    }
}

/// What is said by an object that opens.
#[derive(Debug, Clone, Default)]
struct Says {
    /// A config's generation.
    generation: u64,
    /// The session that a record or state names.
    session: Option<SessionId>,
    lost: Vec<LostBlob>,
}

/// How a copy is.
#[derive(Debug, Clone)]
enum Health {
    Good(Says),
    Missing,
    Bad(String),
}

impl Health {
    fn is_good(&self) -> bool {
        matches!(self, Self::Good(_))
    }

    fn reason(&self) -> String {
        match self {
            Self::Good(_) => "it is good".into(),
            Self::Missing => "it is missing".into(),
            Self::Bad(reason) => reason.clone(),
        }
    }
}

/// An object of which not every copy is good.
#[derive(Debug, Clone)]
pub struct Ailing {
    /// Its name, without `mirror/`.
    pub name: Name,
    /// What it is.
    pub form: Form,
    /// Whether its first copy is good.
    pub first_good: bool,
    /// Whether its second copy is good; `None` if it has none by its nature.
    pub second_good: Option<bool>,
    /// Whether only its second copy is not good, and is not there: so do interrupted puts and deletions leave it.
    pub second_missing: bool,
    /// The session that it names, where a copy of it opens.
    pub session: Option<SessionId>,
    reasons: [String; 2],
}

impl Ailing {
    /// Whether one copy is good.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.first_good || self.second_good == Some(true)
    }

    /// Whether what it said stands elsewhere, too: it is a cache, leads to what the index also knows, or is an account.
    #[must_use]
    pub fn is_replaceable(&self) -> bool {
        matches!(self.form, Form::Catalogue | Form::Moved(_) | Form::Lost)
    }

    /// What to report of it.
    #[must_use]
    pub fn finding(&self) -> Finding {
        if !self.is_readable() {
            let reason = match &self.reasons {
                [first, second] if second.is_empty() || first == second => first.clone(),
                [first, second] => format!("{first}; its second copy: {second}"),
            };
            let repairable = self.is_replaceable();
            return Finding { object: self.name.to_string(), fault: Fault::Object, reason, repairable };
        }
        let (object, reason) = if self.first_good {
            (format!("mirror/{}", self.name), self.reasons[1].clone())
        } else {
            (self.name.to_string(), self.reasons[0].clone())
        };
        Finding { object, fault: Fault::Copy, reason, repairable: true }
    }
}

/// What all sealed objects said.
#[derive(Debug, Default)]
pub struct Objects {
    /// Those of which not every copy is good.
    pub ailing: Vec<Ailing>,
    /// How many copies were opened, and their bytes.
    pub checked: Amount,
    /// Objects with names that mean nothing.
    pub unknown: u64,
    /// Blobs that repairs gave up, by the list that says so.
    pub lost: Vec<(Name, LostBlob)>,
}

/// Opens every copy of every sealed object but index segments.
///
/// # Errors
/// If something cannot be listed; [`Error::Stopped`](crate::maintenance::Error::Stopped).
pub fn check_objects(repository: &Repository, stop: &Stop) -> Result<Objects> {
    let objects = repository.objects();
    let mut listed = vec![(Form::Config, name("config"), 0)];
    let mut found = Objects::default();
    for folder in folders() {
        for (name, [first, second]) in objects.list_copies(folder)? {
            match Form::of(name.as_str()) {
                Some(form) => listed.push((form, name, first.unwrap_or(0) + second.unwrap_or(0))),
                None => found.unknown += 1,
            }
        }
    }
    let found = Mutex::new(found);
    for_each(&listed, stop, "a thread that reads objects", |(form, name, bytes)| {
        let (ailing, says, copies) = examine(repository, *form, name);
        let mut found = found.lock();
        found.checked.count += copies;
        found.checked.bytes += bytes;
        found.ailing.extend(ailing);
        found.lost.extend(says.lost.into_iter().map(|blob| (name.clone(), blob)));
        Ok(())
    })?;
    let mut found = found.into_inner();
    found.ailing.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Opens an object's copies once more; `None` if it is whole, or gone.
#[must_use]
pub fn recheck(repository: &Repository, ailing: &Ailing) -> Option<Ailing> {
    examine(repository, ailing.form, &ailing.name).0
}

/// What is wrong with an object if anything is, what it says, and how many copies there are.
fn examine(repository: &Repository, form: Form, name: &Name) -> (Option<Ailing>, Says, u64) {
    let second_name = repository.objects().second_copy(name);
    let mut first = open(repository, form, name, name);
    let mut second = second_name.map(|copy| open(repository, form, name, &copy));
    // Writers go on from the higher generation; the other copy is an older one that was put back, or not rewritten yet.
    if let (Health::Good(one), Some(Health::Good(other))) = (&first, &second)
        && one.generation != other.generation
    {
        let newer = one.generation.max(other.generation);
        let older = Health::Bad(format!("it is older than the other copy, which has generation {newer}"));
        if one.generation < newer { first = older } else { second = Some(older) }
    }
    let copies = [Some(&first), second.as_ref()];
    let there = copies.iter().flatten().filter(|health| !matches!(health, Health::Missing)).count() as u64;
    let says = copies.into_iter().flatten().find_map(|health| match health {
        Health::Good(says) => Some(says.clone()),
        _ => None,
    });
    let says = says.unwrap_or_default();
    let whole = first.is_good() && second.as_ref().is_none_or(Health::is_good);
    // Deleted since it was listed; but a repository has a config.
    let gone = there == 0 && form != Form::Config;
    let ailing = (!whole && !gone).then(|| Ailing {
        name: name.clone(),
        form,
        first_good: first.is_good(),
        second_good: second.as_ref().map(Health::is_good),
        second_missing: first.is_good() && matches!(second, Some(Health::Missing)),
        session: says.session,
        reasons: [first.reason(), second.as_ref().map(Health::reason).unwrap_or_default()],
    });
    (ailing, says, there)
}

fn open(repository: &Repository, form: Form, object: &Name, copy: &Name) -> Health {
    match read(repository, form, object, copy) {
        Ok(says) => Health::Good(says),
        Err(error) if error.is_missing() => Health::Missing,
        Err(repository::Error::Damaged { source, .. }) => Health::Bad(chain(&source)),
        Err(repository::Error::Storage { source, .. }) => Health::Bad(source.to_string()),
        Err(error) => Health::Bad(chain(&error)),
    }
}

fn read(
    repository: &Repository,
    form: Form,
    object: &Name,
    copy: &Name,
) -> std::result::Result<Says, repository::Error> {
    let objects = repository.objects();
    let raw = |limit| objects.storage().read(copy, limit).map_err(objects.failed("read", copy.as_str()));
    let plain = |kind| objects.get_copy(kind, object.as_str(), copy);
    let mut says = Says::default();
    match form {
        Form::Config => {
            let config = SealedConfig::from_bytes(&raw(MAX_CONFIG)?)?;
            if config.header.repository != repository.id() {
                return Err(FormatError::malformed("config", "it is another repository's").into());
            }
            says.generation = config.open(repository.keyring())??.generation;
        }
        Form::Slot(_) => {
            // Without its secret, the checksum tells that it is what was written.
            if Slot::from_bytes(&raw(MAX_SLOT)?)?.repository != repository.id() {
                return Err(FormatError::malformed("key slot", "it is another repository's").into());
            }
        }
        Form::Marker(slot) => {
            let marker: RemovalMarker =
                msgpack::from_bytes("removal marker", &plain(ObjectKind::RemovalMarker)?)?;
            if marker.slot != slot {
                return Err(FormatError::malformed("removal marker", "it names another slot").into());
            }
        }
        Form::Record(_) => {
            says.session = Some(ArchiveRecord::from_bytes(&plain(ObjectKind::Record)?)?.session);
        }
        Form::State(state) => {
            says.session = Some(ArchiveState::from_bytes(&state, &plain(ObjectKind::State)?)?.session);
        }
        Form::Catalogue => {
            CatalogueSegment::from_bytes(&plain(ObjectKind::Catalogue)?)?;
        }
        Form::Session(_) => {
            msgpack::from_bytes::<Session>("session", &plain(ObjectKind::Session)?)?;
        }
        Form::Condemned => {
            msgpack::from_bytes::<Condemned>("condemned list", &plain(ObjectKind::Condemned)?)?;
        }
        Form::Intent => {
            msgpack::from_bytes::<Intent>("intent", &plain(ObjectKind::Intent)?)?;
        }
        Form::Moved(pack) => {
            if Forwarding::from_bytes(&plain(ObjectKind::Forwarding)?)?.pack != pack {
                return Err(FormatError::malformed("forwarding", "it forwards another pack").into());
            }
        }
        Form::Lost => says.lost = LostList::from_bytes(&plain(ObjectKind::Lost)?)?.blobs,
    }
    Ok(says)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_objects_are() {
        let id = "0123456789abcdef0123456789abcdef";
        let is = |name: String| Form::of(&name).is_some();
        for folder in ["keys", "archives", "sessions", "condemned", "intents", "lost"] {
            assert!(is(format!("{folder}/{id}")), "{folder}");
            assert!(!is(format!("{folder}/x{id}")) && !is(format!("{folder}/{id}/{id}")), "{folder}");
        }
        assert!(is("config".into()) && is(format!("key-removals/{id}-{id}")));
        assert!(is(format!("moved/01/{id}/{id}")) && !is(format!("moved/02/{id}/{id}")));
        assert!(is(format!("catalogue/0000000000000001-{id}")) && !is(format!("catalogue/{id}")));
        assert!(!is(format!("notes/{id}")) && !is("readme".into()));
    }
}
