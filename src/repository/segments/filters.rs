//! The filters of segments: in memory those that most lookups ask, others in a file that nobody else sees.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::format::filter;
use crate::id::BlobId;

/// Filters that are held in memory, whole or folded, in bytes.
pub(super) const IN_MEMORY: usize = 28 << 20;

/// Bytes of two blocks.
const PAIR: usize = 2 * filter::BLOCK;

/// The filter of a segment.
#[derive(Debug)]
pub(super) enum Filter {
    Held(Vec<u8>),
    Filed(Filed),
}

/// A filter in the file.
#[derive(Debug)]
pub(super) struct Filed {
    start: u64,
    len: usize,
    /// What it is folded to, which lets one id in twelve through; nothing if there is no room.
    folded: Vec<u8>,
}

impl Filter {
    /// Bytes of memory.
    fn held(&self) -> usize {
        match self {
            Self::Held(bytes) => bytes.len(),
            Self::Filed(filed) => filed.folded.len(),
        }
    }

    /// Bytes of the file.
    fn filed(&self) -> u64 {
        match self {
            Self::Held(_) => 0,
            Self::Filed(filed) => filed.len as u64,
        }
    }
}

/// Filters for which there was no room in memory, one behind the other.
#[derive(Debug)]
pub(super) struct FiledFilters {
    in_memory: usize,
    file: Option<File>,
    end: u64,
}

impl FiledFilters {
    /// Those beyond so many bytes.
    pub(super) fn beyond(in_memory: usize) -> Self {
        Self { in_memory, file: None, end: 0 }
    }

    /// How many bytes more than have room may be in memory for a while.
    pub(super) fn slack(&self) -> usize {
        self.in_memory / 8
    }

    /// Takes filters out of memory, if they have no room, until an eighth of it is free: those of the first class are folded, then leave it altogether, and
    /// so on with the next. Makes the file anew if most of it is of filters that are gone. `classes` are all that there are.
    ///
    /// # Errors
    /// The file cannot be made or written.
    pub(super) fn file(&mut self, classes: &mut [Vec<&mut Filter>]) -> io::Result<()> {
        let held: usize = classes.iter().flatten().map(|filter| filter.held()).sum();
        let mut excess = match held > self.in_memory {
            true => held - (self.in_memory - self.slack()),
            false => 0,
        };
        for class in classes.iter_mut() {
            for filter in class.iter_mut() {
                if excess > 0
                    && let Filter::Held(bytes) = &**filter
                {
                    let (start, len, folded) = (self.append(bytes)?, bytes.len(), fold(bytes));
                    excess = excess.saturating_sub(len - folded.len());
                    **filter = Filter::Filed(Filed { start, len, folded });
                }
            }
            for filter in class.iter_mut() {
                if excess > 0
                    && let Filter::Filed(filed) = &mut **filter
                {
                    excess = excess.saturating_sub(std::mem::take(&mut filed.folded).len());
                }
            }
        }
        let alive: u64 = classes.iter().flatten().map(|filter| filter.filed()).sum();
        if self.end > 2 * alive + self.in_memory as u64
            && let Err(error) = self.rewrite(classes)
        {
            log::debug!("filters of the index: a temporary file stays as long as it is: {error}");
        }
        Ok(())
    }

    /// Where in the file it is then.
    fn append(&mut self, filter: &[u8]) -> io::Result<u64> {
        if self.file.is_none() {
            self.file = Some(tempfile::tempfile()?);
        }
        let start = self.end;
        if let Some(file) = &self.file {
            file.write_all_at(filter, start)?;
        }
        self.end += filter.len() as u64;
        Ok(start)
    }

    fn rewrite(&mut self, classes: &mut [Vec<&mut Filter>]) -> io::Result<()> {
        let mut anew = Self::beyond(self.in_memory);
        let mut moved = Vec::new();
        for filter in classes.iter_mut().flatten() {
            let Filter::Filed(filed) = &mut **filter else { continue };
            let mut bytes = vec![0; filed.len];
            if let Some(file) = &self.file {
                file.read_exact_at(&mut bytes, filed.start)?;
            }
            moved.push((anew.append(&bytes)?, filed));
        }
        // Only when all are there does the old file go.
        moved.into_iter().for_each(|(start, filed)| filed.start = start);
        *self = anew;
        Ok(())
    }

    /// Whether a segment may hold an id. A filter that cannot be read lets everything through.
    pub(super) fn may_hold(&self, filter: &Filter, id: &BlobId) -> bool {
        match filter {
            Filter::Held(bytes) if bytes.is_empty() => false,
            Filter::Held(bytes) => {
                let start = filter::block_of(bytes.len(), id);
                block_holds(bytes, start, id)
            }
            Filter::Filed(Filed { len: 0, .. }) => false,
            Filter::Filed(Filed { start, len, folded }) => {
                let at = filter::block_of(*len, id);
                block_holds(folded, at / PAIR * filter::BLOCK, id) && {
                    let mut block = [0; filter::BLOCK];
                    let read =
                        self.file.as_ref().map(|file| file.read_exact_at(&mut block, start + at as u64));
                    !matches!(read, Some(Ok(()))) || filter::may_hold(&block, id)
                }
            }
        }
    }
}

