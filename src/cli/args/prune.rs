//! Arguments of `copal prune`.

use std::ffi::OsString;

use clap::Args;

use crate::cli::secret::SecretArgs;
use crate::maintenance::prune::Within;

#[derive(Debug, Args)]
pub(in crate::cli) struct PruneArgs {
    /// Repository, and a name or pattern; all names, if not given
    #[arg(value_name = "REPO[::NAME]")]
    pub(in crate::cli) location: Option<OsString>,
    /// Keep the N newest archives of each name
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(in crate::cli) keep_last: usize,
    /// Keep the newest archive of each of the N latest hours that have one
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(in crate::cli) keep_hourly: usize,
    /// The same for days
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(in crate::cli) keep_daily: usize,
    /// The same for weeks, which begin on Monday
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(in crate::cli) keep_weekly: usize,
    /// The same for months
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(in crate::cli) keep_monthly: usize,
    /// The same for years
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(in crate::cli) keep_yearly: usize,
    /// Keep all that are at most this much older than the newest of their name: 12h, 30d, 2w, 6m (months), 1y6m
    #[arg(long, value_name = "TIME")]
    pub(in crate::cli) keep_within: Option<Within>,
    /// Keep archives with this tag besides; can be given several times
    #[arg(long = "keep-tag", value_name = "TAG")]
    pub(in crate::cli) keep_tags: Vec<String>,
    /// Let hours, days, weeks, months and years be those of UTC instead of this machine's time zone
    #[arg(long)]
    pub(in crate::cli) utc: bool,
    /// Only show what would be done
    #[arg(long, short = 'n')]
    pub(in crate::cli) dry_run: bool,
    /// Show the archives that are kept, too, and the rules that keep them
    #[arg(long)]
    pub(in crate::cli) list: bool,
    /// Print one JSON document
    #[arg(long)]
    pub(in crate::cli) json: bool,
    #[command(flatten)]
    pub(in crate::cli) secrets: SecretArgs,
}
