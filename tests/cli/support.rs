//! Runs the program in a place of its own and judges how it ends. Nothing here waits for time to pass.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// The program under test.
pub(crate) const COPAL: &str = env!("CARGO_BIN_EXE_copal");

/// A directory with a home and a state directory of its own; commands run in it, so that tests name files by short relative paths.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("copal-cli-").tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("home")).expect("mkdir");
        Self { dir }
    }

    /// A place with a repository `repo` that is not encrypted.
    pub(crate) fn with_repository() -> Self {
        let place = Self::new();
        place.copal("init repo --encryption none").ok();
        place
    }

    /// A place with such a repository, `disk.img` of 300,000 bytes, and that backed up once as `web01`.
    pub(crate) fn with_archive() -> Self {
        let place = Self::with_repository();
        place.write("disk.img", &noise(1, 300_000));
        place.copal("create repo::web01 disk.img").ok();
        place
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: impl AsRef<Path>, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("write");
    }

    pub(crate) fn read(&self, name: impl AsRef<Path>) -> Vec<u8> {
        let path = self.path(name);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The program with arguments that are separated by blanks.
    pub(crate) fn copal(&self, args: &str) -> Run {
        self.run(Command::new(COPAL)).args(args.split_whitespace())
    }

    /// Another program; the one under test is `$COPAL` to it.
    pub(crate) fn shell(&self, script: &str) -> Run {
        self.run(Command::new("sh")).args(["-euc", script])
    }

    /// Another program in this place.
    pub(crate) fn run(&self, mut command: Command) -> Run {
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"COPAL_"))
        {
            command.env_remove(name);
        }
        command
            .env("COPAL", COPAL)
            .env("COPAL_STATE_DIR", self.path("state"))
            .env("HOME", self.path("home"))
            .env_remove("XDG_STATE_HOME")
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Run { command, input: None }
    }

    /// The names of the archives in `repo`, oldest first.
    pub(crate) fn archives(&self) -> Vec<String> {
        let listed = self.copal("list repo --json").ok().json();
        let name = |archive: &Value| archive["name"].as_str().expect("a name").to_owned();
        listed["archives"].as_array().expect("archives").iter().map(name).collect()
    }

    /// Every file and directory below, with the contents of files.
    pub(crate) fn tree(&self, name: &str) -> Vec<(PathBuf, Option<Vec<u8>>)> {
        tree(&self.path(name))
    }

    /// Whether a create has left a session, in either copy, or a temporary file.
    #[track_caller]
    pub(crate) fn assert_no_leftovers(&self) {
        for folder in ["repo/sessions", "repo/mirror/sessions", "repo/tmp"] {
            let left: Vec<_> = self.tree(folder).into_iter().filter(|(_, bytes)| bytes.is_some()).collect();
            assert!(left.is_empty(), "{folder}: {left:?}");
        }
        let names =
            fs::read_dir(self.dir.path()).expect("read_dir").map(|entry| entry.expect("entry").file_name());
        let left: Vec<_> = names.filter(|name| name.as_encoded_bytes().starts_with(b".copal-")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

pub(crate) fn tree(root: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten() {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                found.push((path.clone(), None));
                open.push(path);
            } else {
                let bytes = fs::read(&path).expect("read");
                found.push((path, Some(bytes)));
            }
        }
    }
    found.sort();
    found
}

/// A program that is about to run.
pub(crate) struct Run {
    command: Command,
    input: Option<Vec<u8>>,
}

impl Run {
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Gives it this as standard input.
    pub(crate) fn input(mut self, bytes: &[u8]) -> Self {
        self.input = Some(bytes.to_vec());
        self
    }

    pub(crate) fn stdin(mut self, from: impl Into<Stdio>) -> Self {
        self.command.stdin(from);
        self
    }

    pub(crate) fn stdout(mut self, to: impl Into<Stdio>) -> Self {
        self.command.stdout(to);
        self
    }

    pub(crate) fn stderr(mut self, to: impl Into<Stdio>) -> Self {
        self.command.stderr(to);
        self
    }

    pub(crate) fn spawn(&mut self) -> Child {
        self.command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", self.command.get_program()))
    }

