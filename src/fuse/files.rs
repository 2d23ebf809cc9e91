//! Open images: reading, seeking, and saying once what could not be read.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};

use super::errno::{Errno, errno_of};
use super::stats::{CacheUse, Requests, Stats, Traffic};
use crate::id::BlobId;
use crate::image::Image;
use crate::image::prefetcher::Prefetcher;
use crate::image::reader::{ImageReader, ReaderCounts};
use crate::image::streams::Streams;
use crate::repository::Error;
use crate::repository::archives::{Archive, chain};

/// How far ahead of a sequential reader chunks are loaded at most, in bytes.
const WIDEST_WINDOW: u64 = 8 << 20;
/// How many lost chunks are remembered as logged.
const MAX_LOGGED: usize = 4096;

/// An image that somebody has open.
#[derive(Debug)]
pub struct OpenImage {
    image: Image,
    /// For messages.
    archive: Arc<Archive>,
    member: usize,
    streams: Mutex<Streams>,
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
    prefetcher: Prefetcher,
    open: RwLock<HashMap<u64, Open>>,
    next: AtomicU64,
    logged: Mutex<HashSet<BlobId>>,
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
    /// Files read by `reader`.
    #[must_use]
    pub fn new(reader: ImageReader) -> Self {
        let reader = Arc::new(reader);
        let prefetcher = Prefetcher::new(&reader);
        let (open, next, logged) = Default::default();
        let (reads, bytes, failed) = Default::default();
        Self { reader, prefetcher, open, next, logged, began: Instant::now(), reads, bytes, failed }
    }

    /// The reader beneath.
    #[must_use]
    pub fn reader(&self) -> &ImageReader {
        &self.reader
    }

    /// Opens a member of an archive: reads its record. Returns a handle.
    ///
    /// # Errors
    /// [`Errno::IO`] if the record cannot be had.
    pub fn open(&self, archive: Arc<Archive>, member: usize) -> Result<u64, Errno> {
        let repository = self.reader.repository();
        let record = repository.record(archive.id()).map_err(|error| {
            log::error!("archive {} ({}): {}", archive.id(), archive.name, chain(&error));
            errno_of(&error)
        })?;
        let found = record.members.get(member).ok_or(Errno::IO)?;
        let image = Image::of(found, repository.config().span_shift);
        let streams = Mutex::new(Streams::new(WIDEST_WINDOW.min(self.reader.ahead_limit() as u64)));
        Ok(self.add(Open::Image(Arc::new(OpenImage { image, archive, member, streams }))))
    }

    /// Opens the statistics as they are now. Returns a handle.
    ///
    /// # Errors
    /// [`Errno::IO`] if they cannot be written down.
    pub fn open_stats(&self) -> Result<u64, Errno> {
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

    /// Fills `buf` from a file's byte `offset`; returns how much of it lies in the file.
    ///
    /// # Errors
    /// [`Errno::IO`] if any of these bytes cannot be had; logged once for each chunk.
    pub fn read(&self, handle: u64, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        let file = match self.get(handle)? {
            Open::Image(file) => file,
            Open::Text(text) => return Ok(read_text(&text, offset, buf)),
        };
        let ahead = file.streams.lock().observe(&(offset..offset.saturating_add(buf.len() as u64)));
        if let Some(ahead) = ahead {
            self.prefetcher.load(&file.image, &ahead);
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        let read = self.reader.read_at(&file.image, offset, buf);
        match &read {
            Ok(len) => self.bytes.fetch_add(*len as u64, Ordering::Relaxed),
            Err(_) => self.failed.fetch_add(1, Ordering::Relaxed),
        };
        read.map_err(|error| self.tell(&file, offset, &error))
    }

    /// The next data or hole at or behind `offset`, as `lseek` has it.
    ///
    /// # Errors
    /// [`Errno::NO_SUCH_OFFSET`] at or beyond the end, and behind the last data; [`Errno::IO`].
    pub fn seek(&self, handle: u64, offset: u64, seek: Seek) -> Result<u64, Errno> {
        let file = self.image(handle)?;
        if offset >= file.image.size {
            return Err(Errno::NO_SUCH_OFFSET);
        }
        let maps = self.reader.maps();
        let found = match seek {
            Seek::Data => maps.next_data(&file.image, offset),
            Seek::Hole => maps.next_hole(&file.image, offset).map(Some),
        };
        found.map_err(|error| self.tell(&file, offset, &error))?.ok_or(Errno::NO_SUCH_OFFSET)
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

fn read_text(text: &[u8], offset: u64, buf: &mut [u8]) -> usize {
    let rest = usize::try_from(offset).ok().and_then(|offset| text.get(offset..)).unwrap_or_default();
    let len = rest.len().min(buf.len());
    buf[..len].copy_from_slice(&rest[..len]);
    len
}
