//! NTFS, as Windows since 2000 and `ntfs-3g` write it, whatever state it is in. Its log is not replayed.
//!
//! Files are shown by their long names; those of Interix and of the Windows Subsystem for Linux are what they stand for. They have no modes and owners that mean
//! something elsewhere. Files that Windows compresses itself are read; those that are encrypted, or kept elsewhere by a reparse point that is no link, are
//! refused by themselves.

mod file;
mod index;
mod lznt1;
mod reparse;
mod special;

use self::file::File;
use self::index::INDEX_ROOT;
use self::reparse::Reparse;
use self::special::Special;
use super::content::{Content, Run, Store};
use super::volume::Volume;
use super::{Entry, Error, Filesystem, Kind, Metadata, Node, Result, Time, damaged};
use crate::allocation::ntfs::boot::Boot;
use crate::allocation::ntfs::record::{DATA, VOLUME_INFORMATION};
use crate::partition::bytes::Fields;

/// Records of the master file table, by their numbers.
const VOLUME: u64 = 3;
const ROOT: u64 = 5;
/// Those in front of this one are the filesystem's own.
const FIRST_FILE: u64 = 16;
const DIRTY: u16 = 1;

const STANDARD_INFORMATION: u32 = 0x10;
const REPARSE_POINT: u32 = 0xc0;
const EXTENDED_ATTRIBUTES: u32 = 0xe0;

/// Seconds from 1601, which Windows counts from, to 1970.
const EPOCH: i64 = 11_644_473_600;
const TICKS: i64 = 10_000_000;

/// Such a filesystem.
pub(super) struct Ntfs<'a> {
    volume: Volume<'a>,
    boot: Boot,
    /// The master file table.
    mft: Content,
    notes: Vec<String>,
}

/// A record's number and how often it was used: a name that leads to an older file is a stale one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reference {
    number: u64,
    sequence: u16,
}

impl Reference {
    /// As it is stored.
    fn of(stored: u64) -> Self {
        Self { number: stored & ((1 << 48) - 1), sequence: (stored >> 48) as u16 }
    }

    /// The number comes first, so that nodes are in the order of the table.
    fn node(self) -> Node {
        Node(self.number << 16 | u64::from(self.sequence))
    }

    fn from_node(node: Node) -> Self {
        Self { number: node.0 >> 16, sequence: node.0 as u16 }
    }
}

impl<'a> Ntfs<'a> {
    pub(super) fn open(volume: Volume<'a>) -> Result<Self> {
        let boot = Boot::lenient(&volume.window())?;
        let mft = Content::inline(Vec::new(), 0);
        let mut ntfs = Self { volume, boot, mft, notes: Vec::new() };
        ntfs.mft = ntfs.table()?;
        if !ntfs.file(ROOT, None)?.is_directory {
            return Err(damaged("its root is no directory"));
        }
        let dirty = ntfs.file(VOLUME, None).ok().and_then(|volume| {
            let information = volume.resident(VOLUME_INFORMATION)?;
            Some(Fields(information).u16(10) & DIRTY != 0)
        });
        if dirty != Some(false) {
            ntfs.notes.push(
                "the filesystem was not unmounted cleanly; its log is not replayed, so the last changes may be missing".to_owned(),
            );
        }
        Ok(ntfs)
    }

    fn opened(&self, node: Node) -> Result<File> {
        let reference = Reference::from_node(node);
        self.file(reference.number, Some(reference.sequence))
    }

    /// What a file is.
    fn meaning(&self, file: &File) -> Result<Meaning> {
        let point = match file.value(self, REPARSE_POINT)? {
            Some(bytes) => Some(Reparse::parse(&bytes)?),
            None => None,
        };
        Ok(match point {
            Some(Reparse::Link(target)) => Meaning::Link(target),
            Some(Reparse::Other(tag)) => Meaning::Elsewhere(tag),
            Some(Reparse::Special(kind)) if !file.is_directory => Meaning::Special(self.device(file, kind)?),
            _ => match self.interix(file)? {
                Some(Special::Link(target)) => Meaning::Link(target),
                Some(Special::Node(kind)) => Meaning::Special(kind),
                None => Meaning::Plain,
            },
        })
    }

    /// A device with its numbers.
    fn device(&self, file: &File, kind: Kind) -> Result<Kind> {
        if !matches!(kind, Kind::Character(..) | Kind::Block(..)) {
            return Ok(kind);
        }
        let attributes = file.value(self, EXTENDED_ATTRIBUTES)?.unwrap_or_default();
        let numbers = special::device(&attributes);
        let (major, minor) = numbers.ok_or_else(|| damaged("a device has no numbers"))?;
        Ok(if matches!(kind, Kind::Block(..)) {
            Kind::Block(major, minor)
        } else {
            Kind::Character(major, minor)
        })
    }

    /// What a file is to Interix.
    fn interix(&self, file: &File) -> Result<Option<Special>> {
        let Some(len) = file.stream_len(b"").filter(|_| !file.is_directory) else { return Ok(None) };
        let attributes = Fields(file.resident(STANDARD_INFORMATION).unwrap_or_default()).u32(32);
        if !special::may_be(attributes, len) {
            return Ok(None);
        }
        let content = match file.content(self, DATA, b"") {
            // Encrypted, for one: whoever opens it is told.
            Err(Error::Unsupported { .. }) | Ok(None) => return Ok(None),
            content => content?,
        };
        let Some(content) = content.filter(|content| content.len() == len) else { return Ok(None) };
        let mut bytes = vec![0; len as usize];
        self.read(&content, 0, &mut bytes)?;
        Ok(special::of_interix(&bytes))
    }
}

