//! Tools of others on mounted images: forensic ones, QEMU's, those of network block devices, libguestfs. What each says of an image is held against what it says of the
//! original, and contents are compared as well: a tool that is content has not looked at them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fuse_tests::devices::{LoopDevice, Mounted};
use fuse_tests::images::{Names, PARTITION, PARTITION_LEN, empty_file, gpt, partition, populate};
use fuse_tests::process::run;
use fuse_tests::sandbox::{Sandbox, files_below};
use fuse_tests::{requires, tool};

/// Where Debian's `forensics-samples-*` lie: disks with deleted files, packed.
const SAMPLES: &str = "/usr/share/forensics-samples";

/// A sample, unpacked.
fn sample(sandbox: &Sandbox, name: &str) -> PathBuf {
    let packed = Path::new(SAMPLES).join(format!("{name}.xz"));
    let disk = sandbox.path(name);
    let unpacked = run(Command::new("xz").arg("-dc").arg(&packed)).stdout;
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

/// What the Sleuth Kit finds by one name.
#[derive(PartialEq, Eq)]
struct Found {
    is_deleted: bool,
    /// What it holds, as far as that is still there; nothing of what is no file.
    content: Option<Vec<u8>>,
}

/// All files and directories of a partition, deleted ones as well, by what is said of them and their names.
fn everything(disk: &Path, offset: &str) -> BTreeMap<String, Found> {
    let listed = tool!("fls", "-r", "-p", "-o", offset, disk);
    let mut all = BTreeMap::new();
    for (about, name) in listed.lines().filter_map(|line| line.split_once(":\t")) {
        let is_file = about.starts_with("r/") || about.starts_with("-/r");
        let inode = about.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        let content = inode.filter(|_| is_file).and_then(|inode| {
            let mut icat = Command::new("icat");
            icat.args(["-o", offset]).arg(disk).arg(inode.trim_end_matches("(realloc)"));
            let read = icat.output().expect("icat");
            read.status.success().then_some(read.stdout)
        });
        all.insert(format!("{name} ({about})"), Found { is_deleted: about.contains(" * "), content });
    }
    all
}

/// Contents that files had before the disk was made.
fn originals(folder: &str) -> BTreeSet<Vec<u8>> {
    let files = files_below(Path::new(folder));
    files.iter().map(|path| std::fs::read(path).expect("read")).collect()
}

/// What the Sleuth Kit says of a filesystem; nothing, if it cannot read that.
fn fsstat(disk: &Path, offset: &str) -> Option<Vec<u8>> {
    let output = Command::new("fsstat").args(["-o", offset]).arg(disk).output().expect("fsstat");
    output.status.success().then_some(output.stdout)
}

/// A disk with deleted files, and what is to be found on it at least.
struct Sample {
    name: &'static str,
    /// Where its files came from.
    originals: &'static str,
    filesystems: usize,
    /// Directories that were deleted.
    directories: &'static [&'static str],
    /// Files with the content that they had, and deleted ones of that kind.
    kept: usize,
    deleted: usize,
}

const SAMPLE: Sample = Sample {
    name: "",
    originals: "/usr/share/forensics-samples/original-files",
    filesystems: 1,
    directories: &["audio2", "movie2", "pic2", "text2"],
    kept: 16,
    deleted: 15,
};

