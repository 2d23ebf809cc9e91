//! Arguments of `copal tag`.

use std::ffi::OsString;

use clap::Args;

use crate::cli::secret::SecretArgs;

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
pub(in crate::cli) struct TagArgs {
    /// Repository and archive; the newest of a name, if no other is said
    #[arg(value_name = "REPO::ARCHIVE")]
    pub(in crate::cli) location: OsString,
    /// Add a tag; can be given several times
    #[arg(long, value_name = "TAG", group = "change")]
    pub(in crate::cli) add: Vec<String>,
    /// Remove a tag; can be given several times
    #[arg(long, value_name = "TAG", group = "change")]
    pub(in crate::cli) remove: Vec<String>,
    /// Replace all tags by this one; can be given several times
    #[arg(long, value_name = "TAG", group = "change", conflicts_with_all = ["add", "remove"])]
    pub(in crate::cli) set: Vec<String>,
    /// Remove all tags
    #[arg(long, group = "change", conflicts_with_all = ["add", "remove", "set"])]
    pub(in crate::cli) clear: bool,
    /// Replace the comment
    #[arg(long, value_name = "TEXT", group = "change")]
    pub(in crate::cli) comment: Option<String>,
    /// Change all archives of a name, or all that fit a pattern
    #[arg(long)]
    pub(in crate::cli) all: bool,
    /// Print one JSON document
    #[arg(long)]
    pub(in crate::cli) json: bool,
    #[command(flatten)]
    pub(in crate::cli) secrets: SecretArgs,
}
