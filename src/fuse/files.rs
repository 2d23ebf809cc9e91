//! Open images: reading, seeking, and saying once what could not be read.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::errno::{Errno, errno_of};
use super::overlay::Overlay;
use super::stats::{CacheUse, Requests, Stats, Traffic};
use crate::id::{ArchiveId, BlobId};
use crate::image::Image;
use crate::image::prefetcher::Prefetcher;
use crate::image::reader::{ImageReader, ReaderCounts};
use crate::image::streams::Streams;
use crate::repository::Error;
use crate::repository::archives::{Archive, chain};

/// How far ahead of a sequential reader chunks are loaded at most, in bytes.
const WIDEST_WINDOW: u64 = 8 << 20;
/// Bytes of a hole that are sent without being written first, at least and at most: what the kernel asks for at once.
const LEAST_HOLE: usize = 64 << 10;
const LONGEST_HOLE: usize = 1 << 20;
/// How often it is told that reads had no turn, at most.
const TOLD: Duration = Duration::from_secs(60);
/// How many lost chunks are remembered as logged.
const MAX_LOGGED: usize = 4096;

/// An image, or a part of one, that somebody has open.
#[derive(Debug)]
pub struct OpenImage {
    image: Image,
    /// Which bytes of the image the file shows.
    window: Range<u64>,
    /// What was written to it, where it can be.
    overlay: Option<Arc<Overlay>>,
    /// For messages.
    archive: Arc<Archive>,
    member: usize,
    streams: Mutex<Streams>,
}

/// The writable layers of a mount: members of archives.
pub type Overlays = HashMap<(ArchiveId, usize), Arc<Overlay>>;

/// What a file shows.
#[derive(Debug, Clone)]
pub enum Shown {
    /// A member of an archive, or a range of its bytes.
    Image(Arc<Archive>, usize, Option<Range<u64>>),
    /// A text that never changes.
    Text(Arc<[u8]>),
    /// The mount's statistics.
    Stats,
}

/// What a handle stands for.
#[derive(Debug, Clone)]
enum Open {
    Image(Arc<OpenImage>),
    /// A text, as it was when it was opened.
    Text(Arc<[u8]>),
}

/// All open images of a mount.
#[derive(Debug)]
pub struct Files {
    reader: Arc<ImageReader>,
    overlays: Overlays,
    prefetcher: Prefetcher,
    /// Never written to, so that they take no memory.
    zeros: Vec<u8>,
    open: RwLock<HashMap<u64, Open>>,
    next: AtomicU64,
    logged: Mutex<HashSet<BlobId>>,
    /// When it was last told that reads had no turn.
    told: Mutex<Option<Instant>>,
    began: Instant,
    reads: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
}

/// Where to seek to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// The next data.
    Data,
    /// The next hole.
    Hole,
}

impl Files {
    /// Files read by `reader`; those of these members can be written to.
    #[must_use]
    pub fn new(reader: Arc<ImageReader>, overlays: Overlays) -> Self {
        let prefetcher = Prefetcher::new(&reader);
        let (open, next, logged, told) = Default::default();
        let (reads, bytes, failed) = Default::default();
        let (zeros, began) = (vec![0; LONGEST_HOLE], Instant::now());
        Self { reader, overlays, prefetcher, zeros, open, next, logged, told, began, reads, bytes, failed }
    }

    /// The reader beneath.
    #[must_use]
    pub fn reader(&self) -> &ImageReader {
        &self.reader
    }

    /// Whether anything can be written to.
    #[must_use]
    pub fn are_writable(&self) -> bool {
        !self.overlays.is_empty()
    }

    /// Whether what a file shows can be written to.
    #[must_use]
    pub fn is_writable(&self, shown: &Shown) -> bool {
        match shown {
            Shown::Image(archive, member, _) => self.overlays.contains_key(&(archive.id(), *member)),
            Shown::Text(_) | Shown::Stats => false,
        }
    }

    /// Opens what a file shows. Returns a handle.
    ///
    /// # Errors
    /// [`Errno::IO`] if the record of an image's archive cannot be had.
    pub fn open(&self, shown: Shown) -> Result<u64, Errno> {
        match shown {
            Shown::Image(archive, member, part) => self.open_image(archive, member, part),
            Shown::Text(text) => Ok(self.add(Open::Text(text))),
            Shown::Stats => self.open_stats(),
        }
    }

    fn open_image(
        &self,
        archive: Arc<Archive>,
        member: usize,
        part: Option<Range<u64>>,
    ) -> Result<u64, Errno> {
        let repository = self.reader.repository();
        let record = repository.record(archive.id()).map_err(|error| {
            log::error!("archive {} ({}): {}", archive.id(), archive.name, chain(&error));
            errno_of(&error)
        })?;
        let found = record.members.get(member).ok_or(Errno::IO)?;
        let image = Image::of(found, repository.config().span_shift);
        let streams = Mutex::new(Streams::new(WIDEST_WINDOW.min(self.reader.ahead_limit() as u64)));
        let window = part.unwrap_or(0..image.size);
        if window.start > window.end || window.end > image.size {
            return Err(Errno::IO);
        }
        let overlay = self.overlays.get(&(archive.id(), member)).cloned();
        let opened = OpenImage { image, window, overlay, archive, member, streams };
        Ok(self.add(Open::Image(Arc::new(opened))))
    }

