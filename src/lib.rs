//! Copal backs up whole disks into a deduplicated, compressed, encrypted repository, and serves every backup as a
//! mountable sparse image.
//!
//! The layers, from the top: [`archiver`], [`restore`], [`maintenance`] and [`fuse`] do what the commands ask; [`source`], [`chunker`], [`image`], [`partition`], [`allocation`] and
//! [`filesystem`] know disks; [`repository`] knows stored objects; [`format`], [`codec`] and [`storage`] know bytes. Imports point down only.
//! The library never prints: it returns errors and reports through [`log`].

pub mod allocation;
pub mod archiver;
pub mod attach;
pub mod chunker;
pub mod cli;
pub mod codec;
pub mod extent;
pub mod filesystem;
pub mod format;
pub mod fuse;
pub mod id;
pub mod image;
pub mod maintenance;
pub mod partition;
pub mod pool;
pub mod repository;
pub mod restore;
pub mod source;
pub mod storage;
pub mod task;
