//! One actor's way to the shared storage: it waits for its turns, it may die or stumble at any call, and it may be made to break the protocol.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use copal::storage::{Listed, Name, Settle, Storage};
use parking_lot::Mutex;

use super::lag::Lag;
use super::turns::Turn;

/// What happens to an actor at its n-th call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mishap {
    /// It dies: every later call fails.
    Dies,
    /// It dies, and the call has taken effect.
    DiesBehind,
    /// The call fails and does nothing.
    Fails,
    /// The call takes effect, and fails.
    LosesReply,
}

/// How an actor breaks the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Breach {
    /// It looks neither for intents nor for packs after it published an archive or a state.
    NoConfirmation,
    /// It looks for intents and packs before it publishes an archive or a state, instead of afterwards.
    ConfirmsFirst,
    /// It publishes intents only when it begins to delete.
    IntentLast,
    /// It does not list archives and states again when its intent can be seen.
    LooksOnce,
    /// It does not wait for lists to settle.
    NoSettling,
    /// It does not look what other compactors condemned or intend.
    IgnoresOthers,
    /// It says nowhere what it condemned or intends to delete.
    Silent,
    /// It does not say where survivors went, and believes that it did.
    NoForwarding,
}

#[derive(Debug, Default)]
struct State {
    /// Calls since its turns began, which come before its mishap.
    calls: Option<u64>,
    dead: bool,
    struck: bool,
    /// Lists as they were before the step that they should follow.
    remembered: BTreeMap<String, Vec<Listed>>,
    /// Whether that step was taken.
    published: bool,
    withheld: Vec<(Name, Vec<u8>)>,
    /// What it put and nobody else shall see.
    own: BTreeMap<Name, Vec<u8>>,
}

#[derive(Debug)]
pub(crate) struct Client {
    turn: Arc<Turn<Lag>>,
    lag: Lag,
    mishap: Option<(u64, Mishap)>,
    breach: Option<Breach>,
    state: Mutex<State>,
}

fn aborted() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "injected: the actor is dead")
}

fn failed() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "injected: the call failed")
}

impl Client {
    pub(crate) fn new(
        turn: Arc<Turn<Lag>>,
        lag: Lag,
        mishap: Option<(u64, Mishap)>,
        breach: Option<Breach>,
    ) -> Arc<Self> {
        Arc::new(Self { turn, lag, mishap, breach, state: Mutex::default() })
    }

    /// From now on calls wait for their turns.
    pub(crate) fn begin(&self) {
        self.turn.begin();
        self.state.lock().calls = Some(0);
    }

    /// Whether its mishap has come.
    pub(crate) fn is_struck(&self) -> bool {
        self.state.lock().struck
    }

    fn call<T>(&self, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let due = {
            let mut state = self.state.lock();
            if state.dead {
                return Err(aborted());
            }
            state.calls = state.calls.map(|calls| calls + 1);
            let due = self.mishap.filter(|(at, _)| Some(*at) == state.calls).map(|(_, mishap)| mishap);
            state.struck |= due.is_some();
            state.dead = due == Some(Mishap::Dies);
            due
        };
        match due {
            None => run(),
            Some(Mishap::Dies) => Err(aborted()),
            Some(Mishap::DiesBehind) => {
                let done = run();
                self.state.lock().dead = true;
                done.and(Err(aborted()))
            }
            Some(Mishap::Fails) => Err(failed()),
            Some(Mishap::LosesReply) => run().and(Err(failed())),
        }
    }

    fn is(&self, breach: Breach) -> bool {
        self.breach == Some(breach)
    }

    /// What somebody who breaks the protocol sees instead of a list, if that is not the list.
    fn false_list(&self, prefix: &str) -> Option<Vec<Listed>> {
        let folder = prefix.trim_start_matches("mirror/");
        let state = self.state.lock();
        let published = state.published;
        let remembered = || state.remembered.get(prefix).cloned();
        match (self.breach?, folder) {
            (Breach::NoConfirmation, "intents") if published => Some(Vec::new()),
            (Breach::NoConfirmation | Breach::ConfirmsFirst, "packs" | "maps" | "intents") if published => {
                remembered()
            }
            (Breach::LooksOnce, "archives" | "states") if published => remembered(),
            (Breach::IgnoresOthers, "condemned" | "intents") => Some(Vec::new()),
            _ => None,
        }
    }

