//! Reading one image span by span with all cores: a dispatcher hands out spans, workers store them, the caller's thread
//! puts their maps in order into the tree.
//!
//! Channels are bounded and threads scoped. The first error makes the others stop at their next span; every join is checked.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::base::Base;
use super::earlier::{Earlier, Former};
use super::error::{Error, Result};
use super::gather::SpanData;
use super::salvage::{Careful, ReadErrors};
use super::span::{SpanOutcome, Store};
use super::unused::Unused;
use super::{Monitor, Stop};
use crate::extent::{HOLE_UNIT, span_len};
use crate::format::limits::MAX_IMAGE;
use crate::format::record::Root;
use crate::image::tree_writer::TreeWriter;
use crate::source::{Source, SourceKind, Stream};
use crate::task::workers;

/// What a pass over one source made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredImage {
    pub(super) size: u64,
    pub(super) data: u64,
    pub(super) chunks: u64,
    pub(super) root: Option<Root>,
    /// What could not be read, and is zeros.
    pub(super) bad: Vec<Range<u64>>,
}

/// How a source is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading<'a> {
    /// What it is called.
    pub(super) what: &'a str,
    pub(super) read_errors: ReadErrors,
    /// How many ranges that could not be read are told.
    pub(super) max_bad: usize,
    /// What need not be read.
    pub(super) base: Option<&'a Base>,
    /// What it is likely to resemble.
    pub(super) earlier: Option<&'a Earlier>,
    /// What is left out; there is no base then.
    pub(super) unused: Option<&'a Unused>,
}

/// A span to store, with its place in the order of spans handed out.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) order: u64,
    pub(super) span: u64,
    pub(super) content: Content,
}

/// What a span holds.
#[derive(Debug)]
pub(super) enum Content {
    /// So many bytes, of which these parts of the source (offsets in the image, on the grid) are to be read first.
    Read { len: usize, parts: Vec<Range<u64>> },
    /// These bytes.
    Bytes(Vec<u8>),
}

/// A span that is done; `None` if it is all hole.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) order: u64,
    pub(super) span: u64,
    pub(super) end: u64,
    pub(super) outcome: Option<SpanOutcome>,
}

/// Stores an image.
pub(super) fn store_image(
    store: &Store<'_>,
    source: &mut Source,
    reading: Reading<'_>,
    stop: &Stop,
    monitor: &dyn Monitor,
) -> Result<StoredImage> {
    let Reading { what, base, unused, .. } = reading;
    let span_shift = store.repository.config().span_shift;
    let (seekable, stream) = match source {
        Source::Seekable(seekable) => (Some(&*seekable), None),
        Source::Stream(stream) => (None, Some(stream)),
    };
    if let Some(seekable) = seekable {
        monitor.total(seekable.len());
        if seekable.len() > MAX_IMAGE {
            return Err(Error::TooLong { what: what.into() });
        }
    }
    // Buffers of a stream's spans go round: one is filled, one waits, and each worker has one.
    let (give_back, free) = unbounded::<Vec<u8>>();
    let dispatch = move |jobs: &Sender<Job>| match (seekable, stream) {
        (Some(seekable), _) => {
            let mut data_range = |from| {
                Ok(match (base, unused) {
                    (Some(base), _) => base.data_range(seekable, from),
                    (None, Some(unused)) => unused.next_data(from, |from| seekable.data_ranges(from)),
                    (None, None) => seekable.data_ranges(from),
                })
            };
            dispatch_ranges(seekable.len(), &mut data_range, span_shift, jobs, stop)
        }
        (None, Some(stream)) => dispatch_stream(stream, what, span_shift, (jobs, &free), stop),
        (None, None) => Ok(0),
    };
    let careful = seekable.map(|source| Careful::new(source, reading.read_errors, stop));
    let work = |job: Job, data: &mut SpanData| {
        if let (Some(base), Some(source)) = (base, &careful)
            && let Some(outcome) = base.take_over(store, source, job.span)?
        {
            let end = base.span_end(job.span);
            return Ok(Done { order: job.order, span: job.span, end, outcome: Some(outcome) });
        }
        let former = reading.earlier.map(|earlier| earlier.span(job.span, store)).unwrap_or_default();
        let is_given = matches!(job.content, Content::Bytes(_));
        let done = store_span(store, careful.as_ref(), span_shift, job, data, &former);
        if is_given {
            // The last of them nobody takes any more.
            let _ = give_back.send(data.give_back());
        }
        done
    };
    let stored = in_parallel(store, dispatch, work, stop, monitor)?;
    Ok(StoredImage {
        bad: careful.map_or_else(Vec::new, |source| source.into_bad(reading.max_bad)),
        ..stored
    })
}

