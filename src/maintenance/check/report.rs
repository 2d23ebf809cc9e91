//! What a check found, for programs as it is and for people through `cli`.

use std::ops::Range;

use serde::Serialize;

use crate::format::name::ArchiveName;
use crate::id::ArchiveId;

/// What is wrong with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// One copy of an object that is stored twice is missing or damaged; the other one is good.
    Copy,
    /// There is no good copy of an object.
    Object,
    /// A pack that archives need is gone.
    PackMissing,
    /// A pack's list of its blobs cannot be read.
    PackList,
    /// Blobs of a pack do not open, or are others than the pack's list says.
    Blobs,
    /// The index says what is not so, or does not name what is there.
    Index,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The object as it is stored: that of a second copy begins with `mirror/`.
    pub object: String,
    /// What is wrong.
    pub fault: Fault,
    /// How that shows.
    pub reason: String,
    /// Whether a repair makes it whole again; what is not repairable is bounded by it, or needs a person.
    pub repairable: bool,
}

/// A member of an archive of which parts cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamagedMember {
    /// Its number in the archive.
    pub number: usize,
    /// Its name.
    pub name: ArchiveName,
    /// Its size in bytes.
    pub size: u64,
    /// What cannot be read, in bytes of the image: sorted, disjoint, neighbours merged.
    pub ranges: Vec<Range<u64>>,
}

impl DamagedMember {
    /// How many bytes cannot be read.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }
}

/// An archive of which parts cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamagedArchive {
    /// Its id.
    pub id: ArchiveId,
    /// Its name now, where that is known.
    pub name: Option<ArchiveName>,
    /// The moment it stands for, in ns since 1970, UTC.
    pub time: Option<i64>,
    /// Why nothing of it can be read: its record is damaged.
    pub reason: Option<String>,
    /// The damaged members.
    pub members: Vec<DamagedMember>,
}

/// An archive whose create or undelete has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnconfirmedArchive {
    /// Its id.
    pub id: ArchiveId,
    /// Its name.
    pub name: ArchiveName,
    /// What is known of the session that made it.
    pub session: &'static str,
}

/// A number of things and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Amount {
    /// How many.
    pub count: u64,
    /// Their stored bytes.
    pub bytes: u64,
}

impl Amount {
    /// One more.
    pub fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Checked {
    /// Sealed objects, each copy counted once.
    pub objects: Amount,
    /// Packs, copies not counted.
    pub packs: Amount,
    /// Archives.
    pub archives: u64,
    /// Blobs that were opened and whose ids were recomputed, copies counted; their sealed bytes.
    pub blobs: Amount,
    /// How many packs had their blobs opened.
    pub verified_packs: u64,
    /// How long opening blobs took, in seconds.
    pub verify_seconds: f64,
}

/// What is no damage, but worth knowing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Notes {
    /// Objects with names that this program does not know.
    pub unknown_names: u64,
    /// Objects of commands that were interrupted, of which one copy was stored.
    pub interrupted: Vec<String>,
    /// Packs of which nothing is needed.
    pub unreferenced_packs: Amount,
    /// Blobs that no archive needs, those of unreferenced packs included.
    pub unreferenced_blobs: Amount,
    /// Packs that no index names and nothing needs: an interrupted backup left them.
    pub unindexed_packs: Amount,
    /// Entries of the index that lie in packs that are gone, as compactions leave some.
    pub stale_entries: u64,
    /// Archives whose predecessor is not listed any more; normal where archives are deleted.
    pub broken_chains: u64,
}

/// Chunks that an earlier repair gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct GivenUp {
    /// Still lost.
    pub lost: u64,
    /// Stored again since, so that every archive that needs them is whole there.
    pub healed: u64,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Report {
    /// What was looked at.
    pub checked: Checked,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
    /// Archives of which parts cannot be read.
    pub damaged: Vec<DamagedArchive>,
    /// Archives that are not confirmed.
    pub unconfirmed: Vec<UnconfirmedArchive>,
    /// Chunks that an earlier repair gave up.
    pub given_up: GivenUp,
    /// What is no damage.
    pub notes: Notes,
}

impl Report {
    /// Whether everything that was looked at is as it should be.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty() && self.damaged.is_empty()
    }
}

/// Sorts ranges and merges those that touch.
#[must_use]
pub fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges.into_iter().filter(|range| !range.is_empty()) {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_are_one() {
        assert_eq!(merged(vec![5..7, 0..2, 2..3, 6..9, 20..20, 30..31]), [0..3, 5..9, 30..31]);
    }
}
