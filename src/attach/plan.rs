//! What is to be done with each partition, and why not: from tables, signatures, journals and wishes. No I/O.

mod drivers;

use std::collections::BTreeMap;
use std::path::PathBuf;

use self::drivers::Kind;
use crate::allocation::journal::Journal;
use crate::partition::Part;

/// An image, as far as its attaching depends on it.
#[derive(Debug, Clone)]
pub struct Disk {
    /// The member's name.
    pub member: String,
    /// Its path in the served archive.
    pub image: PathBuf,
    /// Its length in bytes.
    pub len: u64,
    /// The sector size in bytes that it is to be shown with.
    pub sector: u32,
    /// Its partitions, each with the state of its journal.
    pub parts: Vec<(Part, Journal)>,
    /// What is odd about its table.
    pub notes: Vec<String>,
}

/// What the user asks for.
#[derive(Debug, Clone, Copy)]
pub struct Wishes {
    /// Whether filesystems are to be mounted.
    pub mount: bool,
    /// Whether the kernel is to find the partitions itself.
    pub scan: bool,
    /// Whether everything is to be writable, in a layer that is thrown away.
    pub overlay: bool,
    /// Whether journals are to be replayed, in such a layer.
    pub replay: bool,
    /// Whether volume groups are to be activated.
    pub lvm: bool,
}

impl Wishes {
    /// What devices let one do that need nothing else.
    #[must_use]
    pub fn access(self) -> Access {
        if self.overlay { Access::Write } else { Access::Read }
    }
}

/// What the host knows already: filesystems of btrfs by their ids, and where they are.
pub type KnownFilesystems = BTreeMap<String, String>;

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Whether the archive is served with a layer that takes what is written.
    pub overlay: bool,
    /// What it was decided by.
    pub wishes: Wishes,
    /// What the host knew.
    pub known: KnownFilesystems,
    /// What is to be done with each partition.
    pub parts: Vec<Planned>,
}

/// What is to be done with a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Its disk's place in the list.
    pub disk: usize,
    /// The partition.
    pub part: Part,
    /// Whether it gets a loop device, and whether that one is writable.
    pub device: Option<Access>,
    /// What becomes of it.
    pub then: Then,
}

/// What a device lets one do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read.
    Read,
    /// Read, and write to the layer above the image.
    Write,
}

/// What becomes of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Then {
    /// It is mounted.
    Mount(Mount),
    /// It is left to the user.
    Left(String),
    /// Its logical volumes are mounted.
    Volumes,
    /// It is part of the filesystem on another partition, named here.
    PartOf(String),
    /// Nothing, for this reason.
    Nothing(String),
}

/// How a filesystem is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Beneath the directory of the attach.
    pub directory: PathBuf,
    /// The filesystem, by its name at `blkid`.
    pub filesystem: String,
    /// Ways to do it; the first that this machine has is taken.
    pub ways: Vec<Way>,
    /// Whether it is to be written to.
    pub write: bool,
    /// Partitions, by their places in the plan, that are to be named to the driver because they belong to the filesystem too.
    pub with: Vec<usize>,
    /// What the user should know of what is shown.
    pub note: Option<String>,
}

/// A driver and its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The driver.
    pub driver: Driver,
    /// Its own options, separated by commas.
    pub options: String,
}

/// What reads a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// The kernel, under this name.
    Kernel(&'static str),
    /// The program `ntfs-3g`.
    Ntfs3g,
}

/// Decides.
#[must_use]
pub fn plan(disks: &[Disk], wishes: Wishes, known: &KnownFilesystems) -> Plan {
    let mut parts = Vec::new();
    for (number, disk) in disks.iter().enumerate() {
        let folder = if disks.len() > 1 { PathBuf::from(&disk.member) } else { PathBuf::new() };
        for (part, journal) in &disk.parts {
            let directory = folder.join(format!("p{}", part.name));
            let (device, then) = decide(part, *journal, wishes, known, directory);
            parts.push(Planned { disk: number, part: part.clone(), device, then });
        }
    }
    join_btrfs(&mut parts);
    let writes = parts.iter().any(|part| part.device == Some(Access::Write));
    Plan { overlay: wishes.overlay || writes, wishes, known: known.clone(), parts }
}

