//! Many processes at once on one repository, killed at random and started again: creators, compactors, a deleter, a pruner, an undeleter, a
//! reader, and a mount.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Child;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::aim::kill;
use super::dice::{Dice, setting};
use super::field::{Field, IMAGES};
use super::ledger::{Known, Ledger};
use crate::space::Space;
use crate::support::{Ended, Run, can};

/// Seconds of a run of the ordinary tests.
const SECONDS: u64 = 15;
/// The longest that a process is let live that is to be killed.
const LIFE: u64 = 400;
/// How many of a hundred processes are killed.
const KILLED: u64 = 40;
/// A name whose archives the pruner takes: of them only the bytes are judged.
const PRUNED: &str = "pruned";

struct Soak<'a> {
    field: &'a Field,
    ledger: Ledger,
    until: Instant,
    ended: AtomicU64,
    killed: AtomicU64,
    read: AtomicU64,
    from_mount: AtomicU64,
}

#[test]
fn many_at_once_lose_nothing_whoever_is_killed() {
    let (seed, seconds) = (Dice::seed(), setting("COPAL_SOAK_SECONDS").unwrap_or(SECONDS));
    println!("COPAL_SEED={seed} COPAL_SOAK_SECONDS={seconds}");
    let field = Field::new();
    let soak = Soak {
        field: &field,
        ledger: Ledger::default(),
        until: Instant::now() + Duration::from_secs(seconds),
        ended: AtomicU64::new(0),
        killed: AtomicU64::new(0),
        read: AtomicU64::new(0),
        from_mount: AtomicU64::new(0),
    };
    let mounts =
        can("root and FUSE", rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists());
    let hands: [fn(&Soak<'_>, &mut Dice); 8] = [
        |soak, dice| soak.create("one", dice),
        |soak, dice| soak.create("two", dice),
        |soak, dice| soak.compact("--now --threshold 1", dice),
        |soak, dice| soak.compact("--threshold 20", dice),
        |soak, dice| soak.delete(dice),
        |soak, dice| soak.undelete(dice),
        |soak, dice| soak.prune(dice),
        |soak, dice| soak.extract(dice),
    ];
    std::thread::scope(|scope| {
        for (number, hand) in hands.into_iter().enumerate() {
            let (soak, mut dice) = (&soak, Dice::new(seed + number as u64));
            scope.spawn(move || {
                while Instant::now() < soak.until {
                    hand(soak, &mut dice);
                }
            });
        }
        if mounts {
            scope.spawn(|| soak.mount(&mut Dice::new(seed + 100)));
        }
    });
    let sure = soak.ledger.all(Known::Done);
    let at = format!("soak, seed {seed}");
    field.delete_incomplete(&sure, &at);
    field.assert_clean(&sure, &at);
    let gone = soak.ledger.all(Known::Deleted);
    let listing = field.verify(&sure, &at);
    assert!(listing.archives.iter().all(|archive| !gone.contains(&archive.id())), "{at}");
    let [ended, killed, read, from_mount] =
        [&soak.ended, &soak.killed, &soak.read, &soak.from_mount].map(|count| count.load(Ordering::Relaxed));
    println!(
        "{ended} ended, {killed} killed, {read} archives read, {from_mount} through mounts; {} stay, {} are deleted",
        sure.len(),
        gone.len()
    );
    assert!(ended > 0 && killed > 0 && read > 0 && (!mounts || from_mount > 0), "{at}");
}

/// Serves a mount until it is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// It has done what it should. That a compaction took what a backup had claimed is told, and no fault; if that backup was killed, its archive stays
/// incomplete. Of a forwarding that one compactor completes while another deletes it, the second copy may be what is met.
#[track_caller]
fn assert_done(ended: &Ended, command: &str) {
    let words = ["a compaction removed", "was never finished and lacks data"];
    let half_deleted =
        |line: &str| line.contains("cannot read moved/") && line.ends_with("read from its second copy");
    let known = |line: &str| {
        words.iter().any(|word| line.contains(word)) || line.ends_with("stored again") || half_deleted(line)
    };
    let done = ended.code == 0 || (ended.code == 1 && ended.stderr.lines().all(known));
    assert!(done, "{command}: {ended}");
}

impl Soak<'_> {
    /// Runs a command, which may be killed. A process that listed an archive before others deleted and reclaimed it may remember it after them:
    /// what is left of a deleted archive tells the next one that this is no rollback.
    fn run(&self, mut run: Run, dice: &mut Dice) -> Ended {
        let child = run.spawn();
        if dice.chance(KILLED) {
            self.kill_later(&child, dice);
        }
        let ended = Ended::of(child.wait_with_output().expect("wait"));
        let count = if ended.killed { &self.killed } else { &self.ended };
        count.fetch_add(1, Ordering::Relaxed);
        ended
    }

    fn kill_later(&self, child: &Child, dice: &mut Dice) {
        std::thread::sleep(Duration::from_millis(dice.below(LIFE)));
        kill(child);
    }

    /// Backs up under its own name, one that another creator has too, or one that is pruned.
    fn create(&self, own: &str, dice: &mut Dice) {
        let (name, image) = (*dice.pick(&[own, "same", PRUNED]).expect("names"), dice.below(IMAGES as u64));
        let command = format!("create repo::{name} img{image} --comment img{image} --json");
        let ended = self.run(self.field.copal(&command), dice);
        if ended.killed {
            return;
        }
        // Compactions may take what was claimed again and again: that is said, and no archive is made.
        if ended.code == 2 && ended.stderr.contains("compactions removed packs again and again") {
            return;
        }
        assert_done(&ended, &command);
        let id = ended.json()["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
        if name != PRUNED {
            self.ledger.set(id, Known::Done);
        }
    }

    fn compact(&self, options: &str, dice: &mut Dice) {
        let ended = self.run(self.field.copal(&format!("compact repo {options}")), dice);
        if !ended.killed {
            assert_done(&ended, options);
        }
        std::thread::sleep(Duration::from_millis(dice.below(100)));
    }

    fn delete(&self, dice: &mut Dice) {
        std::thread::sleep(Duration::from_millis(dice.below(300)));
        let Some(id) = self.ledger.take(&[Known::Done], dice) else { return };
        let ended = self.run(self.field.copal(&format!("delete repo::#{id}")), dice);
        assert!(ended.killed || ended.code == 0, "delete {id}: {ended}");
        self.ledger.set(id, if ended.killed { Known::Unsure } else { Known::Deleted });
    }

    fn undelete(&self, dice: &mut Dice) {
        let Some(id) = self.ledger.take(&[Known::Deleted, Known::Unsure], dice) else {
            return std::thread::sleep(Duration::from_millis(20));
        };
        let ended = self.run(self.field.copal(&format!("undelete repo::#{id}")), dice);
        let words = ["cannot come back", "no archive fits", "not deleted", "was deleted again"];
        let refused = ended.code == 2 && words.iter().any(|word| ended.stderr.contains(word));
        assert!(ended.killed || refused || ended.code == 0, "undelete {id}: {ended}");
        self.ledger.set(id, if ended.code == 0 { Known::Done } else { Known::Unsure });
    }

    fn prune(&self, dice: &mut Dice) {
        std::thread::sleep(Duration::from_millis(dice.below(500)));
        let ended = self.run(self.field.copal(&format!("prune repo::{PRUNED} --keep-last 3")), dice);
        let nothing = ended.code == 2 && ended.stderr.contains("no archive fits");
        assert!(ended.killed || nothing || ended.code == 0, "prune: {ended}");
    }

    /// Reads an archive; one that nobody touched meanwhile is read in full.
    fn extract(&self, dice: &mut Dice) {
        let Some((id, mark)) = self.ledger.look(dice) else {
            return std::thread::sleep(Duration::from_millis(20));
        };
        let ended = self.run(self.field.copal(&format!("extract repo::#{id} --stdout")), dice);
        if ended.code == 0 {
            assert!(self.field.is_image(&ended.stdout), "wrong bytes in archive {id}");
            self.read.fetch_add(1, Ordering::Relaxed);
        } else if !ended.killed && self.ledger.is_unchanged(id, mark) {
            panic!("archive {id} cannot be read: {ended}");
        }
    }

    /// Reads from a mount, whose server is killed now and then.
    fn mount(&self, dice: &mut Dice) {
        let space = Space::new(&self.field.place, "mkdir mnt");
        let key = self.field.place.path("main.key");
        while Instant::now() < self.until {
            let mut run = space.copal("mount -f repo mnt").env("COPAL_KEY_FILE", &key);
            let mut server = Server(run.spawn());
            let life = Instant::now() + Duration::from_millis(1000 + dice.below(3000));
            while Instant::now() < life && Instant::now() < self.until {
                self.read_mounted(&space.path("mnt"), dice);
                // What the cache holds is read in no time, and would leave the processors to nobody else.
                std::thread::sleep(Duration::from_millis(5));
            }
            if server.0.try_wait().expect("wait").is_some() {
                let mut told = String::new();
                let _ = server.0.stderr.take().map(|mut stderr| stderr.read_to_string(&mut told));
                panic!("the mount has ended by itself: {told}");
            }
            drop(server);
            // On a slow machine it was killed before it had mounted.
            space.shell("umount -l mnt 2> umount.log || ! mountpoint -q mnt").ok();
        }
    }

    /// Reads one file. One that is deleted meanwhile may fail; no byte is ever wrong.
    fn read_mounted(&self, root: &Path, dice: &mut Dice) {
        let entries = |dir: &Path| -> Vec<_> {
            fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
        };
        let images = dice.pick(&entries(root)).map(|name| entries(name)).unwrap_or_default();
        let is_image = |path: &&std::path::PathBuf| path.extension().is_some_and(|text| text == "img");
        let images: Vec<_> = images.iter().filter(is_image).collect();
        let Some(path) = dice.pick(&images) else { return std::thread::sleep(Duration::from_millis(20)) };
        if let Ok(bytes) = fs::read(path) {
            assert!(self.field.is_image(&bytes), "wrong bytes in {}", path.display());
            self.from_mount.fetch_add(1, Ordering::Relaxed);
        }
    }
}
