//! What can be found of an attach whose record cannot be read: everything of it hangs from paths and names with its id.
//!
//! Not found are loop devices of a server that was ended by a signal, whose files have lost their path, and which directories were made: those that something of it
//! was mounted on, and all beneath `/run/copal`, are taken for it.

use std::path::{Path, PathBuf};

use super::state::{GroupRecord, LoopRecord, MountRecord, Record, Served};
use super::system::System;
use super::teardown::{is_own, own_loops};
use super::{Result, SHOWN, failed, udev};

/// A record of what is there of the attach with this id.
///
/// # Errors
/// The system's.
pub fn salvage(system: &dyn System, id: &str) -> Result<Record> {
    let unknown = || "unknown".to_owned();
    let archive = Served { repository: unknown(), name: unknown(), id: unknown(), time: unknown() };
    let mut record = Record::new(id.to_owned(), system.boot(), archive, super::run_directory(id));
    record.serving = true;
    record.rule = Some(udev::path(&record));
    record.directories = vec![record.run(), record.image()];
    let loops = own_loops(system, &record)?;
    let devices: Vec<PathBuf> = loops.iter().map(|found| found.device.clone()).collect();
    record.loops = loops
        .iter()
        .map(|found| LoopRecord {
            file: found.file.clone(),
            offset: found.offset,
            device: Some(found.device.clone()),
        })
        .collect();
    let groups = system.active_groups(&record.group_prefix());
    record.groups = groups.into_iter().map(|name| GroupRecord { name, devices: devices.clone() }).collect();
    let mounts = system.mounts().map_err(failed("read", Path::new("/proc/self/mountinfo")))?;
    let own: Vec<_> = mounts.into_iter().filter(|mount| is_own(&mount.source, &loops, &record)).collect();
    for mount in own {
        if record.mounts.is_empty() {
            record.directory = mount.path.parent().unwrap_or(&mount.path).to_owned();
        }
        let mut above: Vec<&Path> = mount.path.ancestors().skip(1).filter(|path| is_shown(path)).collect();
        // Outermost first.
        above.reverse();
        for directory in above.into_iter().chain([&*mount.path]) {
            if !record.directories.iter().any(|known| known == directory) {
                record.directories.push(directory.to_owned());
            }
        }
        record.mounts.push(MountRecord { path: mount.path, device: mount.source, filesystem: mount.kind });
    }
    Ok(record)
}

/// Whether only an attach makes such directories.
fn is_shown(path: &Path) -> bool {
    path.starts_with(SHOWN) && path != Path::new(SHOWN)
}
