//! What is free on FAT12, FAT16, FAT32 and exFAT: overwritten, it leaves every file and the filesystem as they were; and where anything is doubtful, nothing is free.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::slice::from_ref;

use copal::partition::ReadAt;
use fuse_tests::devices::{LoopDevice, Mounted};
use fuse_tests::lean::restored;
use fuse_tests::noise::noise;
use fuse_tests::process::{run, tool};
use fuse_tests::sandbox::Sandbox;
use fuse_tests::trees::{Tree, assert_same, scan};
use fuse_tests::volumes::{Volume, assert_none_copied, copied_by_partclone, number_after};
use fuse_tests::{requires, tool};

const MIB: u64 = 1 << 20;

/// A formatted image.
fn format(sandbox: &Sandbox, program: &str, len: u64, args: &[&str]) -> PathBuf {
    let path = sandbox.path("volume.img");
    File::create(&path).and_then(|file| file.set_len(len)).expect("make file");
    let args: Vec<&OsStr> = args.iter().map(OsStr::new).chain([path.as_os_str()]).collect();
    tool(program, &args);
    path
}

/// Runs one of mtools on an image.
fn mtools(name: &str, image: &Path, args: &[&OsStr]) {
    tool(name, &[&["-i".as_ref(), image.as_os_str()], args].concat());
}

/// Files that fill about three quarters of `room` bytes, with holes of all sizes between them where others were.
fn fill_fat(sandbox: &Sandbox, image: &Path, room: usize) {
    let source = sandbox.path("source");
    fs::create_dir_all(source.join("Ordner mit langem Namen/tief")).expect("mkdir");
    fs::create_dir(source.join("gone")).expect("mkdir");
    for number in 0..60 {
        let folder = ["Ordner mit langem Namen", "Ordner mit langem Namen/tief", "gone"][number % 3];
        let len = room / 80 * (number % 7) / 3 + number * 13;
        let path = source.join(folder).join(format!("Datei Nummer {number}.bin"));
        fs::write(path, noise(number as u64, len)).expect("write");
    }
    for number in 0..60 {
        let folder = ["Ordner mit langem Namen", "Ordner mit langem Namen/tief", "gone"][number % 3];
        let to = format!("::/{folder}/");
        if number == 0 {
            for folder in ["Ordner mit langem Namen", "Ordner mit langem Namen/tief", "gone"] {
                mtools("mmd", image, &[format!("::/{folder}").as_ref()]);
            }
        }
        let from = source.join(folder).join(format!("Datei Nummer {number}.bin"));
        mtools("mcopy", image, &[from.as_os_str(), to.as_ref()]);
    }
    mtools("mdeltree", image, &["::/gone".as_ref()]);
}

/// All files that mtools finds.
fn tree_of_fat(sandbox: &Sandbox, image: &Path) -> Tree {
    let out = sandbox.path("out");
    fs::create_dir(&out).expect("mkdir");
    mtools("mcopy", image, &["-s".as_ref(), "-m".as_ref(), "::/".as_ref(), out.as_os_str()]);
    let mut tree = scan(&out);
    // The directory itself was made here.
    tree.remove(&b""[..]);
    fs::remove_dir_all(&out).expect("remove");
    tree
}

/// All that must hold of a volume that is whole: what is free is all that its checker calls free, and nobody misses it.
fn assert_fat_is_not_missed(sandbox: &Sandbox, image: &Path, cluster: u64) {
    let volume = Volume::load("vfat", image);
    let usage = volume.usage();
    let said = tool!("fsck.fat", "-vn", image);
    let (_, counts) = said.rsplit_once("files, ").expect("counts of clusters");
    let (used, all) = (number_after(counts, ""), number_after(counts, "/"));
    assert_eq!(usage.free.bytes(), (all - used) * cluster, "{said}");
    assert_eq!(usage.label, "GROESSE");
    let before = tree_of_fat(sandbox, image);
    // It reads the entries of FAT12, of 12 bits, as if they had 16.
    if volume.len() >= 16 * MIB {
        assert_none_copied(&usage, &copied_by_partclone("partclone.vfat", image));
    }
    let copy = sandbox.path("copy.img");
    volume.overwritten(&usage).write(&copy);
    tool!("fsck.fat", "-n", copy);
    assert_same(&before, &tree_of_fat(sandbox, &copy));
    let restored = restored("vfat", &copy, usage.free.as_slice());
    tool!("fsck.fat", "-n", restored.path());
    assert_same(&before, &tree_of_fat(sandbox, restored.path()));
}

