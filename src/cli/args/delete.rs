//! Arguments of `copal delete` and `copal undelete`.

use std::ffi::OsString;

use clap::Args;

use crate::cli::secret::SecretArgs;

#[derive(Debug, Args)]
pub(in crate::cli) struct DeleteArgs {
    /// Repository and archive
    #[arg(value_name = "REPO::ARCHIVE")]
    pub(in crate::cli) location: OsString,
    /// More archives of the same repository
    #[arg(value_name = "ARCHIVE")]
    pub(in crate::cli) more: Vec<OsString>,
    /// Take all archives of a name, or all that fit a pattern
    #[arg(long)]
    pub(in crate::cli) all: bool,
    /// Only show what would be done
    #[arg(long, short = 'n')]
    pub(in crate::cli) dry_run: bool,
    /// Print one JSON document
    #[arg(long)]
    pub(in crate::cli) json: bool,
    #[command(flatten)]
    pub(in crate::cli) secrets: SecretArgs,
}
