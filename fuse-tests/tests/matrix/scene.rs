//! A repository with every kind of object in it, as years of use leave it, and all objects that it once had.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use copal::codec::slot_key::{Derivation, Secret};
use copal::format::config::ChunkerParams;
use copal::format::envelope::ObjectKind;
use copal::format::msgpack;
use copal::format::pack::PackKind;
use copal::format::protocol::{Condemned, Intent, RemovalMarker, Session};
use copal::id::{ArchiveId, Nonce16, PackId, SessionId, SlotId};
use copal::image::Image;
use copal::image::reader::ImageReader;
use copal::repository::Repository;
use copal::repository::packs::pack_name;
use copal::repository::reference::format_time;
use copal::repository::unlock::{InitOptions, Locked, init};
use copal::storage::local::LocalStorage;
use fuse_tests::noise::noise;
use fuse_tests::sandbox::{Sandbox, files_below};

/// Memory for the maps and chunks of one survey, in bytes.
const CACHE: usize = 8 << 20;
/// Images are compared in pieces of this many bytes.
pub(crate) const BLOCK: usize = 4096;

/// Objects by name, `mirror/` included.
pub(crate) type Objects = BTreeMap<String, Vec<u8>>;

/// An archive of one member, as it has to come back.
pub(crate) struct Kept {
    pub(crate) id: ArchiveId,
    /// Its file in the mount.
    pub(crate) file: String,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) struct Scene {
    pub(crate) sandbox: Sandbox,
    /// The repository before any damage.
    pub(crate) objects: Objects,
    /// What it had once: objects that are gone.
    pub(crate) past: Objects,
    /// All archives that are neither deleted nor withdrawn.
    pub(crate) archives: Vec<Kept>,
    /// What is backed up again, by name.
    pub(crate) sources: Vec<(&'static str, PathBuf, Vec<u8>)>,
    /// The slot that the tests' key file opens.
    pub(crate) own_slot: SlotId,
    key: Secret,
}

/// Five states of two disks: three of one that spans three spans, with chunks of it in the other.
fn images() -> [Vec<u8>; 5] {
    let mut web = noise(1, 700_000);
    web.resize(4 << 20, 0);
    web.extend(noise(2, 500_000));
    web.extend(b"a text that compresses well\n".iter().cycle().take(300_000));
    web.resize((9 << 20) - 30_000, 0);
    web.extend(noise(3, 30_100));
    let patched = |from: &[u8], at: usize, seed: u64, len: usize| {
        let mut bytes = from.to_vec();
        bytes[at..at + len].copy_from_slice(&noise(seed, len));
        bytes
    };
    let oldest = patched(&web, 100_000, 4, 300_000);
    let older = patched(&web, 200_000, 5, 200_000);
    let newest = patched(&older, (4 << 20) + 100_000, 6, 200_000);
    let mut db = vec![0; 1 << 20];
    db.extend(&web[..500_000]);
    db.resize(4 << 20, 0);
    db.extend(noise(7, 300_000));
    let next = patched(&db, (4 << 20) + 50_000, 8, 100_000);
    [oldest, older, newest, db, next]
}

impl Scene {
    pub(crate) fn new() -> Self {
        let sandbox = Sandbox::bare();
        let key_bytes = noise(99, 64);
        fs::write(sandbox.path("key"), &key_bytes).expect("write");
        let key = Secret::KeyFile(key_bytes.into());
        let options = InitOptions {
            secret: Some(key.clone()),
            derivation: Derivation::KeyFile,
            chunker: ChunkerParams::fastcdc(16 << 10),
            span_shift: 22,
            pack_size: 1 << 20,
            reserve: 64 << 10,
            ..InitOptions::default()
        };
        let storage = LocalStorage::create(&sandbox.repository()).expect("a directory");
        drop(init(Arc::new(storage), &options).expect("init"));
        let own_slot = slots(&sandbox.repository())[0];
        let (objects, past) = (Objects::new(), Objects::new());
        let (archives, sources) = (Vec::new(), Vec::new());
        let mut scene = Self { sandbox, objects, past, archives, sources, own_slot, key };
        scene.live();
        scene.objects = scene.stored();
        let objects = &scene.objects;
        scene.past.retain(|name, _| !objects.contains_key(name) && !name.starts_with("quarantine/"));
        copy_tree(&scene.sandbox.path("state"), &scene.sandbox.path("state.before"));
        scene
    }

    /// All that happens before the damage.
    fn live(&mut self) {
        let [oldest, older, newest, db, next] = images();
        self.back_up("web", 1, &oldest);
        let web = self.back_up("web", 2, &older);
        let first_db = self.back_up("db", 3, &db);
        self.remember();
        // A chunk is lost and given up, and the next backup heals it.
        let repository = self.open().expect("open");
        self.lose_a_chunk(&repository, web);
        self.remember();
        self.copal(&["check", "REPO", "--repair"]);
        self.remember();
        let newest_web = self.back_up("web", 4, &newest);
        let newest_db = self.back_up("db", 5, &next);
        let gone = self.back_up("web", 0, &noise(9, 400_000));
        self.remember();
        self.copal(&["tag", &format!("REPO::#{web}"), "--add", "keep"]);
        self.copal(&["tag", &format!("REPO::#{web}"), "--add", "more"]);
        self.copal(&["delete", "REPO::web~2"]);
        self.remember();
        self.copal(&["compact", "REPO", "--threshold", "1"]);
        self.remember();
        self.copal(&["delete", &format!("REPO::#{gone}")]);
        let before = slots(&self.sandbox.repository());
        let file = self.sandbox.path("removed").display().to_string();
        self.copal(&["key", "add", "REPO", "--new-key-file", &file]);
        self.remember();
        let removed = slots(&self.sandbox.repository()).into_iter().find(|slot| !before.contains(slot));
        self.copal(&["key", "remove", "REPO", &removed.expect("a new slot").to_string()]);
        for number in ["second", "third"] {
            let file = self.sandbox.path(number).display().to_string();
            self.copal(&["key", "add", "REPO", "--new-key-file", &file]);
        }
        self.die_in_a_compaction(gone);
        self.remember();
        let archives = self.open().expect("open").archives().expect("list");
        let contents = [
            ("web", web, older),
            ("web", newest_web, newest.clone()),
            ("db", first_db, db),
            ("db", newest_db, next.clone()),
        ];
        for (name, id, bytes) in contents {
            let archive = archives.iter().find(|archive| archive.id() == id).expect("it is listed");
            let file = format!("{name}/{}.img", format_time(archive.time()));
            self.archives.push(Kept { id, file, bytes });
        }
        assert_eq!(archives.len(), self.archives.len());
        self.sources =
            vec![("web", self.sandbox.path("web.4"), newest), ("db", self.sandbox.path("db.5"), next)];
    }

    fn back_up(&mut self, name: &str, hour: u32, bytes: &[u8]) -> ArchiveId {
        let source = self.sandbox.file(&format!("{name}.{hour}"), bytes).display().to_string();
        let time = format!("2026-01-02T{hour:02}:00:00");
        let said = self.copal(&["create", "--json", "--timestamp", &time, &format!("REPO::{name}"), &source]);
        let said: serde_json::Value = serde_json::from_str(&said).expect("one JSON document");
        said["id"].as_str().expect("an id").parse().expect("an id")
    }

    /// Damages one chunk that both archives of web need.
    fn lose_a_chunk(&self, repository: &Arc<Repository>, archive: ArchiveId) {
        let reader = ImageReader::new(repository.clone(), CACHE);
        let record = repository.record(archive).expect("record");
        let image = Image::of(&record.members[0], repository.config().span_shift);
        let map = reader.maps().span(&image, 0).expect("map").expect("data");
        let at = map.locations[map.locations.len() / 2];
        let pack = self.sandbox.repository().join(pack_name(PackKind::Data, at.pack.id).as_str());
        let mut bytes = fs::read(&pack).expect("read");
        bytes[(at.offset + at.sealed_len / 2) as usize] ^= 1;
        fs::write(&pack, bytes).expect("write");
    }

    /// What a compactor and somebody who removes a slot leave that die after they said what they will do.
    fn die_in_a_compaction(&self, deleted: ArchiveId) {
        let repository = self.open().expect("open");
        let objects = repository.objects();
        let dead = SessionId::random();
        let put = |kind, name: String, plain: &[u8]| objects.put(kind, &name, plain).expect("put");
        let session = Session {
            host: "elsewhere".into(),
            pid: 1,
            boot: "then".into(),
            started: 0,
            heartbeat: 0,
            what: "compact".into(),
        };
        put(ObjectKind::Session, format!("sessions/{dead}"), &msgpack::to_bytes(&session));
        let packs: Vec<PackId> = objects.list_ids("packs").expect("list");
        let packs = packs[..packs.len().min(2)].to_vec();
        let list = Condemned { session: dead, time: 1, packs: packs.clone() };
        put(ObjectKind::Condemned, format!("condemned/{}", Nonce16::random()), &msgpack::to_bytes(&list));
        let (segments, archives, moved) = (vec![], vec![deleted], vec![]);
        let intent = Intent { session: dead, time: 1, packs, segments, archives, moved };
        put(ObjectKind::Intent, format!("intents/{}", Nonce16::random()), &msgpack::to_bytes(&intent));
        let slot = slots(&self.sandbox.repository()).into_iter().find(|slot| *slot != self.own_slot);
        let slot = slot.expect("a second slot");
        let marker = RemovalMarker { slot, time: 1, host: "elsewhere".into() };
        let name = format!("key-removals/{slot}-{}", Nonce16::random());
        put(ObjectKind::RemovalMarker, name, &msgpack::to_bytes(&marker));
    }

    /// The program with the environment of this scene. `REPO` in arguments is the repository.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.sandbox.copal();
        let repository = self.sandbox.repository().display().to_string();
        command.args(args.iter().map(|arg| arg.replace("REPO", &repository)));
        command.env("COPAL_KEY_FILE", self.sandbox.path("key"));
        command
    }

    /// Runs what may warn, but not fail.
    fn copal(&self, args: &[&str]) -> String {
        let output = self.command(args).output().expect("copal runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(0 | 1)), "copal {args:?}: {said}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// The repository as a library opens it that has seen nothing before.
    pub(crate) fn open(&self) -> Result<Arc<Repository>, String> {
        let storage = LocalStorage::open(&self.sandbox.repository()).map_err(|error| error.to_string())?;
        let locked = Locked::read(Arc::new(storage)).map_err(|error| error.to_string())?;
        locked.unlock(Some(&self.key)).map(Arc::new).map_err(|error| error.to_string())
    }

    /// All objects that are stored now.
    pub(crate) fn stored(&self) -> Objects {
        let root = self.sandbox.repository();
        let files = files_below(&root).into_iter();
        let files = files.filter_map(|path| {
            let name = path.strip_prefix(&root).expect("below").to_str()?.to_owned();
            Some((name, fs::read(&path).expect("read")))
        });
        files.filter(|(name, _)| !name.starts_with("tmp/")).collect()
    }

    fn remember(&mut self) {
        self.past.extend(self.stored());
    }

    /// Puts everything back as it was before the damage, what clients remember too.
    pub(crate) fn restore(&self) {
        let now = self.stored();
        for name in now.keys().filter(|name| !self.objects.contains_key(*name)) {
            fs::remove_file(self.sandbox.repository().join(name)).expect("remove");
        }
        for (name, bytes) in self.objects.iter().filter(|(name, bytes)| now.get(*name) != Some(bytes)) {
            self.write(name, bytes);
        }
        let state = self.sandbox.path("state");
        let _ = fs::remove_dir_all(&state);
        copy_tree(&self.sandbox.path("state.before"), &state);
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.sandbox.repository().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("mkdir");
        let _ = fs::remove_file(&path);
        fs::write(&path, bytes).expect("write");
    }

    /// Which blocks of every archive the library can read now; a wrong one is an error.
    pub(crate) fn survey(&self) -> Result<BTreeMap<ArchiveId, Vec<bool>>, String> {
        let nothing =
            || self.archives.iter().map(|kept| (kept.id, vec![false; blocks(&kept.bytes)])).collect();
        let Ok(repository) = self.open() else { return Ok(nothing()) };
        let reader = ImageReader::new(repository.clone(), CACHE);
        let mut found = BTreeMap::new();
        for kept in &self.archives {
            let Ok(record) = repository.record(kept.id) else {
                found.insert(kept.id, vec![false; blocks(&kept.bytes)]);
                continue;
            };
            let image = Image::of(&record.members[0], repository.config().span_shift);
            let read = |at: u64, buffer: &mut [u8]| reader.read_at(&image, at, buffer).ok();
            found.insert(kept.id, compare(kept, read)?);
        }
        Ok(found)
    }
}

pub(crate) fn blocks(bytes: &[u8]) -> usize {
    bytes.len().div_ceil(BLOCK)
}

/// Reads every block: whether it could be had. One that is wrong is an error.
pub(crate) fn compare(
    kept: &Kept,
    mut read: impl FnMut(u64, &mut [u8]) -> Option<usize>,
) -> Result<Vec<bool>, String> {
    let mut readable = Vec::with_capacity(blocks(&kept.bytes));
    let mut buffer = [0xa5; BLOCK];
    for (number, expected) in kept.bytes.chunks(BLOCK).enumerate() {
        let len = read((number * BLOCK) as u64, &mut buffer);
        if len.is_some_and(|len| buffer[..len] != *expected) {
            return Err(format!("block {number} of {} is WRONG", kept.file));
        }
        readable.push(len.is_some());
    }
    Ok(readable)
}

fn slots(repository: &Path) -> Vec<SlotId> {
    let names = files_below(&repository.join("keys")).into_iter();
    names.filter_map(|path| path.file_name()?.to_str()?.parse().ok()).collect()
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("mkdir");
    for file in files_below(from) {
        let target = to.join(file.strip_prefix(from).expect("below"));
        fs::create_dir_all(target.parent().expect("a folder")).expect("mkdir");
        fs::copy(&file, &target).expect("copy");
    }
}
