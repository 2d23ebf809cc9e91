//! Arguments of `copal ls`.

use std::ffi::OsString;

use clap::Args;

use crate::cli::secret::SecretArgs;

#[derive(Debug, Args)]
pub(in crate::cli) struct LsArgs {
    /// Repository, archive, part (its number or name), and a path in that; without a part and a path, the parts of the disk
    #[arg(value_name = "REPO::ARCHIVE[:PART][:/PATH]")]
    pub(in crate::cli) location: OsString,
    /// Paths in the part, with or without a slash in front; the root if none is given
    #[arg(value_name = "PATH")]
    pub(in crate::cli) paths: Vec<OsString>,
    /// Look into this member, where the archive has several
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) member: Option<String>,
    /// Show kind and mode, names, owner, size, time and where links lead
    #[arg(long, short = 'l')]
    pub(in crate::cli) long: bool,
    /// List directories and all below them
    #[arg(long, short = 'R')]
    pub(in crate::cli) recursive: bool,
    /// List directories themselves, not what is in them
    #[arg(long, short = 'd')]
    pub(in crate::cli) directory: bool,
    /// Show the filesystem's own files, too: $MFT and others of NTFS
    #[arg(long, short = 'a')]
    pub(in crate::cli) all: bool,
    /// Print one JSON document
    #[arg(long)]
    pub(in crate::cli) json: bool,
    #[command(flatten)]
    pub(in crate::cli) secrets: SecretArgs,
}

/// Examples, and what can be read.
pub(super) const AFTER_HELP: &str = "\
Examples:
  copal ls /srv/backups::web01                       the parts of the disk
  copal ls /srv/backups::web01:2-root /etc           names in a directory, by the part's name,
  copal ls -l '/srv/backups::web01~1:2:/etc/*.conf'  number, or the word in its name
  copal ls -lR /srv/backups::web01:root:/home

Nothing is mounted, and root is not needed. ext2, ext3, ext4, NTFS and FAT can be read; a journal that was not replayed is \
replayed in memory. PATH may hold *, ? and [a-z] in names, leading dots included, and ** for any number of directories.

A reference to an archive is taken to be as long as it fits one, so a time may have its colons: web01@2026-11-20T03:00:2 is \
part 2 of three o'clock. On a terminal, bytes of names that are not text are shown as \\xNN; through a pipe they pass as they are.";
