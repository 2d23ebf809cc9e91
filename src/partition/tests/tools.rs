//! Tests on what real tools write: `sfdisk` and the `mkfs` family, judged by `blkid`.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::super::*;
use crate::source::{Source, SourceSpec};

const MIB: u64 = 1 << 20;

/// Runs a tool; says loudly if it is not there, and fails if it was expected to be.
fn run(program: &str, args: &[&str], file: &Path, input: &str) -> Option<String> {
    let mut tool = Command::new(program);
    tool.args(args).arg(file).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    tool.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = tool.spawn() else {
        eprintln!("SKIPPED: {program} is not installed");
        assert!(std::env::var_os("COPAL_TESTS_MUST_RUN").is_none(), "{program} was expected to be here");
        return None;
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn image(dir: &TempDir, len: u64) -> PathBuf {
    let path = dir.path().join("disk.img");
    File::create(&path).unwrap().set_len(len).unwrap();
    path
}

fn read(path: &Path, hint: u32) -> Table {
    match Source::open(&SourceSpec::Path(path.to_owned())).unwrap() {
        Source::Seekable(disk) => read_table(&disk, hint).unwrap(),
        Source::Stream(stream) => panic!("{stream:?}"),
    }
}

/// What `blkid` says of a field of the file, if anything.
fn blkid(path: &Path, field: &str) -> Option<String> {
    let tool =
        Command::new("/usr/sbin/blkid").args(["-p", "-s", field, "-o", "value"]).arg(path).output().unwrap();
    let value = String::from_utf8_lossy(&tool.stdout).trim_end_matches('\n').to_owned();
    (!value.is_empty()).then_some(value)
}

#[test]
fn sfdisk_gpt() {
    let dir = TempDir::new().unwrap();
    let path = image(&dir, 64 * MIB);
    let script = "label: gpt\nlabel-id: 01234567-89AB-CDEF-0123-456789ABCDEF\n\
                  start=2048, size=8M, type=U, name=\"boot\"\nstart=32M, type=L, name=\"Wurzel ü\", \
                  uuid=AAAAAAAA-BBBB-CCCC-DDDD-EEEEEEEEEEEE\n";
    if run("sfdisk", &["-q"], &path, script).is_none() {
        return;
    }
    let table = read(&path, 0);
    assert_eq!((table.kind, table.sector, table.notes.len()), (TableKind::Gpt, 512, 0), "{:?}", table.notes);
    assert_eq!(table.disk_id, "01234567-89ab-cdef-0123-456789abcdef");
    let [boot, root] = &table.partitions[..] else { panic!("{:?}", table.partitions) };
    assert_eq!((boot.number, boot.start, boot.len), (1, MIB, 8 * MIB));
    assert_eq!((boot.type_name.as_str(), boot.label.as_str()), ("EFI System", "boot"));
    assert_eq!((root.number, root.start), (2, 32 * MIB));
    assert_eq!((root.type_name.as_str(), root.label.as_str()), ("Linux filesystem", "Wurzel ü"));
    assert_eq!(root.partition_uuid.as_deref(), Some("aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"));
}

#[test]
fn sfdisk_mbr_with_filesystems() {
    let dir = TempDir::new().unwrap();
    let path = image(&dir, 64 * MIB);
    let script = "label: dos\nlabel-id: 0xdeadbeef\nstart=1M, size=8M, type=c\nstart=10M, type=5\n\
                  start=11M, size=4M, type=83\nstart=20M, size=4M, type=82\n";
    if run("sfdisk", &["-q"], &path, script).is_none() {
        return;
    }
    let inner = dir.path().join("inner.img");
    File::create(&inner).unwrap().set_len(4 * MIB).unwrap();
    let made = run("mkfs.ext4", &["-q", "-F", "-L", "logical"], &inner, "");
    let disk = File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&disk, &std::fs::read(&inner).unwrap(), 11 * MIB).unwrap();
    let table = read(&path, 0);
    assert_eq!((table.kind, table.disk_id.as_str()), (TableKind::Mbr, "0xdeadbeef"));
    let found: Vec<_> = table.partitions.iter().map(|part| (part.number, part.start / MIB)).collect();
    assert_eq!(found, [(1, 1), (2, 10), (5, 11), (6, 20)]);
    if made.is_some() {
        assert_eq!(table.partitions[2].filesystem.as_deref(), Some("ext4"));
        assert_eq!(table.partitions[2].filesystem_label.as_deref(), Some("logical"));
    }
}

#[test]
fn filesystems_are_named_as_blkid_names_them() {
    let makers: &[(&str, &[&str], u64)] = &[
        ("mkfs.ext2", &["-q", "-F", "-L", "Grüße"], 4),
        ("mkfs.ext3", &["-q", "-F"], 8),
        ("mkfs.ext4", &["-q", "-F", "-L", "sixteen-letters!"], 8),
        ("mkfs.xfs", &["-q", "-L", "twelve-chars"], 300),
        ("mkfs.btrfs", &["-q", "-L", "a tree of b"], 128),
        ("mkfs.ntfs", &["-q", "-F", "-Q"], 8),
        ("mkfs.ntfs", &["-q", "-F", "-Q", "-L", "Größe 😀 data"], 8),
        ("mkfs.ntfs", &["-q", "-F", "-Q", "-c", "65536", "-L", "large clusters"], 64),
        ("mkfs.ntfs", &["-q", "-F", "-Q", "-s", "4096", "-L", "large sectors"], 64),
        ("mkfs.vfat", &["-F", "12", "-n", "FLOPPY"], 2),
        ("mkfs.vfat", &["-F", "16"], 16),
        ("mkfs.vfat", &["-F", "32", "-n", "A LABEL"], 64),
        ("mkswap", &["-q", "-L", "swap"], 4),
        ("mkswap", &["-q", "-p", "65536"], 4),
    ];
    for (program, args, mib) in makers {
        let dir = TempDir::new().unwrap();
        let path = image(&dir, mib * MIB);
        if run(program, args, &path, "").is_none() {
            continue;
        }
        let table = read(&path, 0);
        let what = format!("{program} {args:?}");
        assert_eq!((table.kind, &table.partitions[..]), (TableKind::None, &[][..]), "{what}");
        assert_eq!(table.filesystem, blkid(&path, "TYPE"), "{what}");
        assert_eq!(table.uuid, blkid(&path, "UUID"), "{what}");
        assert_eq!(table.filesystem_label, blkid(&path, "LABEL"), "{what}");
        assert!(table.filesystem.is_some(), "{what}");
    }
}
