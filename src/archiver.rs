//! Making archives out of sources, and sources out of archives.

mod base;
pub mod copy;
pub mod create;
mod cutter;
pub mod earlier;
mod error;
pub mod extract;
mod gather;
mod pipeline;
mod reuse;
mod salvage;
mod span;
pub mod stream;
pub mod target;
pub mod unused;
mod writing;

pub use error::{Error, Result};
pub use salvage::ReadErrors;

pub use crate::task::{Monitor, Silent, Stop};
