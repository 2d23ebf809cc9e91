//! What `thin_delta` prints: runs of blocks of a thin pool, by what two devices have there. Everything but `same` changed: `different`, `left_only` (not
//! mapped any more, so zeros now) and `right_only` (mapped since). With `--verbose` each run stands in a `range` of its own within such an element.

use std::io::BufRead;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::{Builder, MapError};

/// Bytes of the sectors in which device mapper counts.
const SECTOR: u64 = 512;
/// Largest block of a thin pool, in sectors: 1 GiB.
const MAX_BLOCK: u64 = 2 << 20;

/// Where in the document the reader is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Outside,
    Superblock,
    Diff,
    /// In an element of a verbose delta: whether its runs changed, and whether one was met.
    Runs {
        changed: bool,
        met: bool,
    },
}

struct Parser<'a> {
    builder: &'a mut Builder,
    place: Place,
    /// Bytes of a block.
    block: u64,
    /// Whether the whole of a delta was read.
    is_whole: bool,
}

pub(super) fn read(map: &mut impl BufRead, builder: &mut Builder) -> Result<(), MapError> {
    let mut reader = Reader::from_reader(map);
    let mut parser = Parser { builder, place: Place::Outside, block: 0, is_whole: false };
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        match reader.read_event_into(&mut buffer) {
            Ok(Event::Start(element)) => parser.open(&element, false)?,
            Ok(Event::Empty(element)) => parser.open(&element, true)?,
            Ok(Event::End(_)) => parser.close()?,
            Ok(Event::Eof) => break,
            Ok(Event::Text(text)) if !text.trim().is_empty() => {
                return Err(MapError::malformed("there is text between its elements"));
            }
            Ok(_) => {}
            Err(quick_xml::Error::Io(error)) => return Err(MapError::Io(error.kind().into())),
            Err(error) => return Err(MapError::malformed(error.to_string())),
        }
    }
    match (parser.is_whole, parser.place) {
        (true, Place::Outside) => Ok(()),
        _ => Err(MapError::malformed("it ends before its delta does")),
    }
}

impl Parser<'_> {
    fn open(&mut self, element: &BytesStart<'_>, is_empty: bool) -> Result<(), MapError> {
        let name = element.name();
        let inner = match (self.place, name.as_ref()) {
            (Place::Outside, "superblock") if !self.is_whole => {
                let sectors = number(element, "data_block_size")?;
                if sectors == 0 || sectors > MAX_BLOCK {
                    return Err(MapError::malformed(format!("its blocks have {sectors} sectors")));
                }
                self.block = sectors * SECTOR;
                self.builder.map.unit = self.block;
                Place::Superblock
            }
            (Place::Superblock, "diff") if !self.is_whole => {
                self.builder.map.base = attribute(element, "left")?;
                self.builder.map.target = attribute(element, "right")?;
                self.is_whole = is_empty;
                Place::Diff
            }
            (Place::Diff, "same" | "different" | "left_only" | "right_only") => {
                let changed = name.as_ref() != "same";
                let met = is_empty || attribute(element, "begin")?.is_some();
                if changed && met {
                    self.run(element)?;
                }
                Place::Runs { changed, met }
            }
            (Place::Runs { changed, .. }, "range") if is_empty => {
                if changed {
                    self.run(element)?;
                }
                self.place = Place::Runs { changed, met: true };
                self.place
            }
            (_, name) => {
                let name: String = name.chars().take(40).collect();
                return Err(MapError::malformed(format!("an element {name:?} is out of place")));
            }
        };
        if !is_empty {
            self.place = inner;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), MapError> {
        self.is_whole |= self.place == Place::Diff;
        self.place = match self.place {
            Place::Runs { met: false, .. } => return Err(MapError::malformed("an element names no blocks")),
            Place::Runs { .. } => Place::Diff,
            Place::Diff => Place::Superblock,
            Place::Superblock | Place::Outside => Place::Outside,
        };
        Ok(())
    }

    /// A run that changed.
    fn run(&mut self, element: &BytesStart<'_>) -> Result<(), MapError> {
        let [begin, length] = [number(element, "begin")?, number(element, "length")?];
        let bytes = |blocks: u64| {
            let bytes = blocks.checked_mul(self.block);
            bytes.ok_or_else(|| MapError::malformed(format!("block {blocks} is on no disk")))
        };
        self.builder.add(bytes(begin)?, bytes(length)?)
    }
}

fn attribute(element: &BytesStart<'_>, name: &str) -> Result<Option<String>, MapError> {
    let found = element.try_get_attribute(name).map_err(|error| MapError::malformed(error.to_string()))?;
    Ok(found.map(|found| found.value.into_owned()))
}

fn number(element: &BytesStart<'_>, name: &str) -> Result<u64, MapError> {
    let text = attribute(element, name)?;
    let number = text.and_then(|text| text.parse().ok());
    number.ok_or_else(|| MapError::malformed(format!("an element has no number {name:?}")))
}
