//! The raw arguments of every command.

mod attach;
mod check;
mod compact;
mod copy;
mod cp;
mod delete;
mod diff;
mod key;
mod list;
mod ls;
mod prune;
mod rename;
mod reuse;
mod tag;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(super) use attach::{AttachArgs, AttachedArgs, DetachArgs};
pub(super) use copy::CopyArgs;
pub(super) use cp::CpArgs;
pub(super) use delete::DeleteArgs;
pub(super) use list::ListCommandArgs;
pub(super) use ls::LsArgs;
pub(super) use prune::PruneArgs;
pub(super) use rename::RenameArgs;
pub(super) use reuse::{ReadErrorsArg, ReuseArgs};
pub(super) use tag::TagArgs;

use super::commands::mount::MOST_PATIENCE;
use super::output::parse_size;
use super::secret::SecretArgs;
pub(super) use check::CheckArgs;
pub(super) use compact::CompactArgs;
pub(super) use diff::DiffArgs;
pub(super) use key::{
    KeyAddArgs, KeyArgs, KeyChangeArgs, KeyCommand, KeyExportArgs, KeyImportArgs, KeyListArgs, KeyRemoveArgs,
};

/// Back up whole disks, and walk into the backups
#[derive(Debug, Parser)]
#[command(
    name = "copal",
    version,
    max_term_width = 110,
    after_help = "\
A repository is named by its directory REPO, or by COPAL_REPO in the environment. An archive is named as
  REPO::web01             the newest of web01        REPO::web01@2026-11-20  the newest at or before (UTC)
  REPO::web01~1           the one before             REPO::#a1b2c3           by its id
The passphrase comes from a prompt, COPAL_PASSPHRASE, COPAL_PASSCOMMAND (run without a shell), COPAL_PASSPHRASE_FD,
--passphrase-file or --key-file.

Exit codes: 0 done, 1 done with warnings, 2 failed, 128+N stopped by signal N."
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a new repository
    #[command(after_help = "Example: copal init /srv/backups")]
    Init(InitArgs),
    /// Back up disks or images as a new archive
    #[command(after_help = "\
Examples:
  copal create /srv/backups::web01 /dev/vg0/web01-snap
  copal create /srv/backups::web01 /dev/vg0/web01-snap --skip-unused
  copal create /srv/backups::db01 vda=/dev/vg0/db-root vdb=/dev/vg0/db-data domain.xml=/etc/libvirt/qemu/db01.xml
  ssh host dd if=/dev/sda bs=1M | copal create /srv/backups::host -
  copal create /srv/backups::host --command -- ssh host dd if=/dev/sda bs=1M
  copal create /srv/backups::old --read-errors=zero /dev/sdb
  copal create /srv/backups::web01 --changed-map delta.xml --base web01 --source-token 13 /dev/vg0/web01-snap
A file whose size, times, inode and device are those of the last archive of this name is not read again. A map of changed
blocks (docs/recipes.md) is believed only after a part of what it leaves out was compared with the base.")]
    Create(CreateArgs),
    /// Copy archives to another repository, sealed under its keys
    #[command(after_help = "\
Examples:
  copal copy /srv/backups /mnt/offsite
  copal copy '/srv/backups::web*' /mnt/offsite
  copal copy /srv/backups::web01~1 /mnt/offsite --to-passphrase-file /etc/offsite.pass
The passphrase of DST comes from a prompt, COPAL_TO_PASSPHRASE, COPAL_TO_PASSCOMMAND, COPAL_TO_PASSPHRASE_FD,
--to-passphrase-file or --to-key-file. Archives that DST has already are not copied again.")]
    Copy(CopyArgs),
    /// List archives
    #[command(after_help = "Examples: copal list /srv/backups; copal list '/srv/backups::web*'")]
    List(ListCommandArgs),
    /// List files in an archive, without a mount
    #[command(after_help = ls::AFTER_HELP)]
    Ls(LsArgs),
    /// Copy files out of an archive, without a mount
    #[command(after_help = cp::AFTER_HELP, override_usage = cp::USAGE)]
    Cp(CpArgs),
    /// Show a repository's or an archive's facts
    #[command(after_help = "Example: copal info /srv/backups::web01")]
    Info(ListArgs),
    /// Show what differs between two archives
    #[command(after_help = diff::AFTER_HELP)]
    Diff(DiffArgs),
    /// Look for damage, and say which archives suffer from it
    #[command(after_help = check::AFTER_HELP)]
    Check(CheckArgs),
    /// Restore an image to a file, a block device or standard output
    #[command(after_help = "\
