//! Timing, and work in parallel, as all benchmarks here have it.

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Seconds, the median of so many rounds.
pub(crate) fn median<T>(rounds: usize, mut work: impl FnMut() -> T) -> f64 {
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            let began = Instant::now();
            black_box(work());
            began.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[rounds / 2]
}

/// Does something with each piece on so many threads, and each thread with a state of its own.
pub(crate) fn each<T: Sync, S: Default>(pieces: &[T], threads: usize, work: impl Fn(&T, &mut S) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut state = S::default();
                while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(piece, &mut state);
                }
            });
        }
    });
}
