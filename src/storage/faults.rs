//! A wrapper that injects faults, so that tests can see what each of them leaves behind.
//!
//! Invariants: without rules it is transparent; an injected fault never breaks the contract of [`Storage`] beyond the
//! error or the flipped bit itself. Puts and deletes run one at a time, so that a crash comes after an exact number
//! of them. It does not lose what a storage has acknowledged: look at [`Faults::inner`] for what a crash left.

use super::recorder::Op;
use super::{Listed, Name, Settle, Storage};
use parking_lot::Mutex;
use std::io;

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this kind and does nothing.
    Fail(io::ErrorKind),
    /// It does all its work, then fails with this kind, as when a reply is lost.
    LostReply(io::ErrorKind),
    /// The put stops half-way (`WriteZero`); the name stays as it was. Only for [`Op::Put`].
    Torn,
    /// The read succeeds with this bit of the returned bytes inverted: bit `n % 8` of byte `n / 8`, counted round if
    /// there are fewer. Only for [`Op::Read`] and [`Op::ReadRange`]; an empty read is left alone.
    FlipBit(u64),
}

impl Fault {
    fn fits(self, op: Op) -> bool {
        match self {
            Self::Fail(_) | Self::LostReply(_) => true,
            Self::Torn => op == Op::Put,
            Self::FlipBit(_) => matches!(op, Op::Read | Op::ReadRange),
        }
    }
}

/// Which calls a fault strikes.
#[derive(Debug)]
struct Rule {
    op: Op,
    prefix: String,
    fault: Fault,
    /// Matching calls until it strikes, that one included; `None` strikes each of them.
    countdown: Option<u64>,
}

impl Rule {
    /// Counts a call; `true` if the rule strikes it.
    fn strikes(&mut self, op: Op, name: &str) -> bool {
        if self.op != op || !name.starts_with(&self.prefix) {
            return false;
        }
        let Some(left) = &mut self.countdown else { return true };
        *left = left.saturating_sub(1);
        *left == 0
    }

    fn is_spent(&self) -> bool {
        self.countdown == Some(0)
    }
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    mutations: u64,
    /// Puts and deletes that may still succeed; none means that the machine is dead.
    until_crash: Option<u64>,
}

/// Passes calls on to `S`, except where a rule says otherwise.
#[derive(Debug, Default)]
pub struct Faults<S> {
    inner: S,
    state: Mutex<State>,
    /// Held through each put and delete; always taken before `state`.
    mutating: Mutex<()>,
}

impl<S> Faults<S> {
    /// Wraps `inner`, without rules.
    pub fn new(inner: S) -> Self {
        Self { inner, state: Mutex::default(), mutating: Mutex::default() }
    }

    /// The wrapped storage, untouched by rules and crashes.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Lets `fault` strike once: the `nth` call (from 1, counted from now) of `op` whose name begins with the text
    /// `prefix` (for a list: whose own prefix does). Where several rules strike one call, all are spent, and the
    /// oldest decides.
    ///
    /// # Panics
    /// If `nth` is 0 or the fault cannot happen to `op`.
    pub fn inject(&self, op: Op, prefix: &str, nth: u64, fault: Fault) {
        assert!(nth > 0, "calls are counted from 1");
        self.add(Rule { op, prefix: prefix.to_owned(), fault, countdown: Some(nth) });
    }

    /// Lets `fault` strike every matching call; see [`Faults::inject`].
    ///
    /// # Panics
    /// If the fault cannot happen to `op`.
    pub fn inject_always(&self, op: Op, prefix: &str, fault: Fault) {
        self.add(Rule { op, prefix: prefix.to_owned(), fault, countdown: None });
    }

    /// Fails the `nth` matching call with `kind`; see [`Faults::inject`].
    ///
    /// # Panics
    /// If `nth` is 0.
    pub fn fail_nth(&self, op: Op, prefix: &str, nth: u64, kind: io::ErrorKind) {
        self.inject(op, prefix, nth, Fault::Fail(kind));
    }

