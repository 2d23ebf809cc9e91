//! Starting a server: this program again, with arguments that make it serve, and an allocator that keeps little.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::Context;

use super::secret;
use crate::codec::slot_key::Secret;

/// What the serving process writes when the mount is ready.
pub(super) const READY: &[u8] = b"ready";

/// What settings of glibc's allocator are called, of which it takes notice only when a program starts. Other C libraries take none.
const ALLOCATOR: &str = "GLIBC_TUNABLES";
/// Set in a process that was begun with them.
const ANEW: &str = "COPAL_SERVER";
/// Dozens of threads share two heaps, large buffers go back to the system, and so do ends of heaps that are free. By itself it makes a heap for each
/// thread, and keeps in each as much as the largest buffer that was ever given back.
const KEEPS_LITTLE: &str =
    "glibc.malloc.arena_max=2:glibc.malloc.mmap_threshold=262144:glibc.malloc.trim_threshold=131072";

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
    let mut command = Command::new(program);
    set_allocator(&mut command);
    let mut child = command
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

/// Begins this process anew, as what it is, with an allocator that keeps little. It serves without, if it must.
pub(super) fn begin_anew() {
    let mut words = std::env::args_os();
    let (Ok(program), Some(own)) = (std::env::current_exe(), words.next()) else { return };
    // Its name says so if it was replaced meanwhile, and if a loader was begun with it; what is set may be taken from a program with more rights
    // than its user's.
    let is_itself = program.exists() && program.file_name() == Path::new(&own).file_name();
    if std::env::var_os(ANEW).is_some() || !is_itself {
        return;
    }
    let mut command = Command::new(program);
    set_allocator(&mut command);
    let error = command.arg0(own).args(words).exec();
    log::debug!("the allocator of this process is as it is: {error}");
    // To begin another program had this signal end it.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGPIPE, Arc::default());
}

/// Beside what somebody has set.
fn set_allocator(command: &mut Command) {
    let mut settings = std::env::var_os(ALLOCATOR).unwrap_or_default();
    if !settings.is_empty() {
        settings.push(":");
    }
    settings.push(KEEPS_LITTLE);
    command.env(ALLOCATOR, settings).env(ANEW, "1");
}
