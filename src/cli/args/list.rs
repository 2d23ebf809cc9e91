//! Arguments of `copal list`.

use clap::Args;

use super::ListArgs;

#[derive(Debug, Args)]
pub(in crate::cli) struct ListCommandArgs {
    #[command(flatten)]
    pub(in crate::cli) list: ListArgs,
    /// Show deleted archives that 'copal undelete' may bring back
    #[arg(long)]
    pub(in crate::cli) deleted: bool,
}