Examples:
  copal extract /srv/backups::web01 web01.img
  copal extract /srv/backups::web01~1 /dev/vg0/restored --force
  copal extract /srv/backups::web01 --stdout | ssh host dd of=/dev/sda bs=1M")]
    Extract(ExtractArgs),
    /// Give back the space of deleted archives
    #[command(after_help = "\
Examples: copal compact /srv/backups; copal compact /srv/backups --dry-run
Mounts, restores and backups may go on meanwhile. What a running backup may have relied on is freed by the next compact.
Packs that an interrupted backup left are freed too, so run the backup again first if it is to go on where it ended.")]
    Compact(CompactArgs),
    /// Serve archives as read-only sparse image files
    #[command(after_help = "\
Examples:
  copal mount /srv/backups /mnt/backups
  losetup -Pf --show --direct-io=on /mnt/backups/web01/latest.img
Options for -o: allow_other, allow_root, uid=N, gid=N, mode=OCTAL, cache_size=SIZE, passphrase_file=FILE,
key_file=FILE, and those of mount(8). From fstab, with a link mount.fuse.copal to this program in /sbin:
  /srv/backups /mnt/backups fuse.copal key_file=/etc/copal.key,noauto 0 0")]
    Mount(MountArgs),
    /// End a mount
    #[command(after_help = "Example: copal umount /mnt/backups")]
    Umount(UmountArgs),
    /// Mount the filesystems of an archive, read-only, to copy files out of it (root)
    #[command(after_help = attach::AFTER_HELP)]
    Attach(AttachArgs),
    /// List what is attached
    #[command(after_help = "Example: copal attached")]
    Attached(AttachedArgs),
    /// Take down what 'copal attach' has set up
    #[command(
        override_usage = "copal detach DIR\n       copal detach --all",
        after_help = "\
Examples: copal detach /mnt/restore; copal detach --all
Whatever is in use is named with its users, and stays until they are done: run it again then. It works as well when the
server was killed, after a reboot, and after an attach that was interrupted."
    )]
    Detach(DetachArgs),
    /// Delete archives; their space is free after a compaction
    #[command(after_help = "\
Examples:
  copal delete /srv/backups::web01~3
  copal delete '/srv/backups::#a1b2c3' '#d4e5f6'
  copal delete /srv/backups::web01 --all --dry-run")]
    Delete(DeleteArgs),
    /// Bring deleted archives back, as long as their space was not reclaimed
    #[command(after_help = "\
Examples:
  copal list /srv/backups --deleted
  copal undelete '/srv/backups::#a1b2c3'")]
    Undelete(DeleteArgs),
    /// Delete archives that no rule keeps
    #[command(after_help = "\
Each name is judged by itself. The newest archive of a name is always kept, and so are unconfirmed ones. Of an hour, day,
week, month or year the newest archive is kept; periods without archives do not count.
Example: copal prune /srv/backups --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --list --dry-run")]
    Prune(PruneArgs),
    /// Rename archives
    #[command(after_help = "\
Examples:
  copal rename /srv/backups::web01 www01 --all
  copal rename '/srv/backups::#a1b2c3' before-upgrade")]
    Rename(RenameArgs),
    /// Change the tags and the comment of archives
    #[command(after_help = "\
