//! Trees: one thread walks through directories and makes them, others copy what is in them.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use rustix::fs::Mode;
use rustix::io::Errno;

use super::contents::{Job, copy};
use super::directory::Directory;
use super::links::Links;
use super::{Counts, Error, Options, Summary, Teller, count};
use crate::filesystem::path::Place;
use crate::filesystem::{self, Entry, Filesystem, Kind, Node};
use crate::task::{Monitor, Stop, workers};

/// Threads beyond one per core: while some wait for storage or for the target, others open chunks.
const EXTRA_THREADS: usize = 2;
/// Files that wait at most. Each may hold a directory open.
const QUEUE: usize = 64;
/// How deep a tree may be. Each directory on the way is held open.
const MAX_DEPTH: usize = 800;

/// Where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goal {
    /// A directory that exists.
    pub directory: PathBuf,
    /// The name there of the one thing that is copied. Without it everything has its own, and the root of a filesystem none: what is in it comes right into the directory.
    pub name: Option<Vec<u8>>,
    /// A directory that nothing is copied into where it lies below, by its device and inode: the repository.
    pub closed: Option<(u64, u64)>,
}

/// What all threads of a run share.
pub(super) struct Run<'r> {
    pub(super) filesystem: &'r dyn Filesystem,
    pub(super) options: Options,
    pub(super) stop: &'r Stop,
    pub(super) monitor: &'r dyn Monitor,
    pub(super) teller: &'r dyn Teller,
    pub(super) counts: Counts,
    pub(super) links: Links,
    /// Files that this run made, by device and inode, if it may replace others.
    pub(super) made: Mutex<HashSet<(u64, u64)>>,
    pub(super) umask: u16,
    pub(super) closed: Option<(u64, u64)>,
    root: Option<File>,
    path: &'r Path,
    is_over: AtomicBool,
    error: Mutex<Option<Error>>,
}

impl Run<'_> {
    /// The directory that all is made in.
    pub(super) fn root(&self) -> io::Result<BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        self.root.as_ref().map(AsFd::as_fd).ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// Tells that something is not copied.
    pub(super) fn fail(&self, shown: &[u8], why: &str) {
        count(&self.counts.failed, 1);
        self.teller.failed(shown, why);
    }

    /// What the destination's errors mean: the end of the run, or a reason for which one file is not copied.
    pub(super) fn judge(&self, action: &'static str, error: io::Error) -> Result<String, Error> {
        let path = self.path.to_owned();
        match Errno::from_io_error(&error) {
            Some(Errno::NOSPC | Errno::DQUOT | Errno::ROFS | Errno::IO | Errno::MFILE | Errno::NFILE) => {
                Err(Error::Target { action, path, source: error })
            }
            Some(Errno::EXIST) if self.options.force => {
                Ok("a directory or another file of this image has that name there".to_owned())
            }
            Some(Errno::EXIST) => Ok("it exists there; --force replaces files".to_owned()),
            _ => Ok(format!("cannot write it: {error}")),
        }
    }

    /// Ends the run; the first reason counts.
    fn end(&self, error: Error) {
        self.is_over.store(true, Ordering::Relaxed);
        self.error.lock().get_or_insert(error);
    }

    fn is_over(&self) -> bool {
        if let Err(stopped) = self.stop.check() {
            self.end(stopped.into());
        }
        self.is_over.load(Ordering::Relaxed)
    }

    fn work(&self, queue: &Receiver<Job<'_>>) {
        let mut buffer = Vec::new();
        for job in queue {
            if self.is_over() {
                continue;
            }
            let Err(failure) = copy(self, &job, &mut buffer) else { continue };
            match failure.judge(self) {
                Ok(why) => self.fail(&job.shown, &why),
                Err(error) => self.end(error),
            }
        }
    }
}

/// Copies what is at these places.
///
/// # Errors
/// [`Error`]; what was copied before stays, and each file of it is whole.
pub fn restore(
    filesystem: &dyn Filesystem,
    places: &[Place],
    goal: &Goal,
    options: Options,
    stop: &Stop,
    monitor: &dyn Monitor,
    teller: &dyn Teller,
) -> Result<Summary, Error> {
    let target = |source: io::Error| Error::Target { action: "open", path: goal.directory.clone(), source };
    let root = if options.dry_run { None } else { Some(File::open(&goal.directory).map_err(target)?) };
    let run = Run {
        filesystem,
        options,
        stop,
        monitor,
        teller,
        counts: Counts::default(),
        links: Links::default(),
        made: Mutex::default(),
        umask: umask(),
        closed: goal.closed,
        root,
        path: &goal.directory,
        is_over: AtomicBool::new(false),
        error: Mutex::default(),
    };
    let directory = Arc::new(Directory::open(&run, &goal.directory).map_err(target)?);
    copy_all(&run, places, goal, &directory);
    drop(directory);
    let summary = run.counts.summary();
    match run.error.into_inner() {
        Some(error) => Err(error),
        None => Ok(summary),
    }
}

/// Which permissions nobody gets unasked.
fn umask() -> u16 {
    // There is no way to ask for it alone.
    let umask = rustix::process::umask(Mode::RWXG | Mode::RWXO);
    rustix::process::umask(umask);
    u16::try_from(umask.as_raw_mode() & 0o777).unwrap_or(0o077)
}

