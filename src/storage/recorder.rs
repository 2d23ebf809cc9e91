//! A wrapper that records every call, so that tests can pin costs by counts instead of timings.
//!
//! Invariants: calls are passed on unchanged, one for one; each is recorded when it returns, failed or not. It keeps
//! every record until [`Recorder::clear`], so it is for tests and benchmarks, not for long runs.

use super::{Listed, Name, Settle, Storage};
use parking_lot::Mutex;
use std::io;

/// Names a method of [`Storage`] that does I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Op {
    /// [`Storage::read`].
    Read,
    /// [`Storage::read_range`].
    ReadRange,
    /// [`Storage::len`].
    Len,
    /// [`Storage::put`].
    Put,
    /// [`Storage::list`].
    List,
    /// [`Storage::delete`].
    Delete,
}

/// Describes one call that has returned.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Call {
    /// Which method.
    pub op: Op,
    /// The object's name, or the prefix of a list.
    pub name: String,
    /// Where a ranged read began; 0 for all others.
    pub offset: u64,
    /// Bytes read or put, or objects listed; 0 for all others and for calls that failed.
    pub len: u64,
}

/// Passes calls on to `S` and remembers them.
#[derive(Debug, Default)]
pub struct Recorder<S> {
    inner: S,
    calls: Mutex<Vec<Call>>,
}

impl<S> Recorder<S> {
    /// Wraps `inner`, with nothing recorded.
    pub fn new(inner: S) -> Self {
        Self { inner, calls: Mutex::new(Vec::new()) }
    }

    /// The wrapped storage; calls made on it directly are not recorded.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Returns the calls so far, in the order in which they returned.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().clone()
    }

    /// Forgets the calls so far.
    pub fn clear(&self) {
        self.calls.lock().clear();
    }

    /// Counts the calls of one method so far, failed ones included.
    #[must_use]
    pub fn count(&self, op: Op) -> usize {
        self.calls.lock().iter().filter(|call| call.op == op).count()
    }

    /// Sums the bytes that whole and ranged reads returned so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        let calls = self.calls.lock();
        calls.iter().filter(|call| matches!(call.op, Op::Read | Op::ReadRange)).map(|call| call.len).sum()
    }

    /// Records a call; `len` is what it moved, if it succeeded.
    fn note(&self, op: Op, name: &str, offset: u64, len: Option<usize>) {
        let len = len.unwrap_or(0) as u64;
        self.calls.lock().push(Call { op, name: name.to_owned(), offset, len });
    }
}

impl<S: Storage> Storage for Recorder<S> {
    fn read(&self, name: &Name, limit: u64) -> io::Result<Vec<u8>> {
        let result = self.inner.read(name, limit);
        self.note(Op::Read, name.as_str(), 0, result.as_ref().ok().map(Vec::len));
        result
    }

    fn read_range(&self, name: &Name, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let result = self.inner.read_range(name, offset, buf);
        self.note(Op::ReadRange, name.as_str(), offset, result.is_ok().then_some(buf.len()));
        result
    }

    fn len(&self, name: &Name) -> io::Result<u64> {
        let result = self.inner.len(name);
        self.note(Op::Len, name.as_str(), 0, None);
        result
    }

    fn put(&self, name: &Name, parts: &[&[u8]]) -> io::Result<()> {
        let result = self.inner.put(name, parts);
        let len = parts.iter().map(|part| part.len()).sum();
        self.note(Op::Put, name.as_str(), 0, result.is_ok().then_some(len));
        result
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        let result = self.inner.list(prefix);
        self.note(Op::List, prefix, 0, result.as_ref().ok().map(Vec::len));
        result
    }

    fn names(&self, prefix: &str) -> io::Result<Vec<Name>> {
        let result = self.inner.names(prefix);
        self.note(Op::List, prefix, 0, result.as_ref().ok().map(Vec::len));
        result
    }

    fn delete(&self, name: &Name) -> io::Result<()> {
        let result = self.inner.delete(name);
        self.note(Op::Delete, name.as_str(), 0, None);
        result
    }

    fn settle(&self) -> Settle {
        self.inner.settle()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::conformance::{conformance, name};
    use crate::storage::memory::MemoryStorage;

    fn call(op: Op, name: &str, offset: u64, len: u64) -> Call {
        Call { op, name: name.to_owned(), offset, len }
    }

    #[test]
    fn conforms() {
        conformance(|| Box::new(Recorder::new(MemoryStorage::new())));
    }

    #[test]
    fn records_every_method_once() {
        let recorder = Recorder::new(MemoryStorage::new());
        let object = name("a/x");
        recorder.put(&object, &[b"abc", b"de"]).unwrap();
        recorder.read(&object, 5).unwrap();
        recorder.read_range(&object, 1, &mut [0; 3]).unwrap();
        recorder.len(&object).unwrap();
        recorder.list("a").unwrap();
        recorder.delete(&object).unwrap();

        let expected = [
            call(Op::Put, "a/x", 0, 5),
            call(Op::Read, "a/x", 0, 5),
            call(Op::ReadRange, "a/x", 1, 3),
            call(Op::Len, "a/x", 0, 0),
            call(Op::List, "a", 0, 1),
            call(Op::Delete, "a/x", 0, 0),
        ];
        assert_eq!(recorder.calls(), expected);
        assert_eq!(recorder.bytes_read(), 8);
    }

    #[test]
    fn counts_failures_without_their_bytes_and_clears() {
        let recorder = Recorder::new(MemoryStorage::new());
        recorder.read_range(&name("a/x"), 7, &mut [0; 3]).unwrap_err();
        assert_eq!(recorder.calls(), [call(Op::ReadRange, "a/x", 7, 0)]);
        assert_eq!((recorder.count(Op::ReadRange), recorder.count(Op::Read)), (1, 0));
        assert_eq!(recorder.bytes_read(), 0);
        recorder.clear();
        assert_eq!(recorder.calls(), []);
    }
}
