//! What to reclaim: which packs are dead, or dead enough to be rewritten.

use std::collections::HashSet;

use super::Compactor;
use crate::format::pack::PackKind;
use crate::id::PackId;
use crate::maintenance::error::Result;
use crate::repository::guards::{condemned_lists, intents};
use crate::repository::segments::Lookup;

/// A pack that is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: PackId,
    /// Its number in the inventory.
    pub(super) number: usize,
    /// What is in it.
    pub kind: PackKind,
    /// Its stored bytes, all copies.
    pub stored: u64,
    /// Sealed bytes that archives need, one copy.
    pub live: u64,
    /// Sealed bytes that nobody needs, one copy.
    pub dead: u64,
    /// Whether no index segment names it: what an interrupted or running create left.
    pub unindexed: bool,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// All packs.
    pub packs: u64,
    /// Their stored bytes, all copies.
    pub stored: u64,
    /// Sealed bytes that archives need.
    pub live: u64,
    /// Dead sealed bytes in packs that stay, since too little of each is dead.
    pub tolerated: u64,
    /// Packs whose lists of blobs cannot be read; they stay.
    pub unreadable: Vec<PackId>,
    /// Archives that are deleted or withdrawn.
    pub archives: u64,
    /// Packs to delete or rewrite.
    pub candidates: Vec<Candidate>,
}

impl Plan {
    /// Candidates of which nothing is needed: how many, and their stored bytes.
    #[must_use]
    pub fn dead(&self) -> (u64, u64) {
        let dead = self.candidates.iter().filter(|candidate| candidate.live == 0);
        dead.fold((0, 0), |(packs, bytes), candidate| (packs + 1, bytes + candidate.stored))
    }

    /// Candidates to rewrite: how many, their dead and their live sealed bytes.
    #[must_use]
    pub fn half_dead(&self) -> (u64, u64, u64) {
        let half = self.candidates.iter().filter(|candidate| candidate.live > 0);
        half.fold((0, 0, 0), |(packs, dead, live), candidate| {
            (packs + 1, dead + candidate.dead, live + candidate.live)
        })
    }
}

impl Compactor<'_> {
    pub(super) fn plan(&self) -> Result<Plan> {
        let objects = self.repository.objects();
        let mut started: HashSet<PackId> = HashSet::new();
        started.extend(condemned_lists(objects)?.into_iter().flat_map(|(_, list)| list.packs));
        started.extend(intents(objects)?.into_iter().flat_map(|(_, intent)| intent.packs));
        let indexed = self.indexed_packs()?;
        let mut plan = Plan {
            archives: self.removable.len() as u64,
            unreadable: self.inventory.unreadable().iter().map(|pack| pack.id).collect(),
            ..Plan::default()
        };
        for (number, layout) in self.inventory.packs().iter().enumerate() {
            let (_, live) = self.live.of_pack(number);
            let all: u64 = (0..layout.blobs()).map(|blob| u64::from(layout.blob_len(blob))).sum();
            let dead = all - live;
            let copies = if layout.kind == PackKind::Maps && objects.mirrors() { 2 } else { 1 };
            let stored = layout.len * copies;
            plan.packs += 1;
            plan.stored += stored;
            plan.live += live;
            let enough = dead > 0 && dead * 100 >= all * u64::from(self.options.threshold);
            if live > 0 && !enough && !started.contains(&layout.id) {
                plan.tolerated += dead;
                continue;
            }
            let unindexed = !indexed.contains(&layout.id);
            plan.candidates.push(Candidate {
                id: layout.id,
                number,
                kind: layout.kind,
                stored,
                live,
                dead,
                unindexed,
            });
        }
        Ok(plan)
    }

    /// Packs that the index names.
    fn indexed_packs(&self) -> Result<HashSet<PackId>> {
        Ok(Lookup::open(self.repository.objects())?.packs().clone())
    }
}