/// Arguments of `mkfs.vfat`, the image's length, and bytes of a cluster.
const FATS: [(&[&str], u64, u64); 8] = [
    (&["-F", "12"], 1440 << 10, 512),
    (&["-F", "12", "-f", "1", "-s", "8"], 8 * MIB, 4096),
    (&["-F", "16"], 16 * MIB, 2048),
    (&["-F", "16", "-s", "1", "-r", "32"], 20 * MIB, 512),
    (&["-F", "16", "-S", "4096", "-s", "1"], 32 * MIB, 4096),
    (&["-F", "32", "-s", "1"], 40 * MIB, 512),
    (&["-F", "32", "-s", "1", "-f", "1"], 40 * MIB, 512),
    (&["-F", "32", "-S", "1024", "-s", "1", "-R", "64"], 72 * MIB, 1024),
];

fn formatted_fat(sandbox: &Sandbox, args: &[&str], len: u64) -> PathBuf {
    format(sandbox, "mkfs.vfat", len, &[args, &["-n", "GROESSE"]].concat())
}

#[test]
fn nobody_misses_what_is_free_on_fat() {
    requires!("mkfs.vfat", "fsck.fat", mcopy, "partclone.vfat", sfdisk);
    for (args, len, cluster) in FATS {
        println!("{args:?}");
        let sandbox = Sandbox::bare();
        let image = formatted_fat(&sandbox, args, len);
        if args[1] == "32" {
            assert_fat_is_not_missed(&sandbox, &image, cluster);
        }
        fill_fat(&sandbox, &image, len as usize);
        assert_fat_is_not_missed(&sandbox, &image, cluster);
    }
}

#[test]
fn a_full_fat_has_nothing_free() {
    requires!("mkfs.vfat", mcopy);
    let sandbox = Sandbox::bare();
    let image = formatted_fat(&sandbox, &["-F", "16"], 16 * MIB);
    mtools("mmd", &image, &["::/a".as_ref(), "::/b".as_ref()]);
    let free = Volume::load("vfat", &image).usage().free.bytes();
    let source = sandbox.file("all", &noise(1, free as usize));
    mtools("mcopy", &image, &[source.as_os_str(), "::/".as_ref()]);
    assert!(Volume::load("vfat", &image).usage().free.as_slice().is_empty());
}

#[test]
fn clusters_that_mkfs_calls_bad_are_used() {
    requires!("mkfs.vfat", mmd);
    let sandbox = Sandbox::bare();
    let list = sandbox.file("bad", b"2000\n2001\n9000\n");
    let list = format!("{}", list.display());
    let args = ["-F", "16", "-s", "4", "-l", &list];
    let [bad, good] = [&args[..], &args[..4]].map(|args| {
        let image = formatted_fat(&sandbox, args, 16 * MIB);
        mtools("mmd", &image, &["::/a".as_ref(), "::/b".as_ref()]);
        Volume::load("vfat", &image).usage()
    });
    let missing = good.free.bytes() - bad.free.bytes();
    assert!((2 * 2048..=3 * 2048).contains(&missing), "{missing}");
}

/// Bytes of a boot sector.
fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at]) + 256 * usize::from(bytes[at + 1])
}

/// Where the first table begins.
fn table(bytes: &[u8]) -> usize {
    u16_at(bytes, 14) * u16_at(bytes, 11)
}

#[test]
fn a_dirty_fat_is_not_trusted() {
    requires!("mkfs.vfat", mmd);
    let sandbox = Sandbox::bare();
    // Where the boot sector keeps the state, and the byte of the table that does.
    for (args, len, state, entry) in [("16", 16 * MIB, 0x25, 3), ("32", 40 * MIB, 0x41, 7)] {
        let image = formatted_fat(&sandbox, &["-F", args, "-s", "1", "-f", "1"], len);
        mtools("mmd", &image, &["::/a".as_ref(), "::/b".as_ref()]);
        let volume = Volume::load("vfat", &image);
        let _ = volume.usage();
        for bit in [1, 2] {
            assert_eq!(volume.with(|bytes| bytes[state] |= bit).distrust(), "it was not unmounted cleanly");
        }
        let flags: [u8; 2] = if entry == 3 { [0x80, 0x40] } else { [0x08, 0x04] };
        for flag in flags {
            let dirty = volume.with(|bytes| {
                let at = table(bytes) + entry;
                bytes[at] &= !flag;
            });
            assert_eq!(dirty.distrust(), "it was not unmounted cleanly");
        }
    }
}

#[test]
fn without_a_copy_of_the_boot_sector_a_directory_must_confirm_it() {
    requires!("mkfs.vfat", mcopy);
    let sandbox = Sandbox::bare();
    let image = formatted_fat(&sandbox, &["-F", "16", "-s", "4"], 20 * MIB);
    for folder in ["::/a", "::/b"] {
        let why = Volume::load("vfat", &image).distrust();
        assert_eq!(why, "it has no directory that shows where its clusters lie");
        mtools("mmd", &image, &[folder.as_ref()]);
    }
    let volume = Volume::load("vfat", &image);
    let _ = volume.usage();
    // Sectors of a cluster, reserved ones, copies of the table, entries of the root, sectors of a table.
    for (at, byte) in [(13, 8), (14, 1), (16, 1), (17, 16), (22, 100)] {
        let _ = volume.with(|bytes| bytes[at] = byte).distrust();
    }
}

