//! Arguments of `copal copy`.

use std::ffi::OsString;

use clap::Args;

use super::parse_compression;
use crate::cli::secret::{SecretArgs, ToSecretArgs};
use crate::codec::compress::Compression;

#[derive(Debug, Args)]
pub(in crate::cli) struct CopyArgs {
    /// Repository to copy from, and archives in it: all, all of a NAME or of a pattern, or one with NAME@WHEN, NAME~N or #ID
    #[arg(value_name = "SRC[::ARCHIVE]")]
    pub(in crate::cli) from: OsString,
    /// Repository to copy to
    #[arg(value_name = "DST")]
    pub(in crate::cli) to: OsString,
    /// How new chunks are compressed: zstd,LEVEL (1 to 19) or none
    #[arg(long, value_parser = parse_compression, default_value = "zstd,3")]
    pub(in crate::cli) compression: Compression,
    /// Cut anew as DST does, to share chunks with what is backed up there directly; reads every archive in full
    #[arg(long)]
    pub(in crate::cli) recut: bool,
    /// Only count what would be copied
    #[arg(long, short = 'n')]
    pub(in crate::cli) dry_run: bool,
    /// Print one JSON document
    #[arg(long)]
    pub(in crate::cli) json: bool,
    #[command(flatten)]
    pub(in crate::cli) secrets: SecretArgs,
    #[command(flatten)]
    pub(in crate::cli) to_secrets: ToSecretArgs,
}
