//! Free ranges of a volume, in bounded memory.

use std::ops::Range;

/// Ranges that are kept at most: 64 MiB of them.
const MOST: usize = 4 << 20;

/// Ranges of bytes, sorted, disjoint, not touching. Where there are too many, the shortest are forgotten, which only keeps more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FreeRanges {
    ranges: Vec<Range<u64>>,
    most: usize,
    /// Shorter ones are not taken any more.
    shortest: u64,
}

impl Default for FreeRanges {
    fn default() -> Self {
        Self::bounded(MOST)
    }
}

impl FreeRanges {
    fn bounded(most: usize) -> Self {
        Self { ranges: Vec::new(), most, shortest: 1 }
    }

    /// Adds what begins at or behind the end of all that was added. Returns whether it does; if not, nothing is added, and whoever
    /// parses has been lied to.
    #[must_use]
    pub fn push(&mut self, range: Range<u64>) -> bool {
        if range.is_empty() {
            return true;
        }
        match self.ranges.last_mut() {
            Some(last) if last.end > range.start => return false,
            Some(last) if last.end == range.start => last.end = range.end,
            _ => {
                // The one before is complete now.
                self.ranges.pop_if(|last| last.end - last.start < self.shortest);
                if self.ranges.len() >= self.most {
                    self.forget_short_ones();
                }
                self.ranges.push(range);
            }
        }
        true
    }

    fn forget_short_ones(&mut self) {
        while self.ranges.len() > self.most / 2 {
            self.shortest = self.shortest.saturating_mul(2);
            self.ranges.retain(|range| range.end - range.start >= self.shortest);
        }
    }

    /// The ranges.
    #[must_use]
    pub fn as_slice(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// Bytes in all ranges together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_join_and_disorder_is_refused() {
        let mut free = FreeRanges::default();
        assert!(free.push(0..4) && free.push(4..8) && free.push(9..9) && free.push(12..16));
        assert!(!free.push(15..20));
        assert_eq!(free.as_slice(), [0..8, 12..16]);
        assert_eq!(free.bytes(), 12);
    }

    #[test]
    fn too_many_lose_the_shortest() {
        let mut free = FreeRanges::bounded(100);
        for at in 0..10_000_u64 {
            let len = if at.is_multiple_of(400) { 64 } else { 8 };
            assert!(free.push(at * 100..at * 100 + len));
        }
        assert!(free.as_slice().len() <= 101);
        assert_eq!(free.as_slice().iter().filter(|range| range.end - range.start == 64).count(), 25);
    }
}
