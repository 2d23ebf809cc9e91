//! Writing packs: blobs are appended to open packs from many threads; full packs are stored by a thread of their own.
//!
//! A blob's location is known as soon as it was added, long before its pack is durable: [`PackWriter::finish`] returns
//! only when all packs are. A pack is written while it fills, in pieces, where storage can do that, and gets its name when it is whole.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use super::error::{Error, Result};
use super::liveness::UNPUBLISHED;
use super::objects::{BegunObject, Objects};
use super::packs::pack_name;
use crate::codec::compress::Compression;
use crate::codec::keys::BlobKind;
use crate::codec::seal::packing_bound;
use crate::format::index_segment::IndexEntry;
use crate::format::limits::MAX_PACK_ENTRIES;
use crate::format::location::{KEY_MODE_CLASS, Location, PackRef};
use crate::format::pack::{self, PackEntry, PackKind};
use crate::id::{BlobId, PackId};
use crate::storage::aligned::{Aligned, LARGEST_BLOCK};

/// Blobs of a pack at most: whatever they compress to, few of them are in memory before the index has them ([`super::segments::EARLY`]).
const MOST_BLOBS: usize = 16 << 10;
const _: () = assert!(MOST_BLOBS <= MAX_PACK_ENTRIES as usize);
/// A piece of a pack is written once it has so many bytes, and what is left of them beyond the last whole block begins the next piece.
const PIECE: usize = 2 << 20;
/// What a piece's memory holds beyond its size, in bytes: the last blob goes beyond that.
const SPARE: usize = 1 << 20;
/// Pieces that wait to be written.
const WAITING: usize = 2;
/// How often packs that are written slowly are shown to have a writer.
const TOUCH: Duration = Duration::from_secs(2 * 60);
const _: () = assert!(3 * TOUCH.as_secs() <= UNPUBLISHED.as_secs());
/// Lanes of a writer, at most: each has a pack that is not whole.
pub const MOST_LANES: usize = 8;
/// How many full packs allow for one more lane.
pub const FILLED_FOR_LANE: usize = 2;
const STORER_PANICKED: Error = Error::Panicked { what: "the thread that stores packs" };
const CLOSED: Error = Error::Panicked { what: "a writer of packs that was closed before" };

/// A pack under construction.
#[derive(Debug)]
struct OpenPack {
    pack: PackRef,
    header: [u8; pack::HEADER_LEN],
    /// Bytes that were handed over to be written.
    before: usize,
    /// What comes behind them.
    bytes: Aligned,
    entries: Vec<PackEntry>,
}

impl OpenPack {
    /// A pack in this memory, whose content is forgotten.
    fn new(kind: PackKind, epoch: u32, mut bytes: Aligned) -> Self {
        let pack = PackRef { id: PackId::random(), mode: KEY_MODE_CLASS, epoch };
        let header = pack::header(kind, pack);
        bytes.clear();
        bytes.extend_from_slice(&header);
        Self { pack, header, before: 0, bytes, entries: Vec::new() }
    }

    fn len(&self) -> usize {
        self.before + self.bytes.len()
    }
}

/// What the thread that stores packs is given.
enum Piece {
    /// The next bytes of a pack, whole blocks.
    Next(PackRef, Aligned),
    /// A pack, of which these bytes are the last.
    Last(OpenPack),
}

/// What there is of a pack that is not whole.
enum Partial<'a> {
    /// It is being written.
    Written(BegunObject<'a>),
    /// It is stored when it is whole.
    Held(Vec<Aligned>),
}

/// What the thread that stores packs gives back.
#[derive(Debug, Default)]
struct Finished {
    stored: Mutex<Vec<StoredPack>>,
    /// Memory of pieces that were written, for the next ones: fresh pages cost more than what is copied into them.
    memory: Mutex<Vec<Aligned>>,
}

#[derive(Debug, Default)]
struct OpenLane {
    /// The pack under construction.
    pack: Mutex<Option<OpenPack>>,
    /// How many use it.
    users: AtomicUsize,
}

