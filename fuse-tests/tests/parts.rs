//! `TIMESTAMP.parts/`: the partitions of images as files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use copal::fuse::stats::Stats;
use fuse_tests::damage::flip_chunk_at;
use fuse_tests::devices::{LoopDevice, Mounted};
use fuse_tests::images::{Names, PARTITION, PARTITION_LEN, assert_names, empty_file, gpt, partition};
use fuse_tests::mounted::Mount;
use fuse_tests::noise::noise;
use fuse_tests::process::tool;
use fuse_tests::reading::{check_all, check_random, data_ranges, total};
use fuse_tests::requires;
use fuse_tests::sandbox::{Archiving, Sandbox};
use fuse_tests::trees::{assert_same, scan};

/// What a directory of parts shows: sizes by name.
fn listed(path: &Path) -> BTreeMap<String, u64> {
    let entries = fs::read_dir(path).expect("list").map(|entry| entry.expect("entry"));
    entries
        .map(|entry| {
            let name = entry.file_name().into_string().expect("text");
            (name, entry.metadata().expect("stat").len())
        })
        .collect()
}

fn names(path: &Path) -> Vec<String> {
    listed(path).into_keys().collect()
}

fn notes(mount: &Mount, name: &str) -> String {
    fs::read_to_string(mount.path(&format!("{name}/latest.parts/notes.txt"))).expect("notes")
}

#[test]
fn a_part_is_a_file_that_can_be_mounted_by_itself() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", sfdisk, losetup, mount);
    let sandbox = Sandbox::new();
    let image = gpt(&sandbox);
    sandbox.back_up_at("other", "2026-11-20T03:00:00Z", b"x");
    sandbox.back_up("gpt", &image);
    let mount = sandbox.mount();
    let parts = mount.path("gpt/latest.parts");
    assert_eq!(listed(&parts), BTreeMap::from([("1-root.img".to_owned(), PARTITION_LEN)]));
    let part = parts.join("1-root.img");
    let bytes = fs::read(&image).expect("read");
    let range = PARTITION as usize..(PARTITION + PARTITION_LEN) as usize;
    check_all(&part, &bytes[range.clone()], 1 << 20);
    let file = File::open(&part).expect("open");
    check_random(&file, &bytes[range], 1, 500);
    assert_eq!(file.read_at(&mut [0; 9], PARTITION_LEN).expect("read"), 0);
    assert!(fs::OpenOptions::new().write(true).open(&part).is_err());

    let tree = |image: &Path, args: &[&str]| {
        let device = LoopDevice::attach(image, &[&["--read-only"], args].concat());
        let mounted = Mounted::device("ext4", "ro,noload", device.path(), &sandbox.mountpoint("look"));
        let tree = scan(mounted.path());
        mounted.unmount();
        tree
    };
    let offset = [format!("--offset={PARTITION}"), format!("--sizelimit={PARTITION_LEN}")];
    let original = tree(&image, &offset.each_ref().map(String::as_str));
    assert_names(&original, Names::Bytes);
    assert_same(&original, &tree(&part, &[]));
}

#[test]
fn a_part_has_its_own_holes_and_size_on_disk() {
    requires!(fuse, root, sfdisk);
    let sandbox = Sandbox::plain();
    let image = sandbox.path("disk");
    // The old way of DOS: a partition that begins off the grid of holes.
    let (first, second): (u64, u64) = (63 * 512, 40 << 20);
    empty_file(&image, 64 << 20);
    partition(&image, "label: dos\nstart=63, size=40000, type=83\nstart=81920, size=40960, type=83\n");
    let file = File::options().write(true).open(&image).expect("open");
    let data: [(u64, u64); 4] =
        [(first, 5000), (first + (9 << 20), 1 << 20), (second + (3 << 20), 4096), (63 << 20, 1 << 20)];
    for (number, (offset, len)) in data.into_iter().enumerate() {
        file.write_all_at(&noise(number as u64, len as usize), offset).expect("write");
    }
    sandbox.back_up("disk", &image);
    let mount = sandbox.mount();
    let whole = data_ranges(File::open(mount.latest("disk")).expect("open"));
    for (name, start, len) in [("1-linux.img", first, 40000 * 512), ("2-linux.img", second, 40960 * 512)] {
        let part = mount.path("disk/latest.parts").join(name);
        let file = File::open(&part).expect("open");
        let inside = |at: u64| at.clamp(start, start + len) - start;
        let expected: Vec<_> = whole.iter().map(|range| inside(range.start)..inside(range.end)).collect();
        let expected: Vec<_> = expected.into_iter().filter(|range| !range.is_empty()).collect();
        let found = data_ranges(&file);
        assert_eq!(found, expected, "{name}");
        let stat = file.metadata().expect("stat");
        assert_eq!((stat.len(), stat.blocks()), (len, total(&found).div_ceil(512)), "{name}");
        let bytes = fs::read(&image).expect("read")[start as usize..(start + len) as usize].to_vec();
        check_all(&part, &bytes, 300_000);
    }
}

