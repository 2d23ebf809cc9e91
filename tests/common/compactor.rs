//! A compactor driven by hand: each step of the protocol by itself, in whatever order a test wants.

use std::sync::Arc;

use copal::format::envelope::ObjectKind;
use copal::format::location::PackRef;
use copal::format::msgpack;
use copal::format::pack::{PackEntry, PackKind};
use copal::format::protocol::{Condemned, Forwarding, Intent};
use copal::format::state::{ArchiveState, ChangeKind, StateName};
use copal::id::{ArchiveId, Nonce16, PackId, SessionId};
use copal::repository::packer::PackWriter;
use copal::repository::packs::pack_name;
use copal::repository::segments::publish;
use copal::repository::{Repository, now};
use copal::storage::Storage;

use super::open;

/// Works on a repository through a handle of its own.
#[derive(Debug, Clone)]
pub(crate) struct Compactor(pub(crate) Arc<Repository>);

impl Compactor {
    pub(crate) fn new(storage: impl Storage + 'static) -> Self {
        Self(open(storage))
    }

    fn put(&self, kind: ObjectKind, name: String, plain: &[u8]) -> String {
        self.0.objects().put(kind, &name, plain).expect("put");
        name
    }

    pub(crate) fn condemn(&self, packs: &[PackId]) -> String {
        let condemned = Condemned { session: SessionId::random(), time: 1, packs: packs.to_vec() };
        self.put(
            ObjectKind::Condemned,
            format!("condemned/{}", Nonce16::random()),
            &msgpack::to_bytes(&condemned),
        )
    }

    pub(crate) fn intend(&self, packs: &[PackId], moved: &[String]) -> String {
        self.publish_intent(packs, moved, &[])
    }

    /// Says that an archive's record will go.
    pub(crate) fn intend_archive(&self, archive: ArchiveId) -> String {
        self.publish_intent(&[], &[], &[archive])
    }

    fn publish_intent(&self, packs: &[PackId], moved: &[String], archives: &[ArchiveId]) -> String {
        let intent = Intent {
            session: SessionId::random(),
            time: 1,
            packs: packs.to_vec(),
            segments: vec![],
            archives: archives.to_vec(),
            moved: moved.to_vec(),
        };
        self.put(ObjectKind::Intent, format!("intents/{}", Nonce16::random()), &msgpack::to_bytes(&intent))
    }

    /// Copies the blobs to keep into a new pack.
    pub(crate) fn copy(&self, kind: PackKind, from: PackId, keep: impl Fn(&PackEntry) -> bool) -> Copied {
        let objects = self.0.objects();
        let writer = PackWriter::start(kind, 1 << 30, objects.clone()).expect("thread");
        for entry in self.0.packs().entries(kind, from).expect("entries").iter().filter(|entry| keep(entry)) {
            let mut sealed = vec![0; entry.sealed_len as usize];
            objects
                .storage()
                .read_range(&pack_name(kind, from), entry.offset.into(), &mut sealed)
                .expect("read");
            writer.add(entry.kind, &entry.id, entry.plain_len as usize, &sealed).expect("add");
        }
        let mut stored = writer.finish().expect("finish");
        let stored = stored.pop().expect("something was kept");
        Copied { from, pack: stored.pack, entries: stored.entries }
    }

    pub(crate) fn publish_index(&self, copied: &Copied) {
        let stored = copal::repository::packer::StoredPack {
            pack: copied.pack,
            len: 0,
            entries: copied.entries.clone(),
        };
        publish(self.0.objects(), stored.index_entries().collect()).expect("index");
    }

    /// Publishes where the survivors of a pack went; returns the forwarding's name.
    pub(crate) fn forward(&self, copied: &Copied) -> String {
        let blobs = copied.entries.iter().map(|entry| (entry.kind, entry.id, entry.location(copied.pack)));
        let forwarding = Forwarding { pack: copied.from, blobs: blobs.collect() };
        let hex = copied.from.to_string();
        let name = format!("moved/{}/{hex}/{}", &hex[..2], Nonce16::random());
        self.put(ObjectKind::Forwarding, name, &forwarding.to_bytes())
    }

    pub(crate) fn delete_pack(&self, kind: PackKind, pack: PackId) {
        self.0.objects().delete(pack_name(kind, pack).as_str()).expect("delete");
    }

    pub(crate) fn delete(&self, object: &str) {
        self.0.objects().delete(object).expect("delete");
    }

    /// What `delete` does: a state says that the archive is gone.
    pub(crate) fn delete_archive(&self, archive: ArchiveId) {
        self.delete_archive_at(archive, now());
    }

    /// Says that an archive was deleted at `time`.
    pub(crate) fn delete_archive_at(&self, archive: ArchiveId, time: i64) {
        let name = StateName { archive, kind: ChangeKind::Deleted, counter: 1, nonce: Nonce16::random() };
        let state = ArchiveState {
            archive,
            counter: 1,
            time,
            host: String::new(),
            session: SessionId::random(),
            deleted: Some(true),
            name: None,
            tags: None,
            comment: None,
        };
        self.put(ObjectKind::State, name.to_string(), &state.to_bytes());
    }
}

/// A new pack with what survived of an old one.
#[derive(Debug, Clone)]
pub(crate) struct Copied {
    pub(crate) from: PackId,
    pub(crate) pack: PackRef,
    pub(crate) entries: Vec<PackEntry>,
}
