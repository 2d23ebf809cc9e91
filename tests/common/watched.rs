//! A storage that tells of every call before it is made, so that a test can act, or refuse, at a chosen point.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use copal::storage::recorder::Op;
use copal::storage::{FolderMark, Listed, Name, Settle, Storage};
use parking_lot::Mutex;

type Watch = dyn Fn(Op, &str) -> io::Result<()> + Send + Sync;

/// Passes calls on to `S` after its watches have seen them. Watches act on `S` itself, unseen; no lock is held meanwhile.
pub(crate) struct Watched<S> {
    inner: S,
    watches: Mutex<Vec<Arc<Watch>>>,
    gains: AtomicBool,
    marks: AtomicBool,
}

impl<S> Watched<S> {
    pub(crate) fn new(inner: S) -> Arc<Self> {
        Arc::new(Self {
            inner,
            watches: Mutex::default(),
            gains: AtomicBool::new(false),
            marks: AtomicBool::new(false),
        })
    }

    /// Has several calls made at once from now on, as a directory has, where there is a choice: in no certain order.
    pub(crate) fn set_gains_from_threads(&self) {
        self.gains.store(true, Ordering::Relaxed);
    }

    /// Has folders tell from now on whether anything came or went, as those of a directory do.
    pub(crate) fn set_marks(&self) {
        self.marks.store(true, Ordering::Relaxed);
    }

    /// Calls `watch` before each call from now on; its error is the call's.
    pub(crate) fn watch(&self, watch: impl Fn(Op, &str) -> io::Result<()> + Send + Sync + 'static) {
        self.watches.lock().push(Arc::new(watch));
    }

    /// Runs `act` before the first call of `op` whose name begins with `prefix`.
    pub(crate) fn once(&self, op: Op, prefix: &'static str, act: impl FnOnce() + Send + 'static) {
        let act = Mutex::new(Some(act));
        self.watch(move |called, name| {
            let act = (called == op && name.starts_with(prefix)).then(|| act.lock().take()).flatten();
            act.into_iter().for_each(|act| act());
            Ok(())
        });
    }

    fn before(&self, op: Op, name: &str) -> io::Result<()> {
        let watches = self.watches.lock().clone();
        watches.iter().try_for_each(|watch| watch(op, name))
    }
}

impl<S> fmt::Debug for Watched<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched(..)")
    }
}

impl<S: Storage> Storage for Watched<S> {
    fn read(&self, name: &Name, limit: u64) -> io::Result<Vec<u8>> {
        self.before(Op::Read, name.as_str())?;
        self.inner.read(name, limit)
    }

    fn read_range(&self, name: &Name, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.before(Op::ReadRange, name.as_str())?;
        self.inner.read_range(name, offset, buf)
    }

    fn len(&self, name: &Name) -> io::Result<u64> {
        self.before(Op::Len, name.as_str())?;
        self.inner.len(name)
    }

    fn put(&self, name: &Name, parts: &[&[u8]]) -> io::Result<()> {
        self.before(Op::Put, name.as_str())?;
        self.inner.put(name, parts)
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        self.before(Op::List, prefix)?;
        self.inner.list(prefix)
    }

    fn folder_mark(&self, folder: &str) -> Option<FolderMark> {
        let listed = self.marks.load(Ordering::Relaxed).then(|| self.inner.list(folder).ok()).flatten()?;
        let mut hasher = DefaultHasher::new();
        listed.iter().for_each(|listed| listed.name.as_str().hash(&mut hasher));
        Some(FolderMark { directory: [0, hasher.finish()], times: [0, 0] })
    }

    fn delete(&self, name: &Name) -> io::Result<()> {
        self.before(Op::Delete, name.as_str())?;
        self.inner.delete(name)
    }

    fn gains_from_threads(&self) -> bool {
        self.gains.load(Ordering::Relaxed)
    }

    fn settle(&self) -> Settle {
        self.inner.settle()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
