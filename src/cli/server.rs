//! Starting a server in the background: this program again, with arguments that make it serve.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use anyhow::Context;

use super::secret;
use crate::codec::slot_key::Secret;

/// What the serving process writes when the mount is ready.
pub(super) const READY: &[u8] = b"ready";

/// How a server started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// It serves, as this process.
    Ready(u32),
    /// It ended with this exit code, and has told on standard error why.
    Ended(i32),
}

/// Starts this program with these arguments as a server, waits until it is ready, and leaves it alone. It gets the secret through a pipe.
pub(super) fn start(
    words: impl IntoIterator<Item = OsString>,
    secret: Option<&Secret>,
) -> anyhow::Result<Start> {
    let program = std::env::current_exe().context("cannot find this program to start its server")?;
    let mut child = Command::new(program)
        .args(words)
        .arg("--serve")
        // Others need not see it in its environment for as long as it runs.
        .env_remove("COPAL_PASSPHRASE")
        .env_remove("COPAL_PASSPHRASE_FD")
        .env_remove("COPAL_NEW_PASSPHRASE")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the server")?;
    if let Some(mut stdin) = child.stdin.take() {
        // If the server has died already, its exit code says so below.
        let _ = secret::send(secret, &mut stdin);
    }
    let mut said = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(READY.len() as u64).read_to_end(&mut said)?;
    }
    if said == READY {
        return Ok(Start::Ready(child.id()));
    }
    let status = child.wait()?;
    Ok(Start::Ended(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))))
}
