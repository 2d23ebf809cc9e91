//! What is free on NTFS: overwritten, it leaves every file and the filesystem as they were; and where anything is doubtful, nothing is free.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::slice::from_ref;

use fuse_tests::devices::Mounted;
use fuse_tests::images::{Names, populate};
use fuse_tests::lean::restored;
use fuse_tests::noise::noise;
use fuse_tests::sandbox::Sandbox;
use fuse_tests::trees::{Tree, assert_same, scan};
use fuse_tests::volumes::{Volume, assert_none_copied, copied_by_partclone, number_after};
use fuse_tests::{requires, tool};

const MIB: u64 = 1 << 20;
/// Bytes of a record of the master file table, where sectors have 512.
const RECORD: usize = 1024;

/// A formatted image.
fn format(sandbox: &Sandbox, len: u64, args: &[&str]) -> PathBuf {
    let path = sandbox.path("ntfs.img");
    File::create(&path).and_then(|file| file.set_len(len)).expect("make file");
    let path_arg = [path.as_os_str()];
    let args = ["-q", "-F", "-f", "-L", "Größe"].iter().chain(args).map(std::ffi::OsStr::new);
    fuse_tests::process::tool("mkfs.ntfs", &args.chain(path_arg).collect::<Vec<_>>());
    path
}

fn with_mounted(sandbox: &Sandbox, image: &Path, options: &str, work: impl FnOnce(&Path)) {
    let mounted = Mounted::ntfs(options, image, &sandbox.mountpoint("look"));
    work(mounted.path());
    mounted.unmount();
}

fn tree_of(sandbox: &Sandbox, image: &Path) -> Tree {
    let mut tree = Tree::new();
    with_mounted(sandbox, image, "ro", |root| tree = scan(root));
    tree
}

/// Files of all sorts, and holes of all sizes between them where others were.
fn fill(root: &Path) {
    populate(root, Names::Text);
    let folder = root.join("pieces");
    fs::create_dir(&folder).expect("mkdir");
    for number in 0..120_u64 {
        let len = 700 + (number as usize * 7919) % 90_000;
        fs::write(folder.join(number.to_string()), noise(number, len)).expect("write");
    }
    for number in (0..120_u64).filter(|number| number % 3 != 0) {
        fs::remove_file(folder.join(number.to_string())).expect("remove");
    }
    let sparse = File::create(root.join("islands")).expect("create");
    for island in 0..20_u64 {
        sparse.write_all_at(&noise(island, 5000), island * 300_000 + 1234).expect("write");
    }
    compress(root);
}

/// Files in a directory whose files are compressed.
fn compress(root: &Path) {
    const COMPRESSED: [u8; 4] = 0x800_u32.to_be_bytes();
    let folder = root.join("compressed");
    fs::create_dir(&folder).expect("mkdir");
    let flags = rustix::fs::XattrFlags::empty();
    // Larger clusters than 4 KiB cannot be compressed.
    if rustix::fs::setxattr(&folder, "system.ntfs_attrib_be", &COMPRESSED, flags).is_ok() {
        fs::write(folder.join("text"), "the same again\n".repeat(40_000)).expect("write");
        fs::write(folder.join("noise"), noise(3, 200_000)).expect("write");
    }
}

/// All that must hold of a volume that was unmounted: what is free is all that the tools call free, and nobody misses it.
fn assert_free_is_not_missed(sandbox: &Sandbox, image: &Path) {
    let volume = Volume::load("ntfs", image);
    let usage = volume.usage();
    let info = tool!("ntfsinfo", "-m", "-f", image);
    let free = number_after(&info, "Free Clusters:") * number_after(&info, "Cluster Size:");
    assert_eq!(usage.free.bytes(), free, "{info}");
    assert_eq!(usage.label, "Größe");
    let before = tree_of(sandbox, image);
    let copy = sandbox.path("copy.img");
    volume.overwritten(&usage).write(&copy);
    tool!("ntfsfix", "-n", copy);
    assert_same(&before, &tree_of(sandbox, &copy));
    let restored = restored("ntfs", &copy, usage.free.as_slice());
    tool!("ntfsfix", "-n", restored.path());
    assert_same(&before, &tree_of(sandbox, restored.path()));
}

