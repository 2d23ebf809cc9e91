//! Small objects as MessagePack maps with string keys.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::{FormatError, limits};

/// Encodes with field names.
#[must_use]
pub fn to_bytes<T: Serialize>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(value).expect("plain structs of numbers, text and bytes always encode")
}

/// Decodes; unknown keys are ignored, duplicate keys, deep nesting and trailing bytes refused.
///
/// # Errors
/// [`FormatError::Malformed`].
pub fn from_bytes<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, FormatError> {
    let mut left = bytes;
    let mut decoder = rmp_serde::Deserializer::new(&mut left);
    decoder.set_max_depth(limits::MAX_DEPTH);
    let value =
        T::deserialize(&mut decoder).map_err(|error| FormatError::malformed(what, error.to_string()))?;
    if !left.is_empty() {
        return Err(FormatError::malformed(what, format!("{} bytes too many", left.len())));
    }
    Ok(value)
}

/// Room that is made for the elements of a list before they were read, in number: a list may claim any length.
const FIRST_ELEMENTS: usize = 64;

/// Reads a list of at most `N` elements, for `#[serde(deserialize_with)]`. A longer one is refused by the length that it claims, before
/// anything is allocated; for one that is not, memory grows with what was read.
///
/// # Errors
/// The format's, and that the list is too long.
pub(crate) fn at_most<'de, D, T, const N: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_seq(List::<T, N>(PhantomData))
}

/// As [`at_most`], for a list that may be absent.
///
/// # Errors
/// As there.
pub(crate) fn some_at_most<'de, D, T, const N: usize>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_option(OptionalList::<T, N>(PhantomData))
}

struct List<T, const N: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for List<T, N> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {N} elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
        let claimed = seq.size_hint().unwrap_or(0);
        if claimed > N {
            return Err(A::Error::invalid_length(claimed, &self));
        }
        let mut list = Vec::with_capacity(claimed.min(FIRST_ELEMENTS));
        while let Some(element) = seq.next_element()? {
            if list.len() == N {
                return Err(A::Error::invalid_length(N + 1, &self));
            }
            list.push(element);
        }
        Ok(list)
    }
}

struct OptionalList<T, const N: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for OptionalList<T, N> {
    type Value = Option<Vec<T>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nothing, or a list of at most {N} elements")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        at_most::<_, _, N>(deserializer).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::PackId;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Lists {
        #[serde(deserialize_with = "at_most::<_, _, 3>")]
        few: Vec<String>,
        #[serde(
            default,
            skip_serializing_if = "Option::is_none",
            deserialize_with = "some_at_most::<_, _, 2>"
        )]
        perhaps: Option<Vec<u8>>,
    }

    #[test]
    fn lists_are_refused_by_their_claims() {
        let decode = |lists: &Lists| from_bytes::<Lists>("lists", &to_bytes(lists));
        for perhaps in [None, Some(vec![]), Some(vec![7, 7])] {
            let lists = Lists { few: vec![String::new(); 3], perhaps };
            assert_eq!(decode(&lists).as_ref(), Ok(&lists));
        }
        assert!(decode(&Lists { few: vec![String::new(); 4], perhaps: None }).is_err());
        assert!(decode(&Lists { few: vec![], perhaps: Some(vec![7; 3]) }).is_err());
        // "few" with four elements claimed and none there: refused for the claim, not for the end.
        let claim = [&[0x81, 0xa3][..], b"few", &[0xdd, 0, 0, 0, 4]].concat();
        let error = from_bytes::<Lists>("lists", &claim).unwrap_err().to_string();
        assert!(error.contains("at most 3 elements"), "{error}");
    }

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    struct Small {
        id: PackId,
        n: u8,
    }

    #[test]
    fn ids_are_binary_and_extra_bytes_refused() {
        let small = Small { id: PackId([3; 16]), n: 5 };
        let mut bytes = to_bytes(&small);
        assert!(bytes.windows(2).any(|w| w == [0xc4, 16]), "{bytes:x?}");
        assert_eq!(from_bytes::<Small>("small", &bytes).unwrap(), small);
        bytes.push(0);
        assert!(from_bytes::<Small>("small", &bytes).is_err());
        assert!(from_bytes::<Small>("small", &bytes[..5]).is_err());
        assert!(from_bytes::<Small>("small", &[0x91; 100]).is_err());
    }
}