/// What a file is, beyond what its record says.
enum Meaning {
    /// A file or directory.
    Plain,
    /// A link that leads there.
    Link(Vec<u8>),
    /// A device, pipe or socket.
    Special(Kind),
    /// Something whose content is elsewhere, by the tag of its reparse point.
    Elsewhere(u32),
}

fn time(ticks: u64) -> Time {
    let ticks = ticks.cast_signed();
    Time { seconds: ticks.div_euclid(TICKS) - EPOCH, nanoseconds: (ticks.rem_euclid(TICKS) * 100) as u32 }
}

impl Filesystem for Ntfs<'_> {
    fn kind(&self) -> &'static str {
        "ntfs"
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn ignores_case(&self) -> bool {
        true
    }

    fn root(&self) -> Node {
        Reference { number: ROOT, sequence: ROOT as u16 }.node()
    }

    fn metadata(&self, node: Node) -> Result<Metadata> {
        let file = self.opened(node)?;
        let (kind, size) = match self.meaning(&file)? {
            Meaning::Link(target) => (Kind::Link, target.len() as u64),
            Meaning::Special(kind) => (kind, 0),
            _ if file.is_directory => (Kind::Directory, 0),
            _ => (Kind::File, file.stream_len(b"").unwrap_or(0)),
        };
        let standard = Fields(file.resident(STANDARD_INFORMATION).unwrap_or_default());
        Ok(Metadata {
            kind,
            size,
            mode: None,
            owner: None,
            modified: time(standard.u64(8)),
            accessed: time(standard.u64(24)),
            links: file.names(),
            streams: file.streams(),
        })
    }

    fn list(&self, node: Node) -> Result<Vec<Entry>> {
        let file = self.opened(node)?;
        if !file.is_directory {
            return Err(Error::NotDirectory);
        }
        self.entries(&file)
    }

    fn is_own(&self, node: Node) -> bool {
        Reference::from_node(node).number < FIRST_FILE
    }

    fn target(&self, node: Node) -> Result<Vec<u8>> {
        match self.meaning(&self.opened(node)?)? {
            Meaning::Link(target) => Ok(target),
            _ => Err(damaged("a symbolic link is none")),
        }
    }

    fn open(&self, node: Node) -> Result<Content> {
        let file = self.opened(node)?;
        if let Meaning::Elsewhere(tag) = self.meaning(&file)? {
            return Err(reparse::refused(tag));
        }
        match file.content(self, DATA, b"")? {
            Some(content) => Ok(content),
            // The filesystem's own indexes ($Secure, $Quota) have no content by nature.
            None if !file.is_directory && file.has(INDEX_ROOT) => Ok(Content::inline(Vec::new(), 0)),
            None => Err(damaged("a file has no content")),
        }
    }

    fn read(&self, content: &Content, offset: u64, buf: &mut [u8]) -> Result<()> {
        match &content.store {
            Store::Compressed(runs, unit) => self.read_compressed(content, runs, *unit, offset, buf),
            _ => content.fill(&self.volume, offset, buf),
        }
    }
}

impl Ntfs<'_> {
    /// Reads unit by unit: one that is all there is as it is, one that is not there is zeros, any other is compressed.
    fn read_compressed(
        &self,
        content: &Content,
        runs: &[Run],
        unit: u64,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= content.len());
        let end = end.ok_or_else(|| damaged("a file is shorter than it says"))?;
        for start in (offset / unit * unit..end).step_by(usize::try_from(unit).unwrap_or(usize::MAX)) {
            let plain = self.unit(runs, start, unit)?;
            let (from, to) = (start.max(offset), (start + unit).min(end));
            let part = &plain[(from - start) as usize..(to - start) as usize];
            buf[(from - offset) as usize..(to - offset) as usize].copy_from_slice(part);
        }
        Ok(())
    }

    fn unit(&self, runs: &[Run], start: u64, unit: u64) -> Result<Vec<u8>> {
        let mut stored = Vec::new();
        let first = runs.partition_point(|run| run.end() <= start);
        for run in runs[first..].iter().take_while(|run| run.start < start + unit) {
            let (from, to) = (run.start.max(start), run.end().min(start + unit));
            if from != start + stored.len() as u64 {
                return Err(damaged("a compressed file has a hole where it must not"));
            }
            // At most a unit.
            stored.extend(self.volume.read(run.at + (from - run.start), (to - from) as usize)?);
        }
        match stored.len() as u64 {
            0 => Ok(vec![0; unit as usize]),
            all if all == unit => Ok(stored),
            _ => lznt1::unpack(&stored, unit as usize),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_any_sign() {
        assert_eq!(time(116_444_736_000_000_000), Time::default());
        assert_eq!(time(116_444_735_999_999_999), Time { seconds: -1, nanoseconds: 999_999_900 });
        assert_eq!(time(0).seconds, -EPOCH);
    }

    #[test]
    fn references_are_nodes_in_the_order_of_their_numbers() {
        let reference = Reference::of(0x0007_0000_0000_002a);
        assert_eq!(reference, Reference { number: 42, sequence: 7 });
        assert_eq!(Reference::from_node(reference.node()), reference);
        assert!(reference.node() < Reference { number: 43, sequence: 0 }.node());
    }
}