Examples:
  copal tag /srv/backups::web01 --add keep
  copal tag /srv/backups::web01~1 --remove keep --comment 'after the upgrade'")]
    Tag(TagArgs),
    /// Manage the passphrases and key files that open a repository
    #[command(after_help = "Example: copal key change-passphrase /srv/backups")]
    Key(KeyArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Encryption {
    /// Keys under a passphrase
    Passphrase,
    /// Keys under a key file, made if it is not there
    Keyfile,
    /// No secrecy at all
    None,
}

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// Directory for the repository, new or empty
    #[arg(value_name = "REPO")]
    pub(super) location: Option<OsString>,
    /// What protects the keys
    #[arg(long, value_enum, default_value = "passphrase")]
    pub(super) encryption: Encryption,
    /// How images are cut: fastcdc,AVERAGE or fixed,LENGTH
    #[arg(long, value_parser = parse_chunker, default_value = "fastcdc,32K")]
    pub(super) chunker: crate::format::config::ChunkerParams,
    /// Parts of an image that are cut by themselves, each with a map of its own: 4M, 8M, 16M, 32M or 64M
    #[arg(long, value_name = "SIZE", value_parser = parse_span_shift, default_value = "16M")]
    pub(super) span_size: u8,
    /// Bytes set aside so that space can be reclaimed when the disk is full; 0 for none
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "8M")]
    pub(super) reserve: u64,
    /// Store small objects once only, where the storage is redundant itself
    #[arg(long)]
    pub(super) no_mirror: bool,
    /// Print one JSON document
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) secrets: SecretArgs,
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// Repository and the archive's name
    #[arg(value_name = "REPO::NAME")]
    pub(super) location: OsString,
    /// What to back up: a file, a block device, '-' for standard input; MEMBER= names it in the archive
    #[arg(value_name = "[MEMBER=]SOURCE", required_unless_present = "command", conflicts_with = "command")]
    pub(super) sources: Vec<OsString>,
    /// The program and its arguments for --command
    #[arg(value_name = "PROGRAM", last = true)]
    pub(super) program: Vec<OsString>,
    /// Back up the standard output of a program, named behind '--'; no archive is made if it fails
    #[arg(long)]
    pub(super) command: bool,
    /// How new chunks are compressed: zstd,LEVEL (1 to 19) or none
    #[arg(long, value_parser = parse_compression, default_value = "zstd,3")]
    pub(super) compression: crate::codec::compress::Compression,
    /// Cut otherwise than the repository's setting: fastcdc,AVERAGE or fixed,LENGTH
    #[arg(long, value_parser = parse_chunker)]
    pub(super) chunker: Option<crate::format::config::ChunkerParams>,
    /// Words to keep with the archive
    #[arg(long, default_value = "")]
    pub(super) comment: String,
    /// Tag the archive; can be given several times
    #[arg(long = "tag", value_name = "TAG")]
    pub(super) tags: Vec<String>,
    /// The moment the archive stands for, in UTC; now, if not given
    #[arg(long, value_name = "TIME")]
    pub(super) timestamp: Option<String>,
    /// Leave out blocks that filesystems do not use, where that can be trusted; all else is taken whole, and the report says why. Needs root
    #[arg(long, conflicts_with_all = ["command", "changed_map"])]
    pub(super) skip_unused: bool,
    /// Only count what would be stored
    #[arg(long, short = 'n')]
    pub(super) dry_run: bool,
    /// Print what was done
    #[arg(long)]
    pub(super) stats: bool,
    /// Print one JSON document
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) reuse: ReuseArgs,
    #[command(flatten)]
    pub(super) secrets: SecretArgs,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Repository, and archives in it
    #[arg(value_name = "REPO[::ARCHIVE]")]
    pub(super) location: Option<OsString>,
    /// Print one JSON document
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) secrets: SecretArgs,
}

#[derive(Debug, Args)]
pub(super) struct ExtractArgs {
    /// Repository and archive
    #[arg(value_name = "REPO::ARCHIVE")]
    pub(super) location: OsString,
    /// A new file, a block device, or a directory for an archive of several members
    #[arg(required_unless_present = "stdout", conflicts_with = "stdout")]
    pub(super) target: Option<PathBuf>,
    /// Write the image to standard output, holes as zeros
    #[arg(long)]
    pub(super) stdout: bool,
    /// Restore this member only
    #[arg(long, value_name = "NAME")]
    pub(super) member: Option<String>,
    /// Restore just this partition, by its number in 'copal info': 2 for sda2
    #[arg(long, value_name = "NUMBER")]
    pub(super) partition: Option<u32>,
    /// Print one JSON document
    #[arg(long, conflicts_with = "stdout")]
    pub(super) json: bool,
    /// Replace an existing file; overwrite a device that holds something
    #[arg(long)]
    pub(super) force: bool,
    #[command(flatten)]
    pub(super) secrets: SecretArgs,
}

