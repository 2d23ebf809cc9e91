//! Tools that know what they wrote and look for it.

use std::ffi::OsStr;
use std::path::Path;

use fuse_tests::devices::LoopDevice;
use fuse_tests::process::tool;
use fuse_tests::requires;
use fuse_tests::sandbox::Sandbox;

const SIZE_KIB: u64 = 24 << 10;
/// What `fio` writes into each block, looks for whenever it reads one, and how much of it.
const BLOCKS: [&str; 5] =
    ["--name=verified", "--bs=4k", "--size=24576k", "--verify=crc32c", "--verify_fatal=1"];

fn fio(file: &Path, args: &[&str]) {
    let file = format!("--filename={}", file.display());
    let all: Vec<&OsStr> =
        BLOCKS.iter().chain(args).map(|arg| (*arg).as_ref()).chain([file.as_ref()]).collect();
    tool("fio", &all);
}

#[test]
#[ignore = "for the guest of scripts/vm-test"]
fn fio_finds_every_block_it_wrote_through_loop_devices() {
    requires!(root, fuse, loop, fio, losetup);
    let sandbox = Sandbox::plain();
    let source = sandbox.path("source");
    fio(&source, &["--rw=randwrite", "--do_verify=0"]);
    sandbox.back_up("verified", &source);
    let mounted = sandbox.mount();
    for direct in ["off", "on"] {
        let device = LoopDevice::attach(
            &mounted.latest("verified"),
            &["--read-only", &format!("--direct-io={direct}")],
        );
        for jobs in [1, 4, 32] {
            let size = format!("--io_size={}k", SIZE_KIB / jobs);
            let (jobs, depth) =
                (format!("--numjobs={jobs}"), format!("--direct={}", u8::from(direct == "on")));
            fio(device.path(), &["--rw=randread", "--readonly", &jobs, &size, &depth]);
        }
    }
}
