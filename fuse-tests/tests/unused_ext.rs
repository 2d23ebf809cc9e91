//! Free blocks of ext2, ext3 and ext4, in the geometries that mke2fs makes: they are those that dumpe2fs lists, and without them everything is still there.

use std::ops::Range;
use std::path::{Path, PathBuf};

use copal::allocation::survey;
use fuse_tests::devices::{LoopDevice, Mounted};
use fuse_tests::images::{Names, populate};
use fuse_tests::lean::restored;
use fuse_tests::noise::Random;
use fuse_tests::sandbox::Sandbox;
use fuse_tests::stale::{Disk, churn, overwritten, stale_file};
use fuse_tests::trees::{Tree, assert_same, scan};
use fuse_tests::{process, requires, tool};

const LEN: u64 = 64 << 20;

/// A filesystem that was filled and emptied again.
struct Volume {
    sandbox: Sandbox,
    image: PathBuf,
    kind: &'static str,
}

impl Volume {
    fn new(kind: &'static str, args: &[&str]) -> Self {
        let volume = Self::unmounted(kind, args);
        let device = LoopDevice::writable(&volume.image);
        let mounted = Mounted::device(kind, "rw", device.path(), &volume.sandbox.mountpoint("fill"));
        populate(mounted.path(), Names::Bytes);
        churn(mounted.path(), 120, 300_000);
        mounted.unmount();
        drop(device);
        volume
    }

    /// As mke2fs makes it.
    fn unmounted(kind: &'static str, args: &[&str]) -> Self {
        let sandbox = Sandbox::bare();
        let image = sandbox.path("volume.img");
        stale_file(&image, LEN);
        let image_arg = image.to_string_lossy().into_owned();
        let all = [&["-q", "-F", "-E", "nodiscard", "-L", "Büro", "-t", kind], args, &[&image_arg]].concat();
        process::tool("mke2fs", &all.iter().map(std::convert::AsRef::as_ref).collect::<Vec<_>>());
        Self { sandbox, image, kind }
    }

    fn tree(&self, image: &Path) -> Tree {
        let device = LoopDevice::read_only(image);
        let mounted = Mounted::device(self.kind, "ro", device.path(), &self.sandbox.mountpoint("look"));
        let tree = scan(mounted.path());
        mounted.unmount();
        tree
    }

    /// What dumpe2fs lists as free, in bytes.
    fn free_by_dumpe2fs(&self) -> Vec<Range<u64>> {
        let dump = tool!("dumpe2fs", self.image);
        let field =
            |name: &str| dump.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        let block = field("Block size:").expect("it is told");
        // In clusters, a range ends with the first block of its last one.
        let unit = field("Cluster size:").unwrap_or(block);
        let mut free: Vec<Range<u64>> = Vec::new();
        // Those of groups are indented, the total is not.
        for range in
            dump.lines().filter_map(|line| line.strip_prefix("  Free blocks: ")).flat_map(|l| l.split(", "))
        {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let Ok(first) = first.trim().parse::<u64>() else { continue };
            let range = first * block..last.trim().parse::<u64>().expect("a number") * block + unit;
            match free.last_mut() {
                Some(before) if before.end == range.start => before.end = range.end,
                _ => free.push(range),
            }
        }
        free
    }

    /// Without what is free, the checker finds nothing wrong and every file is as it was.
    fn prove(&self) {
        let usage = Disk::of(&self.image).usage(self.kind);
        assert_eq!(usage.label, "Büro");
        assert_eq!(usage.free.as_slice(), self.free_by_dumpe2fs());
        let before = self.tree(&self.image);
        let copy = overwritten(&self.image, usage.free.as_slice());
        tool!("e2fsck", "-fn", copy);
        assert_same(&before, &self.tree(&copy));
        let restored = restored(self.kind, &copy, usage.free.as_slice());
        tool!("e2fsck", "-fn", restored.path());
        assert_same(&before, &self.tree(restored.path()));
    }
}

fn prove(kind: &'static str, args: &[&str]) {
    requires!(root, loop, "fs:ext4", mke2fs, e2fsck, dumpe2fs, losetup, mount, sfdisk);
    Volume::new(kind, args).prove();
}

