//! What is known of each attach: one JSON record, written before every step.
//!
//! A record names what was made or was about to be made, so that nothing is left behind that nobody knows of. It is replaced as a whole (temporary file, fsync, rename, fsync
//! of the directory). A lock beside it is held by whoever works on the attach; it goes with its holder, however that ends.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Error, Result, failed};

/// The record's version; others are refused by their number.
const VERSION: u32 = 1;
/// The longest record that is read, in bytes: 256 partitions take some hundred KiB.
const MAX_RECORD: u64 = 4 << 20;
/// How long somebody who works on the attach is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often is looked.
const PAUSE: Duration = Duration::from_millis(10);
/// What the names of records begin with that are being written; their id follows.
const TEMPORARY: &str = ".attach-";

/// A process, such that another one of the same number is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, in the kernel's ticks since boot.
    pub started: u64,
}

/// What was served, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// The repository's path.
    pub repository: String,
    /// The archive's name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Its time, as RFC 3339 has it.
    pub time: String,
}

/// A loop device, made or about to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopRecord {
    /// The image that it stands on.
    pub file: PathBuf,
    /// Its first byte there.
    pub offset: u64,
    /// Its node, once it is known.
    pub device: Option<PathBuf>,
}

/// A mount, made or about to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRecord {
    /// Where.
    pub path: PathBuf,
    /// Which device's.
    pub device: PathBuf,
    /// The filesystem, by its name at `blkid`.
    pub filesystem: String,
}

/// A volume group under its new name, made or about to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// What it is called here.
    pub name: String,
    /// What it stands on.
    pub devices: Vec<PathBuf>,
}

/// All that is known of an attach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// What it is called: eight hexadecimal digits.
    pub id: String,
    /// The boot in which it was made: of an earlier one, only directories are left.
    pub boot: String,
    /// What is served.
    pub archive: Served,
    /// Where the files are shown.
    pub directory: PathBuf,
    /// Whether that directory is to be made first.
    pub own_directory: bool,
    /// Whether nobody asked for its name, so that another one does as well while it is not made.
    #[serde(skip)]
    pub any_name: bool,
    /// Whether everything was done that was to be done.
    pub complete: bool,
    /// Whether the images can be written to, in a layer that is thrown away.
    pub overlay: bool,
    /// Where that layer is kept.
    pub kept_overlay: Option<PathBuf>,
    /// The rule that hides the devices.
    pub rule: Option<PathBuf>,
    /// Directories that were made, in this order.
    pub directories: Vec<PathBuf>,
    /// Whether the server was, or was about to be, started.
    pub serving: bool,
    /// The server.
    pub server: Option<Process>,
    /// Loop devices.
    pub loops: Vec<LoopRecord>,
    /// Volume groups.
    pub groups: Vec<GroupRecord>,
    /// Mounts, in this order.
    pub mounts: Vec<MountRecord>,
}

impl Record {
    /// A record of an attach of which nothing was made yet.
    #[must_use]
    pub fn new(id: String, boot: String, archive: Served, directory: PathBuf) -> Self {
        Self {
            version: VERSION,
            id,
            boot,
            archive,
            directory,
            own_directory: false,
            any_name: false,
            complete: false,
            overlay: false,
            kept_overlay: None,
            rule: None,
            directories: Vec::new(),
            serving: false,
            server: None,
            loops: Vec::new(),
            groups: Vec::new(),
            mounts: Vec::new(),
        }
    }

    /// The directory of this attach alone.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        super::run_directory(&self.id)
    }

    /// Where the archive is served.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.run().join("image")
    }

    /// What every device of a volume group of ours begins with.
    #[must_use]
    pub fn group_prefix(&self) -> String {
        format!("copal_{}_", self.id)
    }

    /// Reads a record.
    fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let bad = |reason: String| Error::Record { path: path.to_owned(), reason };
        let version = serde_json::from_slice::<serde_json::Value>(bytes)
            .map_err(|error| bad(error.to_string()))?
            .get("version")
            .and_then(serde_json::Value::as_u64);
        if version != Some(u64::from(VERSION)) {
            return Err(bad("it was written by another version of Copal".into()));
        }
        let record: Self = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
        if !is_id(&record.id) || path.file_stem().is_none_or(|name| name != record.id.as_str()) {
            return Err(bad("its id is not that of its name".into()));
        }
        Ok(record)
    }
}

