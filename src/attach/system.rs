//! What attaching does to a machine. A [`System`] is the machine, or a model of it for tests.

use std::io;
use std::path::{Path, PathBuf};

use super::Result;
use super::plan::{Access, Way};
use super::state::{Process, Record};
use crate::allocation::journal::Journal;
use crate::fuse::mountpoint::MountEntry;
use crate::partition::Part;

/// A loop device to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopWish {
    /// The image.
    pub file: PathBuf,
    /// Its first byte there.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
    /// The sector size that it shows.
    pub sector: u32,
    /// Whether it can be written to.
    pub access: Access,
    /// Whether the kernel is to look for partitions.
    pub scan: bool,
}

/// A loop device that stands on a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopDevice {
    /// Its node.
    pub device: PathBuf,
    /// What is behind it, as the kernel names it: a file of a mount that was taken away lazily is named as if that mount were the root.
    pub file: PathBuf,
    /// Its first byte there.
    pub offset: u64,
}

/// A mount to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountWish {
    /// Which device's.
    pub device: PathBuf,
    /// Where.
    pub path: PathBuf,
    /// Whether it can be written to.
    pub write: bool,
    /// Other devices of the same filesystem.
    pub with: Vec<PathBuf>,
}

/// Why a mount failed.
#[derive(Debug)]
pub enum MountFailure {
    /// This machine has no such driver: another one may do.
    NoDriver(String),
    /// The driver refused.
    Refused(String),
}

/// A logical volume that is active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its node.
    pub device: PathBuf,
}

/// The machine.
///
/// Every method that changes something either does all of it, or fails and has changed nothing that a later call of its opposite would not undo. That something
/// to be undone is not there is no failure.
pub trait System {
    /// What tells this boot from others.
    fn boot(&self) -> String;

    /// Writes down what is known.
    ///
    /// # Errors
    /// If it is not on disk.
    fn save(&mut self, record: &Record) -> Result<()>;

    /// Forgets an attach of which nothing is left.
    ///
    /// # Errors
    /// If it is still written down.
    fn forget(&mut self, record: &Record) -> Result<()>;

    /// Makes a directory that is not there, for its owner alone.
    ///
    /// # Errors
    /// The system's.
    fn make_directory(&mut self, path: &Path) -> io::Result<()>;

    /// Removes a directory that is empty.
    ///
    /// # Errors
    /// The system's, that it is not empty among them.
    fn remove_directory(&mut self, path: &Path) -> io::Result<()>;

    /// Whether rules of udev have an effect here.
    fn has_udev(&self) -> bool;

    /// Puts a rule into effect.
    ///
    /// # Errors
    /// If it may not be in effect.
    fn add_rule(&mut self, path: &Path, text: &str) -> Result<()>;

    /// Waits until a rule was applied to devices that it is for. Returns those to which it was not.
    fn await_rule(&mut self, path: &Path, devices: &[PathBuf]) -> Vec<PathBuf>;

    /// Takes a rule out of effect.
    ///
    /// # Errors
    /// The system's.
    fn remove_rule(&mut self, path: &Path) -> Result<()>;

    /// Serves the archive on a directory.
    ///
    /// # Errors
    /// If it is not served.
    fn serve(&mut self, on: &Path, overlay: bool) -> Result<Process>;

    /// The processes that serve, or are about to serve, on a directory.
    fn servers(&self, on: &Path) -> Vec<Process>;

    /// Whether a server is stopped, as by a signal: nothing gets through it then, and nothing that waits for it can be killed.
    fn is_stopped(&self, server: Process) -> bool;

    /// Waits until a server has ended, which it does when its mount is gone; asks it to where that takes long. Whether it has.
    fn end_server(&mut self, server: Process) -> bool;

    /// Makes a loop device, with direct I/O.
    ///
    /// # Errors
    /// If there is none, or a writable one has no direct I/O.
    fn add_loop(&mut self, wish: &LoopWish) -> Result<PathBuf>;

    /// All loop devices that stand on something.
    ///
    /// # Errors
    /// The system's.
    fn loops(&self) -> io::Result<Vec<LoopDevice>>;

    /// Gives back a loop device, once nobody uses it. Whether it is gone.
    ///
    /// # Errors
    /// The system's.
    fn remove_loop(&mut self, device: &LoopDevice) -> Result<bool>;

    /// What uses a device, for people.
    fn users(&self, device: &Path) -> Vec<String>;

    /// Mounts, always `nodev,nosuid,noexec`.
    ///
    /// # Errors
    /// [`MountFailure`].
    fn mount(&mut self, wish: &MountWish, way: &Way) -> std::result::Result<(), MountFailure>;

    /// All mounts, oldest first.
    ///
    /// # Errors
    /// The system's.
    fn mounts(&self) -> io::Result<Vec<MountEntry>>;

    /// Ends the newest mount on a path.
    ///
    /// # Errors
    /// The system's; `ResourceBusy` if it is in use.
    fn unmount(&mut self, path: &Path) -> io::Result<()>;

    /// What uses a mount, for people.
    fn holders(&self, path: &Path) -> Vec<String>;

    /// Used bytes of what is mounted on a path.
    fn usage(&self, path: &Path) -> Option<u64>;

    /// Lets the kernel forget that a device has a btrfs.
    fn forget_btrfs(&mut self, device: &Path);

    /// What is on a device, and the state of its journal; `None` if it cannot be read.
    fn look(&self, device: &Path) -> Option<(Part, Journal)>;

    /// The volume groups on devices, each with its devices.
    ///
    /// # Errors
    /// If LVM is not there, or fails.
    fn groups(&mut self, devices: &[PathBuf]) -> Result<Vec<(String, Vec<PathBuf>)>>;

    /// Gives the group on devices, which are writable, a new name and new ids, and activates it, with this access to its volumes.
    ///
    /// # Errors
    /// If LVM fails.
    fn import_group(&mut self, name: &str, devices: &[PathBuf], access: Access) -> Result<Vec<Volume>>;

    /// Makes an active volume of a group writable.
    ///
    /// # Errors
    /// If LVM fails.
    fn let_write(&mut self, name: &str, devices: &[PathBuf], volume: &Volume) -> Result<()>;

    /// Deactivates a group; whether none of its volumes is left.
    ///
    /// # Errors
    /// If LVM is not there.
    fn release_group(&mut self, name: &str, devices: &[PathBuf]) -> Result<bool>;

    /// The names of active groups that begin so.
    fn active_groups(&self, prefix: &str) -> Vec<String>;
}
