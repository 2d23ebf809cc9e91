//! Readers of filesystems on damaged images: whatever a volume says, nothing panics and everything ends. Images are made by tools that need no root.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::process::Command;

use copal::filesystem::{Filesystem, Kind, Node, open};
use copal::partition::ReadAt;

/// Bytes as a disk that is never read beyond its end.
struct Disk(Vec<u8>);

impl ReadAt for Disk {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).expect("no read overflows");
        assert!(end <= self.len(), "a read of {} bytes at {offset} of {}", buf.len(), self.len());
        buf.copy_from_slice(&self.0[offset as usize..end as usize]);
        Ok(())
    }
}

/// A tool of the system, wherever it lies.
fn tool(program: &str) -> Option<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = folders.map(|folder| folder.join(program)).find(|path| path.is_file());
    assert!(found.is_some() || std::env::var_os("COPAL_TESTS_MUST_RUN").is_none(), "{program} is missing");
    if found.is_none() {
        eprintln!("SKIPPED: {program} is missing");
    }
    found.map(Command::new)
}

fn ran(command: &mut Command) {
    let output = command.output().expect("it works");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Some files to put into images.
fn populate(root: &Path) {
    std::fs::create_dir_all(root.join("d/e")).expect("it works");
    for number in 0..60 {
        std::fs::write(
            root.join(format!("d/a rather long name of file number {number}")),
            vec![7; number * 50],
        )
        .expect("it works");
    }
    std::os::unix::fs::symlink("d/e", root.join("short")).expect("it works");
    std::os::unix::fs::symlink("x".repeat(200), root.join("long")).expect("it works");
    let sparse = std::fs::File::create(root.join("sparse")).expect("it works");
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 300_000).expect("it works");
    std::fs::hard_link(root.join("sparse"), root.join("d/e/twin")).expect("it works");
}

fn ext(args: &[&str]) -> Option<Vec<u8>> {
    let dir = tempfile::tempdir().expect("it works");
    let (from, image) = (dir.path().join("from"), dir.path().join("image"));
    populate(&from);
    std::fs::File::create(&image).expect("it works").set_len(2 << 20).expect("it works");
    ran(tool("mke2fs")?.args(["-q", "-F", "-N", "128", "-d"]).arg(&from).args(args).arg(&image));
    Some(std::fs::read(image).expect("it works"))
}

fn fat(args: &[&str], len: u64) -> Option<Vec<u8>> {
    let dir = tempfile::tempdir().expect("it works");
    let image = dir.path().join("image");
    std::fs::File::create(&image).expect("it works").set_len(len).expect("it works");
    ran(tool("mkfs.vfat")?.args(args).arg(&image));
    std::fs::create_dir_all(dir.path().join("d")).expect("it works");
    for number in 0..40 {
        std::fs::write(dir.path().join(format!("d/Ein längerer Name {number}.txt")), vec![9; number * 100])
            .expect("it works");
    }
    ran(tool("mcopy")?
        .args(["-s", "-Q", "-i"])
        .arg(&image)
        .arg(dir.path().join("d"))
        .arg("::")
        .env("LC_ALL", "C.UTF-8"));
    Some(std::fs::read(image).expect("it works"))
}

fn ntfs() -> Option<Vec<u8>> {
    let dir = tempfile::tempdir().expect("it works");
    let image = dir.path().join("image");
    std::fs::File::create(&image).expect("it works").set_len(2 << 20).expect("it works");
    ran(tool("mkntfs")?.args(["-q", "-F", "-f", "-s", "512", "-H", "1", "-S", "1", "-p", "0"]).arg(&image));
    Some(std::fs::read(image).expect("it works"))
}

