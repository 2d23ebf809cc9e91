//! One file: its content, a link to where it is already, or what stands for a device.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ftruncate, linkat, makedev, mknodat, openat, symlinkat};
use rustix::io::Errno;

use super::directory::{Directory, descend};
use super::links::{Links, Turn};
use super::tree::Run;
use super::{Error, PIECE, attributes, count};
use crate::filesystem::{self, Content, Kind, Metadata, Node};
use crate::task::Stopped;

/// Something that is to be copied into a directory.
pub(super) struct Job<'r> {
    pub(super) directory: Arc<Directory<'r>>,
    /// Its name to be.
    pub(super) name: Vec<u8>,
    pub(super) node: Node,
    /// Its path in the image.
    pub(super) shown: Vec<u8>,
}

/// Why one file was not copied.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error(transparent)]
    Source(#[from] filesystem::Error),
    #[error("cannot write it")]
    Target(#[from] io::Error),
}

/// Tells those who wait for a file that it is there, or that it is not.
struct Turned<'l> {
    links: &'l Links,
    node: Node,
    count: u32,
    path: Option<Vec<u8>>,
}

impl Drop for Turned<'_> {
    fn drop(&mut self) {
        self.links.done(self.node, self.path.take(), self.count);
    }
}

/// Copies one.
pub(super) fn copy(run: &Run<'_>, job: &Job<'_>, buffer: &mut Vec<u8>) -> Result<(), Failure> {
    run.stop.check()?;
    let metadata = run.filesystem.metadata(job.node)?;
    count(&run.counts.streams, metadata.streams.len() as u64);
    match metadata.kind {
        Kind::Directory => {
            Err(filesystem::Error::Damaged { what: "a directory is called a file by its name" }.into())
        }
        Kind::File if metadata.links > 1 => linked(run, job, &metadata, buffer),
        Kind::File => file(run, job, &metadata, buffer).map(drop),
        Kind::Link => link(run, job, &metadata),
        kind if !run.options.devices => {
            count(&run.counts.skipped, 1);
            run.teller.skipped(&job.shown, kind);
            Ok(())
        }
        kind => special(run, job, &metadata, kind),
    }
}

/// A file with several names: the first that is met is copied.
fn linked(run: &Run<'_>, job: &Job<'_>, metadata: &Metadata, buffer: &mut Vec<u8>) -> Result<(), Failure> {
    match run.links.turn(job.node) {
        Turn::Copy => {
            let mut turned = Turned { links: &run.links, node: job.node, count: metadata.links, path: None };
            turned.path = Some(file(run, job, metadata, buffer)?);
            Ok(())
        }
        Turn::Link(path) => match hard_link(run, job, &path) {
            // The destination may know no such links, or allow no more of them.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                file(run, job, metadata, buffer).map(drop)
            }
            linked => Ok(linked?),
        },
    }
}

fn hard_link(run: &Run<'_>, job: &Job<'_>, path: &[u8]) -> io::Result<()> {
    count(&run.counts.hard_links, 1);
    if run.options.dry_run {
        return Ok(());
    }
    let (above, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&path[..0], path),
    };
    let from = descend(run.root()?, above)?;
    let into = job.directory.fd()?;
    let done = job.directory.publish(&job.name, &job.shown, |temporary| {
        Ok(linkat(&from, OsStr::from_bytes(name), into, temporary, AtFlags::empty())?)
    });
    if done.is_err() {
        run.counts.hard_links.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
    done.map(drop)
}

/// Copies a regular file. Returns its path in the destination.
fn file(run: &Run<'_>, job: &Job<'_>, metadata: &Metadata, buffer: &mut Vec<u8>) -> Result<Vec<u8>, Failure> {
    let content = run.filesystem.open(job.node)?;
    if run.options.dry_run {
        count_file(run, &content);
        return Ok(Vec::new());
    }
    let directory = job.directory.fd()?;
    let mut failed = None;
    let published = job.directory.publish(&job.name, &job.shown, |temporary| {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(directory, temporary, flags, Mode::RUSR | Mode::WUSR)?;
        if let Err(failure) = fill(run, &fd, &content, buffer) {
            failed = Some(failure);
            return Err(io::ErrorKind::Other.into());
        }
        attributes::set(run, fd.as_fd(), job.node, metadata, &job.shown);
        Ok(())
    });
    if let Some(failure) = failed {
        return Err(failure);
    }
    let ((), name) = published?;
    count(&run.counts.files, 1);
    Ok(job.directory.path_of(&name))
}

