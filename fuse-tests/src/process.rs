//! Looking at processes, and waiting with a deadline.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take that should happen soon. Generous: it only ends tests that fail.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until something holds.
///
/// # Panics
/// If it does not within [`DEADLINE`]; `what` says what was waited for.
pub fn wait_until(what: &str, holds: impl FnMut() -> bool) {
    assert!(holds_within(DEADLINE, holds), "waited {DEADLINE:?} in vain until {what}");
}

/// Whether something comes to hold in time.
pub fn holds_within(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if holds() {
            return true;
        }
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The state letter of a process in `/proc/PID/stat`; `None` if there is none.
#[must_use]
pub fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Whether a process has ended; one that nobody has waited for yet has.
#[must_use]
pub fn has_ended(pid: u32) -> bool {
    matches!(state(pid), None | Some('Z' | 'X'))
}

/// Sends a signal; that the process is no more is no failure.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Bytes that went through a process's system calls so far: files, pipes, and what it says to the kernel's FUSE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// By read calls.
    pub read: u64,
    /// By write calls.
    pub written: u64,
}

/// The traffic of a process.
///
/// # Panics
/// If the process is no more.
#[must_use]
pub fn traffic(pid: u32) -> Traffic {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).expect("the process runs");
    let field = |name: &str| {
        let line = io.lines().find_map(|line| line.strip_prefix(name));
        line.expect("/proc/PID/io has it").trim().parse().expect("a number")
    };
    Traffic { read: field("rchar:"), written: field("wchar:") }
}

/// Runs a command to its end.
///
/// # Panics
/// If it cannot be started or fails, with what it said.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    assert!(
        output.status.success(),
        "{command:?} failed ({:?}, signal {:?}):\n{}{}",
        output.status.code(),
        output.status.signal(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Runs a tool with arguments and returns its standard output as text.
///
/// # Panics
/// As [`run`].
pub fn tool(name: &str, args: &[&std::ffi::OsStr]) -> String {
    let path = crate::need::find_tool(name).unwrap_or_else(|| name.into());
    String::from_utf8_lossy(&run(Command::new(path).args(args)).stdout).into_owned()
}

/// [`tool`] with arguments of any sorts of strings and paths.
#[macro_export]
macro_rules! tool {
    ($name:expr $(, $arg:expr)* $(,)?) => {
        $crate::process::tool($name, &[$(std::convert::AsRef::<std::ffi::OsStr>::as_ref(&$arg)),*])
    };
}
