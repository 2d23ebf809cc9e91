//! Newtypes for everything that is named by bytes.
//!
//! Random ids (16 bytes) name stored objects and are never used twice. Hash ids (32 bytes) name content. None of
//! them is interchangeable, and all print as lower-case hex.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Text that is not the hex form of an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected} hex digits")]
pub struct ParseIdError {
    /// What was given.
    pub text: String,
    /// How many digits the id has.
    pub expected: usize,
}

fn to_hex<const N: usize>(bytes: &[u8; N], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    // At once: a mount of thousands of archives names each by several of them.
    let pairs = bytes.map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    f.write_str(std::str::from_utf8(pairs.as_flattened()).map_err(|_| fmt::Error)?)
}

fn from_hex<const N: usize>(text: &str) -> Result<[u8; N], ParseIdError> {
    let error = || ParseIdError { text: text.chars().take(80).collect(), expected: 2 * N };
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return Err(error());
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
        let [Some(high), Some(low)] = pair.map(value) else { return Err(error()) };
        *byte = high << 4 | low;
    }
    Ok(bytes)
}

/// What nearly always decides which of two ids comes first, as one number: many are sorted, again and again, when segments of the index are joined.
fn leading(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $len:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(pub [u8; $len]);

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                leading(&self.0).cmp(&leading(&other.0)).then_with(|| self.0.cmp(&other.0))
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// The raw bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                to_hex(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                from_hex(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                use serde::de::Error;
                if deserializer.is_human_readable() {
                    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                    return text.parse().map_err(D::Error::custom);
                }
                let bytes = <serde_bytes::ByteArray<$len>>::deserialize(deserializer)
                    .map_err(|_| D::Error::custom(concat!("not the bytes of a ", stringify!($name))))?;
                Ok(Self(bytes.into_array()))
            }
        }
    };
}

macro_rules! random_id_type {
    ($(#[$doc:meta])* $name:ident) => {
        id_type!($(#[$doc])* $name, 16);

        impl $name {
            /// Draws a fresh id from the system's random source.
            ///
            /// # Panics
            /// If the system has no random source, on which nothing here could be safe.
            #[must_use]
            pub fn random() -> Self {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes).expect("the system's random source works");
                Self(bytes)
            }
        }
    };
}

random_id_type!(
    /// Names a repository, for good.
    RepositoryId
);
random_id_type!(
    /// Names a key slot.
    SlotId
);
random_id_type!(
    /// Names a pack; never reused.
    PackId
);
random_id_type!(
    /// Names an index segment.
    SegmentId
);
random_id_type!(
    /// Names an archive.
    ArchiveId
);
random_id_type!(
    /// Names a session: one run of a writing command.
    SessionId
);
random_id_type!(
    /// Makes an object's name unique where nothing else does.
    Nonce16
);
id_type!(
    /// Names a blob of any kind: the keyed BLAKE3 hash of its content.
    BlobId,
    32
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_refuses_everything_else() {
        let id = PackId::random();
        assert_eq!(id.to_string().parse::<PackId>().unwrap(), id);
        for bad in
            ["", "00", &"0".repeat(31), &"0".repeat(33), &"g".repeat(32), &"A".repeat(32), &"é".repeat(16)]
        {
            assert!(bad.parse::<PackId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ids_are_ordered_as_their_bytes_are() {
        let ids: Vec<PackId> = (0..300)
            .map(|number: u16| {
                let mut id = PackId([128; 16]);
                id.0[usize::from(number % 16)] = (number / 16 * 13) as u8;
                id
            })
            .collect();
        for (one, other) in ids.iter().flat_map(|one| ids.iter().map(move |other| (one, other))) {
            assert_eq!(one.cmp(other), one.0.cmp(&other.0), "{one} {other}");
        }
    }

    #[test]
    fn random_ids_differ() {
        assert_ne!(PackId::random(), PackId::random());
    }
}
