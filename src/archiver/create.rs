//! Making an archive: the create side of the protocol, around the pipeline.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::earlier::Earlier;
use super::error::{Error, Result};
use super::pipeline::{StoredImage, store_image};
pub use super::span::Resumed;
use super::span::{Store, Writers};
use super::writing::{MAX_PASSES, abandon, lost_packs, publish_packs};
use super::{Monitor, Stop};
use crate::codec::compress::Compression;
use crate::format::config::ChunkerParams;
use crate::format::limits::{MAX_HOST, MAX_SOURCE_PATH};
use crate::format::name::ArchiveName;
use crate::format::record::{ArchiveRecord, Member, SourceInfo};
use crate::id::{ArchiveId, SessionId};
use crate::repository::archives::{chain, list_archives, refresh_catalogue};
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
    let mut sources = open_all(options)?;
    if options.dry_run {
        let earlier = earlier(repository, options);
        let store = new_store(repository, options)?;
        let images = store_all(&store, &mut sources, &earlier, stop, monitor)?;
        let (members, warnings) = finish_sources(sources, &images, stop)?;
        let record = record(repository, options, started, SessionId([0; 16]), members, &store)?;
        return Ok(Created { id: None, record, warnings, resumed: store.counters.resumed() });
    }
    let session = Session::begin(repository, &format!("create {}", options.name))?;
    let mut created =
        session.keep_alive(|| passes(repository, options, &session, sources, started, stop, monitor))?;
    if let Err(error) = session.end() {
        // The archive is confirmed: an error would have it made once more.
        let reason = chain(&error);
        created.warnings.push(format!("the archive is safe, but is shown as unconfirmed for now: {reason}"));
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

/// What the last archive of the name holds, for each member.
fn earlier(repository: &Arc<Repository>, options: &CreateOptions) -> Vec<Option<Earlier>> {
    let members: Vec<&ArchiveName> = options.members.iter().map(|(name, _)| name).collect();
    Earlier::of(repository, &options.name, &members)
}

type OpenSource = (ArchiveName, Source);

fn open_all(options: &CreateOptions) -> Result<Vec<OpenSource>> {
    let open = |(name, spec): &(ArchiveName, SourceSpec)| Ok((name.clone(), Source::open(spec)?));
    options.members.iter().map(open).collect()
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
    let earlier = earlier(repository, options);
    let mut superseded: Option<ArchiveId> = None;
    for _ in 0..MAX_PASSES {
        store.writers = Some(Writers::start(repository)?);
        let images = match store_all(&store, &mut sources, &earlier, stop, monitor) {
            Ok(images) => images,
            Err(error) => return Err(abandon(store.writers.take(), error)),
        };
        let stream = sources.iter().any(|(_, source)| matches!(source, Source::Stream(_)));
        let (members, warnings) = match finish_sources(std::mem::take(&mut sources), &images, stop) {
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
            return Ok(Created { id: Some(id), record, warnings, resumed: store.counters.resumed() });
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
        sources = open_all(options)?;
    }
    Err(Error::NeverConfirmed)
}

fn store_all(
    store: &Store<'_>,
    sources: &mut [OpenSource],
    earlier: &[Option<Earlier>],
    stop: &Stop,
    monitor: &dyn Monitor,
) -> Result<Vec<StoredImage>> {
    let mut images = Vec::with_capacity(sources.len());
    for ((name, source), earlier) in sources.iter_mut().zip(earlier) {
        images.push(store_image(store, source, name.as_str(), earlier.as_ref(), stop, monitor)?);
    }
    Ok(images)
}

/// Learns whether streams were whole and files stayed the same.
fn finish_sources(
    sources: Vec<OpenSource>,
    images: &[StoredImage],
    stop: &Stop,
) -> Result<(Vec<Member>, Vec<String>)> {
    let mut warnings = Vec::new();
    let mut members = Vec::with_capacity(images.len());
    for ((name, source), image) in sources.into_iter().zip(images) {
        let mut path = source.path_bytes().to_vec();
        path.truncate(MAX_SOURCE_PATH);
        // Quoted and escaped: no name can drive a terminal.
        let shown = format!("{:?}", OsStr::from_bytes(&path));
        members.push(Member {
            name,
            size: image.size,
            data: image.data,
            chunks: image.chunks,
            logical_sector: source.logical_sector(),
            physical_sector: source.physical_sector(),
            source: SourceInfo { kind: source.kind().as_str().into(), path },
            root: image.root,
            bad: Vec::new(),
            left_out: 0,
            token: String::new(),
            file: None,
        });
        if source.in_use() {
            warnings.push(format!(
                "{shown} is in use; back up a snapshot of it, or the image may mix several moments"
            ));
        }
        match source {
            Source::Seekable(file) if file.changed_since_open() => {
                warnings
                    .push(format!("{shown} changed while it was read; the image may mix several moments"));
            }
            Source::Seekable(_) => {}
            Source::Stream(stream) => {
                let finished = stream.finish(&|| stop.is_raised());
                stop.check()?;
                finished?;
            }
        }
    }
    Ok((members, warnings))
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
    };
    Ok(record)
}
