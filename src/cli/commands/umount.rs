//! `copal umount`.

use crate::cli::args::UmountArgs;
use crate::fuse::mountpoint::unmount;

pub(in crate::cli) fn run(args: &UmountArgs) -> anyhow::Result<()> {
    Ok(unmount(&args.directory, args.lazy)?)
}
