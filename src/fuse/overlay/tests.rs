//! Layers against a model in memory, and the file that is kept.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// An image whose bytes tell their place.
fn image(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 256 * 31 + at) as u8).collect()
}

fn beneath(image: &[u8]) -> impl Fn(u64, &mut [u8]) -> Result<(), Errno> {
    move |at, buf| {
        let at = usize::try_from(at).expect("small");
        buf.copy_from_slice(image.get(at..at + buf.len()).ok_or(Errno::IO)?);
        Ok(())
    }
}

fn id(byte: u8) -> ArchiveId {
    ArchiveId([byte; ArchiveId::LEN])
}

fn discarded(len: usize, budget: &Arc<Budget>) -> Overlay {
    let file = tempfile::tempfile().expect("a file");
    Overlay::over(file, len as u64, false, budget, HashMap::new())
}

fn kept(path: &Path, len: usize) -> Overlay {
    let header = kept::Header { archive: id(7), member: 1, len: len as u64 };
    let (file, written) = kept::open(path, &header).expect("opened");
    Overlay::over(file, len as u64, true, &Budget::of_bytes(1 << 30), written)
}

fn all(overlay: &Overlay, image: &[u8]) -> Vec<u8> {
    let mut found = vec![0xaa; image.len()];
    overlay.read(0, &mut found, &beneath(image)).expect("read");
    found
}

