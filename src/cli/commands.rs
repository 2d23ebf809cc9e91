//! One module per command.

pub(super) mod attach;
pub(super) mod attached;
pub(super) mod check;
pub(super) mod compact;
pub(super) mod copy;
pub(super) mod cp;
pub(super) mod create;
pub(super) mod delete;
pub(super) mod detach;
pub(super) mod diff;
pub(super) mod extract;
pub(super) mod info;
pub(super) mod init;
pub(super) mod key;
pub(super) mod list;
pub(super) mod ls;
pub(super) mod mount;
pub(super) mod prune;
pub(super) mod rename;
pub(super) mod tag;
pub(super) mod umount;
pub(super) mod undelete;
