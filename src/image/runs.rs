//! Joined reads: chunks that are wanted together and lie beside each other in a pack are read at once.

use std::ops::Range;

use crate::codec::keys::BlobKind;
use crate::format::location::Location;
use crate::id::PackId;
use crate::repository::packs::Packs;

/// Sealed bytes that are read at once, at most.
const LONGEST: u32 = 1 << 20;
/// Bytes between two chunks that are read in vain rather than asked for twice.
const WIDEST_GAP: u32 = 16 << 10;

/// Sealed bytes of several chunks, read in few pieces.
#[derive(Debug, Default)]
pub(super) struct Runs(Vec<Run>);

#[derive(Debug)]
struct Run {
    pack: PackId,
    start: u32,
    bytes: Vec<u8>,
}

impl Runs {
    /// Reads what lies beside each other. What lies alone, or cannot be read, is left out.
    pub(super) fn read(packs: &Packs, wanted: &mut [Location]) -> Self {
        wanted.sort_unstable_by_key(|at| (at.pack.id, at.offset));
        let read = |(pack, range): (PackId, Range<u32>)| {
            let bytes = packs.read_range(BlobKind::Chunk, pack, range.clone()).ok()?;
            Some(Run { pack, start: range.start, bytes })
        };
        Self(neighbours(wanted).into_iter().filter_map(read).collect())
    }

    /// A copy of the sealed bytes at a place, if they were read.
    pub(super) fn sealed(&self, at: Location) -> Option<Vec<u8>> {
        self.0.iter().filter(|run| run.pack == at.pack.id).find_map(|run| {
            let start = at.offset.checked_sub(run.start)? as usize;
            Some(run.bytes.get(start..start.checked_add(at.sealed_len as usize)?)?.to_vec())
        })
    }
}

/// The ranges of packs in which two places or more lie close together; `sorted` by pack and offset.
fn neighbours(sorted: &[Location]) -> Vec<(PackId, Range<u32>)> {
    let mut ranges = Vec::new();
    let mut last: Option<(PackId, Range<u32>, usize)> = None;
    for at in sorted {
        let end = at.offset.saturating_add(at.sealed_len);
        if let Some((pack, range, places)) = &mut last
            && *pack == at.pack.id
            && at.offset.saturating_sub(range.end) <= WIDEST_GAP
            && end.saturating_sub(range.start) <= LONGEST
        {
            range.end = range.end.max(end);
            *places += 1;
            continue;
        }
        ranges.extend(last.replace((at.pack.id, at.offset..end, 1)));
    }
    ranges.extend(last);
    ranges.into_iter().filter(|(_, _, places)| *places > 1).map(|(pack, range, _)| (pack, range)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::location::PackRef;

    fn at(pack: u8, offset: u32, sealed_len: u32) -> Location {
        Location { pack: PackRef { id: PackId([pack; 16]), mode: 1, epoch: 1 }, offset, sealed_len }
    }

    #[test]
    fn neighbours_are_joined_and_others_are_not() {
        let one = PackId([1; 16]);
        let joined = |places: &[Location]| neighbours(places);
        assert_eq!(joined(&[]), []);
        assert_eq!(joined(&[at(1, 40, 100)]), []);
        assert_eq!(joined(&[at(1, 40, 100), at(1, 140, 60), at(1, 200, 1)]), [(one, 40..201)]);
        assert_eq!(joined(&[at(1, 40, 100), at(2, 140, 60)]), [], "another pack");
        let far = 140 + WIDEST_GAP;
        assert_eq!(joined(&[at(1, 40, 100), at(1, far, 60)]), [(one, 40..far + 60)]);
        assert_eq!(joined(&[at(1, 40, 100), at(1, far + 1, 60)]), [], "too far away");
        assert_eq!(joined(&[at(1, 0, LONGEST), at(1, LONGEST, 1)]), [], "too long");
        assert_eq!(
            joined(&[at(1, u32::MAX - 5, 10), at(1, u32::MAX, u32::MAX)]).len(),
            1,
            "nonsense is bounded"
        );
    }
}
