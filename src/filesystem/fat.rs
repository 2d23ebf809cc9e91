//! FAT12, FAT16 and FAT32 (Microsoft, *FAT32 File System Specification* 1.03), whatever state they are in.
//!
//! Nothing identifies a file but the place of its entry, which is what nodes are. Names are the long ones where there are any. Times have no zone, and are taken as UTC.

mod entries;

use self::entries::Found;
use super::content::{Content, Gatherer, Run};
use super::volume::Volume;
use super::{Entry, Error, Filesystem, Kind, Metadata, Names, Node, Result, damaged};
use crate::allocation::fat::boot::{Boot, Root};
use crate::partition::bytes::Fields;

/// Bytes of an entry.
const ENTRY: usize = 32;
/// The root has no entry; the boot sector is where none can be.
const ROOT: Node = Node(0);
/// Bytes of the table of clusters that are read at once: a multiple of 12, so that it holds an even number of entries of any width.
const PIECE: u64 = 3 << 10;
/// The longest directory: 65536 entries, and some for what Windows does not heed.
const MAX_DIRECTORY: u64 = 8 << 20;

/// Such a filesystem.
pub(super) struct Fat<'a> {
    volume: Volume<'a>,
    boot: Boot,
}

impl<'a> Fat<'a> {
    pub(super) fn open(volume: Volume<'a>) -> Result<Self> {
        let boot = Boot::lenient(&volume.window())?;
        Ok(Self { volume, boot })
    }

    /// Where a chain of clusters lies: as much as `len` bytes take, or that of a directory.
    fn chain(&self, first: u32, len: Option<u64>) -> Result<Vec<Run>> {
        let clusters = self.boot.clusters;
        // One more than a directory can have is too many.
        let wanted = len.map_or(MAX_DIRECTORY / clusters.size + 1, |len| len.div_ceil(clusters.size));
        let mut gatherer = Gatherer::new(clusters.count * clusters.size);
        let (mut next, mut at) = (Some(first), 0);
        let mut piece = Piece::default();
        while let Some(number) = next.filter(|_| at / clusters.size < wanted) {
            let cluster = u64::from(number).checked_sub(2).filter(|cluster| *cluster < clusters.count);
            let cluster = cluster.ok_or_else(|| damaged("a chain of clusters leads out of it"))?;
            let place = clusters.bytes(cluster..cluster + 1).start;
            // What is told of more often than there are clusters goes in circles.
            gatherer.add(Run { start: at, len: clusters.size, at: place })?;
            at += clusters.size;
            next = self.after(number, &mut piece)?;
        }
        if len.is_some_and(|len| at < len) {
            return Err(damaged("a chain of clusters ends before its file"));
        }
        Ok(gatherer.finish())
    }

    /// The cluster that follows; `None` at the end.
    fn after(&self, number: u32, piece: &mut Piece) -> Result<Option<u32>> {
        let width = self.boot.width;
        let per_piece = PIECE * 2 / width.bytes(2);
        let (index, within) = (u64::from(number) / per_piece, u64::from(number) % per_piece);
        if piece.0 != Some(index) {
            let at = index * PIECE;
            let len = PIECE.min(self.boot.table_len.saturating_sub(at));
            *piece = Piece(Some(index), self.volume.read(self.boot.tables + at, len as usize)?);
        }
        let entry = width.entry(Fields(&piece.1), within as usize);
        match entry {
            end if end >= width.max() - 7 => Ok(None),
            bad if bad == width.max() - 8 || bad < 2 => {
                Err(damaged("a chain of clusters leads to a free or bad one"))
            }
            next => Ok(Some(next)),
        }
    }

    /// The content of a directory.
    fn directory(&self, node: Node) -> Result<Content> {
        let first = if node == ROOT {
            match &self.boot.root {
                Root::Fixed(range) => {
                    let len = range.end - range.start;
                    return Ok(Content::runs(vec![Run { start: 0, len, at: range.start }], len));
                }
                Root::Chain(first) => *first,
            }
        } else {
            let entry = self.entry(node)?;
            if !entry.is_directory() {
                return Err(Error::NotDirectory);
            }
            self.first(&entry)
        };
        let runs = self.chain(first, None)?;
        let len = runs.iter().map(|run| run.len).sum();
        if len > MAX_DIRECTORY {
            return Err(damaged("a directory is longer than it can be"));
        }
        Ok(Content::runs(runs, len))
    }

    fn entry(&self, node: Node) -> Result<Found> {
        let mut bytes = [0; ENTRY];
        self.volume.fill(node.0, &mut bytes)?;
        Ok(Found(bytes))
    }

    /// The number of a file's first cluster. Its upper half means something else where numbers have 16 bits at most.
    fn first(&self, entry: &Found) -> u32 {
        entry.first(self.boot.width.max() > 0xffff)
    }
}

/// A part of the table of clusters, by its number.
#[derive(Default)]
struct Piece(Option<u64>, Vec<u8>);

impl Filesystem for Fat<'_> {
    fn kind(&self) -> &'static str {
        "vfat"
    }

    fn notes(&self) -> &[String] {
        &[]
    }

    fn ignores_case(&self) -> bool {
        true
    }

    fn root(&self) -> Node {
        ROOT
    }

    fn metadata(&self, node: Node) -> Result<Metadata> {
        let entry = if node == ROOT { None } else { Some(self.entry(node)?) };
        let is_directory = entry.as_ref().is_none_or(Found::is_directory);
        let [accessed, modified] = entry.as_ref().map(Found::times).unwrap_or_default();
        Ok(Metadata {
            kind: if is_directory { Kind::Directory } else { Kind::File },
            size: if is_directory { 0 } else { entry.map_or(0, |entry| entry.len()) },
            mode: None,
            owner: None,
            modified,
            accessed,
            links: 1,
            streams: Vec::new(),
        })
    }

    fn list(&self, node: Node) -> Result<Vec<Entry>> {
        let content = self.directory(node)?;
        let mut names = Names::default();
        let mut long = entries::Long::default();
        let mut piece = vec![0; usize::try_from(content.len()).unwrap_or(0)];
        self.read(&content, 0, &mut piece)?;
        for (number, bytes) in piece.chunks_exact(ENTRY).enumerate() {
            let entry = Found(bytes.try_into().unwrap_or([0; ENTRY]));
            if entry.is_end() {
                break;
            }
            let Some(name) = long.take(&entry) else { continue };
            let place =
                content.place_of((number * ENTRY) as u64).ok_or_else(|| damaged("a directory has a hole"))?;
            names.add(Entry { name, node: Node(place), is_directory: Some(entry.is_directory()) })?;
        }
        Ok(names.entries)
    }

    fn target(&self, _: Node) -> Result<Vec<u8>> {
        Err(damaged("a symbolic link is none"))
    }

    fn open(&self, node: Node) -> Result<Content> {
        let entry = self.entry(node)?;
        let len = entry.len();
        if len == 0 {
            return Ok(Content::runs(Vec::new(), 0));
        }
        Ok(Content::runs(self.chain(self.first(&entry), Some(len))?, len))
    }

    fn read(&self, content: &Content, offset: u64, buf: &mut [u8]) -> Result<()> {
        content.fill(&self.volume, offset, buf)
    }
}
