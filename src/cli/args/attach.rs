//! Arguments of `copal attach`, `copal detach` and `copal attached`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::parse_size;
use crate::cli::secret::SecretArgs;

pub(super) const AFTER_HELP: &str = "\
Examples:
  copal attach /srv/backups::web01                       below /run/copal, as the table says
  copal attach /srv/backups::web01@2026-11-20 /mnt/restore
  copal attach /srv/backups::db01 /mnt/restore --member vdb
  copal attach /srv/backups::web01 --no-mount            only block devices
  copal detach /mnt/restore
Everything is mounted read-only, nodev, nosuid and noexec. A filesystem that was in use when it was backed up has a journal
to replay: that happens in an overlay that is thrown away; the archive never changes.
The kernel's drivers read what the image holds, and a filesystem may be made to break them: an image that may be malicious is
for 'copal ls', 'copal cp' and the partition files of 'copal mount', not for this. Those need no root either.";

#[derive(Debug, Args)]
pub(in crate::cli) struct AttachArgs {
    /// Repository and archive
    #[arg(value_name = "REPO::ARCHIVE")]
    pub(in crate::cli) location: OsString,
    /// An empty directory, or one to be made, for the mounts; /run/copal/NAME-TIME, if not given
    #[arg(value_name = "DIR", conflicts_with = "no_mount")]
    pub(in crate::cli) directory: Option<PathBuf>,
    /// Attach this member only
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) member: Option<String>,
    /// Stop at block devices, one for each partition
    #[arg(long)]
    pub(in crate::cli) no_mount: bool,
    /// Let the kernel find the partitions of one device for each disk, instead of making one for each partition
    #[arg(long)]
    pub(in crate::cli) scan: bool,
    /// Mount what needs a replay of its journal without one: what is shown may be inconsistent
    #[arg(long, conflicts_with_all = ["overlay", "keep_overlay"])]
    pub(in crate::cli) no_replay: bool,
    /// Activate volume groups of LVM under new names, in an overlay, and mount their volumes
    #[arg(long)]
    pub(in crate::cli) lvm: bool,
    /// Make everything writable; what is written goes to a file that is thrown away by 'copal detach'
    #[arg(long)]
    pub(in crate::cli) overlay: bool,
    /// Where that file lies: a disk, not memory; /var/tmp, if not given
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) overlay_dir: Option<PathBuf>,
    /// How large that file may become
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(in crate::cli) overlay_size: Option<u64>,
    /// Make everything writable, and keep what is written as FILE
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) keep_overlay: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    pub(in crate::cli) json: bool,
    #[command(flatten)]
    pub(in crate::cli) secrets: SecretArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DetachArgs {
    /// Directory, device or id of an attach, as 'copal attached' lists them
    #[arg(value_name = "DIR", required_unless_present = "all", conflicts_with = "all")]
    pub(in crate::cli) what: Option<PathBuf>,
    /// Everything that is attached
    #[arg(long)]
    pub(in crate::cli) all: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct AttachedArgs {
    /// Print one JSON document
    #[arg(long)]
    pub(in crate::cli) json: bool,
}
