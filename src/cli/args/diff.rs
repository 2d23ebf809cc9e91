//! The arguments of `copal diff`.

use std::ffi::OsString;

use clap::Args;

use crate::cli::secret::SecretArgs;

#[derive(Debug, Args)]
pub(in crate::cli) struct DiffArgs {
    /// Repository and archive, the older one as a rule
    #[arg(value_name = "REPO::A")]
    pub(in crate::cli) location: OsString,
    /// Another archive of that repository: B, ::B or REPO::B
    #[arg(value_name = "B")]
    pub(in crate::cli) other: OsString,
    /// Compare this member only
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) member: Option<String>,
    /// Leave out the ranges
    #[arg(long)]
    pub(in crate::cli) summary: bool,
    /// Count the chunks of all spans, not just of those that changed; this reads every map
    #[arg(long)]
    pub(in crate::cli) full: bool,
    /// Print one JSON document
    #[arg(long)]
    pub(in crate::cli) json: bool,
    #[command(flatten)]
    pub(in crate::cli) secrets: SecretArgs,
}

/// What the output means.
pub(super) const AFTER_HELP: &str = "\
Examples:
  copal diff /srv/backups::web01~1 web01
  copal diff /srv/backups::db01@2026-11-01 db01 --member vda --summary

Ranges are told from the archives' maps; no data is read but the partition tables. What is left out is equal. What is \
'changed' may differ: it is told in whole chunks, and data that was cut otherwise counts as changed even if its bytes are \
the same. What is 'added' or 'removed' lies beyond the end of A or of B; a map of what is 'unknown' is lost.

Chunks are counted once each: 'shared' if both archives use them, 'added' if only B does, 'removed' if only A does. \
Only spans (of 16 MiB, as a rule) whose maps differ are looked at, so an added chunk may be in use elsewhere in A, and a \
removed one elsewhere in B; --full looks at all spans. Beyond a million chunks the numbers are estimates, marked 'about'.";
