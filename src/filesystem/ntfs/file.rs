//! Files by their records, with those that continue them.

use std::collections::BTreeSet;

use super::super::content::{Content, Gatherer, Run};
use super::super::{Result, bytes_of_utf16, damaged, unsupported};
use super::{Ntfs, Reference};
use crate::allocation::ntfs::record::{ATTRIBUTE_LIST, Attribute, DATA, FILE_NAME, Record};
use crate::allocation::ntfs::runs::Runs;
use crate::partition::bytes::Fields;

/// The master file table itself.
const MFT: u64 = 0;
/// Bytes of the longest list of attributes.
const MAX_LIST: u64 = 256 << 10;
/// Bytes of other values that are read as a whole.
const MAX_VALUE: u64 = 64 << 10;
/// Flags of a record and of an attribute.
const IS_DIRECTORY: u16 = 2;
const COMPRESSED: u16 = 0x00ff;
const ENCRYPTED: u16 = 0x4000;
/// Units of compression have so many clusters at most, as a power of two, and so many bytes.
const MAX_UNIT_SHIFT: u16 = 8;
const MAX_UNIT: u64 = 1 << 20;
/// Names for DOS stand beside long ones.
const DOS: u8 = 2;

/// A file, opened.
#[derive(Debug)]
pub(super) struct File {
    pub(super) is_directory: bool,
    attributes: Vec<Part>,
}

/// An attribute, or a part of one whose runs do not fit in a record.
#[derive(Debug)]
struct Part {
    kind: u32,
    /// In UTF-16.
    name: Vec<u8>,
    bytes: Vec<u8>,
    value: Option<Vec<u8>>,
}

impl Part {
    fn of(attribute: &Attribute<'_>) -> Self {
        let head = attribute.bytes;
        Self {
            kind: attribute.kind,
            name: head.slice(usize::from(head.u16(10)), usize::from(head.u8(9)) * 2).to_vec(),
            bytes: head.0.to_vec(),
            value: attribute.value.map(|value| value.0.to_vec()),
        }
    }

    /// The first cluster of the attribute that it tells of.
    fn first(&self) -> u64 {
        if self.value.is_some() { 0 } else { Fields(&self.bytes).u64(16) }
    }

    fn len(&self) -> u64 {
        self.value.as_ref().map_or_else(|| Fields(&self.bytes).u64(48), |value| value.len() as u64)
    }

    fn runs(&self, ntfs: &Ntfs<'_>) -> Result<Option<Runs>> {
        let attribute = Attribute {
            kind: self.kind,
            is_named: !self.name.is_empty(),
            is_special: false,
            bytes: Fields(&self.bytes),
            value: self.value.as_deref().map(Fields),
        };
        Ok(Runs::of(&attribute, ntfs.boot.clusters)?)
    }
}

impl Ntfs<'_> {
    /// The master file table: its first record tells where it is, and where the records are that continue it. A mirror has the first record, too.
    pub(super) fn table(&mut self) -> Result<Content> {
        let read = |ntfs: &Self, cluster: u64| -> Result<File> {
            let at = ntfs.boot.cluster_at(cluster, ntfs.boot.record)?;
            let mut bytes = ntfs.volume.read(at, ntfs.boot.record)?;
            parse(Record::open(&mut bytes, MFT)?)
        };
        let first = read(self, self.boot.mft).or_else(|_| read(self, self.boot.mirror))?;
        // Whatever continues the table lies in what its first record tells of.
        let start = first
            .attributes
            .iter()
            .find(|part| part.kind == DATA && part.name.is_empty() && part.first() == 0);
        let start = start.ok_or_else(|| damaged("the master file table cannot be found"))?;
        let runs = gather(self, &[start])?;
        self.mft = Content::runs(runs, start.len());
        let whole = self.continued(first, MFT)?;
        whole.content(self, DATA, b"")?.ok_or_else(|| damaged("the master file table cannot be found"))
    }

    /// The file whose first record has this number, used so many times; any number of times if that is not said.
    pub(super) fn file(&self, number: u64, sequence: Option<u16>) -> Result<File> {
        let mut bytes = self.record(number)?;
        let used = Fields(&bytes).u16(16);
        if sequence.is_some_and(|sequence| sequence != 0 && sequence != used) || Fields(&bytes).u64(32) != 0 {
            return Err(damaged("a name leads to another file's record"));
        }
        let file = parse(Record::open(&mut bytes, number)?)?;
        self.continued(file, number)
    }

    fn record(&self, number: u64) -> Result<Vec<u8>> {
        let len = self.boot.record as u64;
        let at =
            number.checked_mul(len).filter(|at| at.checked_add(len).is_some_and(|end| end <= self.mft.len()));
        let at = at.ok_or_else(|| damaged("a record lies outside of the master file table"))?;
        let mut bytes = vec![0; self.boot.record];
        self.mft.fill(&self.volume, at, &mut bytes)?;
        Ok(bytes)
    }

    /// Adds what stands in further records.
    fn continued(&self, mut file: File, number: u64) -> Result<File> {
        let Some(list) = file.attributes.iter().find(|part| part.kind == ATTRIBUTE_LIST) else {
            return Ok(file);
        };
        if list.len() > MAX_LIST {
            return Err(damaged("a list of attributes is too long"));
        }
        let content = file
            .content(self, ATTRIBUTE_LIST, b"")?
            .ok_or_else(|| damaged("a list of attributes is lost"))?;
        let mut list = vec![0; content.len() as usize];
        content.fill(&self.volume, 0, &mut list)?;
        let fields = Fields(&list);
        let (mut at, mut others) = (0, BTreeSet::new());
        while at < list.len() {
            let len = usize::from(fields.u16(at + 4));
            if len < 26 {
                break;
            }
            others.insert(Reference::of(fields.u64(at + 16)).number);
            at += len;
        }
        others.remove(&number);
        for other in others {
            let mut bytes = self.record(other)?;
            if Reference::of(Fields(&bytes).u64(32)).number != number {
                return Err(damaged("a record that continues another does not say so"));
            }
            file.attributes.extend(parse(Record::open(&mut bytes, other)?)?.attributes);
        }
        Ok(file)
    }
}

