//! Which names archives and members get in the mount.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::id::ArchiveId;
use crate::repository::archives::Archive;
use crate::repository::reference::format_time;

/// How many digits of an archive's id tell archives of one second apart.
const ID_DIGITS: usize = 8;

/// A name for each archive of one disk, without ending: its time, with a part of its id behind it if an older archive has that second.
pub(super) fn archive_names(archives: &[Arc<Archive>]) -> Vec<(String, &Arc<Archive>)> {
    let mut taken = HashSet::new();
    let mut named = Vec::with_capacity(archives.len());
    let mut by_age: Vec<&Arc<Archive>> = archives.iter().collect();
    by_age.sort_by_key(|archive| (archive.entry.finished, archive.id()));
    for archive in by_age {
        let time = format_time(archive.time());
        let name = if taken.contains(&time) { format!("{time}-{}", short_id(archive.id())) } else { time };
        taken.insert(name.clone());
        named.push((name, archive));
    }
    named
}

/// Where a member's image lies in a mount of its archive alone.
#[must_use]
pub fn path_of(archive: &Archive, member: usize) -> Option<PathBuf> {
    let time = format_time(archive.time());
    if archive.entry.members.len() == 1 {
        return (member == 0).then(|| PathBuf::from(format!("{time}.img")));
    }
    Some(Path::new(&time).join(member_names(archive).get(member)?))
}

fn short_id(id: ArchiveId) -> String {
    id.to_string().chars().take(ID_DIGITS).collect()
}

/// A file name for each member of an archive, in their order: as it is where it has an ending, else with `.img`.
pub(super) fn member_names(archive: &Archive) -> Vec<String> {
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    let members = archive.entry.members.iter();
    members
        .map(|member| {
            let name = shown_member(member.name.as_str());
            let seen = count.entry(name.clone()).or_default();
            *seen += 1;
            if *seen == 1 { name } else { format!("{name}-{seen}") }
        })
        .collect()
}

/// The file name of a member.
fn shown_member(name: &str) -> String {
    if name.contains('.') { name.to_owned() } else { format!("{name}.img") }
}
