//! Maps of changed blocks: what a storage says has changed between two states of a source.
//!
//! A map is read as a stream and kept as the spans that it touches, so memory is bounded by the image and by [`MAX_RUNS`]. It is hostile input: a map that is cut
//! off, empty, of another kind or that holds anything unknown is an error, never "nothing changed".
//!
//! Nothing here knows whether a map is right.

mod json;
mod thin_delta;

use std::io::{self, BufRead};
use std::ops::Range;

use crate::extent::spans_of;

/// Longest map, in bytes: four million ranges of 64 bytes each.
const MAX_MAP: u64 = 256 << 20;
/// Most runs of spans that lie apart: 16 MiB of memory, every other span of an image of 32 TiB.
const MAX_RUNS: usize = 1 << 20;
/// Longest name of a state, in bytes; a token may be no longer.
const MAX_STATE: usize = crate::format::limits::MAX_TOKEN;

/// How a map is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapFormat {
    /// `[{"offset": 0, "length": 4096}]` in bytes, or that as `ranges` beside `base` and `target`; what `rbd diff --format json` prints is of this form, too.
    Json,
    /// The XML that `thin_delta` prints.
    ThinDelta,
}

/// Why a map cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// It cannot be read.
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    /// It is not in the format it should be.
    #[error("it is no whole list of changed ranges: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
    /// It is longer than any map may be.
    #[error("it is longer than {MAX_MAP} bytes: back up without it")]
    TooLong,
    /// It touches too many places.
    #[error("it touches more than {MAX_RUNS} places that lie apart: back up without it")]
    TooMany,
    /// It names bytes that the source does not have.
    #[error(
        "it names bytes up to {end}, but the source has {len}: it is of another disk, or of another time"
    )]
    BeyondEnd {
        /// Where its last range ends.
        end: u64,
        /// The source's length in bytes.
        len: u64,
    },
}

impl MapError {
    fn malformed(reason: impl Into<String>) -> Self {
        Self::Malformed { reason: reason.into() }
    }
}

/// Which spans of a source changed between two states of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedMap {
    /// The state that it counts from, where it says so.
    pub base: Option<String>,
    /// The state that it leads to, where it says so.
    pub target: Option<String>,
    /// Sorted, disjoint, not adjacent.
    spans: Vec<Range<u64>>,
    /// Where the last range ends, in bytes.
    end: u64,
    /// What its ranges are multiples of, in bytes: the last one may go beyond the end of the source by less than that.
    unit: u64,
}

impl ChangedMap {
    /// Reads a map, in the format that its first character shows if none is given, for images with spans of `1 << span_shift` bytes.
    ///
    /// # Errors
    /// [`MapError`].
    pub fn read(mut map: impl BufRead, format: Option<MapFormat>, span_shift: u8) -> Result<Self, MapError> {
        let format = match format {
            Some(format) => format,
            None => detect(&mut map)?,
        };
        let mut limited = map.take(MAX_MAP);
        let mut builder = Builder::new(span_shift);
        let parsed = match format {
            MapFormat::Json => json::read(&mut limited, &mut builder),
            MapFormat::ThinDelta => thin_delta::read(&mut limited, &mut builder),
        };
        if limited.limit() == 0 && !limited.into_inner().fill_buf()?.is_empty() {
            return Err(MapError::TooLong);
        }
        parsed?;
        builder.finish()
    }

    /// The spans that changed, sorted and disjoint, in a source of so many bytes.
    ///
    /// # Errors
    /// [`MapError::BeyondEnd`].
    pub fn spans(&self, len: u64) -> Result<&[Range<u64>], MapError> {
        if self.end > len.next_multiple_of(self.unit) {
            return Err(MapError::BeyondEnd { end: self.end, len });
        }
        Ok(&self.spans)
    }
}

/// XML begins with `<`, JSON with a bracket.
fn detect(map: &mut impl BufRead) -> Result<MapFormat, MapError> {
    loop {
        let bytes = map.fill_buf()?;
        let Some(first) = bytes.first() else { return Err(MapError::malformed("it is empty")) };
        match first {
            b' ' | b'\t' | b'\r' | b'\n' => map.consume(1),
            b'<' => return Ok(MapFormat::ThinDelta),
            b'[' | b'{' => return Ok(MapFormat::Json),
            _ => return Err(MapError::malformed("it begins neither as JSON nor as XML does")),
        }
    }
}

/// A map under construction.
struct Builder {
    span_shift: u8,
    map: ChangedMap,
    is_sorted: bool,
}

impl Builder {
    fn new(span_shift: u8) -> Self {
        let map = ChangedMap { base: None, target: None, spans: Vec::new(), end: 0, unit: 1 };
        Self { span_shift, map, is_sorted: true }
    }

    /// Adds a range of bytes.
    fn add(&mut self, offset: u64, len: u64) -> Result<(), MapError> {
        let end = offset.checked_add(len).filter(|end| i64::try_from(*end).is_ok());
        let end = end.ok_or_else(|| {
            MapError::malformed(format!("a range of {len} bytes at byte {offset} is on no disk"))
        })?;
        self.map.end = self.map.end.max(end);
        let spans = spans_of(&(offset..end), self.span_shift);
        match self.map.spans.last_mut() {
            _ if spans.is_empty() => {}
            Some(last) if last.start <= spans.start && spans.start <= last.end => {
                last.end = last.end.max(spans.end);
            }
            last => {
                self.is_sorted &= last.is_none_or(|last| last.end < spans.start);
                self.map.spans.push(spans);
            }
        }
        if self.map.spans.len() > MAX_RUNS {
            self.join();
            // Half of it at least is free then, so that joining costs little for each range.
            if self.map.spans.len() > MAX_RUNS / 2 {
                return Err(MapError::TooMany);
            }
        }
        Ok(())
    }

    fn join(&mut self) {
        if self.is_sorted {
            return;
        }
        self.map.spans.sort_unstable_by_key(|spans| spans.start);
        self.map.spans.dedup_by(|next, last| {
            let touches = next.start <= last.end;
            if touches {
                last.end = last.end.max(next.end);
            }
            touches
        });
        self.is_sorted = true;
    }

    fn finish(mut self) -> Result<ChangedMap, MapError> {
        self.join();
        let states = [&self.map.base, &self.map.target];
        if states.into_iter().flatten().any(|state| state.len() > MAX_STATE) {
            return Err(MapError::malformed(format!("it names a state with more than {MAX_STATE} bytes")));
        }
        Ok(self.map)
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "lists of ranges that happen to have one")]
mod tests;
