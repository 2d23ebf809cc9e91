//! Helpers shared by the tests that need a mount.
//!
//! Every test works in a [`sandbox::Sandbox`] of its own: a private directory, repository, state directory and mountpoints. Whatever a
//! test mounts, attaches or starts is held by a guard that takes it away again, also when the test panics. Nothing here has a fixed
//! path, and a test that cannot run here says so through [`requires!`].

pub mod attached;
pub mod binary;
pub mod copies;
pub mod damage;
pub mod devices;
pub mod images;
pub mod lean;
pub mod mounted;
pub mod need;
pub mod noise;
pub mod ntfs;
pub mod patched;
pub mod process;
pub mod reading;
pub mod sandbox;
pub mod slow;
pub mod stale;
pub mod trees;
pub mod unix;
pub mod volumes;
