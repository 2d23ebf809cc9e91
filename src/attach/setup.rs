//! Making what a plan says, one recorded step after the other.
//!
//! What fails of a single partition is told of that partition, and what was made for it is taken away again; what fails of the whole is an error, and the caller
//! tears down what the record names.

mod volumes;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::plan::{Access, Disk, Mount, Plan, Planned, Then};
use super::state::{LoopRecord, MountRecord, Record};
use super::system::{LoopWish, MountFailure, MountWish, System};
use super::{Error, Result, failed, teardown, udev};
use crate::task::Stop;

/// What became of a partition or a logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The member that it is in.
    pub member: String,
    /// The partition's number.
    pub number: u32,
    /// Its name in the directory of the attach.
    pub name: String,
    /// What it holds, by the names of `blkid`.
    pub filesystem: Option<String>,
    /// The label of what it holds, or what the table calls it.
    pub label: String,
    /// Its length in bytes.
    pub len: u64,
    /// Its device.
    pub device: Option<PathBuf>,
    /// Where it is shown, or why not.
    pub shown: Shown,
}

/// Where a partition is shown, or why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// Mounted.
    Mounted {
        /// Where.
        path: PathBuf,
        /// Bytes of the filesystem that are used.
        used: Option<u64>,
        /// What the user should know of it.
        note: Option<String>,
    },
    /// There is a device for the user.
    Device(String),
    /// It is not, as planned.
    Not(String),
    /// It should have been.
    Failed(String),
}

/// What [`set_up`] works on.
struct Setup<'a> {
    system: &'a mut dyn System,
    record: &'a mut Record,
    disks: &'a [Disk],
    plan: &'a Plan,
    stop: &'a Stop,
}

/// Does what the plan says.
///
/// # Errors
/// What concerns the whole; the record then names what is to be torn down.
pub fn set_up(
    system: &mut dyn System,
    record: &mut Record,
    disks: &[Disk],
    plan: &Plan,
    stop: &Stop,
) -> Result<Vec<Outcome>> {
    Setup { system, record, disks, plan, stop }.run()
}

