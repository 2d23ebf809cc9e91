//! Access lists of files: what a mode may grant in place of one that the destination does not take. No I/O.
//!
//! Beside a list, the group bits of a mode are the list's mask. Without the list they would be rights of the group, so a mode is never set as it is where its list is missing.

use crate::partition::bytes::Fields;

/// The attribute that is the list of a file.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute that is the list which what is made in a directory begins with.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

/// In front of the entries: the version.
const HEAD: usize = 4;
/// An entry: kind, rights, id.
const ENTRY: usize = 8;
/// Kinds of entries.
const USER: u16 = 0x02;
const OWN_GROUP: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
/// Rights of one class in a mode.
const ALL: u16 = 0o7;

/// The rights of one kind of entry; `None` if there is none of it.
fn rights(list: &[u8], kind: u16) -> Option<u16> {
    let entries = list.get(HEAD..).unwrap_or_default().chunks_exact(ENTRY).map(Fields);
    // Entries of a kind that many may have count together, as what all of them have.
    entries
        .filter(|entry| entry.u16(0) == kind)
        .map(|entry| entry.u16(2) & ALL)
        .reduce(|one, other| one & other)
}

/// The mode of a file beside its list: the mask is what both say it is.
pub(super) fn masked(mode: u16, list: &[u8]) -> u16 {
    mode & (!(ALL << 3) | rights(list, MASK).unwrap_or(ALL) << 3)
}

/// The mode of a file without its list, so that nobody has more rights than the list grants: the group has its own, and those whom the list names have no more than
/// it says, whether they are in the group or not.
pub(super) fn without(mode: u16, list: &[u8]) -> u16 {
    let mask = rights(list, MASK).unwrap_or(ALL);
    let named = |kind| rights(list, kind).map_or(ALL, |rights| rights & mask);
    let group = rights(list, OWN_GROUP).unwrap_or(0) & mask & named(USER);
    let other = named(USER) & named(GROUP);
    mode & (!0o77 | group << 3 | other)
}

/// The mode of a file whose list cannot be read: as for the kernel, only the owner's rights are known. A mode without group bits stands for itself.
pub(super) fn unknown(mode: u16) -> u16 {
    if mode & ALL << 3 == 0 { mode } else { mode & !0o77 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: u32 = u32::MAX;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let bytes = entries.iter().flat_map(|(kind, rights, id)| {
            [&kind.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat()
        });
        2_u32.to_le_bytes().into_iter().chain(bytes).collect()
    }

    #[test]
    fn without_a_list_nobody_has_more_rights() {
        let owner = (1, 7, NONE);
        let other = (0x20, 4, NONE);
        for (mode, entries, without_it) in [
            // One more user; the group has only its own.
            (0o674, vec![owner, (USER, 7, 1000), (OWN_GROUP, 4, NONE), (MASK, 7, NONE), other], 0o644),
            (0o670, vec![owner, (USER, 7, 1000), (OWN_GROUP, 0, NONE), (MASK, 7, NONE)], 0o600),
            // The mask holds for the group, too.
            (0o6744, vec![owner, (GROUP, 4, 7), (OWN_GROUP, 7, NONE), (MASK, 4, NONE), other], 0o6744),
            // Whom the list refuses, the mode does not let in.
            (0o674, vec![owner, (USER, 0, 1000), (OWN_GROUP, 7, NONE), (MASK, 7, NONE), other], 0o600),
            (0o674, vec![owner, (GROUP, 0, 1000), (OWN_GROUP, 7, NONE), (MASK, 7, NONE), other], 0o670),
            // A list of nothing but what a mode says, and none at all.
            (0o654, vec![owner, (OWN_GROUP, 5, NONE), other], 0o654),
            (0o777, vec![], 0o707),
        ] {
            assert_eq!(without(mode, &list(&entries)), without_it, "{mode:o} {entries:?}");
        }
        assert_eq!(without(0o777, &[2, 0, 0]), 0o707, "no list");
    }

    #[test]
    fn a_mask_is_what_list_and_mode_say() {
        let narrow = list(&[(USER, 7, 1000), (OWN_GROUP, 7, NONE), (MASK, 5, NONE)]);
        assert_eq!((masked(0o4777, &narrow), masked(0o737, &narrow)), (0o4757, 0o717));
        assert_eq!(masked(0o777, &list(&[(OWN_GROUP, 7, NONE)])), 0o777);
        assert_eq!((unknown(0o2755), unknown(0o2705)), (0o2700, 0o2705));
    }
}
