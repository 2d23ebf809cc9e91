//! Arguments of `copal cp`.

use std::ffi::OsString;

use clap::Args;

use crate::cli::secret::SecretArgs;

#[derive(Debug, Args)]
pub(in crate::cli) struct CpArgs {
    /// What to copy, as REPO::ARCHIVE[:PART]:/PATH, then more paths of the same part, if any; the last is DEST, where to: a directory, a new name, or '-' for standard output
    // One list: clap would take the path in front of an option for DEST if that were an argument of its own.
    #[arg(value_name = "FROM", num_args = 1.., required = true)]
    pub(in crate::cli) words: Vec<OsString>,
    /// Copy directories with all below them
    #[arg(long, short = 'r', visible_short_alias = 'R')]
    pub(in crate::cli) recursive: bool,
    /// Replace files that exist
    #[arg(long)]
    pub(in crate::cli) force: bool,
    /// Only count what would be copied
    #[arg(long, short = 'n')]
    pub(in crate::cli) dry_run: bool,
    /// As root, leave files to root: no owners, set-id bits, security and trusted attributes
    #[arg(long)]
    pub(in crate::cli) no_owner: bool,
    /// Make devices, pipes and sockets, too. Devices need root
    #[arg(long)]
    pub(in crate::cli) devices: bool,
    /// Copy the filesystem's own files, too: $MFT and others of NTFS
    #[arg(long, short = 'a')]
    pub(in crate::cli) all: bool,
    /// Copy from this member, where the archive has several
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) member: Option<String>,
    /// Print what was done
    #[arg(long)]
    pub(in crate::cli) stats: bool,
    /// Print one JSON document
    #[arg(long)]
    pub(in crate::cli) json: bool,
    #[command(flatten)]
    pub(in crate::cli) secrets: SecretArgs,
}

/// What stands behind `copal cp`.
pub(super) const USAGE: &str = "copal cp [OPTIONS] <REPO::ARCHIVE[:PART]:/PATH> [PATH]... <DEST>";

/// Examples, and what comes back how.
pub(super) const AFTER_HELP: &str = "\
Examples:
  copal cp /srv/backups::web01:2:/etc/fstab .
  copal cp -r /srv/backups::web01~1:root:/home/anna /home/anna.restored
  copal cp '/srv/backups::web01:2:/etc/*.conf' /etc/hosts restored/
  copal cp /srv/backups::web01:2:/var/lib/db.sql - | less

Nothing is mounted and root is not needed; images that may be malicious are safe to copy from. PART and PATH are as for \
'copal ls', which lists the parts. Modes, times, holes, links, hard links, access lists and user attributes come back for \
everybody; owners, set-id bits and other attributes for root. Where the destination has no access lists, modes grant nobody \
more than the lists did. Links are copied as links.

What exists is left alone without --force. A name that the destination cannot hold is changed, and told: a byte becomes % \
and two hex digits, the end of a name that is too long %~ and 16 digits of a hash; --json has both names. Files that cannot \
be read are told, the others are copied, and the exit code is 1; so it is where the destination does not take an owner, a \
mode, a time, an access list or an attribute. --json names all of them.";