/// An image with files, unmounted.
fn filled(sandbox: &Sandbox, len: u64, args: &[&str]) -> PathBuf {
    let image = format(sandbox, len, args);
    with_mounted(sandbox, &image, "compression", fill);
    image
}

#[test]
fn nobody_misses_what_is_free() {
    requires!(fuse, root, "mkfs.ntfs", "ntfs-3g", ntfsfix, ntfsinfo, sfdisk);
    let geometries: [&[&str]; 6] = [
        &[],
        &["-c", "512"],
        &["-c", "2048"],
        &["-c", "65536"],
        &["-s", "4096", "-c", "4096"],
        &["-s", "1024", "-c", "8192"],
    ];
    for args in geometries {
        println!("{args:?}");
        let sandbox = Sandbox::bare();
        // No multiple of a cluster.
        let image = filled(&sandbox, 40 * MIB + 12_288, args);
        assert_free_is_not_missed(&sandbox, &image);
    }
}

#[test]
fn clusters_may_be_longer_than_128_sectors() {
    requires!(fuse, root, "mkfs.ntfs", "ntfs-3g", ntfsfix, ntfsinfo, sfdisk);
    let sandbox = Sandbox::bare();
    let image = format(&sandbox, 64 * MIB, &["-c", "262144"]);
    with_mounted(&sandbox, &image, "compression", |root| {
        for number in 0..9 {
            fs::write(root.join(number.to_string()), noise(number, 3 << 20)).expect("write");
        }
        (0..9).step_by(2).for_each(|number| fs::remove_file(root.join(number.to_string())).expect("remove"));
    });
    assert_free_is_not_missed(&sandbox, &image);
}

#[test]
fn other_tools_call_the_same_free() {
    requires!(fuse, root, "mkfs.ntfs", "ntfs-3g", ntfsclone, "partclone.ntfs");
    let sandbox = Sandbox::bare();
    let image = filled(&sandbox, 40 * MIB, &[]);
    let usage = Volume::load("ntfs", &image).usage();
    let copied = copied_by_partclone("partclone.ntfs", &image);
    assert_none_copied(&usage, &copied);
    let sum: u64 = copied.iter().map(|range| range.end - range.start).sum();
    assert!(usage.used.abs_diff(sum) <= 8192, "{} used, {sum} copied", usage.used);
    let clone = sandbox.path("clone.img");
    tool!("ntfsclone", "-q", "-O", clone, image);
    let before = tree_of(&sandbox, &image);
    let overwritten = Volume::load("ntfs", &clone).overwritten(&usage);
    overwritten.write(&clone);
    assert_same(&before, &tree_of(&sandbox, &clone));
}

#[test]
fn full_and_empty_filesystems() {
    requires!(fuse, root, "mkfs.ntfs", "ntfs-3g", ntfsfix, ntfsinfo, sfdisk);
    let sandbox = Sandbox::bare();
    let image = format(&sandbox, 12 * MIB, &[]);
    assert_free_is_not_missed(&sandbox, &image);
    with_mounted(&sandbox, &image, "compression", |root| {
        for number in 0..10_000 {
            match fs::write(root.join(number.to_string()), noise(number, 50_000)) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return,
                Err(error) => panic!("{error}"),
            }
        }
        panic!("it never gets full");
    });
    assert_free_is_not_missed(&sandbox, &image);
    assert!(Volume::load("ntfs", &image).usage().free.bytes() < 100_000);
}

