//! `create --skip-unused`, from disks with partitions to what is restored: smaller, and with every file.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use copal::archiver::create::{CreateOptions, Created, create};
use copal::archiver::{Monitor, ReadErrors, Stop};
use copal::format::name::ArchiveName;
use copal::source::SourceSpec;
use fuse_tests::devices::{LoopDevice, Mounted};
use fuse_tests::images::{Names, populate};
use fuse_tests::lean::divide;
use fuse_tests::process::run;
use fuse_tests::sandbox::{Archiving, Sandbox};
use fuse_tests::stale::{churn, stale_file};
use fuse_tests::trees::{Tree, assert_same, scan};
use fuse_tests::{requires, tool};
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// Where the file system and the swap area lie on [`disk`], and how long both are.
const EXT4: u64 = MIB;
const EXT4_LEN: u64 = 48 * MIB;
const SWAP: u64 = 50 * MIB;
const SWAP_LEN: u64 = 8 * MIB;
const DISK_LEN: u64 = 64 * MIB;

const GPT: &str = "label: gpt\nstart=1MiB, size=48MiB, type=L\nstart=50MiB, size=8MiB, type=S\n";
/// Both are logical partitions.
const MBR: &str = "label: dos\nstart=512KiB, size=63MiB, type=E\nstart=1MiB, size=48MiB, type=L\nstart=50MiB, size=8MiB, type=S\n";

/// Copies bytes from one file's offset to another's.
fn copy(from: &Path, at: u64, len: u64, to: &Path, offset: u64) {
    let mut bytes = vec![0; len as usize];
    File::open(from).and_then(|file| file.read_exact_at(&mut bytes, at)).expect("read");
    let to = File::options().write(true).create(true).truncate(false).open(to).expect("open");
    to.write_all_at(&bytes, offset).expect("write");
}

/// A disk full of stale data with a file system and a swap area in two partitions.
fn disk(sandbox: &Sandbox, table: &str) -> PathBuf {
    let (part, swap, disk) = (sandbox.path("part.img"), sandbox.path("swap.img"), sandbox.path("disk.img"));
    stale_file(&part, EXT4_LEN);
    tool!("mke2fs", "-q", "-F", "-t", "ext4", "-L", "root", "-E", "nodiscard", part);
    let device = LoopDevice::writable(&part);
    let mounted = Mounted::device("ext4", "rw", device.path(), &sandbox.mountpoint("fill"));
    populate(mounted.path(), Names::Bytes);
    churn(mounted.path(), 100, 200_000);
    mounted.unmount();
    drop(device);
    stale_file(&swap, SWAP_LEN);
    tool!("mkswap", "-L", "swap", swap);
    stale_file(&disk, DISK_LEN);
    divide(&disk, table);
    copy(&part, 0, EXT4_LEN, &disk, EXT4);
    copy(&swap, 0, SWAP_LEN, &disk, SWAP);
    disk
}

/// All files of the partition, which the checker finds nothing wrong with.
fn files_of(sandbox: &Sandbox, disk: &Path) -> Tree {
    let part = disk.with_extension("cut");
    copy(disk, EXT4, EXT4_LEN, &part, 0);
    tool!("e2fsck", "-fn", part);
    let device = LoopDevice::read_only(&part);
    let mounted = Mounted::device("ext4", "ro", device.path(), &sandbox.mountpoint("look"));
    let tree = scan(mounted.path());
    mounted.unmount();
    tree
}

fn skipping(sandbox: &Sandbox, name: &str, source: &Path) -> Value {
    sandbox.create(Archiving { name, sources: &[source.as_os_str()], args: &["--skip-unused"] })
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is a number"))
}

/// What is left out is zero now, the rest is as it was.
fn assert_zeroed(source: &Path, restored: &Path, left_out: u64) {
    let (source, restored) = (fs::read(source).expect("read"), fs::read(restored).expect("read"));
    assert_eq!(source.len(), restored.len());
    let mut zeroed = 0;
    for (number, (before, after)) in source.chunks(4096).zip(restored.chunks(4096)).enumerate() {
        if before != after {
            assert!(after.iter().all(|byte| *byte == 0), "block {number} differs");
            zeroed += after.len() as u64;
        }
    }
    assert!(zeroed <= left_out && zeroed > 0, "{zeroed} of {left_out} bytes");
}

