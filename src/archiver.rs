//! Making archives out of sources, and sources out of archives.

pub mod copy;
pub mod create;
pub mod earlier;
mod error;
pub mod extract;
mod pipeline;
mod span;
pub mod target;
mod writing;

pub use error::{Error, Result};

pub use crate::task::{Monitor, Silent, Stop};
