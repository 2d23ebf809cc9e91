//! What `copal create` need not read.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::source::MapFormat;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum MapFormatArg {
    /// Ranges in bytes: [{"offset": 0, "length": 4096}], or such a list as "ranges" beside "base" and "target"
    Json,
    /// What thin_delta prints
    ThinDelta,
    /// What rbd diff --format json prints
    Rbd,
}

impl From<MapFormatArg> for MapFormat {
    fn from(format: MapFormatArg) -> Self {
        match format {
            MapFormatArg::Json | MapFormatArg::Rbd => Self::Json,
            MapFormatArg::ThinDelta => Self::ThinDelta,
        }
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "What is read")]
pub(in crate::cli) struct ReuseArgs {
    /// What to do where the source cannot be read: stop, or store zeros there, say so and exit with code 1
    #[arg(long, value_enum, value_name = "WHAT", default_value = "stop")]
    pub(in crate::cli) read_errors: ReadErrorsArg,
    /// Read files in full that did not change since their last archive
    #[arg(long)]
    pub(in crate::cli) force_read: bool,
    /// Words that tell the state of the source, kept with the archive: a thin device's id, a snapshot's name
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(in crate::cli) source_token: String,
    /// Read only what this file says has changed since the archive given with --base; '-' for standard input
    #[arg(long, value_name = "FILE", requires = "base", conflicts_with_all = ["command", "force_read"])]
    pub(in crate::cli) changed_map: Option<PathBuf>,
    /// How the map is written; found out, if not given
    #[arg(long, value_enum, value_name = "FORMAT", requires = "changed_map")]
    pub(in crate::cli) changed_map_format: Option<MapFormatArg>,
    /// The archive since which the map tells what changed
    #[arg(long, value_name = "ARCHIVE", requires = "changed_map")]
    pub(in crate::cli) base: Option<OsString>,
    /// The state that the map counts from, where it does not say so itself: what --source-token was for that archive
    #[arg(long, value_name = "TEXT", requires = "changed_map")]
    pub(in crate::cli) base_token: Option<String>,
    /// Do not compare a sample of what is not read
    #[arg(long, requires = "changed_map")]
    pub(in crate::cli) trust: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum ReadErrorsArg {
    /// Make no archive
    Stop,
    /// Store zeros for what cannot be read
    Zero,
}
