//! Copying one image: its spans are opened, or known from another archive, re-sealed, and put into a tree of their own.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use crossbeam_channel::Sender;

use super::known::{Asked, Known};
use crate::archiver::earlier::Former;
use crate::archiver::error::{Error, Result};
use crate::archiver::gather::SpanData;
use crate::archiver::pipeline::{Content, Done, Job, StoredImage, dispatch_ranges, in_parallel};
use crate::archiver::span::{Kept, SpanOutcome, Store};
use crate::archiver::{Monitor, Stop};
use crate::codec::keys::BlobKind;
use crate::extent::Extent;
use crate::format::FormatError;
use crate::format::location::Location;
use crate::format::record::Member;
use crate::format::span_map::{ChunkRef, SpanMap};
use crate::id::{BlobId, PackId};
use crate::image::Image;
use crate::image::maps::LocatedMap;
use crate::image::reader::ImageReader;
use crate::image::tree_writer::StoredMap;
use crate::image::walk::Visitor;
use crate::repository;
use crate::repository::packer::Lane;

/// Memory for chunks that were met, in bytes: a million of them, 40 GiB of data in chunks of 40 KiB.
const KNOWN_CHUNKS: usize = 160 << 20;
/// Memory for span maps that were met, in bytes: some 200,000 of them, 3 TiB of images in spans of 16 MiB.
const KNOWN_MAPS: usize = 64 << 20;

/// What a run has learnt of the source's blobs.
#[derive(Debug)]
pub(super) struct Learnt {
    /// A chunk's length, and its id in the destination.
    chunks: Known<(u32, BlobId)>,
    maps: Known<CopiedMap>,
}

impl Learnt {
    pub(super) fn new() -> Self {
        Self { chunks: Known::new(KNOWN_CHUNKS), maps: Known::new(KNOWN_MAPS) }
    }
}

/// A span map that was copied.
#[derive(Debug, Clone)]
struct CopiedMap {
    map: StoredMap,
    span_len: u32,
    chunks: u32,
    /// Every pack that an archive with this map relies on: its own and those it hints at.
    packs: Arc<[PackId]>,
}

/// One image on its way.
#[derive(Debug)]
pub(super) struct ImageCopy<'a> {
    pub(super) reader: &'a ImageReader,
    pub(super) store: &'a Store<'a>,
    pub(super) learnt: &'a Learnt,
    pub(super) member: &'a Member,
    pub(super) image: Image,
}

/// A span to copy that is not all hole, with its place in the order of spans handed out.
#[derive(Debug)]
struct SpanJob {
    order: u64,
    map: BlobId,
    range: Range<u64>,
}

/// Hands out an image's spans. Opens tree nodes only.
struct Dispatcher<'a> {
    copy: &'a ImageCopy<'a>,
    jobs: &'a Sender<SpanJob>,
    order: u64,
    stop: &'a Stop,
    /// What ended it early.
    ended: Result<()>,
    /// Whether anybody takes spans.
    wanted: bool,
}

impl Visitor for Dispatcher<'_> {
    fn enter(&mut self, kind: BlobKind, id: &BlobId, _at: Location, range: &Range<u64>) -> bool {
        if self.ended.is_err() || !self.wanted {
            return false;
        }
        self.ended = self.stop.check().map_err(Error::from);
        if kind == BlobKind::SpanMap && self.ended.is_ok() {
            let job = SpanJob { order: self.order, map: *id, range: range.clone() };
            self.order += 1;
            self.wanted = self.jobs.send(job).is_ok();
        }
        kind == BlobKind::Node
    }

    fn map(&mut self, _start: u64, _map: &LocatedMap) {}

    fn lost(
        &mut self,
        _kind: BlobKind,
        _id: &BlobId,
        _at: Location,
        range: &Range<u64>,
        error: Arc<repository::Error>,
    ) -> std::result::Result<(), Arc<repository::Error>> {
        self.ended = Err(self.copy.unreadable(range.clone(), error.clone()));
        Err(error)
    }
}