fn prove(table: &str, numbers: [u64; 2]) {
    requires!(root, loop, "fs:ext4", mke2fs, e2fsck, mkswap, sfdisk, losetup, mount);
    let sandbox = Sandbox::new();
    let disk = disk(&sandbox, table);
    let original = files_of(&sandbox, &disk);
    let whole = sandbox.back_up("whole", &disk);
    let lean = skipping(&sandbox, "lean", &disk);
    assert!(number(&lean["data"]) < number(&whole["data"]) / 2, "{lean}");
    assert!(number(&lean["read"]) < number(&whole["read"]) / 2, "{lean}");
    let volumes = lean["volumes"].as_array().expect("a list");
    for (volume, (kind, partition)) in volumes.iter().zip(["ext4", "swap"].into_iter().zip(numbers)) {
        assert_eq!((volume["filesystem"].as_str(), number(&volume["partition"])), (Some(kind), partition));
        assert!(volume["whole"].is_null(), "{volume}");
    }
    assert_eq!(volumes.len(), 2);
    assert_eq!(number(&volumes[1]["left_out"]), SWAP_LEN - 4096);
    let used = number(&volumes[0]["used"]) + number(&volumes[0]["left_out"]);
    assert!(used <= EXT4_LEN && used > EXT4_LEN - 2 * MIB, "{volumes:?}");
    let sum: u64 = volumes.iter().map(|volume| number(&volume["left_out"])).sum();
    assert_eq!(number(&lean["left_out"]), sum);

    tool!("cmp", disk, sandbox.extract("whole"));
    let restored = sandbox.extract("lean");
    assert_zeroed(&disk, &restored, number(&lean["left_out"]));
    assert_same(&original, &files_of(&sandbox, &restored));

    let told = |archive: &str, json: &[&str]| {
        sandbox.run(&[&["info"][..], json, &[&sandbox.reference(archive)]].concat())
    };
    assert!(told("lean", &[]).contains("Left out") && !told("whole", &[]).contains("Left out"));
    let info: Value = serde_json::from_str(&told("lean", &["--json"])).expect("JSON");
    assert_eq!(info["members"][0]["left_out"], lean["left_out"]);
    // What is told to people names the same.
    let table =
        sandbox.run(&["create", "--skip-unused", &sandbox.reference("again"), &disk.to_string_lossy()]);
    assert!(
        table.contains("LEFT OUT") && table.contains("root") && !table.contains("taken whole"),
        "{table}"
    );
}

#[test]
fn a_gpt_disk_comes_back_with_all_its_files() {
    prove(GPT, [1, 2]);
}

#[test]
fn logical_partitions_come_back_with_all_their_files() {
    prove(MBR, [5, 6]);
}

/// Why each volume was taken whole; nothing was left out.
fn reasons(created: &Value) -> Vec<String> {
    assert_eq!(number(&created["left_out"]), 0, "{created}");
    let volumes = created["volumes"].as_array().expect("a list").iter();
    volumes.map(|volume| volume["whole"].as_str().expect("a reason").to_owned()).collect()
}

#[test]
fn a_file_that_somebody_may_write_is_taken_whole() {
    requires!(root, loop, "fs:ext4", mke2fs, mkswap, sfdisk, losetup, mount);
    let sandbox = Sandbox::plain();
    let disk = disk(&sandbox, GPT);
    let writer = File::options().append(true).open(&disk).expect("open");
    let said = reasons(&skipping(&sandbox, "open", &disk));
    assert!(said.iter().all(|why| why.contains("has it open for writing")) && said.len() == 2, "{said:?}");
    drop(writer);
    let device = LoopDevice::writable(&disk);
    let said = reasons(&skipping(&sandbox, "loop", &disk));
    assert!(said.iter().all(|why| why.contains("the writable loop device")), "{said:?}");
    // A device that nobody else has is at rest.
    assert!(number(&skipping(&sandbox, "device", device.path())["left_out"]) > EXT4_LEN / 2);
    drop(device);
    let _reader = LoopDevice::read_only(&disk);
    assert!(number(&skipping(&sandbox, "closed", &disk)["left_out"]) > EXT4_LEN / 2);
}

#[test]
fn a_mounted_file_system_is_taken_whole() {
    requires!(root, loop, "fs:ext4", mke2fs, mkswap, sfdisk, losetup, mount);
    let sandbox = Sandbox::plain();
    let disk = disk(&sandbox, GPT);
    let part = ["--offset", "1048576", "--sizelimit", "50331648"];
    let device = LoopDevice::attach(&disk, &part);
    let mounted = Mounted::device("ext4", "rw", device.path(), &sandbox.mountpoint("live"));
    let said = reasons(&skipping(&sandbox, "file", &disk));
    assert!(said.iter().all(|why| why.contains("the writable loop device")), "{said:?}");
    let mut copal = sandbox.copal();
    copal.args(["create", "--json", "--skip-unused"]).arg(sandbox.reference("device")).arg(device.path());
    let output = output_of(&mut copal);
    assert_eq!(reasons(&output), ["something else holds the device"]);
    mounted.unmount();
}

/// What a create said that had something to warn of.
fn output_of(command: &mut Command) -> Value {
    let output = command.output().expect("copal runs");
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Writes once while the first pass is under way.
struct Meddler {
    done: AtomicBool,
    write: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Meddler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meddler")
    }
}

impl Monitor for Meddler {
    fn total(&self, _: u64) {}

    fn advanced(&self, _: u64, _: u64) {
        if !self.done.swap(true, Ordering::SeqCst) {
            (self.write)();
        }
    }
}

