//! `copal info`: of a repository, or of an archive with its partitions.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::json;

use super::list::summary;
use crate::cli::args::ListArgs;
use crate::cli::disk::table;
use crate::cli::location::Location;
use crate::cli::output::{self, escaped, rfc3339, size, time};
use crate::cli::repository::Opened;
use crate::format::config::{ChunkerKind, EncryptionMode};
use crate::format::record::{ArchiveRecord, Member};
use crate::image::Image;
use crate::image::reader::ImageReader;
use crate::partition::{Partition, Table, TableKind, parts, remarks};
use crate::repository::archives::Archive;
use crate::repository::liveness::{ListedSession, list_sessions};
use crate::repository::reference::Reference;

/// Memory for looking at images, in bytes.
const CACHE: usize = 32 << 20;
/// How many places that could not be read are shown.
const SHOWN_UNREAD: usize = 10;

pub(in crate::cli) fn run(args: &ListArgs) -> anyhow::Result<()> {
    let location = Location::parse(args.location.as_deref())?;
    let opened = Opened::at(&location.repository, &args.secrets)?;
    match location.reference.as_deref() {
        None => repository(args, &opened),
        Some(text) => archive(args, &opened, Reference::parse(text)?.resolve(&opened.archives)?),
    }
}

fn repository(args: &ListArgs, opened: &Opened) -> anyhow::Result<()> {
    opened.warn_of_lost();
    let repository = &opened.repository;
    let config = repository.config();
    let storage = repository.objects().storage();
    let mut packs = (0u64, 0u64);
    for folder in ["packs", "maps"] {
        for listed in storage.list(folder)? {
            packs = (packs.0 + 1, packs.1 + listed.len);
        }
    }
    let encrypted = repository.header().encryption == EncryptionMode::Slots;
    let chunker = match config.chunker.kind {
        ChunkerKind::FastCdc => format!("fastcdc, {} on average", size(config.chunker.avg.into())),
        ChunkerKind::Fixed => format!("fixed, {}", size(config.chunker.avg.into())),
    };
    let data: u64 = opened.archives.iter().map(Archive::data).sum();
    let sessions = list_sessions(repository.objects())?;
    if args.json {
        return output::json(&json!({
            "repository": repository.id(), "created": rfc3339(config.created), "encrypted": encrypted,
            "chunker": config.chunker, "span_size": 1u64 << config.span_shift, "pack_size": config.pack_size,
            "archives": opened.archives.len(), "data": data, "packs": packs.0, "stored": packs.1,
            "sessions": sessions.iter().map(session_document).collect::<Vec<_>>(),
        }));
    }
    let lines = [
        format!("Repository   {} in {}", repository.id(), storage.describe()),
        format!("Made         {}", time(config.created)),
        format!("Encryption   {}", if encrypted { "AES-256-GCM-SIV" } else { "none" }),
        format!("Chunks       {chunker}, in spans of {}", size(1 << config.span_shift)),
        format!("Archives     {} with {} in data", opened.archives.len(), size(data)),
        format!("Stored       {} in {} packs", size(packs.1), packs.0),
    ];
    output::lines(lines.into_iter().chain(sessions.iter().map(session_line)))
}

/// A running writer, or what one that died has left.
fn session_line(listed: &ListedSession) -> String {
    let ListedSession { id, session, liveness } = listed;
    let Some(session) = session else { return format!("Session      #{id}, which cannot be read") };
    format!(
        "Session      {}: process {} on {} since {}, last heard of {}, {}",
        escaped(session.what.as_bytes()),
        session.pid,
        escaped(session.host.as_bytes()),
        time(session.started),
        time(session.heartbeat),
        liveness.as_str()
    )
}

