//! Chains of clusters in the table of exFAT, and which clusters something leads to.

use std::ops::Range;

use super::super::Distrust;
use super::super::clusters::{Clusters, Set};
use super::boot::Boot;
use crate::partition::bytes::{Fields, Window};

/// Bytes of the table that are kept: chains mostly go on beside where they are.
const PIECE: u64 = 4096;
/// The lowest number that leads to no cluster: a bad one, and the end of a chain.
const BAD: u32 = 0xffff_fff7;
const END: u32 = 0xffff_ffff;
/// The first entry, which stands for no cluster.
const FIRST: u32 = 0xffff_fff8;

/// Follows chains, and claims each cluster for one of them only.
pub(super) struct Chains<'a> {
    pub(super) volume: &'a Window<'a>,
    clusters: Clusters,
    table: Range<u64>,
    claimed: Set,
    piece_at: u64,
    piece: Vec<u8>,
}

impl<'a> Chains<'a> {
    pub(super) fn new(volume: &'a Window<'a>, boot: &Boot) -> Result<Self, Distrust> {
        let claimed = Set::new(boot.clusters.count)?;
        let (clusters, table) = (boot.clusters, boot.table.clone());
        let mut chains = Self { volume, clusters, table, claimed, piece_at: 0, piece: Vec::new() };
        if chains.entry(0)? != FIRST {
            return Err(damaged());
        }
        Ok(chains)
    }

    /// An entry of the table, which has it.
    fn entry(&mut self, number: u32) -> Result<u32, Distrust> {
        let at = self.table.start + u64::from(number) * 4;
        let piece_at = at - at % PIECE;
        if self.piece.is_empty() || self.piece_at != piece_at {
            self.piece = self.volume.read_up_to(piece_at, PIECE as usize)?;
            self.piece_at = piece_at;
        }
        Ok(Fields(&self.piece).u32((at - piece_at) as usize))
    }

    /// A cluster by its number in the table, from now on that of one chain.
    fn claim(&mut self, number: u32) -> Result<u64, Distrust> {
        let cluster = u64::from(number).checked_sub(2).ok_or_else(damaged)?;
        if number >= BAD || !self.claimed.insert(cluster) {
            return Err(damaged());
        }
        Ok(cluster)
    }

    /// Claims a chain from its first cluster to its end. Returns where at least `len` bytes of it lie, neighbours joined.
    pub(super) fn chain(&mut self, first: u32, len: u64) -> Result<Vec<Range<u64>>, Distrust> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let (mut number, mut found) = (first, 0);
        while number != END {
            let cluster = self.claim(number)?;
            let bytes = self.clusters.bytes(cluster..cluster + 1);
            match ranges.last_mut() {
                Some(last) if last.end == bytes.start => last.end = bytes.end,
                _ => ranges.push(bytes),
            }
            found += self.clusters.size;
            number = self.entry(number)?;
        }
        if found < len {
            return Err(Distrust::because("a chain of clusters is too short"));
        }
        Ok(ranges)
    }

    /// As [`Self::chain`], for clusters that lie beside each other.
    pub(super) fn contiguous(&mut self, first: u32, len: u64) -> Result<Range<u64>, Distrust> {
        let start = u64::from(first).checked_sub(2).ok_or_else(damaged)?;
        let run = self.clusters.range(start, self.clusters.holding(len)).ok_or_else(damaged)?;
        for cluster in run.clone() {
            if !self.claimed.insert(cluster) {
                return Err(damaged());
            }
        }
        Ok(self.clusters.bytes(run))
    }

    /// All that was claimed.
    pub(super) fn into_claimed(self) -> Set {
        self.claimed
    }
}

fn damaged() -> Distrust {
    Distrust::because("its chains of clusters are damaged")
}
