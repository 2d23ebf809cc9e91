//! The recipes of docs/recipes.md, run as they stand there.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use fuse_tests::binary::copal;
use fuse_tests::process::wait_until;
use fuse_tests::sandbox::Sandbox;

const PAGE: &str = include_str!("../../../docs/recipes.md");
/// Begins a block of commands on the page.
const FENCE: &str = "```sh recipe\n";

/// The commands of a section of the page, in all its blocks.
fn blocks(heading: &str) -> Vec<&'static str> {
    let title = format!("\n## {heading}\n");
    let (_, section) = PAGE.split_once(&title).unwrap_or_else(|| panic!("no recipe called {heading}"));
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let commands = |block: &'static str| block.split_once("```").expect("the block ends").0;
    section.split(FENCE).skip(1).map(commands).collect()
}

/// A shell in which recipes are followed, as by somebody who pastes one block after the other.
#[derive(Debug)]
pub(crate) struct Shell {
    bash: Child,
    /// Where it says what it did, and that a block is done.
    log: PathBuf,
    done: PathBuf,
}

impl Shell {
    /// Starts root's shell with the program in its path, and this sandbox's passphrase.
    pub(crate) fn new(sandbox: &Sandbox) -> Self {
        Self::of(sandbox, 0)
    }

    /// Starts the shell of a user.
    pub(crate) fn of(sandbox: &Sandbox, user: u32) -> Self {
        let (log, done) = (sandbox.path("shell.log"), sandbox.path("shell/done"));
        let directory = sandbox.mountpoint("shell");
        chown(directory, Some(user), Some(user)).expect("chown");
        let mut shell = Command::new("bash");
        shell.uid(user).gid(user);
        sandbox.set_environment(&mut shell);
        let programs = copal().parent().expect("a directory").to_owned();
        let rest = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([programs].into_iter().chain(std::env::split_paths(&rest)));
        let output = File::create(&log).expect("log");
        let bash = shell
            .env("PATH", path.expect("a search path"))
            .args(["-eux", "-o", "pipefail"])
            .stdin(Stdio::piped())
            .stdout(output.try_clone().expect("clone"))
            .stderr(output)
            .spawn()
            .expect("bash");
        Self { bash, log, done }
    }

    /// Runs one block of a section, with what the page calls by other names given its real ones.
    ///
    /// # Panics
    /// If a command of it fails.
    pub(crate) fn follow(&mut self, heading: &str, block: usize, names: &[(&str, &Path)]) {
        let script = (*blocks(heading).get(block).expect("the section has such a block")).to_owned();
        self.run_with(heading, script, names);
    }

    /// Runs the commands of a block that stand before one that begins with these words.
    ///
    /// # Panics
    /// If a command of it fails.
    pub(crate) fn follow_until(&mut self, heading: &str, block: usize, end: &str) {
        let script = *blocks(heading).get(block).expect("the section has such a block");
        let (script, _) = script.split_once(&format!("\n{end}")).expect("the block has such a command");
        self.run_with(heading, script.to_owned(), &[]);
    }

    fn run_with(&mut self, heading: &str, mut script: String, names: &[(&str, &Path)]) {
        for (name, path) in names {
            script = script.replace(name, path.to_str().expect("a path of text"));
        }
        self.run(heading, &script);
    }

    /// What the shell's user finds in a file.
    pub(crate) fn copy_of(&mut self, file: &Path) -> Vec<u8> {
        let copy = self.done.with_file_name("copy");
        self.run("a copy", &format!("cp '{}' '{}'", file.display(), copy.display()));
        fs::read(copy).expect("read")
    }

    /// Runs commands of a test's own in between.
    pub(crate) fn run(&mut self, what: &str, script: &str) {
        let end = format!("\n: > '{}'\n", self.done.display());
        let input = self.bash.stdin.as_mut().expect("piped");
        input.write_all([script, &end].concat().as_bytes()).expect("bash reads");
        let mut ended = false;
        wait_until("the recipe is done", || {
            ended = matches!(self.bash.try_wait(), Ok(Some(_)) | Err(_));
            ended || self.done.exists()
        });
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        assert!(!ended, "{what}:\n{said}");
        fs::remove_file(&self.done).expect("remove");
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.bash.kill();
        let _ = self.bash.wait();
    }
}
