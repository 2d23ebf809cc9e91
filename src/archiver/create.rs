//! Making an archive: the create side of the protocol, around the pipeline.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::base::Base;
use super::earlier::{Earlier, find_earlier};
use super::error::{Error, Result};
use super::pipeline::{Reading, StoredImage, store_image};
use super::reuse::find_bases;
pub use super::reuse::{ChangedBlocks, Reused};
use super::salvage::ReadErrors;
pub use super::span::Resumed;
use super::span::{Store, Writers};
use super::unused::{Unused, VolumeReport, still_unused, store_used};
use super::writing::{MAX_PASSES, abandon, lost_packs, publish_packs};
use super::{Monitor, Stop};
use crate::codec::compress::Compression;
use crate::format::config::ChunkerParams;
use crate::format::limits::{MAX_BAD_RANGES, MAX_HOST, MAX_SOURCE_PATH};
use crate::format::name::ArchiveName;
use crate::format::record::{ArchiveRecord, Member, SourceInfo};
use crate::id::{ArchiveId, SessionId};
use crate::repository::archives::{chain, list_archives, refresh_catalogue};
use crate::repository::segments;
use crate::repository::session::{Session, host_name};
use crate::repository::{Repository, now};
use crate::source::{Source, SourceSpec};

/// What to put into an archive.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// The archive's name.
    pub name: ArchiveName,
    /// Its members and what they are read from.
    pub members: Vec<(ArchiveName, SourceSpec)>,
    /// What the user says of it.
    pub comment: String,
    /// Tags.
    pub tags: Vec<ArchiveName>,
    /// The moment it stands for, in ns since 1970, UTC; now, if not given.
    pub time: Option<i64>,
    /// How new chunks are compressed.
    pub compression: Compression,
    /// How images are cut; as the repository says, if not given.
    pub chunker: Option<ChunkerParams>,
    /// Only count what would be stored.
    pub dry_run: bool,
    /// What becomes of sources that cannot be read in full.
    pub read_errors: ReadErrors,
    /// Read files that did not change, too.
    pub force_read: bool,
    /// What tells the state of the source, for maps of changed blocks that count from it; empty if nothing does.
    pub source_token: String,
    /// Read only what changed.
    pub changed: Option<ChangedBlocks>,
    /// Leave out blocks that filesystems do not use, where that can be trusted.
    pub skip_unused: bool,
}

/// What was made.
#[derive(Debug, Clone)]
pub struct Created {
    /// The new archive; `None` in a dry run.
    pub id: Option<ArchiveId>,
    /// Its record.
    pub record: ArchiveRecord,
    /// What the user should know although the archive is good.
    pub warnings: Vec<String>,
    /// What was found in packs of creates that did not end.
    pub resumed: Resumed,
    /// What was not read, since an earlier archive has it.
    pub reused: Vec<Reused>,
    /// What became of each volume, if unused blocks were to be left out.
    pub unused: Vec<VolumeReport>,
}

/// A source with what need not be read of it.
#[derive(Debug)]
pub(super) struct OpenSource {
    pub(super) name: ArchiveName,
    pub(super) source: Source,
    /// What parts of it are taken over from.
    pub(super) base: Option<Base>,
    /// What it is likely to resemble.
    pub(super) earlier: Option<Earlier>,
    /// What was left out of it.
    pub(super) unused: Option<Unused>,
}

/// What is known when all sources were read.
#[derive(Debug, Default)]
struct Finished {
    members: Vec<Member>,
    warnings: Vec<String>,
    reused: Vec<Reused>,
    unused: Vec<VolumeReport>,
}

/// Makes an archive. When this returns, it is durable and confirmed. After an error nothing is listed that was not before; packs that were
/// stored stay, for the next create to find and for a compaction to remove.
///
/// # Errors
/// [`Error`].
pub fn create(
    repository: &Arc<Repository>,
    options: &CreateOptions,
    stop: &Stop,
    monitor: &dyn Monitor,
) -> Result<Created> {
    let started = now();
    // Sources first: what is missing or busy is said before anything is written.
    let mut sources = open_all(repository, options)?;
    if options.dry_run {
        let store = new_store(repository, options)?;
        let images = store_all(&store, &mut sources, options, stop, monitor)?;
        let Finished { members, warnings, reused, unused } = finish_sources(sources, images, options, stop)?;
        let record = record(repository, options, started, SessionId([0; 16]), members, &store)?;
        let resumed = store.counters.resumed();
        return Ok(Created { id: None, record, warnings, resumed, reused, unused });
    }
    let session = Session::begin(repository, &format!("create {}", options.name))?;
    let mut created =
        session.keep_alive(|| passes(repository, options, &session, sources, started, stop, monitor))?;
    if let Err(error) = session.end() {
        // The archive is confirmed: an error would have it made once more.
        let reason = chain(&error);
        created.warnings.push(format!("the archive is safe, but is shown as unconfirmed for now: {reason}"));
    }
    if let Err(error) = segments::join(repository.objects()) {
        log::warn!("small segments of the index were not joined: {}", chain(&error));
    }
    if let Err(error) = refresh_catalogue(repository.objects()) {
        log::warn!(
            "the catalogue could not be refreshed: {}; listings are slower until it is",
            chain(&error)
        );
    }
    Ok(created)
}

