//! Objects that are sealed one by one, and the second copy of those that are stored twice.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use log::Level;
use parking_lot::Mutex;

use super::error::{Error, Result};
use super::guards::{CONDEMNED, INTENTS};
use super::reserve::RESERVE;
use crate::codec::keys::Keyring;
use crate::format::envelope::{self, ObjectKind};
use crate::storage::patient::carried;
use crate::storage::{Begun, FolderMark, Listed, Name, Settle, Storage};
use crate::task::both;

/// What comes before the name of a second copy.
const MIRROR: &str = "mirror/";
/// Folders whose objects are stored twice.
pub const MIRRORED: [&str; 11] = [
    "keys",
    "key-removals",
    "maps",
    "archives",
    "states",
    "catalogue",
    "sessions",
    "condemned",
    "intents",
    "moved",
    "lost",
];

/// Reads and writes sealed objects by name.
#[derive(Debug, Clone)]
pub struct Objects {
    storage: Arc<dyn Storage>,
    keyring: Arc<Keyring>,
    mirror: bool,
    reserve: Arc<Mutex<Reserve>>,
}

/// An object of which one copy is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HalfStored {
    /// The object.
    pub object: String,
    /// The copy that is there.
    pub there: Name,
    /// The other one.
    pub missing: Name,
}

/// An object that is being stored: nothing of it stays if it is dropped before it is published.
pub struct BegunObject<'a> {
    objects: &'a Objects,
    name: Name,
    begun: Box<dyn Begun + 'a>,
}

impl BegunObject<'_> {
    /// Appends bytes as they are, a multiple of [`crate::storage::aligned::LARGEST_BLOCK`].
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let Self { objects, name, begun } = self;
        objects.with_reserve(|| begun.append(bytes)).map_err(objects.failed("write", name.as_str()))
    }

    /// Publishes it, with these parts at its end.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn publish(mut self, last: &[&[u8]]) -> Result<()> {
        let Self { objects, name, begun } = &mut self;
        objects.with_reserve(|| begun.publish(name, last)).map_err(objects.failed("write", name.as_str()))
    }

    /// Says that its writer lives. A failure costs nothing unless somebody takes it for dead.
    pub fn touch(&self) {
        if let Err(error) = self.begun.touch() {
            log::debug!("{} is being written, and cannot say so: {error}", self.name);
        }
    }
}

/// What a put may do about the reserve when it finds the storage full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Reserve {
    /// Nothing.
    #[default]
    Kept,
    /// Give it up.
    MayGo,
    /// It was given up since: try again, for that may be what made room.
    Gone,
}

/// A name that this program made itself.
///
/// # Panics
/// If it breaks the grammar, which names made of ids and constants cannot.
#[must_use]
pub fn name(text: &str) -> Name {
    Name::new(text).expect("object names are made of folders and hex ids")
}

/// The name of the second copy.
#[must_use]
pub fn mirror_name(of: &Name) -> Name {
    name(&format!("{MIRROR}{of}"))
}

/// Of which object this is a copy.
fn object_of(copy: Name) -> Name {
    copy.as_str().strip_prefix(MIRROR).map(name).unwrap_or(copy)
}

/// Whether space ran out.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn is_mirrored(text: &str) -> bool {
    let folder = text.split('/').next().unwrap_or_default();
    text == "config" || MIRRORED.contains(&folder)
}

/// Whether an object only stands for what somebody is doing, or holds what is known anyway, so that others may remove it as soon as they see
/// it.
fn is_passing(object: &str) -> bool {
    let folder = object.split('/').next().unwrap_or_default();
    ["sessions", "catalogue", CONDEMNED, INTENTS].contains(&folder)
}

