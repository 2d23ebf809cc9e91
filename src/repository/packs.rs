//! Reading blobs: at their hint, in the mirror, through forwarding, through the index.
//!
//! Every blob is verified: its seal, its length, and its id recomputed from its content. Nothing is written.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lru::LruCache;
use parking_lot::Mutex;

use super::error::{Error, Result};
use super::objects::{Objects, mirror_name, name};
use super::segments;
use crate::codec::keys::BlobKind;
use crate::format::envelope::ObjectKind;
use crate::format::location::{KEY_MODE_CLASS, Location, PackRef};
use crate::format::pack::{self, PackEntry, PackKind};
use crate::format::protocol::Forwarding;
use crate::format::span_map;
use crate::id::{BlobId, PackId};
use crate::storage::patient::noticing_late;
use crate::storage::{Name, Wanted};

/// How many forwardings one read follows.
const MAX_FORWARDS: usize = 16;
/// How many segments of the index one read may search as its last resort: a request must end within a bounded time.
const MAX_SEARCHED: usize = 256;
/// Memory for forwardings that were opened, in bytes: one of a common pack takes 50 KB.
const FORWARDING_CACHE: usize = 8 << 20;
/// How many lost blobs are remembered, so that each is logged and searched for once.
const MAX_REMEMBERED: usize = 4096;

/// The name of a stored pack.
#[must_use]
pub fn pack_name(kind: PackKind, id: PackId) -> Name {
    let id = id.to_string();
    name(&format!("{}/{}/{id}", kind.folder(), &id[..2]))
}

/// The folder of a retired pack's forwardings.
#[must_use]
pub fn moved_folder(pack: PackId) -> String {
    let hex = pack.to_string();
    format!("moved/{}/{hex}", &hex[..2])
}

/// Whether a blob of this kind can lie so.
#[must_use]
pub fn is_possible(kind: BlobKind, at: Location) -> bool {
    at.pack.mode == KEY_MODE_CLASS && at.sealed_len as usize <= pack::sealed_limit(kind)
}

/// What a kind of blob is called in messages.
#[must_use]
pub fn kind_name(kind: BlobKind) -> &'static str {
    match kind {
        BlobKind::Chunk => "chunk",
        BlobKind::SpanMap => "span map",
        BlobKind::Node => "tree node",
    }
}

/// Reads blobs out of packs.
#[derive(Debug)]
pub struct Packs {
    objects: Objects,
    lost: Mutex<HashSet<BlobId>>,
    moved: Mutex<MovedCache>,
    reads: AtomicU64,
    bytes: AtomicU64,
}

/// A forwarding, and the object that holds it.
#[derive(Debug)]
pub struct Moved {
    /// The object's name.
    pub name: String,
    /// What it says.
    pub forwarding: Forwarding,
}

/// Forwardings of retired packs, used last longest kept.
#[derive(Debug)]
struct MovedCache {
    packs: LruCache<PackId, Arc<Vec<Moved>>>,
    bytes: usize,
}

impl MovedCache {
    fn keep(&mut self, pack: PackId, moved: Arc<Vec<Moved>>) {
        self.bytes += cost(&moved);
        if let Some(old) = self.packs.put(pack, moved) {
            self.bytes -= cost(&old);
        }
        while self.bytes > FORWARDING_CACHE {
            let Some((_, old)) = self.packs.pop_lru() else { return };
            self.bytes -= cost(&old);
        }
    }
}

fn cost(moved: &[Moved]) -> usize {
    let blobs: usize = moved.iter().map(|moved| moved.forwarding.blobs.len()).sum();
    256 + blobs * size_of::<(BlobKind, BlobId, Location)>()
}