#[test]
fn what_fat_says_must_agree() {
    requires!("mkfs.vfat", mcopy);
    let sandbox = Sandbox::bare();
    let image = formatted_fat(&sandbox, &["-F", "32", "-s", "1"], 40 * MIB);
    fill_fat(&sandbox, &image, 20 << 20);
    let mut volume = Volume::load("vfat", &image);
    let first = table(volume.bytes());
    let reason = |damage: &dyn Fn(&mut Vec<u8>)| volume.with(|bytes| damage(bytes)).distrust();
    assert_eq!(reason(&|bytes| bytes[first + 400] ^= 1), "the copies of its table of clusters differ");
    let both = |bytes: &mut Vec<u8>, at: usize, with: u8| {
        let second = first + u16_at(bytes, 36) * 512;
        [first, second].iter().for_each(|table| bytes[table + at] = with);
    };
    assert_eq!(reason(&|bytes| both(bytes, 0, 0)), "its table of clusters is damaged");
    // The root's entry, that of a folder in it, and one in the middle of the folder's file.
    assert_eq!(reason(&|bytes| (8..12).for_each(|at| both(bytes, at, 0))), "a file begins in a free cluster");
    assert_eq!(
        reason(&|bytes| (12..16).for_each(|at| both(bytes, at, 0))),
        "a file begins in a free cluster"
    );
    let follower = volume.with(|bytes| {
        // The number of an entry that goes on with the next one.
        let number = (20..9000).find(|number| u16_at(bytes, first + number * 4) == number + 1);
        (0..4).for_each(|at| both(bytes, (number.expect("a long file") + 1) * 4 + at, 0));
    });
    assert_eq!(follower.distrust(), "a chain of clusters leads to a free one");
    assert_eq!(reason(&|bytes| bytes[6 * 512 + 13] = 2), "its boot sector and the copy of it differ");
    assert_eq!(reason(&|bytes| bytes[512] = 0), "its information sector is damaged");
    assert!(reason(&|bytes| bytes[1000] ^= 1).starts_with("it counts "));
    assert_eq!(reason(&|bytes| bytes.truncate(39 << 20)), "the filesystem is longer than what holds it");
    assert_eq!(reason(&|bytes| bytes[..512].fill(0)), "its boot sector makes no sense");
    // A count that is not known is not compared.
    let _ = volume.with(|bytes| bytes[1000..1004].fill(0xff)).usage();
}

#[test]
fn damage_never_frees_a_cluster_of_fat() {
    requires!("mkfs.vfat", mcopy);
    for (args, len, _) in [FATS[0], FATS[1], FATS[2], FATS[6]] {
        let sandbox = Sandbox::bare();
        let image = formatted_fat(&sandbox, args, len);
        fill_fat(&sandbox, &image, len as usize);
        let volume = Volume::load("vfat", &image);
        let ranges = volume.usage().fixed;
        let behind = ranges.last().expect("a table").end;
        // Boot sector and table; then the root and the first directories.
        let directories = behind..behind + 32_768;
        for (ranges, least) in [(&ranges[..], 50), (from_ref(&directories), 1)] {
            let refused = volume.damaged(ranges, 300);
            assert!(refused >= least, "{refused} damages of {ranges:?} were refused");
        }
    }
}

fn with_exfat(sandbox: &Sandbox, image: &Path, options: &str, work: impl FnOnce(&Path)) {
    let device = LoopDevice::writable(image);
    let directory = sandbox.mountpoint("look");
    let program = fuse_tests::need::find_tool("mount.exfat-fuse").expect("mount.exfat-fuse");
    run(std::process::Command::new(program).args(["-o", options]).arg(device.path()).arg(&directory));
    let mounted = Mounted::over(&directory);
    work(mounted.path());
    mounted.unmount();
}

fn fill_exfat(root: &Path) {
    fs::create_dir_all(root.join("Größe/tief")).expect("mkdir");
    for number in 0..90_u64 {
        let folder = ["", "Größe", "Größe/tief"][number as usize % 3];
        let len = 700 + (number as usize * 7919) % 90_000;
        fs::write(root.join(folder).join(format!("Datei {number}")), noise(number, len)).expect("write");
    }
    for number in (0..90_u64).filter(|number| number % 5 < 2) {
        let folder = ["", "Größe", "Größe/tief"][number as usize % 3];
        fs::remove_file(root.join(folder).join(format!("Datei {number}"))).expect("remove");
    }
    // In several pieces.
    fs::write(root.join("large"), noise(9, 3 << 20)).expect("write");
    fs::write(root.join("empty"), "").expect("write");
}

