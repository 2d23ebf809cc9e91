//! Prompts and progress on a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use super::support::{COPAL, Place};

/// The program on a terminal of its own.
struct Terminal {
    master: File,
    child: Child,
    shown: String,
}

impl Terminal {
    fn start(place: &Place, args: &str) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).expect("grantpt");
        unlockpt(&master).expect("unlockpt");
        let name = ptsname(&master, Vec::new()).expect("ptsname");
        let path = std::ffi::OsStr::from_bytes(name.as_bytes());
        // Not the terminal of the tests.
        let apart = rustix::fs::OFlags::NOCTTY.bits().cast_signed();
        let slave = || File::options().read(true).write(true).custom_flags(apart).open(path).expect("open");
        // A session whose terminal this is, as a prompt opens /dev/tty.
        let mut run =
            place.run(Command::new("setsid")).args(["--ctty", "--wait", COPAL]).args(args.split(' '));
        run = run.stdin(slave()).stdout(slave()).stderr(slave());
        let child = run.spawn();
        Self { master: master.into(), child, shown: String::new() }
    }

    /// Reads until this was shown.
    fn wait_for(&mut self, text: &str) {
        let mut buffer = [0; 4096];
        while !self.shown.contains(text) {
            match self.master.read(&mut buffer) {
                Ok(len) if len > 0 => self.shown.push_str(&String::from_utf8_lossy(&buffer[..len])),
                _ => panic!("{text:?} was never shown: {}", self.shown),
            }
        }
    }

    /// Types a line when the terminal has stopped to show what is typed.
    fn type_hidden(&mut self, line: &str) {
        while tcgetattr(&self.master).expect("tcgetattr").local_modes.contains(LocalModes::ECHO) {
            std::thread::yield_now();
        }
        self.master.write_all(format!("{line}\n").as_bytes()).expect("write");
    }

    /// The exit code, and all that was shown.
    fn end(mut self) -> (i32, String) {
        let mut buffer = [0; 4096];
        // Reading fails when nobody has the terminal open any more.
        while let Ok(len) = self.master.read(&mut buffer)
            && len > 0
        {
            self.shown.push_str(&String::from_utf8_lossy(&buffer[..len]));
        }
        let code = self.child.wait().expect("wait").code().expect("it exits");
        assert!(!self.shown.contains("panicked"), "{}", self.shown);
        (code, self.shown)
    }
}

#[test]
fn init_asks_twice_and_shows_nothing() {
    let place = Place::new();
    let mut terminal = Terminal::start(&place, "init repo");
    terminal.wait_for("New passphrase for repo: ");
    terminal.type_hidden("hunter22");
    terminal.wait_for("The same again: ");
    terminal.type_hidden("hunter22");
    let (code, shown) = terminal.end();
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("Keep the passphrase safe") && !shown.contains("hunter22"), "{shown}");

    let mut terminal = Terminal::start(&place, "list repo");
    terminal.wait_for("Passphrase for repo: ");
    terminal.type_hidden("hunter22");
    let (code, shown) = terminal.end();
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("NAME") && !shown.contains("hunter22"), "{shown}");
}

#[test]
fn init_refuses_two_different_passphrases() {
    let place = Place::new();
    let mut terminal = Terminal::start(&place, "init repo");
    terminal.wait_for("New passphrase");
    terminal.type_hidden("one");
    terminal.wait_for("The same again: ");
    terminal.type_hidden("two");
    let (code, shown) = terminal.end();
    assert_eq!(code, 2, "{shown}");
    assert!(shown.contains("the two passphrases differ; nothing was made"), "{shown}");
    assert!(!place.path("repo").exists());
}

#[test]
fn names_in_images_drive_no_terminal() {
    let Some(place) = super::ls::with_disk() else { return };
    let (code, shown) = Terminal::start(&place, "ls repo::disk:2:/home").end();
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("bad\\xff\\u{1b}[1mname") && !shown.contains('\u{1b}'), "{shown:?}");
}

#[test]
fn progress_is_for_terminals_and_not_for_json() {
    let place = Place::with_archive();
    let (code, shown) = Terminal::start(&place, "create repo::web01 disk.img --json").end();
    assert_eq!(code, 0);
    let document: serde_json::Value = serde_json::from_str(&shown).expect("nothing but JSON");
    assert_eq!(document["name"], "web01");
    let (code, _) = Terminal::start(&place, "create repo::web01 disk.img").end();
    assert_eq!(code, 0);
}