/// Whether a block of a filter lets an id through; one that is not there does.
fn block_holds(filter: &[u8], start: usize, id: &BlobId) -> bool {
    filter.get(start..start + filter::BLOCK).is_none_or(|block| filter::may_hold(block, id))
}

/// A filter of half the length, of which each block lets through what either of two does.
fn fold(filter: &[u8]) -> Vec<u8> {
    let mut folded = Vec::with_capacity(filter.len().div_ceil(PAIR) * filter::BLOCK);
    for pair in filter.chunks(PAIR) {
        let (first, second) = pair.split_at(filter::BLOCK.min(pair.len()));
        let bytes = first.iter().zip(second.iter().chain(std::iter::repeat(&0)));
        folded.extend(bytes.map(|(first, second)| first | second));
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: usize = 8192;

    fn ids(of: u64) -> Vec<BlobId> {
        let id = |number: u64| BlobId(*blake3::hash(&(of << 32 | number).to_le_bytes()).as_bytes());
        (0..400).map(id).collect()
    }

    fn held(all: &[Filter]) -> usize {
        all.iter().map(Filter::held).sum()
    }

    fn file(filed: &mut FiledFilters, all: &mut [Filter]) {
        let (first, second) = all.split_at_mut(all.len() / 2);
        filed.file(&mut [first.iter_mut().collect(), second.iter_mut().collect()]).unwrap();
    }

    /// How a filter is kept.
    fn kept(filter: &Filter) -> &'static str {
        match filter {
            Filter::Held(_) => "held",
            Filter::Filed(filed) if filed.folded.is_empty() => "filed",
            Filter::Filed(_) => "folded",
        }
    }

    #[test]
    fn the_first_go_to_the_file_and_answer_from_there() {
        // Of 640 bytes each.
        let filters = |count: u64| (0..count).map(|of| Filter::Held(filter::build(ids(of).iter()))).collect();
        for (count, ways) in [
            (12, ["held", "held", "held"]),
            (14, ["folded", "held", "held"]),
            (18, ["filed", "held", "held"]),
            (24, ["filed", "folded", "held"]),
        ] {
            let mut filed = FiledFilters::beyond(ROOM);
            let mut all: Vec<Filter> = filters(count);
            file(&mut filed, &mut all);
            assert!((ROOM * 3 / 4..=ROOM).contains(&held(&all)), "{count}: {}", held(&all));
            // The first of either class, and the last.
            assert_eq!([0, all.len() / 2, all.len() - 1].map(|at| kept(&all[at])), ways, "{count}");
            for (of, filter) in all.iter().enumerate() {
                assert!(ids(of as u64).iter().all(|id| filed.may_hold(filter, id)));
                let wrong = ids(99).iter().filter(|id| filed.may_hold(filter, id)).count();
                assert!(wrong < 40, "{wrong} of 400");
            }
        }
    }

    #[test]
    fn what_is_folded_keeps_most_ids_from_the_file() {
        for count in [1, 42, 43, 100, 200, 400] {
            let filter = filter::build(ids(0)[..count].iter());
            let folded = fold(&filter);
            assert_eq!(folded.len(), filter.len().div_ceil(PAIR) * filter::BLOCK);
            let filed = FiledFilters::beyond(0);
            // No file is there, so that whatever would be read lets everything through.
            let filter = Filter::Filed(Filed { start: 0, len: filter.len(), folded });
            assert!(ids(0)[..count].iter().all(|id| filed.may_hold(&filter, id)));
            let read = (1..6).flat_map(ids).filter(|id| filed.may_hold(&filter, id)).count();
            assert!(read < 2000 / 8, "{read} of 2000");
        }
    }

    #[test]
    fn the_file_does_not_keep_what_is_gone() {
        let mut filed = FiledFilters::beyond(ROOM);
        let mut all: Vec<Filter> = Vec::new();
        for of in 0..500u64 {
            // Segments of packs alone have empty ones.
            let ids = if of.is_multiple_of(5) { Vec::new() } else { ids(of) };
            all.push(Filter::Held(filter::build(ids.iter())));
            if all.len() > 40 {
                all.remove(0);
            }
            file(&mut filed, &mut all);
        }
        let alive: u64 = all.iter().map(Filter::filed).sum();
        assert!(alive > 0 && filed.end <= 2 * alive + ROOM as u64 + 1024, "{} for {alive}", filed.end);
        for (at, filter) in all.iter().enumerate() {
            let of = 460 + at as u64;
            assert_eq!(ids(of).iter().all(|id| filed.may_hold(filter, id)), !of.is_multiple_of(5), "{of}");
        }
    }
}