impl Packs {
    /// Packs beside `objects`.
    #[must_use]
    pub fn new(objects: Objects) -> Self {
        let moved = MovedCache { packs: LruCache::unbounded(), bytes: 0 };
        Self {
            objects,
            lost: Mutex::default(),
            moved: Mutex::new(moved),
            reads: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// The objects beside which the packs are.
    #[must_use]
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// The plain bytes of a blob, verified.
    ///
    /// # Errors
    /// [`Error::LostBlob`] if it is nowhere to be had, [`Error::Codec`] without the key for it.
    pub fn read(&self, kind: BlobKind, id: &BlobId, hint: Location) -> Result<Vec<u8>> {
        let first = match self.read_at(kind, id, hint) {
            Ok(plain) => return Ok(plain),
            Err(error) if matches!(error, Error::Codec(_)) || error.is_late() => return Err(error),
            Err(error) => error,
        };
        let (elsewhere, was_late) = noticing_late(|| {
            self.read_forwarded(kind, id, hint).or_else(|| self.read_indexed(kind, id, hint))
        });
        elsewhere.ok_or_else(|| {
            let pack = hint.pack.id;
            if was_late {
                // What would have led to it may be there.
                let name = pack_name(PackKind::of(kind), pack);
                return self.objects.failed("find what is gone from", name.as_str())(
                    ErrorKind::TimedOut.into(),
                );
            }
            let (kind, reason) = (kind_name(kind), reason(&first));
            Error::LostBlob { kind, id: *id, pack, offset: hint.offset, reason }
        })
    }

    /// Reads a blob without the index: where the hint says, or where forwardings lead from there.
    ///
    /// # Errors
    /// What was wrong at the hint.
    pub fn read_unindexed(&self, kind: BlobKind, id: &BlobId, hint: Location) -> Result<Vec<u8>> {
        match self.read_at(kind, id, hint) {
            Err(error) if !matches!(error, Error::Codec(_)) => {
                self.read_forwarded(kind, id, hint).ok_or(error)
            }
            done => done,
        }
    }

    /// Reads where the location says, and for maps and nodes in the mirror.
    ///
    /// # Errors
    /// What was wrong there.
    pub fn read_at(&self, kind: BlobKind, id: &BlobId, at: Location) -> Result<Vec<u8>> {
        let pack = pack_name(PackKind::of(kind), at.pack.id);
        let first = self.read_copy(kind, id, at, &pack);
        let Err(error) = first else { return first };
        if kind == BlobKind::Chunk || !self.objects.mirrors() {
            return Err(error);
        }
        match self.read_copy(kind, id, at, &mirror_name(&pack)) {
            Ok(plain) => {
                log::warn!(
                    "{} {id} in {pack}: {}; read from its second copy",
                    kind_name(kind),
                    reason(&error)
                );
                Ok(plain)
            }
            // It may be whole there.
            Err(second) if second.is_late() => Err(second),
            Err(_) => Err(error),
        }
    }

    /// The sealed and the plain bytes of the blob at this place, verified.
    ///
    /// # Errors
    /// As [`Self::read`], but other places are not looked at.
    pub fn sealed(&self, kind: BlobKind, id: &BlobId, at: Location) -> Result<(Vec<u8>, Vec<u8>)> {
        let pack = pack_name(PackKind::of(kind), at.pack.id);
        let copies = [pack.clone(), mirror_name(&pack)];
        let usable = if kind == BlobKind::Chunk || !self.objects.mirrors() { 1 } else { 2 };
        let mut first = None;
        for copy in &copies[..usable] {
            let read = self.sealed_in(at, kind, copy).and_then(|sealed| {
                let plain = self.open(kind, id, at.pack.epoch, &mut sealed.clone())?;
                Ok((sealed, plain))
            });
            match read {
                Ok(read) => return Ok(read),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.expect("at least one copy was tried"))
    }

    /// Reads a blob in one copy of its pack, stored as `pack`.
    ///
    /// # Errors
    /// What was wrong there.
    pub fn read_copy(&self, kind: BlobKind, id: &BlobId, at: Location, pack: &Name) -> Result<Vec<u8>> {
        self.open(kind, id, at.pack.epoch, &mut self.sealed_in(at, kind, pack)?)
    }

    fn sealed_in(&self, at: Location, kind: BlobKind, pack: &Name) -> Result<Vec<u8>> {
        if !is_possible(kind, at) {
            return Err(damaged_blob("its hint is out of bounds"));
        }
        self.fetch(pack, at.offset, vec![0; at.sealed_len as usize])
    }

    /// Fills buffers with stored bytes as they are, each from where a blob begins: several blobs that lie beside each other. They may be read at
    /// once; `take` gets each in the order given, or none where it could not be read.
    pub fn read_ranges(
        &self,
        kind: BlobKind,
        ranges: Vec<(Location, Vec<u8>)>,
        take: &mut dyn FnMut(Option<Vec<u8>>),
    ) {
        let wanted = |(from, buf): (Location, Vec<u8>)| {
            self.count(&buf);
            let name = pack_name(PackKind::of(kind), from.pack.id);
            Wanted { name, offset: from.offset.into(), buf }
        };
        let wanted = ranges.into_iter().map(wanted).collect();
        self.objects.storage().read_ranges(wanted, &mut |read| take(read.ok()));
    }

    fn fetch(&self, pack: &Name, offset: u32, sealed: Vec<u8>) -> Result<Vec<u8>> {
        self.count(&sealed);
        let read = self.objects.storage().read_into(pack, offset.into(), sealed);
        read.map_err(self.objects.failed("read", pack.as_str()))
    }

    fn count(&self, sealed: &[u8]) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(sealed.len() as u64, Ordering::Relaxed);
    }

    /// How often packs were read so far, and how many stored bytes that were.
    #[must_use]
    pub fn traffic(&self) -> (u64, u64) {
        (self.reads.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// Opens a blob that was sealed under `epoch`, and recomputes its id; `sealed` is overwritten.
    ///
    /// # Errors
    /// [`Error::Format`] for damage, [`Error::Codec`] without the key for it.
    pub fn open(&self, kind: BlobKind, id: &BlobId, epoch: u32, sealed: &mut [u8]) -> Result<Vec<u8>> {
        let mut plain = Vec::new();
        self.open_into(kind, id, epoch, sealed, &mut plain)?;
        Ok(plain)
    }

    /// As [`Self::open`], into a buffer, whose content is replaced, also if this fails.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_into(
        &self,
        kind: BlobKind,
        id: &BlobId,
        epoch: u32,
        sealed: &mut [u8],
        plain: &mut Vec<u8>,
    ) -> Result<()> {
        let keyring = self.objects.keyring();
        let opened = pack::open_blob_into(keyring, kind, id, epoch, sealed, plain);
        opened.map_err(|error| match error {
            crate::codec::CodecError::MissingKey { .. } => Error::Codec(error),
            error => damaged_blob(&error.to_string()),
        })?;
        let content = match kind {
            BlobKind::Chunk => &plain[..],
            BlobKind::SpanMap | BlobKind::Node => span_map::content_of(plain)?,
        };
        if keyring.blob_id(kind, content)? == *id {
            Ok(())
        } else {
            Err(damaged_blob("its content has another id"))
        }
    }

    /// Follows forwardings from the hinted pack, never to the same pack twice. Those that were opened before are tried first; others may have
    /// come since.
    fn read_forwarded(&self, kind: BlobKind, id: &BlobId, hint: Location) -> Option<Vec<u8>> {
        let known = |pack| self.known_forwardings(pack);
        let listed = |pack| Some(self.forwardings(pack));
        self.follow(kind, id, hint, &known).or_else(|| self.follow(kind, id, hint, &listed))
    }

    fn follow(
        &self,
        kind: BlobKind,
        id: &BlobId,
        hint: Location,
        forwardings: &dyn Fn(PackId) -> Option<Arc<Vec<Moved>>>,
    ) -> Option<Vec<u8>> {
        let mut seen = HashSet::from([hint.pack.id]);
        let mut next = vec![hint.pack.id];
        for _ in 0..MAX_FORWARDS {
            let moved = forwardings(next.pop()?)?;
            for target in moved.iter().filter_map(|moved| moved.forwarding.find(kind, id)) {
                if let Ok(plain) = self.read_at(kind, id, target) {
                    return Some(plain);
                }
                if seen.insert(target.pack.id) {
                    next.push(target.pack.id);
                }
            }
        }
        None
    }

    /// Whether a blob of `pack`, which is gone or may go, can be read through forwardings that stay: those for which `stays` holds, and which
    /// end in a pack that is `safe`.
    #[must_use]
    pub fn is_forwarded(
        &self,
        pack: PackId,
        kind: BlobKind,
        id: &BlobId,
        stays: &dyn Fn(&Moved) -> bool,
        safe: &dyn Fn(PackId) -> bool,
    ) -> bool {
        let mut seen = HashSet::from([pack]);
        let mut next = vec![pack];
        for _ in 0..MAX_FORWARDS {
            let Some(pack) = next.pop() else { return false };
            let moved = self.forwardings(pack);
            let found = moved.iter().filter(|moved| stays(moved));
            for target in found.filter_map(|moved| moved.forwarding.find(kind, id)) {
                if safe(target.pack.id) {
                    return true;
                }
                if seen.insert(target.pack.id) {
                    next.push(target.pack.id);
                }
            }
        }
        false
    }

    fn known_forwardings(&self, pack: PackId) -> Option<Arc<Vec<Moved>>> {
        self.moved.lock().packs.get(&pack).cloned()
    }

    /// All readable forwardings of a retired pack, as they are listed now.
    #[must_use]
    pub fn forwardings(&self, pack: PackId) -> Arc<Vec<Moved>> {
        match self.objects.names(&moved_folder(pack)) {
            Ok(names) => self.read_forwardings(pack, names.iter().map(Name::as_str)).0,
            Err(_) => Arc::default(),
        }
    }

    /// Those forwardings of a retired pack that have these names, but for the ones that are gone. For those who delete what nothing leads to:
    /// another list than the one they know of might show less, and a forwarding that could not be asked for is not one that is not there.
    /// One that is damaged leads nobody anywhere.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn named_forwardings<'a>(
        &self,
        pack: PackId,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<Arc<Vec<Moved>>> {
        match self.read_forwardings(pack, names) {
            (moved, None) => Ok(moved),
            (_, Some(error)) => Err(error),
        }
    }

    /// Forwardings, and what kept others from being read.
    fn read_forwardings<'a>(
        &self,
        pack: PackId,
        names: impl Iterator<Item = &'a str>,
    ) -> (Arc<Vec<Moved>>, Option<Error>) {
        let names: Vec<&str> = names.collect();
        let known = self.known_forwardings(pack);
        if let Some(known) = known.filter(|known| known.iter().map(|moved| &moved.name).eq(&names)) {
            return (known, None);
        }
        let mut failed = None;
        let open = |name: &str| -> Result<Forwarding> {
            let plain = self.objects.get(ObjectKind::Forwarding, name)?;
            Ok(Forwarding::from_bytes(&plain)?)
        };
        let mut moved = Vec::new();
        for name in names {
            match open(name) {
                Ok(forwarding) if forwarding.pack == pack => {
                    moved.push(Moved { name: name.to_owned(), forwarding });
                }
                Ok(_) => log::warn!("{name} forwards another pack than its name says"),
                Err(error) if error.is_missing() => {}
                Err(error) => {
                    log::warn!("{error}");
                    if matches!(error, Error::Storage { .. }) {
                        failed = Some(error);
                    }
                }
            }
        }
        let moved = Arc::new(moved);
        if !moved.is_empty() {
            self.moved.lock().keep(pack, moved.clone());
        }
        (moved, failed)
    }

    /// Searches the index: the last resort, once per blob.
    fn read_indexed(&self, kind: BlobKind, id: &BlobId, hint: Location) -> Option<Vec<u8>> {
        if self.lost.lock().contains(id) {
            return None;
        }
        let (found, was_late) = noticing_late(|| self.search_index(kind, id, hint));
        let mut lost = self.lost.lock();
        if found.is_none() && !was_late && lost.len() < MAX_REMEMBERED {
            lost.insert(*id);
        }
        found
    }

    fn search_index(&self, kind: BlobKind, id: &BlobId, hint: Location) -> Option<Vec<u8>> {
        let hex = id.to_string();
        let mut seen = HashSet::new();
        // A second time for those that replaced others meanwhile.
        for _ in 0..2 {
            let listed = segments::list(&self.objects).ok()?;
            let new =
                listed.iter().filter(|listed| hex.starts_with(&listed.prefix) && seen.insert(listed.id));
            for listed in new.take(MAX_SEARCHED) {
                let Ok(entries) = segments::entries_of(&self.objects, listed, id) else { continue };
                let elsewhere = entries.iter().filter(|entry| entry.kind == kind && entry.location != hint);
                let opened = elsewhere.filter_map(|entry| self.read_at(kind, id, entry.location).ok()).next();
                if opened.is_some() {
                    return opened;
                }
            }
        }
        None
    }

    /// Reads a pack's own list of its blobs, from its second copy if the first does not have it whole.
    ///
    /// # Errors
    /// [`Error::Storage`], [`Error::Format`], [`Error::Codec`].
    pub fn entries(&self, kind: PackKind, id: PackId) -> Result<Vec<PackEntry>> {
        Ok(self.located_entries(kind, id)?.1)
    }

    /// As [`Self::entries`], with how the pack is referred to.
    ///
    /// # Errors
    /// As [`Self::entries`].
    pub fn located_entries(&self, kind: PackKind, id: PackId) -> Result<(PackRef, Vec<PackEntry>)> {
        let name = pack_name(kind, id);
        let first = self.entries_in(kind, id, &name);
        let Err(error) = first else { return first };
        if kind == PackKind::Data || !self.objects.mirrors() {
            return Err(error);
        }
        let second = self.entries_in(kind, id, &mirror_name(&name));
        match &second {
            Ok(_) => log::warn!("{name}: {}; its second copy is used", reason(&error)),
            Err(second) if !second.is_missing() || error.is_missing() => {}
            Err(_) => return Err(error),
        }
        second
    }

    /// Reads a pack's own list of its blobs from one of its copies.
    ///
    /// # Errors
    /// As [`Self::entries`].
    pub fn entries_in(&self, kind: PackKind, id: PackId, name: &Name) -> Result<(PackRef, Vec<PackEntry>)> {
        let storage = self.objects.storage();
        let failed = || self.objects.failed("read", name.as_str());
        let cut = || Error::Format(crate::format::FormatError::malformed("pack", "it is cut short"));
        let len = storage.len(name).map_err(failed())?;
        let footer_at = len.checked_sub(pack::FOOTER_LEN as u64).ok_or_else(cut)?;
        let mut header = [0; pack::HEADER_LEN];
        storage.read_range(name, 0, &mut header).map_err(failed())?;
        let mut footer = [0; pack::FOOTER_LEN];
        storage.read_range(name, footer_at, &mut footer).map_err(failed())?;
        let (found, pack) = pack::parse_header(id, &header)?;
        if found != kind {
            return Err(crate::format::FormatError::malformed("pack", "it is of the other kind").into());
        }
        let footer = pack::parse_footer(id, len, &footer)?;
        let (offset, trailer_len) = footer.trailer;
        let mut sealed = vec![0; trailer_len as usize];
        storage.read_range(name, offset, &mut sealed).map_err(failed())?;
        let entries = pack::open_trailer(self.objects.keyring(), &header, pack.epoch, &footer, sealed)??;
        Ok((pack, entries))
    }
}

fn damaged_blob(reason: &str) -> Error {
    Error::Format(crate::format::FormatError::malformed("blob", reason))
}

/// What was wrong with a blob or its pack, without their names.
#[must_use]
pub fn reason(error: &Error) -> String {
    match error {
        Error::Storage { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            "its pack is missing".into()
        }
        Error::Storage { source, .. } if source.kind() == std::io::ErrorKind::UnexpectedEof => {
            "its pack is cut short".into()
        }
        Error::Storage { source, .. } => source.to_string(),
        error => error.to_string(),
    }
}
