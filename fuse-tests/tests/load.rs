//! Many readers of every kind at once, of two archives that share most chunks, some of which are damaged, through a cache that is far too small:
//! every byte is right or, where a damaged chunk is needed, an error.
//!
//! `COPAL_LOAD_SECONDS` says for how long (4 unless set), `COPAL_SEED` with which readers.

use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use copal::fuse::stats::Stats;
use fuse_tests::damage::{flip_chunk_at, ranges_of};
use fuse_tests::mounted::Mount;
use fuse_tests::noise::{Random, mixed, noise};
use fuse_tests::reading::drop_cache;
use fuse_tests::requires;
use fuse_tests::sandbox::Sandbox;

const LEN: usize = (96 << 20) + 1234;
const PAGE: u64 = 4096;
const DAMAGED: usize = 12;
const CACHE: u64 = 16 << 20;
/// What a server may take beside its cache.
const BESIDE_CACHE: u64 = 64 << 20;

/// An image as it was backed up.
struct Disk {
    path: std::path::PathBuf,
    bytes: Vec<u8>,
    /// What lies in damaged chunks.
    damaged: Vec<Range<u64>>,
    edges: Vec<u64>,
}

impl Disk {
    fn open(&self, flags: i32) -> File {
        OpenOptions::new().read(true).custom_flags(flags).open(&self.path).expect("open")
    }

    fn is_damaged(&self, range: Range<u64>) -> bool {
        self.damaged.iter().any(|damaged| damaged.start < range.end && range.start < damaged.end)
    }

    /// Reads a range as far as it can be read. What comes is right, and an error comes only near damage: within `grain` bytes, what the kernel
    /// asks for at once. Returns how much came.
    fn check(&self, file: &File, range: &Range<u64>, buffer: &mut [u8], grain: u64) -> u64 {
        let (mut at, end) = (range.start, range.end.min(self.bytes.len() as u64));
        while at < end {
            let part = &mut buffer[..(end - at) as usize];
            match file.read_at(part, at) {
                Ok(0) => panic!("{} ends at {at}", self.path.display()),
                Ok(read) => {
                    let read = read as u64;
                    assert!(part[..read as usize] == self.bytes[at as usize..(at + read) as usize], "{at}");
                    assert!(
                        !self.is_damaged(at..at + read),
                        "bytes of a damaged chunk: {at} and {read} more"
                    );
                    at += read;
                }
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{at}");
                    let near = at / grain * grain..end.next_multiple_of(grain);
                    assert!(self.is_damaged(near.clone()), "an error at {at}, with no damage in {near:?}");
                    return at - range.start;
                }
            }
        }
        end.saturating_sub(range.start)
    }
}

/// What all readers share.
struct Load<'a> {
    disks: &'a [Disk],
    until: Instant,
    reads: AtomicU64,
    bytes: AtomicU64,
}

impl Load<'_> {
    fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    fn count(&self, bytes: u64) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A place: near an edge of chunks or spans, near damage, or anywhere.
    fn place(&self, disk: &Disk, random: &mut Random) -> u64 {
        let anywhere = random.below(disk.bytes.len()) as u64;
        let near = |edge: u64, random: &mut Random| (edge + random.below(9000) as u64).saturating_sub(4500);
        let place = match random.below(4) {
            0 | 1 => near(disk.edges[random.below(disk.edges.len())], random),
            2 => near(disk.damaged[random.below(disk.damaged.len())].start, random),
            _ => anywhere,
        };
        place.min(disk.bytes.len() as u64 - 1)
    }

    fn here_and_there(&self, seed: u64) {
        let mut random = Random::new(seed);
        let mut buffer = vec![0; 1 << 20];
        let files: Vec<File> = self.disks.iter().map(|disk| disk.open(0)).collect();
        while self.goes_on() {
            let number = random.below(files.len());
            let disk = &self.disks[number];
            let most = [1, 600, 5000, 300_000, 1 << 20][random.below(5)];
            let len = 1 + random.below(most) as u64;
            let start = self.place(disk, &mut random);
            self.count(disk.check(&files[number], &(start..start + len), &mut buffer, PAGE));
        }
    }

    fn in_order(&self, seed: u64) {
        let mut random = Random::new(seed);
        let mut buffer = vec![0; 1 << 20];
        while self.goes_on() {
            let disk = &self.disks[random.below(self.disks.len())];
            let file = disk.open(0);
            let piece = [4096, 100_000, 128 << 10, 1 << 20][random.below(4)];
            let mut at = self.place(disk, &mut random);
            for _ in 0..1 + random.below(200) {
                let end = at + piece;
                self.count(disk.check(&file, &(at..end), &mut buffer, PAGE));
                at = end;
                if at >= disk.bytes.len() as u64 || !self.goes_on() {
                    break;
                }
            }
        }
    }

    /// Past the page cache, here and there or in order.
    fn direct(&self, seed: u64) {
        let mut random = Random::new(seed);
        let mut space = vec![0; (256 << 10) + PAGE as usize];
        let aligned = space.as_ptr().align_offset(PAGE as usize);
        while self.goes_on() {
            let disk = &self.disks[random.below(self.disks.len())];
            let file = disk.open(libc::O_DIRECT);
            let len = PAGE * (1 + random.below(64) as u64);
            let mut at = self.place(disk, &mut random) / PAGE * PAGE;
            for _ in 0..1 + random.below(60) {
                let buffer = &mut space[aligned..aligned + len as usize];
                // All of a request fails if any of it does.
                if at + len <= disk.bytes.len() as u64 {
                    self.count(disk.check(&file, &(at..at + len), buffer, 256 << 10));
                }
                at += len;
            }
        }
    }

    fn forget(&self) {
        while self.goes_on() {
            std::thread::sleep(Duration::from_millis(30));
            self.disks.iter().for_each(|disk| drop_cache(&disk.open(0)));
        }
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, no number")))
}

