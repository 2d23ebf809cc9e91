//! `copal diff`: which bytes differ between two archives, by member and partition, and what that means in chunks.

mod layout;
mod report;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, bail};
use serde_json::json;
use unicode_normalization::UnicodeNormalization;

use super::list::summary;
use crate::cli::args::DiffArgs;
use crate::cli::disk::table;
use crate::cli::location::Location;
use crate::cli::repository::Opened;
use crate::format::record::{ArchiveRecord, Member};
use crate::image::Image;
use crate::image::diff::{ChunkUse, Scope, compare};
use crate::image::maps::Maps;
use crate::image::reader::ImageReader;
use crate::partition::Table;
use crate::repository::reference::Reference;
use layout::Layout;
use report::{MemberReport, Out};

/// Memory for reading partition tables, in bytes.
const TABLE_CACHE: usize = 32 << 20;
/// Memory for maps, in bytes: a walk needs few of them twice.
const MAP_CACHE: usize = 16 << 20;

pub(in crate::cli) fn run(args: &DiffArgs) -> anyhow::Result<()> {
    let location = Location::parse(Some(&args.location))?;
    let [a, b] = [location.required_reference()?.to_owned(), other(&args.other, &location.repository)?];
    let [a, b] = [Reference::parse(&a)?, Reference::parse(&b)?];
    let opened = Opened::at(&location.repository, &args.secrets)?;
    let archives = [a.resolve(&opened.archives)?, b.resolve(&opened.archives)?];
    let records = [opened.repository.record(archives[0].id())?, opened.repository.record(archives[1].id())?];
    let pairs = pairs(&records, args.member.as_deref())?;

    let comparer = Comparer {
        reader: ImageReader::new(opened.repository.clone(), TABLE_CACHE),
        maps: Maps::new(opened.repository.clone(), MAP_CACHE),
        scope: if args.full { Scope::AllSpans } else { Scope::ChangedSpans },
    };
    let mut out = Out::new(args.json, !args.summary);
    let mut chunks = ChunkUse::default();
    if args.json {
        let [a, b] = archives.map(summary);
        out.begin(&json!({ "repository": opened.repository.id(), "a": a, "b": b }))?;
    } else {
        out.archives(archives)?;
    }
    for pair in pairs {
        comparer.member(pair, &mut chunks, &mut out)?;
    }
    out.end(&chunks.counts(), args.full)
}

/// The second archive, which may be named with its repository if that is the first one's.
fn other(argument: &OsStr, repository: &Path) -> anyhow::Result<String> {
    let text = || argument.to_str().map(str::to_owned).context("an archive's name is always text in UTF-8");
    if !argument.as_bytes().windows(2).any(|pair| pair == b"::") {
        return text();
    }
    if let Some(reference) = text().ok().as_deref().and_then(|text| text.strip_prefix("::")) {
        return Ok(reference.to_owned());
    }
    let location = Location::parse(Some(argument))?;
    let same = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if same(&location.repository) != same(repository) {
        bail!(
            "both archives must be in one repository, but one is in {} and the other in {}",
            repository.display(),
            location.repository.display()
        );
    }
    Ok(location.required_reference()?.to_owned())
}

/// What A and B have under one name.
type Pair<'a> = [Option<&'a Member>; 2];

/// The members of B with those of A of the same name, then what only A has; where both have one member only, these two.
fn pairs<'a>(records: &'a [ArchiveRecord; 2], only: Option<&str>) -> anyhow::Result<Vec<Pair<'a>>> {
    let [a, b] = records;
    if let ([a], [b], None) = (&a.members[..], &b.members[..], only) {
        // One disk each, whatever its snapshot was called.
        return Ok(vec![[Some(a), Some(b)]]);
    }
    let find = |record: &'a ArchiveRecord, name: &str| {
        record.members.iter().find(|member| member.name.as_str() == name)
    };
    let in_b = b.members.iter().map(|member| [find(a, member.name.as_str()), Some(member)]);
    let in_a = a.members.iter().filter(|member| find(b, member.name.as_str()).is_none());
    let mut pairs: Vec<Pair<'a>> = in_b.chain(in_a.map(|member| [Some(member), None])).collect();
    if let Some(only) = only {
        let normal: String = only.nfc().collect();
        let names = pairs.iter().map(|pair| name(pair).to_owned()).collect::<Vec<_>>().join(", ");
        pairs.retain(|pair| name(pair) == normal);
        if pairs.is_empty() {
            bail!("neither archive has a member {only:?}; they have: {names}");
        }
    }
    Ok(pairs)
}

fn name<'a>(pair: &Pair<'a>) -> &'a str {
    let member = pair.iter().flatten().next();
    member.expect("a pair has a member at least").name.as_str()
}

struct Comparer {
    reader: ImageReader,
    maps: Maps,
    scope: Scope,
}

impl Comparer {
    /// Compares one member; one that an archive does not have counts as an image without a byte.
    fn member(&self, pair: Pair<'_>, chunks: &mut ChunkUse, out: &mut Out) -> anyhow::Result<()> {
        let shift = self.reader.repository().config().span_shift;
        let nothing = Image { size: 0, span_shift: shift, root: None, data: 0 };
        let images = pair.map(|member| member.map_or(nothing, |member| Image::of(member, shift)));
        let layouts = self.layouts(pair);
        let mut report = MemberReport::begin(name(&pair), pair.map(|m| m.map(|m| m.size)), layouts, out)?;
        compare(&self.maps, [&images[0], &images[1]], self.scope, chunks, &mut report)?;
        report.end()
    }

    /// How ranges are divided: as B is, or A where B has no such member; and as A is where that differs.
    fn layouts(&self, pair: Pair<'_>) -> Vec<Layout> {
        let [a, b] = pair;
        let same =
            a.zip(b).is_some_and(|(a, b)| a.size == b.size && a.root.map(|r| r.id) == b.root.map(|r| r.id));
        let members = if same { [None, b] } else { [a, b] };
        let tables = members.map(|member| member.and_then(|member| table(&self.reader, member)));
        let of = |side: char, table: &Option<Table>| {
            table.as_ref().map(|table| Layout::new(side, &table.partitions))
        };
        let [a_layout, b_layout] = [of('A', &tables[0]), of('B', &tables[1])];
        let differs = match (&a_layout, &b_layout) {
            (Some(a), Some(b)) => !a.divides_as(b),
            (a, b) => a.is_some() && b.is_none(),
        };
        let first = b_layout.or_else(|| pair[1].map(|_| Layout::new('B', &[])));
        let mut layouts: Vec<Layout> = first.into_iter().chain(a_layout.filter(|_| differs)).collect();
        if layouts.is_empty() {
            layouts.push(Layout::new('A', &[]));
        }
        layouts
    }
}
