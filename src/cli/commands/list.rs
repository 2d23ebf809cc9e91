//! `copal list`.

use serde_json::json;

use crate::cli::args::ListCommandArgs;
use crate::cli::location::Location;
use crate::cli::output::{self, rfc3339, size, time};
use crate::cli::repository::Opened;
use crate::repository::archives::{Archive, LostArchive};
use crate::repository::reference::Reference;

pub(in crate::cli) fn run(ListCommandArgs { list: args, deleted }: &ListCommandArgs) -> anyhow::Result<()> {
    let location = Location::parse(args.location.as_deref())?;
    let opened = Opened::at(&location.repository, &args.secrets)?;
    opened.warn_of_lost();
    let archives = if *deleted { &opened.deleted } else { &opened.archives };
    let shown = match location.reference.as_deref() {
        None => archives.iter().collect(),
        Some(text) => {
            let reference = Reference::parse(text)?;
            if reference.is_one_archive() {
                vec![reference.resolve(archives)?]
            } else {
                reference.matches(archives)?
            }
        }
    };
    if args.json {
        let archives: Vec<_> = shown.iter().map(|archive| summary(archive)).collect();
        let lost: Vec<_> = opened.lost.iter().map(lost).collect();
        return output::json(
            &json!({ "repository": opened.repository.id(), "archives": archives, "lost": lost }),
        );
    }
    let head = ["NAME", "TIME (UTC)", "SIZE", "DATA", "ID", ""].map(str::to_owned).to_vec();
    let rows: Vec<_> = std::iter::once(head).chain(shown.into_iter().map(row)).collect();
    output::table(&rows, &[2, 3])
}

/// An archive for programs.
pub(in crate::cli) fn summary(archive: &Archive) -> serde_json::Value {
    let members = archive.entry.members.iter();
    let members: Vec<_> = members
        .map(|member| json!({ "name": member.name, "size": member.size, "data": member.data }))
        .collect();
    let mut summary = json!({
        "id": archive.id(), "name": archive.name, "time": rfc3339(archive.time()), "size": archive.size(),
        "data": archive.data(), "comment": archive.comment, "tags": archive.tags, "members": members,
        "unconfirmed": archive.unconfirmed, "doubtful": archive.doubtful,
        "origin": archive.entry.origin,
    });
    if let Some(deletion) = &archive.deleted {
        summary["deleted"] = json!({ "time": rfc3339(deletion.time), "host": deletion.host });
    }
    summary
}

/// An archive that cannot be shown, for programs.
fn lost(lost: &LostArchive) -> serde_json::Value {
    let mut document = json!({ "id": lost.id, "reason": lost.reason });
    if let Some(known) = &lost.known {
        document["name"] = json!(known.name);
        document["time"] = json!(rfc3339(known.time()));
    }
    document
}

fn row(archive: &Archive) -> Vec<String> {
    let mut notes = Vec::new();
    if archive.unconfirmed {
        notes.push("UNCONFIRMED".to_owned());
    }
    if archive.doubtful {
        notes.push("STATE DAMAGED".to_owned());
    }
    if let Some(deletion) = &archive.deleted {
        notes.push(format!(
            "deleted {} on {}",
            time(deletion.time),
            output::escaped(deletion.host.as_bytes())
        ));
    }
    if archive.entry.members.len() > 1 {
        notes.push(format!("{} members", archive.entry.members.len()));
    }
    notes.extend(archive.tags.iter().map(|tag| format!("[{tag}]")));
    if !archive.comment.is_empty() {
        notes.push(output::escaped(archive.comment.as_bytes()));
    }
    vec![
        archive.name.to_string(),
        time(archive.time()),
        size(archive.size()),
        size(archive.data()),
        format!("#{:.8}", archive.id().to_string()),
        notes.join(" "),
    ]
}