/// Appends blobs of one kind of pack.
#[derive(Debug)]
pub struct PackWriter {
    kind: PackKind,
    pack_size: usize,
    objects: Objects,
    lanes: Vec<OpenLane>,
    /// Held while a lane is chosen.
    choosing: Mutex<()>,
    /// Packs that were full.
    filled: AtomicUsize,
    full: Option<Sender<Piece>>,
    finished: Arc<Finished>,
    storer: Option<JoinHandle<Result<()>>>,
}

/// For who appends blobs that will be read one after the other: those of others lie in other packs, once there is enough for several.
#[derive(Debug)]
pub struct Lane<'a> {
    writer: &'a PackWriter,
    number: usize,
}

impl Lane<'_> {
    /// Compresses and seals a blob, appends it, and says where it will lie.
    ///
    /// # Errors
    /// [`Error::Codec`] without a key to seal with; as [`PackWriter::add`].
    pub fn seal(
        &self,
        kind: BlobKind,
        id: &BlobId,
        plain: &[u8],
        compression: Compression,
    ) -> Result<Location> {
        let (writer, lane) = (self.writer, &self.writer.lanes[self.number]);
        let keyring = writer.objects.keyring();
        let sealed = || pack::seal_blob(keyring, kind, id, plain, compression);
        if lane.users.load(Ordering::Relaxed) > 1 {
            return writer.add_to(lane, kind, id, plain.len(), &sealed()?);
        }
        // Nobody else waits for the pack: what is sealed where it will lie need not be copied there.
        writer.append(lane, kind, id, plain.len(), |bytes| {
            if bytes.capacity() - bytes.len() >= packing_bound(plain.len()) {
                pack::seal_blob_into(bytes, keyring, kind, id, plain, compression)?;
            } else {
                bytes.extend_from_slice(&sealed()?);
            }
            Ok(())
        })
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        self.writer.lanes[self.number].users.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A pack that is durable.
#[derive(Debug)]
pub struct StoredPack {
    /// The pack.
    pub pack: PackRef,
    /// Its length in bytes.
    pub len: u64,
    /// What it holds.
    pub entries: Vec<PackEntry>,
}

impl StoredPack {
    /// Its blobs as the index lists them.
    pub fn index_entries(&self) -> impl Iterator<Item = IndexEntry> + '_ {
        self.entries.iter().map(|entry| IndexEntry {
            kind: entry.kind,
            id: entry.id,
            location: entry.location(self.pack),
            plain_len: entry.plain_len,
        })
    }
}