impl Setup<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>> {
        self.record.overlay = self.plan.overlay;
        self.save()?;
        if self.record.own_directory {
            self.make_own_directory()?;
        }
        self.hide()?;
        let (run, image) = (self.record.run(), self.record.image());
        self.make_directory(&run)?;
        self.make_directory(&image)?;
        self.serve(&image)?;
        let devices = self.devices()?;
        self.check_hidden(&devices);
        let mut outcomes = Vec::new();
        for (at, planned) in self.plan.parts.iter().enumerate() {
            self.check_stop()?;
            if let Some(outcome) = self.show(planned, at, &devices)? {
                outcomes.push(outcome);
            }
        }
        volumes::set_up(self, &devices, &mut outcomes)?;
        self.record.complete = true;
        self.save()?;
        Ok(outcomes)
    }

    fn save(&mut self) -> Result<()> {
        self.system.save(self.record)
    }

    fn check_stop(&self) -> Result<()> {
        self.stop.check().map_err(|stopped| Error::Stopped { signal: stopped.signal })
    }

    /// Before the first device is there.
    fn hide(&mut self) -> Result<()> {
        if !self.system.has_udev() {
            return Ok(());
        }
        let path = udev::path(self.record);
        self.record.rule = Some(path.clone());
        self.save()?;
        self.system.add_rule(&path, &udev::text(self.record))
    }

    /// Before anything is done with them that takes time.
    fn check_hidden(&mut self, devices: &[Option<Made>]) {
        let Some(rule) = &self.record.rule else { return };
        let devices: Vec<PathBuf> = devices.iter().flatten().flatten().cloned().collect();
        for device in self.system.await_rule(rule, &devices) {
            log::warn!(
                "udev has not applied {} to {}: until it is detached, links in /dev/disk may lead to it, and volumes on it may be activated; see 'udevadm info {1}'",
                rule.display(),
                device.display()
            );
        }
    }

    /// Makes the directory in which everything is shown. Whose records are elsewhere may have taken a name of our choice in the meantime: nobody has the id.
    fn make_own_directory(&mut self) -> Result<()> {
        let path = self.record.directory.clone();
        match self.make_directory(&path) {
            Err(Error::Io { source, .. })
                if source.kind() == ErrorKind::AlreadyExists && self.record.any_name =>
            {
                let path = PathBuf::from(format!("{}-{}", path.display(), self.record.id));
                self.record.directory.clone_from(&path);
                self.make_directory(&path)
            }
            made => made,
        }
    }

    fn make_directory(&mut self, path: &Path) -> Result<()> {
        self.record.directories.push(path.to_owned());
        self.save()?;
        let made = self.system.make_directory(path);
        if made.as_ref().is_err_and(|error| error.kind() == ErrorKind::AlreadyExists) {
            // Somebody else's, who may still need it.
            self.record.directories.pop();
            self.save()?;
        }
        made.map_err(failed("make", path))
    }

    fn serve(&mut self, on: &Path) -> Result<()> {
        self.record.serving = true;
        self.save()?;
        self.record.server = Some(self.system.serve(on, self.plan.overlay)?);
        self.save()
    }

    /// A device for each part that needs one, or why there is none.
    fn devices(&mut self) -> Result<Vec<Option<Made>>> {
        if self.plan.wishes.scan {
            return self.scanned();
        }
        let mut devices = Vec::new();
        for planned in &self.plan.parts {
            self.check_stop()?;
            let Some(access) = planned.device else {
                devices.push(None);
                continue;
            };
            let disk = &self.disks[planned.disk];
            let (offset, len) = (planned.part.start, planned.part.len);
            devices.push(Some(self.add_loop(disk, offset, len, access, false)?));
        }
        Ok(devices)
    }

    /// One device for each disk; the kernel finds the partitions.
    fn scanned(&mut self) -> Result<Vec<Option<Made>>> {
        let mut whole = Vec::new();
        for (number, disk) in self.disks.iter().enumerate() {
            self.check_stop()?;
            let access = self.plan.whole_disk(number);
            whole.push(match access {
                Some(access) => Some(self.add_loop(disk, 0, disk.len, access, true)?),
                None => None,
            });
        }
        let of = |planned: &Planned| {
            planned.device?;
            let made = whole[planned.disk].as_ref()?;
            Some(made.clone().map(|device| {
                let node = format!("{}p{}", device.display(), planned.part.number);
                if planned.part.whole { device } else { PathBuf::from(node) }
            }))
        };
        Ok(self.plan.parts.iter().map(of).collect())
    }

    fn add_loop(&mut self, disk: &Disk, offset: u64, len: u64, access: Access, scan: bool) -> Result<Made> {
        let file = self.record.image().join(&disk.image);
        self.record.loops.push(LoopRecord { file: file.clone(), offset, device: None });
        self.save()?;
        let wish = LoopWish { file, offset, len, sector: disk.sector, access, scan };
        let made = self.system.add_loop(&wish);
        match &made {
            Ok(device) => {
                if let Some(last) = self.record.loops.last_mut() {
                    last.device = Some(device.clone());
                }
            }
            Err(_) => drop(self.record.loops.pop()),
        }
        self.save()?;
        Ok(made.map_err(|error| super::chain(&error)))
    }

    /// Gives back a device that is of no use. If it stays, it stays in the record.
    fn remove_loop(&mut self, device: &Path) -> Result<()> {
        let own = teardown::own_loops(self.system, self.record)?;
        let Some(found) = own.iter().find(|found| found.device == device) else { return Ok(()) };
        if self.system.remove_loop(found)? {
            self.record.loops.retain(|made| made.device.as_deref() != Some(device));
            self.save()?;
        }
        Ok(())
    }

    fn show(&mut self, planned: &Planned, at: usize, devices: &[Option<Made>]) -> Result<Option<Outcome>> {
        let device = devices[at].clone().transpose();
        let shown = match (&planned.then, &device) {
            (Then::Volumes, Ok(_)) => return Ok(None),
            (_, Err(said)) => Shown::Failed(said.clone()),
            (Then::Nothing(reason), _) => Shown::Not(reason.clone()),
            (Then::Left(note), Ok(Some(device))) => {
                Shown::Device(note.replace("DEVICE ", &format!("{} ", device.display())))
            }
            (Then::PartOf(name), _) => Shown::Not(format!("part of the btrfs on p{name}")),
            (Then::Mount(mount), Ok(Some(device))) => {
                let others = mount.with.iter().filter_map(|other| devices[*other].clone()?.ok()).collect();
                self.mount(mount, device, others)?
            }
            (_, Ok(None)) => Shown::Failed("it has no device".into()),
        };
        let mut device = device.ok().flatten();
        if let (Shown::Failed(_), Some(useless), false) = (&shown, &device, self.plan.wishes.scan) {
            self.remove_loop(&useless.clone())?;
            device = None;
        }
        Ok(Some(Outcome {
            member: self.disks[planned.disk].member.clone(),
            number: planned.part.number,
            name: format!("p{}", planned.part.name),
            filesystem: planned.part.filesystem.clone(),
            label: planned.part.label.clone(),
            len: planned.part.len,
            device,
            shown,
        }))
    }

    /// Mounts a device, by the first way that this machine has.
    fn mount(&mut self, mount: &Mount, device: &Path, with: Vec<PathBuf>) -> Result<Shown> {
        let path = self.record.directory.join(&mount.directory);
        let made = self.record.directories.len();
        for folder in folders(&self.record.directory, &mount.directory) {
            if !self.record.directories.contains(&folder) {
                self.make_directory(&folder)?;
            }
        }
        self.record.mounts.push(MountRecord {
            path: path.clone(),
            device: device.to_owned(),
            filesystem: mount.filesystem.clone(),
        });
        self.save()?;
        let wish = MountWish { device: device.to_owned(), path: path.clone(), write: mount.write, with };
        let Err(said) = self.try_ways(mount, &wish) else {
            let used = self.system.usage(&path);
            return Ok(Shown::Mounted { path, used, note: mount.note.clone() });
        };
        self.record.mounts.pop();
        while self.record.directories.len() > made {
            let Some(folder) = self.record.directories.last() else { break };
            self.system.remove_directory(folder).map_err(failed("remove", folder))?;
            self.record.directories.pop();
        }
        self.save()?;
        Ok(Shown::Failed(said))
    }

    fn try_ways(&mut self, mount: &Mount, wish: &MountWish) -> std::result::Result<(), String> {
        let mut missing = Vec::new();
        for way in &mount.ways {
            match self.system.mount(wish, way) {
                Ok(()) => return Ok(()),
                Err(MountFailure::NoDriver(said)) => missing.push(said),
                Err(MountFailure::Refused(said)) => return Err(said),
            }
        }
        Err(missing.join(", and "))
    }
}

/// A device, or why there is none.
type Made = std::result::Result<PathBuf, String>;

/// The directories from one to another beneath it, outermost first.
fn folders(top: &Path, below: &Path) -> Vec<PathBuf> {
    let mut path = top.to_owned();
    below
        .components()
        .map(|part| {
            path.push(part);
            path.clone()
        })
        .collect()
}
