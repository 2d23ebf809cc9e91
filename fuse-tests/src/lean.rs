//! The whole way of a volume through `create --skip-unused`: as a partition of a disk into an archive, and out of what is restored.

use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::need::find_tool;
use crate::sandbox::{Archiving, Sandbox};
use crate::tool;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;

/// A volume that was restored.
#[derive(Debug)]
pub struct Restored {
    path: PathBuf,
    _sandbox: Sandbox,
}

impl Restored {
    /// Where it is, as long as this lives.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes a volume the only partition of a disk, backs that up without the bytes that its filesystem, of this `kind`, has `free`, restores
/// it, and takes the volume out again.
///
/// # Panics
/// If anything fails, the volume is taken whole, or anything else than that is left out.
#[must_use]
pub fn restored(kind: &str, volume: &Path, free: &[Range<u64>]) -> Restored {
    let sandbox = Sandbox::plain();
    let (disk, path) = (sandbox.path("disk.img"), sandbox.path("restored.img"));
    let len = fs::metadata(volume).expect("a volume").len();
    File::create(&disk).and_then(|file| file.set_len(len + 2 * MIB)).expect("make a disk");
    divide(&disk, &format!("label: gpt\nstart=2048, size={}\n", len / 512));
    let [from, to] = [format!("if={}", volume.display()), format!("of={}", disk.display())];
    tool!("dd", "status=none", "bs=1M", "conv=notrunc,sparse", "seek=1", from, to);
    let created =
        sandbox.create(Archiving { name: "disk", sources: &[disk.as_os_str()], args: &["--skip-unused"] });
    let volumes = created["volumes"].as_array().expect("a list");
    let said = |volume: &Value| (volume["filesystem"].clone(), volume["whole"].clone());
    assert_eq!(volumes.iter().map(said).collect::<Vec<_>>(), [(kind.into(), Value::Null)], "{created}");
    // Holes of images are made of whole blocks.
    let blocks = |range: &Range<u64>| (range.end / BLOCK).saturating_sub(range.start.div_ceil(BLOCK)) * BLOCK;
    assert_eq!(created["left_out"].as_u64(), Some(free.iter().map(blocks).sum()), "{created}");
    let restored = sandbox.extract("disk");
    assert_eq!(fs::metadata(&restored).expect("a disk").len(), len + 2 * MIB);
    let [from, to, count] =
        [format!("if={}", restored.display()), format!("of={}", path.display()), format!("count={len}")];
    tool!("dd", "status=none", "bs=1M", "conv=sparse", "iflag=count_bytes", "skip=1", count, from, to);
    File::options().write(true).open(&path).and_then(|file| file.set_len(len)).expect("a volume");
    Restored { path, _sandbox: sandbox }
}

/// Writes a partition table, as `sfdisk` takes it, into an image.
///
/// # Panics
/// If that fails.
pub fn divide(disk: &Path, table: &str) {
    let sfdisk = find_tool("sfdisk").expect("sfdisk");
    let mut sfdisk = Command::new(sfdisk)
        .args(["--quiet", "--wipe", "never"])
        .arg(disk)
        .stdin(Stdio::piped())
        .spawn()
        .expect("sfdisk");
    sfdisk.stdin.take().expect("its input").write_all(table.as_bytes()).expect("write");
    assert!(sfdisk.wait().expect("sfdisk ends").success());
}
