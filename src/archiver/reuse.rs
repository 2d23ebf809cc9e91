//! What a create need not read, since an earlier archive has it: files that did not change, and what a map of changed blocks does not name.

use std::sync::Arc;

use super::base::Base;
use super::create::{CreateOptions, OpenSource};
use super::error::{Error, Result};
use crate::format::limits::MAX_SOURCE_PATH;
use crate::format::name::ArchiveName;
use crate::format::record::{ArchiveRecord, Member};
use crate::id::ArchiveId;
use crate::repository::Repository;
use crate::repository::archives::{chain, list_archives};
use crate::repository::session::host_name;
use crate::source::{ChangedMap, Seekable, Source, SourceKind};

/// What somebody else knows of a source: where it changed since an archive was made of it.
#[derive(Debug, Clone)]
pub struct ChangedBlocks {
    /// What changed.
    pub map: ChangedMap,
    /// The archive since which it changed.
    pub base: ArchiveId,
    /// The state of the source that the map counts from, in place of what the map says itself.
    pub base_token: Option<String>,
    /// Take over what the map does not name without comparing a sample.
    pub trust: bool,
}

/// A member of which an earlier archive gave at least a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reused {
    /// The member's name.
    pub member: ArchiveName,
    /// Which archive.
    pub archive: ArchiveId,
    /// Bytes of data that were taken over.
    pub data: u64,
    /// Whether it is an unchanged file of which nothing was read.
    pub is_unchanged: bool,
}

/// Gives each source the archive that has parts of it, if there is one.
pub(super) fn find_bases(
    repository: &Arc<Repository>,
    options: &CreateOptions,
    sources: &mut [OpenSource],
) -> Result<()> {
    if let Some(changed) = &options.changed {
        if options.skip_unused {
            let reason = "blocks that are not in use can be left out only of what is read".into();
            return Err(Error::Base { base: changed.base, reason });
        }
        return mapped(repository, changed, sources);
    }
    let may_be_unchanged = |source: &OpenSource| settled(source).is_some();
    if options.force_read || !sources.iter().any(may_be_unchanged) {
        return Ok(());
    }
    let Some((archive, record)) = newest(repository, &options.name)? else { return Ok(()) };
    // Devices and inodes are numbers of one machine.
    if record.host != host_name() {
        return Ok(());
    }
    for source in sources {
        let Some(seekable) = settled(source) else { continue };
        let member = record.members.iter().find(|member| member.name == source.name);
        // What has more than the blocks in use is not what is asked for, nor is what has less than all.
        let is_alike = |member: &&Member| options.skip_unused == (member.left_out > 0);
        if let Some(member) = member.filter(is_alike).filter(|member| is_unchanged(member, seekable)) {
            source.base = Some(Base::new(repository, archive, member, seekable.len(), Vec::new()));
        }
    }
    Ok(())
}

/// The file of a source whose state tells its content.
fn settled(source: &OpenSource) -> Option<&Seekable> {
    match &source.source {
        Source::Seekable(seekable) if seekable.settled_state().is_some() => Some(seekable),
        _ => None,
    }
}

/// Whether a member was made of this file as it is now.
fn is_unchanged(member: &Member, file: &Seekable) -> bool {
    let path = file.path_bytes();
    member.file.is_some()
        && member.file == file.settled_state()
        && member.size == file.len()
        && member.source.kind == SourceKind::File.as_str()
        && member.source.path == path[..path.len().min(MAX_SOURCE_PATH)]
        && member.bad.is_empty()
}

/// The newest archive of a name that is sure to stay. One that cannot be read is no reason to make no new one.
pub(super) fn newest(
    repository: &Repository,
    name: &ArchiveName,
) -> Result<Option<(ArchiveId, ArchiveRecord)>> {
    let archives = list_archives(repository.objects())?;
    let mut sure = archives.iter().rev().filter(|archive| !archive.unconfirmed && !archive.doubtful);
    let Some(archive) = sure.find(|archive| archive.name == *name) else { return Ok(None) };
    match repository.record(archive.id()) {
        Ok(record) => Ok(Some((archive.id(), record))),
        Err(error) => {
            log::warn!("archive #{} cannot be read, so all is read again: {}", archive.id(), chain(&error));
            Ok(None)
        }
    }
}

/// Takes over what a map does not name.
fn mapped(repository: &Arc<Repository>, changed: &ChangedBlocks, sources: &mut [OpenSource]) -> Result<()> {
    let unusable = |reason: &str| Error::Base { base: changed.base, reason: reason.into() };
    let [source] = sources else {
        return Err(unusable("a map of changed blocks is of one source; back up each disk by itself"));
    };
    let Source::Seekable(seekable) = &source.source else {
        return Err(unusable("a stream is read from front to back; name a file or a block device"));
    };
    let record = repository.record(changed.base)?;
    let archives = list_archives(repository.objects())?;
    let is_sure = archives.iter().any(|archive| archive.id() == changed.base && !archive.unconfirmed);
    if !is_sure {
        return Err(unusable("it is unconfirmed or was deleted; name another one"));
    }
    let same_name = record.members.iter().find(|member| member.name == source.name);
    let only = || (record.members.len() == 1).then(|| &record.members[0]);
    let Some(member) = same_name.or_else(only) else {
        return Err(unusable("it has several members, none of this name; name it with MEMBER=SOURCE"));
    };
    if member.left_out > 0 {
        return Err(unusable(
            "blocks that its filesystems did not use were left out, so it is not what the map counts from; back up without the map",
        ));
    }
    check_origin(changed, &member.token)?;
    let spans = changed.map.spans(seekable.len())?.to_vec();
    let mut base = Base::new(repository, changed.base, member, seekable.len(), spans);
    if !changed.trust {
        base.draw_sample()?;
    }
    source.base = Some(base);
    Ok(())
}

/// Whether a map counts from the state that the base was made of, as far as both say.
fn check_origin(changed: &ChangedBlocks, token: &str) -> Result<()> {
    let unusable = |reason: String| Err(Error::Base { base: changed.base, reason });
    if let (Some(given), Some(said)) = (&changed.base_token, &changed.map.base)
        && given != said
    {
        return unusable(format!(
            "the map says that it counts from {said:?}, and --base-token is {given:?}; leave out --base-token"
        ));
    }
    let origin = changed.base_token.as_ref().or(changed.map.base.as_ref());
    match origin {
        Some(origin) if origin == token => Ok(()),
        // The map's own word alone, which nothing can be held against.
        Some(_) if token.is_empty() && changed.base_token.is_none() => Ok(()),
        Some(origin) if token.is_empty() => unusable(format!(
            "it was made without --source-token, so nothing tells that it is of {origin:?}; leave out --base-token if it is"
        )),
        Some(origin) => unusable(format!(
            "it is of state {token:?}, but the map counts from {origin:?}; make a map from {token:?}, or name the archive of {origin:?}"
        )),
        None if token.is_empty() => Ok(()),
        None => unusable(format!(
            "it is of state {token:?}, and the map does not say which state it counts from; if it is that one, say so with --base-token"
        )),
    }
}
