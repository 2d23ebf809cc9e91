//! A file manager on a mounted archive: it shows what it shows of the original, pixel by pixel, and copies files out by its clipboard.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fuse_tests::devices::{LoopDevice, Mounted};
use fuse_tests::images::{gpt, partition_args};
use fuse_tests::process::{DEADLINE, holds_within};
use fuse_tests::sandbox::Sandbox;
use fuse_tests::trees::scan;
use fuse_tests::{requires, tool};

/// How long something may take to come: an emulated machine has one processor, which is emulated.
const PATIENCE: Duration = DEADLINE.saturating_mul(8);

fn wait_until(what: &str, holds: impl FnMut() -> bool) {
    assert!(holds_within(PATIENCE, holds), "waited in vain until {what}");
}

/// Names of files, and what they are called where one letter is another.
const ALIKE: [(&str, &str); 4] = [
    ("Привет мир", "Привет миг"),
    ("שלום עולם", "שלוט עולם"),
    ("日本語ファイル.txt", "日本誤ファイル.txt"),
    ("😀🗄\u{fe0f}.bin", "😈🗄\u{fe0f}.bin"),
];

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
        let settled = holds_within(PATIENCE, || {
            std::thread::sleep(Duration::from_millis(1500));
            let now = self.pixels();
            let same = now == last && now != before;
            last = now;
            same
        });
        assert!(settled, "the screen does not come to rest, or nothing happens");
        last
    }

    /// Keeps what the screen shows where results are collected, as a picture that any viewer opens.
    fn keep(&self, name: &str) {
        let Some(directory) = std::env::var_os("COPAL_TESTS_RESULTS") else { return };
        let picture = picture(&self.pixels()).expect("a dump of a screen with 32 bits for each pixel");
        fs::write(Path::new(&directory).join(name), picture).expect("write");
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

/// A dump of a screen, as `xwd` writes it, in the form of a portable pixmap. Source: `XWDFile.h` of X.Org.
fn picture(dump: &[u8]) -> Option<Vec<u8>> {
    let field = |number: usize| {
        let bytes = dump.get(4 * number..)?.first_chunk()?;
        Some(u32::from_be_bytes(*bytes) as usize)
    };
    let (header, width, height, bits) = (field(0)?, field(4)?, field(5)?, field(11)?);
    let (line, colours) = (field(12)?, field(19)?);
    if bits != 32 {
        return None;
    }
    let mut picture = format!("P6 {width} {height} 255\n").into_bytes();
    // An entry of the table of colours takes 12 bytes; pixels are blue, green, red, nothing.
    for row in dump.get(header + 12 * colours..)?.chunks_exact(line).take(height) {
        let (pixels, _) = row.as_chunks::<4>();
        picture.extend(pixels.iter().take(width).flat_map(|[blue, green, red, _]| [*red, *green, *blue]));
    }
    Some(picture)
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
    requires!(
        fuse,
        root,
        loop,
        "fs:ext4",
        "mkfs.ext4",
        losetup,
        mount,
        Xvfb,
        pcmanfm,
        xwd,
        xdotool,
        "fc-list"
    );
    let sandbox = Sandbox::new();
    let image = gpt(&sandbox);
    sandbox.back_up("disk", &image);
    let repository = sandbox.mount();
    let shown = sandbox.mountpoint("shown");
    let out = sandbox.mountpoint("out");
    let part = partition_args();
    let part = part.each_ref().map(String::as_str);
    let mount = |image: &Path| {
        let device = LoopDevice::attach(image, &[&["--read-only"], &part[..]].concat());
        (Mounted::device("ext4", "ro", device.path(), &shown), device)
    };
    let screen = Screen::new(&sandbox);
    let blank = screen.pixels();
    let look = |directory: &Path, name: &str| {
        let manager = FileManager::show(&screen, directory);
        let pixels = screen.settled(&blank);
        screen.keep(name);
        drop(manager);
        wait_until("the window is gone", || screen.pixels() == blank);
        pixels
    };

    let (original, wanted) = {
        let (_mounted, _device) = mount(&image);
        (look(&shown.join("names"), "file-manager-original.ppm"), scan(&shown.join("names")))
    };
    let (mounted, _device) = mount(&repository.latest("disk"));
    let restored = look(&shown.join("names"), "file-manager-mounted.ppm");
    assert!(original == restored, "the file manager shows something else");
    drop((mounted, _device));
    // A letter of another name is seen, in every script, and there are letters for all of them: it is names that are shown, not boxes with numbers.
    for letter in ALIKE.iter().flat_map(|(name, other)| [name, other]).flat_map(|name| name.chars()) {
        let fonts = tool!("fc-list", format!(":charset={:x}", u32::from(letter)));
        assert!(!fonts.is_empty(), "no font has a {letter:?}");
    }
    for (number, (name, other)) in ALIKE.into_iter().enumerate() {
        let changed = sandbox.path("changed");
        fs::copy(&image, &changed).expect("copy");
        {
            let device = LoopDevice::attach(&changed, &part);
            let mounted = Mounted::device("ext4", "rw", device.path(), &shown);
            let names = mounted.path().join("names");
            fs::rename(names.join(name), names.join(other)).expect("rename");
            mounted.unmount();
        }
        let (_mounted, _device) = mount(&changed);
        let pixels = look(&shown.join("names"), &format!("file-manager-changed-{number}.ppm"));
        assert!(original != pixels, "{name} looks like {other}");
    }
    let (mounted, _device) = mount(&repository.latest("disk"));

    let _manager = FileManager::show(&screen, &shown.join("names"));
    let before = screen.settled(&blank);
    screen.focus();
    screen.keys(&["ctrl+a", "ctrl+c"]);
    let _copier = FileManager::show(&screen, &out);
    screen.settled(&before);
    screen.focus();
    screen.keys(&["ctrl+v"]);
    let contents = |tree: &fuse_tests::trees::Tree| {
        tree.iter()
            .filter(|(name, _)| !name.is_empty())
            .map(|(name, entry)| (name.clone(), entry.content.clone()))
            .collect::<Vec<_>>()
    };
    let done = holds_within(PATIENCE, || contents(&scan(&out)) == contents(&wanted));
    assert!(done, "copied: {:?}", fs::read_dir(&out).expect("list").count());
    drop((_copier, _manager));
    mounted.unmount();
}