impl Objects {
    /// Objects of one storage under one keyring; `mirror` as the config says.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>, keyring: Arc<Keyring>, mirror: bool) -> Self {
        Self { storage, keyring, mirror, reserve: Arc::default() }
    }

    /// The storage beneath.
    #[must_use]
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The keys.
    #[must_use]
    pub fn keyring(&self) -> &Arc<Keyring> {
        &self.keyring
    }

    /// Whether small objects are stored twice.
    #[must_use]
    pub fn mirrors(&self) -> bool {
        self.mirror
    }

    /// Turns a storage's error into ours.
    pub(crate) fn failed(&self, action: &'static str, name: &str) -> impl FnOnce(io::Error) -> Error + use<> {
        let (name, storage) = (name.to_owned(), self.storage.describe());
        move |source| Error::Storage { action, name, storage, source }
    }

    /// Opens an object, from its second copy if the first is missing or damaged.
    ///
    /// # Errors
    /// [`Error::Storage`], [`Error::Damaged`]: what was wrong with the first copy, or with the second if the first is missing. So an
    /// object is missing only if both its copies are.
    pub fn get(&self, kind: ObjectKind, object: &str) -> Result<Vec<u8>> {
        let first = self.get_copy(kind, object, &name(object));
        let Err(error) = first else { return first };
        let Some(copy) = self.second_copy(&name(object)) else { return Err(error) };
        match self.get_copy(kind, object, &copy) {
            Ok(plain) => {
                // One that is passing may have been cleared away between the two puts of its writer.
                let level = if error.is_missing() && is_passing(object) { Level::Info } else { Level::Warn };
                log::log!(level, "{error}; read from its second copy");
                Ok(plain)
            }
            Err(second) if error.is_missing() => Err(second),
            Err(_) => Err(error),
        }
    }

    /// Where the second copy of an object is, if it has one; names too long to have one come from others.
    #[must_use]
    pub fn second_copy(&self, object: &Name) -> Option<Name> {
        let mirrored = self.mirror && is_mirrored(object.as_str());
        mirrored.then(|| Name::new(&format!("{MIRROR}{object}"))).flatten()
    }

    /// Opens one copy of an object: that stored as `copy`.
    ///
    /// # Errors
    /// [`Error::Storage`], [`Error::Damaged`].
    pub fn get_copy(&self, kind: ObjectKind, object: &str, copy: &Name) -> Result<Vec<u8>> {
        let bytes =
            self.storage.read(copy, kind.stored_limit()).map_err(self.failed("read", copy.as_str()))?;
        let opened = envelope::open(&self.keyring, kind, object, &bytes);
        opened.map_err(|source| Error::Damaged { name: copy.to_string(), source })
    }

    /// Seals and stores an object, twice where that is its way.
    ///
    /// # Errors
    /// [`Error::Storage`], [`Error::Codec`].
    pub fn put(&self, kind: ObjectKind, object: &str, plain: &[u8]) -> Result<()> {
        let bytes = envelope::seal(&self.keyring, kind, object, plain)?;
        self.put_bytes(&name(object), &[&bytes])
    }

    /// Stores bytes as they are, twice where that is the name's way.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn put_bytes(&self, object: &Name, parts: &[&[u8]]) -> Result<()> {
        self.put_once(object, parts).map_err(self.failed("write", object.as_str()))?;
        if let Some(copy) = self.second_copy(object) {
            self.put_once(&copy, parts).map_err(self.failed("write", copy.as_str()))?;
        }
        Ok(())
    }

    /// From now on, a put that finds the storage full gives up the reserve and is tried again. For what gives space back in the end.
    pub fn allow_reserve(&self) {
        *self.reserve.lock() = Reserve::MayGo;
    }

    /// From now on, no put touches the reserve.
    pub(super) fn keep_reserve(&self) {
        *self.reserve.lock() = Reserve::Kept;
    }

    /// Begins an object before all its bytes are known; `None` if it is stored twice, or where that gains nothing.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn begin(&self, object: &Name) -> Result<Option<BegunObject<'_>>> {
        if self.second_copy(object).is_some() {
            return Ok(None);
        }
        let begun =
            self.with_reserve(|| self.storage.begin_put()).map_err(self.failed("write", object.as_str()))?;
        Ok(begun.map(|begun| BegunObject { objects: self, name: object.clone(), begun }))
    }

    fn put_once(&self, object: &Name, parts: &[&[u8]]) -> io::Result<()> {
        self.with_reserve(|| self.storage.put(object, parts))
    }

    /// Does what may find the storage full, and does it again if the reserve made room.
    fn with_reserve<T>(&self, mut put: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        match put() {
            Err(error) if is_full(&error) && self.made_room() => {
                // The first error says what happened, whatever the second try meets.
                put().map_err(|_| error)
            }
            done => done,
        }
    }

    /// Gives up the reserve, if that is allowed and was not done yet. Puts that meet the full storage at the same time wait for it.
    fn made_room(&self) -> bool {
        let mut reserve = self.reserve.lock();
        if *reserve == Reserve::MayGo {
            let given_up = self.storage.delete(&name(RESERVE));
            *reserve = if given_up.is_ok() { Reserve::Gone } else { Reserve::Kept };
            if given_up.is_ok() {
                log::info!("{} is full; the reserve is used", self.storage.describe());
            }
        }
        *reserve == Reserve::Gone
    }

    /// Objects of a folder of which one of two copies is not listed.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn half_stored(&self, folder: &str) -> Result<Vec<HalfStored>> {
        if !self.mirror {
            return Ok(Vec::new());
        }
        let list = |place: &str| -> Result<BTreeSet<Name>> {
            Ok(self.names_in_place(place)?.into_iter().map(object_of).collect())
        };
        let (first, second) = (list(folder)?, list(&format!("{MIRROR}{folder}"))?);
        // A name that is too long to have a second copy comes from others.
        let half = |object: &Name| {
            let (own, copy) = (object.clone(), Name::new(&format!("{MIRROR}{object}"))?);
            let (there, missing) = if first.contains(object) { (own, copy) } else { (copy, own) };
            Some(HalfStored { object: object.to_string(), there, missing })
        };
        Ok(first.symmetric_difference(&second).filter_map(half).collect())
    }

    /// Stores the copy that is missing, as the other one is.
    ///
    /// # Errors
    /// [`Error::Storage`]; that the object is gone meanwhile is none.
    pub fn complete(&self, half: &HalfStored, limit: u64) -> Result<()> {
        let bytes = match self.storage.read(&half.there, limit) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            bytes => bytes.map_err(self.failed("read", half.there.as_str()))?,
        };
        self.put_once(&half.missing, &[&bytes]).map_err(self.failed("write", half.missing.as_str()))
    }

    /// Takes back what [`Self::complete`] stored.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn undo(&self, half: &HalfStored) -> Result<()> {
        match self.storage.delete(&half.missing) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(self.failed("delete", half.missing.as_str())),
        }
    }

    /// Where a folder's objects are. The second place first, as in a put: what is published meanwhile is then listed in the first at least.
    fn places(&self, prefix: &str) -> impl Iterator<Item = String> {
        let second = (self.mirror && is_mirrored(prefix)).then(|| format!("{MIRROR}{prefix}"));
        second.into_iter().chain([prefix.to_owned()])
    }

    fn list_place(&self, place: &str) -> Result<Vec<Listed>> {
        self.storage.list(place).map_err(self.failed("list", place))
    }

    fn names_in_place(&self, place: &str) -> Result<Vec<Name>> {
        self.storage.names(place).map_err(self.failed("list", place))
    }

    /// Lists a folder: the union of both places. Lengths are those of the first copy where there is one.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let mut found = BTreeMap::new();
        for place in self.places(prefix) {
            let listed = self.list_place(&place)?;
            found.extend(listed.into_iter().map(|Listed { name, len }| (object_of(name), len)));
        }
        Ok(found.into_iter().map(|(name, len)| Listed { name, len }).collect())
    }

    /// Lists a folder and says of each object how long its copies are: `None` for one that is not listed.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn list_copies(&self, prefix: &str) -> Result<BTreeMap<Name, [Option<u64>; 2]>> {
        let mut found: BTreeMap<Name, [Option<u64>; 2]> = BTreeMap::new();
        for place in self.places(prefix) {
            let copy = usize::from(place != prefix);
            for Listed { name, len } in self.list_place(&place)? {
                found.entry(object_of(name)).or_default()[copy] = Some(len);
            }
        }
        Ok(found)
    }

    /// The names of a folder's objects, in order: the union of both places.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn names(&self, prefix: &str) -> Result<Vec<Name>> {
        let mut names = Vec::new();
        for place in self.places(prefix) {
            names.extend(self.names_in_place(&place)?.into_iter().map(object_of));
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// The names of a folder's objects that are ids, without the folder.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn list_ids<T: std::str::FromStr + Ord>(&self, folder: &str) -> Result<Vec<T>> {
        let mut ids = Vec::new();
        for place in self.places(folder) {
            ids.extend(self.ids_in_place(&place)?);
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// As [`Self::list_ids`], in both places at the same time where storage gains from that. For objects that are put once: of one that is put anew
    /// meanwhile, in one place and then in the other, storage may list neither.
    ///
    /// # Errors
    /// As [`Self::list_ids`].
    pub fn list_ids_at_once<T: std::str::FromStr + Ord + Send>(&self, folder: &str) -> Result<Vec<T>> {
        let places: Vec<String> = self.places(folder).collect();
        let ([second, first], true) = (&places[..], self.storage.gains_from_threads()) else {
            return self.list_ids(folder);
        };
        let (second, first) = both(carried(|| self.ids_in_place(second)), || self.ids_in_place(first));
        let mut ids = second?;
        ids.append(&mut first?);
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// The states of a folder's places: if they are the same before and after some work, nothing came or went in any of them meanwhile. `None` if that cannot
    /// be told; see [`Storage::folder_mark`].
    #[must_use]
    pub fn folder_marks(&self, folder: &str) -> Option<Vec<FolderMark>> {
        self.places(folder).map(|place| self.storage.folder_mark(&place)).collect()
    }

    fn ids_in_place<T: std::str::FromStr>(&self, place: &str) -> Result<Vec<T>> {
        let id_of = |name: &Name| name.as_str().rsplit('/').next()?.parse().ok();
        Ok(self.names_in_place(place)?.iter().filter_map(id_of).collect())
    }

    /// Deletes both copies, the second first.
    ///
    /// # Errors
    /// [`Error::Storage`]; that an object is not there is no error.
    pub fn delete(&self, object: &str) -> Result<()> {
        let first = name(object);
        self.second_copy(&first).into_iter().chain([first]).try_for_each(|copy| self.delete_copy(&copy))
    }

    /// Deletes one copy.
    ///
    /// # Errors
    /// As [`Self::delete`].
    pub fn delete_copy(&self, copy: &Name) -> Result<()> {
        match self.storage.delete(copy) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(self.failed("delete", copy.as_str())),
        }
    }

    /// Whether an object is in neither of its places. Reads of exact names lag behind nothing. Where it cannot be told, it is there.
    #[must_use]
    pub fn is_absent(&self, object: &str) -> bool {
        let first = name(object);
        let absent = |copy: &Name| matches!(self.storage.len(copy), Err(error) if error.kind() == io::ErrorKind::NotFound);
        absent(&first) && self.second_copy(&first).is_none_or(|copy| absent(&copy))
    }

    /// Waits until lists show what others put before our own puts.
    pub fn settle(&self) {
        if let Settle::After(time) = self.storage.settle()
            && !time.is_zero()
        {
            std::thread::sleep(time);
        }
    }
}