fn assert_deleted_files_are_found(expected: &Sample) {
    let sandbox = Sandbox::new();
    let name = expected.name;
    let disk = sample(&sandbox, name);
    sandbox.back_up("disk", &disk);
    let mounted = sandbox.mount();
    let image = mounted.latest("disk");
    tool!("cmp", &disk, &image);
    assert_eq!(tool!("mmls", &disk), tool!("mmls", &image));
    let originals = originals(expected.originals);
    let (mut filesystems, mut directories, mut kept, mut deleted) = (0, BTreeSet::new(), 0, 0);
    for offset in partitions(&disk) {
        let said = fsstat(&disk, &offset);
        assert!(
            said == fsstat(&image, &offset),
            "{name}: something else is said of the filesystem at {offset}"
        );
        if said.is_none() {
            continue;
        }
        filesystems += 1;
        let (was, is) = (everything(&disk, &offset), everything(&image, &offset));
        assert!(was == is, "{name}: {:?}\n{:?}", was.keys(), is.keys());
        for (key, Found { is_deleted, content }) in is {
            let is_original = content.as_ref().is_some_and(|content| originals.contains(content));
            (kept, deleted) = match is_deleted {
                _ if !is_original => (kept, deleted),
                false => (kept + 1, deleted),
                true => (kept, deleted + 1),
            };
            if is_deleted && content.is_none() {
                directories.extend(key.split_once(" (").map(|(name, _)| name.to_owned()));
            }
        }
    }
    println!("{name}: {filesystems} filesystems, {directories:?}, {kept} and {deleted} files as they were");
    assert!(expected.directories.iter().all(|name| directories.contains(*name)), "{directories:?}");
    assert!(
        filesystems >= expected.filesystems && kept >= expected.kept && deleted >= expected.deleted,
        "{filesystems} filesystems, {kept} files as they were, {deleted} deleted ones"
    );
}

macro_rules! samples {
    ($($name:ident: $sample:expr;)*) => {$(
        #[test]
        fn $name() {
            requires!(fuse, root, mmls, fls, icat, fsstat, xz, cmp, "/usr/share/forensics-samples/fs.ext2.xz");
            assert_deleted_files_are_found(&$sample);
        }
    )*};
}

