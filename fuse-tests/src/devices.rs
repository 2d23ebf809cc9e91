//! Loop devices and mounts of the kernel's and other file systems, held by guards.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use copal::fuse::mountpoint::{detach, mount_on};
use rustix::mount::UnmountFlags;

use crate::need::find_tool;
use crate::process::{holds_within, run, wait_until};

/// How often a loop device is asked for: another process may take the free one first.
const TRIES: usize = 40;
/// How long a guard waits for something to be let go.
const PATIENCE: Duration = Duration::from_secs(10);

/// A loop device.
#[derive(Debug)]
pub struct LoopDevice {
    device: PathBuf,
}

impl LoopDevice {
    /// Attaches a file for reading and writing.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn writable(file: &Path) -> Self {
        Self::attach(file, &[])
    }

    /// Attaches a file for reading.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn read_only(file: &Path) -> Self {
        Self::attach(file, &["--read-only"])
    }

    /// Whether it reads its file past the page cache.
    ///
    /// # Panics
    /// If the kernel does not say.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        let name = self.path().file_name().expect("a name").to_string_lossy();
        let said = std::fs::read_to_string(format!("/sys/block/{name}/loop/dio")).expect("dio");
        said.trim() == "1"
    }

    /// Attaches a file with further arguments for `losetup`.
    ///
    /// # Panics
    /// If that fails often.
    #[must_use]
    pub fn attach(file: &Path, args: &[&str]) -> Self {
        let losetup = find_tool("losetup").expect("losetup");
        for _ in 0..TRIES {
            let output = Command::new(&losetup).args(["--find", "--show"]).args(args).arg(file).output();
            let output = output.expect("losetup starts");
            if output.status.success() {
                let device = OsStr::from_bytes(output.stdout.trim_ascii_end()).into();
                return Self { device };
            }
            let said = String::from_utf8_lossy(&output.stderr);
            let race = ["busy", "unavailable", "No such device"].iter().any(|word| said.contains(word));
            assert!(race, "losetup {}: {said}", file.display());
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("no loop device for {}", file.display());
    }

    /// The device's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.device
    }

    /// The node of a partition that the kernel found, once it is there.
    ///
    /// # Panics
    /// If it does not appear.
    #[must_use]
    pub fn partition(&self, number: u32) -> PathBuf {
        let node = PathBuf::from(format!("{}p{number}", self.device.display()));
        wait_until("the partition has a node", || node.exists());
        node
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let backing = backing_file(&self.device);
        // Once: as soon as the kernel has let go of it, it may be another test's.
        let mut is_asked = false;
        let detach = || {
            let is_gone = || backing.is_none() || backing_file(&self.device) != backing;
            if !is_asked && !is_gone() {
                let output = Command::new("losetup").arg("--detach").arg(&self.device).output();
                is_asked = output.is_ok_and(|output| output.status.success());
            }
            is_gone()
        };
        holds_within(PATIENCE, detach);
    }
}

fn backing_file(device: &Path) -> Option<Vec<u8>> {
    let name = device.file_name()?;
    fs::read(Path::new("/sys/block").join(name).join("loop/backing_file")).ok()
}

/// Detaches every loop device whose file lies below a directory.
pub fn detach_loops_below(directory: &Path) {
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let device = Path::new("/dev").join(entry.file_name());
        let below = |file: Vec<u8>| file.starts_with(directory.as_os_str().as_bytes());
        if backing_file(&device).is_some_and(below) {
            let _ = Command::new("losetup").arg("--detach").arg(&device).output();
        }
    }
}

/// A mount of any file system.
#[derive(Debug)]
pub struct Mounted {
    directory: PathBuf,
    /// A file that a server in user space reads and writes.
    served: Option<PathBuf>,
}

impl Mounted {
    /// Runs `mount` with these arguments; the last is the mountpoint.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn new(args: &[&OsStr]) -> Self {
        run(Command::new("mount").args(args));
        Self::over(Path::new(args.last().expect("a mountpoint")))
    }

    /// Mounts a device with a file system of a type.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn device(kind: &str, options: &str, device: &Path, directory: &Path) -> Self {
        let [kind, options] = [kind, options].map(OsStr::new);
        Self::new(&["-t".as_ref(), kind, "-o".as_ref(), options, device.as_os_str(), directory.as_os_str()])
    }

    /// Holds what was mounted on a directory by other means.
    #[must_use]
    pub fn over(directory: &Path) -> Self {
        Self { directory: directory.into(), served: None }
    }

    /// Mounts an NTFS image file through `ntfs-3g`.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn ntfs(options: &str, image: &Path, directory: &Path) -> Self {
        // The one of the two that may ignore case.
        let server = if options.contains("ignore_case") { "lowntfs-3g" } else { "ntfs-3g" };
        let program = find_tool(server).expect(server);
        run(Command::new(program).args(["-o", options]).arg(image).arg(directory));
        let served = image.canonicalize().expect("an image");
        Self { directory: directory.into(), served: Some(served) }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Unmounts; all that was written is then on the device, or in the file: of files, servers write the last when the mount is gone.
    ///
    /// # Panics
    /// If it stays in use.
    pub fn unmount(self) {
        let path = self.directory.clone();
        let done = holds_within(PATIENCE, || rustix::mount::unmount(&path, UnmountFlags::NOFOLLOW).is_ok());
        assert!(done, "{} stays in use", path.display());
        if let Some(file) = &self.served {
            assert!(holds_within(PATIENCE, || !is_open(file)), "{} stays open", file.display());
        }
    }
}

/// Whether any process has a file open.
fn is_open(file: &Path) -> bool {
    let entries = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten();
    let opens = |process: fs::DirEntry| {
        entries(process.path().join("fd")).any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == file))
    };
    entries("/proc".into()).any(opens)
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let gone = || {
            let Some(_) = mount_on(&self.directory) else { return true };
            let _ = rustix::mount::unmount(&self.directory, UnmountFlags::NOFOLLOW);
            mount_on(&self.directory).is_none()
        };
        if !holds_within(PATIENCE, gone) {
            let _ = detach(&self.directory);
        }
    }
}