fn new_store<'a>(repository: &'a Repository, options: &CreateOptions) -> Result<Store<'a>> {
    let chunker = options.chunker.unwrap_or(repository.config().chunker);
    Store::new(repository, &chunker, options.compression)
}

fn open_all(repository: &Arc<Repository>, options: &CreateOptions) -> Result<Vec<OpenSource>> {
    let open = |(name, spec): &(ArchiveName, SourceSpec)| {
        let (name, source) = (name.clone(), Source::open(spec)?);
        if options.skip_unused && matches!(source, Source::Stream(_)) {
            return Err(Error::UnusedInStream { what: name.to_string() });
        }
        Ok(OpenSource { name, source, base: None, earlier: None, unused: None })
    };
    let mut sources = options.members.iter().map(open).collect::<Result<Vec<_>>>()?;
    find_bases(repository, options, &mut sources)?;
    find_earlier(repository, options, &mut sources);
    Ok(sources)
}

/// Stores, publishes and confirms, again if claimed packs disappeared meanwhile.
fn passes(
    repository: &Arc<Repository>,
    options: &CreateOptions,
    session: &Session<'_>,
    mut sources: Vec<OpenSource>,
    started: i64,
    stop: &Stop,
    monitor: &dyn Monitor,
) -> Result<Created> {
    let mut store = new_store(repository, options)?;
    let mut superseded: Option<ArchiveId> = None;
    for _ in 0..MAX_PASSES {
        store.writers = Some(Writers::start(repository)?);
        let images = match store_all(&store, &mut sources, options, stop, monitor) {
            Ok(images) => images,
            Err(error) => return Err(abandon(store.writers.take(), error)),
        };
        let stream = sources.iter().any(|open| matches!(open.source, Source::Stream(_)));
        let finished = finish_sources(std::mem::take(&mut sources), images, options, stop);
        let Finished { members, warnings, reused, unused } = match finished {
            Ok(finished) => finished,
            Err(error) => return Err(abandon(store.writers.take(), error)),
        };
        publish_packs(&mut store)?;
        stop.check()?;
        let record = record(repository, options, started, session.id(), members, &store)?;
        let id = session.publish(&record)?;
        if let Some(first) = superseded.take() {
            session.withdraw(first)?;
        }
        let unconfirmed = session.confirm(&store.claimed.lock())?;
        let lost = lost_packs(repository, &record, &unconfirmed)?;
        if lost.is_empty() {
            let resumed = store.counters.resumed();
            return Ok(Created { id: Some(id), record, warnings, resumed, reused, unused });
        }
        log::warn!(
            "a compaction removed {} packs that this backup relied on; what they held is stored again",
            lost.len()
        );
        if stream {
            return Err(Error::LostClaim { packs: lost.len() });
        }
        superseded = Some(id);
        store.bar(&lost);
        sources = open_all(repository, options)?;
    }
    Err(Error::NeverConfirmed)
}

fn store_all(
    store: &Store<'_>,
    sources: &mut [OpenSource],
    options: &CreateOptions,
    stop: &Stop,
    monitor: &dyn Monitor,
) -> Result<Vec<StoredImage>> {
    let max_bad = MAX_BAD_RANGES / sources.len().max(1);
    let mut images = Vec::with_capacity(sources.len());
    for OpenSource { name, source, base, earlier, unused } in sources {
        let what = name.as_str();
        if let Some(lean) = base.take_if(|_| options.skip_unused) {
            *unused = still_unused(source, what, lean.left_out())?;
            *base = unused.is_some().then_some(lean);
        }
        let (base, earlier, read_errors) = (base.as_ref(), earlier.as_ref(), options.read_errors);
        let reading = Reading { what, read_errors, max_bad, base, earlier, unused: None };
        images.push(if options.skip_unused && base.is_none() {
            let (image, found) = store_used(store, source, reading, stop, monitor)?;
            *unused = Some(found);
            image
        } else {
            store_image(store, source, reading, stop, monitor)?
        });
    }
    Ok(images)
}