impl PackWriter {
    /// Starts writing packs of `kind`, each closed when it has reached `pack_size` bytes.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(kind: PackKind, pack_size: u32, objects: Objects) -> std::io::Result<Self> {
        Self::touching(TOUCH, kind, pack_size, objects)
    }

    /// One that shows that often that packs have a writer.
    fn touching(touch: Duration, kind: PackKind, pack_size: u32, objects: Objects) -> std::io::Result<Self> {
        let (full, waiting) = bounded(WAITING);
        let finished: Arc<Finished> = Arc::default();
        let (storing, done) = (objects.clone(), finished.clone());
        let storer =
            std::thread::Builder::new().name(format!("store-{}", kind.folder())).spawn(move || {
                let (objects, finished) = (&storing, &*done);
                Storer { kind, objects, finished, begun: HashMap::new() }.store_all(&waiting, touch)
            })?;
        Ok(Self {
            kind,
            pack_size: pack_size as usize,
            objects,
            lanes: vec![OpenLane::default()],
            choosing: Mutex::default(),
            filled: AtomicUsize::new(0),
            full: Some(full),
            finished,
            storer: Some(storer),
        })
    }

    /// Lets so many append to packs of their own ([`Self::lane`]), at most [`MOST_LANES`], and no fewer than before.
    #[must_use]
    pub fn with_lanes(mut self, lanes: usize) -> Self {
        let lanes = lanes.min(MOST_LANES).max(self.lanes.len());
        self.lanes.resize_with(lanes, OpenLane::default);
        self
    }

    /// The lane that fewest use, until it is dropped. There is one for all at first, and one more for each [`FILLED_FOR_LANE`] packs that were
    /// full: of what is stored in the end, each lane leaves a pack that is not.
    #[must_use]
    pub fn lane(&self) -> Lane<'_> {
        let _choosing = self.choosing.lock();
        let lanes = (1 + self.filled.load(Ordering::Relaxed) / FILLED_FOR_LANE).min(self.lanes.len());
        let users = |number: &usize| self.lanes[*number].users.load(Ordering::Relaxed);
        let number = (0..lanes).min_by_key(users).unwrap_or(0);
        self.lanes[number].users.fetch_add(1, Ordering::Relaxed);
        Lane { writer: self, number }
    }

    /// Appends a sealed blob and says where it will lie.
    ///
    /// # Errors
    /// [`Error::Panicked`] if storing ended; the cause comes from [`Self::finish`].
    pub fn add(&self, kind: BlobKind, id: &BlobId, plain_len: usize, sealed: &[u8]) -> Result<Location> {
        self.add_to(&self.lanes[0], kind, id, plain_len, sealed)
    }

    fn add_to(
        &self,
        lane: &OpenLane,
        kind: BlobKind,
        id: &BlobId,
        plain_len: usize,
        sealed: &[u8],
    ) -> Result<Location> {
        self.append(lane, kind, id, plain_len, |bytes| {
            bytes.extend_from_slice(sealed);
            Ok(())
        })
    }

    /// Enters a blob that `append` appends to the open pack of a lane; has the pack stored if it is full then.
    fn append(
        &self,
        lane: &OpenLane,
        kind: BlobKind,
        id: &BlobId,
        plain_len: usize,
        append: impl FnOnce(&mut Vec<u8>) -> Result<()>,
    ) -> Result<Location> {
        debug_assert_eq!(PackKind::of(kind), self.kind);
        let narrow = |len: usize| u32::try_from(len).expect("packs and blobs are bounded far below 4 GiB");
        let mut guard = lane.pack.lock();
        let open = guard.get_or_insert_with(|| {
            OpenPack::new(self.kind, self.objects.keyring().current_epoch(), self.memory())
        });
        let offset = open.len();
        open.bytes.append_with(append)?;
        let entry = PackEntry {
            kind,
            id: *id,
            offset: narrow(offset),
            sealed_len: narrow(open.len() - offset),
            plain_len: narrow(plain_len),
        };
        open.entries.push(entry);
        let location = entry.location(open.pack);
        if open.len() >= self.pack_size || open.entries.len() >= MOST_BLOBS {
            self.filled.fetch_add(1, Ordering::Relaxed);
            guard.take().map_or(Ok(()), |open| self.send(Piece::Last(open)))?;
        } else if open.bytes.len() >= PIECE {
            let whole = open.bytes.len() / LARGEST_BLOCK * LARGEST_BLOCK;
            let mut next = self.memory();
            next.extend_from_slice(&open.bytes[whole..]);
            let mut piece = std::mem::replace(&mut open.bytes, next);
            piece.truncate(whole);
            open.before += whole;
            self.send(Piece::Next(open.pack, piece))?;
        }
        Ok(location)
    }

    /// Memory for a piece, empty.
    fn memory(&self) -> Aligned {
        let used = self.finished.memory.lock().pop();
        let mut memory = used.unwrap_or_else(|| Aligned::with_capacity(self.pack_size.min(PIECE) + SPARE));
        memory.clear();
        memory
    }

    fn send(&self, piece: Piece) -> Result<()> {
        let full = self.full.as_ref().ok_or(CLOSED)?;
        full.send(piece).map_err(|_| STORER_PANICKED)
    }

    /// Blobs of packs that are durable by now, and were not taken.
    #[must_use]
    pub fn stored_blobs(&self) -> usize {
        self.finished.stored.lock().iter().map(|pack| pack.entries.len()).sum()
    }

    /// Packs that are durable by now; each is given once, here or by [`Self::finish`].
    #[must_use]
    pub fn take_stored(&self) -> Vec<StoredPack> {
        std::mem::take(&mut *self.finished.stored.lock())
    }

    /// Stores what is left and waits until every pack is durable. What was stored stays, also after an error: others may already have claimed
    /// blobs in it, and a create that is repeated finds them there.
    ///
    /// # Errors
    /// The first error of storing.
    pub fn finish(mut self) -> Result<Vec<StoredPack>> {
        let closed = self.close();
        self.end().and(closed)?;
        Ok(std::mem::take(&mut *self.finished.stored.lock()))
    }

    /// Has what is left stored, as soon as what waits is; nothing may be added after that. With several lanes, it may wait until some of their packs are.
    ///
    /// # Errors
    /// [`Error::Panicked`] if storing ended; the cause comes from [`Self::finish`].
    pub fn close(&mut self) -> Result<()> {
        // One without blobs is left by who could not seal the first.
        let open = |lane: &OpenLane| lane.pack.lock().take().filter(|open| !open.entries.is_empty());
        let sent = self.lanes.iter().filter_map(open).try_for_each(|open| self.send(Piece::Last(open)));
        self.full = None;
        sent
    }

    fn end(&mut self) -> Result<()> {
        self.full = None;
        let Some(storer) = self.storer.take() else { return Ok(()) };
        storer.join().unwrap_or(Err(STORER_PANICKED))
    }
}

