//! Which packs a check opens when it does not open all.

use std::cmp::Reverse;

/// A part of all packs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Subset {
    /// The `number`-th of `of` parts, from 1: each pack is in exactly one of them, the same at every run.
    Part {
        /// Which part.
        number: u32,
        /// How many there are.
        of: u32,
    },
    /// Packs drawn at random until they have this many of 10,000 parts of all bytes.
    Share(u32),
    /// Packs drawn at random until they have this many bytes.
    Bytes(u64),
}

impl Subset {
    /// What share a percentage is; `None` if it is not between 0.01 and 100.
    #[must_use]
    pub fn percent(percent: f64) -> Option<Self> {
        let parts = (percent * 100.0).round();
        (1.0..=10_000.0).contains(&parts).then_some(Self::Share(parts as u32))
    }

    /// Keeps the packs that are meant; `of` tells a pack's id, which is random, and its length in bytes.
    #[must_use]
    pub fn choose<T>(self, mut packs: Vec<T>, of: impl Fn(&T) -> ([u8; 16], u64)) -> Vec<T> {
        let wanted = match self {
            Self::Part { number, of: parts } => {
                let part = |id: [u8; 16]| u128::from_le_bytes(id) % u128::from(parts.max(1));
                packs.retain(|pack| part(of(pack).0) == u128::from(number.saturating_sub(1)));
                return packs;
            }
            Self::Share(share) => {
                let all: u128 = packs.iter().map(|pack| u128::from(of(pack).1)).sum();
                u64::try_from((all * u128::from(share)).div_ceil(10_000)).unwrap_or(u64::MAX)
            }
            Self::Bytes(bytes) => bytes,
        };
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).expect("the system's random source works");
        packs.sort_by_cached_key(|pack| Reverse(*blake3::keyed_hash(&seed, &of(pack).0).as_bytes()));
        let mut bytes = 0;
        packs.retain(|pack| {
            let keep = bytes < wanted;
            bytes += if keep { of(pack).1 } else { 0 };
            keep
        });
        packs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::PackId;

    fn packs() -> Vec<PackId> {
        (0..200).map(|_| PackId::random()).collect()
    }

    #[test]
    fn every_pack_is_in_just_one_part() {
        let all = packs();
        let part = |number| Subset::Part { number, of: 7 }.choose(all.clone(), |pack| (pack.0, 1));
        let mut found: Vec<PackId> = (1..=7).flat_map(part).collect();
        found.sort_unstable();
        let mut sorted = all.clone();
        sorted.sort_unstable();
        assert_eq!(found, sorted);
        assert!(!part(1).is_empty() && part(8).is_empty());
    }

    #[test]
    fn samples_have_the_bytes_that_were_asked_for() {
        let sample = |subset: Subset| subset.choose(packs(), |pack| (pack.0, 10)).len();
        assert_eq!(sample(Subset::percent(5.0).unwrap()), 10);
        assert_eq!(sample(Subset::percent(100.0).unwrap()), 200);
        assert_eq!(sample(Subset::percent(0.01).unwrap()), 1);
        assert_eq!(sample(Subset::Bytes(95)), 10);
        assert_eq!(sample(Subset::Bytes(1 << 40)), 200);
        assert_eq!([0.0, 100.1, f64::NAN].map(Subset::percent), [None; 3]);
    }
}
