//! What a mount says of itself, and that only readers who go in order have anything loaded ahead.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use copal::codec::keys::BlobKind;
use copal::fuse::stats::Stats;
use copal::image::Image;
use copal::image::maps::Maps;
use fuse_tests::mounted::Mount;
use fuse_tests::noise::noise;
use fuse_tests::process::wait_until;
use fuse_tests::reading::check_all;
use fuse_tests::requires;
use fuse_tests::sandbox::Sandbox;
use rustix::process::Signal;

fn stats(mount: &Mount) -> Stats {
    let text = fs::read(mount.path(".copal/stats.json")).expect("read");
    serde_json::from_slice(&text).expect("JSON")
}

/// Reads pieces of a file past the page cache, at these offsets, in order.
fn read_direct(mount: &Mount, len: usize, offsets: impl Iterator<Item = u64>) {
    let path = mount.latest("disk");
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).expect("open");
    let mut space = vec![0; len + 4096];
    let aligned = space.as_ptr().align_offset(4096);
    for offset in offsets {
        assert_eq!(file.read_at(&mut space[aligned..aligned + len], offset).expect("read"), len);
    }
}

#[test]
fn it_is_found_by_name_shown_by_the_command_and_logged_on_request() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    let bytes = noise(1, 3 << 20);
    sandbox.back_up_bytes("disk", &bytes);
    let mount = sandbox.mount();
    let names = |path| -> Vec<_> {
        let entries = fs::read_dir(mount.path(path)).expect("list");
        entries.map(|entry| entry.expect("entry").file_name()).collect()
    };
    assert_eq!(names(""), ["disk"], "tools that copy the mount do not meet it");
    assert_eq!(names(".copal"), ["stats.json"]);
    assert!(OpenOptions::new().write(true).open(mount.path(".copal/stats.json")).is_err());

    let before = stats(&mount);
    assert_eq!((before.pid, before.requests.reads, before.open), (mount.pid(), 0, 0));
    check_all(&mount.latest("disk"), &bytes, 1 << 20);
    let file = mount.open("disk");
    let after = stats(&mount);
    assert_eq!((after.requests.bytes, after.requests.failed, after.open), (3 << 20, 0, 1));
    assert!(after.chunks.bytes >= 3 << 20 && after.chunks.capacity > after.chunks.bytes);
    assert!(after.storage.bytes >= 3 << 20 && after.maps.counts.loads == 1 && after.nodes.counts.loads == 1);
    drop(file);

    let shown = sandbox.run(&["mount", "--stats", mount.directory().to_str().expect("text")]);
    assert!(shown.contains("of 3.0 MiB, 0 failed") && shown.contains("Chunks "), "{shown}");
    let failed = sandbox.fails(&["mount", "--stats", "/"]);
    assert!(failed.contains("/ is not where a repository is mounted"), "{failed}");
    sandbox.fails(&["mount", "--stats", "/", "somewhere"]);

    mount.signal(Signal::USR1);
    wait_until("the server has told", || {
        mount.log().contains("Requests  ") && mount.log().contains("Nodes ")
    });
    assert_eq!(stats(&mount).pid, mount.pid(), "it goes on");
}

#[test]
fn a_reader_in_order_has_chunks_loaded_ahead_and_uses_them() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    let bytes = noise(2, 24 << 20);
    sandbox.back_up_bytes("disk", &bytes);
    let mount = sandbox.mount();
    // Past the page cache, so that the kernel reads nothing ahead by itself.
    read_direct(&mount, 128 << 10, (0..192).map(|at| at * (128 << 10)));
    let counts = stats(&mount).chunks.counts;
    assert!(counts.ahead * 2 > counts.loads, "most were loaded ahead: {counts:?}");
    assert_eq!((counts.ahead_used, counts.ahead_wasted, counts.failures), (counts.ahead, 0, 0));
    assert!(stats(&mount).storage.bytes < bytes.len() as u64 + (1 << 20), "nothing was read twice");
}

#[test]
fn readers_here_and_there_have_nothing_loaded_ahead() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    let bytes = noise(3, 64 << 20);
    sandbox.back_up_bytes("disk", &bytes);
    let mount = sandbox.mount();
    // 613 and 16,384 have no common factor: every block is met once, and none after its neighbour.
    read_direct(&mount, 4096, (0..3000u64).map(|at| at * 613 * 7 % 16_384 * 4096));
    let stats = stats(&mount);
    assert_eq!(stats.chunks.counts.ahead, 0, "{stats}");
    assert_eq!(stats.requests.reads, 3000);
}

#[test]
fn a_hole_costs_no_storage_and_no_cache() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    let disk = sandbox.file("disk.img", &noise(4, 1 << 20));
    OpenOptions::new().write(true).open(&disk).expect("open").set_len(1 << 30).expect("set_len");
    sandbox.back_up("disk", &disk);
    let mount = sandbox.mount();
    read_direct(&mount, 1 << 20, 1..2);
    let before = stats(&mount);
    read_direct(&mount, 1 << 20, (1..1024).map(|at| at << 20));
    let after = stats(&mount);
    assert_eq!(after.requests.reads - before.requests.reads, 1023);
    assert_eq!(
        (after.storage, after.chunks, after.maps.bytes),
        (before.storage, before.chunks, before.maps.bytes)
    );
}