/// Lets one worker per core do what `dispatch` hands out, and puts what they make of it in order into the tree. `dispatch` returns the size
/// of the image; `work` has something of its own in each worker.
pub(super) fn in_parallel<J: Send, W: Default>(
    store: &Store<'_>,
    dispatch: impl FnOnce(&Sender<J>) -> Result<u64> + Send,
    work: impl Fn(J, &mut W) -> Result<Done> + Sync,
    stop: &Stop,
    monitor: &dyn Monitor,
) -> Result<StoredImage> {
    let threads = workers();
    // None waits: a span of a stream takes 16 MiB, and the next one is made meanwhile.
    let (jobs, queue) = bounded::<J>(0);
    let (results, done) = bounded::<Result<Done>>(threads * 2);
    std::thread::scope(|scope| {
        let work = &work;
        let start = |_| {
            let (queue, results) = (queue.clone(), results.clone());
            scope.spawn(move || run(work, &queue, &results, stop))
        };
        let workers: Vec<_> = (0..threads).map(start).collect();
        drop((queue, results));
        let dispatcher = scope.spawn(move || dispatch(&jobs));
        let collected = collect(store, store.repository.config().span_shift, &done, monitor);
        // Workers and dispatcher end when nobody listens any more.
        drop(done);
        let dispatched =
            dispatcher.join().unwrap_or(Err(Error::Panicked { what: "the thread that reads the source" }));
        // All are joined: a span that a panic took must not be missing unnoticed.
        let panicked = workers.into_iter().filter_map(|worker| worker.join().err()).count();
        let collected = collected?;
        if panicked > 0 {
            return Err(Error::Panicked { what: "a thread that stores spans" });
        }
        collected.finish(dispatched?)
    })
}

/// Hands out the spans of an image of `size` bytes that may hold data, as `data_range` says from an offset on; returns the size.
pub(super) fn dispatch_ranges(
    size: u64,
    data_range: &mut dyn FnMut(u64) -> Result<Option<Range<u64>>>,
    span_shift: u8,
    jobs: &Sender<Job>,
    stop: &Stop,
) -> Result<u64> {
    let mut open: Option<(u64, Vec<Range<u64>>)> = None;
    let mut from = 0;
    let mut order = 0;
    let mut send = |open: Option<(u64, Vec<Range<u64>>)>| {
        let Some((span, parts)) = open else { return true };
        let len = span_len(size, span_shift, span) as usize;
        order += 1;
        jobs.send(Job { order: order - 1, span, content: Content::Read { len, parts } }).is_ok()
    };
    while from < size {
        stop.check()?;
        let Some(found) = data_range(from)? else { break };
        // Outward to the grid: what lies beside the data in its blocks is read as the zeros it is.
        let mut at = (found.start & !(HOLE_UNIT - 1)).max(from);
        let end = found.end.next_multiple_of(HOLE_UNIT).min(size);
        from = end.max(found.end);
        while at < end {
            let span = at >> span_shift;
            let part = at..end.min((span + 1) << span_shift);
            at = part.end;
            match &mut open {
                Some((number, parts)) if *number == span => parts.push(part),
                _ => {
                    if !send(open.replace((span, vec![part]))) {
                        return Ok(size);
                    }
                }
            }
            stop.check()?;
        }
    }
    send(open);
    Ok(size)
}

/// Reads a stream span by span, into buffers that are free if there are any; returns its length.
fn dispatch_stream(
    stream: &mut Stream,
    what: &str,
    span_shift: u8,
    (jobs, free): (&Sender<Job>, &Receiver<Vec<u8>>),
    stop: &Stop,
) -> Result<u64> {
    let mut size = 0;
    for span in 0.. {
        stop.check()?;
        let mut bytes = free.try_recv().unwrap_or_default();
        bytes.resize(1 << span_shift, 0);
        let read = stream.read(&mut bytes, &|| stop.is_raised());
        stop.check()?;
        let len = read.map_err(|source| Error::Stream { what: what.into(), offset: size, source })?;
        let whole = len == bytes.len();
        bytes.truncate(len);
        size += len as u64;
        if size > MAX_IMAGE {
            return Err(Error::TooLong { what: what.into() });
        }
        let job = Job { order: span, span, content: Content::Bytes(bytes) };
        if len > 0 && jobs.send(job).is_err() {
            return Ok(size);
        }
        if !whole {
            break;
        }
    }
    Ok(size)
}