fn disk(sandbox: &Sandbox, mount: &Mount, name: &str, bytes: Vec<u8>, chunks: &[String]) -> Disk {
    let damaged = ranges_of(sandbox, name, chunks);
    assert!(!damaged.is_empty());
    Disk { path: mount.latest(name), bytes, damaged, edges: sandbox.edges(name) }
}

#[test]
fn under_any_load_every_byte_is_right_or_an_error() {
    requires!(fuse, root);
    let seed = setting("COPAL_SEED").unwrap_or(1);
    let seconds = setting("COPAL_LOAD_SECONDS").unwrap_or(4);
    println!("COPAL_SEED={seed} COPAL_LOAD_SECONDS={seconds}");
    let sandbox = Sandbox::plain();
    let old = mixed(seed, LEN);
    let mut new = old.clone();
    for place in 0..40 {
        let at = place * (LEN / 40);
        new[at..at + 5000].copy_from_slice(&noise(seed + place as u64, 5000));
    }
    sandbox.back_up_bytes("old", &old);
    sandbox.back_up_bytes("new", &new);
    let mut random = Random::new(seed);
    let mut chunks: Vec<String> = Vec::new();
    while chunks.len() < DAMAGED {
        let at = random.below(LEN - 4096);
        // No hole, and no chunk that is damaged already: a second flip would mend it.
        let is_data = old[at / 4096 * 4096..][..4096].iter().any(|byte| *byte != 0);
        if is_data && !ranges_of(&sandbox, "old", &chunks).iter().any(|range| range.contains(&(at as u64))) {
            chunks.push(flip_chunk_at(&sandbox, "old", at as u64).chunk);
        }
    }
    let mut mount = sandbox.mount_with("mnt", None, &["--cache-size", "16M"]);
    let disks =
        [("old", old), ("new", new)].map(|(name, bytes)| disk(&sandbox, &mount, name, bytes, &chunks));
    let until = Instant::now() + Duration::from_secs(seconds);
    let load = Load { disks: &disks, until, reads: AtomicU64::new(0), bytes: AtomicU64::new(0) };
    std::thread::scope(|scope| {
        let load = &load;
        (0..6).for_each(|number| drop(scope.spawn(move || load.here_and_there(seed * 100 + number))));
        (0..3).for_each(|number| drop(scope.spawn(move || load.in_order(seed * 100 + 10 + number))));
        (0..2).for_each(|number| drop(scope.spawn(move || load.direct(seed * 100 + 20 + number))));
        scope.spawn(|| load.forget());
    });
    assert!(!mount.has_ended(), "the mount lives");
    let text = fs::read(mount.path(".copal/stats.json")).expect("statistics");
    let stats: Stats = serde_json::from_slice(&text).expect("JSON");
    println!("{} reads of {} MiB\n{stats}", load.reads.into_inner(), load.bytes.into_inner() >> 20);
    assert!(
        stats.requests.failed > 0 && stats.chunks.counts.ahead_used > 0 && stats.chunks.counts.evicted > 0
    );
    assert!(stats.chunks.bytes + stats.maps.bytes + stats.nodes.bytes <= CACHE, "{stats}");
    let peak = mount.peak_memory();
    println!("the server took {} MiB at most", peak >> 20);
    assert!(peak <= CACHE + BESIDE_CACHE, "{} MiB", peak >> 20);
}
