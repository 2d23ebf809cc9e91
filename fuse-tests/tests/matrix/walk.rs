//! What a user does with a damaged repository, and what has to hold at every step.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use copal::id::ArchiveId;
use fuse_tests::mounted::Mount;
use fuse_tests::process::wait_until;
use serde_json::Value;

use crate::cases::Case;
use crate::scene::{Kept, Scene, blocks, compare};

/// What takes longer than this hangs. Everything here is done in a second on an idle machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// How a command ended.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn done(&self) -> bool {
        self.code < 2
    }
}

/// Which blocks of which archive can be read.
type Readable = BTreeMap<ArchiveId, Vec<bool>>;

/// One case, from the damage to the last look.
pub(crate) struct Walk<'a> {
    scene: &'a Scene,
    faults: Vec<String>,
    steps: Vec<String>,
}

/// What was found, to be judged by the kind of damage.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) steps: String,
    pub(crate) faults: Vec<String>,
    /// Whether all archives could be read: damaged, repaired, and after the next backup.
    pub(crate) whole: [bool; 3],
    /// Exit codes.
    pub(crate) repaired: i32,
    pub(crate) checked_after_repair: i32,
    pub(crate) created: [i32; 2],
    pub(crate) compacted: i32,
    pub(crate) checked_at_last: i32,
    /// What the failing of these said.
    pub(crate) said: String,
}

impl<'a> Walk<'a> {
    pub(crate) fn through(scene: &'a Scene, case: &Case) -> Found {
        let mut walk = Self { scene, faults: Vec::new(), steps: Vec::new() };
        case.apply(scene);
        let mut found = walk.all();
        found.steps = walk.steps.join(", ");
        found.faults = walk.faults;
        found
    }

    fn all(&mut self) -> Found {
        let mut found = Found::default();
        self.run("list", &["list", "REPO", "--json"]);
        self.run("info", &["info", "REPO"]);
        let damaged = self.survey();
        let mounted = self.mount();
        let restored = self.extract_all("extract");
        self.agree(&damaged, mounted.as_ref(), &restored);
        found.whole[0] = self.all_whole(&damaged);
        for args in [&["check", "REPO"][..], &["check", "REPO", "--verify-data"]] {
            let checked = self.run("check", args);
            if args.len() == 3 && checked.code == 0 {
                self.must(self.listed_are_whole(&damaged), "check finds nothing, and archives are damaged");
            }
        }
        let repaired = self.run("repair", &["check", "REPO", "--repair"]);
        found.repaired = repaired.code;
        let after_repair = self.survey();
        self.no_worse(&damaged, &after_repair, "repair");
        found.whole[1] = self.all_whole(&after_repair);
        let checked = self.run("check", &["check", "REPO", "--json"]);
        found.checked_after_repair = checked.code;
        self.tells_the_truth(&checked, &after_repair);
        let sources = &self.scene.sources;
        for (number, (name, source, bytes)) in sources.iter().enumerate() {
            let (to, source) = (format!("REPO::{name}"), source.display().to_string());
            let created = self.run("create", &["create", "--json", &to, &source]);
            found.created[number] = created.code;
            found.said += &created.err;
            if created.done() {
                self.new_archive(&created, bytes);
            }
        }
        let compacted = self.run("compact", &["compact", "REPO", "--threshold", "1"]);
        found.compacted = compacted.code;
        found.said += &compacted.err;
        let at_last = self.survey();
        self.no_worse(&after_repair, &at_last, "create and compact");
        found.whole[2] = self.all_whole(&at_last);
        let restored = self.extract_all("extract");
        self.agree(&at_last, None, &restored);
        let checked = self.run("check", &["check", "REPO", "--verify-data", "--json"]);
        found.checked_at_last = checked.code;
        self.tells_the_truth(&checked, &at_last);
        found.said += &checked.out;
        found
    }

    fn must(&mut self, holds: bool, fault: &str) {
        if !holds {
            self.faults.push(fault.to_owned());
        }
    }