fn session_document(listed: &ListedSession) -> serde_json::Value {
    let ListedSession { id, session, liveness } = listed;
    let mut document = json!({ "id": id, "state": session.as_ref().map(|_| liveness.as_str()) });
    if let Some(session) = session {
        document["what"] = json!(session.what);
        document["host"] = json!(session.host);
        document["pid"] = json!(session.pid);
        document["boot"] = json!(session.boot);
        document["started"] = json!(rfc3339(session.started));
        document["heartbeat"] = json!(rfc3339(session.heartbeat));
    }
    document
}

/// What a walk over an image's maps finds.
#[derive(Debug, Default)]
struct Stored {
    chunks: u64,
    bytes: u64,
}

fn archive(args: &ListArgs, opened: &Opened, archive: &Archive) -> anyhow::Result<()> {
    let record = opened.repository.record(archive.id())?;
    let reader = Arc::new(ImageReader::new(opened.repository.clone(), CACHE));
    let stored = stored(&reader, &record)?;
    let remarked = |member: &Member| {
        let mut table = table(&reader, member)?;
        table.notes = remarks(&table, &parts(&table, member.size));
        Some(table)
    };
    let tables: Vec<Option<Table>> = record.members.iter().map(remarked).collect();
    if args.json {
        return output::json(&document(archive, &record, &stored, &tables));
    }
    let stats = record.stats;
    let mut lines = vec![
        format!("Archive      {} #{}", archive.name, archive.id()),
        format!("Time         {}", time(record.time)),
        format!(
            "Took         {:.1} s on {} as {}",
            seconds(&record),
            escaped(record.host.as_bytes()),
            escaped(record.user.as_bytes())
        ),
        format!("Size         {}, of which {} in data", size(record.size()), size(archive.data())),
        format!(
            "Stored       {} in {} chunks (shared with other archives)",
            size(stored.bytes),
            stored.chunks
        ),
        format!(
            "New in it    {} in {} chunks ({} of data)",
            size(stats.new_sealed),
            stats.new_chunks,
            size(stats.new_plain)
        ),
    ];
    let previous = record.previous.map_or("none".to_owned(), |id| format!("#{id}"));
    lines.push(format!("Previous     {previous}"));
    if let Some(origin) = record.origin {
        lines.push(format!("Copy of      #{} in repository {}", origin.archive, origin.repository));
    }
    if !archive.comment.is_empty() {
        lines.push(format!("Comment      {}", escaped(archive.comment.as_bytes())));
    }
    if !archive.tags.is_empty() {
        let tags: Vec<_> = archive.tags.iter().map(ToString::to_string).collect();
        lines.push(format!("Tags         {}", tags.join(", ")));
    }
    if archive.unconfirmed {
        lines.push(
            "UNCONFIRMED  its create has not ended, or died before it could be sure that all chunks stay"
                .into(),
        );
    }
    if archive.doubtful {
        lines.push(
            "DAMAGED      what was said of it later cannot be read: it may have been deleted or renamed; 'delete', 'undelete' or 'rename' say it anew"
                .into(),
        );
    }
    for (member, table) in record.members.iter().zip(&tables) {
        lines.extend(member_lines(member, table.as_ref()));
    }
    output::lines(lines)
}

fn seconds(record: &ArchiveRecord) -> f64 {
    (record.finished - record.started) as f64 / 1e9
}

fn document(
    archive: &Archive,
    record: &ArchiveRecord,
    stored: &Stored,
    tables: &[Option<Table>],
) -> serde_json::Value {
    let mut document = summary(archive);
    let members = record.members.iter().zip(tables).map(|(member, table)| {
        json!({
            "name": member.name, "size": member.size, "data": member.data, "chunks": member.chunks,
            "logical_sector": member.logical_sector, "physical_sector": member.physical_sector,
            "source": { "kind": member.source.kind, "path": escaped(&member.source.path) },
            "partitions": table, "unread": member.bad, "source_token": member.token, "left_out": member.left_out,
        })
    });
    document["members"] = members.collect();
    document["previous"] = json!(record.previous);
    document["host"] = json!(record.host);
    document["user"] = json!(record.user);
    document["seconds"] = json!(seconds(record));
    document["stored"] = json!(stored.bytes);
    document["chunks"] = json!(stored.chunks);
    document["stats"] = json!(record.stats);
    document
}