fn count_file(run: &Run<'_>, content: &Content) {
    count(&run.counts.files, 1);
    let mut at = 0;
    while let Some(data) = content.next_data(at) {
        at = data.end;
        count(&run.counts.bytes, data.end - data.start);
    }
}

/// Writes data where it belongs; what is a hole stays one.
fn fill(run: &Run<'_>, fd: &OwnedFd, content: &Content, buffer: &mut Vec<u8>) -> Result<(), Failure> {
    let (mut at, mut written) = (0, 0);
    while let Some(data) = content.next_data(at) {
        run.stop.check()?;
        // Pieces end at the same places of the file, so that no block is read twice.
        let end = data.end.min((data.start / PIECE + 1) * PIECE);
        buffer.resize(usize::try_from(end - data.start).unwrap_or(0), 0);
        run.filesystem.read(content, data.start, buffer)?;
        let mut done = 0;
        while done < buffer.len() {
            done += rustix::io::retry_on_intr(|| {
                rustix::io::pwrite(fd, &buffer[done..], data.start + done as u64)
            })
            .map_err(io::Error::from)?;
        }
        count(&run.counts.bytes, end - data.start);
        run.monitor.advanced(end - data.start, 0);
        (at, written) = (end, end);
    }
    if written < content.len() {
        ftruncate(fd, content.len()).map_err(io::Error::from)?;
    }
    Ok(())
}

fn link(run: &Run<'_>, job: &Job<'_>, metadata: &Metadata) -> Result<(), Failure> {
    let target = run.filesystem.target(job.node)?;
    if !run.options.dry_run {
        let fd = job.directory.fd()?;
        job.directory.publish(&job.name, &job.shown, |temporary| {
            symlinkat(OsStr::from_bytes(&target), fd, temporary)
                .map_err(|error| unknown_link(error, &target))?;
            attributes::set_at(run, fd, temporary, job.node, metadata, &job.shown);
            Ok(())
        })?;
    }
    count(&run.counts.links, 1);
    Ok(())
}

/// What is said where the destination knows no symbolic links.
fn unknown_link(error: Errno, target: &[u8]) -> io::Error {
    match error {
        Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP => {
            let target = String::from_utf8_lossy(target);
            io::Error::other(format!("the destination has no symbolic links; it leads to {target:?}"))
        }
        error => error.into(),
    }
}

fn special(run: &Run<'_>, job: &Job<'_>, metadata: &Metadata, kind: Kind) -> Result<(), Failure> {
    let (of, device) = match kind {
        Kind::Character(major, minor) => (FileType::CharacterDevice, makedev(major, minor)),
        Kind::Block(major, minor) => (FileType::BlockDevice, makedev(major, minor)),
        Kind::Socket => (FileType::Socket, 0),
        _ => (FileType::Fifo, 0),
    };
    if !run.options.dry_run {
        let fd = job.directory.fd()?;
        job.directory.publish(&job.name, &job.shown, |temporary| {
            mknodat(fd, temporary, of, Mode::RUSR | Mode::WUSR, device).map_err(|error| {
                match (error, kind) {
                    (Errno::PERM, Kind::Character(..) | Kind::Block(..)) => {
                        io::Error::other("it is a device, which only root can make, and not everywhere")
                    }
                    (error, _) => error.into(),
                }
            })?;
            attributes::set_at(run, fd, temporary, job.node, metadata, &job.shown);
            Ok(())
        })?;
    }
    count(&run.counts.specials, 1);
    Ok(())
}

impl Failure {
    /// What ends the whole run, or else the reason for which this file is not copied.
    pub(super) fn judge(self, run: &Run<'_>) -> Result<String, Error> {
        match self {
            Self::Stopped(stopped) => Err(stopped.into()),
            Self::Source(error) => Ok(error.told()),
            Self::Target(error) => run.judge("write to", error),
        }
    }
}