/// Whether this may be the id of an attach, which becomes a part of paths.
fn is_id(id: &str) -> bool {
    id.len() == 8 && id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// The id of the attach whose record has this path, whatever is in it.
#[must_use]
pub fn id_of(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(".json").filter(|id| is_id(id))
}

/// A new id.
///
/// # Errors
/// If the system has no random bytes.
pub fn new_id() -> io::Result<String> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(format!("{:08x}", u32::from_le_bytes(bytes)))
}

/// The directory of the records.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
}

/// The right to work on an attach. It goes with its holder.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "it is held, not used")] File);

impl Store {
    /// The store in a directory, which need not be there.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    fn file(&self, id: &str) -> PathBuf {
        self.path.join(format!("{id}.json"))
    }

    /// Takes the right to work on an attach.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process has it.
    pub fn lock(&self, id: &str) -> Result<Lock> {
        self.make()?;
        let path = self.path.join(format!("{id}.lock"));
        let open = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let file = open.map_err(failed("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => Err(Error::Locked { path }),
            Err(TryLockError::Error(source)) => Err(failed("lock", &path)(source)),
        }
    }

    /// As [`Self::lock`], but patient for a moment: what a process that was just killed had been about to start has the lock until it runs.
    ///
    /// # Errors
    /// As [`Self::lock`].
    pub fn lock_soon(&self, id: &str) -> Result<Lock> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.lock(id) {
                Err(Error::Locked { .. }) if Instant::now() < end => std::thread::sleep(PAUSE),
                locked => return locked,
            }
        }
    }

    /// Takes, as soon as nobody has it, the right to see which directories are taken and to write down that another one is.
    ///
    /// # Errors
    /// The system's.
    pub fn lock_directories(&self) -> Result<Lock> {
        self.make()?;
        let locked = File::open(&self.path).and_then(|store| store.lock().map(|()| store));
        locked.map(Lock).map_err(failed("lock", &self.path))
    }

    fn make(&self) -> Result<()> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.path);
        made.map_err(failed("make", &self.path))
    }

    /// Writes a record in place of what is there. When it returns, it is on disk.
    ///
    /// # Errors
    /// The system's; what was there before then stays.
    pub fn save(&self, record: &Record) -> Result<()> {
        let path = self.file(&record.id);
        let write = || {
            let text = serde_json::to_vec_pretty(record)?;
            let prefix = format!("{TEMPORARY}{}-", record.id);
            let mut file = tempfile::Builder::new().prefix(&prefix).tempfile_in(&self.path)?;
            file.write_all(&text)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(failed("write", &path))
    }

    /// Removes a record and its lock. That there is none is no failure.
    ///
    /// # Errors
    /// The system's.
    pub fn remove(&self, id: &str) -> Result<()> {
        for path in [self.file(id), self.path.join(format!("{id}.lock"))] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes what killed processes left: locks without a record, and records that were not written to their end. What somebody works on stays.
    pub fn sweep(&self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let id = name
                .strip_prefix(TEMPORARY)
                .or_else(|| name.strip_suffix(".lock").filter(|id| !self.file(id).exists()));
            let Some(id) = id.and_then(|id| id.get(..8)).filter(|id| is_id(id)) else { continue };
            let Ok(_lock) = self.lock(id) else { continue };
            let _ = fs::remove_file(entry.path());
            if !self.file(id).exists() {
                let _ = fs::remove_file(self.path.join(format!("{id}.lock")));
            }
        }
    }

    /// Reads a record again; `None` if it is gone.
    ///
    /// # Errors
    /// [`Error::Record`].
    pub fn load(&self, id: &str) -> Result<Option<Record>> {
        read(&self.file(id))
    }

    /// All records, by their ids, and what is no record.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Result<Record>>> {
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed("list", &self.path))?,
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        paths.sort();
        Ok(paths.iter().filter_map(|path| read(path).transpose()).collect())
    }
}