/// Counts each chunk once.
fn stored(reader: &ImageReader, record: &ArchiveRecord) -> anyhow::Result<Stored> {
    let mut seen = HashMap::new();
    for member in &record.members {
        let image = Image::of(member, reader.repository().config().span_shift);
        let walked = reader.maps().walk(&image, &mut |kind, id, at| {
            if kind == crate::codec::keys::BlobKind::Chunk {
                seen.insert(id, at.sealed_len);
            }
        });
        walked.map_err(|error| anyhow::anyhow!("cannot read the maps of {}: {error}", member.name))?;
    }
    Ok(Stored { chunks: seen.len() as u64, bytes: seen.values().map(|len| u64::from(*len)).sum() })
}

fn member_lines(member: &Member, table: Option<&Table>) -> Vec<String> {
    let mut lines = vec![
        String::new(),
        format!("Member       {}: {}, {} in data", member.name, size(member.size), size(member.data)),
        format!("Source       {} {}", escaped(member.source.kind.as_bytes()), escaped(&member.source.path)),
    ];
    if member.logical_sector > 0 {
        lines.push(format!(
            "Sectors      {} logical, {} physical",
            member.logical_sector, member.physical_sector
        ));
    }
    if !member.token.is_empty() {
        lines.push(format!("State        {}", escaped(member.token.as_bytes())));
    }
    lines.extend(unread_lines(member));
    if member.left_out > 0 {
        lines.push(format!(
            "Left out     {} that its filesystems did not use: zeros here, not byte for byte what the source had there",
            size(member.left_out)
        ));
    }
    let Some(table) = table else { return lines };
    match (table.kind, &table.filesystem) {
        (TableKind::None, None) => lines.push("Partitions   none recognised".into()),
        (TableKind::None, Some(filesystem)) => {
            lines.push(format!("Filesystem   {filesystem}{}", labelled(table.filesystem_label.as_deref())));
        }
        (TableKind::Gpt, _) => lines.push(format!("Partitions   GPT {}", table.disk_id)),
        (TableKind::Mbr, _) => lines.push(format!("Partitions   MBR {}", table.disk_id)),
    }
    lines.extend(table.partitions.iter().map(partition_line));
    lines.extend(table.notes.iter().map(|note| format!("  note: {note}")));
    lines
}

/// What could not be read of a member's source: the first places; JSON has them all.
fn unread_lines(member: &Member) -> Vec<String> {
    if member.bad.is_empty() {
        return Vec::new();
    }
    let bytes = member.bad.iter().map(|(_, len)| len).sum();
    let places = output::count(member.bad.len() as u64, "place");
    let mut lines =
        vec![format!("UNREAD       {} in {places}: could not be read, and are zeros", size(bytes))];
    let shown = member.bad.iter().take(SHOWN_UNREAD);
    lines.extend(shown.map(|(offset, len)| format!("  offset {offset:>13}  {:>10}", size(*len))));
    let left = member.bad.len().saturating_sub(SHOWN_UNREAD);
    if left > 0 {
        lines.push(format!("  and {} more: see --json", output::count(left as u64, "place")));
    }
    lines
}

fn partition_line(partition: &Partition) -> String {
    let kind = if partition.type_name.is_empty() { &partition.type_code } else { &partition.type_name };
    let filesystem = partition.filesystem.as_deref().unwrap_or("nothing recognised");
    let label = partition.filesystem_label.as_deref().or(Some(partition.label.as_str()));
    format!(
        "  {:>2}  offset {:>13}  {:>10}  {filesystem}{}  ({kind})",
        partition.number,
        partition.start,
        size(partition.len),
        labelled(label)
    )
}

fn labelled(label: Option<&str>) -> String {
    label.filter(|label| !label.is_empty()).map(|label| format!(" {label:?}")).unwrap_or_default()
}
