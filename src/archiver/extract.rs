//! Restoring an image: pieces are read and verified by all cores, and written where they belong, chunk by chunk as these are opened.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::error::{Error, Result};
use super::stream::Stream;
use super::target::Target;
use super::{Monitor, Stop};
use crate::extent::spans_of;
use crate::image::Image;
use crate::image::reader::{ImageReader, Visitor};
use crate::task::workers;

/// What stands for a path in errors of a stream.
pub const STANDARD_OUTPUT: &str = "standard output";

/// Threads beyond one per core: while some wait for storage or for the target, others open chunks.
const EXTRA_THREADS: usize = 2;
/// Data is read in pieces of `1 << PIECE_SHIFT` bytes.
const PIECE_SHIFT: u8 = 22;

/// Restores a range of an image, all of it or a partition, to a file or device, which begins where the range does.
///
/// # Errors
/// [`Error`]; a file target is then not there, a device's contents are unspecified.
pub fn extract(
    reader: &ImageReader,
    image: &Image,
    range: &Range<u64>,
    target: &Target,
    stop: &Stop,
    monitor: &dyn Monitor,
) -> Result<()> {
    monitor.total(range.end - range.start);
    let base = range.start;
    let threads = workers() + EXTRA_THREADS;
    let (send, queue) = bounded::<Range<u64>>(threads * 2);
    // The first failure ends the work of all.
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let failed = &failed;
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let queue: Receiver<Range<u64>> = queue.clone();
                scope.spawn(move || {
                    for range in queue {
                        let mut write = |offset: u64, bytes: &[u8]| target.write_at(offset - base, bytes);
                        let done = stop
                            .check()
                            .map_err(Error::from)
                            .and_then(|()| read_range(reader, image, &range, &mut write));
                        if done.is_err() || failed.load(Ordering::Relaxed) {
                            failed.store(true, Ordering::Relaxed);
                            return done;
                        }
                        monitor.advanced(range.end - range.start, 0);
                    }
                    Ok(())
                })
            })
            .collect();
        drop(queue);
        let dispatched = each_run(reader, image, range, &mut |run| match run {
            Run::Hole(range) => {
                stop.check()?;
                target.zero(range.start - base, range.end - range.start)?;
                monitor.advanced(range.end - range.start, 0);
                Ok(!failed.load(Ordering::Relaxed))
            }
            Run::Data(range) => Ok(!failed.load(Ordering::Relaxed) && send.send(range).is_ok()),
        });
        drop(send);
        let worked: Result<()> = workers.into_iter().try_for_each(|worker| {
            worker.join().unwrap_or(Err(Error::Panicked { what: "a thread that restores" }))
        });
        worked.and(dispatched)
    })
}

/// Restores a range of an image to a stream, zeros included.
///
/// # Errors
/// [`Error`].
pub fn extract_to_stream(
    reader: &ImageReader,
    image: &Image,
    range: &Range<u64>,
    mut out: Stream,
    stop: &Stop,
    monitor: &dyn Monitor,
) -> Result<()> {
    monitor.total(range.end - range.start);
    let threads = workers() + EXTRA_THREADS;
    // A buffer is held from the moment a range is handed out until it is written: what waits in memory is bounded.
    let (give_back, buffers) = bounded::<Vec<u8>>(threads * 3);
    for _ in 0..threads * 3 {
        let _ = give_back.send(Vec::new());
    }
    let (send, queue) = bounded::<(u64, Run, Vec<u8>)>(threads);
    let (results, done) = bounded::<Read>(threads);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (queue, results) = (queue.clone(), results.clone());
            scope.spawn(move || {
                for (order, run, mut buffer) in queue {
                    let read = match &run {
                        Run::Hole(_) => Ok(()),
                        Run::Data(range) => read_into(reader, image, range, &mut buffer),
                    };
                    if results.send((order, read.map(|()| (run, buffer)))).is_err() {
                        return;
                    }
                }
            });
        }
        drop((queue, results));
        let dispatcher = scope.spawn(move || {
            let mut order = 0;
            each_run(reader, image, range, &mut |run| {
                stop.check()?;
                order += 1;
                let Ok(buffer) = buffers.recv() else { return Ok(false) };
                Ok(send.send((order - 1, run, buffer)).is_ok())
            })
        });
        let written = write_in_order(&done, &give_back, &mut out, monitor);
        drop((done, give_back));
        let dispatched = dispatcher.join().unwrap_or(Err(Error::Panicked { what: "a thread that restores" }));
        written.and(dispatched)
    })
}

fn write_in_order(
    done: &Receiver<Read>,
    give_back: &Sender<Vec<u8>>,
    out: &mut Stream,
    monitor: &dyn Monitor,
) -> Result<()> {
    let mut waiting = BTreeMap::new();
    let mut next = 0;
    for (order, result) in done {
        waiting.insert(order, result?);
        while let Some((run, buffer)) = waiting.remove(&next) {
            match &run {
                Run::Hole(range) => out.zeros(range.end - range.start),
                Run::Data(_) => out.write(&buffer),
            }
            .map_err(|source| Error::Io {
                action: "write",
                path: STANDARD_OUTPUT.into(),
                source,
            })?;
            let (Run::Hole(range) | Run::Data(range)) = run;
            monitor.advanced(range.end - range.start, 0);
            next += 1;
            // There is room: it came from there. Nobody may take it any more.
            let _ = give_back.try_send(buffer);
        }
    }
    Ok(())
}

/// A part that was read: its place in the order, and its bytes if it is data.
type Read = (u64, Result<(Run, Vec<u8>)>);

/// A part of an image: a hole of any length, or data of at most a piece.
#[derive(Debug)]
enum Run {
    Hole(Range<u64>),
    Data(Range<u64>),
}

/// Calls `take` with all parts of a range in order until it says no.
fn each_run(
    reader: &ImageReader,
    image: &Image,
    range: &Range<u64>,
    take: &mut dyn FnMut(Run) -> Result<bool>,
) -> Result<()> {
    let maps = reader.maps();
    let mut at = range.start;
    while at < range.end {
        let data = maps.next_data(image, at)?.map_or(range.end, |data| data.min(range.end));
        if data > at && !take(Run::Hole(at..data))? {
            return Ok(());
        }
        if data >= range.end {
            return Ok(());
        }
        let hole = maps.next_hole(image, data)?.min(range.end);
        for piece in spans_of(&(data..hole), PIECE_SHIFT) {
            let start = data.max(piece << PIECE_SHIFT);
            let end = hole.min((piece + 1) << PIECE_SHIFT);
            if !take(Run::Data(start..end))? {
                return Ok(());
            }
        }
        at = hole;
    }
    Ok(())
}

/// Fills a buffer with a range that holds data only.
fn read_into(reader: &ImageReader, image: &Image, range: &Range<u64>, buffer: &mut Vec<u8>) -> Result<()> {
    buffer.resize((range.end - range.start) as usize, 0);
    read_range(reader, image, range, &mut |offset, bytes| {
        let at = (offset - range.start) as usize;
        buffer[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    })
}

/// Hands all bytes of a range on that holds data only, in no order.
fn read_range(
    reader: &ImageReader,
    image: &Image,
    range: &Range<u64>,
    take: &mut Visitor<'_, Error>,
) -> Result<()> {
    let len = range.end - range.start;
    if reader.visit(image, range, take)? < len {
        // A node said that there are no holes, and its maps have some.
        let mut buffer = vec![0; len as usize];
        reader.read_at(image, range.start, &mut buffer)?;
        take(range.start, &buffer)?;
    }
    Ok(())
}
