//! Telling what a comparison finds, range by range as it is found: nothing here grows with the number of ranges.

use std::io::{self, BufWriter, StdoutLock, Write};
use std::ops::Range;

use serde_json::{Value, json};

use super::layout::{Layout, Part, Tally};
use crate::cli::output::{self, size, time};
use crate::image::diff::{ChunkCounts, ChunkTally, Difference, Findings, Kind, Side};
use crate::repository::Error;
use crate::repository::archives::{Archive, chain};

/// How many lost maps are told one by one.
const MOST_LOST: u64 = 100;

/// Standard output, written to as findings come.
pub(super) struct Out {
    to: BufWriter<StdoutLock<'static>>,
    json: bool,
    ranges: bool,
    members: usize,
    lost: u64,
}

impl Out {
    /// Whether for programs, and whether with single ranges.
    pub(super) fn new(json: bool, ranges: bool) -> Self {
        Self { to: BufWriter::new(io::stdout().lock()), json, ranges, members: 0, lost: 0 }
    }

    /// Begins a JSON document that has all of `head`.
    pub(super) fn begin(&mut self, head: &Value) -> anyhow::Result<()> {
        Ok(write!(self.to, "{},\n\"members\": [", open_object(head)?)?)
    }

    /// Says which archives are compared.
    pub(super) fn archives(&mut self, archives: [&Archive; 2]) -> anyhow::Result<()> {
        for (side, archive) in ["A", "B"].iter().zip(archives) {
            writeln!(self.to, "{side}  {}  {}  #{}", time(archive.time()), archive.name, archive.id())?;
        }
        Ok(())
    }

    /// Ends with the chunks of all members.
    pub(super) fn end(mut self, counts: &ChunkCounts, full: bool) -> anyhow::Result<()> {
        if self.lost > MOST_LOST {
            log::warn!("{} more ranges cannot be compared, either", self.lost - MOST_LOST);
        }
        if self.json {
            let mut chunks = json!(counts);
            chunks["spans"] = json!(if full { "all" } else { "changed" });
            writeln!(self.to, "],\n\"chunks\": {chunks}}}")?;
            return Ok(self.to.flush()?);
        }
        let about = if counts.exact { "" } else { "about " };
        let row = |what: &str, tally: &ChunkTally| {
            vec![
                what.to_owned(),
                format!("{about}{}", tally.chunks),
                format!("{about}{}", size(tally.plain)),
                format!("{about}{}", size(tally.sealed)),
            ]
        };
        let head = if full { "CHUNKS OF ALL SPANS" } else { "CHUNKS OF CHANGED SPANS" };
        let rows = [
            [head, "NUMBER", "DATA", "STORED"].map(str::to_owned).to_vec(),
            row("shared", &counts.shared),
            row("added", &counts.added),
            row("removed", &counts.removed),
        ];
        writeln!(self.to)?;
        self.to.flush()?;
        output::table(&rows, &[1, 2, 3])?;
        if !counts.complete {
            output::lines(["Chunks of lost maps are not counted.".to_owned()])?;
        }
        Ok(())
    }
}

/// An object without its closing brace.
fn open_object(value: &Value) -> anyhow::Result<String> {
    let mut text = serde_json::to_string(value)?;
    text.pop();
    Ok(text)
}

/// What differs in one member.
pub(super) struct MemberReport<'a> {
    name: &'a str,
    sizes: [Option<u64>; 2],
    /// The first says in which partition a range is told to lie.
    layouts: Vec<Layout>,
    whole: Tally,
    /// Ranges written so far, cut at partitions.
    written: u64,
    out: &'a mut Out,
}

impl<'a> MemberReport<'a> {
    /// Begins with its name and sizes, `None` where an archive does not have it.
    pub(super) fn begin(
        name: &'a str,
        sizes: [Option<u64>; 2],
        layouts: Vec<Layout>,
        out: &'a mut Out,
    ) -> anyhow::Result<Self> {
        out.members += 1;
        if out.json {
            let comma = if out.members > 1 { "," } else { "" };
            let head = open_object(&json!({ "name": name, "a_size": sizes[0], "b_size": sizes[1] }))?;
            write!(out.to, "{comma}\n{head}")?;
            if out.ranges {
                write!(out.to, ",\n\"ranges\": [")?;
            }
        } else {
            let told = match sizes {
                [Some(a), Some(b)] if a == b => size(a),
                [Some(a), Some(b)] => format!("{} in A, {} in B", size(a), size(b)),
                [Some(a), None] => format!("{}, in A only", size(a)),
                [None, b] => format!("{}, in B only", size(b.unwrap_or(0))),
            };
            writeln!(out.to, "\nMember {name}: {told}")?;
        }
        Ok(Self { name, sizes, layouts, whole: Tally::default(), written: 0, out })
    }

