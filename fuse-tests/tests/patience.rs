//! A storage that is slow, or stops answering: readers of the mount get errors in a while, and the right bytes once it answers again.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fuse_tests::devices::{LoopDevice, Mounted};
use fuse_tests::noise::{Random, noise};
use fuse_tests::process::wait_until;
use fuse_tests::reading::{check_all, check_range, drop_cache};
use fuse_tests::sandbox::Sandbox;
use fuse_tests::slow::SlowStorage;
use fuse_tests::{requires, tool};
use parking_lot::{Condvar, Mutex};
use rustix::fs::{Advice, fadvise};
use rustix::process::Signal;

/// The repository lies in an image that another mount of ours serves, whose server is stopped.
#[test]
fn a_hung_storage_gives_errors_and_not_hung_readers() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", losetup, mount);
    let bytes = noise(1, 24 << 20);
    let inner = Sandbox::plain();
    inner.back_up_bytes("disk", &bytes);
    let medium = inner.path("medium.img");
    fs::File::create(&medium).and_then(|file| file.set_len(64 << 20)).expect("make file");
    tool!("mkfs.ext4", "-q", "-F", "-d", inner.repository(), medium);

    let outer = Sandbox::plain();
    outer.back_up("medium", &medium);
    let beneath = outer.mount();
    let device = LoopDevice::attach(&beneath.latest("medium"), &["--read-only", "--direct-io=on"]);
    let disk = Mounted::device("ext4", "ro,noload", device.path(), &outer.mountpoint("disk"));

    let mount = inner.mount_elsewhere(disk.path(), "mnt", &["--storage-timeout", "1"]);
    let file = mount.open("disk");
    check_range(&file, &bytes, 0, 4096);

    beneath.signal(Signal::STOP);
    let read = |offset: usize| file.read_at(&mut [0; 4096], offset as u64).map_err(|error| error.kind());
    // Whatever the system has in memory may still be served.
    let answers: Vec<_> = (1..24).map(|at| read(at << 20)).collect();
    let failed = answers.iter().filter(|answer| answer.is_err()).count();
    let log = mount.log();
    // Before anything can fail here, so that nobody is left waiting.
    beneath.signal(Signal::CONT);
    assert!(failed > 0, "{answers:?}");
    assert!(
        answers.iter().all(|answer| answer.is_ok_and(|len| len == 4096) || answer.is_err()),
        "{answers:?}"
    );
    assert!(log.contains("has not answered for 1 s"), "{log}");

    wait_until("the storage answers again", || {
        drop_cache(&file);
        (1..24).all(|at| read(at << 20).is_ok())
    });
    drop(file);
    check_all(&mount.latest("disk"), &bytes, 1 << 20);
    assert!(mount.log().contains("answers again"), "{}", mount.log());
}

/// Lets reads of packs wait until so many are under way, from when it is told how many.
#[derive(Debug, Default)]
struct Meeting {
    wanted: Mutex<usize>,
    under_way: Mutex<usize>,
    met: Condvar,
}

impl Meeting {
    fn join(&self, path: &Path) {
        let wanted = *self.wanted.lock();
        if !path.parent().is_some_and(|parent| parent.to_string_lossy().contains("packs")) {
            return;
        }
        let mut under_way = self.under_way.lock();
        *under_way += 1;
        self.met.notify_all();
        while *under_way < wanted {
            // One who waits for too long goes, and is missed.
            if self.met.wait_for(&mut under_way, Duration::from_secs(20)).timed_out() {
                *under_way -= 1;
                return;
            }
        }
    }
}

#[test]
fn small_reads_of_a_slow_storage_are_under_way_together() {
    const READERS: usize = 30;
    const MIB: usize = 1 << 20;
    requires!(fuse, root);
    let bytes = noise(2, READERS * MIB);
    let inner = Sandbox::plain();
    inner.back_up_bytes("disk", &bytes);
    let meeting = Arc::new(Meeting::default());
    let gate = meeting.clone();
    let storage = SlowStorage::mount(
        &inner.repository(),
        &inner.mountpoint("slow"),
        Box::new(move |path| gate.join(path)),
    );
    let mount = inner.mount_elsewhere(storage.directory(), "mnt", &[]);
    let file = mount.open("disk");
    fadvise(&file, 0, None, Advice::Random).expect("fadvise");
    // All maps, and of each mebibyte a chunk.
    (0..READERS).for_each(|at| check_range(&file, &bytes, at * MIB, 4096));
    *meeting.under_way.lock() = 0;
    *meeting.wanted.lock() = READERS;
    std::thread::scope(|scope| {
        for at in 0..READERS {
            let (file, bytes) = (&file, &bytes);
            scope.spawn(move || check_range(file, bytes, at * MIB + MIB / 2, 4096));
        }
    });
    // One that meets the end of a chunk may read twice.
    let under_way = *meeting.under_way.lock();
    assert!(under_way >= READERS, "{under_way} of {READERS}");
}

