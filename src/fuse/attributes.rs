//! What `stat` shows, and the extended attributes that tell an archive's facts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::format::name::ArchiveName;
use crate::repository::archives::Archive;
use crate::repository::reference::format_time;

/// What a name in the mount is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// An image.
    File,
    /// A symbolic link.
    Link,
    /// A file that says something else each time it is opened, and whose size nobody knows before.
    Report,
}

/// What `stat` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Inode number.
    pub inode: u64,
    /// What it is.
    pub kind: Kind,
    /// Size in bytes.
    pub size: u64,
    /// Allocated units of 512 bytes.
    pub blocks: u64,
    /// All its times.
    pub time: SystemTime,
    /// Links to it.
    pub links: u32,
}

/// Owner and permissions of everything in a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ownership {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits of files; directories may also be searched by whoever may read.
    pub mode: u16,
}

impl Ownership {
    /// The permission bits of a kind of file. Nothing is ever writable or executable.
    #[must_use]
    pub fn mode_of(&self, kind: Kind) -> u16 {
        let read = self.mode & 0o444;
        match kind {
            Kind::File | Kind::Report => read,
            Kind::Directory => read | read >> 2,
            Kind::Link => 0o777,
        }
    }
}

/// A stored time as the system's; times before 1970 too.
#[must_use]
pub fn system_time(nanoseconds: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanoseconds.unsigned_abs());
    let time =
        if nanoseconds < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    time.unwrap_or(UNIX_EPOCH)
}

/// How many units of 512 bytes so many bytes take.
#[must_use]
pub fn blocks_of(data: u64) -> u64 {
    data.div_ceil(512)
}

/// The extended attributes of an image: the archive's facts, as text.
#[must_use]
pub fn extended(archive: &Archive, member: usize) -> Vec<(String, Vec<u8>)> {
    let mut all = vec![
        ("archive_id", archive.id().to_string()),
        ("archive", archive.name.to_string()),
        ("time", format_time(archive.time())),
        ("comment", archive.comment.clone()),
        ("tags", archive.tags.iter().map(ArchiveName::as_str).collect::<Vec<_>>().join(",")),
        ("unconfirmed", u8::from(archive.unconfirmed).to_string()),
    ];
    if let Some(member) = archive.entry.members.get(member) {
        all.push(("member", member.name.to_string()));
        all.push(("data_bytes", member.data.to_string()));
    }
    all.into_iter().map(|(name, value)| (format!("user.copal.{name}"), value.into_bytes())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_writable_and_directories_can_be_searched() {
        let owner = Ownership { uid: 0, gid: 0, mode: 0o777 };
        assert_eq!(owner.mode_of(Kind::File), 0o444);
        assert_eq!(owner.mode_of(Kind::Directory), 0o555);
        assert_eq!(Ownership { mode: 0o400, ..owner }.mode_of(Kind::Directory), 0o500);
    }

    #[test]
    fn times_of_any_sign() {
        assert_eq!(system_time(5), UNIX_EPOCH + Duration::from_nanos(5));
        assert_eq!(system_time(-5), UNIX_EPOCH - Duration::from_nanos(5));
        let _ = system_time(i64::MIN);
    }
}
