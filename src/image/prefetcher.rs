//! Threads that load chunks before they are asked for.
//!
//! They take work from a short queue. Where it is full, where the reader has gone elsewhere, or where much is loaded that nobody has asked for
//! yet, work is left out: whoever wants those chunks loads them.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::Image;
use super::reader::ImageReader;
use super::streams::Ahead;
use crate::storage::patient::as_request;
use crate::task::workers;

/// Bytes of an image that one thread loads at a time.
const PIECE: u64 = 1 << 20;
/// Pieces that wait at most.
const QUEUE: usize = 64;
/// Threads beyond one per core: some of them wait for storage.
const EXTRA_THREADS: usize = 2;

/// Loads ahead.
#[derive(Debug)]
pub struct Prefetcher {
    queue: Option<Sender<Piece>>,
    threads: Vec<JoinHandle<()>>,
    has_ended: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Piece {
    image: Image,
    range: Range<u64>,
    is_over: Arc<AtomicBool>,
}

impl Prefetcher {
    /// Starts its threads, which end when it is dropped. Where none can be started, nothing is loaded ahead.
    #[must_use]
    pub fn new(reader: &Arc<ImageReader>) -> Self {
        let (queue, pieces) = bounded(QUEUE);
        let has_ended = Arc::new(AtomicBool::new(false));
        let threads = (0..workers() + EXTRA_THREADS).filter_map(|_| {
            let (reader, pieces, has_ended) = (reader.clone(), pieces.clone(), has_ended.clone());
            let thread = std::thread::Builder::new().name("copal-ahead".into());
            thread.spawn(move || work(&reader, &pieces, &has_ended)).ok()
        });
        let threads = threads.collect();
        Self { queue: Some(queue), threads, has_ended }
    }

    /// Has a part of an image loaded, if there is time.
    pub fn load(&self, image: &Image, ahead: &Ahead) {
        let Ahead { range, is_over } = ahead;
        let mut start = range.start;
        while let Some(queue) = &self.queue
            && start < range.end.min(image.size)
        {
            // Pieces begin at the same places whoever asks.
            let end = range.end.min((start / PIECE + 1) * PIECE);
            if queue.try_send(Piece { image: *image, range: start..end, is_over: is_over.clone() }).is_err() {
                return;
            }
            start = end;
        }
    }
}

fn work(reader: &ImageReader, pieces: &Receiver<Piece>, has_ended: &AtomicBool) {
    for Piece { image, range, is_over } in pieces {
        if !is_over.load(Ordering::Relaxed) && !has_ended.load(Ordering::Relaxed) {
            // Somebody may come to wait for it.
            as_request(|| reader.load_ahead(&image, &range));
        }
    }
}

impl Drop for Prefetcher {
    fn drop(&mut self) {
        self.has_ended.store(true, Ordering::Relaxed);
        drop(self.queue.take());
        for thread in self.threads.drain(..) {
            // One that panicked has lost nothing that anybody waits for.
            let _ = thread.join();
        }
    }
}
