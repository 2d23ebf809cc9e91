//! A file manager on a mounted archive: it shows what it shows of the original, pixel by pixel, and copies files out by its clipboard.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fuse_tests::devices::{LoopDevice, Mounted};
use fuse_tests::images::filesystem;
use fuse_tests::process::{DEADLINE, holds_within, wait_until};
use fuse_tests::requires;
use fuse_tests::sandbox::Sandbox;
use fuse_tests::trees::scan;

/// A screen of its own, on which only one program shows anything.
struct Screen {
    server: Child,
    display: String,
    home: PathBuf,
}

impl Screen {
    fn new(sandbox: &Sandbox) -> Self {
        let mut server = Command::new("Xvfb")
            .args(["-displayfd", "1", "-screen", "0", "1000x1400x24", "-nolisten", "tcp", "-noreset"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Xvfb");
        let mut number = String::new();
        BufReader::new(server.stdout.take().expect("piped")).read_line(&mut number).expect("a display");
        Self { server, display: format!(":{}", number.trim()), home: sandbox.mountpoint("home") }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("DISPLAY", &self.display).env("HOME", &self.home).env("LC_ALL", "C.UTF-8");
        for name in ["XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "DBUS_SESSION_BUS_ADDRESS"] {
            command.env_remove(name);
        }
        command.env("XDG_RUNTIME_DIR", &self.home).stderr(Stdio::null());
        command
    }

    /// All pixels.
    fn pixels(&self) -> Vec<u8> {
        let mut pixels = Vec::new();
        // It fails while a window goes away.
        wait_until("there is a picture", || {
            let shot = self.command("xwd").args(["-root", "-silent"]).output().expect("xwd");
            pixels = shot.stdout;
            shot.status.success()
        });
        pixels
    }

    /// The pixels once they no longer change, and are not those of `before`.
    fn settled(&self, before: &[u8]) -> Vec<u8> {
        let mut last = Vec::new();
        let settled = holds_within(DEADLINE, || {
            std::thread::sleep(Duration::from_millis(700));
            let now = self.pixels();
            let same = now == last && now != before;
            last = now;
            same
        });
        assert!(settled, "the screen does not come to rest, or nothing happens");
        last
    }

    fn keys(&self, keys: &[&str]) {
        let pressed = self.command("xdotool").arg("key").args(["--delay", "200"]).args(keys).status();
        assert!(pressed.expect("xdotool").success());
    }

    /// Keys go to the newest window of the file manager from now on.
    fn focus(&self) {
        let mut windows = String::new();
        wait_until("there is a window", || {
            let found =
                self.command("xdotool").args(["search", "--onlyvisible", "--class", "pcmanfm"]).output();
            windows = String::from_utf8(found.expect("xdotool").stdout).expect("numbers");
            !windows.trim().is_empty()
        });
        let newest = windows.lines().filter_map(|line| line.parse::<u64>().ok()).max().expect("a window");
        let focused = self.command("xdotool").args(["windowfocus", &newest.to_string()]).status();
        assert!(focused.expect("xdotool").success());
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A file manager that shows a directory.
struct FileManager(Child);

impl FileManager {
    fn show(screen: &Screen, directory: &Path) -> Self {
        Self(screen.command("pcmanfm").arg("--no-desktop").arg(directory).spawn().expect("pcmanfm"))
    }
}

impl Drop for FileManager {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_file_manager_shows_and_copies_all_names() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", losetup, mount, Xvfb, pcmanfm, xwd, xdotool);
    let sandbox = Sandbox::new();
    let image = filesystem(&sandbox, "ext4");
    sandbox.back_up("disk", &image);
    let repository = sandbox.mount();
    let shown = sandbox.mountpoint("shown");
    let (empty, out) = (sandbox.mountpoint("names"), sandbox.mountpoint("out"));
    let mount = |image: &Path| {
        let device = LoopDevice::read_only(image);
        (Mounted::device("ext4", "ro", device.path(), &shown), device)
    };
    let screen = Screen::new(&sandbox);
    let blank = screen.pixels();
    let look = |directory: &Path| {
        let manager = FileManager::show(&screen, directory);
        let pixels = screen.settled(&blank);
        drop(manager);
        wait_until("the window is gone", || screen.pixels() == blank);
        pixels
    };

    let original = {
        let (_mounted, _device) = mount(&image);
        look(&shown.join("names"))
    };
    let (mounted, _device) = mount(&repository.latest("disk"));
    let restored = look(&shown.join("names"));
    assert!(original == restored, "the file manager shows something else");
    assert!(original != look(&empty), "the file manager shows no names");

    let _manager = FileManager::show(&screen, &shown.join("names"));
    let before = screen.settled(&blank);
    screen.focus();
    screen.keys(&["ctrl+a", "ctrl+c"]);
    let _copier = FileManager::show(&screen, &out);
    screen.settled(&before);
    screen.focus();
    screen.keys(&["ctrl+v"]);
    let wanted = scan(&shown.join("names"));
    let contents = |tree: &fuse_tests::trees::Tree| {
        tree.iter()
            .filter(|(name, _)| !name.is_empty())
            .map(|(name, entry)| (name.clone(), entry.content.clone()))
            .collect::<Vec<_>>()
    };
    let done = holds_within(DEADLINE, || contents(&scan(&out)) == contents(&wanted));
    assert!(done, "copied: {:?}", fs::read_dir(&out).expect("list").count());
    drop((_copier, _manager));
    mounted.unmount();
}
