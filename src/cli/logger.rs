//! Where messages go: standard error, or the system's log once a mount serves in the background.

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU64, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};
use parking_lot::Mutex;

/// Set to any level name, it shows more.
const LEVEL_VARIABLE: &str = "COPAL_LOG";

struct Logger {
    warnings: AtomicU64,
    syslog: Mutex<Option<UnixDatagram>>,
}

static LOGGER: Logger = Logger { warnings: AtomicU64::new(0), syslog: Mutex::new(None) };

/// Begins to log to standard error.
pub(super) fn start() {
    let level = std::env::var(LEVEL_VARIABLE).ok().and_then(|level| level.parse().ok());
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(level.unwrap_or(LevelFilter::Warn));
    }
}

/// Drops what is below an error from now on, unless more was asked for: the command tells by itself what readers would warn of.
pub(super) fn errors_only() {
    if std::env::var_os(LEVEL_VARIABLE).is_none() {
        log::set_max_level(LevelFilter::Error);
    }
}

/// From now on messages go to the system's log, if there is one.
pub(super) fn to_syslog() {
    let socket = UnixDatagram::unbound().and_then(|socket| socket.connect("/dev/log").map(|()| socket));
    *LOGGER.syslog.lock() = socket.ok();
}

/// How many warnings there were.
pub(super) fn warnings() -> u64 {
    LOGGER.warnings.load(Ordering::Relaxed)
}

/// Tells what somebody asked for, whatever the level is, line by line.
pub(super) fn note(text: &str) {
    text.lines().for_each(|line| LOGGER.tell("", 6, line));
}

/// Writes a line to standard error; nobody to read it is no failure.
pub(super) fn line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

impl Logger {
    fn tell(&self, word: &str, severity: u8, text: &str) {
        if let Some(syslog) = &*self.syslog.lock() {
            // Facility 3: system daemons.
            let message = format!("<{}>copal[{}]: {word}{text}", 3 << 3 | severity, std::process::id());
            let _ = syslog.send(message.as_bytes());
        } else {
            line(&format!("copal: {word}{text}"));
        }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // fuser returns what matters; it logs as errors its replies to requests that were interrupted or whose mount is gone.
        let target = metadata.target();
        target.starts_with("copal") || metadata.level() <= Level::Error && !target.starts_with("fuser")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let (word, severity) = match record.level() {
            Level::Error => ("error: ", 3),
            Level::Warn => ("warning: ", 4),
            Level::Info => ("", 6),
            Level::Debug | Level::Trace => ("debug: ", 7),
        };
        if record.level() <= Level::Warn {
            self.warnings.fetch_add(1, Ordering::Relaxed);
        }
        self.tell(word, severity, &record.args().to_string());
    }

    fn flush(&self) {}
}