    /// Opens the statistics as they are now. They fail only if they cannot be written down.
    fn open_stats(&self) -> Result<u64, Errno> {
        let mut text = serde_json::to_vec_pretty(&self.stats()).map_err(|_| Errno::IO)?;
        text.push(b'\n');
        Ok(self.add(Open::Text(text.into())))
    }

    fn add(&self, open: Open) -> u64 {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.write().insert(handle, open);
        handle
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let ReaderCounts { nodes, maps, chunks } = self.reader.counts();
        let memory = self.reader.memory();
        let cache = |counts, (capacity, bytes): (usize, usize)| CacheUse {
            capacity: capacity as u64,
            bytes: bytes as u64,
            counts,
        };
        let (reads, bytes) = self.reader.repository().packs().traffic();
        let images = self.open.read().values().filter(|open| matches!(open, Open::Image(_))).count();
        Stats {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            seconds: self.began.elapsed().as_secs_f64(),
            open: images as u64,
            requests: Requests {
                reads: load(&self.reads),
                bytes: load(&self.bytes),
                failed: load(&self.failed),
            },
            storage: Traffic { reads, bytes },
            chunks: cache(chunks, memory[2]),
            maps: cache(maps, memory[1]),
            nodes: cache(nodes, memory[0]),
        }
    }

    /// Closes a handle.
    pub fn close(&self, handle: u64) {
        self.open.write().remove(&handle);
    }

    fn get(&self, handle: u64) -> Result<Open, Errno> {
        self.open.read().get(&handle).cloned().ok_or(Errno::STALE)
    }

    fn image(&self, handle: u64) -> Result<Arc<OpenImage>, Errno> {
        match self.get(handle)? {
            Open::Image(image) => Ok(image),
            Open::Text(_) => Err(Errno::INVALID),
        }
    }

    /// What a file has from byte `offset` on, as much of it as `buf` takes, which need not be where it is then: zeros are made once.
    ///
    /// # Errors
    /// [`Errno::IO`] if any of these bytes cannot be had; logged once for each chunk.
    pub fn read<'a>(&'a self, handle: u64, offset: u64, buf: &'a mut [u8]) -> Result<&'a [u8], Errno> {
        let file = match self.get(handle)? {
            Open::Image(file) => file,
            Open::Text(text) => {
                let len = read_text(&text, offset, buf);
                return Ok(&buf[..len]);
            }
        };
        let (offset, buf) = file.clip(offset, buf);
        let ahead = file.streams.lock().observe(&(offset..offset.saturating_add(buf.len() as u64)));
        if let Some(ahead) = ahead {
            self.prefetcher.load(&file.image, &ahead);
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        let beneath = |at: u64, part: &mut [u8]| self.read_image(&file, at, part);
        let read = match &file.overlay {
            None => match self.hole(&file, offset, buf.len()) {
                Ok(Some(zeros)) => Ok(zeros),
                Ok(None) => beneath(offset, buf).map(|()| &*buf),
                Err(errno) => Err(errno),
            },
            Some(overlay) => overlay.read(offset, buf, &beneath).map(|()| &*buf),
        };
        match &read {
            Ok(bytes) => self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed),
            Err(_) => self.failed.fetch_add(1, Ordering::Relaxed),
        };
        read
    }

    /// Counts a read that failed since others took all the time it had, and tells so now and then.
    pub fn had_no_turn(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut told = self.told.lock();
        if told.is_none_or(|told| told.elapsed() > TOLD) {
            *told = Some(Instant::now());
            log::warn!("large reads wait for storage, and others that had no turn in time fail");
        }
    }

    /// The zeros of a range that is all hole, if it is long enough to be worth a look.
    fn hole(&self, file: &OpenImage, offset: u64, len: usize) -> Result<Option<&[u8]>, Errno> {
        let Some(zeros) = self.zeros.get(..len).filter(|_| len >= LEAST_HOLE) else { return Ok(None) };
        let is_hole = self.reader.is_hole(&file.image, &(offset..offset + len as u64));
        is_hole.map(|is_hole| is_hole.then_some(zeros)).map_err(|error| self.tell(file, offset, &error))
    }

    /// Fills `buf`, all of which lies in the image.
    fn read_image(&self, file: &OpenImage, offset: u64, buf: &mut [u8]) -> Result<(), Errno> {
        match self.reader.read_at(&file.image, offset, buf) {
            Ok(len) if len == buf.len() => Ok(()),
            Ok(_) => Err(Errno::IO),
            Err(error) => Err(self.tell(file, offset, &error)),
        }
    }

