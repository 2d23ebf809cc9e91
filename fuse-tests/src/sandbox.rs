//! A private place for one test: a repository, a state directory, files and mountpoints.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use copal::codec::slot_key::Secret;
use copal::image::Image;
use copal::image::reader::ImageReader;
use copal::repository::Repository;
use copal::repository::archives::Archive;
use copal::repository::unlock::Locked;
use copal::storage::local::LocalStorage;
use serde_json::Value;
use tempfile::TempDir;

use crate::binary::copal;
use crate::mounted::{Mount, Place};
use crate::noise::write_sparse;
use crate::process::{run, tool};

/// The passphrase of encrypted sandboxes.
const PASSPHRASE: &str = "grün ist die Heide";
/// What the library's own reader may keep in memory.
const READER_CACHE: usize = 8 << 20;

/// A test's own place. It goes when it and all mounts made in it are gone.
#[derive(Debug)]
pub struct Sandbox {
    place: Arc<Place>,
    encrypted: bool,
}

/// What a test writes of an archive, with [`Sandbox::create`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Archiving<'a> {
    /// The archive's name.
    pub name: &'a str,
    /// Its sources, each `[MEMBER=]PATH`.
    pub sources: &'a [&'a OsStr],
    /// Further arguments.
    pub args: &'a [&'a str],
}

impl Sandbox {
    /// With an encrypted repository.
    #[must_use]
    pub fn new() -> Self {
        Self::with(true)
    }

    /// With a repository that is not encrypted: a little faster, where the test is about something else.
    #[must_use]
    pub fn plain() -> Self {
        Self::with(false)
    }

    /// Without a repository: the test makes its own.
    #[must_use]
    pub fn bare() -> Self {
        Self::empty(false)
    }

    fn empty(encrypted: bool) -> Self {
        // The kernel's mount table shows paths without links.
        let parent = std::env::temp_dir().canonicalize().expect("the system's temporary directory");
        let dir = TempDir::with_prefix_in("copal-test-", parent).expect("temporary directory");
        Self { place: Arc::new(Place::new(dir)), encrypted }
    }

    fn with(encrypted: bool) -> Self {
        let sandbox = Self::empty(encrypted);
        let how = if encrypted { "passphrase" } else { "none" };
        run(sandbox.copal().args(["init", "--encryption", how]).arg(sandbox.repository()));
        sandbox
    }

    /// A path in the sandbox.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// The repository's directory.
    #[must_use]
    pub fn repository(&self) -> PathBuf {
        self.path("repo")
    }

    /// The repository with what stands behind `::`.
    #[must_use]
    pub fn reference(&self, archive: &str) -> String {
        format!("{}::{archive}", self.repository().display())
    }

    /// The program, with this sandbox's environment and no other's.
    #[must_use]
    pub fn copal(&self) -> Command {
        let mut command = Command::new(copal());
        self.set_environment(&mut command);
        command
    }

    /// Sets what the program takes from the environment.
    pub fn set_environment(&self, command: &mut Command) {
        let ours = std::env::vars_os().map(|(name, _)| name);
        for name in ours.filter(|name| name.to_string_lossy().starts_with("COPAL_")) {
            command.env_remove(name);
        }
        command.env("COPAL_STATE_DIR", self.path("state"));
        if self.encrypted {
            command.env("COPAL_PASSPHRASE", PASSPHRASE);
        }
    }

    /// Runs the program, which must succeed; returns its standard output.
    ///
    /// # Panics
    /// If it fails.
    pub fn run(&self, args: &[&str]) -> String {
        String::from_utf8(run(self.copal().args(args)).stdout).expect("output is text")
    }

    /// Runs the program, which must fail with exit code 2; returns its standard error.
    ///
    /// # Panics
    /// If it does not.
    pub fn fails(&self, args: &[&str]) -> String {
        let output = self.copal().args(args).output().expect("copal runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "copal {args:?} should fail: {said}");
        said
    }

    /// Writes bytes as a sparse file.
    #[must_use]
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        write_sparse(&path, bytes);
        path
    }

    /// Makes an archive; returns what `copal create --json` says of it.
    ///
    /// # Panics
    /// If that fails.
    pub fn create(&self, what: Archiving<'_>) -> Value {
        let mut command = self.copal();
        command.args(["create", "--json"]).args(what.args).arg(self.reference(what.name)).args(what.sources);
        serde_json::from_slice(&run(&mut command).stdout).expect("one JSON document")
    }

    /// Makes an archive of one source.
    ///
    /// # Panics
    /// If that fails.
    pub fn back_up(&self, name: &str, source: &Path) -> Value {
        self.create(Archiving { name, sources: &[source.as_os_str()], ..Archiving::default() })
    }

    /// Makes an archive of bytes.
    ///
    /// # Panics
    /// If that fails.
    pub fn back_up_bytes(&self, name: &str, bytes: &[u8]) -> Value {
        let file = self.file(&format!("{name}.source"), bytes);
        self.back_up(name, &file)
    }

    /// Makes an archive of bytes that stands for a moment.
    ///
    /// # Panics
    /// If that fails.
    pub fn back_up_at(&self, name: &str, time: &str, bytes: &[u8]) -> Value {
        let file = self.file(&format!("{name}.source"), bytes);
        self.create(Archiving { name, sources: &[file.as_os_str()], args: &["--timestamp", time] })
    }