    /// Remembers a list for [`Self::false_list`]: what it showed, and nothing that went since.
    fn remember(&self, prefix: &str, listed: &[Listed]) {
        if matches!(self.breach, Some(Breach::NoConfirmation | Breach::ConfirmsFirst | Breach::LooksOnce)) {
            self.state.lock().remembered.insert(prefix.to_owned(), listed.to_vec());
        }
    }

    /// Lists what it will believe to have listed later.
    fn look_ahead(&self, name: &str) {
        let folder = name.trim_start_matches("mirror/").split('/').next().unwrap_or_default();
        let publishes = match self.breach {
            Some(Breach::NoConfirmation | Breach::ConfirmsFirst) => matches!(folder, "archives" | "states"),
            Some(Breach::LooksOnce) => folder == "intents",
            _ => false,
        };
        if !publishes || self.state.lock().published {
            return;
        }
        for folder in ["packs", "maps", "intents", "archives", "states"] {
            for prefix in [folder.to_owned(), format!("mirror/{folder}")] {
                if let Ok(listed) = self.turn.list(&prefix) {
                    self.remember(&prefix, &listed);
                }
            }
        }
        self.state.lock().published = true;
    }

    fn hides(&self, name: &Name) -> bool {
        let folder = name.as_str().trim_start_matches("mirror/").split('/').next().unwrap_or_default();
        match folder {
            "condemned" => self.is(Breach::Silent),
            "intents" => self.is(Breach::Silent),
            "moved" => self.is(Breach::NoForwarding),
            _ => false,
        }
    }
}

impl Storage for Client {
    fn read(&self, name: &Name, limit: u64) -> io::Result<Vec<u8>> {
        self.call(|| {
            if let Some(own) = self.state.lock().own.get(name) {
                return Ok(own.clone());
            }
            self.turn.read(name, limit)
        })
    }

    fn read_range(&self, name: &Name, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.call(|| self.turn.read_range(name, offset, buf))
    }

    fn len(&self, name: &Name) -> io::Result<u64> {
        self.call(|| {
            if let Some(own) = self.state.lock().own.get(name) {
                return Ok(own.len() as u64);
            }
            self.turn.len(name)
        })
    }

    fn put(&self, name: &Name, parts: &[&[u8]]) -> io::Result<()> {
        self.call(|| {
            self.look_ahead(name.as_str());
            if self.hides(name) {
                self.state.lock().own.insert(name.clone(), parts.concat());
                return Ok(());
            }
            if self.is(Breach::IntentLast) && name.as_str().contains("intents/") {
                self.state.lock().withheld.push((name.clone(), parts.concat()));
                return Ok(());
            }
            self.turn.put(name, parts)
        })
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        self.call(|| {
            if let Some(listed) = self.false_list(prefix) {
                return Ok(listed);
            }
            let mut listed = self.turn.list(prefix)?;
            let beneath =
                |name: &Name| name.as_str().strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
            let state = self.state.lock();
            let own = state.own.iter().filter(|(name, _)| beneath(name));
            listed.extend(own.map(|(name, bytes)| Listed { name: name.clone(), len: bytes.len() as u64 }));
            listed.sort();
            Ok(listed)
        })
    }

    fn delete(&self, name: &Name) -> io::Result<()> {
        self.call(|| {
            let withheld = std::mem::take(&mut self.state.lock().withheld);
            for (name, bytes) in withheld {
                self.turn.put(&name, &[&bytes])?;
            }
            if self.state.lock().own.remove(name).is_some() {
                return Ok(());
            }
            self.turn.delete(name)
        })
    }

    /// What was done before it is in all lists behind it; what is done while somebody waits need not be.
    fn settle(&self) -> Settle {
        if !self.is(Breach::NoSettling) && !self.state.lock().dead {
            let done = self.lag.done();
            let settle = self.turn.settle();
            self.lag.settle_until(done);
            return settle;
        }
        self.lag.settle()
    }

    fn describe(&self) -> String {
        self.turn.describe()
    }
}