/// Learns whether streams were whole and files stayed the same.
fn finish_sources(
    sources: Vec<OpenSource>,
    images: Vec<StoredImage>,
    options: &CreateOptions,
    stop: &Stop,
) -> Result<Finished> {
    let mut finished = Finished::default();
    for (open, image) in sources.into_iter().zip(images) {
        let mut path = open.source.path_bytes().to_vec();
        path.truncate(MAX_SOURCE_PATH);
        // Quoted and escaped: no name can drive a terminal.
        let shown = format!("{:?}", OsStr::from_bytes(&path));
        finished.warnings.extend(unread(&shown, &image)?);
        if let Some(unused) = &open.unused {
            finished.warnings.extend(unused.warning(&shown));
            finished.unused.extend(unused.report(&open.name));
        }
        if open.source.in_use() {
            finished.warnings.push(format!(
                "{shown} is in use; back up a snapshot of it, or the image may mix several moments"
            ));
        }
        let has_changed = matches!(&open.source, Source::Seekable(file) if file.changed_since_open());
        if has_changed {
            finished
                .warnings
                .push(format!("{shown} changed while it was read; the image may mix several moments"));
        }
        finished.reused.extend(open.base.as_ref().and_then(|base| reused(&open.name, base, options)));
        finished.members.push(member(&open, path, image, has_changed, options));
        if let Source::Stream(stream) = open.source {
            let ended = stream.finish(&|| stop.is_raised());
            stop.check()?;
            ended?;
        }
    }
    Ok(finished)
}

fn member(
    open: &OpenSource,
    path: Vec<u8>,
    image: StoredImage,
    has_changed: bool,
    options: &CreateOptions,
) -> Member {
    let source = &open.source;
    // What a map passed over was not read, so the file's state does not vouch for it.
    let was_read = !has_changed && image.bad.is_empty() && options.changed.is_none();
    let file = match source {
        Source::Seekable(file) if was_read => file.settled_state(),
        _ => None,
    };
    Member {
        name: open.name.clone(),
        size: image.size,
        data: image.data,
        chunks: image.chunks,
        logical_sector: source.logical_sector(),
        physical_sector: source.physical_sector(),
        source: SourceInfo { kind: source.kind().as_str().into(), path },
        root: image.root,
        bad: image.bad.into_iter().map(|range| (range.start, range.end - range.start)).collect(),
        left_out: open.unused.as_ref().map_or(0, Unused::bytes),
        token: token(options).to_owned(),
        file,
    }
}

/// What tells the state of the source: what the user says, else what the map leads to.
fn token(options: &CreateOptions) -> &str {
    let target = options.changed.as_ref().and_then(|changed| changed.map.target.as_deref());
    if options.source_token.is_empty() { target.unwrap_or_default() } else { &options.source_token }
}

fn reused(name: &ArchiveName, base: &Base, options: &CreateOptions) -> Option<Reused> {
    let is_unchanged = base.was_all() && options.changed.is_none();
    let (archive, data) = (base.archive(), base.taken());
    (is_unchanged || data > 0).then(|| Reused { member: name.clone(), archive, data, is_unchanged })
}

/// Tells what could not be read, if that is not all there is.
fn unread(shown: &str, image: &StoredImage) -> Result<Option<String>> {
    let bytes: u64 = image.bad.iter().map(|range| range.end - range.start).sum();
    let Some(first) = image.bad.first() else { return Ok(None) };
    if bytes >= image.size {
        return Err(Error::NothingRead { what: shown.into() });
    }
    Ok(Some(format!(
        "{bytes} bytes of {shown} in {} places could not be read and are zeros in the archive, the first at byte {}; 'copal info' lists them",
        image.bad.len(),
        first.start
    )))
}

fn record(
    repository: &Repository,
    options: &CreateOptions,
    started: i64,
    session: SessionId,
    members: Vec<Member>,
    store: &Store<'_>,
) -> Result<ArchiveRecord> {
    let archives = list_archives(repository.objects())?;
    // Not what an earlier pass published, which is about to be withdrawn.
    let mut others = archives.iter().rev().filter(|archive| archive.entry.session != session);
    let previous = others.find(|archive| archive.name == options.name);
    let named = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let user = named.unwrap_or_else(|| format!("uid {}", rustix::process::geteuid().as_raw()));
    log::debug!("{} chunks are where they were in the archive before", store.counters.in_place());
    let record = ArchiveRecord {
        name: options.name.clone(),
        time: options.time.unwrap_or(started),
        started,
        finished: now(),
        host: host_name(),
        user: user.chars().take(MAX_HOST / 4).collect(),
        comment: options.comment.clone(),
        tags: options.tags.clone(),
        previous: previous.map(crate::repository::archives::Archive::id),
        session,
        members,
        stats: store.counters.stats(),
        origin: None,
        chunker: options.chunker.filter(|chunker| *chunker != repository.config().chunker),
    };
    Ok(record)
}
