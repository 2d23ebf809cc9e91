//! Swap areas: all but the first page is free, unless a machine sleeps in it.
//!
//! Hibernation replaces the signature while an image is in the area (`S1SUSPEND` and its kin), at the end of the first page, whose size is the
//! machine's. Bad pages hold nothing either. What lies behind the last page is not the area's.

use super::{Distrust, FreeRanges, Survey, Usage};
use crate::partition::SUSPENDED;
use crate::partition::bytes::{Fields, Window};

/// Page sizes that Linux runs with, in bytes.
const PAGES: [u64; 5] = [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10];
/// Length of a signature, which ends the first page.
const SIGNATURE: usize = 10;
/// Where the header stands in the first page, behind room for a boot sector.
const HEADER: usize = 1024;

/// Surveys a volume that is said to be a swap area.
pub(super) fn survey(volume: &Window<'_>) -> Survey {
    let head = volume.read_up_to(0, *PAGES.last().unwrap_or(&0) as usize)?;
    let fields = Fields(&head);
    let signed = |page: u64, with: &[u8]| fields.has(page as usize - SIGNATURE, with);
    if PAGES.iter().any(|page| SUSPENDED.iter().any(|with| signed(*page, with))) {
        return Err(Distrust::because("a system was hibernated to it"));
    }
    let mut pages = PAGES.into_iter().filter(|page| signed(*page, b"SWAPSPACE2"));
    let (Some(page), None) = (pages.next(), pages.next()) else {
        return Err(Distrust::because("its signature is missing or ambiguous"));
    };
    // Of a machine of the other byte order, this is another number.
    if fields.u32(HEADER) != 1 {
        return Err(Distrust::because("it is of an unknown version or byte order"));
    }
    let last = u64::from(fields.u32(HEADER + 4));
    let end = (last + 1) * page;
    if last == 0 || end > volume.len() {
        return Err(Distrust::too_long());
    }
    let mut free = FreeRanges::default();
    if !free.push(page..end) {
        return Err(Distrust::because("its pages overlap"));
    }
    let head = 0..page;
    Ok(Usage {
        filesystem: "swap",
        label: fields.text(HEADER + 28, 16).unwrap_or_default(),
        used: page,
        free,
        fixed: vec![head],
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::Disk;
    use super::*;

    const LEN: usize = 1 << 20;

    fn area(page: usize, last: u32) -> Vec<u8> {
        let mut bytes = vec![0; LEN];
        bytes[page - SIGNATURE..page].copy_from_slice(b"SWAPSPACE2");
        bytes[HEADER..HEADER + 4].copy_from_slice(&1_u32.to_le_bytes());
        bytes[HEADER + 4..HEADER + 8].copy_from_slice(&last.to_le_bytes());
        bytes[HEADER + 28..HEADER + 32].copy_from_slice(b"swap");
        bytes
    }

    fn survey(bytes: &[u8]) -> Survey {
        super::survey(&Window::whole(&Disk(bytes)))
    }

    #[test]
    fn all_but_the_first_page_is_free() {
        for page in [4 << 10, 64 << 10] {
            let last = LEN / page - 2;
            let usage = survey(&area(page, last as u32)).unwrap();
            let free = page as u64..(LEN - page) as u64;
            assert_eq!(usage.free.as_slice(), std::slice::from_ref(&free));
            assert_eq!((usage.label.as_str(), usage.used), ("swap", page as u64));
        }
    }

    #[test]
    fn a_sleeping_system_is_not_disturbed() {
        for asleep in SUSPENDED {
            let mut bytes = area(4096, 255);
            bytes[4096 - SIGNATURE..4096].fill(0);
            bytes[4096 - SIGNATURE..][..asleep.len()].copy_from_slice(asleep);
            assert!(survey(&bytes).unwrap_err().to_string().contains("hibernated"));
        }
    }

    #[test]
    fn what_does_not_fit_is_taken_whole() {
        assert!(survey(&area(4096, 255)).is_ok());
        for last in [0, 256, u32::MAX] {
            assert!(survey(&area(4096, last)).is_err(), "{last}");
        }
        let mut foreign = area(4096, 255);
        foreign[HEADER..HEADER + 4].copy_from_slice(&1_u32.to_be_bytes());
        assert!(survey(&foreign).is_err());
        let mut two = area(4096, 100);
        two[8192 - SIGNATURE..8192].copy_from_slice(b"SWAPSPACE2");
        assert!(survey(&two).is_err());
    }
}