/// A worker: takes jobs until there are none, or nobody wants their results.
fn run<J, W: Default>(
    work: &impl Fn(J, &mut W) -> Result<Done>,
    queue: &Receiver<J>,
    results: &Sender<Result<Done>>,
    stop: &Stop,
) {
    let mut own = W::default();
    for job in queue {
        let done = stop.check().map_err(Error::from).and_then(|()| work(job, &mut own));
        let failed = done.is_err();
        if results.send(done).is_err() || failed {
            return;
        }
    }
}

fn store_span(
    store: &Store<'_>,
    source: Option<&Careful<'_>>,
    span_shift: u8,
    job: Job,
    data: &mut SpanData,
    former: &Former,
) -> Result<Done> {
    let Job { order, span, content } = job;
    let base = span << span_shift;
    let mut read = |at: u64, buf: &mut [u8]| {
        let Some(source) = source else { return Err(Error::Panicked { what: "the reader of a stream" }) };
        source.read_at(at, buf)?;
        store.counters.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        Ok(())
    };
    // A disk's pages are of no use to anybody; a file's may be.
    let device = source.map(|source| source.source).filter(|source| source.kind() == SourceKind::Device);
    let mut behind = Vec::new();
    match content {
        Content::Read { len, parts } => {
            if device.is_some() {
                behind.clone_from(&parts);
            }
            data.begin(base, len, parts);
        }
        Content::Bytes(bytes) => {
            store.counters.read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            data.take(bytes);
        }
    }
    let outcome = store.span(data, &mut read, former)?;
    if let Some(device) = device {
        // Not before: by the pages of what was read the kernel knows who goes on, where several read in turns.
        behind.into_iter().for_each(|part| device.drop_behind(part));
    }
    Ok(Done { order, span, end: base + data.span_len() as u64, outcome })
}

type StoreNode<'a> = Box<
    dyn FnMut(
            &crate::format::node::Node,
            &[crate::format::location::Location],
        ) -> Result<(crate::id::BlobId, crate::format::location::Location)>
        + 'a,
>;

/// The tree under construction.
struct Collected<'a> {
    tree: TreeWriter<StoreNode<'a>>,
    data: u64,
    chunks: u64,
}

impl Collected<'_> {
    fn push(&mut self, done: &Done) -> Result<()> {
        let Some(outcome) = done.outcome else { return Ok(()) };
        self.data += outcome.map.data;
        self.chunks += outcome.chunks;
        self.tree.push(done.span, outcome.map, done.end)
    }

    fn finish(self, size: u64) -> Result<StoredImage> {
        let root = self.tree.finish(size)?;
        Ok(StoredImage { size, data: self.data, chunks: self.chunks, root, bad: Vec::new() })
    }
}

/// Takes spans as they come and adds their maps in order.
fn collect<'a>(
    store: &'a Store<'_>,
    span_shift: u8,
    done: &Receiver<Result<Done>>,
    monitor: &dyn Monitor,
) -> Result<Collected<'a>> {
    let store_node: StoreNode<'a> = Box::new(|node, locations| store.node(node, locations));
    let mut collected = Collected { tree: TreeWriter::new(span_shift, store_node), data: 0, chunks: 0 };
    let mut waiting: BTreeMap<u64, Done> = BTreeMap::new();
    let mut next = 0;
    let mut reported = 0;
    for result in done {
        let result = result?;
        let new = result.outcome.map_or(0, |outcome| outcome.new);
        monitor.advanced(result.end.saturating_sub(reported), new);
        reported = reported.max(result.end);
        waiting.insert(result.order, result);
        while let Some(result) = waiting.remove(&next) {
            collected.push(&result)?;
            next += 1;
        }
        store.publish_early()?;
    }
    Ok(collected)
}