#[test]
fn logical_partitions_are_parts_and_what_holds_them_is_none() {
    requires!(fuse, root, sfdisk);
    let sandbox = Sandbox::plain();
    let image = sandbox.path("disk");
    empty_file(&image, 32 << 20);
    let table = "label: dos\nstart=2048, size=8192, type=83\nstart=10240, size=40960, type=5\nstart=12288, size=4096, type=82\nstart=20480, size=4096, type=7\n";
    partition(&image, table);
    sandbox.back_up("disk", &image);
    let mount = sandbox.mount();
    let parts = listed(&mount.path("disk/latest.parts"));
    let expected = [("1-linux.img", 8192), ("5-swap.img", 4096), ("6-hpfs-ntfs-exfat.img", 4096)];
    assert_eq!(parts, expected.map(|(name, sectors)| (name.to_owned(), sectors * 512)).into());
}

#[test]
fn a_disk_without_a_table_is_one_part_if_it_has_a_filesystem() {
    requires!(fuse, root, "mkfs.ext4");
    let sandbox = Sandbox::plain();
    let image = sandbox.path("ext");
    empty_file(&image, 8 << 20);
    tool("mkfs.ext4", &["-q".as_ref(), "-L".as_ref(), "Büro 1".as_ref(), image.as_os_str()]);
    sandbox.back_up("ext", &image);
    sandbox.back_up_bytes("noise", &noise(1, 1 << 20));
    sandbox.back_up_bytes("empty", b"");
    let mount = sandbox.mount();
    assert_eq!(listed(&mount.path("ext/latest.parts")), [("1-büro-1.img".to_owned(), 8 << 20)].into());
    check_all(&mount.path("ext/latest.parts/1-büro-1.img"), &fs::read(&image).expect("read"), 1 << 20);
    for name in ["noise", "empty"] {
        assert!(names(&mount.path(&format!("{name}/latest.parts"))).is_empty(), "{name}");
    }
}

#[test]
fn a_damaged_table_shows_what_it_has_and_says_what_is_wrong() {
    requires!(fuse, root, sfdisk);
    let sandbox = Sandbox::plain();
    let whole = sandbox.path("whole");
    empty_file(&whole, 16 << 20);
    partition(
        &whole,
        "label: gpt\nstart=2048, size=4096, type=L, name=one\nstart=8192, size=16384, type=L, name=two\n",
    );
    let bytes = fs::read(&whole).expect("read");
    let mut primary = bytes.clone();
    primary[512 + 60] ^= 1;
    let mut headers = primary.clone();
    let last = headers.len() - 512;
    headers[last + 60] ^= 1;
    let mut both = headers.clone();
    both[1024 + 40] ^= 1;
    both[last - 32 * 512 + 40] ^= 1;
    let mut gone = bytes.clone();
    gone[last - 32 * 512..].fill(0);
    // A further partition, with an empty ext2, that only the MBR has.
    let mut hybrid = bytes.clone();
    hybrid[446 + 16 + 4] = 0x83;
    hybrid[446 + 16 + 8..446 + 16 + 16].copy_from_slice(&[0, 0x68, 0, 0, 0, 0x08, 0, 0]);
    let superblock = 26624 * 512 + 1024;
    hybrid[superblock + 4] = 1;
    hybrid[superblock + 56..superblock + 59].copy_from_slice(b"\x53\xef\x02");
    sandbox.back_up_bytes("headers", &headers);
    sandbox.back_up_bytes("gone", &gone);
    sandbox.back_up_bytes("hybrid", &hybrid);
    sandbox.back_up_bytes("primary", &primary);
    sandbox.back_up_bytes("both", &both);
    sandbox.back_up_bytes("cut", &bytes[..10 << 20]);
    let mount = sandbox.mount();
    assert_eq!(names(&mount.path("primary/latest.parts")), ["1-one.img", "2-two.img", "notes.txt"]);
    assert!(notes(&mount, "primary").contains("its backup at the disk's end is used"));
    assert_eq!(names(&mount.path("both/latest.parts")), ["notes.txt"]);
    assert!(notes(&mount, "both").contains("neither copy"));
    assert_eq!(names(&mount.path("headers/latest.parts")), ["1-one.img", "2-two.img", "notes.txt"]);
    assert!(notes(&mount, "headers").contains("no copy of the GPT has a sound header"));
    assert_eq!(names(&mount.path("gone/latest.parts")), ["1-one.img", "2-two.img", "notes.txt"]);
    assert!(notes(&mount, "gone").contains("the backup GPT is missing"));
    let all = ["1-one.img", "2-two.img", "3-mbr-ext2.img", "notes.txt"];
    assert_eq!(names(&mount.path("hybrid/latest.parts")), all);
    let said = notes(&mount, "hybrid");
    assert!(said.contains("partition 3 is only in the MBR") && said.contains("having errors"), "{said}");
    let cut = listed(&mount.path("cut/latest.parts"));
    assert_eq!((cut["1-one.img"], cut["2-two.img"]), (4096 * 512, 6 << 20));
    assert!(notes(&mount, "cut").contains("partition 2 is cut short"));
    check_all(&mount.path("cut/latest.parts/2-two.img"), &bytes[4 << 20..10 << 20], 1 << 20);
}

