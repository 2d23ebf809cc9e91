//! Runs of clear bits in a bitmap.

use std::ops::Range;

/// The runs of clear bits among the first `count` bits of `bytes`, in order. Bits beyond the bytes count as set.
pub(super) fn clear_runs(bytes: &[u8], count: u64) -> impl Iterator<Item = Range<u64>> {
    let count = count.min(bytes.len() as u64 * 8);
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = next(bytes, at, count, 0);
        let end = next(bytes, start, count, u64::MAX);
        at = end;
        (start < end).then_some(start..end)
    })
}

/// The first bit from `at` that is clear, or set where the words are `flipped` by all ones; `count` if there is none before.
fn next(bytes: &[u8], mut at: u64, count: u64, flipped: u64) -> u64 {
    while at < count {
        let wanted = !(word(bytes, at / 64) ^ flipped) >> (at % 64);
        if wanted != 0 {
            return (at + u64::from(wanted.trailing_zeros())).min(count);
        }
        at = (at / 64 + 1) * 64;
    }
    count
}

/// 64 bits, set where there are none.
fn word(bytes: &[u8], number: u64) -> u64 {
    let tail = usize::try_from(number * 8).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
    let mut word = [0xff; 8];
    word.iter_mut().zip(tail).for_each(|(to, from)| *to = *from);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn runs_end_at_words_and_at_the_count() {
        let runs = |bytes: &[u8], count| {
            clear_runs(bytes, count).map(|run| (run.start, run.end)).collect::<Vec<_>>()
        };
        assert_eq!(runs(&[0xff; 9], 72), []);
        assert_eq!(runs(&[0; 17], 130), [(0, 130)]);
        assert_eq!(runs(&[0; 2], 100), [(0, 16)]);
        assert_eq!(runs(&[0b0110, 0xff, 0x7f], 24), [(0, 1), (3, 8), (23, 24)]);
        assert_eq!(runs(&[], 5), []);
    }

    proptest! {
        #[test]
        fn each_clear_bit_is_in_one_run(bytes in proptest::collection::vec(any::<u8>(), 0..40), count in 0_u64..400) {
            let clear = |at: u64| bytes.get(at as usize / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 0);
            let one_by_one: Vec<u64> = (0..count).filter(|at| clear(*at)).collect();
            prop_assert_eq!(clear_runs(&bytes, count).flatten().collect::<Vec<_>>(), one_by_one);
        }
    }
}
