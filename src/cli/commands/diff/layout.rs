//! Which partition a byte belongs to, and how much of each partition differs.

use std::ops::Range;

use serde::Serialize;

use crate::image::diff::Kind;
use crate::partition::Partition;

/// Bytes that differ, and in how many ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(super) struct Tally {
    pub(super) changed: u64,
    pub(super) added: u64,
    pub(super) removed: u64,
    pub(super) unknown: u64,
    pub(super) ranges: u64,
}

impl Tally {
    pub(super) fn add(&mut self, kind: Kind, len: u64) {
        self.ranges += 1;
        *match kind {
            Kind::Changed => &mut self.changed,
            Kind::Added => &mut self.added,
            Kind::Removed => &mut self.removed,
            Kind::Unknown => &mut self.unknown,
        } += len;
    }
}

/// A partition and what differs in it.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) number: u32,
    pub(super) start: u64,
    pub(super) len: u64,
    pub(super) filesystem: Option<String>,
    pub(super) tally: Tally,
}

/// A disk's division. Every byte belongs to one partition at most: where partitions overlap, as an extended one and those in it, to the shortest.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// Which archive's partition table this is.
    pub(super) side: char,
    pub(super) parts: Vec<Part>,
    /// What differs outside of all partitions.
    pub(super) outside: Tally,
    /// Where a stretch ends, and which of `parts` it belongs to; ascending. No partition lies behind the last.
    stretches: Vec<(u64, Option<usize>)>,
}

impl Layout {
    pub(super) fn new(side: char, partitions: &[Partition]) -> Self {
        let part = |partition: &Partition| Part {
            number: partition.number,
            start: partition.start,
            len: partition.len,
            filesystem: partition.filesystem.clone(),
            tally: Tally::default(),
        };
        let parts: Vec<Part> = partitions.iter().map(part).collect();
        let mut edges: Vec<u64> = parts.iter().flat_map(|part| [part.start, part.start + part.len]).collect();
        edges.sort_unstable();
        edges.dedup();
        let mut start = 0;
        let mut stretches = Vec::with_capacity(edges.len());
        for end in edges {
            let covers = |part: &Part| part.start <= start && end <= part.start + part.len;
            let owner = (0..parts.len()).filter(|i| covers(&parts[*i])).min_by_key(|i| parts[*i].len);
            stretches.push((end, owner));
            start = end;
        }
        Self { side, parts, outside: Tally::default(), stretches }
    }

    /// Whether another layout has the same partitions.
    pub(super) fn divides_as(&self, other: &Self) -> bool {
        let shape = |part: &Part| (part.number, part.start, part.len);
        self.parts.iter().map(shape).eq(other.parts.iter().map(shape))
    }

    /// Cuts a range where one partition ends or another begins.
    pub(super) fn split(&self, range: Range<u64>) -> Vec<(Range<u64>, Option<usize>)> {
        let first = self.stretches.partition_point(|(end, _)| *end <= range.start);
        let mut at = range.start;
        let mut pieces: Vec<(Range<u64>, Option<usize>)> = Vec::new();
        let rest = [(u64::MAX, None)];
        for (end, owner) in self.stretches[first..].iter().chain(&rest) {
            if at >= range.end {
                break;
            }
            let end = (*end).min(range.end);
            match pieces.last_mut() {
                Some((last, last_owner)) if last_owner == owner => last.end = end,
                _ => pieces.push((at..end, *owner)),
            }
            at = end;
        }
        pieces
    }

    pub(super) fn count(&mut self, owner: Option<usize>, kind: Kind, len: u64) {
        let tally = owner.and_then(|owner| self.parts.get_mut(owner)).map(|part| &mut part.tally);
        tally.unwrap_or(&mut self.outside).add(kind, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(number: u32, start: u64, len: u64) -> Partition {
        Partition {
            number,
            start,
            len,
            type_code: String::new(),
            type_name: String::new(),
            label: String::new(),
            partition_uuid: None,
            filesystem: None,
            filesystem_label: None,
            uuid: None,
            container: false,
            only_in_mbr: false,
        }
    }

    #[test]
    fn ranges_are_cut_at_partitions() {
        // 2 is an extended partition with 5 and 6 in it.
        let all = [(1, 100, 100), (2, 200, 300), (5, 210, 90), (6, 310, 190)];
        let layout = Layout::new('B', &all.map(|(number, start, len)| partition(number, start, len)));
        let split = |range: Range<u64>| {
            let numbered = |(range, owner): (Range<u64>, Option<usize>)| {
                (range, owner.map_or(0, |owner| layout.parts[owner].number))
            };
            layout.split(range).into_iter().map(numbered).collect::<Vec<_>>()
        };
        assert_eq!(split(0..100), [(0..100, 0)]);
        assert_eq!(split(99..101), [(99..100, 0), (100..101, 1)]);
        assert_eq!(
            split(150..600),
            [(150..200, 1), (200..210, 2), (210..300, 5), (300..310, 2), (310..500, 6), (500..600, 0)]
        );
        assert_eq!(split(700..u64::MAX), [(700..u64::MAX, 0)]);
        assert_eq!(Layout::new('A', &[]).split(5..9), [(5..9, None)]);
    }
}