    /// Restores an archive of one member to a new file.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn extract(&self, archive: &str) -> PathBuf {
        let target = self.path(&format!("{archive}.extracted"));
        run(self.copal().arg("extract").arg(self.reference(archive)).arg(&target));
        target
    }

    /// A new directory to mount on.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn mountpoint(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).expect("mkdir");
        path
    }

    /// Mounts the whole repository on `mnt`.
    #[must_use]
    pub fn mount(&self) -> Mount {
        self.mount_with("mnt", None, &[])
    }

    /// Mounts on a directory, a name or an archive if one is given, served in the foreground.
    ///
    /// # Panics
    /// If that fails, with what the server said.
    #[must_use]
    pub fn mount_with(&self, on: &str, archive: Option<&str>, args: &[&str]) -> Mount {
        let what =
            archive.map_or_else(|| self.repository().display().to_string(), |name| self.reference(name));
        let mut command = self.copal();
        command.args(["mount", "-f"]).args(args).arg(what);
        let directory = self.mountpoint(on);
        command.arg(&directory);
        Mount::start(self.place.clone(), directory, command)
    }

    /// Mounts the repository with a command that has arguments and an environment of its own; its server, if it ends instead.
    ///
    /// # Errors
    /// The server that ended.
    pub fn try_mount(&self, mut command: Command, on: &str) -> Result<Mount, Mount> {
        let directory = self.mountpoint(on);
        command.args(["mount", "-f"]).arg(self.repository()).arg(&directory);
        Mount::try_start(self.place.clone(), directory, command)
    }

    /// Mounts a repository that lies elsewhere.
    ///
    /// # Panics
    /// If that fails, with what the server said.
    #[must_use]
    pub fn mount_elsewhere(&self, repository: &Path, on: &str, args: &[&str]) -> Mount {
        let directory = self.mountpoint(on);
        let mut command = self.copal();
        command.args(["mount", "-f"]).args(args).arg(repository).arg(&directory);
        Mount::start(self.place.clone(), directory, command)
    }

    /// Mounts as a user does: the command returns and leaves a server behind.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn mount_in_background(&self, on: &str, args: &[&str]) -> Mount {
        let directory = self.mountpoint(on);
        let mut command = self.copal();
        run(command.arg("mount").args(args).arg(self.repository()).arg(&directory));
        Mount::adopt(self.place.clone(), directory)
    }

    /// Takes the mount on a directory, and the process that serves it, into a guard.
    ///
    /// # Panics
    /// If nothing is mounted there.
    #[must_use]
    pub fn adopt(&self, directory: PathBuf) -> Mount {
        Mount::adopt(self.place.clone(), directory)
    }

    /// The repository as the library opens it.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn open(&self) -> Arc<Repository> {
        let storage = LocalStorage::open(&self.repository()).expect("open");
        let secret = self.encrypted.then(|| Secret::Passphrase(PASSPHRASE.to_owned().into()));
        Arc::new(Locked::read(Arc::new(storage)).expect("config").unlock(secret.as_ref()).expect("unlock"))
    }

    /// The newest archive of a name, its first image, and a reader for it.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn image(&self, name: &str) -> (Archive, Image, ImageReader) {
        let repository = self.open();
        let archives = repository.archives().expect("archives");
        let archive =
            archives.into_iter().rfind(|archive| archive.name.as_str() == name).expect("the archive");
        let record = repository.record(archive.id()).expect("record");
        let image = Image::of(&record.members[0], repository.config().span_shift);
        (archive, image, ImageReader::new(repository, READER_CACHE))
    }

    /// Where an image's spans and chunks begin and end.
    ///
    /// # Panics
    /// If its maps cannot be read.
    #[must_use]
    pub fn edges(&self, name: &str) -> Vec<u64> {
        let (_, image, reader) = self.image(name);
        let span = 1 << image.span_shift;
        let mut edges: Vec<u64> = vec![image.size];
        for number in 0..image.size.div_ceil(span) {
            let base = number * span;
            edges.push(base);
            let map = reader.maps().span(&image, number).expect("map");
            let extents = map.iter().flat_map(|map| &map.map.extents);
            edges.extend(extents.flat_map(|extent| [base + u64::from(extent.offset), base + extent.end()]));
        }
        edges.sort_unstable();
        edges.dedup();
        edges
    }

    /// The names and SHA-256 hashes of all files of the repository.
    ///
    /// # Panics
    /// If they cannot be read.
    #[must_use]
    pub fn digest(&self) -> String {
        let files = files_below(&self.repository());
        tool("sha256sum", &files.iter().map(|path| path.as_os_str()).collect::<Vec<_>>())
    }

    /// Bytes in the files of the repository.
    ///
    /// # Panics
    /// If they cannot be listed.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        files_below(&self.repository()).iter().map(|path| fs::metadata(path).expect("stat").len()).sum()
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

/// All regular files below a directory.
///
/// # Panics
/// If it cannot be listed.
#[must_use]
pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).expect("list") {
            let entry = entry.expect("entry");
            if entry.file_type().expect("type").is_dir() {
                waiting.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}
