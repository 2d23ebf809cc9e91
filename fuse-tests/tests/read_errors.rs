//! Sources that cannot be read in full: an image with a damaged chunk, mounted, gives EIO just there, and so does a loop device on it.

use std::ops::Range;
use std::path::Path;
use std::process::Output;

use fuse_tests::damage::{flip_chunk_at, ranges_of};
use fuse_tests::devices::LoopDevice;
use fuse_tests::noise::noise;
use fuse_tests::requires;
use fuse_tests::sandbox::Sandbox;
use fuse_tests::trees::attributes;
use serde_json::Value;

const LEN: usize = 6 << 20;
/// What a page of the page cache may be at most: a failure costs no more than that before and behind it.
const LARGEST_PAGE: u64 = 2 << 20;

/// Backs `source` up into a repository of its own, going round what cannot be read; what was said, and the sandbox.
fn back_up_what_can_be_read(source: &Path) -> (Sandbox, Output) {
    let sandbox = Sandbox::plain();
    let mut command = sandbox.copal();
    command.args(["create", "--json", "--read-errors=zero"]).arg(sandbox.reference("saved")).arg(source);
    let output = command.output().expect("copal runs");
    (sandbox, output)
}

fn ranges_in(info: &Value) -> Vec<Range<u64>> {
    let unread = info["members"][0]["unread"].as_array().expect("a list");
    let number = |range: &Value, at: usize| range[at].as_u64().expect("a number");
    unread.iter().map(|range| number(range, 0)..number(range, 0) + number(range, 1)).collect()
}

/// All that can be read is there, all else is zeros, and every place that tells of it says the same.
fn check(source: &Path, bytes: &[u8], damaged: &[Range<u64>]) {
    let (sandbox, output) = back_up_what_can_be_read(source);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("could not be read and are zeros in the archive, the first at byte "), "{said}");
    let created: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");

    let info: Value =
        serde_json::from_str(&sandbox.run(&["info", &sandbox.reference("saved"), "--json"])).expect("JSON");
    let bad = ranges_in(&info);
    assert_eq!(created["unread"], bad.iter().map(|range| range.end - range.start).sum::<u64>());
    for range in damaged {
        assert!(
            bad.iter().any(|bad| bad.start <= range.start && range.end <= bad.end),
            "{range:?} in {bad:?}"
        );
    }
    for bad in &bad {
        let near = |range: &&Range<u64>| {
            range.start < bad.end + LARGEST_PAGE && bad.start < range.end + LARGEST_PAGE
        };
        assert!(damaged.iter().any(|range| near(&range)), "{bad:?} is far from {damaged:?}");
        assert!(bad.start.is_multiple_of(4096) && bad.end.is_multiple_of(4096), "{bad:?}");
    }
    let text = sandbox.run(&["info", &sandbox.reference("saved")]);
    assert!(
        text.contains("UNREAD       ") && text.contains(&format!("offset {:>13}", bad[0].start)),
        "{text}"
    );

    let mut expected = bytes.to_vec();
    bad.iter().for_each(|bad| expected[bad.start as usize..bad.end as usize].fill(0));
    assert!(std::fs::read(sandbox.extract("saved")).expect("read") == expected, "{bad:?}");

    let mount = sandbox.mount();
    let image = mount.latest("saved").canonicalize().expect("link");
    let shown: Vec<String> = bad.iter().map(|bad| format!("{}+{}", bad.start, bad.end - bad.start)).collect();
    let found = attributes(&image);
    assert_eq!(found[&b"user.copal.bad_ranges"[..]], shown.join(",").into_bytes());
}

#[test]
fn what_cannot_be_read_is_zeros_and_told() {
    requires!(fuse, root, loop, losetup, getfattr);
    let sandbox = Sandbox::plain();
    let bytes = noise(1, LEN);
    sandbox.back_up_bytes("disk", &bytes);
    let damage = [1 << 20, 4 << 20].map(|at| flip_chunk_at(&sandbox, "disk", at).chunk);
    let damaged = ranges_of(&sandbox, "disk", &damage);
    let mount = sandbox.mount();
    let source = mount.latest("disk");
    check(&source, &bytes, &damaged);
    let device = LoopDevice::read_only(&source);
    check(device.path(), &bytes, &damaged);

    // Without being asked to go on there is no archive.
    for source in [source.as_path(), device.path()] {
        let other = Sandbox::plain();
        let said = other.fails(&["create", &other.reference("none"), &source.to_string_lossy()]);
        assert!(
            said.contains("cannot read \"")
                && said.contains(" at byte ")
                && said.contains("--read-errors=zero"),
            "{said}"
        );
        assert!(said.contains(&*source.to_string_lossy()), "{said}");
        let listed: Value =
            serde_json::from_str(&other.run(&["list", &other.repository().to_string_lossy(), "--json"]))
                .expect("JSON");
        assert_eq!(listed["archives"].as_array().map(Vec::len), Some(0));
    }
}

#[test]
fn a_source_of_which_nothing_can_be_read_gives_no_archive() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    sandbox.back_up_bytes("disk", &noise(2, 20_000));
    let _damage = flip_chunk_at(&sandbox, "disk", 0);
    let mount = sandbox.mount();
    let (saved, output) = back_up_what_can_be_read(&mount.latest("disk"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("nothing of ") && said.contains("check that it is attached"), "{said}");
    drop(saved);
}