/// Where writable layers lie: it outlives a restart and is on a disk, as a rule.
pub(super) const DEFAULT_OVERLAY_DIR: &str = "/var/tmp";
/// Enough for a journal and repairs.
pub(super) const DEFAULT_OVERLAY_SIZE: &str = "10G";

#[derive(Debug, Args)]
pub(super) struct MountArgs {
    /// Repository, and which archives of it: all, those of a NAME, or one with NAME@WHEN
    #[arg(value_name = "REPO[::NAME[@WHEN]]", required_unless_present = "stats")]
    pub(super) location: Option<OsString>,
    /// Directory to mount on
    #[arg(value_name = "DIR", required_unless_present = "stats")]
    pub(super) directory: Option<PathBuf>,
    /// Mount nothing; show what the mount on DIR has done so far: requests, storage, caches
    #[arg(long, value_name = "DIR", exclusive = true)]
    pub(super) stats: Option<PathBuf>,
    /// Serve from this process, with messages on standard error
    #[arg(long, short = 'f')]
    pub(super) foreground: bool,
    /// Let everybody look, as far as permission bits go
    #[arg(long, conflicts_with = "allow_root")]
    pub(super) allow_other: bool,
    /// Let root look, so that root's loop devices reach the images
    #[arg(long)]
    pub(super) allow_root: bool,
    /// Owner of everything; yourself, if not given
    #[arg(long)]
    pub(super) uid: Option<u32>,
    /// Group of everything; your own, if not given
    #[arg(long)]
    pub(super) gid: Option<u32>,
    /// Permission bits of images, in octal
    #[arg(long, value_parser = parse_mode, default_value = "0400")]
    pub(super) mode: u16,
    /// Memory for all caches together
    #[arg(long, value_parser = parse_size, default_value = "256M")]
    pub(super) cache_size: u64,
    /// Seconds that a read of the repository's storage may take before it fails; less if the kernel would give a request up before
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=MOST_PATIENCE), default_value = "60")]
    pub(super) storage_timeout: u64,
    /// Make the images of one archive writable; what is written goes to a file of its own and is gone when the mount is
    #[arg(long)]
    pub(super) overlay: bool,
    /// Directory on a disk for what is written
    #[arg(long, value_name = "DIR", requires = "overlay", default_value = DEFAULT_OVERLAY_DIR)]
    pub(super) overlay_dir: PathBuf,
    /// The most that may be written
    #[arg(long, value_name = "SIZE", requires = "overlay", value_parser = parse_size, default_value = DEFAULT_OVERLAY_SIZE)]
    pub(super) overlay_size: u64,
    /// Keep what is written in this file, and go on with what it holds if it is there
    #[arg(long, value_name = "FILE", requires = "overlay")]
    pub(super) keep_overlay: Option<PathBuf>,
    /// Options as mount(8) takes them
    #[arg(short = 'o', value_name = "OPTIONS", value_delimiter = ',')]
    pub(super) options: Vec<String>,
    #[command(flatten)]
    pub(super) secrets: SecretArgs,
    /// Set for the process that serves in the background
    #[arg(long, hide = true)]
    pub(super) serve: bool,
}

#[derive(Debug, Args)]
pub(super) struct UmountArgs {
    /// Where the repository is mounted
    #[arg(value_name = "DIR")]
    pub(super) directory: PathBuf,
    /// Take the mount away now, and end it when its last user is done
    #[arg(long, short = 'l')]
    pub(super) lazy: bool,
}