    pub(crate) fn end(mut self) -> Ended {
        if self.input.is_some() {
            self.command.stdin(Stdio::piped());
        }
        let mut child = self.spawn();
        let feeder = self.input.take().map(|bytes| {
            let mut stdin = child.stdin.take().expect("a pipe");
            // It may stop reading before the end.
            std::thread::spawn(move || drop(stdin.write_all(&bytes)))
        });
        let ended = Ended::of(child.wait_with_output().expect("wait"));
        if let Some(feeder) = feeder {
            feeder.join().expect("join");
        }
        ended
    }

    /// It does what it should and says nothing.
    #[track_caller]
    pub(crate) fn ok(self) -> Ended {
        let ended = self.end();
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{ended}");
        ended
    }

    /// It does what it should, with warnings that hold these words.
    #[track_caller]
    pub(crate) fn warns(self, words: &[&str]) -> Ended {
        let ended = self.end();
        assert_eq!(ended.code, 1, "{ended}");
        assert!(ended.stderr.starts_with("copal: warning: "), "{ended}");
        ended.says(words)
    }

    /// It fails, prints nothing on standard output, and says these words.
    #[track_caller]
    pub(crate) fn fails(self, words: &[&str]) -> Ended {
        let ended = self.end();
        assert_eq!((ended.code, ended.stdout.len()), (2, 0), "{ended}");
        ended.says(words)
    }
}

/// A program that has ended.
pub(crate) struct Ended {
    /// As a shell shows it: 128+N by signal N.
    pub(crate) code: i32,
    /// Whether it ended by a signal rather than by itself.
    pub(crate) killed: bool,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ended {
    #[track_caller]
    pub(crate) fn of(output: Output) -> Self {
        let signal = output.status.signal();
        let code = output.status.code().or(signal.map(|signal| 128 + signal)).expect("it has ended");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let ended = Self { code, killed: signal.is_some(), stdout: output.stdout, stderr };
        assert!(!ended.stderr.contains("panicked") && !ended.stderr.contains("internal error"), "{ended}");
        ended
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).expect("text in UTF-8")
    }

    #[track_caller]
    pub(crate) fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is missing: {self}");
        }
        self
    }

    #[track_caller]
    pub(crate) fn prints(self, words: &[&str]) -> Self {
        let text = self.text();
        for word in words {
            assert!(text.contains(word), "{word:?} is missing: {self}");
        }
        self
    }

    /// Standard output as the one JSON document that it is.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self}"))
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let out = String::from_utf8_lossy(&self.stdout[..self.stdout.len().min(2000)]);
        write!(f, "exit code {}, standard output:\n{out}\nstandard error:\n{}", self.code, self.stderr)
    }
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Makes a sparse file with noise at these offsets.
pub(crate) fn sparse(path: &Path, len: u64, parts: &[(u64, usize)]) {
    use std::os::unix::fs::FileExt;
    let file = File::create(path).expect("create");
    file.set_len(len).expect("set_len");
    for (offset, len) in parts {
        file.write_all_at(&noise(*offset, *len), *offset).expect("write");
    }
}

/// Whether a test that needs something can run here. Says so loudly if not, and fails if it was expected to run.
#[track_caller]
pub(crate) fn can(what: &str, there: bool) -> bool {
    if !there {
        let skipped = format!("SKIPPED {}: it needs {what}", std::panic::Location::caller());
        assert!(std::env::var_os("COPAL_TESTS_MUST_RUN").is_none(), "{skipped}");
        let _ = writeln!(std::io::stderr(), "{skipped}");
    }
    there
}

/// Writes a partition table into `disk.img`; false where the tool for it is missing.
#[track_caller]
pub(crate) fn partitioned(place: &Place, script: &str) -> bool {
    let there = place.shell("PATH=$PATH:/sbin:/usr/sbin command -v sfdisk").end().code == 0;
    if !can("sfdisk", there) {
        return false;
    }
    let mut table = place.shell("PATH=$PATH:/sbin:/usr/sbin sfdisk -q disk.img").stdin(Stdio::piped());
    let mut child = table.spawn();
    child.stdin.take().expect("stdin").write_all(script.as_bytes()).expect("write");
    assert!(child.wait_with_output().expect("wait").status.success());
    true
}

#[track_caller]
pub(crate) fn is_root() -> bool {
    can("root", rustix::process::geteuid().is_root())
}

/// Runs a tool of the system, which must work.
#[track_caller]
pub(crate) fn tool(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
