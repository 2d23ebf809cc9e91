//! The filters of segments: in memory those that most lookups ask, others in a file that nobody else sees.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::format::filter;
use crate::id::BlobId;

/// Filters that are held in memory, in bytes.
pub(super) const IN_MEMORY: usize = 16 << 20;

/// The filter of a segment.
#[derive(Debug)]
pub(super) enum Filter {
    Held(Vec<u8>),
    /// In the file, from a byte on, and so many.
    Filed(u64, usize),
}

impl Filter {
    /// Bytes of memory.
    fn held(&self) -> usize {
        match self {
            Self::Held(bytes) => bytes.len(),
            Self::Filed(..) => 0,
        }
    }

    /// Bytes of the file.
    fn filed(&self) -> u64 {
        match self {
            Self::Held(_) => 0,
            Self::Filed(_, len) => *len as u64,
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

    /// Puts filters into the file, the first ones first, until an eighth of the room in memory is free; and makes the file anew if most of it is of filters
    /// that are gone. `all` are those that there are.
    ///
    /// # Errors
    /// The file cannot be made or written.
    pub(super) fn file(&mut self, all: &mut [&mut Filter]) -> io::Result<()> {
        let held: usize = all.iter().map(|filter| filter.held()).sum();
        let mut excess = match held > self.in_memory {
            true => held - (self.in_memory - self.slack()),
            false => 0,
        };
        for filter in all.iter_mut() {
            if excess == 0 {
                break;
            }
            if let Filter::Held(bytes) = &**filter {
                excess = excess.saturating_sub(bytes.len());
                **filter = self.add(bytes)?;
            }
        }
        let alive: u64 = all.iter().map(|filter| filter.filed()).sum();
        if self.end > 2 * alive + self.in_memory as u64
            && let Err(error) = self.rewrite(all)
        {
            log::debug!("filters of the index: a temporary file stays as long as it is: {error}");
        }
        Ok(())
    }

    fn add(&mut self, filter: &[u8]) -> io::Result<Filter> {
        if self.file.is_none() {
            self.file = Some(tempfile::tempfile()?);
        }
        let start = self.end;
        if let Some(file) = &self.file {
            file.write_all_at(filter, start)?;
        }
        self.end += filter.len() as u64;
        Ok(Filter::Filed(start, filter.len()))
    }

    fn rewrite(&mut self, all: &mut [&mut Filter]) -> io::Result<()> {
        let mut anew = Self::beyond(self.in_memory);
        let mut places = Vec::with_capacity(all.len());
        for filter in all.iter() {
            let Filter::Filed(start, len) = **filter else {
                places.push(None);
                continue;
            };
            let mut bytes = vec![0; len];
            if let Some(file) = &self.file {
                file.read_exact_at(&mut bytes, start)?;
            }
            places.push(Some(anew.add(&bytes)?));
        }
        // Only when all are there does the old file go.
        for (filter, place) in all.iter_mut().zip(places) {
            if let Some(place) = place {
                **filter = place;
            }
        }
        *self = anew;
        Ok(())
    }

    /// Whether a segment may hold an id. A filter that cannot be read lets everything through.
    pub(super) fn may_hold(&self, filter: &Filter, id: &BlobId) -> bool {
        match filter {
            Filter::Held(bytes) if bytes.is_empty() => false,
            Filter::Held(bytes) => {
                let start = filter::block_of(bytes.len(), id);
                let block = bytes.get(start..start + filter::BLOCK);
                block.is_none_or(|block| filter::may_hold(block, id))
            }
            Filter::Filed(_, 0) => false,
            Filter::Filed(start, len) => {
                let mut block = [0; filter::BLOCK];
                let at = start + filter::block_of(*len, id) as u64;
                let read = self.file.as_ref().map(|file| file.read_exact_at(&mut block, at));
                !matches!(read, Some(Ok(()))) || filter::may_hold(&block, id)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: usize = 4096;

    fn ids(of: u64) -> Vec<BlobId> {
        let id = |number: u64| BlobId(*blake3::hash(&(of << 32 | number).to_le_bytes()).as_bytes());
        (0..400).map(id).collect()
    }

    fn held(all: &[Filter]) -> usize {
        all.iter().map(Filter::held).sum()
    }

    fn file(filed: &mut FiledFilters, all: &mut [Filter]) {
        filed.file(&mut all.iter_mut().collect::<Vec<_>>()).unwrap();
    }

    #[test]
    fn the_first_go_to_the_file_and_answer_from_there() {
        let mut filed = FiledFilters::beyond(ROOM);
        let mut all: Vec<Filter> = (0..20).map(|of| Filter::Held(filter::build(ids(of).iter()))).collect();
        file(&mut filed, &mut all);
        assert!((1..=ROOM).contains(&held(&all)));
        let first_held = all.iter().position(|filter| filter.held() > 0).unwrap();
        assert!(all[first_held..].iter().all(|filter| filter.filed() == 0));
        for (of, filter) in all.iter().enumerate() {
            assert!(ids(of as u64).iter().all(|id| filed.may_hold(filter, id)));
            let wrong = ids(99).iter().filter(|id| filed.may_hold(filter, id)).count();
            assert!(wrong < 40, "{wrong} of 400");
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
            if all.len() > 20 {
                all.remove(0);
            }
            file(&mut filed, &mut all);
        }
        let alive: u64 = all.iter().map(Filter::filed).sum();
        assert!(alive > 0 && filed.end <= 2 * alive + ROOM as u64 + 1024, "{} for {alive}", filed.end);
        for (at, filter) in all.iter().enumerate() {
            let of = 480 + at as u64;
            assert_eq!(ids(of).iter().all(|id| filed.may_hold(filter, id)), !of.is_multiple_of(5), "{of}");
        }
    }
}
