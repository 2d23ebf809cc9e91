//! Segments by the beginnings of the ids in them.

use super::MAX_PREFIX;
use crate::id::BlobId;

// Two bytes of an id have all digits.
const _: () = assert!(MAX_PREFIX <= 4);

/// What there is of each prefix. For each length that prefixes have there is a table of all that are possible, in which one is found by its digits: a lookup
/// goes through all lengths for each id.
#[derive(Debug)]
pub(super) struct Groups<T> {
    by_length: [Vec<Vec<T>>; MAX_PREFIX + 1],
}

impl<T> Default for Groups<T> {
    fn default() -> Self {
        Self { by_length: Default::default() }
    }
}

impl<T> Groups<T> {
    /// What there is of one prefix, of hex digits.
    pub(super) fn of(&mut self, prefix: &str) -> &mut Vec<T> {
        // That of no digits is the only one of its length.
        let group = if prefix.is_empty() { Ok(0) } else { usize::from_str_radix(prefix, 16) };
        let group = group.expect("the prefix of a segment is of hex digits");
        let groups = &mut self.by_length[prefix.len()];
        if groups.is_empty() {
            groups.resize_with(1 << (4 * prefix.len()), Vec::new);
        }
        &mut groups[group]
    }

    /// What there is of the prefixes that an id has, shorter ones first.
    pub(super) fn along<'a>(&'a self, id: &BlobId) -> impl Iterator<Item = &'a T> + use<'a, T> {
        let digits = id.as_bytes().first_chunk().map_or(0, |bytes| usize::from(u16::from_be_bytes(*bytes)));
        let group =
            move |(len, groups): (usize, &'a Vec<Vec<T>>)| groups.get(digits >> (4 * (MAX_PREFIX - len)));
        self.by_length.iter().enumerate().filter_map(group).flatten()
    }

    /// All that there is.
    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.by_length.iter().flatten().flatten()
    }

    /// All that there is, of the longest prefixes first, and of each length together.
    pub(super) fn longest_first(&mut self) -> impl Iterator<Item = impl Iterator<Item = &mut T>> {
        self.by_length.iter_mut().rev().map(|groups| groups.iter_mut().flatten())
    }

    /// Keeps what `stays` accepts.
    pub(super) fn retain(&mut self, mut stays: impl FnMut(&T) -> bool) {
        self.by_length.iter_mut().flatten().for_each(|group| group.retain(&mut stays));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_leads_to_all_of_its_prefixes_and_no_others() {
        let mut groups = Groups::default();
        let prefixes = ["", "0", "a", "f", "ab", "ff", "abc", "ab0", "abcd", "abce", "ffff", "0000"];
        for prefix in prefixes {
            groups.of(prefix).push(prefix);
            groups.of(prefix).push(prefix);
        }
        for (beginning, wanted) in [
            ([0xab, 0xcd], vec!["", "a", "ab", "abc", "abcd"]),
            ([0xab, 0xcf], vec!["", "a", "ab", "abc"]),
            ([0xff, 0xff], vec!["", "f", "ff", "ffff"]),
            ([0, 0], vec!["", "0", "0000"]),
            ([0x12, 0x34], vec![""]),
        ] {
            let mut id = [7; 32];
            id[..2].copy_from_slice(&beginning);
            let twice: Vec<&str> = wanted.iter().flat_map(|prefix| [*prefix; 2]).collect();
            assert_eq!(groups.along(&BlobId(id)).copied().collect::<Vec<_>>(), twice);
        }
        let lengths: Vec<Vec<usize>> =
            groups.longest_first().map(|all| all.map(|prefix| prefix.len()).collect()).collect();
        assert_eq!(lengths, [vec![4; 8], vec![3; 4], vec![2; 4], vec![1; 6], vec![0; 2]]);
        groups.retain(|prefix| prefix.len() < 2);
        assert_eq!(groups.all().count(), 8);
    }
}