proptest! {
    #[test]
    fn reads_show_what_was_written_last(
        len in 1..300_000_usize,
        writes in vec((0..300_000_usize, 1..40_000_usize, any::<u8>()), 1..30),
        at in 0..300_000_usize,
    ) {
        let image = image(len);
        let overlay = discarded(len, &Budget::of_bytes(1 << 30));
        let mut model = image.clone();
        for (offset, count, fill) in writes {
            let offset = offset % len;
            let count = count.min(len - offset);
            let data: Vec<u8> = (0..count).map(|n| fill.wrapping_add(n as u8)).collect();
            overlay.write(offset as u64, &data, &beneath(&image)).expect("write");
            model[offset..offset + count].copy_from_slice(&data);
        }
        prop_assert!(all(&overlay, &image) == model);
        let at = at % len;
        let mut part = vec![0; (len - at).min(10_000)];
        overlay.read(at as u64, &mut part, &beneath(&image)).expect("read");
        prop_assert!(part == model[at..at + part.len()]);
    }

    #[test]
    fn what_is_kept_is_there_the_next_time(
        len in 1..600_000_usize,
        writes in vec((0..600_000_usize, 1..20_000_usize), 1..12),
    ) {
        let image = image(len);
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("kept");
        let mut model = image.clone();
        for (number, (offset, count)) in writes.into_iter().enumerate() {
            let overlay = kept(&path, len);
            prop_assert!(all(&overlay, &image) == model);
            let offset = offset % len;
            let count = count.min(len - offset);
            overlay.write(offset as u64, &vec![number as u8; count], &beneath(&image)).expect("write");
            model[offset..offset + count].fill(number as u8);
        }
        prop_assert!(all(&kept(&path, len), &image) == model);
        prop_assert_eq!(std::fs::metadata(&path).expect("stat").permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn what_was_not_synced_before_a_crash_is_what_the_image_has() {
    let image = image(100_000);
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("kept");
    let overlay = kept(&path, image.len());
    overlay.write(5000, &[1; 9000], &beneath(&image)).expect("write");
    overlay.sync().expect("sync");
    overlay.write(50_000, &[2; 9000], &beneath(&image)).expect("write");
    // As it lies on the disk when nothing ends as it should; locks are the process's, so the file is another one.
    let crashed = place.path().join("crashed");
    std::fs::copy(&path, &crashed).expect("copy");
    let found = all(&kept(&crashed, image.len()), &image);
    assert_eq!(found[5000..14_000], [1; 9000]);
    assert_eq!(found[14_000..], image[14_000..]);
}

#[test]
fn no_more_is_written_than_was_allowed() {
    let image = image(100 * 4096);
    let budget = Budget::of_bytes(10 * BLOCK + 4095);
    let (one, other) = (discarded(image.len(), &budget), discarded(image.len(), &budget));
    one.write(4096, &[1; 6 * 4096], &beneath(&image)).expect("six blocks");
    assert_eq!(other.write(0, &[1; 5 * 4096], &beneath(&image)), Err(Errno::NO_SPACE));
    other.write(100, &[1; 4 * 4096 - 200], &beneath(&image)).expect("four blocks, two of them in part");
    assert_eq!(one.write(0, &[1], &beneath(&image)), Err(Errno::NO_SPACE));
    one.write(4100, &[2; 9000], &beneath(&image)).expect("what was written can be written again");
    let stat = one.file.metadata().expect("stat");
    assert!(stat.blocks() * 512 <= 7 * BLOCK, "{} of 512", stat.blocks());
}

#[test]
fn nothing_is_written_behind_the_end() {
    let image = image(10_000);
    let overlay = discarded(image.len(), &Budget::of_bytes(1 << 20));
    assert_eq!(overlay.write(9_990, &[1; 11], &beneath(&image)), Err(Errno::NO_SPACE));
    assert_eq!(overlay.write(u64::MAX, &[1; 11], &beneath(&image)), Err(Errno::NO_SPACE));
    overlay.write(9_990, &[1; 10], &beneath(&image)).expect("up to the end");
    assert_eq!(all(&overlay, &image)[8192..], [&image[8192..9990], &[1; 10]].concat());
}

#[test]
fn a_part_of_a_block_that_is_lost_cannot_be_written_and_all_of_it_can() {
    let image = image(8192);
    let lost = |_: u64, _: &mut [u8]| Err(Errno::IO);
    let overlay = discarded(image.len(), &Budget::of_bytes(1 << 20));
    assert_eq!(overlay.write(10, &[1; 10], &lost), Err(Errno::IO));
    overlay.write(4096, &[1; 4096], &lost).expect("a whole block");
    let mut found = [0; 4096];
    overlay.read(4096, &mut found, &lost).expect("it is here");
    assert_eq!(overlay.read(4095, &mut found, &lost), Err(Errno::IO));
}

#[test]
fn the_header_of_a_kept_file() {
    let header = kept::Header { archive: id(0xab), member: 2, len: 0x1234_5678 };
    let mut golden = b"copal overlay 1\n".to_vec();
    golden.extend([0xab; ArchiveId::LEN]);
    golden.extend([2, 0, 0, 0, 0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0]);
    assert_eq!(header.to_bytes(), golden[..]);

    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("kept");
    let overlay = kept(&path, 70 * 4096 + 1);
    overlay.write(4096, &[9; 4096], &beneath(&[])).expect("write");
    overlay.write(69 * 4096, &[9; 4096], &beneath(&[])).expect("write");
    drop(overlay);
    let bytes = std::fs::read(&path).expect("read");
    let bits = 71 * 4096;
    assert_eq!(bytes[bits..bits + 16], [2, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes.len(), bits + 16 + golden.len());
}

#[test]
fn a_file_of_something_else_is_left_as_it_is() {
    let place = tempfile::tempdir().expect("a directory");
    let path = |name: &str| place.path().join(name);
    let open = |name: &str, archive, member, len| {
        kept::open(&path(name), &kept::Header { archive, member, len }).map(drop)
    };
    open("kept", id(1), 0, 10_000).expect("made");
    let before = std::fs::read(path("kept")).expect("read");
    for (archive, member, len) in [(id(2), 0, 10_000), (id(1), 1, 10_000), (id(1), 0, 90_000), (id(1), 0, 10)]
    {
        let refused = open("kept", archive, member, len);
        assert!(matches!(refused, Err(OverlayError::Foreign { .. })), "{refused:?}");
    }
    std::fs::write(path("text"), "something").expect("write");
    assert!(matches!(open("text", id(1), 0, 10), Err(OverlayError::Foreign { .. })));
    std::fs::set_permissions(path("kept"), std::fs::Permissions::from_mode(0o644)).expect("chmod");
    assert!(matches!(open("kept", id(1), 0, 10_000), Err(OverlayError::Foreign { .. })));
    std::os::unix::fs::symlink(path("text"), path("link")).expect("link");
    assert!(matches!(open("link", id(1), 0, 10_000), Err(OverlayError::Io { .. })));
    assert_eq!(std::fs::read(path("kept")).expect("read"), before);
    assert_eq!(std::fs::read(path("text")).expect("read"), b"something");
}

#[test]
fn an_empty_file_that_others_could_read_is_made_private() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("kept");
    std::fs::write(&path, "").expect("write");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    drop(kept(&path, 10_000));
    assert_eq!(std::fs::metadata(&path).expect("stat").permissions().mode() & 0o777, 0o600);
    drop(kept(&path, 10_000));
}

#[test]
fn a_file_in_use_is_refused() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("kept");
    let header = kept::Header { archive: id(1), member: 0, len: 10_000 };
    let held = kept::open(&path, &header).expect("made");
    assert!(matches!(kept::open(&path, &header), Err(OverlayError::InUse { .. })));
    drop(held);
    kept::open(&path, &header).expect("free again");
}

#[test]
fn memory_is_no_place_for_a_layer() {
    let shm = Path::new("/dev/shm");
    if rustix::fs::statfs(shm).is_ok_and(|found| found.f_type == 0x0102_1994) {
        let refused = Overlay::discarded(shm, 4096, &Budget::of_bytes(4096));
        assert!(refused.is_err_and(|error| error.to_string().contains("is in memory (tmpfs)")));
    }
}
