//! The mount: every archive of a repository as a read-only sparse image file.
//!
//! [`tree`] knows names, inodes and attributes, [`files`] open images; both work without a kernel. `kernel` is the thin layer that fuser
//! calls; [`session`] mounts, serves and ends. `docs/semantics.md` says what the mount promises.

pub mod attributes;
pub mod errno;
pub mod files;
mod kernel;
pub mod mountpoint;
pub mod names;
pub mod overlay;
mod parts;
pub mod session;
pub mod stats;
pub mod tree;
