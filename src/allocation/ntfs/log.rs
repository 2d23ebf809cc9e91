//! The log of NTFS: whether anything in it may still be replayed.
//!
//! Windows keeps two restart pages at its beginning. A log that was closed has no clients, or says that the volume is clean; one that `ntfs-3g` or a formatter left is all ones.

use super::super::Distrust;
use super::record::put_back;
use super::stream::Stream;
use crate::partition::bytes::{Fields, Window};

/// Bytes that the two restart pages take at most.
pub(super) const HEAD: u64 = 2 * MAX_PAGE as u64;
const MIN_PAGE: usize = 512;
const MAX_PAGE: usize = 64 << 10;
/// Instead of the number of the first client: there is none.
const NO_CLIENT: u16 = 0xffff;
const FLAG_CLEAN: u16 = 2;
/// Versions of the log, as (major, minor): until Windows 7, and since Windows 8.
const VERSIONS: [(u16, u16); 2] = [(1, 1), (2, 0)];

/// Checks that nothing is left to replay.
pub(super) fn check(volume: &Window<'_>, log: &Stream) -> Result<(), Distrust> {
    let len = usize::try_from(HEAD.min(log.len())).expect("at most HEAD");
    let head = log.read(volume, 0, len)?;
    if !head.is_empty() && head.iter().all(|byte| *byte == 0xff) {
        return check_empty(volume, log);
    }
    let page = Fields(&head).u32(16) as usize;
    if !page.is_power_of_two() || !(MIN_PAGE..=MAX_PAGE).contains(&page) {
        return Err(damaged());
    }
    let mut pages = head.chunks_exact(page);
    for _ in 0..2 {
        check_page(pages.next().ok_or_else(damaged)?)?;
    }
    Ok(())
}

fn check_empty(volume: &Window<'_>, log: &Stream) -> Result<(), Distrust> {
    log.for_each_piece(
        volume,
        |bytes| {
            if bytes.iter().all(|byte| *byte == 0xff) { Ok(()) } else { Err(damaged()) }
        },
    )
}

fn check_page(page: &[u8]) -> Result<(), Distrust> {
    let mut bytes = page.to_vec();
    if !bytes.starts_with(b"RSTR") {
        return Err(damaged());
    }
    put_back(&mut bytes)?;
    let head = Fields(&bytes);
    let area = usize::from(head.u16(24));
    if head.u32(16) as usize != page.len() || area < 30 || area % 8 != 0 || area + 48 > bytes.len() {
        return Err(damaged());
    }
    if !VERSIONS.contains(&(head.u16(28), head.u16(26))) {
        return Err(Distrust::because("its log is of an unknown version"));
    }
    if head.u16(area + 12) != NO_CLIENT && head.u16(area + 14) & FLAG_CLEAN == 0 {
        return Err(Distrust::because(
            "its log was not closed, as after a crash or a fast shutdown of Windows",
        ));
    }
    Ok(())
}

fn damaged() -> Distrust {
    Distrust::because("its log is damaged")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page as a clean shutdown leaves it.
    fn page() -> Vec<u8> {
        let mut page = vec![0; 4096];
        page[..8].copy_from_slice(b"RSTR\x1e\0\x09\0");
        page[16..32].copy_from_slice(b"\0\x10\0\0\0\x10\0\0\x30\0\x01\0\x01\0\x05\0");
        page[30..48].fill(0);
        page[30] = 5;
        page[60..64].copy_from_slice(b"\xff\xff\0\0");
        (1..=8).for_each(|sector| page[sector * 512 - 2] = 5);
        page
    }

    #[test]
    fn a_closed_log_is_clean() {
        check_page(&page()).unwrap();
        let mut flagged = page();
        flagged[60..64].copy_from_slice(b"\0\0\x02\0");
        check_page(&flagged).unwrap();
    }

    #[test]
    fn all_else_is_not() {
        for (at, byte) in [(0, b'C'), (60, 0), (17, 0x20), (28, 3), (510, 6), (4094, 0), (24, 1), (25, 0x20)]
        {
            let mut page = page();
            page[at] = byte;
            assert!(check_page(&page).is_err(), "byte {at}");
        }
    }
}
