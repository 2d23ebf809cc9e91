//! Servers of attached archives: processes of this program whose command line names a directory that no other attach has.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::super::state::Process;

/// How long a server may take to end when its mount is gone: what it keeps of an overlay has to be on disk.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one may take that was asked to end.
const GRACE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(10);

/// A process by its number, and its state by the kernel's letter; `None` if it has ended.
fn look(pid: u32) -> Option<(Process, String)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may hold anything: the state is the third field of all, the start, in the kernel's ticks since boot, the 22nd.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then(|| (Process { pid, started }, state.to_owned()))
}

/// A running process by its number.
#[must_use]
pub fn process(pid: u32) -> Option<Process> {
    look(pid).map(|(process, _)| process)
}

/// Whether it runs, but was stopped by a signal or a debugger.
pub(super) fn is_stopped(server: Process) -> bool {
    look(server.pid).is_some_and(|(process, state)| process == server && matches!(&*state, "T" | "t"))
}

pub(super) fn find(on: &Path) -> Vec<Process> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    let serves = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.clone().any(|word| word == b"--serve") && words.any(|word| word == on.as_os_str().as_bytes())
    };
    pids.filter(serves).filter_map(process).collect()
}

fn is_running(server: Process) -> bool {
    process(server.pid) == Some(server)
}

fn waits(server: Process, limit: Duration) -> bool {
    let start = Instant::now();
    while is_running(server) {
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
    true
}

pub(super) fn end(server: Process) -> bool {
    if waits(server, PATIENCE) {
        return true;
    }
    if let Some(pid) = i32::try_from(server.pid).ok().and_then(Pid::from_raw)
        && let Err(error) = kill_process(pid, Signal::TERM)
    {
        log::debug!("process {} cannot be asked to end: {error}", server.pid);
    }
    waits(server, GRACE)
}