    fn run(&mut self, step: &str, args: &[&str]) -> Ran {
        let command = self.scene.command(args);
        let ran = self.finish(command, args);
        self.steps.push(format!("{step} {}", ran.code));
        let at = format!("copal {args:?} ended with {}: {}", ran.code, ran.err);
        self.must((0..=2).contains(&ran.code), &at);
        self.must(!ran.err.contains("panicked"), &at);
        ran
    }

    /// Runs a command, but not for ever.
    fn finish(&mut self, mut command: Command, args: &[&str]) -> Ran {
        let [out, err] = ["out", "err"].map(|name| self.scene.sandbox.path(name));
        command.stdin(Stdio::null());
        command.stdout(File::create(&out).expect("create")).stderr(File::create(&err).expect("create"));
        let mut child = command.spawn().expect("copal starts");
        let status = wait(&mut child);
        if status.is_none() {
            let _ = child.kill();
            let _ = child.wait();
            self.faults.push(format!("copal {args:?} HANGS"));
        }
        let text = |path| String::from_utf8_lossy(&fs::read(path).expect("read")).into_owned();
        Ran { code: status.unwrap_or(-1), out: text(out), err: text(err) }
    }

    /// What the library reads.
    fn survey(&mut self) -> Readable {
        self.scene.survey().unwrap_or_else(|wrong| {
            self.faults.push(wrong);
            Readable::new()
        })
    }

    /// What the mount gives; `None` where it does not come up.
    fn mount(&mut self) -> Option<Readable> {
        let mounted = self.scene.sandbox.try_mount(self.scene.command(&[]), "mnt");
        let (readable, mut mount) = match mounted {
            Err(mut ended) => {
                let code = ended.exit_code();
                self.steps.push(format!("mount {}", code.unwrap_or(-1)));
                self.must(code == Some(2), "a mount that does not come up fails");
                (None, ended)
            }
            Ok(mut mount) => {
                let readable = self.read_mount(&mut mount);
                self.steps.push("mount".into());
                self.must(!mount.has_ended(), "the mount lives");
                (Some(readable), mount)
            }
        };
        let log = mount.log();
        self.must(!log.contains("panicked"), &log);
        if readable.is_some() {
            // A process that another thread is just starting may hold a file of the mount for a moment.
            let unmount = || rustix::mount::unmount(mount.directory(), rustix::mount::UnmountFlags::empty());
            wait_until("the mount is not busy", || unmount() != Err(rustix::io::Errno::BUSY));
            mount.wait_for_end();
        }
        readable
    }

    /// Reads every image, in a thread that may be left behind: a read of a mount that hangs cannot be ended.
    fn read_mount(&mut self, mount: &mut Mount) -> Readable {
        let (send, receive) = channel();
        std::thread::scope(|scope| {
            let archives = &self.scene.archives;
            let directory = mount.directory().to_owned();
            scope.spawn(move || {
                for kept in archives {
                    let file = File::open(directory.join(&kept.file));
                    let read = |at: u64, buffer: &mut [u8]| file.as_ref().ok()?.read_at(buffer, at).ok();
                    let _ = send.send((kept.id, compare(kept, read)));
                }
            });
            let mut readable = Readable::new();
            for _ in archives {
                match receive.recv_timeout(DEADLINE) {
                    Ok((id, Ok(found))) => drop(readable.insert(id, found)),
                    Ok((_, Err(wrong))) => self.faults.push(format!("mount: {wrong}")),
                    Err(_) => {
                        self.faults.push("reading the mount HANGS".into());
                        // All reads fail when the server is gone.
                        mount.signal(rustix::process::Signal::KILL);
                        break;
                    }
                }
            }
            readable
        })
    }

    /// Restores every archive: which came back. What does not leaves no file.
    fn extract_all(&mut self, step: &str) -> BTreeSet<ArchiveId> {
        let mut restored = BTreeSet::new();
        for kept in &self.scene.archives {
            if self.extract(step, &kept.id.to_string(), &kept.bytes) {
                restored.insert(kept.id);
            }
        }
        restored
    }

