//! Logical volumes of groups that lie in the images, under fresh names.

use std::path::PathBuf;

use super::super::plan::Then;
use super::super::state::GroupRecord;
use super::super::{Result, chain};
use super::{Made, Outcome, Setup, Shown};
use crate::attach::system::Volume;

/// Imports the groups on all physical volumes, and mounts what is in their volumes.
pub(super) fn set_up(
    setup: &mut Setup<'_>,
    devices: &[Option<Made>],
    outcomes: &mut Vec<Outcome>,
) -> Result<()> {
    let physical: Vec<(usize, PathBuf)> = (setup.plan.parts.iter().zip(devices).enumerate())
        .filter(|(_, (planned, _))| planned.then == Then::Volumes)
        .filter_map(|(at, (_, made))| Some((at, made.clone()?.ok()?)))
        .collect();
    if physical.is_empty() {
        return Ok(());
    }
    let paths: Vec<PathBuf> = physical.iter().map(|(_, device)| device.clone()).collect();
    match setup.system.groups(&paths) {
        Ok(groups) => show_groups(setup, &physical, &groups, outcomes),
        Err(error) => {
            let said = chain(&error);
            outcomes.extend(
                physical.iter().map(|(at, _)| outcome(setup, *at, None, Shown::Failed(said.clone()))),
            );
            Ok(())
        }
    }
}

/// Physical volumes, each with its place in the plan.
type Physical = [(usize, PathBuf)];

fn show_groups(
    setup: &mut Setup<'_>,
    physical: &Physical,
    groups: &[(String, Vec<PathBuf>)],
    outcomes: &mut Vec<Outcome>,
) -> Result<()> {
    let is_in = |device: &PathBuf| groups.iter().any(|(_, members)| members.contains(device));
    for (at, _) in physical.iter().filter(|(_, device)| !is_in(device)) {
        let shown = Shown::Not("a physical volume of LVM that no volume group is on".into());
        outcomes.push(outcome(setup, *at, None, shown));
    }
    for (group, members) in groups {
        setup.check_stop()?;
        let Some((at, _)) = physical.iter().find(|(_, device)| members.contains(device)) else { continue };
        match import(setup, group, members) {
            Ok((imported, volumes)) => {
                for volume in volumes {
                    outcomes.push(show(setup, *at, &imported, &volume)?);
                }
            }
            Err(error) => outcomes.push(outcome(setup, *at, None, Shown::Failed(chain(&error)))),
        }
    }
    Ok(())
}

fn import(setup: &mut Setup<'_>, group: &str, devices: &[PathBuf]) -> Result<(GroupRecord, Vec<Volume>)> {
    let name = format!("{}{group}", setup.record.group_prefix());
    let group = GroupRecord { name, devices: devices.to_owned() };
    setup.record.groups.push(group.clone());
    setup.save()?;
    let volumes = setup.system.import_group(&group.name, devices, setup.plan.wishes.access())?;
    Ok((group, volumes))
}

fn show(setup: &mut Setup<'_>, at: usize, group: &GroupRecord, volume: &Volume) -> Result<Outcome> {
    let planned = &setup.plan.parts[at];
    let disk = &setup.disks[planned.disk];
    let folder = if setup.disks.len() > 1 { PathBuf::from(&disk.member) } else { PathBuf::new() };
    let name = format!("p{}-lv-{}", planned.part.number, volume.name);
    let Some((part, journal)) = setup.system.look(&volume.device) else {
        return Ok(outcome(setup, at, Some(volume), Shown::Not("nothing that is known is on it".into())));
    };
    let shown = match setup.plan.volume(&part, journal, folder.join(&name)) {
        (access, Then::Mount(mount)) if access != setup.plan.wishes.access() => {
            match setup.system.let_write(&group.name, &group.devices, volume) {
                Ok(()) => setup.mount(&mount, &volume.device, Vec::new())?,
                Err(error) => Shown::Failed(chain(&error)),
            }
        }
        (_, Then::Mount(mount)) => setup.mount(&mount, &volume.device, Vec::new())?,
        (_, Then::Nothing(reason) | Then::Left(reason)) => Shown::Not(reason),
        (_, Then::Volumes | Then::PartOf(_)) => {
            Shown::Not("volumes within volumes are not looked into".into())
        }
    };
    Ok(Outcome {
        filesystem: part.filesystem,
        label: part.label,
        len: part.len,
        ..outcome(setup, at, Some(volume), shown)
    })
}

fn outcome(setup: &Setup<'_>, at: usize, volume: Option<&Volume>, shown: Shown) -> Outcome {
    let planned = &setup.plan.parts[at];
    let part = &planned.part;
    Outcome {
        member: setup.disks[planned.disk].member.clone(),
        number: part.number,
        name: volume.map_or_else(
            || format!("p{}", part.name),
            |volume| format!("p{}-lv-{}", part.number, volume.name),
        ),
        filesystem: part.filesystem.clone(),
        label: part.label.clone(),
        len: part.len,
        device: volume.map(|volume| volume.device.clone()),
        shown,
    }
}
