//! Arguments of `copal rename`.

use std::ffi::OsString;

use clap::Args;

use crate::cli::secret::SecretArgs;

#[derive(Debug, Args)]
pub(in crate::cli) struct RenameArgs {
    /// Repository and archive
    #[arg(value_name = "REPO::ARCHIVE")]
    pub(in crate::cli) location: OsString,
    /// The new name
    #[arg(value_name = "NEW-NAME")]
    pub(in crate::cli) name: String,
    /// Rename all archives of a name, or all that fit a pattern
    #[arg(long)]
    pub(in crate::cli) all: bool,
    /// Allow a name that other archives have already
    #[arg(long)]
    pub(in crate::cli) merge: bool,
    /// Print one JSON document
    #[arg(long)]
    pub(in crate::cli) json: bool,
    #[command(flatten)]
    pub(in crate::cli) secrets: SecretArgs,
}