fn read(path: &Path) -> Result<Option<Record>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed("open", path))?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_RECORD).read_to_end(&mut bytes).map_err(failed("read", path))?;
    Record::parse(path, &bytes).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> Record {
        let archive =
            Served { repository: "/r".into(), name: "web01".into(), id: "1".into(), time: "now".into() };
        Record::new(id.into(), "boot".into(), archive, "/mnt".into())
    }

    #[test]
    fn records_come_back_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().join("state"));
        assert!(store.list().unwrap().is_empty());
        let mut first = record("0badcafe");
        let _lock = store.lock(&first.id).unwrap();
        store.save(&first).unwrap();
        first.loops.push(LoopRecord { file: "/x".into(), offset: 512, device: None });
        store.save(&first).unwrap();
        store.save(&record("00000001")).unwrap();
        let listed: Vec<Record> = store.list().unwrap().into_iter().map(Result::unwrap).collect();
        assert_eq!(listed, [record("00000001"), first.clone()]);
        store.remove(&first.id).unwrap();
        store.remove(&first.id).unwrap();
        assert_eq!(store.load(&first.id).unwrap(), None);
    }

    #[test]
    fn one_process_at_a_time_works_on_an_attach() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().to_owned());
        let lock = store.lock("0badcafe").unwrap();
        assert!(matches!(store.lock("0badcafe"), Err(Error::Locked { .. })));
        drop(lock);
        store.lock("0badcafe").unwrap();
    }

    #[test]
    fn who_is_patient_gets_a_lock_that_is_let_go_soon() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().to_owned());
        let lock = store.lock("0badcafe").unwrap();
        std::thread::scope(|scope| {
            let patient = scope.spawn(|| store.lock_soon("0badcafe").map(drop));
            std::thread::sleep(PAUSE * 3);
            drop(lock);
            patient.join().unwrap().unwrap();
        });
        let _kept = store.lock("0badcafe").unwrap();
        assert!(matches!(store.lock_soon("0badcafe"), Err(Error::Locked { .. })));
    }

    #[test]
    fn what_killed_processes_left_is_swept_and_what_is_in_use_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().to_owned());
        let kept = store.lock("0badcafe").unwrap();
        store.save(&record("0badcafe")).unwrap();
        let being_made = store.lock("00000001").unwrap();
        for name in [".attach-00000001-x", ".attach-00000002-y", "00000003.lock", ".attach-0badcafe-z"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let names = || {
            let entries = fs::read_dir(dir.path()).unwrap().flatten();
            entries
                .map(|entry| entry.file_name().into_string().unwrap())
                .collect::<std::collections::BTreeSet<_>>()
        };
        store.sweep();
        let busy =
            [".attach-00000001-x", ".attach-0badcafe-z", "00000001.lock", "0badcafe.json", "0badcafe.lock"];
        assert_eq!(names(), busy.map(str::to_owned).into());
        drop((kept, being_made));
        store.sweep();
        assert_eq!(names(), ["0badcafe.json", "0badcafe.lock"].map(str::to_owned).into());
    }

    #[test]
    fn what_is_no_record_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().to_owned());
        let mut other = serde_json::to_value(record("0badcafe")).unwrap();
        for (name, text) in [
            ("00000001.json", serde_json::to_string(&record("0badcafe")).unwrap()),
            ("00000002.json", "{".into()),
            ("00000003.json", {
                other["version"] = 2.into();
                other.to_string()
            }),
            ("../etc.json", String::new()),
        ] {
            let _ = fs::write(dir.path().join(name.trim_start_matches("../")), text);
        }
        let said: Vec<String> =
            store.list().unwrap().into_iter().map(|record| record.unwrap_err().to_string()).collect();
        assert!(said[0].contains("its id is not") && said[2].contains("another version"), "{said:?}");
        assert_eq!(said.len(), 4);
        assert!(!is_id("../../ab") && !is_id("0BADCAFE") && is_id("0badcafe"));
    }
}
