//! Tools that know what they wrote and look for it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use fuse_tests::devices::LoopDevice;
use fuse_tests::process::traffic;
use fuse_tests::requires;
use fuse_tests::sandbox::Sandbox;

const SIZE_KIB: u64 = 24 << 10;
/// What `fio` writes into each block, looks for whenever it reads one, and how much of it.
const BLOCKS: [&str; 4] = ["--name=verified", "--bs=4k", "--verify=crc32c", "--verify_fatal=1"];

fn fio(file: &Path, args: &[&str]) -> Result<(), String> {
    let file = format!("--filename={}", file.display());
    let output = Command::new("fio").args(BLOCKS).args(args).arg(file).output().expect("fio");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Reads every block once, in a random order, each job a part of them.
fn look_for(file: &Path, jobs: u64, direct: u8) -> Result<(), String> {
    let share = format!("{}k", SIZE_KIB / jobs);
    let (jobs, direct) = (format!("--numjobs={jobs}"), format!("--direct={direct}"));
    let (size, step) = (format!("--size={share}"), format!("--offset_increment={share}"));
    fio(file, &["--rw=randread", "--readonly", &jobs, &direct, &size, &step])
}

#[test]
#[ignore = "for the guest of scripts/vm-test"]
fn fio_finds_every_block_it_wrote_through_loop_devices() {
    requires!(root, fuse, loop, fio, losetup);
    let sandbox = Sandbox::plain();
    let source = sandbox.path("source");
    let size = format!("--size={SIZE_KIB}k");
    fio(&source, &["--rw=randwrite", "--do_verify=0", &size]).expect("fio writes");
    sandbox.back_up("verified", &source);
    let mounted = sandbox.mount();
    for attached in ["off", "on"] {
        let args = ["--read-only", &format!("--direct-io={attached}")];
        let device = LoopDevice::attach(&mounted.latest("verified"), &args);
        assert_eq!(device.is_direct(), attached == "on");
        for (jobs, direct) in [(1, 0), (1, 1), (4, 0), (4, 1), (32, 0), (32, 1)] {
            // Blocks come from the server, not from what the kernel has of the runs before; but for pages that somebody held just then.
            fs::write("/proc/sys/vm/drop_caches", "3").expect("drop");
            let before = traffic(mounted.pid()).written;
            look_for(device.path(), jobs, direct).expect("every block");
            let served = traffic(mounted.pid()).written - before;
            assert!(
                served >= (SIZE_KIB << 10) / 10 * 9,
                "{jobs} jobs, direct {direct}: only {served} bytes were served"
            );
        }
    }
    // It would notice.
    let file = fs::File::options().write(true).open(&source).expect("open");
    file.write_all_at(b"?", (SIZE_KIB << 10) / 2 + 2000).expect("write");
    look_for(&source, 4, 0).expect_err("a changed block");
}
