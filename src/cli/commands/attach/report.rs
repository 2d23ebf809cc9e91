//! What `copal attach` says: a table, or JSON.

use serde_json::json;

use crate::attach::plan::Disk;
use crate::attach::setup::{Outcome, Shown};
use crate::attach::state::Record;
use crate::cli::args::AttachArgs;
use crate::cli::output::{self, size};

/// Tells what was attached, and warns of what could not be.
pub(super) fn tell(
    args: &AttachArgs,
    record: &Record,
    outcomes: &[Outcome],
    disks: &[Disk],
) -> anyhow::Result<()> {
    let handle = if args.no_mount { record.id.clone() } else { record.directory.display().to_string() };
    let told = show(args, record, outcomes, disks).and_then(|()| match args.json {
        true => Ok(()),
        false => output::lines([String::new(), format!("'copal detach {handle}' takes it all down again.")]),
    });
    told.map_err(|error| {
        anyhow::anyhow!(
            "{error:#}; all is attached, but cannot be shown: 'copal detach {handle}' takes it down"
        )
    })?;
    for outcome in outcomes {
        warn(outcome);
    }
    Ok(())
}

fn warn(outcome: &Outcome) {
    match &outcome.shown {
        Shown::Failed(reason) => log::warn!("{} is not mounted: {reason}", outcome.name),
        Shown::Mounted { note: Some(note), .. } if note.starts_with("JOURNAL") => {
            log::warn!("{}: {note}", outcome.name);
        }
        _ => {}
    }
}

/// The table, or the document.
pub(super) fn show(
    args: &AttachArgs,
    record: &Record,
    outcomes: &[Outcome],
    disks: &[Disk],
) -> anyhow::Result<()> {
    if args.json { output::json(&document(record, outcomes, disks)) } else { print(outcomes, disks) }
}

fn print(outcomes: &[Outcome], disks: &[Disk]) -> anyhow::Result<()> {
    let head = ["PARTITION", "FILESYSTEM", "LABEL", "SIZE", "USED", "WHERE"].map(str::to_owned).to_vec();
    let rows: Vec<Vec<String>> =
        std::iter::once(head).chain(outcomes.iter().map(|outcome| row(outcome, disks.len() > 1))).collect();
    output::table(&rows, &[3, 4])?;
    let notes = disks
        .iter()
        .flat_map(|disk| disk.notes.iter().map(|note| format!("note on {}: {note}", disk.member)));
    output::lines(notes)
}

fn row(outcome: &Outcome, several: bool) -> Vec<String> {
    let used = match &outcome.shown {
        Shown::Mounted { used: Some(used), .. } => size(*used),
        _ => String::new(),
    };
    let name = if several { format!("{}/{}", outcome.member, outcome.name) } else { outcome.name.clone() };
    let filesystem = outcome.filesystem.clone().unwrap_or_else(|| "-".into());
    vec![name, filesystem, outcome.label.clone(), size(outcome.len), used, place(outcome)]
}

fn place(outcome: &Outcome) -> String {
    let device = outcome.device.as_ref().map(|device| device.display().to_string()).unwrap_or_default();
    match &outcome.shown {
        Shown::Mounted { path, note: Some(note), .. } => format!("{}  ({note})", path.display()),
        Shown::Mounted { path, .. } => path.display().to_string(),
        Shown::Device(note) if note.is_empty() => device,
        Shown::Device(note) => format!("{device}  ({note})"),
        Shown::Not(reason) => format!("not mounted: {reason}"),
        Shown::Failed(reason) => format!("NOT MOUNTED: {reason}"),
    }
}

fn document(record: &Record, outcomes: &[Outcome], disks: &[Disk]) -> serde_json::Value {
    let parts = outcomes.iter().map(|outcome| {
        let (path, used, why) = match &outcome.shown {
            Shown::Mounted { path, used, note } => (Some(path), *used, note.clone()),
            Shown::Device(why) => (None, None, Some(why.clone()).filter(|why| !why.is_empty())),
            Shown::Not(why) | Shown::Failed(why) => (None, None, Some(why.clone())),
        };
        json!({
            "member": outcome.member, "number": outcome.number, "name": outcome.name,
            "filesystem": outcome.filesystem, "label": outcome.label, "size": outcome.len, "used": used,
            "device": outcome.device, "mounted": path, "note": why,
            "failed": matches!(outcome.shown, Shown::Failed(_)),
        })
    });
    json!({
        "id": record.id, "directory": record.directory, "archive": record.archive, "overlay": record.overlay,
        "partitions": parts.collect::<Vec<_>>(),
        "notes": disks.iter().flat_map(|disk| &disk.notes).collect::<Vec<_>>(),
    })
}
