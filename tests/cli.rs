//! The program as its users meet it: every command, what it prints, how it ends, and what it leaves behind.
//!
//! What needs a mount is in `fuse-tests`. What needs root skips itself loudly elsewhere, and fails where `COPAL_TESTS_MUST_RUN` is set.

mod cli {
    mod attach;
    mod changed;
    mod check;
    mod compact;
    mod copy;
    mod cp;
    mod create;
    mod damage;
    mod delete;
    mod devices;
    mod diff;
    mod durable;
    mod extract;
    mod full;
    mod full_matrix;
    mod info;
    mod init;
    mod key;
    mod list;
    mod ls;
    mod memory;
    mod mount;
    mod names;
    mod prune;
    mod rename;
    mod secrets;
    mod signals;
    mod sources;
    mod space;
    mod support;
    mod terminal;
    mod unwritable;
}