/// `mount(8)` calls `mount.fuse.copal SPEC DIR [-sfnv] [-o OPTIONS]`: the same as `copal mount`.
pub(super) fn from_mount_helper(args: Vec<OsString>) -> Vec<OsString> {
    let helper = args.first().and_then(|program| Path::new(program).file_name());
    if !helper.is_some_and(|name| name.as_encoded_bytes().starts_with(b"mount.")) {
        return args;
    }
    let mut words = vec![OsString::from("copal"), OsString::from("mount")];
    let mut rest = args.into_iter().skip(1);
    while let Some(word) = rest.next() {
        match word.as_encoded_bytes() {
            b"-o" => words.extend([word].into_iter().chain(rest.next())),
            // Sloppy, fake, no-mtab, verbose, type: nothing for us to do.
            b"-s" | b"-f" | b"-n" | b"-v" => {}
            b"-t" => drop(rest.next()),
            _ => words.push(word),
        }
    }
    words
}

fn parse_mode(text: &str) -> Result<u16, String> {
    let mode = u16::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| format!("{text:?} is no mode; write octal digits such as 0440"))
}

/// The mode of an `-o mode=` option.
pub(super) fn mode_option(text: &str) -> Result<u16, String> {
    parse_mode(text)
}

fn parse_chunker(text: &str) -> Result<crate::format::config::ChunkerParams, String> {
    use crate::format::config::ChunkerParams;
    let bad = || format!("{text:?} is no chunker; write fastcdc,32K or fixed,32K");
    let (kind, len) = text.split_once(',').ok_or_else(bad)?;
    let len = u32::try_from(parse_size(len)?).map_err(|_| bad())?;
    let params = match kind {
        "fastcdc" => ChunkerParams::fastcdc(len.min(1 << 28)),
        "fixed" => ChunkerParams::fixed(len),
        _ => return Err(bad()),
    };
    params.check().map_err(|error| error.to_string())?;
    Ok(params)
}

/// The length of a span, as a power of two.
fn parse_span_shift(text: &str) -> Result<u8, String> {
    use crate::format::limits::{MAX_SPAN_SHIFT, MIN_SPAN_SHIFT};
    let size = parse_size(text)?;
    (MIN_SPAN_SHIFT..=MAX_SPAN_SHIFT)
        .find(|shift| size == 1 << shift)
        .ok_or_else(|| format!("{text:?} is no size of spans; write 4M, 8M, 16M, 32M or 64M"))
}

fn parse_compression(text: &str) -> Result<crate::codec::compress::Compression, String> {
    use crate::codec::compress::Compression;
    let level = match text.split_once(',') {
        None if text == "none" => return Ok(Compression::None),
        None if text == "zstd" => Some(3),
        Some(("zstd", level)) => level.parse().ok().filter(|level| (1..=19).contains(level)),
        _ => None,
    };
    level
        .map(Compression::Zstd)
        .ok_or_else(|| format!("{text:?} is no compression; write zstd,1 to zstd,19 or none"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_mount_helper_speaks_mount_8() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let helper =
            from_mount_helper(words("/sbin/mount.fuse.copal /srv/r /mnt -n -o rw,allow_other -t fuse.copal"));
        assert_eq!(helper, words("copal mount /srv/r /mnt -o rw,allow_other"));
        assert_eq!(from_mount_helper(words("copal list x")), words("copal list x"));
    }

    #[test]
    fn chunkers_and_compression() {
        assert!(parse_chunker("fastcdc,64K").is_ok() && parse_chunker("fixed,4M").is_ok());
        for bad in
            ["fastcdc", "fastcdc,60K", "fastcdc,2M", "fixed,5000", "rabin,64K", "fixed,99G", "fastcdc,9T"]
        {
            assert!(parse_chunker(bad).is_err(), "{bad}");
        }
        assert!(parse_compression("zstd,19").is_ok() && parse_compression("zstd,20").is_err());
        assert!(parse_compression("lz4").is_err());
        assert_eq!((parse_span_shift("4M"), parse_span_shift("67108864")), (Ok(22), Ok(26)));
        assert!(["2M", "128M", "5M", "x"].iter().all(|bad| parse_span_shift(bad).is_err()));
    }
}
