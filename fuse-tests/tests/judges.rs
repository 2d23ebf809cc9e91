//! Tools of others on mounted images: forensic ones, QEMU's, those of network block devices. What each says of an image is held against what it says of the
//! original, and contents are compared as well: a tool that is content has not looked at them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fuse_tests::images::{PARTITION, PARTITION_LEN, gpt};
use fuse_tests::sandbox::Sandbox;
use fuse_tests::{requires, tool};

/// Where Debian's `forensics-samples-*` lie: disks with deleted files, packed.
const SAMPLES: &str = "/usr/share/forensics-samples";

/// A sample, unpacked.
fn sample(sandbox: &Sandbox, name: &str) -> PathBuf {
    let packed = Path::new(SAMPLES).join(format!("{name}.xz"));
    let disk = sandbox.path(name);
    let unpacked = fuse_tests::process::run(std::process::Command::new("xz").arg("-dc").arg(&packed)).stdout;
    fuse_tests::noise::write_sparse(&disk, &unpacked);
    disk
}

/// Where the partitions of a disk begin, in sectors, as the Sleuth Kit sees them.
fn partitions(disk: &Path) -> Vec<String> {
    let table = tool!("mmls", disk);
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // A number, the place in the table, the first sector.
    let rows = fields.filter(|row| {
        row.len() > 4 && row[1].starts_with(|c: char| c.is_ascii_digit()) && row[0].ends_with(':')
    });
    rows.map(|row| row[2].to_owned()).collect()
}

/// Deleted files of a partition by their names: what they held, as far as it is still there.
fn deleted(disk: &Path, offset: &str) -> BTreeMap<String, (bool, Vec<u8>)> {
    let listed = tool!("fls", "-r", "-d", "-p", "-o", offset, disk);
    let mut found = BTreeMap::new();
    for line in listed.lines().filter(|line| line.starts_with("r/") || line.starts_with("-/r")) {
        let Some((about, name)) = line.split_once(":\t") else { continue };
        let Some(inode) =
            about.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        else {
            continue;
        };
        let content = std::process::Command::new("icat")
            .args(["-o", offset])
            .arg(disk)
            .arg(inode.trim_end_matches("(realloc)"))
            .output()
            .expect("icat");
        found.insert(format!("{name} ({about})"), (content.status.success(), content.stdout));
    }
    found
}

fn assert_deleted_files_are_found(name: &str, least: usize) {
    let sandbox = Sandbox::new();
    let disk = sample(&sandbox, name);
    sandbox.back_up("disk", &disk);
    let mounted = sandbox.mount();
    let image = mounted.latest("disk");
    tool!("cmp", &disk, &image);
    assert_eq!(tool!("mmls", &disk), tool!("mmls", &image));
    let (mut names, mut contents) = (0, 0);
    for offset in partitions(&disk) {
        assert_eq!(tool!("fsstat", "-o", &offset, &disk), tool!("fsstat", "-o", &offset, &image));
        let (was, is) = (deleted(&disk, &offset), deleted(&image, &offset));
        assert!(was == is, "{name}: {:?}\n{:?}", was.keys(), is.keys());
        names += was.len();
        contents += was.values().filter(|(read, content)| *read && !content.is_empty()).count();
    }
    assert!(names > 0 && contents >= least, "{name}: {names} deleted files, {contents} with a content");
}

// Linux forgets where the bytes of a deleted file were on ext2 and ext4.
macro_rules! samples {
    ($($name:ident: $sample:expr, $least:expr;)*) => {$(
        #[test]
        fn $name() {
            requires!(fuse, root, mmls, fls, icat, fsstat, xz, cmp, "/usr/share/forensics-samples/fs.ext2.xz");
            assert_deleted_files_are_found($sample, $least);
        }
    )*};
}

samples! {
    deleted_files_are_found_on_ext2: "fs.ext2", 0;
    deleted_files_are_found_on_ext4: "fs.ext4", 0;
    deleted_files_are_found_on_ntfs: "fs.ntfs", 1;
    deleted_files_are_found_on_vfat: "fs.vfat", 1;
    deleted_files_are_found_on_exfat: "fs.exfat", 1;
}

#[test]
fn qemu_sees_the_same_disk() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", sfdisk, losetup, mount, "qemu-img");
    let sandbox = Sandbox::plain();
    let disk = gpt(&sandbox);
    sandbox.back_up("disk", &disk);
    let mounted = sandbox.mount();
    let image = mounted.latest("disk");
    tool!("qemu-img", "compare", "-f", "raw", "-F", "raw", &disk, &image);
    // It skips what both call a hole: the mounted one may call no more one than is zero.
    tool!("qemu-img", "compare", "-s", "-f", "raw", "-F", "raw", sandbox.extract("disk"), &image);
    let copy = sandbox.path("copy.qcow2");
    tool!("qemu-img", "convert", "-f", "raw", "-O", "qcow2", &image, &copy);
    tool!("qemu-img", "check", &copy);
    tool!("qemu-img", "compare", "-f", "raw", "-F", "qcow2", &disk, &copy);
    let overlay = sandbox.path("overlay.qcow2");
    let stands = image.canonicalize().expect("the archive's own name");
    tool!("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", &stands, &overlay);
    tool!("qemu-io", "-c", "write -P 0xa5 1M 64k", &overlay);
    tool!("qemu-io", "-r", "-c", "read -P 0xa5 1M 64k", &overlay);
    tool!("cmp", &disk, &image);
}

#[test]
fn network_block_devices_copy_the_same_disk() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", sfdisk, losetup, mount, nbdkit, nbdcopy, cmp);
    let sandbox = Sandbox::plain();
    let disk = gpt(&sandbox);
    sandbox.back_up("disk", &disk);
    let mounted = sandbox.mount();
    let image = format!("file={}", mounted.latest("disk").display());
    let (whole, part) = (sandbox.path("whole"), sandbox.path("part"));
    tool!("nbdkit", "-r", "file", &image, "--run", format!("nbdcopy \"$uri\" '{}'", whole.display()));
    tool!("cmp", &disk, &whole);
    let run = format!("nbdcopy \"$uri\" '{}'", part.display());
    tool!("nbdkit", "-r", "--filter=partition", "file", &image, "partition=1", "--run", run);
    let bytes = std::fs::read(&disk).expect("read");
    assert!(std::fs::read(&part).expect("read") == bytes[PARTITION as usize..][..PARTITION_LEN as usize]);
}
