//! Lists of runs: where an attribute's clusters lie. No I/O.

use std::ops::Range;

use super::super::Distrust;
use super::super::clusters::Clusters;
use super::record::{Attribute, damaged};
use crate::partition::bytes::Fields;

/// Where an attribute that is not in its record lies, or the part of it that this record tells of.
pub(crate) struct Runs {
    /// The first cluster of the attribute that is told of.
    pub(crate) first: u64,
    pub(crate) runs: Vec<Run>,
}

/// Clusters that lie beside each other, or a hole.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Clusters of the volume; a hole has none.
    pub(crate) place: Option<Range<u64>>,
    /// How many.
    pub(crate) len: u64,
}

impl Runs {
    /// Decodes the runs of an attribute; `None` if it is in its record.
    pub(crate) fn of(attribute: &Attribute<'_>, clusters: Clusters) -> Result<Option<Self>, Distrust> {
        if attribute.value.is_some() {
            return Ok(None);
        }
        let head = attribute.bytes;
        let (first, last) = (head.u64(16), head.u64(24));
        let at = usize::from(head.u16(32));
        let pairs = head.0.get(at..).filter(|_| at >= 64).ok_or_else(damaged)?;
        let runs = decode(pairs, clusters)?;
        // The last cluster of an attribute without any is -1.
        let len = last.wrapping_add(1).checked_sub(first).ok_or_else(damaged)?;
        let sum = runs.iter().try_fold(0_u64, |sum, run| sum.checked_add(run.len));
        if sum != Some(len) {
            return Err(damaged());
        }
        Ok(Some(Self { first, runs }))
    }
}

/// Pairs of a length and a distance from the run before, each of as many bytes as their head says. At most one run for every two bytes.
fn decode(mut pairs: &[u8], clusters: Clusters) -> Result<Vec<Run>, Distrust> {
    let (mut runs, mut first) = (Vec::new(), 0_i64);
    loop {
        let (head, rest) = pairs.split_first().ok_or_else(damaged)?;
        if *head == 0 {
            return Ok(runs);
        }
        let (len_width, place_width) = (usize::from(head & 0xf), usize::from(head >> 4));
        if !(1..=8).contains(&len_width) || place_width > 8 || rest.len() < len_width + place_width {
            return Err(damaged());
        }
        let len = u64::try_from(signed(&rest[..len_width])).ok().filter(|len| *len > 0);
        let len = len.ok_or_else(damaged)?;
        let place = if place_width == 0 {
            None
        } else {
            let distance = signed(&rest[len_width..len_width + place_width]);
            first = first.checked_add(distance).ok_or_else(damaged)?;
            let place = u64::try_from(first).map_err(|_| damaged())?;
            Some(clusters.range(place, len).ok_or_else(damaged)?)
        };
        runs.push(Run { place, len });
        pairs = &rest[len_width + place_width..];
    }
}

/// A signed little-endian number of 1 to 8 bytes.
fn signed(bytes: &[u8]) -> i64 {
    let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    wide.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    Fields(&wide).u64(0).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOLUME: Clusters = Clusters { start: 0, size: 4096, count: 1000 };

    #[test]
    fn runs_and_holes_follow_each_other() {
        let pairs = [0x21, 4, 0x2c, 0x01, 0x01, 16, 0x11, 2, 0xf0, 0];
        let runs = decode(&pairs, VOLUME).unwrap();
        let expected = [(Some(300..304), 4), (None, 16), (Some(284..286), 2)];
        assert_eq!(runs, expected.map(|(place, len)| Run { place, len }));
    }

    #[test]
    fn wrong_runs_are_refused() {
        let wrong: [&[u8]; 8] = [
            &[],
            &[0x11, 4, 1],
            &[0x11, 0, 1, 0],
            &[0x11, 0xff, 1, 0],
            &[0x11, 4, 0xff, 0],
            &[0x21, 4, 0xe7, 3, 0],
            &[0x19, 4, 1, 0],
            &[0x10, 4, 0],
        ];
        for pairs in wrong {
            assert!(decode(pairs, VOLUME).is_err(), "{pairs:x?}");
        }
    }
}
