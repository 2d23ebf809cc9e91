//! One module per command.

pub(super) mod copy;
pub(super) mod create;
pub(super) mod diff;
pub(super) mod extract;
pub(super) mod info;
pub(super) mod init;
pub(super) mod list;
pub(super) mod mount;
pub(super) mod umount;