    /// Lets `n` more puts and deletes succeed; after the last of them every call fails with `ConnectionAborted`, as
    /// if the machine had died. With 0 it is dead at once.
    pub fn crash_after_puts(&self, n: u64) {
        self.state.lock().until_crash = Some(n);
    }

    /// Whether the machine is dead.
    #[must_use]
    pub fn crashed(&self) -> bool {
        self.state.lock().until_crash == Some(0)
    }

    /// Removes all rules and the crash, and revives the machine; the count of mutations stays.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.rules.clear();
        state.until_crash = None;
    }

    /// Counts the puts and deletes that took effect since the start, lost replies included. A crash matrix runs once
    /// without faults, then once for each number below this.
    #[must_use]
    pub fn mutations(&self) -> u64 {
        self.state.lock().mutations
    }

    fn add(&self, rule: Rule) {
        assert!(rule.fault.fits(rule.op), "{:?} cannot happen to {:?}", rule.fault, rule.op);
        self.state.lock().rules.push(rule);
    }

    /// Decides about a call before it is passed on; returns what must happen to its result.
    fn before(&self, op: Op, name: &str) -> io::Result<Option<Fault>> {
        let mut state = self.state.lock();
        if state.until_crash == Some(0) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "injected: the machine is dead"));
        }
        let mut struck = None;
        for rule in &mut state.rules {
            if rule.strikes(op, name) {
                struck = struck.or(Some(rule.fault));
            }
        }
        state.rules.retain(|rule| !rule.is_spent());
        match struck {
            Some(Fault::Fail(kind)) => Err(injected(kind)),
            Some(Fault::Torn) => Err(injected(io::ErrorKind::WriteZero)),
            after => Ok(after),
        }
    }

    /// Runs a put or delete, alone.
    fn mutate(&self, op: Op, name: &Name, run: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let _alone = self.mutating.lock();
        let fault = self.before(op, name.as_str())?;
        run()?;
        let mut state = self.state.lock();
        state.mutations += 1;
        state.until_crash = state.until_crash.map(|left| left.saturating_sub(1));
        after(fault, &mut [])
    }
}

/// Applies what is left of a fault once the call has been passed on.
fn after(fault: Option<Fault>, returned: &mut [u8]) -> io::Result<()> {
    match fault {
        Some(Fault::LostReply(kind)) => Err(injected(kind)),
        Some(Fault::FlipBit(bit)) => {
            let byte = (bit / 8).checked_rem(returned.len() as u64).and_then(|at| usize::try_from(at).ok());
            if let Some(byte) = byte.and_then(|at| returned.get_mut(at)) {
                *byte ^= 1 << (bit % 8);
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn injected(kind: io::ErrorKind) -> io::Error {
    io::Error::new(kind, format!("injected: {kind}"))
}

impl<S: Storage> Storage for Faults<S> {
    fn read(&self, name: &Name, limit: u64) -> io::Result<Vec<u8>> {
        let fault = self.before(Op::Read, name.as_str())?;
        let mut bytes = self.inner.read(name, limit)?;
        after(fault, &mut bytes)?;
        Ok(bytes)
    }

    fn read_range(&self, name: &Name, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let fault = self.before(Op::ReadRange, name.as_str())?;
        self.inner.read_range(name, offset, buf)?;
        after(fault, buf)
    }

    fn len(&self, name: &Name) -> io::Result<u64> {
        let fault = self.before(Op::Len, name.as_str())?;
        let len = self.inner.len(name)?;
        after(fault, &mut [])?;
        Ok(len)
    }

    fn put(&self, name: &Name, parts: &[&[u8]]) -> io::Result<()> {
        self.mutate(Op::Put, name, || self.inner.put(name, parts))
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        let fault = self.before(Op::List, prefix)?;
        let listed = self.inner.list(prefix)?;
        after(fault, &mut [])?;
        Ok(listed)
    }

    fn delete(&self, name: &Name) -> io::Result<()> {
        self.mutate(Op::Delete, name, || self.inner.delete(name))
    }

    fn settle(&self) -> Settle {
        self.inner.settle()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[cfg(test)]
mod tests;
