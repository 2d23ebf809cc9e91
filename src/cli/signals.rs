//! Signals that ask to stop.

use crate::archiver::Stop;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// A stop that SIGINT, SIGTERM and SIGHUP raise. A second signal ends the program at once.
pub(super) fn stop() -> anyhow::Result<Stop> {
    let stop = Stop::default();
    let again = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register_conditional_default(signal, again.clone())?;
        signal_hook::flag::register(signal, again.clone())?;
        let number = usize::try_from(signal)?;
        signal_hook::flag::register_usize(signal, stop.flag(), number)?;
    }
    Ok(stop)
}
