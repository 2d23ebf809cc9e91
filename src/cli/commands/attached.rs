//! `copal attached`.

use serde_json::json;

use super::attach::store;
use super::detach::records;
use crate::attach::host::{boot_id, servers};
use crate::attach::state::Record;
use crate::cli::args::AttachedArgs;
use crate::cli::output;

pub(in crate::cli) fn run(args: &AttachedArgs) -> anyhow::Result<()> {
    let store = store();
    let records = records(&store)?;
    if args.json {
        let all: Vec<_> = records.iter().map(document).collect();
        return output::json(&json!({ "attached": all }));
    }
    if records.is_empty() {
        return Ok(());
    }
    let head = ["ID", "ARCHIVE", "TIME", "DIRECTORY", "STATE"].map(str::to_owned).to_vec();
    let row = |record: &Record| {
        let archive = &record.archive;
        let directory = record.directory.display().to_string();
        vec![
            record.id.clone(),
            archive.name.clone(),
            archive.time.clone(),
            directory,
            state(record).to_owned(),
        ]
    };
    output::table(&std::iter::once(head).chain(records.iter().map(row)).collect::<Vec<_>>(), &[])
}

/// What an attach is in, for people and for programs.
fn state(record: &Record) -> &'static str {
    if boot_id().is_ok_and(|boot| boot != record.boot) {
        return "gone with a reboot; detach removes its directories";
    }
    if !record.complete {
        return "incomplete; detach takes it down";
    }
    let serves = |server: &crate::attach::state::Process| servers::process(server.pid) == Some(*server);
    match &record.server {
        Some(server) if !serves(server) => "its server has died; detach takes it down",
        _ if record.overlay => "attached, with an overlay",
        _ => "attached",
    }
}

fn document(record: &Record) -> serde_json::Value {
    let mut document = json!({ "state": state(record) });
    if let (Some(all), Ok(serde_json::Value::Object(fields))) =
        (document.as_object_mut(), serde_json::to_value(record))
    {
        all.extend(fields);
    }
    document
}