/// Walks, with threads that copy.
fn copy_all<'r>(run: &'r Run<'r>, places: &[Place], goal: &Goal, directory: &Arc<Directory<'r>>) {
    std::thread::scope(|scope| {
        let (send, queue) = bounded(QUEUE);
        let threads: Vec<_> = (0..workers() + EXTRA_THREADS)
            .map(|_| {
                let queue = queue.clone();
                scope.spawn(move || run.work(&queue))
            })
            .collect();
        drop(queue);
        Walk { run, send, seen: HashSet::new(), stack: Vec::new() }.all(places, goal, directory);
        for thread in threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

/// A directory of the image whose names are gone through.
struct Frame<'r> {
    directory: Arc<Directory<'r>>,
    /// Its path in the image.
    shown: Vec<u8>,
    entries: std::vec::IntoIter<Entry>,
}

fn names(entries: &std::vec::IntoIter<Entry>) -> impl Iterator<Item = &[u8]> + Clone {
    entries.as_slice().iter().map(|entry| &entry.name[..])
}

struct Walk<'r> {
    run: &'r Run<'r>,
    send: Sender<Job<'r>>,
    /// Directories that were met. None is copied twice, however the image is knotted.
    seen: HashSet<Node>,
    stack: Vec<Frame<'r>>,
}

impl<'r> Walk<'r> {
    fn all(mut self, places: &[Place], goal: &Goal, directory: &Arc<Directory<'r>>) {
        if goal.name.is_none() {
            directory.expect(places.iter().filter_map(|place| Some(&place.names.last()?[..])));
        }
        for place in places {
            if self.run.is_over() {
                return;
            }
            let name = goal.name.as_ref().or(place.names.last());
            let shown = place.path();
            match name {
                Some(name) => {
                    let entry = Entry { name: name.clone(), node: place.node, is_directory: None };
                    self.entry(directory, entry, shown);
                }
                None => self.root(directory, place.node, shown),
            }
            self.walk();
        }
    }

    /// What is in the root comes right into the destination.
    fn root(&mut self, directory: &Arc<Directory<'r>>, node: Node, shown: Vec<u8>) {
        if !self.run.options.recursive {
            self.run.fail(&shown, "it is a directory; give -r to copy it with all below it");
        } else if self.seen.insert(node) {
            match self.list(node) {
                Ok(entries) => {
                    directory.expect(names(&entries));
                    self.stack.push(Frame { directory: directory.clone(), shown, entries });
                }
                Err(error) => self.run.fail(&shown, &error.told()),
            }
        }
    }

    fn walk(&mut self) {
        while let Some(frame) = self.stack.last_mut() {
            if self.run.is_over() {
                self.stack.clear();
                return;
            }
            let Some(entry) = frame.entries.next() else {
                self.stack.pop();
                continue;
            };
            let slash: &[u8] = if frame.shown.ends_with(b"/") { b"" } else { b"/" };
            let shown = [&frame.shown, slash, &entry.name].concat();
            let directory = frame.directory.clone();
            self.entry(&directory, entry, shown);
        }
    }

    /// Names in the order of their nodes, which is about that of the disk.
    fn list(&self, node: Node) -> filesystem::Result<std::vec::IntoIter<Entry>> {
        let mut entries = self.run.filesystem.list(node)?;
        entries.retain(|entry| self.run.options.own || !self.run.filesystem.is_own(entry.node));
        entries.sort_by_key(|entry| entry.node);
        Ok(entries.into_iter())
    }

    fn entry(&mut self, directory: &Arc<Directory<'r>>, entry: Entry, shown: Vec<u8>) {
        if entry.is_directory != Some(false) {
            match self.run.filesystem.metadata(entry.node) {
                Ok(found) if found.kind == Kind::Directory => {
                    return self.directory(directory, &entry, shown, found);
                }
                Ok(_) => {}
                Err(error) => return self.run.fail(&shown, &error.told()),
            }
        }
        let job = Job { directory: directory.clone(), name: entry.name, node: entry.node, shown };
        if self.send.send(job).is_err() {
            // Nobody is left to take it.
            self.run.is_over.store(true, Ordering::Relaxed);
        }
    }

    fn directory(
        &mut self,
        above: &Arc<Directory<'r>>,
        entry: &Entry,
        shown: Vec<u8>,
        metadata: filesystem::Metadata,
    ) {
        if !self.run.options.recursive {
            return self.run.fail(&shown, "it is a directory; give -r to copy it with all below it");
        }
        if self.stack.len() >= MAX_DEPTH {
            return self.run.fail(&shown, "it lies too deep; copy it by itself");
        }
        if !self.seen.insert(entry.node) {
            return self.run.fail(&shown, "the filesystem is damaged: the directory has two places");
        }
        let entries = match self.list(entry.node) {
            Ok(entries) => entries,
            Err(error) => return self.run.fail(&shown, &error.told()),
        };
        count(&self.run.counts.streams, metadata.streams.len() as u64);
        match above.make(&entry.name, &shown, entry.node, metadata) {
            Ok(made) => {
                made.expect(names(&entries));
                self.stack.push(Frame { directory: Arc::new(made), shown, entries });
            }
            Err(error) => match self.run.judge("make a directory in", error) {
                Ok(why) => self.run.fail(&shown, &why),
                Err(error) => self.run.end(error),
            },
        }
    }
}