/// Reads everything there is; returns how many names that were.
fn read_all(filesystem: &dyn Filesystem) -> usize {
    let mut open: Vec<Node> = vec![filesystem.root()];
    let (mut seen, mut names) = (HashSet::new(), 0);
    while let Some(node) = open.pop() {
        if !seen.insert(node) || names > 10_000 {
            continue;
        }
        let _ = filesystem.attributes(node);
        let Ok(found) = filesystem.metadata(node) else { continue };
        match found.kind {
            Kind::Directory => {
                let entries = filesystem.list(node).unwrap_or_default();
                names += entries.len();
                open.extend(entries.iter().map(|entry| entry.node));
            }
            Kind::Link => drop(filesystem.target(node)),
            Kind::File => read_file(filesystem, node),
            _ => {}
        }
    }
    names
}

fn read_file(filesystem: &dyn Filesystem, node: Node) {
    let Ok(content) = filesystem.open(node) else { return };
    let (mut at, mut pieces) = (0, 0);
    let mut buf = vec![0; 64 << 10];
    while let Some(data) = content.next_data(at) {
        assert!(data.start >= at && data.start < data.end && data.end <= content.len());
        let len = (data.end - data.start).min(buf.len() as u64);
        let _ = filesystem.read(&content, data.start, &mut buf[..len as usize]);
        at = data.end;
        pieces += 1;
        if pieces == 100 {
            return;
        }
    }
}

/// Numbers that look random (xorshift).
struct Dice(u64);

impl Dice {
    fn next(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// Damages an image in many ways, where it is not all zeros, and reads all that is left.
fn survives(image: &[u8], kind: &str, least: usize, times: usize) {
    let whole = Disk(image.to_vec());
    let names = read_all(&*open(&whole, 0..whole.len(), kind).expect("it works"));
    assert!(names >= least, "{names} names");
    let blocks: Vec<usize> =
        (0..image.len() / 512).filter(|at| image[at * 512..][..512].iter().any(|byte| *byte != 0)).collect();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for _ in 0..times {
        let mut bytes = image.to_vec();
        for _ in 0..=dice.next(6) {
            let at = blocks[dice.next(blocks.len())] * 512 + dice.next(512);
            match dice.next(4) {
                0 => bytes[at] ^= 1 << dice.next(8),
                1 => bytes[at] = [0, 0xff, 0x7f, 0x80][dice.next(4)],
                2 => {
                    let end = (at + 8).min(bytes.len());
                    bytes[at..end].fill(if dice.next(2) == 0 { 0xff } else { 0 });
                }
                _ => {
                    let from = blocks[dice.next(blocks.len())] * 512;
                    let to = at / 512 * 512;
                    bytes.copy_within(from..from + 512, to);
                }
            }
        }
        if dice.next(10) == 0 {
            bytes.truncate(dice.next(image.len()));
        }
        let disk = Disk(bytes);
        if let Ok(filesystem) = open(&disk, 0..disk.len(), kind) {
            read_all(&*filesystem);
        }
    }
}

// Without checksums, more of the damage reaches what is to be tested.
#[test]
fn damaged_ext2_breaks_nothing() {
    let Some(image) = ext(&["-t", "ext2", "-b", "1024"]) else { return };
    survives(&image, "ext2", 65, 3000);
}

#[test]
fn damaged_ext4_breaks_nothing() {
    for features in [
        "^metadata_csum,inline_data,^has_journal",
        "^metadata_csum,^has_journal",
        "metadata_csum,^has_journal",
    ] {
        let Some(image) = ext(&["-t", "ext4", "-b", "1024", "-O", features]) else { return };
        survives(&image, "ext4", 65, 1500);
    }
}

#[test]
fn damaged_fat_breaks_nothing() {
    for (args, len) in [
        (&["-F", "12"][..], 1 << 20),
        (&["-F", "16", "-s", "1"], 4 << 20),
        (&["-F", "32", "-s", "1"], 34 << 20),
    ] {
        let Some(image) = fat(args, len) else { return };
        survives(&image, "vfat", 41, if len > 10 << 20 { 50 } else { 1500 });
    }
}

#[test]
fn damaged_ntfs_breaks_nothing() {
    let Some(image) = ntfs() else { return };
    survives(&image, "ntfs", 10, 2000);
}
