//! Killing a process at a chosen moment: after a time, or when it has come so far, which the files that appear and go tell.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use rustix::process::{Pid, Signal, kill_process};

use super::dice::Dice;
use crate::support::{Ended, Run};

/// How often a process is looked at.
const LOOK: Duration = Duration::from_micros(100);

/// What a command usually takes.
#[derive(Debug, Clone, Copy)]
struct Usual {
    time: Duration,
    events: u64,
}

/// Knows how long commands take, and so when to kill them.
#[derive(Debug, Default)]
pub(crate) struct Aim {
    usual: HashMap<&'static str, Usual>,
    /// Kills after which the process had ended by the signal, by the tenth of its usual steps in which they fell.
    pub(crate) hits: [u64; 11],
}

#[derive(Debug, Clone, Copy)]
enum Shot {
    After(Duration),
    AtEvent(u64),
}

impl Aim {
    /// Runs a command and kills it at a random moment; it may end before.
    pub(crate) fn shoot(&mut self, kind: &'static str, run: Run, watched: &Path, dice: &mut Dice) -> Ended {
        let usual = self.usual.get(kind).copied();
        let usual = usual.unwrap_or(Usual { time: Duration::from_millis(300), events: 60 });
        let shot = if dice.chance(60) {
            Shot::AtEvent(dice.below(usual.events + 2))
        } else {
            Shot::After(usual.time.mul_f64(dice.below(1200) as f64 / 1000.0))
        };
        self.run(kind, run, watched, Some(shot))
    }

    /// Runs a command to its end.
    pub(crate) fn complete(&mut self, kind: &'static str, run: Run, watched: &Path) -> Ended {
        self.run(kind, run, watched, None)
    }

    fn run(&mut self, kind: &'static str, mut run: Run, watched: &Path, shot: Option<Shot>) -> Ended {
        let watch = watch(watched);
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut events = Reader::new(&watch, &mut buffer);
        let (started, mut seen) = (Instant::now(), 0);
        let mut child = run.spawn();
        while child.try_wait().expect("wait").is_none() {
            while events.next().is_ok() {
                seen += 1;
            }
            let now = match shot {
                None => false,
                Some(Shot::After(time)) => started.elapsed() >= time,
                Some(Shot::AtEvent(number)) => seen >= number,
            };
            if now {
                kill(&child);
                break;
            }
            std::thread::sleep(LOOK);
        }
        let time = started.elapsed();
        let ended = Ended::of(child.wait_with_output().expect("wait"));
        while events.next().is_ok() {
            seen += 1;
        }
        if ended.killed {
            let of = self.usual.get(kind).map_or(60, |usual| usual.events).max(1);
            self.hits[(seen * 10 / of).min(10) as usize] += 1;
        } else {
            // Half of what was known: commands differ from run to run.
            let usual = self.usual.entry(kind).or_insert(Usual { time, events: seen });
            *usual = Usual { time: (usual.time + time) / 2, events: (usual.events + seen).div_ceil(2) };
        }
        ended
    }
}

pub(crate) fn kill(child: &Child) {
    kill_process(Pid::from_child(child), Signal::KILL).expect("it was not waited for");
}

/// Tells of every file that comes, goes or gets its name, in all directories that there are now.
fn watch(root: &Path) -> OwnedFd {
    let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).expect("inotify");
    let kinds = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE;
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        inotify::add_watch(&watch, &dir, kinds).expect("watch");
        let entries = std::fs::read_dir(&dir).expect("read_dir").map(|entry| entry.expect("entry").path());
        open.extend(entries.filter(|path| path.is_dir()));
    }
    watch
}
