//! A progress bar, on a terminal only.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::output::size;
use crate::archiver::Monitor;

/// How often the bar moves.
const TICK: Duration = Duration::from_millis(200);

/// Shows how far a create, copy or extract has come.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    new: AtomicU64,
    /// Whether what is new says something.
    counts_new: bool,
}

impl Progress {
    /// A bar on standard error if that is a terminal and `quiet` is not asked for.
    pub(super) fn new(counts_new: bool, quiet: bool) -> Self {
        let visible = std::io::stderr().is_terminal() && !quiet;
        let bar = if visible { ProgressBar::no_length() } else { ProgressBar::hidden() };
        if visible {
            bar.enable_steady_tick(TICK);
            bar.set_style(style("{spinner} {bytes} {msg} {binary_bytes_per_sec}"));
        }
        Self { bar, new: AtomicU64::new(0), counts_new }
    }

    /// Runs `print` while the bar is out of its way.
    pub(super) fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }

    /// Takes the bar away.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Monitor for Progress {
    fn total(&self, bytes: u64) {
        let known = self.bar.length().unwrap_or(0);
        self.bar.set_length(known + bytes);
        self.bar.set_style(style("{bar:30} {bytes}/{total_bytes} {msg} {binary_bytes_per_sec} {eta}"));
    }

    fn advanced(&self, bytes: u64, new: u64) {
        self.bar.inc(bytes);
        if self.counts_new && !self.bar.is_hidden() {
            let new = self.new.fetch_add(new, Ordering::Relaxed) + new;
            let deduplicated = self.bar.position().saturating_sub(new);
            self.bar.set_message(format!("({} new, {} already there)", size(new), size(deduplicated)));
        }
    }
}
