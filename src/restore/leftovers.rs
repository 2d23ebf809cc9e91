//! Temporary names, and what killed runs left under them.
//!
//! Whoever fills a directory holds a shared lock on it. Nobody else does if an exclusive one is to be had: then whatever has a temporary name there was left. Where there
//! are no locks, or one was not to be had, nothing is removed, nor is what a living process of this machine may have made.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Dir, FlockOperation, flock, unlinkat};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

const PREFIX: &str = ".copal-";
/// Digits of the random number.
const RANDOM: usize = 16;

/// A name that nobody else uses.
pub(super) fn temporary() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let mut random = [0; 8];
    // Without random numbers, a name that is taken is an error and no more.
    let _ = getrandom::fill(&mut random);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}{:x}-{:0RANDOM$x}-{number:x}", std::process::id(), u64::from_le_bytes(random))
}

/// The process that made such a name.
fn maker(name: &[u8]) -> Option<i32> {
    let name = std::str::from_utf8(name).ok()?.strip_prefix(PREFIX)?;
    let is_number = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let mut parts = name.split('-');
    let (process, random, number) = (parts.next()?, parts.next()?, parts.next()?);
    let is_ours = [process, random, number].into_iter().all(is_number) && random.len() == RANDOM;
    i32::from_str_radix(process, 16).ok().filter(|_| is_ours && parts.next().is_none())
}

fn is_alive(process: i32) -> bool {
    Pid::from_raw(process).is_none_or(|process| test_kill_process(process) != Err(Errno::SRCH))
}

/// Locks a directory for as long as it is open. In one that was there before, removes what killed runs left; says how many names that were.
pub(super) fn claim(directory: BorrowedFd<'_>, is_new: bool) -> u64 {
    let is_alone = !is_new && flock(directory, FlockOperation::NonBlockingLockExclusive).is_ok();
    let swept = if is_alone { sweep(directory) } else { 0 };
    // Whoever has it for a moment, to sweep, sees that this process is alive.
    let _ = flock(directory, FlockOperation::NonBlockingLockShared);
    swept
}

fn sweep(directory: BorrowedFd<'_>) -> u64 {
    let Ok(entries) = Dir::read_from(directory) else { return 0 };
    let names: Vec<Vec<u8>> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_bytes().to_vec()))
        .filter(|name| maker(name).is_some_and(|process| !is_alive(process)))
        .collect();
    let remove = |name: &&Vec<u8>| unlinkat(directory, OsStr::from_bytes(name), AtFlags::empty()).is_ok();
    names.iter().filter(remove).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_names_tell_who_made_them() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(maker(temporary().as_bytes()), Some(own));
        assert!(is_alive(own) && is_alive(1));
        for other in [
            ".copal-1-0123456789abcdef",
            ".copal-1-0123456789abcde-0",
            ".copal-1-0123456789abcdeF-0",
            ".copal-+1-0123456789abcdef-0",
            ".copal-80000000-0123456789abcdef-0",
            ".copal-1-0123456789abcdef-0-x",
            ".copal-1-0123456789abcdef-",
            ".copal-AbCdEf",
            "copal-1-0123456789abcdef-0",
        ] {
            assert_eq!(maker(other.as_bytes()), None, "{other}");
        }
    }
}