fn parse(record: Record<'_>) -> Result<File> {
    if !record.is_in_use() {
        return Err(damaged("a record is not in use"));
    }
    let mut attributes = Vec::new();
    for attribute in record.attributes() {
        attributes.push(Part::of(&attribute?));
    }
    Ok(File { is_directory: Fields(record.used_bytes()).u16(22) & IS_DIRECTORY != 0, attributes })
}

/// The runs of an attribute's parts, which are in their order.
fn gather(ntfs: &Ntfs<'_>, parts: &[&Part]) -> Result<Vec<Run>> {
    let clusters = ntfs.boot.clusters;
    let mut gatherer = Gatherer::new(clusters.count * clusters.size);
    let mut at = 0_u64;
    for part in parts {
        let runs = part.runs(ntfs)?.filter(|runs| runs.first == at);
        for run in runs.ok_or_else(|| damaged("a part of a file's runs is missing"))?.runs {
            let start = at.checked_mul(clusters.size);
            if let Some((place, start)) = run.place.zip(start) {
                let bytes = clusters.bytes(place);
                gatherer.add(Run { start, len: bytes.end - bytes.start, at: bytes.start })?;
            }
            at = at.checked_add(run.len).ok_or_else(|| damaged("a file is longer than it can be"))?;
        }
    }
    Ok(gatherer.finish())
}

/// Leaves out what lies behind `end`: it was never written.
fn clipped(mut runs: Vec<Run>, end: u64) -> Vec<Run> {
    runs.retain_mut(|run| {
        run.len = run.len.min(end.saturating_sub(run.start));
        run.len > 0
    });
    runs
}

impl File {
    /// Where an attribute's content lies, if the file has it. `name` is in UTF-16.
    pub(super) fn content(&self, ntfs: &Ntfs<'_>, kind: u32, name: &[u8]) -> Result<Option<Content>> {
        let is_it = |part: &&Part| part.kind == kind && part.name == name;
        let mut parts: Vec<&Part> = self.attributes.iter().filter(is_it).collect();
        parts.sort_by_key(|part| part.first());
        let Some(first) = parts.first() else { return Ok(None) };
        if let Some(value) = &first.value {
            return Ok(Some(Content::inline(value.clone(), value.len() as u64)));
        }
        let head = Fields(&first.bytes);
        let (flags, len, written) = (head.u16(12), head.u64(48), head.u64(56).min(head.u64(48)));
        if flags & ENCRYPTED != 0 {
            return Err(unsupported("it is encrypted"));
        }
        let runs = gather(ntfs, &parts)?;
        if flags & COMPRESSED == 0 {
            return Ok(Some(Content::runs(clipped(runs, written), len)));
        }
        let shift = head.u16(34);
        let unit = ntfs.boot.clusters.size << shift.min(MAX_UNIT_SHIFT);
        if flags & COMPRESSED != 1 || shift > MAX_UNIT_SHIFT || unit > MAX_UNIT {
            return Err(unsupported("it is compressed in an unknown way"));
        }
        Ok(Some(Content::compressed(runs, unit, len)))
    }

    /// An attribute without a name that is short, whole.
    pub(super) fn value(&self, ntfs: &Ntfs<'_>, kind: u32) -> Result<Option<Vec<u8>>> {
        let Some(content) = self.content(ntfs, kind, b"")? else { return Ok(None) };
        if content.len() > MAX_VALUE {
            return Err(damaged("an attribute is too long"));
        }
        let mut value = vec![0; content.len() as usize];
        content.fill(&ntfs.volume, 0, &mut value)?;
        Ok(Some(value))
    }

    /// The value of an attribute that is always in the record.
    pub(super) fn resident(&self, kind: u32) -> Option<&[u8]> {
        self.attributes.iter().find(|part| part.kind == kind).and_then(|part| part.value.as_deref())
    }

    /// Bytes of a content; that without a name is the file's own.
    pub(super) fn stream_len(&self, name: &[u8]) -> Option<u64> {
        let is_it = |part: &&Part| part.kind == DATA && part.name == name && part.first() == 0;
        self.attributes.iter().find(is_it).map(Part::len)
    }

    /// Names and lengths of further contents.
    pub(super) fn streams(&self) -> Vec<(Vec<u8>, u64)> {
        let named = self
            .attributes
            .iter()
            .filter(|part| part.kind == DATA && !part.name.is_empty() && part.first() == 0);
        named.map(|part| (bytes_of_utf16(&part.name), part.len())).collect()
    }

    /// Whether it holds an attribute of a kind, by any name.
    pub(super) fn has(&self, kind: u32) -> bool {
        self.attributes.iter().any(|part| part.kind == kind)
    }

    /// How many names it has, those for DOS not counted.
    pub(super) fn names(&self) -> u32 {
        let names = self.attributes.iter().filter(|part| {
            part.kind == FILE_NAME && part.value.as_deref().is_some_and(|name| Fields(name).u8(65) != DOS)
        });
        u32::try_from(names.count()).unwrap_or(u32::MAX)
    }
}