/// One test for each geometry.
macro_rules! geometries {
    ($($name:ident: $kind:literal, $args:expr;)+) => {
        $(#[test] fn $name() { prove($kind, &$args); })+
    };
}

geometries! {
    ext4_as_it_is_made_today: "ext4", [];
    ext4_in_blocks_of_4_kib: "ext4", ["-b", "4096", "-g", "1024"];
    ext4_in_many_groups: "ext4", ["-g", "1024"];
    ext4_in_blocks_of_1_kib: "ext4", ["-b", "1024"];
    ext4_in_blocks_of_2_kib_whose_last_group_is_short: "ext4", ["-b", "2048", "-g", "3000", "-G", "4"];
    ext4_in_clusters: "ext4", ["-O", "bigalloc", "-C", "16384", "-g", "8192"];
    ext4_in_clusters_of_1_kib_blocks: "ext4", ["-O", "bigalloc", "-b", "1024", "-C", "8192", "-g", "8192"];
    ext4_of_32_bits: "ext4", ["-O", "^64bit,^metadata_csum", "-g", "1024"];
    ext4_of_32_bits_with_checksums: "ext4", ["-O", "^64bit,metadata_csum", "-g", "1024"];
    ext4_of_64_bits_with_wide_descriptors: "ext4", ["-O", "64bit", "-g", "1024", "-E", "desc_size=128"];
    ext4_without_flex_bg: "ext4", ["-O", "^flex_bg", "-g", "1024"];
    ext4_with_meta_bg: "ext4", ["-O", "meta_bg,^resize_inode", "-b", "1024", "-g", "256"];
    ext4_with_group_checksums_only: "ext4", ["-O", "^metadata_csum,uninit_bg", "-g", "1024"];
    ext4_without_checksums: "ext4", ["-O", "^metadata_csum,^uninit_bg", "-g", "1024"];
    ext4_with_two_superblock_copies: "ext4", ["-O", "sparse_super2", "-g", "1024"];
    ext4_with_superblock_copies_everywhere: "ext4", ["-O", "^sparse_super,^resize_inode", "-g", "1024"];
    ext4_with_a_stored_checksum_seed: "ext4", ["-O", "metadata_csum_seed", "-g", "1024"];
    ext4_with_multiple_mount_protection: "ext4", ["-O", "mmp"];
    ext4_with_inline_data_and_large_directories: "ext4", ["-O", "inline_data,ea_inode,large_dir"];
    ext4_without_a_journal: "ext4", ["-O", "^has_journal", "-g", "1024"];
    ext4_with_small_inodes: "ext4", ["-I", "128", "-N", "4000", "-g", "1024"];
    ext3_with_its_journal: "ext3", ["-g", "1024"];
    ext2_in_blocks_of_1_kib: "ext2", ["-b", "1024"];
    ext2_in_blocks_of_4_kib: "ext2", ["-b", "4096", "-g", "1024"];
}

#[test]
fn unwritten_bitmaps_are_made_from_the_structures() {
    requires!(mke2fs, dumpe2fs, e2fsck);
    for args in [
        &["-g", "1024"][..],
        &["-O", "^flex_bg", "-b", "1024", "-g", "512"],
        &["-b", "65536", "-g", "512"],
        &["-O", "quota"],
    ] {
        let volume = Volume::unmounted("ext4", args);
        let usage = Disk::of(&volume.image).usage("ext4");
        assert_eq!(usage.free.as_slice(), volume.free_by_dumpe2fs(), "{args:?}");
        tool!("e2fsck", "-fn", overwritten(&volume.image, usage.free.as_slice()));
    }
}

#[test]
fn what_lies_behind_the_filesystem_is_not_free() {
    requires!(mke2fs, resize2fs);
    let volume = Volume::unmounted("ext4", &["-g", "1024"]);
    tool!("e2fsck", "-fp", volume.image);
    tool!("resize2fs", volume.image, "40M");
    let usage = Disk::of(&volume.image).usage("ext4");
    assert!(usage.free.as_slice().last().expect("something is free").end <= 40 << 20);
    assert_eq!(usage.used + usage.free.bytes(), 40 << 20);
}

#[test]
fn a_full_filesystem_has_nothing_to_leave_out() {
    requires!(root, loop, "fs:ext4", mke2fs, dumpe2fs, losetup, mount);
    let volume = Volume::unmounted("ext4", &["-m", "0"]);
    let device = LoopDevice::writable(&volume.image);
    let mounted = Mounted::device("ext4", "rw", device.path(), &volume.sandbox.mountpoint("fill"));
    let filled = std::fs::write(mounted.path().join("all"), vec![7; LEN as usize]);
    assert_eq!(filled.expect_err("it is full").kind(), std::io::ErrorKind::StorageFull);
    mounted.unmount();
    drop(device);
    let usage = Disk::of(&volume.image).usage("ext4");
    assert_eq!(usage.free.as_slice(), volume.free_by_dumpe2fs());
    // The kernel keeps some clusters for itself.
    assert!(usage.free.bytes() < 4 << 20);
}

#[test]
fn a_frozen_filesystem_is_at_rest_and_a_mounted_one_is_not() {
    requires!(root, loop, "fs:ext4", mke2fs, losetup, mount, fsfreeze);
    for (kind, reason) in [("ext4", "its journal was not replayed"), ("ext2", "it was not unmounted cleanly")]
    {
        let volume = Volume::unmounted(kind, &[]);
        let device = LoopDevice::writable(&volume.image);
        let mounted = Mounted::device(kind, "rw", device.path(), &volume.sandbox.mountpoint("live"));
        churn(mounted.path(), 40, 100_000);
        assert_eq!(Disk::of(device.path()).distrust(kind), reason);
        if kind == "ext4" {
            tool!("fsfreeze", "--freeze", mounted.path());
            let frozen = Disk::of(device.path());
            tool!("fsfreeze", "--unfreeze", mounted.path());
            assert!(frozen.usage(kind).free.bytes() > LEN / 2);
        }
        mounted.unmount();
    }
}

#[test]
fn what_the_checker_would_have_to_repair_is_taken_whole() {
    requires!(mke2fs, debugfs);
    let states = [
        ("set_super_value state 0", "it was not unmounted cleanly"),
        ("set_super_value state 3", "errors were found in it, and not repaired since"),
        ("set_super_value state 5", "it was not unmounted cleanly"),
        ("set_super_value error_count 1", "errors were found in it, and not repaired since"),
        ("set_super_value last_orphan 12", "it was not unmounted cleanly"),
        ("set_super_value feature_incompat 0x2c6", "its journal was not replayed"),
        ("set_super_value feature_incompat 0x800002c2", "features that are not known"),
        ("set_super_value free_blocks_count 77", "its bitmaps do not fit"),
        ("set_super_value blocks_count 999999", "its superblock contradicts itself"),
        ("set_super_value journal_inum 0", "its journal is on another device"),
        ("set_super_value journal_inum 11", "journal"),
        ("setb 1013 1", "does not fit its count"),
        ("freeb 1", "does not fit its count"),
        ("set_block_group 3 free_blocks_count 5", "does not fit its count"),
        ("set_block_group 3 inode_table 99999999", "structures outside of it"),
        ("set_block_group 3 inode_table 1", "its structures overlap"),
    ];
    for (request, reason) in states {
        // debugfs leaves the checksum of a descriptor as it is.
        let plain = ["-O", "^metadata_csum,^uninit_bg", "-g", "1024"];
        let args = if request.starts_with("set_block_group") { &plain[..] } else { &plain[2..] };
        let volume = Volume::unmounted("ext4", args);
        tool!("debugfs", "-w", "-R", request, volume.image);
        let said = survey(&Disk::of(&volume.image), 0..LEN, "ext4").expect_err(request).to_string();
        assert!(said.contains(reason), "{request}: {said}");
    }
}

/// Bitmaps that are wrong by a pair of bits fit all counts.
#[test]
fn no_block_of_a_file_is_free_where_bitmaps_have_no_checksums() {
    requires!(mke2fs, debugfs);
    const GROUP: u64 = 1024;
    for (kind, features, block, first) in [
        ("ext4", "^metadata_csum,^uninit_bg", 4096, 0),
        ("ext4", "^metadata_csum,uninit_bg", 1024, 1),
        ("ext3", "^resize_inode", 1024, 1),
        ("ext2", "^resize_inode", 4096, 0),
        ("ext2", "^resize_inode", 1024, 1),
    ] {
        let args = ["-O", features, "-b", &block.to_string(), "-g", &GROUP.to_string()];
        let volume = Volume::unmounted(kind, &args);
        let content = volume.sandbox.path("content");
        std::fs::write(&content, vec![7; 300 * block as usize]).expect("write");
        let link = "x".repeat(100);
        for request in
            [format!("write {} file", content.display()), format!("symlink link {link}"), "mkdir dir".into()]
        {
            tool!("debugfs", "-w", "-R", request, volume.image);
        }
        let free = Disk::of(&volume.image).usage(kind).free;
        let blocks_of = |name: &str| -> Vec<u64> {
            let told = tool!("debugfs", "-R", format!("blocks {name}"), volume.image);
            told.split_whitespace().filter_map(|word| word.parse().ok()).collect()
        };
        // Data, and all lists of blocks that there are between it.
        let mut blocks: Vec<u64> = blocks_of("file").into_iter().step_by(13).collect();
        blocks.extend([blocks_of("link"), blocks_of("dir")].concat());
        assert!(blocks.len() > 20, "{blocks:?}");
        let mut tried = 0;
        for used in blocks {
            let group = first + (used - first) / GROUP * GROUP;
            let is_free = |at: &u64| free.as_slice().iter().any(|range| range.contains(&(at * block)));
            let Some(other) = (group..group + GROUP).find(is_free) else { continue };
            let script = volume.sandbox.path("script");
            std::fs::write(&script, format!("freeb {used}\nsetb {other}\n")).expect("write");
            tool!("debugfs", "-w", "-f", script, volume.image);
            assert_eq!(
                Disk::of(&volume.image).distrust(kind),
                "its bitmaps call blocks of files free",
                "{kind}, block {used}"
            );
            tried += 1;
            std::fs::write(&script, format!("setb {used}\nfreeb {other}\n")).expect("write");
            tool!("debugfs", "-w", "-f", script, volume.image);
        }
        assert!(tried > 10, "{kind}, {features}: {tried}");
        assert_eq!(Disk::of(&volume.image).usage(kind).free, free);
    }
}

#[test]
fn no_flipped_bit_goes_unnoticed_where_there_are_checksums() {
    requires!(mke2fs);
    let volume = Volume::unmounted("ext4", &["-g", "1024", "-O", "^uninit_bg,metadata_csum"]);
    let whole = Disk::of(&volume.image);
    let usage = whole.usage("ext4");
    let mut disk = whole.clone();
    let mut random = Random::new(5);
    for fixed in &usage.fixed {
        // Boot code is anybody's.
        let bytes = if fixed.start == 0 { 1024..2048 } else { fixed.clone() };
        for _ in 0..200 {
            let at = (bytes.start + random.number() % (bytes.end - bytes.start)) as usize;
            disk.0[at] ^= 1 << random.below(8);
            // Of the journal's first block only a little counts.
            if let Ok(found) = survey(&disk, 0..LEN, "ext4") {
                assert_eq!(found.free, usage.free, "byte {at}");
            }
            disk.0[at] = whole.0[at];
        }
    }
}

#[test]
fn nothing_panics_on_what_is_hostile() {
    requires!(mke2fs);
    let mut random = Random::new(6);
    for args in [
        &["-O", "^metadata_csum,^uninit_bg", "-g", "1024"][..],
        &["-O", "^metadata_csum,bigalloc", "-g", "8192"],
    ] {
        let volume = Volume::unmounted("ext4", args);
        let whole = Disk::of(&volume.image);
        let fixed = whole.usage("ext4").fixed;
        for _ in 0..100 {
            let mut disk =
                Disk(whole.0[..random.below(16) * (LEN as usize / 16) + LEN as usize / 16].to_vec());
            for _ in 0..=random.below(3) {
                let range = &fixed[random.below(fixed.len())];
                let at = (range.start + random.number() % (range.end - range.start).min(2048)) as usize;
                let value = [0, 0xff, 0x80, 1][random.below(4)];
                disk.0.iter_mut().skip(at).take(1 << random.below(3)).for_each(|byte| *byte = value);
            }
            if let Ok(usage) = survey(&disk, 0..disk.0.len() as u64, "ext4") {
                assert!(usage.free.as_slice().iter().all(|range| range.end <= disk.0.len() as u64));
            }
        }
    }
}

#[test]
fn a_filesystem_that_was_cut_off_is_taken_whole() {
    requires!(mke2fs);
    let volume = Volume::unmounted("ext4", &["-g", "1024"]);
    let mut disk = Disk::of(&volume.image);
    disk.0.truncate(LEN as usize - 4096);
    assert_eq!(disk.distrust("ext4"), "the filesystem is longer than what holds it");
}
