//! Small objects as MessagePack maps with string keys.

use serde::Serialize;
use serde::de::DeserializeOwned;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::PackId;

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