/// Creates an archive while one byte of `source` is written.
fn meddled(sandbox: &Sandbox, source: &Path, written: &Path, offset: u64) -> Created {
    let written = File::options().read(true).open(written).map(|_| written.to_owned()).expect("it is there");
    let write = move || {
        let file = File::options().write(true).open(&written).expect("open");
        file.write_all_at(b"M", offset).and_then(|()| file.sync_all()).expect("write");
    };
    let meddler = Meddler { done: AtomicBool::new(false), write: Box::new(write) };
    let name = ArchiveName::new("disk").expect("a name");
    let options = CreateOptions {
        name: name.clone(),
        members: vec![(name, SourceSpec::Path(source.to_owned()))],
        comment: String::new(),
        tags: Vec::new(),
        time: None,
        compression: copal::codec::compress::Compression::None,
        chunker: None,
        dry_run: false,
        read_errors: ReadErrors::Stop,
        force_read: false,
        source_token: String::new(),
        changed: None,
        skip_unused: true,
    };
    create(&sandbox.open(), &options, &Stop::default(), &meddler).expect("create")
}

#[test]
fn what_is_written_to_meanwhile_is_taken_whole_in_another_pass() {
    requires!(root, loop, "fs:ext4", mke2fs, mkswap, sfdisk, losetup, mount, cmp);
    let sandbox = Sandbox::plain();
    let disk = disk(&sandbox, GPT);
    // The label of the swap area, by way of the file: which volume it is in cannot be told from the file's times.
    let created = meddled(&sandbox, &disk, &disk, SWAP + 1024 + 28);
    assert!(created.warnings.iter().any(|warning| warning.contains("was written to while it was read")));
    assert!(created.unused.iter().all(|volume| volume.whole.is_some()), "{:?}", created.unused);
    tool!("cmp", disk, sandbox.extract("disk"));

    // By way of a device, only the volume that was written to is taken whole.
    fs::remove_file(sandbox.path("disk.extracted")).expect("remove");
    let device = LoopDevice::writable(&disk);
    let created = meddled(&sandbox, device.path(), device.path(), SWAP + 1024 + 29);
    let whole: Vec<_> = created.unused.iter().map(|volume| volume.whole.is_some()).collect();
    assert_eq!(whole, [false, true], "{:?}", created.unused);
    assert_zeroed(&disk, &sandbox.extract("disk"), created.record.members[0].left_out);
}

#[test]
fn a_file_that_did_not_change_is_not_read_for_the_blocks_in_use_again() {
    requires!(root, loop, "fs:ext4", mke2fs, mkswap, sfdisk, losetup, mount, times);
    let sandbox = Sandbox::new();
    let disk = disk(&sandbox, GPT);
    // Times that lie back far enough to tell of every change.
    std::thread::sleep(Duration::from_secs(4));
    let first = skipping(&sandbox, "lean", &disk);
    assert!(number(&first["read"]) > 0 && number(&first["left_out"]) > 0, "{first}");
    let again = skipping(&sandbox, "lean", &disk);
    assert_eq!((number(&again["read"]), &again["reused"][0]["unchanged"]), (0, &true.into()), "{again}");
    assert_eq!((&again["left_out"], &again["volumes"]), (&first["left_out"], &first["volumes"]));
    let restored = sandbox.extract("lean");
    assert_zeroed(&disk, &restored, number(&again["left_out"]));
    fs::remove_file(restored).expect("remove");

    // Who wants all gets all, and who wants less does not get that.
    let whole = sandbox.back_up("lean", &disk);
    assert!(
        number(&whole["read"]) > number(&first["read"]) && whole["reused"] == serde_json::json!([]),
        "{whole}"
    );
    tool!("cmp", &disk, sandbox.extract("lean"));
    let third = skipping(&sandbox, "lean", &disk);
    assert_eq!((&third["read"], &third["left_out"]), (&first["read"], &first["left_out"]));

    // Of a file that somebody may write, everything is wanted.
    let writer = fs::File::options().write(true).open(&disk).expect("open");
    let restless = skipping(&sandbox, "lean", &disk);
    assert_eq!((number(&restless["left_out"]), &restless["read"]), (0, &whole["read"]), "{restless}");
    drop(writer);
    let changed = skipping(&sandbox, "lean", &disk);
    assert_eq!(changed["read"], first["read"], "what was taken whole is no archive of the blocks in use");
}

#[test]
fn a_stream_is_refused() {
    let sandbox = Sandbox::plain();
    let mut copal = sandbox.copal();
    copal.args(["create", "--skip-unused"]).arg(sandbox.reference("stream")).arg("-").stdin(Stdio::null());
    let output = copal.output().expect("copal runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("is a stream"), "{said}");
    let listed = run(sandbox.copal().args(["list", "--json"]).arg(sandbox.repository())).stdout;
    let listed: Value = serde_json::from_slice(&listed).expect("JSON");
    assert_eq!(listed["archives"].as_array().map(Vec::len), Some(0));
}