/// Whether this process, and so a server that it starts, has the capability `CAP_SYS_RESOURCE`, number 24. Some containers withhold it from root.
fn has_resources() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("capabilities");
    let has = u64::from_str_radix(line.trim(), 16).expect("hex") >> 24 & 1 == 1;
    if !has {
        println!("WITHOUT CAP_SYS_RESOURCE: only that a server can do without it is tested");
    }
    has
}

#[test]
fn the_server_is_not_the_first_to_go_when_memory_is_short() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    sandbox.back_up_bytes("disk", b"x");
    let mount = sandbox.mount_in_background("mnt", &[]);
    let may = has_resources();
    let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", mount.pid())).expect("read");
    assert_eq!(read("oom_score_adj"), if may { "-500\n" } else { "0\n" });
    // The ninth field has PF_LOCAL_THROTTLE, which PR_SET_IO_FLUSHER sets.
    let flushes = |stat: &str| {
        let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
        fields.split(' ').nth(6).and_then(|flags| flags.parse::<u32>().ok()).expect("flags") & 0x0010_0000
            != 0
    };
    for task in fs::read_dir(format!("/proc/{}/task", mount.pid())).expect("threads") {
        let stat = fs::read_to_string(task.expect("thread").path().join("stat")).expect("stat");
        assert_eq!(flushes(&stat), may, "{stat}");
    }
}

#[test]
fn the_server_begins_with_an_allocator_that_keeps_little() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    sandbox.back_up_bytes("disk", b"x");
    // glibc puts ends of strings between them where they lie.
    let settings = |mount: &Mount| -> Vec<String> {
        let environment = fs::read(format!("/proc/{}/environ", mount.pid())).expect("environment");
        let environment = String::from_utf8_lossy(&environment).into_owned();
        let all = environment.split(['\0', ':', '=']);
        all.filter(|word| word.starts_with("glibc.malloc.")).map(str::to_owned).collect()
    };
    let own = settings(&sandbox.mount_in_background("behind", &[]));
    assert_eq!(own.len(), 3, "{own:?}");
    let foreground = sandbox.mount();
    assert_eq!(settings(&foreground), own);
    // It is called as it was.
    let line = fs::read(format!("/proc/{}/cmdline", foreground.pid())).expect("command");
    let words: Vec<_> = line.split(|byte| *byte == 0).collect();
    let own_name = fuse_tests::binary::copal().as_os_str().as_encoded_bytes();
    assert_eq!(words[..3], [own_name, b"mount", b"-f"]);
    let mut command = sandbox.copal();
    command.env("GLIBC_TUNABLES", "glibc.malloc.tcache_count=5");
    let beside = sandbox.try_mount(command, "beside").expect("a mount");
    assert_eq!(settings(&beside), [&["glibc.malloc.tcache_count".to_owned()], &own[..]].concat());
}

/// How many distinct chunks all archives of a repository need.
fn chunks(sandbox: &Sandbox) -> u64 {
    let repository = sandbox.open();
    let maps = Maps::new(repository.clone(), 16 << 20);
    let mut found = HashSet::new();
    for archive in repository.archives().expect("archives") {
        let record = repository.record(archive.id()).expect("record");
        let image = Image::of(&record.members[0], repository.config().span_shift);
        let walked = maps.walk(&image, &mut |kind, id, _| {
            if kind == BlobKind::Chunk {
                found.insert(id);
            }
        });
        walked.expect("maps");
    }
    found.len() as u64
}

#[test]
fn four_archives_of_a_disk_read_at_once_open_each_chunk_once() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    let mut bytes = noise(5, 16 << 20);
    let states: Vec<Vec<u8>> = (0..4)
        .map(|day| {
            bytes[day << 22..][..4096].copy_from_slice(&noise(day as u64 + 6, 4096));
            sandbox.back_up_at("disk", &format!("2026-11-1{day}T03:00:00Z"), &bytes);
            bytes.clone()
        })
        .collect();
    let distinct = chunks(&sandbox);
    let mount = sandbox.mount();
    std::thread::scope(|scope| {
        for (day, bytes) in states.iter().enumerate() {
            let path = mount.path(&format!("disk/2026111{day}T030000Z.img"));
            scope.spawn(move || check_all(&path, bytes, 1 << 20));
        }
    });
    let stats = stats(&mount);
    let opened = stats.chunks.counts.loads + stats.chunks.counts.ahead;
    assert_eq!(opened, distinct, "{stats}");
    assert!(stats.requests.bytes >= 64 << 20 && stats.storage.bytes < 20 << 20, "{stats}");
}