fn tree_of_exfat(sandbox: &Sandbox, image: &Path) -> Tree {
    let mut tree = Tree::new();
    with_exfat(sandbox, image, "ro", |root| tree = scan(root));
    tree
}

fn filled_exfat(sandbox: &Sandbox, len: u64, args: &[&str]) -> PathBuf {
    let image = format(sandbox, "mkfs.exfat", len, &[&["-L", "Größe"], args].concat());
    with_exfat(sandbox, &image, "rw", fill_exfat);
    image
}

#[test]
fn nobody_misses_what_is_free_on_exfat() {
    requires!(
        fuse,
        root,
        loop,
        "mkfs.exfat",
        "fsck.exfat",
        "dump.exfat",
        "mount.exfat-fuse",
        losetup,
        sfdisk
    );
    let geometries: [(&[&str], u64); 4] = [
        (&[], 24 * MIB),
        (&["-c", "512"], 10 * MIB),
        (&["-c", "131072"], 64 * MIB),
        (&["-b", "1048576"], 24 * MIB),
    ];
    for (args, len) in geometries {
        println!("{args:?}");
        let sandbox = Sandbox::bare();
        let image = filled_exfat(&sandbox, len, args);
        let volume = Volume::load("exfat", &image);
        let usage = volume.usage();
        let said = tool!("dump.exfat", &image);
        let free = number_after(&said, "Free Clusters:") * number_after(&said, "Cluster size:");
        assert_eq!(usage.free.bytes(), free, "{said}");
        assert_eq!(usage.label, "Größe");
        let before = tree_of_exfat(&sandbox, &image);
        let copy = sandbox.path("copy.img");
        volume.overwritten(&usage).write(&copy);
        tool!("fsck.exfat", "-n", copy);
        assert_same(&before, &tree_of_exfat(&sandbox, &copy));
        let restored = restored("exfat", &copy, usage.free.as_slice());
        tool!("fsck.exfat", "-n", restored.path());
        assert_same(&before, &tree_of_exfat(&sandbox, restored.path()));
    }
}

#[test]
fn other_tools_call_the_same_free_on_exfat() {
    requires!(fuse, root, loop, "mkfs.exfat", "partclone.exfat", "mount.exfat-fuse", losetup);
    let sandbox = Sandbox::bare();
    let image = filled_exfat(&sandbox, 24 * MIB, &[]);
    let usage = Volume::load("exfat", &image).usage();
    assert_none_copied(&usage, &copied_by_partclone("partclone.exfat", &image));
}

#[test]
fn damage_never_frees_a_cluster_of_exfat() {
    requires!(fuse, root, loop, "mkfs.exfat", "mount.exfat-fuse", losetup);
    let sandbox = Sandbox::bare();
    let volume = Volume::load("exfat", &filled_exfat(&sandbox, 12 * MIB, &[]));
    let ranges = volume.usage().fixed;
    for range in ranges {
        let refused = volume.damaged(from_ref(&range), 500);
        assert!(refused > 5, "{refused} damages of {range:?} were refused");
    }
}

#[test]
fn what_exfat_says_must_agree() {
    requires!(fuse, root, loop, "mkfs.exfat", "mount.exfat-fuse", losetup);
    let sandbox = Sandbox::bare();
    let mut volume = Volume::load("exfat", &filled_exfat(&sandbox, 12 * MIB, &[]));
    // The bitmap's cluster is the first.
    let bitmap = u16_at(volume.bytes(), 88) * 512;
    let reason = |damage: &dyn Fn(&mut Vec<u8>)| volume.with(|bytes| damage(bytes)).distrust();
    assert_eq!(reason(&|bytes| bytes[106] |= 2), "it was not unmounted cleanly");
    assert_eq!(reason(&|bytes| bytes[106] |= 4), "it was marked as lying on a failing medium");
    assert_eq!(reason(&|bytes| bytes[106] |= 1), "it is of an unknown version");
    assert_eq!(reason(&|bytes| bytes[100] ^= 1), "the checksum of its boot sectors is wrong");
    assert_eq!(reason(&|bytes| bytes[12 * 512 + 700] ^= 1), "the checksum of its boot sectors is wrong");
    assert_eq!(reason(&|bytes| bytes.truncate(11 << 20)), "the filesystem is longer than what holds it");
    let usage = volume.usage();
    assert_eq!(
        reason(&|bytes| bytes[bitmap..bitmap + 512].fill(0)),
        "a file lies in clusters that its bitmap calls free"
    );
    // More in use than is needed is no harm.
    let fuller = volume.with(|bytes| bytes[bitmap..bitmap + 512].fill(0xff)).usage();
    assert!(fuller.free.bytes() < usage.free.bytes());
    volume.bytes()[112] = 0xff;
    let _ = volume.usage();
}