impl Plan {
    /// Decides what becomes of a logical volume, which is to be shown in `directory`, and what its device is to let one do.
    #[must_use]
    pub fn volume(&self, part: &Part, journal: Journal, directory: PathBuf) -> (Access, Then) {
        let wishes = Wishes { lvm: false, ..self.wishes };
        match decide(part, journal, wishes, &self.known, directory) {
            (_, Then::Nothing(reason) | Then::Left(reason)) => (Access::Read, Then::Nothing(reason)),
            (access, then) => (access.unwrap_or(Access::Read), then),
        }
    }

    /// The disks that somebody wants to see whole, and how.
    #[must_use]
    pub fn whole_disk(&self, disk: usize) -> Option<Access> {
        let mut wanted = self.parts.iter().filter(|part| part.disk == disk).filter_map(|part| part.device);
        let first = wanted.next()?;
        let writes = first == Access::Write || wanted.any(|access| access == Access::Write);
        Some(if writes { Access::Write } else { Access::Read })
    }
}

fn decide(
    part: &Part,
    journal: Journal,
    wishes: Wishes,
    known: &KnownFilesystems,
    directory: PathBuf,
) -> (Option<Access>, Then) {
    let access = wishes.access();
    let Some(filesystem) = part.filesystem.as_deref() else {
        return left(wishes, access, "nothing that is known is on it");
    };
    if filesystem == "LVM2_member" && wishes.lvm && wishes.mount {
        return (Some(Access::Write), Then::Volumes);
    }
    let kind = Kind::of(filesystem);
    if !wishes.mount {
        return (Some(access), Then::Left(kind.by_hand().to_owned()));
    }
    let Kind::Filesystem(mountable) = kind else { return (None, Then::Nothing(kind.reason(filesystem))) };
    if let Some(at) = part.uuid.as_deref().filter(|_| filesystem == "btrfs").and_then(|uuid| known.get(uuid))
    {
        return (None, Then::Nothing(known_btrfs(at)));
    }
    let replays = mountable.journal && journal != Journal::Clean && wishes.replay;
    let skips = mountable.journal && journal != Journal::Clean && !wishes.replay;
    let note = match journal {
        _ if skips => Some(SKIPPED),
        Journal::NeedsReplay if replays && mountable.is_replayed() => Some(REPLAYED),
        Journal::NeedsReplay => Some(LEFT_OPEN),
        _ => None,
    };
    let mount = Mount {
        directory,
        filesystem: filesystem.to_owned(),
        ways: mountable.ways(skips),
        write: wishes.overlay && mountable.writable,
        with: Vec::new(),
        note: note.map(str::to_owned),
    };
    (Some(if replays { Access::Write } else { access }), Then::Mount(mount))
}

/// What is shown without a replay.
const SKIPPED: &str = "JOURNAL NOT REPLAYED: files may be missing, old, or hold others' bytes";
/// What is shown with one.
const REPLAYED: &str = "journal replayed in an overlay";
/// What is shown by drivers that may not replay all.
const LEFT_OPEN: &str = "was in use or hibernated: what changed last may be missing";

fn left(wishes: Wishes, access: Access, reason: &str) -> (Option<Access>, Then) {
    if wishes.mount {
        return (None, Then::Nothing(reason.to_owned()));
    }
    (Some(access), Then::Left(reason.to_owned()))
}

fn known_btrfs(at: &str) -> String {
    format!(
        "this machine has the same btrfs already ({at}), and the kernel takes both for one: attach it on another machine, or in a virtual one"
    )
}

/// Partitions with the same btrfs are devices of one filesystem: it is mounted once, with all of them.
fn join_btrfs(parts: &mut [Planned]) {
    let mut first: BTreeMap<String, usize> = BTreeMap::new();
    for at in 0..parts.len() {
        let is_btrfs = matches!(&parts[at].then, Then::Mount(mount) if mount.filesystem == "btrfs");
        let Some(uuid) = parts[at].part.uuid.clone().filter(|_| is_btrfs) else { continue };
        let Some(&earlier) = first.get(&uuid) else {
            first.insert(uuid, at);
            continue;
        };
        let access = parts[at].device;
        parts[at].then = Then::PartOf(parts[earlier].part.name.clone());
        if let Then::Mount(mount) = &mut parts[earlier].then {
            mount.with.push(at);
        }
        // One device that is read-only makes all of it so.
        if access == Some(Access::Write) || parts[earlier].device == Some(Access::Write) {
            parts[at].device = Some(Access::Write);
            parts[earlier].device = Some(Access::Write);
        }
    }
}

#[cfg(test)]
mod tests;