// Linux forgets where the bytes of a deleted file were on ext2 and ext4.
samples! {
    deleted_files_are_found_on_ext2: Sample { name: "fs.ext2", deleted: 0, ..SAMPLE };
    deleted_files_are_found_on_ext4: Sample { name: "fs.ext4", deleted: 0, ..SAMPLE };
    deleted_files_are_found_on_ntfs: Sample { name: "fs.ntfs", ..SAMPLE };
    deleted_files_are_found_on_vfat: Sample { name: "fs.vfat", ..SAMPLE };
    deleted_files_are_found_on_exfat: Sample { name: "fs.exfat", ..SAMPLE };
    // It has no eyes for btrfs: the table and every byte are the same.
    what_the_sleuth_kit_cannot_read_is_the_same: Sample {
        name: "fs.btrfs",
        filesystems: 0,
        directories: &[],
        kept: 0,
        deleted: 0,
        ..SAMPLE
    };
    files_are_found_on_several_partitions: Sample {
        name: "fs.multiple",
        originals: "/usr/share/forensics-samples/original-multiple",
        filesystems: 3,
        directories: &[],
        kept: 6,
        deleted: 0,
    };
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
    // As `-snapshot` does: what is written goes to a file that QEMU makes and throws away.
    tool!("qemu-io", "-s", "-f", "raw", "-c", "write -P 0x5a 1M 64k", "-c", "read -P 0x5a 1M 64k", &stands);
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

/// Partitions of a disk for `guestfish`: filesystem, first byte and length in MiB.
const PARTS: [(&str, u64, u64); 3] = [("ext4", 1, 24), ("btrfs", 25, 128), ("ntfs", 153, 16)];

/// A disk with those partitions, and the hashes of all files of each.
fn disk_for_guestfish(sandbox: &Sandbox) -> (PathBuf, Vec<BTreeSet<String>>) {
    let disk = sandbox.path("disk");
    empty_file(&disk, 170 << 20);
    let rows = PARTS.map(|(_, start, len)| format!("start={start}MiB, size={len}MiB\n"));
    partition(&disk, &["label: gpt\n", &rows.concat()].concat());
    let filled = PARTS.map(|(kind, start, len)| {
        let args = [format!("--offset={}", start << 20), format!("--sizelimit={}", len << 20)];
        let device = LoopDevice::attach(&disk, &args.each_ref().map(String::as_str));
        let directory = sandbox.mountpoint("fill");
        let mounted = if kind == "ntfs" {
            tool!("mkfs.ntfs", "-q", "-F", "-f", device.path());
            Mounted::ntfs("streams_interface=none", device.path(), &directory)
        } else {
            tool!(&format!("mkfs.{kind}"), "-q", device.path());
            Mounted::device(kind, "rw", device.path(), &directory)
        };
        populate(mounted.path(), if kind == "ntfs" { Names::Text } else { Names::Bytes });
        let mut hashes = Command::new("find");
        hashes.args([".", "-type", "f", "-exec", "sha256sum", "{}", "+"]).current_dir(mounted.path());
        let hashes = lines(&run(&mut hashes).stdout);
        mounted.unmount();
        hashes
    });
    (disk, filled.into())
}

fn lines(text: &[u8]) -> BTreeSet<String> {
    text.split(|byte| *byte == b'\n').map(|line| line.escape_ascii().to_string()).collect()
}

/// What `guestfish` finds on a disk.
#[derive(PartialEq, Eq)]
struct Fished {
    /// Of the disk and its partitions.
    said: String,
    /// Hashes of the files of each partition.
    hashes: Vec<BTreeSet<String>>,
    /// All that is known of these files, as `tar` keeps it.
    archives: Vec<Vec<u8>>,
}

fn through_guestfish(sandbox: &Sandbox, name: &str, disk: &Path) -> Fished {
    let directory = sandbox.mountpoint(name);
    let mut script =
        "run\nblockdev-getsize64 /dev/sda\npart-list /dev/sda\nlist-partitions\nlist-filesystems\n"
            .to_owned();
    for number in 1..=PARTS.len() {
        script += &format!(
            "mount-ro /dev/sda{number} /\nchecksums-out sha256 / hashes-{number}\n\
             tar-out / tar-{number} numericowner:true xattrs:true acls:true\numount-all\n"
        );
    }
    let script = sandbox.file(&format!("{name}.script"), script.as_bytes());
    let mut guestfish = Command::new("guestfish");
    guestfish.args(["--ro", "-a"]).arg(disk).current_dir(&directory);
    guestfish.stdin(Stdio::from(std::fs::File::open(script).expect("a script")));
    guestfish.env("LIBGUESTFS_CACHEDIR", &directory).env("LIBGUESTFS_TMPDIR", &directory);
    let said = String::from_utf8(run(&mut guestfish).stdout).expect("text");
    let read = |what: &str, number| std::fs::read(directory.join(format!("{what}-{number}"))).expect("read");
    let hashes = (1..=PARTS.len()).map(|number| lines(&read("hashes", number))).collect();
    let archives = (1..=PARTS.len()).map(|number| read("tar", number)).collect();
    Fished { said, hashes, archives }
}

#[test]
#[ignore = "scripts/vm-test gives libguestfs a kernel"]
fn guestfish_finds_the_same_files() {
    requires!(
        fuse,
        root,
        loop,
        "fs:ext4",
        "fs:btrfs",
        "mkfs.ext4",
        "mkfs.btrfs",
        "mkfs.ntfs",
        "ntfs-3g",
        sfdisk,
        cmp,
        guestfish
    );
    let sandbox = Sandbox::new();
    let (disk, hashes) = disk_for_guestfish(&sandbox);
    sandbox.back_up("disk", &disk);
    let mounted = sandbox.mount();
    let image = mounted.latest("disk");
    // At once: each starts a machine of its own, which is emulated.
    let (original, found) = std::thread::scope(|scope| {
        let original = scope.spawn(|| through_guestfish(&sandbox, "original", &disk));
        let found = through_guestfish(&sandbox, "archived", &image);
        (original.join().expect("guestfish"), found)
    });
    for (number, (kind, ..)) in (1..).zip(PARTS) {
        let line = format!("/dev/sda{number}: {kind}");
        assert!(found.said.lines().any(|said| said == line), "{}", found.said);
    }
    assert_eq!(found.said, original.said);
    assert_eq!(found.hashes, hashes);
    assert_eq!(original.hashes, hashes);
    assert!(found.archives == original.archives, "files of other owners, modes, times or attributes");
    for archive in &found.archives[..2] {
        let holds = |word: &[u8]| archive.windows(word.len()).any(|part| part == word);
        assert!(holds(b"SCHILY.xattr.user.origin=") && holds(b"SCHILY.acl.access="), "nothing but files");
    }
    tool!("cmp", &disk, &image);
}