    fn piece(&mut self, range: &Range<u64>, owner: Option<usize>, kind: Kind) -> anyhow::Result<()> {
        if !self.out.ranges {
            return Ok(());
        }
        self.written += 1;
        let part = self.layouts.first().and_then(|layout| layout.parts.get(owner?));
        let (start, len) = (range.start, range.end - range.start);
        if self.out.json {
            let mut piece = json!({ "offset": start, "length": len, "kind": kind });
            if let Some(part) = part {
                piece["partition"] = json!(part.number);
                piece["partition_offset"] = json!(start - part.start);
            }
            let comma = if self.written > 1 { "," } else { "" };
            return Ok(write!(self.out.to, "{comma}\n{piece}")?);
        }
        let place = part.map(|part| format!("  partition {} at {}", part.number, start - part.start));
        if self.written == 1 {
            writeln!(self.out.to, "{:>16}  {:>14}", "OFFSET", "LENGTH")?;
        }
        Ok(writeln!(self.out.to, "{start:>16}  {len:>14}  {}{}", word(kind), place.unwrap_or_default())?)
    }

    /// Ends with what differs in all, and in each partition.
    pub(super) fn end(self) -> anyhow::Result<()> {
        let Self { sizes, layouts, whole, out, .. } = self;
        if out.json {
            let ranges = if out.ranges { "]" } else { "" };
            let layouts: Vec<Value> = layouts.iter().map(document).collect();
            return Ok(write!(
                out.to,
                "{ranges},\n\"total\": {},\n\"by_partition\": {}}}",
                json!(whole),
                json!(layouts)
            )?);
        }
        if whole == Tally::default() {
            return Ok(writeln!(out.to, "equal")?);
        }
        out.to.flush()?;
        let size = sizes[1].or(sizes[0]).unwrap_or(0);
        for (i, layout) in layouts.iter().enumerate() {
            if i > 0 {
                output::lines([format!("In {}, partitioned otherwise:", layout.side)])?;
            }
            let total = if i == 0 { Some((&whole, size)) } else { None };
            print_table(layout, total)?;
        }
        Ok(())
    }
}

impl Findings for MemberReport<'_> {
    type Error = anyhow::Error;

    fn difference(&mut self, Difference { range, kind }: Difference) -> anyhow::Result<()> {
        self.whole.add(kind, range.end - range.start);
        for i in 0..self.layouts.len() {
            for (piece, owner) in self.layouts[i].split(range.clone()) {
                self.layouts[i].count(owner, kind, piece.end - piece.start);
                if i == 0 {
                    self.piece(&piece, owner, kind)?;
                }
            }
        }
        Ok(())
    }

    fn lost(&mut self, side: Side, range: Range<u64>, error: &Error) {
        self.out.lost += 1;
        if self.out.lost <= MOST_LOST {
            let Range { start, end } = range;
            log::warn!("{}: bytes {start} to {end} of {side:?} are not known: {}", self.name, chain(error));
        }
    }
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Changed => "changed",
        Kind::Added => "added",
        Kind::Removed => "removed",
        Kind::Unknown => "unknown",
    }
}

fn document(layout: &Layout) -> Value {
    let part = |part: &Part| {
        json!({
            "number": part.number, "start": part.start, "length": part.len, "filesystem": part.filesystem,
            "differs": part.tally,
        })
    };
    let partitions: Vec<Value> = layout.parts.iter().map(part).collect();
    json!({ "table_of": layout.side.to_ascii_lowercase(), "partitions": partitions, "outside": layout.outside })
}

fn print_table(layout: &Layout, total: Option<(&Tally, u64)>) -> anyhow::Result<()> {
    let head = ["", "OFFSET", "SIZE", "CHANGED", "%", "ADDED", "REMOVED", "UNKNOWN", "RANGES", ""];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for part in &layout.parts {
        let mut row = row(&format!("partition {}", part.number), &part.tally, Some(part.len));
        row[1] = part.start.to_string();
        row.push(part.filesystem.clone().unwrap_or_default());
        rows.push(row);
    }
    if !layout.parts.is_empty() {
        rows.push(row("outside of partitions", &layout.outside, None));
    }
    if let Some((tally, size)) = total {
        rows.push(row("all", tally, Some(size)));
    }
    output::table(&rows, &[1, 2, 3, 4, 5, 6, 7, 8])
}

fn row(what: &str, tally: &Tally, of: Option<u64>) -> Vec<String> {
    let bytes = |bytes: u64| if bytes == 0 { "-".to_owned() } else { size(bytes) };
    let percent = |of: u64| format!("{:.2}", 100.0 * tally.changed as f64 / of as f64);
    vec![
        what.to_owned(),
        String::new(),
        of.map(size).unwrap_or_default(),
        bytes(tally.changed),
        of.filter(|of| *of > 0).map(percent).unwrap_or_default(),
        bytes(tally.added),
        bytes(tally.removed),
        bytes(tally.unknown),
        tally.ranges.to_string(),
    ]
}