#[test]
fn what_windows_may_go_on_with_is_not_trusted() {
    requires!(fuse, root, "mkfs.ntfs", "ntfs-3g");
    let sandbox = Sandbox::bare();
    let image = format(&sandbox, 24 * MIB, &[]);
    let hibernation = |sandbox: &Sandbox, content: &[u8]| {
        with_mounted(sandbox, &image, "compression", |root| {
            fs::write(root.join("HiberFil.sys"), content).expect("write");
        });
        Volume::load("ntfs", &image)
    };
    for magic in [&b"hibr"[..], b"HIBR", b"wake", b"RSTR"] {
        let head = [magic, &[0; 40_000]].concat();
        for content in [&head[..], &head[..100]] {
            assert_eq!(hibernation(&sandbox, content).distrust(), "Windows hibernates on it");
        }
    }
    let _ = hibernation(&sandbox, b"").usage();
    let _ = hibernation(&sandbox, &[0; 40_000]).usage();
    with_mounted(&sandbox, &image, "compression", |root| {
        fs::create_dir(root.join("folder")).expect("mkdir");
        fs::write(root.join("folder/hiberfil.sys"), "hibr").expect("write");
    });
    let volume = Volume::load("ntfs", &image);
    let _ = volume.usage();
    let shadows = volume.with(|bytes| {
        bytes[0x1e00..0x1e10]
            .copy_from_slice(b"\x6b\x87\x08\x38\x76\xc1\x48\x4e\xb7\xae\x04\x04\x6e\x6c\xc7\x52");
        bytes[0x1e32] = 1;
    });
    assert_eq!(shadows.distrust(), "it has shadow copies, which live in blocks that are free");
}

#[test]
fn a_volume_marked_dirty_is_not_trusted() {
    requires!("mkfs.ntfs");
    let sandbox = Sandbox::bare();
    let volume = Volume::load("ntfs", &format(&sandbox, 24 * MIB, &[]));
    for (flags, settled) in [(0x01, false), (0x02, false), (0x4000, false), (0x80, true), (0x8000, true)] {
        let marked = volume.with(|bytes| {
            for record in [table(bytes), mirror(bytes)].map(|start| start + 3 * RECORD) {
                let attribute = find_attribute(&bytes[record..], 0x70);
                let value = record + attribute + usize::from(bytes[record + attribute + 20]);
                bytes[value + 10..value + 12].copy_from_slice(&u16::to_le_bytes(flags));
            }
        });
        match marked.survey() {
            Ok(_) => assert!(settled, "{flags:#x}"),
            Err(error) => {
                assert!(!settled, "{flags:#x}");
                assert_eq!(error.to_string(), "it is marked as not unmounted cleanly");
            }
        }
    }
}

/// A restart page of the log, as Windows writes it.
fn restart_page(clients: u16, flags: u16) -> Vec<u8> {
    let mut page = vec![0; 4096];
    page[..8].copy_from_slice(b"RSTR\x1e\0\x09\0");
    page[16..32].copy_from_slice(b"\0\x10\0\0\0\x10\0\0\x30\0\x01\0\x01\0\x05\0");
    page[60..62].copy_from_slice(&clients.to_le_bytes());
    page[62..64].copy_from_slice(&flags.to_le_bytes());
    (1..=8).for_each(|sector| page[sector * 512 - 2] = 5);
    page
}

#[test]
fn only_a_closed_log_is_trusted() {
    requires!("mkfs.ntfs");
    let sandbox = Sandbox::bare();
    let volume = Volume::load("ntfs", &format(&sandbox, 24 * MIB, &[]));
    let usage = volume.usage();
    let mut bytes = volume.clone();
    let log = usage.fixed.iter().flat_map(|range| range.clone().step_by(512)).find(|at| {
        let at = *at as usize;
        bytes.bytes()[at..at + 65_536].iter().all(|byte| *byte == 0xff)
    });
    let log = log.expect("the head of the log is kept") as usize;
    let with = |pages: [Vec<u8>; 2]| {
        volume.with(|bytes| {
            bytes[log..log + (1 << 20)].fill(0);
            bytes[log..log + 8192].copy_from_slice(&pages.concat());
        })
    };
    let [closed, clean, open] =
        [(0xffff, 0), (0, 2), (0, 0)].map(|(clients, flags)| restart_page(clients, flags));
    for pages in [[closed.clone(), closed.clone()], [clean.clone(), clean.clone()], [clean, closed.clone()]] {
        assert_eq!(with(pages).usage().free, usage.free);
    }
    let reason = "its log was not closed, as after a crash or a fast shutdown of Windows";
    assert_eq!(with([closed.clone(), open.clone()]).distrust(), reason);
    assert_eq!(with([open, closed.clone()]).distrust(), reason);
    assert_eq!(with([closed.clone(), vec![0; 4096]]).distrust(), "its log is damaged");
    assert_eq!(with([vec![0xff; 4096], closed]).distrust(), "its log is damaged");
    assert_eq!(volume.with(|bytes| bytes[log + (1 << 20)] = 0).distrust(), "its log is damaged");
}