impl ImageCopy<'_> {
    /// Copies the image as it is cut.
    pub(super) fn run(&self, stop: &Stop, monitor: &dyn Monitor) -> Result<StoredImage> {
        let dispatch = |jobs: &Sender<SpanJob>| {
            let (copy, ended) = (self, Ok(()));
            let mut dispatcher = Dispatcher { copy, jobs, order: 0, stop, ended, wanted: true };
            // An error is that which the dispatcher knows, too.
            let _ = self.reader.maps().visit(&self.image, &mut dispatcher);
            dispatcher.ended?;
            Ok(self.image.size)
        };
        let work = |SpanJob { order, map, range }: SpanJob, (): &mut ()| {
            let span = range.start >> self.image.span_shift;
            Ok(Done { order, span, end: range.end, outcome: self.span(&map, span, &range)? })
        };
        in_parallel(self.store, dispatch, work, stop, monitor)
    }

    /// Reads the image as any source and cuts it as the destination does.
    pub(super) fn recut(&self, stop: &Stop, monitor: &dyn Monitor) -> Result<StoredImage> {
        let maps = self.reader.maps();
        let mut data_range = |from| {
            let next = || -> std::result::Result<_, Arc<repository::Error>> {
                let Some(start) = maps.next_data(&self.image, from)? else { return Ok(None) };
                Ok(Some(start..maps.next_hole(&self.image, start)?))
            };
            next().map_err(|error| self.unreadable(from..self.image.size, error))
        };
        let span_shift = self.store.repository.config().span_shift;
        let dispatch =
            |jobs: &Sender<Job>| dispatch_ranges(self.image.size, &mut data_range, span_shift, jobs, stop);
        let work = |Job { order, span, content }: Job, data: &mut SpanData| {
            let Content::Read { len, parts } = content else {
                return Err(Error::Panicked { what: "the reader of an image" });
            };
            let base = span << span_shift;
            data.begin(base, len, parts);
            let mut read = |at: u64, buf: &mut [u8]| {
                let read = self.reader.read_at(&self.image, at, buf).map(drop);
                read.map_err(|error| self.unreadable(at..at + buf.len() as u64, error))
            };
            let outcome = self.store.span(data, &mut read, &Former::default())?;
            Ok(Done { order, span, end: base + len as u64, outcome })
        };
        in_parallel(self.store, dispatch, work, stop, monitor)
    }

    fn span(&self, id: &BlobId, span: u64, range: &Range<u64>) -> Result<Option<SpanOutcome>> {
        if let Some(outcome) = self.known_span(id, range.end - range.start) {
            return Ok(Some(outcome));
        }
        let opened = self.reader.maps().span(&self.image, span);
        let Some(opened) = opened.map_err(|error| self.unreadable(range.clone(), error))? else {
            return Ok(None);
        };
        let mut chunks = Vec::with_capacity(opened.map.chunks.len());
        let mut locations = Vec::with_capacity(opened.map.chunks.len());
        let mut new = 0;
        let lane = self.store.lane();
        for (number, (chunk, place)) in opened.map.chunks.iter().zip(&opened.locations).enumerate() {
            let lost = |error| self.unreadable(place_of(&opened, number, range), error);
            let (id, location, stored) = self.chunk(lane.as_ref(), chunk, *place, &lost)?;
            chunks.push(ChunkRef { id, plain_len: chunk.plain_len });
            locations.push(location);
            new += if stored { u64::from(chunk.plain_len) } else { 0 };
        }
        let map = SpanMap { span_len: opened.map.span_len, chunks, extents: opened.map.extents.clone() };
        let (stored, kept) = self.store.map(&map, &locations)?;
        self.learn_map(id, &map, stored, &kept, &locations);
        Ok(Some(SpanOutcome { map: stored, chunks: map.chunks.len() as u64, new }))
    }

    /// A span whose map was copied before, if all that copy relies on can be claimed.
    fn known_span(&self, id: &BlobId, len: u64) -> Option<SpanOutcome> {
        let Asked::Known(known) = self.learnt.maps.ask(id) else { return None };
        // What does not fit is opened, and refused there.
        if u64::from(known.span_len) != len || !self.store.claim_packs(&known.packs) {
            return None;
        }
        self.store.counters.reused(u64::from(known.chunks));
        Some(SpanOutcome { map: known.map, chunks: known.chunks.into(), new: 0 })
    }

    fn learn_map(&self, id: &BlobId, map: &SpanMap, stored: StoredMap, kept: &Kept, locations: &[Location]) {
        let hinted = match kept {
            Kept::New => locations,
            Kept::Elder(hinted) => hinted,
            // Its hints are those of another span's copy, which were noted then.
            Kept::Own => return,
        };
        let packs: HashSet<PackId> =
            hinted.iter().chain([&stored.location]).map(|location| location.pack.id).collect();
        let packs: Arc<[PackId]> = packs.into_iter().collect();
        let bytes = size_of_val(&*packs);
        let chunks = u32::try_from(map.chunks.len()).expect("a span has few chunks");
        self.learnt.maps.learn(id, CopiedMap { map: stored, span_len: map.span_len, chunks, packs }, bytes);
    }

    /// Claims a chunk that was met before, or opens, claims or stores it; also says whether it was stored.
    fn chunk(
        &self,
        lane: Option<&Lane<'_>>,
        chunk: &ChunkRef,
        at: Location,
        lost: &dyn Fn(Arc<repository::Error>) -> Error,
    ) -> Result<(BlobId, Location, bool)> {
        let wrong_length =
            || lost(Arc::new(FormatError::malformed("chunk", "its length is not what its map says").into()));
        let _task = match self.learnt.chunks.ask(&chunk.id) {
            Asked::Known((len, _)) if len != chunk.plain_len => return Err(wrong_length()),
            Asked::Known((_, id)) => match self.store.claim(&id) {
                Some(location) => return Ok((id, location, false)),
                None => None,
            },
            Asked::Mine(task) => Some(task),
        };
        let plain = self.reader.repository().packs().read(BlobKind::Chunk, &chunk.id, at);
        let plain = plain.map_err(|error| lost(Arc::new(error)))?;
        if plain.len() != chunk.plain_len as usize {
            return Err(wrong_length());
        }
        self.store.counters.read.fetch_add(plain.len() as u64, std::sync::atomic::Ordering::Relaxed);
        let id = self.store.repository.keyring().blob_id(BlobKind::Chunk, &plain)?;
        let (location, stored) = self.store.chunk(lane, &id, &plain)?;
        self.learnt.chunks.learn(&chunk.id, (chunk.plain_len, id), 0);
        Ok((id, location, stored))
    }

    /// Damage of the source; a missing key is none.
    fn unreadable(&self, range: Range<u64>, error: Arc<repository::Error>) -> Error {
        if matches!(*error, repository::Error::Codec(_)) {
            return Error::Image(error);
        }
        let member = self.member.name.to_string();
        Error::Unreadable { member, offset: range.start, end: range.end, source: error }
    }
}

/// Where in the image a chunk of a span is first used.
fn place_of(opened: &LocatedMap, chunk: usize, span: &Range<u64>) -> Range<u64> {
    let extent = opened.map.extents.iter().find(|extent| extent.chunk as usize == chunk);
    let place = |extent: &Extent| span.start + u64::from(extent.offset)..span.start + extent.end();
    extent.map_or(span.clone(), place)
}
