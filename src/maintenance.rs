//! Looking after a repository: what is in it, whether it is whole, and which of it nobody needs any more.
//!
//! Nothing here takes a lock. What deletes follows the order of publication of `docs/format.md`, section 13, so that a
//! create that runs at the same time loses nothing.

pub mod check;
pub mod compact;
pub mod error;
pub mod inventory;
pub mod live;
pub mod parallel;
pub mod prune;
pub mod repair;
pub mod sessions;
pub mod undelete;

pub use error::{Error, Result};