#[test]
fn damage_never_frees_a_cluster() {
    requires!(fuse, root, "mkfs.ntfs", "ntfs-3g");
    let sandbox = Sandbox::bare();
    let volume = Volume::load("ntfs", &filled(&sandbox, 24 * MIB, &[]));
    let mut bytes = volume.clone();
    let table = table(bytes.bytes()) as u64;
    let records = table..table + 26 * RECORD as u64;
    let mut ranges = volume.usage().fixed;
    ranges.retain(|range| range.end - range.start <= 16_384);
    let boot_and_records = [0..512, records];
    let files = table + 64 * 1024..table + 200 * 1024;
    // What is damaged, and how often at least that must be noticed: most bytes of records mean nothing here.
    let places = [
        (&boot_and_records[..], 1500, 200),
        (&ranges[..], 1000, 200),
        // Records of files.
        (from_ref(&files), 1000, 50),
    ];
    for (ranges, times, least) in places {
        let refused = volume.damaged(ranges, times);
        assert!(refused > least, "{refused} of {times} were refused: {ranges:?}");
    }
}

#[test]
fn each_structure_is_needed() {
    requires!(fuse, root, "mkfs.ntfs", "ntfs-3g");
    let sandbox = Sandbox::bare();
    let volume = Volume::load("ntfs", &filled(&sandbox, 24 * MIB, &[]));
    let usage = volume.usage();
    let len = volume.clone().bytes().len();
    let zeroed = |at: usize, len: usize| volume.with(|bytes| bytes[at..at + len].fill(0)).distrust();
    let mut copy = volume.clone();
    let (table, mirror) = (table(copy.bytes()), mirror(copy.bytes()));
    assert_eq!(zeroed(0, 512), "its boot sector makes no sense");
    assert_eq!(zeroed(len - 512, 512), "its boot sector and the copy of it differ");
    assert_eq!(zeroed(table, RECORD), "its master file table is damaged");
    assert_eq!(zeroed(table + 6 * RECORD, RECORD), "its master file table is damaged");
    assert_eq!(zeroed(mirror + RECORD, RECORD), "its master file table is damaged");
    let short = volume.with(|bytes| bytes.truncate(len - 512));
    assert_eq!(short.distrust(), "the filesystem is longer than what holds it");
    // The bitmap of clusters, wherever it lies: emptied it calls everything free, and from its middle on only files.
    let emptied = |range: &Range<u64>| {
        let range = range.start as usize..range.end as usize;
        volume.with(|bytes| bytes[range].fill(0)).distrust()
    };
    let bitmap =
        |range: &&Range<u64>| emptied(range) == "its bitmap calls the filesystem's own clusters free";
    let bitmap = usage.fixed.iter().find(bitmap).expect("a bitmap");
    let middle = bitmap.start + 100..bitmap.start + 300;
    assert_eq!(emptied(&middle), "a file lies in clusters that its bitmap calls free");
}

fn u64_at(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("within")) as usize
}

/// Where the master file table begins, and its mirror; clusters have 4096 bytes.
fn table(bytes: &[u8]) -> usize {
    u64_at(bytes, 48) * 4096
}

fn mirror(bytes: &[u8]) -> usize {
    u64_at(bytes, 56) * 4096
}

/// Where in a record an attribute begins.
fn find_attribute(record: &[u8], kind: u8) -> usize {
    let mut at = usize::from(record[20]);
    while record[at] != kind {
        at += usize::from(record[at + 4]) + 256 * usize::from(record[at + 5]);
    }
    at
}
