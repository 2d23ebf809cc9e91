//! Objects in memory, for tests and models.
//!
//! Invariants: every method is one step under one lock, so lists are exact and nothing is ever torn. Clones share one
//! store, as several machines share one repository. It does not survive the process, and does not bound its size.

use super::{Listed, Name, Settle, Storage};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// All objects of a store, as [`MemoryStorage::snapshot`] gives them. The bytes are shared, not copied.
pub type Objects = BTreeMap<Name, Arc<[u8]>>;

/// Keeps objects in memory; clones share them.
#[derive(Debug, Clone, Default)]
pub struct MemoryStorage {
    objects: Arc<RwLock<Objects>>,
}

impl MemoryStorage {
    /// Makes an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a store of its own that holds `objects`, for instance a snapshot taken before a crash.
    #[must_use]
    pub fn from_snapshot(objects: Objects) -> Self {
        Self { objects: Arc::new(RwLock::new(objects)) }
    }

    /// Returns all objects as they are now; later changes of the store do not show in it.
    #[must_use]
    pub fn snapshot(&self) -> Objects {
        self.objects.read().clone()
    }

    /// Sets the bytes of an object, which need not exist, as damage would: past every wrapper around this store.
    pub fn overwrite(&self, name: &Name, bytes: Vec<u8>) {
        self.objects.write().insert(name.clone(), bytes.into());
    }

    fn get(&self, name: &Name) -> io::Result<Arc<[u8]>> {
        self.objects.read().get(name).cloned().ok_or_else(|| not_found(name))
    }
}

impl Storage for MemoryStorage {
    fn read(&self, name: &Name, limit: u64) -> io::Result<Vec<u8>> {
        let bytes = self.get(name)?;
        if bytes.len() as u64 > limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name} exceeds {limit} bytes")));
        }
        Ok(bytes.to_vec())
    }

    fn read_range(&self, name: &Name, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let bytes = self.get(name)?;
        let range = usize::try_from(offset)
            .ok()
            .and_then(|start| Some(start..start.checked_add(buf.len())?))
            .and_then(|range| bytes.get(range))
            .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, format!("{name} ends early")))?;
        buf.copy_from_slice(range);
        Ok(())
    }

    fn len(&self, name: &Name) -> io::Result<u64> {
        Ok(self.get(name)?.len() as u64)
    }

    fn put(&self, name: &Name, parts: &[&[u8]]) -> io::Result<()> {
        self.objects.write().insert(name.clone(), parts.concat().into());
        Ok(())
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        let objects = self.objects.read();
        let under = objects.iter().filter(|(name, _)| lies_under(name, prefix));
        Ok(under.map(|(name, bytes)| Listed { name: name.clone(), len: bytes.len() as u64 }).collect())
    }

    fn delete(&self, name: &Name) -> io::Result<()> {
        self.objects.write().remove(name).map(drop).ok_or_else(|| not_found(name))
    }

    fn settle(&self) -> Settle {
        Settle::After(Duration::ZERO)
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}

fn not_found(name: &Name) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{name} is not there"))
}

/// Whether a list of `prefix` covers `name`: it must begin with `prefix` and a slash.
pub(super) fn lies_under(name: &Name, prefix: &str) -> bool {
    name.as_str().strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::conformance::{conformance, name};

    #[test]
    fn conforms() {
        conformance(|| Box::new(MemoryStorage::new()));
    }

    #[test]
    fn clones_share_and_snapshots_do_not() {
        let store = MemoryStorage::new();
        store.put(&name("a/x"), &[b"old"]).unwrap();
        let before = store.snapshot();
        store.clone().put(&name("a/x"), &[b"new"]).unwrap();

        assert_eq!(store.read(&name("a/x"), 3).unwrap(), b"new");
        assert_eq!(&*before[&name("a/x")], b"old");
        let revived = MemoryStorage::from_snapshot(before);
        assert_eq!(revived.read(&name("a/x"), 3).unwrap(), b"old");
        revived.delete(&name("a/x")).unwrap();
        assert_eq!(store.len(&name("a/x")).unwrap(), 3);
    }

    #[test]
    fn overwrite_changes_and_makes_objects() {
        let store = MemoryStorage::new();
        store.put(&name("a/x"), &[b"good"]).unwrap();
        store.overwrite(&name("a/x"), b"b".to_vec());
        store.overwrite(&name("a/y"), b"stray".to_vec());
        assert_eq!(store.read(&name("a/x"), 9).unwrap(), b"b");
        assert_eq!(store.list("a").unwrap().len(), 2);
    }
}
