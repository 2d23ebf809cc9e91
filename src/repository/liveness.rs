//! Whether a session's process is still there.
//!
//! Nothing is safe only because of this: it decides how long a compactor waits, what is said of an archive that is unconfirmed, and whose
//! session may be cleared away after its archives were confirmed for it. Clocks and process numbers may lie without anything being lost.

use std::time::Duration;

use super::error::Result;
use super::objects::Objects;
use super::session::host_name;
use super::{archives, now};
use crate::format::envelope::ObjectKind;
use crate::format::msgpack;
use crate::format::protocol::Session;
use crate::id::SessionId;

/// A session on another machine that was silent for this long is taken for dead: a thousand heartbeats.
pub const SILENCE: Duration = Duration::from_secs(16 * 60 * 60);

/// A file that nobody has published this long after it was last written or touched has lost its writer, unless a session lives that may be slower.
pub const UNPUBLISHED: Duration = Duration::from_secs(10 * 60);

/// What is known of a session's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// It runs on this machine.
    Runs,
    /// It ran on this machine, and is gone.
    Gone,
    /// It is on another machine, and has said so lately.
    Elsewhere,
    /// It is on another machine, and was silent for [`SILENCE`].
    Silent,
}

impl Liveness {
    /// Whether nobody need wait for it.
    #[must_use]
    pub fn is_dead(self) -> bool {
        matches!(self, Self::Gone | Self::Silent)
    }

    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Runs => "running",
            Self::Gone => "dead",
            Self::Elsewhere => "on another machine",
            Self::Silent => "silent for hours",
        }
    }
}

/// A session that is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedSession {
    /// Its id.
    pub id: SessionId,
    /// What it says of itself; `None` where that cannot be read.
    pub session: Option<Session>,
    /// Whether its process is there.
    pub liveness: Liveness,
}

/// All listed sessions. One that cannot be read is taken for one that lives elsewhere.
///
/// # Errors
/// [`super::Error::Storage`] if they cannot be listed.
pub fn list_sessions(objects: &Objects) -> Result<Vec<ListedSession>> {
    let here = Here::look();
    let mut sessions = Vec::new();
    for id in objects.list_ids::<SessionId>("sessions")? {
        let name = format!("sessions/{id}");
        let read = objects.get(ObjectKind::Session, &name);
        match read.and_then(|plain| Ok(msgpack::from_bytes::<Session>("session", &plain)?)) {
            Ok(session) => {
                let liveness = here.judge(&session, now());
                sessions.push(ListedSession { id, session: Some(session), liveness });
            }
            // Ended since it was listed.
            Err(error) if error.is_missing() => {}
            Err(error) => {
                log::warn!("{}", archives::chain(&error));
                sessions.push(ListedSession { id, session: None, liveness: Liveness::Elsewhere });
            }
        }
    }
    Ok(sessions)
}

/// This machine, as sessions name it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Here {
    host: String,
    boot: String,
}

impl Here {
    fn look() -> Self {
        Self { host: host_name(), boot: boot_id() }
    }

    fn judge(&self, session: &Session, now: i64) -> Liveness {
        let silence = i64::try_from(SILENCE.as_nanos()).unwrap_or(i64::MAX);
        if session.host == self.host && session.boot == self.boot && !self.boot.is_empty() {
            return if runs(session.pid, session.started) { Liveness::Runs } else { Liveness::Gone };
        }
        // Another boot of a machine of this name is this one before it was restarted, or its twin: only silence tells.
        if now.saturating_sub(session.heartbeat) > silence { Liveness::Silent } else { Liveness::Elsewhere }
    }
}

/// Whether the process that began a session at this time is still there: not another one that got its number later.
fn runs(pid: u32, session_started: i64) -> bool {
    /// The clock that tells when processes started is coarse, and clocks are set now and then.
    const SLACK: i64 = 60_000_000_000;
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    if has_ended(&stat) {
        return false;
    }
    // Where the start cannot be told, the process is taken for the one that is meant.
    process_started(&stat).is_none_or(|started| started <= session_started.saturating_add(SLACK))
}

/// Whether a process is dead and only waits for its parent to ask how it ended, from its `/proc/PID/stat` (the third field). Some parents never
/// ask, such as the first process of many a container.
fn has_ended(stat: &str) -> bool {
    stat.rsplit_once(')').is_some_and(|(_, behind_name)| behind_name.trim_start().starts_with(['Z', 'X']))
}

/// When a process started, in ns since 1970, from its `/proc/PID/stat` (proc(5): the 22nd field, in ticks since boot).
fn process_started(stat: &str) -> Option<i64> {
    const START_BEHIND_NAME: usize = 19;
    let (_, behind_name) = stat.rsplit_once(')')?;
    let ticks: u64 = behind_name.split_whitespace().nth(START_BEHIND_NAME)?.parse().ok()?;
    let boot = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: u64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let seconds = boot.checked_add(ticks / rustix::param::clock_ticks_per_second().max(1))?;
    i64::try_from(seconds).ok()?.checked_mul(1_000_000_000)
}

/// The kernel's id of this boot, and the namespace in which process numbers count: containers share the one but not the other. Empty where
/// the system tells neither.
#[must_use]
pub(super) fn boot_id() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let space = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    match boot.trim() {
        "" => String::new(),
        boot => format!("{boot} {}", space.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(pid: u32) -> Session {
        let Here { host, boot } = Here::look();
        Session { host, pid, boot, started: now(), heartbeat: now(), what: String::new() }
    }

    #[test]
    fn processes_of_this_machine_are_looked_up() {
        let here = Here::look();
        assert_eq!(here.judge(&session(std::process::id()), now()), Liveness::Runs);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let gone = session(child.id());
        child.wait().unwrap();
        assert_eq!(here.judge(&gone, now()), Liveness::Gone);
    }

    #[test]
    fn a_dead_process_that_nobody_has_waited_for_is_gone() {
        let here = Here::look();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        assert_eq!(here.judge(&session(child.id()), now()), Liveness::Runs);
        child.kill().unwrap();
        // It dies a moment after the signal was sent, and stays in the table of processes.
        while here.judge(&session(child.id()), now()) == Liveness::Runs {
            std::thread::yield_now();
        }
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        assert!(has_ended(&stat), "{stat}");
        child.wait().unwrap();
        assert!(!has_ended("7 (name) Z) S 1"), "a name may have brackets");
    }

    #[test]
    fn a_reused_process_number_is_another_process() {
        let old = Session { started: now() - 3600 * 1_000_000_000, ..session(std::process::id()) };
        assert_eq!(Here::look().judge(&old, now()), Liveness::Gone);
    }

    #[test]
    fn other_machines_and_boots_are_judged_by_their_heartbeats() {
        let here = Here::look();
        for other in [
            Session { host: "elsewhere".into(), ..session(1) },
            Session { boot: "another boot".into(), ..session(1) },
        ] {
            assert_eq!(here.judge(&other, now()), Liveness::Elsewhere);
            let later = now() + 17 * 3600 * 1_000_000_000;
            assert_eq!(here.judge(&other, later), Liveness::Silent);
        }
    }
}
