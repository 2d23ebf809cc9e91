//! What a mount has done so far: the content of `.copal/stats.json`, and the same for people.

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};

use crate::image::cache::CacheCounts;

/// The directory in a mount's root that no listing shows.
pub const STATS_DIRECTORY: &str = ".copal";
/// The file in it.
pub const STATS_FILE: &str = "stats.json";

/// Counts since a mount began. Readers of the JSON form may meet fields that they do not know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Which Copal serves.
    pub version: String,
    /// The serving process.
    pub pid: u32,
    /// How long it has served.
    pub seconds: f64,
    /// Images that are open now.
    pub open: u64,
    /// What the kernel asked for: what it has in its page cache it does not.
    pub requests: Requests,
    /// What was read of packs.
    pub storage: Traffic,
    /// Chunks, opened.
    pub chunks: CacheUse,
    /// Span maps.
    pub maps: CacheUse,
    /// Nodes of map trees.
    pub nodes: CacheUse,
}

/// Reads of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Requests {
    /// How many.
    pub reads: u64,
    /// Bytes that they gave.
    pub bytes: u64,
    /// Those that failed.
    pub failed: u64,
}

/// Reads of storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// How many.
    pub reads: u64,
    /// Stored bytes that they asked for.
    pub bytes: u64,
}

/// A cache now, and how it was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CacheUse {
    /// Bytes that it may take.
    pub capacity: u64,
    /// Bytes that it takes.
    pub bytes: u64,
    /// How it was used.
    #[serde(flatten)]
    pub counts: CacheCounts,
}

impl Display for Stats {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let Self { requests, storage, .. } = self;
        writeln!(f, "Served    for {:.0} s by process {}, copal {}", self.seconds, self.pid, self.version)?;
        writeln!(
            f,
            "Requests  {} reads of {:.1} MiB, {} failed; {} images open",
            requests.reads,
            mib(requests.bytes),
            requests.failed,
            self.open
        )?;
        writeln!(f, "Storage   {} reads of {:.1} MiB", storage.reads, mib(storage.bytes))?;
        for (what, CacheUse { capacity, bytes, counts }) in
            [("Chunks  ", self.chunks), ("Maps    ", self.maps), ("Nodes   ", self.nodes)]
        {
            write!(
                f,
                "{what}  {:.1} of {:.0} MiB: {} hits, {} loaded, {} shared, {} failed, {} displaced",
                mib(bytes),
                mib(capacity),
                counts.hits,
                counts.loads,
                counts.shared,
                counts.failures,
                counts.evicted
            )?;
            if counts.ahead > 0 {
                let CacheCounts { ahead, ahead_used, ahead_wasted, .. } = counts;
                write!(f, "; {ahead} loaded ahead, of which {ahead_used} used, {ahead_wasted} wasted")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_and_programs_read_the_same() {
        let counts = CacheCounts { hits: 7, ahead: 5, ahead_used: 4, ahead_wasted: 1, ..Default::default() };
        let stats = Stats {
            version: "1.2.3".into(),
            pid: 4321,
            seconds: 12.5,
            open: 2,
            requests: Requests { reads: 10, bytes: 3 << 20, failed: 1 },
            storage: Traffic { reads: 3, bytes: 1 << 19 },
            chunks: CacheUse { capacity: 224 << 20, bytes: 1 << 20, counts },
            maps: CacheUse::default(),
            nodes: CacheUse::default(),
        };
        let text = serde_json::to_string(&stats).unwrap();
        assert!(text.contains("\"ahead_wasted\":1") && text.contains("\"capacity\":234881024"), "{text}");
        assert_eq!(serde_json::from_str::<Stats>(&text).unwrap(), stats);
        let newer = text.replacen('{', "{\"heat\": 5, ", 1);
        assert_eq!(serde_json::from_str::<Stats>(&newer).unwrap(), stats);
        let shown = stats.to_string();
        for words in [
            "10 reads of 3.0 MiB, 1 failed",
            "3 reads of 0.5 MiB",
            "1.0 of 224 MiB: 7 hits",
            "of which 4 used, 1 wasted",
        ] {
            assert!(shown.contains(words), "{words} is missing in {shown}");
        }
    }
}
