//! Volumes that are surveyed for their free blocks, mostly zeros.

mod exfat;
mod ext;
mod fat;
mod ntfs;
mod swap;

use copal::allocation::journal::journal;
use copal::allocation::survey;

use super::partition::Disk;

pub(super) use self::exfat::seeds as exfat_seeds;
pub(super) use self::ext::seeds as ext_seeds;
pub(super) use self::fat::seeds as fat_seeds;
pub(super) use self::ntfs::seeds as ntfs_seeds;
pub(super) use self::swap::seeds as swap_seeds;

/// The longest volume.
const MAX_VOLUME: usize = 256 << 10;
/// Where pieces begin: at multiples of this.
const GRID: usize = 8;
/// The longest piece.
const MAX_PIECE: usize = 255;

pub(super) fn ntfs(input: &[u8]) -> bool {
    check(volume(input), "ntfs")
}

pub(super) fn fat(input: &[u8]) -> bool {
    check(volume(input), "vfat")
}

pub(super) fn ext(input: &[u8]) -> bool {
    check(volume(input), "ext4")
}

pub(super) fn swap(input: &[u8]) -> bool {
    check(volume(input), "swap")
}

pub(super) fn exfat(input: &[u8]) -> bool {
    let mut volume = volume(input);
    exfat::seal(&mut volume);
    check(volume, "exfat")
}

/// The length (u16, in 512 bytes), then pieces: where (u16, in 8 bytes), how long (u8), the bytes.
fn volume(input: &[u8]) -> Vec<u8> {
    let Some((len, mut pieces)) = input.split_first_chunk::<2>() else { return Vec::new() };
    let mut volume = vec![0; (usize::from(u16::from_le_bytes(*len)) * 512).min(MAX_VOLUME)];
    while let Some(([low, high, piece], rest)) = pieces.split_first_chunk::<3>() {
        let (bytes, behind) = rest.split_at(rest.len().min(usize::from(*piece)));
        let at = usize::from(u16::from_le_bytes([*low, *high])) * GRID;
        volume.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
        pieces = behind;
    }
    volume
}

/// The input that gives a volume.
fn input(volume: &[u8]) -> Vec<u8> {
    let mut out = u16::try_from(volume.len() / 512).expect("a short volume").to_le_bytes().to_vec();
    let used = |at: &usize| volume[*at..volume.len().min(at + GRID)].iter().any(|byte| *byte != 0);
    let mut at = 0;
    while let Some(start) = (at..volume.len()).step_by(GRID).find(used) {
        let end = (start..volume.len()).step_by(GRID).find(|at| !used(at)).unwrap_or(volume.len());
        let end = end.min(start + MAX_PIECE / GRID * GRID);
        out.extend(u16::try_from(start / GRID).expect("within the volume").to_le_bytes());
        out.push(u8::try_from(end - start).expect("a short piece"));
        out.extend(&volume[start..end]);
        at = end;
    }
    out
}

fn check(volume: Vec<u8>, kind: &str) -> bool {
    let len = volume.len() as u64;
    let volume = Disk(volume);
    // Any answer will do.
    let _ = journal(&volume, 0..len, kind);
    let Ok(usage) = survey(&volume, 0..len, kind) else { return false };
    let free = usage.free.as_slice();
    assert!(usage.used + usage.free.bytes() <= len);
    for ranges in [free, &usage.fixed] {
        assert!(ranges.iter().all(|range| range.start < range.end && range.end <= len));
        assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
    }
    for fixed in &usage.fixed {
        assert!(!free.iter().any(|free| free.start < fixed.end && fixed.start < free.end));
    }
    true
}

/// Puts bytes into a volume.
fn put(volume: &mut [u8], at: usize, bytes: &[u8]) {
    volume[at..at + bytes.len()].copy_from_slice(bytes);
}