#[test]
fn a_disk_with_sectors_of_4096_bytes_shows_its_parts() {
    requires!(fuse, root, loop, sfdisk, losetup);
    let sandbox = Sandbox::plain();
    let image = sandbox.path("disk");
    empty_file(&image, 64 << 20);
    let device = LoopDevice::attach(&image, &["--sector-size", "4096"]);
    partition(device.path(), "label: gpt\nstart=256, size=2560, type=L, name=large\n");
    drop(device);
    sandbox.back_up("disk", &image);
    let mount = sandbox.mount();
    assert_eq!(listed(&mount.path("disk/latest.parts")), [("1-large.img".to_owned(), 10 << 20)].into());
}

#[test]
fn every_disk_of_an_archive_has_parts_and_small_members_have_none() {
    requires!(fuse, root, sfdisk);
    let sandbox = Sandbox::plain();
    let image = sandbox.path("disk");
    empty_file(&image, 16 << 20);
    partition(&image, "label: gpt\nstart=2048, size=4096, type=L, name=one\n");
    let domain = sandbox.file("d.xml", b"<domain/>");
    let sources = [("vda", &image), ("vdb.raw", &image), ("vda.parts", &image), ("domain.xml", &domain)];
    let sources = sources.map(|(member, path)| format!("{member}={}", path.display()));
    sandbox.create(Archiving {
        name: "db01",
        sources: &sources.each_ref().map(|source| OsStr::new(source.as_str())),
        args: &[],
    });
    let mount = sandbox.mount();
    let expected = ["domain.xml", "vda.img", "vda.parts", "vda.parts.parts", "vdb.raw", "vdb.raw.parts"]
        .map(str::to_owned);
    assert_eq!(names(&mount.path("db01/latest")), expected);
    assert!(mount.path("db01/latest/vda.parts").is_file(), "a member's own name comes first");
    assert_eq!(names(&mount.path("db01/latest/vdb.raw.parts")), ["1-one.img"]);
}

#[test]
fn parts_tell_where_they_lie_and_what_they_hold() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", sfdisk, getfattr);
    let sandbox = Sandbox::new();
    sandbox.back_up("gpt", &gpt(&sandbox));
    let mount = sandbox.mount();
    let part = mount.path("gpt/latest.parts/1-root.img");
    let fact = |name: &str| {
        let mut value = [0; 200];
        let len = rustix::fs::getxattr(&part, format!("user.copal.{name}"), &mut value).expect("getxattr");
        String::from_utf8(value[..len].to_vec()).expect("text")
    };
    let told = ["partition", "offset", "filesystem", "label", "archive", "bad_ranges"].map(fact);
    assert_eq!(told, ["1", &PARTITION.to_string(), "ext4", "root", "gpt", ""]);
    let all = tool("getfattr", &["-d".as_ref(), "--absolute-names".as_ref(), part.as_os_str()]);
    assert!(all.contains("user.copal.uuid=") && all.contains("user.copal.archive_id="), "{all}");
}

#[test]
fn tables_are_read_when_somebody_looks_and_once() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", sfdisk);
    let sandbox = Sandbox::new();
    sandbox.back_up("gpt", &gpt(&sandbox));
    let mount = sandbox.mount();
    let loads = || {
        let text = fs::read(mount.path(".copal/stats.json")).expect("read");
        serde_json::from_slice::<Stats>(&text).expect("JSON").chunks.counts.loads
    };
    let before = loads();
    assert_eq!(fs::read_dir(mount.path("gpt")).expect("list").count(), 4);
    assert!(mount.path("gpt/latest.parts").is_dir());
    assert_eq!(loads(), before, "listing an archive reads nothing of its image");
    let first = names(&mount.path("gpt/latest.parts"));
    let after = loads();
    assert!(after > before);
    assert_eq!(names(&mount.path("gpt/latest.parts")), first);
    assert_eq!(loads(), after);
}

#[test]
fn a_table_that_cannot_be_read_is_an_error_and_the_image_is_still_there() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", sfdisk);
    let sandbox = Sandbox::new();
    sandbox.back_up("gpt", &gpt(&sandbox));
    let _ = flip_chunk_at(&sandbox, "gpt", 0);
    let mount = sandbox.mount();
    let error = fs::read_dir(mount.path("gpt/latest.parts")).expect_err("damaged");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert!(mount.latest("gpt").metadata().is_ok());
}
