//! A small filesystem of its own in a mount namespace of its own; needs root.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::support::{COPAL, Place, Run};

/// A mount that only its own processes see, and that ends with the last of them, even if the tests are killed.
pub(crate) struct Space<'a> {
    place: &'a Place,
    holder: Child,
}

impl<'a> Space<'a> {
    /// Runs `mount` (a shell script) in a new namespace, in the place's directory.
    pub(crate) fn new(place: &'a Place, mount: &str) -> Self {
        let script = format!("{mount}; echo ready; exec cat");
        let mut run = place.run(Command::new("unshare"));
        run = run.args(["--mount", "--propagation", "private", "sh", "-euc", &script]);
        let mut holder = run.stdin(Stdio::piped()).stderr(Stdio::inherit()).spawn();
        let mut said = String::new();
        BufReader::new(holder.stdout.as_mut().expect("a pipe")).read_line(&mut said).expect("read");
        assert_eq!(said, "ready\n", "cannot mount");
        Self { place, holder }
    }

    fn enter(&self, program: &str) -> Run {
        let pid = self.holder.id().to_string();
        let run = self.place.run(Command::new("nsenter")).args(["--mount", "--target", &pid, "sh", "-euc"]);
        run.arg("cd \"$1\"; shift; exec \"$@\"").arg("sh").arg(self.place.path("")).arg(program)
    }

    /// The program in this namespace.
    pub(crate) fn copal(&self, args: &str) -> Run {
        self.enter(COPAL).args(args.split_whitespace())
    }

    pub(crate) fn shell(&self, script: &str) -> Run {
        self.enter("sh").args(["-euc", script])
    }

    /// A file of the namespace, seen from outside.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        let inside = self.place.path(name);
        PathBuf::from(format!("/proc/{}/root{}", self.holder.id(), inside.display()))
    }
}

impl Drop for Space<'_> {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}