impl Drop for PackWriter {
    /// Ends the thread of a writer that was not finished; packs that wait are stored, the open ones are dropped.
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Stores packs.
struct Storer<'a> {
    kind: PackKind,
    objects: &'a Objects,
    finished: &'a Finished,
    /// Packs that are not whole.
    begun: HashMap<PackId, Partial<'a>>,
}

impl Storer<'_> {
    /// Stores what comes, until an error. Of packs that are not whole then nothing stays.
    fn store_all(&mut self, waiting: &Receiver<Piece>, touch: Duration) -> Result<()> {
        let mut touched = Instant::now();
        loop {
            match waiting.recv_timeout(touch) {
                Ok(Piece::Next(pack, bytes)) => self.write(pack, bytes)?,
                Ok(Piece::Last(open)) => self.end(open)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            if touched.elapsed() >= touch {
                touched = Instant::now();
                self.touch();
            }
        }
    }

    fn write(&mut self, pack: PackRef, bytes: Aligned) -> Result<()> {
        let begun = match self.begun.entry(pack.id) {
            Entry::Occupied(begun) => begun.into_mut(),
            Entry::Vacant(vacant) => {
                let object = self.objects.begin(&pack_name(self.kind, pack.id))?;
                vacant.insert(object.map_or_else(|| Partial::Held(Vec::new()), Partial::Written))
            }
        };
        match begun {
            Partial::Written(object) => {
                object.append(&bytes)?;
                self.finished.memory.lock().push(bytes);
            }
            Partial::Held(pieces) => pieces.push(bytes),
        }
        Ok(())
    }

    fn end(&mut self, open: OpenPack) -> Result<()> {
        let len = open.len();
        let OpenPack { pack, header, bytes, entries, .. } = open;
        let trailer = pack::trailer(self.objects.keyring(), &header, &entries, len)?;
        let mut used = Vec::new();
        match self.begun.remove(&pack.id) {
            Some(Partial::Written(object)) => object.publish(&[&bytes, &trailer])?,
            held => {
                if let Some(Partial::Held(pieces)) = held {
                    used = pieces;
                }
                let pieces = used.iter().map(|piece| &piece[..]);
                let parts: Vec<&[u8]> = pieces.chain([&bytes[..], &trailer]).collect();
                // One of two copies may stay after an error: it is whole, and others may already have claimed blobs in it.
                self.objects.put_bytes(&pack_name(self.kind, pack.id), &parts)?;
            }
        }
        let len = (len + trailer.len()) as u64;
        self.finished.stored.lock().push(StoredPack { pack, len, entries });
        used.push(bytes);
        self.finished.memory.lock().append(&mut used);
        Ok(())
    }

    fn touch(&self) {
        for begun in self.begun.values() {
            if let Partial::Written(object) = begun {
                object.touch();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::codec::keys::{FIRST_EPOCH, KeySet, Keyring};
    use crate::id::RepositoryId;
    use crate::repository::objects::{is_full, name};
    use crate::repository::packs::Packs;
    use crate::repository::reserve::RESERVE;
    use crate::storage::faults::{Fault, Faults};
    use crate::storage::local::LocalStorage;
    use crate::storage::memory::MemoryStorage;
    use crate::storage::recorder::Op;
    use crate::storage::{Begun, Listed, Name, Settle, Storage};

    const BLOB: usize = 10_000;
    const PACK: u32 = 100_000;

    fn writer(lanes: usize) -> PackWriter {
        writer_to(Arc::new(MemoryStorage::new()), lanes)
    }

    fn writer_to(storage: Arc<dyn Storage>, lanes: usize) -> PackWriter {
        let keyring = Keyring::new(RepositoryId::random(), &KeySet::generate(), FIRST_EPOCH);
        let objects = Objects::new(storage, Arc::new(keyring), false);
        PackWriter::start(PackKind::Data, PACK, objects).expect("a thread").with_lanes(lanes)
    }

    /// What two append in turns, each `blobs` times.
    fn in_turns(lanes: [&Lane<'_>; 2], blobs: usize) -> [Vec<Location>; 2] {
        let mut places = [Vec::new(), Vec::new()];
        for number in 0..blobs {
            for (lane, places) in lanes.iter().zip(&mut places) {
                let id = BlobId([u8::try_from(number).expect("few"); 32]);
                places.push(lane.seal(BlobKind::Chunk, &id, &[7; BLOB], Compression::None).expect("seal"));
            }
        }
        places
    }

    fn adjoin(places: &[Location]) -> bool {
        places
            .windows(2)
            .all(|two| two[0].pack == two[1].pack && two[0].offset + two[0].sealed_len == two[1].offset)
    }

    #[test]
    fn what_two_append_in_turns_lies_apart_once_packs_were_full() {
        let writer = writer(2);
        let own = [writer.lane(), writer.lane()];
        let [first, second] = in_turns([&own[0], &own[1]], 5 * FILLED_FOR_LANE);
        assert!(first.iter().zip(&second).all(|(first, second)| first.pack == second.pack));
        assert!(!adjoin(&first[..5]) && !adjoin(&second[..5]));
        drop(own);
        let own = [writer.lane(), writer.lane()];
        let [first, second] = in_turns([&own[0], &own[1]], 5);
        assert!(adjoin(&first) && adjoin(&second) && first[0].pack != second[0].pack);
        drop(own);
        let alone = writer.lane();
        assert_eq!(in_turns([&alone; 2], 1)[0][0].pack, first[0].pack, "it goes on where somebody ended");
        drop(alone);
        let stored = writer.finish().expect("finish");
        assert_eq!(
            stored.iter().map(|pack| pack.entries.len()).sum::<usize>(),
            20 * FILLED_FOR_LANE / 2 + 12
        );
    }

    #[test]
    fn what_is_sealed_alone_beside_others_or_beyond_a_packs_memory_can_be_read() {
        let storage = Arc::new(MemoryStorage::new());
        let writer = writer_to(storage.clone(), 1);
        let keyring = writer.objects.keyring().clone();
        let mut blobs = Vec::new();
        let mut seal = |lane: &Lane<'_>, compression, len: usize| {
            let number = u64::try_from(blobs.len()).expect("few");
            let mut plain = vec![7; len];
            blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut plain[..len / 2]);
            let id = keyring.blob_id(BlobKind::Chunk, &plain).expect("a key");
            let at = lane.seal(BlobKind::Chunk, &id, &plain, compression).expect("seal");
            blobs.push((id, plain, at));
        };
        for compression in [Compression::None, Compression::default()] {
            for len in [1, BLOB, SPARE, SPARE + PACK as usize, 4 << 20] {
                let alone = writer.lane();
                seal(&alone, compression, len);
                let other = writer.lane();
                seal(&alone, compression, len);
                seal(&other, compression, len);
            }
        }
        let stored = writer.finish().expect("finish");
        let packs = Packs::new(Objects::new(storage, keyring, false));
        for pack in stored {
            assert_eq!(packs.located_entries(PackKind::Data, pack.pack.id).expect("a list").1, pack.entries);
        }
        for (id, plain, at) in blobs {
            assert!(packs.read(BlobKind::Chunk, &id, at).expect("read") == plain, "{} bytes", plain.len());
        }
    }

    /// Fills packs of several pieces from two lanes; what was sealed, and where.
    fn fill(writer: &PackWriter) -> Vec<(BlobId, Vec<u8>, Location)> {
        let lanes = [0, 1].map(|number| {
            writer.lanes[number].users.fetch_add(1, Ordering::Relaxed);
            Lane { writer, number }
        });
        let mut blobs = Vec::new();
        for number in 0..120u64 {
            // Some do not fit into a piece, and have it moved.
            let len = if number % 40 == 13 { 3 << 20 } else { 300_000 };
            let mut plain = vec![0; len + 7 * number as usize];
            blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut plain);
            let id = writer.objects.keyring().blob_id(BlobKind::Chunk, &plain).expect("a key");
            let lane = &lanes[usize::from(number % 3 == 0)];
            if number % 10 == 0 {
                let fails = |bytes: &mut Vec<u8>| {
                    bytes.extend_from_slice(&plain);
                    Err(CLOSED)
                };
                let failed = writer.append(&writer.lanes[lane.number], BlobKind::Chunk, &id, len, fails);
                assert!(failed.is_err());
            }
            let at = lane.seal(BlobKind::Chunk, &id, &plain, Compression::None).expect("seal");
            blobs.push((id, plain, at));
        }
        blobs
    }

    fn writer_of_long_packs(storage: Arc<dyn Storage>) -> PackWriter {
        let keyring = Keyring::new(RepositoryId::random(), &KeySet::generate(), FIRST_EPOCH);
        let objects = Objects::new(storage, Arc::new(keyring), false);
        PackWriter::start(PackKind::Data, 8 << 20, objects).expect("a thread").with_lanes(2)
    }

    /// Whether all that was sealed is where it was said to be, and packs list it so.
    fn assert_stored(objects: &Objects, stored: &[StoredPack], blobs: &[(BlobId, Vec<u8>, Location)]) {
        let packs = Packs::new(objects.clone());
        let listed = objects.storage().list("packs").expect("list");
        assert_eq!(listed.len(), stored.len());
        assert_eq!(stored.iter().map(|pack| pack.entries.len()).sum::<usize>(), blobs.len());
        for pack in stored {
            let (_, entries) = packs.located_entries(PackKind::Data, pack.pack.id).expect("a list");
            assert_eq!(entries, pack.entries);
            assert_eq!(
                objects.storage().len(&pack_name(PackKind::Data, pack.pack.id)).expect("len"),
                pack.len
            );
        }
        for (id, plain, at) in blobs {
            assert!(packs.read(BlobKind::Chunk, id, *at).expect("read") == *plain);
        }
    }

    #[test]
    fn packs_are_written_while_they_fill_and_have_names_when_they_are_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        let storage = Arc::new(LocalStorage::create(&directory.path().join("repo")).expect("create"));
        let unpublished = || {
            let files = std::fs::read_dir(storage.path().join("tmp")).expect("list");
            files.map(|file| file.expect("a file").metadata().expect("stat").len()).sum::<u64>()
        };
        let writer = writer_of_long_packs(storage.clone());
        let blobs = fill(&writer);
        let objects = writer.objects.clone();
        let whole = objects.storage().list("packs").expect("list");
        assert!((1..6).contains(&whole.len()) && whole.iter().all(|listed| listed.len > 8 << 20));
        assert!(unpublished() > 0 && unpublished().is_multiple_of(LARGEST_BLOCK as u64));
        let stored = writer.finish().expect("finish");
        assert_eq!(unpublished(), 0);
        assert_stored(&objects, &stored, &blobs);

        // Nothing stays of what nobody finishes.
        let writer = writer_of_long_packs(storage.clone());
        fill(&writer);
        drop(writer);
        assert!(std::fs::read_dir(storage.path().join("tmp")).expect("list").next().is_none());
    }

    #[test]
    fn a_pack_that_fills_slowly_is_shown_to_have_a_writer() {
        let directory = tempfile::tempdir().expect("a directory");
        let storage = Arc::new(LocalStorage::create(&directory.path().join("repo")).expect("create"));
        let keyring = Keyring::new(RepositoryId::random(), &KeySet::generate(), FIRST_EPOCH);
        let objects = Objects::new(storage.clone(), Arc::new(keyring), false);
        let touch = Duration::from_millis(5);
        let writer = PackWriter::touching(touch, PackKind::Data, 8 << 20, objects).expect("a thread");
        let plain = vec![7; PIECE];
        writer.lane().seal(BlobKind::Chunk, &BlobId([1; 32]), &plain, Compression::None).expect("seal");
        let hour = Duration::from_secs(3600);
        for _ in 0..3 {
            let file = loop {
                let mut files = std::fs::read_dir(storage.path().join("tmp")).expect("list");
                if let Some(file) = files.next() {
                    break file.expect("a file").path();
                }
                std::thread::sleep(touch);
            };
            let opened = std::fs::File::options().write(true).open(&file).expect("open");
            opened.set_modified(std::time::SystemTime::now() - hour).expect("an hour ago");
            let is_old = || {
                file.metadata()
                    .expect("stat")
                    .modified()
                    .expect("a time")
                    .elapsed()
                    .is_ok_and(|age| age > hour / 2)
            };
            while is_old() {
                std::thread::sleep(touch);
            }
        }
        assert_eq!(writer.finish().expect("finish").len(), 1);
    }

    #[test]
    fn packs_are_the_same_where_storage_takes_them_only_whole() {
        let writer = writer_of_long_packs(Arc::new(MemoryStorage::new()));
        let blobs = fill(&writer);
        let objects = writer.objects.clone();
        assert_stored(&objects, &writer.finish().expect("finish"), &blobs);
    }

    /// Keeps objects in memory. Those that are begun find it full after so many pieces and ends, as long as there is a reserve.
    #[derive(Debug)]
    struct Small(MemoryStorage, AtomicUsize);

    impl Small {
        fn take(&self) -> io::Result<()> {
            let Self(storage, left) = self;
            if left.load(Ordering::Relaxed) == 0 && storage.len(&name(RESERVE)).is_ok() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let _ = left.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            Ok(())
        }
    }

    impl Storage for Small {
        fn read(&self, name: &Name, limit: u64) -> io::Result<Vec<u8>> {
            self.0.read(name, limit)
        }

        fn read_range(&self, name: &Name, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            self.0.read_range(name, offset, buf)
        }

        fn len(&self, name: &Name) -> io::Result<u64> {
            self.0.len(name)
        }

        fn put(&self, name: &Name, parts: &[&[u8]]) -> io::Result<()> {
            self.0.put(name, parts)
        }

        fn begin_put(&self) -> io::Result<Option<Box<dyn Begun + '_>>> {
            Ok(Some(Box::new(Pieces(self, Vec::new()))))
        }

        fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
            self.0.list(prefix)
        }

        fn delete(&self, name: &Name) -> io::Result<()> {
            self.0.delete(name)
        }

        fn settle(&self) -> Settle {
            self.0.settle()
        }

        fn describe(&self) -> String {
            self.0.describe()
        }
    }

    struct Pieces<'a>(&'a Small, Vec<u8>);

    impl Begun for Pieces<'_> {
        fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.take()?;
            self.1.extend_from_slice(bytes);
            Ok(())
        }

        fn publish(&mut self, name: &Name, last: &[&[u8]]) -> io::Result<()> {
            self.0.take()?;
            self.0.put(name, &[&self.1, &last.concat()])
        }

        fn touch(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_pack_that_finds_storage_full_while_it_fills_takes_the_reserve_or_leaves_nothing() {
        // A pack is three pieces and an end: the second cannot be appended to, or not be ended.
        for (may, room) in [(true, 6), (false, 6), (true, 7), (false, 7)] {
            let storage = Arc::new(Small(MemoryStorage::new(), AtomicUsize::new(room)));
            storage.put(&name(RESERVE), &[&[0; 100]]).expect("a reserve");
            let writer = writer_of_long_packs(storage.clone());
            let objects = writer.objects.clone();
            if may {
                objects.allow_reserve();
                let blobs = fill(&writer);
                assert_stored(&objects, &writer.finish().expect("finish"), &blobs);
                assert!(storage.len(&name(RESERVE)).is_err());
            } else {
                let lane = writer.lane();
                let plain = vec![7; 300_000];
                let mut sealed = (0..120u8).map(|number| {
                    lane.seal(BlobKind::Chunk, &BlobId([number; 32]), &plain, Compression::None)
                });
                assert!(sealed.any(|sealed| sealed.is_err()), "whoever adds sees that storing has ended");
                drop(sealed);
                drop(lane);
                let error = writer.finish().expect_err("it is full");
                assert!(matches!(&error, Error::Storage { source, .. } if is_full(source)), "{error}");
                assert_eq!(storage.list("packs").expect("list").len(), 1);
            }
        }
    }

    #[test]
    fn who_cannot_seal_leaves_no_pack_behind() {
        let keys = KeySet::public(&RepositoryId([1; 16]));
        let keyring = Keyring::new(RepositoryId([1; 16]), &keys, FIRST_EPOCH);
        let storage = Arc::new(MemoryStorage::new());
        let objects = Objects::new(storage.clone(), Arc::new(keyring), false);
        let writer = PackWriter::start(PackKind::Data, PACK, objects).expect("a thread");
        let lane = writer.lane();
        let failed = lane.writer.append(&writer.lanes[0], BlobKind::Chunk, &BlobId([1; 32]), 9, |bytes| {
            bytes.extend_from_slice(b"plain");
            Err(CLOSED)
        });
        assert!(failed.is_err());
        drop(lane);
        assert!(writer.finish().expect("nothing to store").is_empty());
        assert!(storage.list("packs").expect("list").is_empty());
    }

    #[test]
    fn more_than_have_a_lane_share_those_there_are() {
        for lanes in [0, 1, 3, 100] {
            let writer = writer(lanes);
            let lanes = lanes.clamp(1, MOST_LANES);
            in_turns([&writer.lane(); 2], 5 * FILLED_FOR_LANE * lanes);
            let many: Vec<Lane<'_>> = (0..20).map(|_| writer.lane()).collect();
            let mut users = vec![0usize; lanes];
            many.iter().for_each(|lane| users[lane.number] += 1);
            assert!(users.iter().all(|users| users.abs_diff(20 / lanes) <= 1), "{users:?}");
            drop(many);
            assert!(writer.lanes.iter().all(|lane| lane.users.load(Ordering::Relaxed) == 0));
            writer.finish().expect("finish");
        }
    }

    #[test]
    fn what_is_added_to_any_lane_of_a_closed_writer_is_no_silent_loss() {
        let mut writer = writer(2);
        in_turns([&writer.lane(); 2], 5 * FILLED_FOR_LANE);
        writer.close().expect("close");
        let first = writer.lane();
        let second = writer.lane();
        in_turns([&second; 2], 1);
        drop([first, second]);
        assert!(writer.finish().is_err());
    }

    #[test]
    fn whoever_waits_in_a_lane_goes_on_when_storing_fails() {
        let storage = Faults::new(MemoryStorage::new());
        storage.inject_always(Op::Put, "packs", Fault::Fail(std::io::ErrorKind::Other));
        let writer = writer_to(Arc::new(storage), MOST_LANES);
        writer.filled.store(FILLED_FOR_LANE * MOST_LANES, Ordering::Relaxed);
        std::thread::scope(|scope| {
            for number in 0..2 * MOST_LANES {
                let lane = writer.lane();
                scope.spawn(move || {
                    let id = BlobId([u8::try_from(number).expect("few"); 32]);
                    (0..100).any(|_| lane.seal(BlobKind::Chunk, &id, &[7; BLOB], Compression::None).is_err())
                });
            }
        });
        let error = writer.finish().expect_err("nothing was stored");
        assert!(matches!(error, Error::Storage { .. }), "{error}");
    }
}