    /// Writes to a file's byte `offset`; returns how much of `data` was written: less than all only where the file ends.
    ///
    /// # Errors
    /// [`Errno::READ_ONLY`] without a writable layer; [`Errno::NO_SPACE`] at the end, or if that may take no more; [`Errno::IO`].
    pub fn write(&self, handle: u64, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        let file = self.image(handle)?;
        let overlay = file.overlay.as_ref().ok_or(Errno::READ_ONLY)?;
        let Range { start, end } = file.window;
        let at = start.saturating_add(offset);
        let len = usize::try_from(end.saturating_sub(at)).map_or(data.len(), |left| left.min(data.len()));
        if len == 0 && !data.is_empty() {
            return Err(Errno::NO_SPACE);
        }
        overlay.write(at, &data[..len], &|at, part| self.read_image(&file, at, part))?;
        Ok(len)
    }

    /// Makes what was written to a file last, as far as it is to last.
    ///
    /// # Errors
    /// [`Errno::IO`].
    pub fn sync(&self, handle: u64) -> Result<(), Errno> {
        match self.get(handle)? {
            Open::Image(file) => file.overlay.as_ref().map_or(Ok(()), |overlay| overlay.sync()),
            Open::Text(_) => Ok(()),
        }
    }

    /// As [`Self::sync`], for all that was written. What fails is logged.
    pub fn sync_all(&self) {
        for overlay in self.overlays.values() {
            let _ = overlay.sync();
        }
    }

    /// The next data or hole at or behind `offset`, as `lseek` has it.
    ///
    /// # Errors
    /// [`Errno::NO_SUCH_OFFSET`] at or beyond the end, and behind the last data; [`Errno::IO`].
    pub fn seek(&self, handle: u64, offset: u64, seek: Seek) -> Result<u64, Errno> {
        let file = self.image(handle)?;
        let Range { start, end } = file.window;
        let offset = start.saturating_add(offset);
        if offset >= end {
            return Err(Errno::NO_SUCH_OFFSET);
        }
        if file.overlay.is_some() {
            // Any part may have been written: all is data.
            return Ok(if seek == Seek::Data { offset - start } else { end - start });
        }
        let maps = self.reader.maps();
        let found = match seek {
            Seek::Data => maps.next_data(&file.image, offset).map(|found| found.filter(|at| *at < end)),
            Seek::Hole => maps.next_hole(&file.image, offset).map(|found| Some(found.min(end))),
        };
        let found = found.map_err(|error| self.tell(&file, offset, &error))?;
        found.map(|at| at - start).ok_or(Errno::NO_SUCH_OFFSET)
    }

    /// Logs what could not be read, once for each blob, just before the kernel is told.
    fn tell(&self, file: &OpenImage, offset: u64, error: &Error) -> Errno {
        if error.is_late() {
            // Told once for all reads that meet it, by the storage.
            return errno_of(error);
        }
        let mut offset = offset;
        if let Error::LostBlob { id, .. } = error {
            if !self.is_news(id) {
                return errno_of(error);
            }
            offset = self.first_use(&file.image, offset, id).unwrap_or(offset);
        }
        let archive = &file.archive;
        let member = archive.entry.members.get(file.member).map_or("", |member| member.name.as_str());
        log::error!(
            "archive {} #{} member {member}, offset {offset}: {}",
            archive.name,
            archive.id(),
            chain(error)
        );
        errno_of(error)
    }

    /// Whether a lost blob is to be logged: not again, and none once very many were.
    fn is_news(&self, id: &BlobId) -> bool {
        let mut logged = self.logged.lock();
        if logged.len() >= MAX_LOGGED || !logged.insert(*id) {
            return false;
        }
        if logged.len() == MAX_LOGGED {
            log::error!("{MAX_LOGGED} chunks are lost; further ones are not logged");
        }
        true
    }

    /// Where in an image, at or behind `from` and in the span there or the next, a chunk is used first: a read may begin before it.
    fn first_use(&self, image: &Image, from: u64, id: &BlobId) -> Option<u64> {
        let first = from >> image.span_shift;
        (first..=first + 1).find_map(|span| {
            let located = self.reader.maps().span(image, span).ok().flatten()?;
            let number = located.map.chunks.iter().position(|chunk| chunk.id == *id)?;
            let base = span << image.span_shift;
            let used =
                located.map.extents.iter().find(|e| e.chunk as usize == number && base + e.end() > from)?;
            Some(from.max(base + u64::from(used.offset)))
        })
    }
}

impl OpenImage {
    /// Where in the image a read begins, and as much of its buffer as lies in the file.
    fn clip<'a>(&self, offset: u64, buf: &'a mut [u8]) -> (u64, &'a mut [u8]) {
        let Range { start, end } = self.window;
        let offset = start.saturating_add(offset).min(end);
        let len = usize::try_from(end - offset).map_or(buf.len(), |left| left.min(buf.len()));
        (offset, &mut buf[..len])
    }
}

fn read_text(text: &[u8], offset: u64, buf: &mut [u8]) -> usize {
    let rest = usize::try_from(offset).ok().and_then(|offset| text.get(offset..)).unwrap_or_default();
    let len = rest.len().min(buf.len());
    buf[..len].copy_from_slice(&rest[..len]);
    len
}
