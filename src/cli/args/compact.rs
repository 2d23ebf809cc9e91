//! Arguments of `copal compact`.

use std::ffi::OsString;

use crate::cli::secret::SecretArgs;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct CompactArgs {
    /// Repository
    #[arg(value_name = "REPO")]
    pub(in crate::cli) location: Option<OsString>,
    /// Rewrite packs of which at least this much, in percent, is needed by no archive
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100), default_value_t = 25)]
    pub(in crate::cli) threshold: u8,
    /// Do not wait for backups that run; they store again what they lose
    #[arg(long)]
    pub(in crate::cli) now: bool,
    /// Only say what would be freed
    #[arg(long, short = 'n')]
    pub(in crate::cli) dry_run: bool,
    /// Print one JSON document
    #[arg(long)]
    pub(in crate::cli) json: bool,
    #[command(flatten)]
    pub(in crate::cli) secrets: SecretArgs,
}