    fn extract(&mut self, step: &str, id: &str, bytes: &[u8]) -> bool {
        let target = self.scene.sandbox.path("restored");
        let ran = self.run(step, &["extract", &format!("REPO::#{id}"), &target.display().to_string()]);
        let left = fs::read(&target).ok();
        let _ = fs::remove_file(&target);
        match left {
            Some(found) => {
                self.must(ran.done(), &format!("extract of {id} failed and left a file: {}", ran.err));
                self.must(found == bytes, &format!("extract of {id} gave WRONG bytes"));
            }
            None => self.must(!ran.done(), &format!("extract of {id} did nothing")),
        }
        ran.done()
    }

    /// A new archive has the bytes of its source.
    fn new_archive(&mut self, created: &Ran, bytes: &[u8]) {
        let said: Value = serde_json::from_str(&created.out).unwrap_or_default();
        let Some(id) = said["id"].as_str().map(str::to_owned) else {
            return self.faults.push(format!("create does not say its archive's id: {}", created.out));
        };
        let whole = self.extract("new", &id, bytes);
        self.must(whole, &format!("the new archive {id} is not whole"));
    }

    /// Library, mount and extract give the same.
    fn agree(&mut self, survey: &Readable, mounted: Option<&Readable>, restored: &BTreeSet<ArchiveId>) {
        for kept in &self.scene.archives {
            let Some(readable) = survey.get(&kept.id) else { continue };
            let whole = readable.iter().all(|block| *block);
            let given = restored.contains(&kept.id);
            self.must(!given || whole, &format!("{} is restored and not readable", kept.file));
            if let Some(mounted) = mounted.and_then(|mounted| mounted.get(&kept.id)) {
                let less = mounted.iter().zip(readable).any(|(mount, library)| !mount && *library);
                if less {
                    self.steps.push(format!("{} is less readable in the mount", kept.file));
                }
            }
            if whole && !given {
                self.steps.push(format!("{} is not restored", kept.file));
            }
        }
    }

    fn all_whole(&self, found: &Readable) -> bool {
        let is_whole =
            |kept: &Kept| found.get(&kept.id).is_some_and(|blocks| blocks.iter().all(|block| *block));
        self.scene.archives.iter().all(is_whole)
    }

    /// Archives of which nothing can be read may not be listed any more.
    fn listed_are_whole(&self, found: &Readable) -> bool {
        found.values().all(|blocks| blocks.iter().all(|ok| *ok) || blocks.iter().all(|ok| !*ok))
    }

    fn no_worse(&mut self, before: &Readable, after: &Readable, what: &str) {
        for kept in &self.scene.archives {
            let (Some(before), Some(after)) = (before.get(&kept.id), after.get(&kept.id)) else { continue };
            let lost = before.iter().zip(after).filter(|(before, after)| **before && !**after).count();
            let of = blocks(&kept.bytes);
            self.must(lost == 0, &format!("{what} lost {lost} blocks of {of} of {}", kept.file));
        }
    }

    /// The ranges that a check tells are those that cannot be read.
    fn tells_the_truth(&mut self, checked: &Ran, found: &Readable) {
        let Ok(report) = serde_json::from_str::<Value>(&checked.out) else {
            return self.must(checked.code == 2, "check prints no report");
        };
        let damaged = report["damaged"].as_array().cloned().unwrap_or_default();
        for kept in &self.scene.archives {
            let told = damaged.iter().any(|archive| archive["id"] == kept.id.to_string());
            let Some(blocks) = found.get(&kept.id) else { continue };
            let readable = blocks.iter().filter(|ok| **ok).count();
            let whole = readable == blocks.len();
            if readable > 0 {
                self.must(told != whole, &format!("{}: damage told {told}, whole {whole}", kept.file));
            }
        }
        self.must((checked.code == 0) == (report["clean"] == true), "exit code and report of check agree");
        if checked.code != 0 {
            let findings = report["findings"].as_array().cloned().unwrap_or_default();
            let told: Vec<String> =
                findings.iter().map(|found| format!("{} {}", found["object"], found["reason"])).collect();
            self.steps.push(format!("[{} damaged; {}]", damaged.len(), told.join("; ")));
        }
    }
}

fn wait(child: &mut Child) -> Option<i32> {
    let start = Instant::now();
    while start.elapsed() < DEADLINE {
        if let Some(status) = child.try_wait().expect("wait") {
            return Some(status.code().unwrap_or(-1));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    None
}
