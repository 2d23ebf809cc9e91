//! Archives that `copal attach` has attached, held by guards.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::process::run;
use crate::sandbox::{Sandbox, files_below};

/// Attaches of one sandbox. What is left of them is taken down with the guard.
#[derive(Debug)]
pub struct Attaches<'a> {
    sandbox: &'a Sandbox,
}

impl<'a> Attaches<'a> {
    /// With records in the sandbox.
    #[must_use]
    pub fn of(sandbox: &'a Sandbox) -> Self {
        Self { sandbox }
    }

    /// Where the records are.
    #[must_use]
    pub fn records(&self) -> PathBuf {
        self.sandbox.path("attached")
    }

    /// The program with arguments.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.sandbox.copal();
        command.env("COPAL_ATTACH_STATE", self.records()).args(args);
        command
    }

    /// The repository with what stands behind `::`.
    #[must_use]
    pub fn reference(&self, archive: &str) -> String {
        self.sandbox.reference(archive)
    }

    /// `copal attach --json` of an archive, which may end with warnings.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn attach(&self, archive: &str, args: &[&str]) -> Value {
        let reference = self.sandbox.reference(archive);
        let output = self.output(&[&["attach", "--json", &reference], args].concat());
        assert!(matches!(output.status.code(), Some(0 | 1)), "{}", said(&output));
        serde_json::from_slice(&output.stdout).expect("one JSON document")
    }

    /// Runs the program to its end.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("copal starts")
    }

    /// Runs the program, which must succeed without a warning.
    ///
    /// # Panics
    /// If it does not.
    pub fn run(&self, args: &[&str]) -> String {
        String::from_utf8(run(&mut self.command(args)).stdout).expect("text")
    }

    /// Runs the program, which must fail; returns what it said.
    ///
    /// # Panics
    /// If it does not fail.
    #[must_use]
    pub fn fails(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert_eq!(output.status.code(), Some(2), "copal {args:?}: {}", said(&output));
        said(&output)
    }

    /// What `copal attached --json` lists.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn listed(&self) -> Vec<Value> {
        let all: Value = serde_json::from_str(&self.run(&["attached", "--json"])).expect("JSON");
        all["attached"].as_array().expect("a list").clone()
    }
}

impl Drop for Attaches<'_> {
    fn drop(&mut self) {
        let output = self.output(&["detach", "--all"]);
        if !output.status.success() && !std::thread::panicking() {
            panic!("not all is taken down: {}", said(&output));
        }
    }
}

/// What a program wrote to standard error.
#[must_use]
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A partition of what `copal attach --json` says, by its name.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn part<'a>(attached: &'a Value, name: &str) -> &'a Value {
    let parts = attached["partitions"].as_array().expect("a list");
    parts.iter().find(|part| part["name"] == name).unwrap_or_else(|| panic!("no {name}: {attached}"))
}

/// Where a partition is mounted.
///
/// # Panics
/// If it is not.
#[must_use]
pub fn mounted(attached: &Value, name: &str) -> PathBuf {
    let part = part(attached, name);
    part["mounted"].as_str().unwrap_or_else(|| panic!("{name} is not mounted: {part}")).into()
}

/// Options and source of the newest mount on a path.
///
/// # Panics
/// If nothing is mounted there.
#[must_use]
pub fn mount_line(path: &Path) -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("mount table");
    let wanted = format!(" {} ", path.display());
    table.lines().rev().find(|line| line.contains(&wanted)).expect("a mount").to_owned()
}

/// Everything that attaches make on a machine: loop devices and mounts of theirs, and their directories.
#[must_use]
pub fn traces(id: &str) -> Vec<String> {
    let own = format!("/run/copal/attach/{id}");
    let mut found = Vec::new();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found.extend(table.lines().filter(|line| line.contains(&own)).map(str::to_owned));
    for device in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let file = fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
        if file.starts_with(&own) {
            found.push(format!("{} on {file}", device.file_name().to_string_lossy()));
        }
    }
    let rule = format!("/run/udev/rules.d/12-copal-attach-{id}.rules");
    found.extend([own, rule].into_iter().filter(|path| Path::new(path).exists()));
    found
}

/// What all bytes of a repository are, file by file.
///
/// # Panics
/// If one cannot be read.
#[must_use]
pub fn contents(sandbox: &Sandbox) -> Vec<(PathBuf, Vec<u8>)> {
    files_below(&sandbox.repository())
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).expect("read")))
        .collect()
}
