//! Volume groups: given new names and ids, activated, and released again by LVM's own programs.
//!
//! Each of them is told which devices there are (`--devices`), so that it neither sees the host's groups nor is in doubt between two copies of one.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::super::plan::Access;
use super::super::system::Volume;
use super::super::{Error, Result};
use super::programs;

/// LVM's reports in JSON, with one row for each thing.
#[derive(Deserialize)]
struct Report {
    report: Vec<Rows>,
}

#[derive(Deserialize)]
struct Rows {
    #[serde(default)]
    pv: Vec<PhysicalRow>,
    #[serde(default)]
    lv: Vec<LogicalRow>,
}

#[derive(Deserialize)]
struct PhysicalRow {
    pv_name: PathBuf,
    vg_name: String,
}

#[derive(Deserialize)]
struct LogicalRow {
    lv_name: String,
    lv_dm_path: PathBuf,
    lv_active: String,
}

/// Runs one of LVM's programs on these devices alone.
fn run(program: &'static str, devices: &[PathBuf], args: &[&str]) -> Result<Vec<u8>> {
    let mut all: Vec<OsString> = vec!["--devices".into(), comma_separated(devices)];
    all.extend(args.iter().map(OsString::from));
    programs::run(program, &all.iter().map(OsString::as_os_str).collect::<Vec<&OsStr>>())
}

fn comma_separated(devices: &[PathBuf]) -> OsString {
    devices.iter().map(|device| device.as_os_str()).collect::<Vec<_>>().join(OsStr::new(","))
}

fn parse(program: &'static str, text: &[u8]) -> Result<Vec<Rows>> {
    let report: Report = serde_json::from_slice(text)
        .map_err(|error| Error::Program { program, said: format!("its report makes no sense: {error}") })?;
    Ok(report.report)
}

pub(super) fn groups(devices: &[PathBuf]) -> Result<Vec<(String, Vec<PathBuf>)>> {
    let said = run("pvs", devices, &["--reportformat", "json", "-o", "pv_name,vg_name"])?;
    let mut groups: Vec<(String, Vec<PathBuf>)> = Vec::new();
    for row in parse("pvs", &said)?.into_iter().flat_map(|rows| rows.pv) {
        if row.vg_name.is_empty() {
            continue;
        }
        match groups.iter_mut().find(|(name, _)| *name == row.vg_name) {
            Some((_, devices)) => devices.push(row.pv_name),
            None => groups.push((row.vg_name, vec![row.pv_name])),
        }
    }
    Ok(groups)
}

pub(super) fn import(name: &str, devices: &[PathBuf], access: Access) -> Result<Vec<Volume>> {
    let mut args = vec!["--basevgname".to_owned(), name.to_owned()];
    args.extend(devices.iter().map(|device| device.display().to_string()));
    run("vgimportclone", devices, &args.iter().map(String::as_str).collect::<Vec<_>>())?;
    // It fails if it could not activate all; what is active is of use.
    let read_only = format!("activation {{ read_only_volume_list = [ \"{name}\" ] }}");
    let config: &[&str] = if access == Access::Read { &["--config", &read_only] } else { &[] };
    let activated = run("vgchange", devices, &[config, &["--activate", "y", name]].concat());
    let said = run("lvs", devices, &["--reportformat", "json", "-o", "lv_name,lv_dm_path,lv_active", name])?;
    let rows = parse("lvs", &said)?.into_iter().flat_map(|rows| rows.lv);
    let active = rows.filter(|row| row.lv_active == "active");
    let volumes: Vec<_> = active.map(|row| Volume { name: row.lv_name, device: row.lv_dm_path }).collect();
    match activated {
        Err(error) if volumes.is_empty() => Err(error),
        Err(error) => {
            log::warn!("some volumes of {name} are not active: {error}");
            Ok(volumes)
        }
        Ok(_) => Ok(volumes),
    }
}

/// Makes an active volume writable.
pub(super) fn let_write(name: &str, devices: &[PathBuf], volume: &Volume) -> Result<()> {
    // What it is activated as depends on the configuration, and here nothing of it is changed.
    run("lvchange", devices, &["--refresh", &format!("{name}/{}", volume.name)]).map(drop)
}

/// The nodes of a group's active volumes. Device mapper doubles hyphens in names, and puts one between group and volume.
fn nodes(name: &str) -> Vec<PathBuf> {
    let prefix = format!("{}-", name.replace('-', "--"));
    let entries = std::fs::read_dir("/dev/mapper").into_iter().flatten().flatten();
    let is_of = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.strip_prefix(&prefix).is_some_and(|rest| !rest.starts_with('-'))
    };
    entries.map(|entry| entry.path()).filter(is_of).collect()
}

/// The groups of active volumes whose names begin so, which nodes of device mapper tell: group and volume with a dash between, and two for each dash in either.
pub(super) fn active(prefix: &str) -> Vec<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/dev/mapper").into_iter().flatten().flatten() {
        found.extend(group_of(&entry.file_name().to_string_lossy()).filter(|name| name.starts_with(prefix)));
    }
    found.into_iter().collect()
}

fn group_of(node: &str) -> Option<String> {
    let node = node.replace("--", "/");
    let (group, _) = node.split_once('-')?;
    Some(group.replace('/', "-"))
}

pub(super) fn release(name: &str, devices: &[PathBuf]) -> Result<bool> {
    if nodes(name).is_empty() {
        return Ok(true);
    }
    match run("vgchange", devices, &["--activate", "n", name]) {
        Ok(_) => return Ok(true),
        Err(error @ Error::Missing { .. }) => return Err(error),
        Err(error) => log::debug!("{error}"),
    }
    // Its metadata cannot be read any more, as when the server was killed: device mapper needs none.
    for node in nodes(name) {
        if let Err(error) = programs::run("dmsetup", &["remove".as_ref(), node.as_os_str()]) {
            log::debug!("{error}");
        }
    }
    Ok(nodes(name).is_empty() && !Path::new("/dev").join(name).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_told_from_their_volumes() {
        for (node, group) in [
            ("copal_0badcafe_vg0-root", Some("copal_0badcafe_vg0")),
            ("copal_0badcafe_my--group-a--b", Some("copal_0badcafe_my-group")),
            ("control", None),
        ] {
            assert_eq!(group_of(node).as_deref(), group, "{node}");
        }
    }
}
