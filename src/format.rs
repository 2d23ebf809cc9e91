//! The stored objects, byte for byte (`docs/format.md`): one file per object, `to_bytes` and `from_bytes` in pairs. No I/O.
//!
//! Everything decoded is hostile until it has passed: lengths are bounded before anything is allocated, and no input panics.

pub mod catalogue;
pub mod config;
pub mod envelope;
pub mod filter;
pub mod index_segment;
pub mod limits;
pub mod location;
pub mod msgpack;
pub mod name;
pub mod node;
pub mod pack;
pub mod protocol;
pub mod record;
pub mod recovery;
pub mod slot;
pub mod span_map;
pub mod state;
pub mod wire;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The bytes end too early.
    #[error("{what} ends too early: {needed} more bytes needed, {left} left")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Bytes needed.
        needed: usize,
        /// Bytes left.
        left: usize,
    },
    /// A count, length or offset is out of its bounds.
    #[error("{what} is {value}, beyond its bound of {limit}")]
    OutOfBounds {
        /// Which value.
        what: &'static str,
        /// What it says.
        value: u64,
        /// What it may be at most.
        limit: u64,
    },
    /// A rule of the format is broken.
    #[error("{what} is malformed: {reason}")]
    Malformed {
        /// Which object or field.
        what: &'static str,
        /// Which rule.
        reason: String,
    },
    /// The magic bytes are others.
    #[error("this is no {what}")]
    BadMagic {
        /// What was expected.
        what: &'static str,
    },
    /// Written by a newer Copal.
    #[error("{what} has version {found}; this Copal reads version {supported}: use a newer one")]
    Version {
        /// Which object.
        what: &'static str,
        /// The version found.
        found: u16,
        /// The version supported.
        supported: u16,
    },
    /// Needs features this program does not have.
    #[error("the repository uses features that this Copal does not know (bits {bits:?}): use a newer one")]
    Features {
        /// The numbers of the unknown bits.
        bits: Vec<u32>,
    },
    /// Sealed in a mode this program does not have.
    #[error("{what} is sealed in key mode {mode}, which this Copal does not know: use a newer one")]
    KeyMode {
        /// Which object.
        what: &'static str,
        /// The mode found.
        mode: u8,
    },
}

impl FormatError {
    /// A broken rule.
    pub(crate) fn malformed(what: &'static str, reason: impl Into<String>) -> Self {
        Self::Malformed { what, reason: reason.into() }
    }
}