#[test]
fn a_request_that_needs_much_of_a_slow_storage_fails_in_time() {
    const CHUNK: usize = 16 << 10;
    const LEN: usize = 4 << 20;
    requires!(fuse, root);
    let inner = Sandbox::bare();
    let repository = inner.repository().to_str().expect("text").to_owned();
    inner.run(&["init", "--encryption", "none", "--chunker", "fixed,16K", &repository]);
    let bytes = noise(3, LEN);
    inner.back_up_bytes("disk", &bytes);
    // The same chunks, no two of them side by side.
    let chunks = LEN / CHUNK;
    let scattered: Vec<u8> =
        (0..chunks).flat_map(|at| &bytes[at * 37 % chunks * CHUNK..][..CHUNK]).copied().collect();
    inner.back_up_bytes("scattered", &scattered);
    let is_slow = Arc::new(AtomicBool::new(false));
    let gate = is_slow.clone();
    let storage = SlowStorage::mount(
        &inner.repository(),
        &inner.mountpoint("slow"),
        Box::new(move |_| {
            if gate.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(600));
            }
        }),
    );
    let mount = inner.mount_elsewhere(storage.directory(), "mnt", &["--storage-timeout", "4"]);
    // Past the page cache: a mebibyte is one request.
    let open = |path: &Path| -> File {
        OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).expect("open")
    };
    let file = open(&mount.latest("scattered"));
    let mut space = vec![0; (1 << 20) + 4096];
    let start = space.as_ptr().align_offset(4096);
    let buffer = &mut space[start..start + (1 << 20)];
    is_slow.store(true, Ordering::Relaxed);
    let failed = file.read_at(buffer, 1 << 20).expect_err("64 pieces, four at once, 0.6 s each");
    assert_eq!(failed.raw_os_error(), Some(libc::EIO));
    let log = mount.log();
    assert!(log.contains("a request needed more than 8 s"), "{log}");
    assert!(!log.contains("has not answered"), "{log}");
    // What needs less is read all the same.
    assert_eq!(file.read_at(&mut buffer[..CHUNK], 3 << 20).expect("read"), CHUNK);
    assert!(buffer[..CHUNK] == scattered[3 << 20..][..CHUNK]);
    is_slow.store(false, Ordering::Relaxed);
    assert_eq!(file.read_at(buffer, 1 << 20).expect("read"), 1 << 20);
    assert!(buffer == &scattered[1 << 20..2 << 20]);
}

#[test]
fn dozens_of_readers_of_a_slow_storage_need_no_more_memory_than_a_few() {
    const MIB: usize = 1 << 20;
    const LEN: usize = 96 * MIB;
    requires!(fuse, root);
    let bytes = noise(4, LEN);
    let inner = Sandbox::plain();
    inner.back_up_bytes("disk", &bytes);
    let storage = SlowStorage::mount(
        &inner.repository(),
        &inner.mountpoint("slow"),
        Box::new(|_| std::thread::sleep(Duration::from_millis(5))),
    );
    let mount = inner.mount_elsewhere(storage.directory(), "mnt", &["--cache-size", "16M"]);
    let path = mount.latest("disk");
    let read = |seed: u64, len: usize, count: usize| {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path).expect("open");
        let mut space = vec![0; len + 4096];
        let start = space.as_ptr().align_offset(4096);
        let mut random = Random::new(seed);
        for _ in 0..count {
            let at = random.below((LEN - len) / 4096) * 4096;
            let buffer = &mut space[start..start + len];
            file.read_exact_at(buffer, at as u64).expect("read");
            assert!(*buffer == bytes[at..at + len], "{len} bytes at {at}");
        }
    };
    std::thread::scope(|scope| {
        let read = &read;
        (0..40).for_each(|seed| drop(scope.spawn(move || read(seed, 4096, 60))));
        (40..52).for_each(|seed| drop(scope.spawn(move || read(seed, MIB, 12))));
    });
    let peak = mount.peak_memory() >> 20;
    println!("the server took {peak} MiB at most");
    assert!(peak <= 16 + 64, "{peak} MiB");
}
