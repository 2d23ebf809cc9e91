//! What `stat` shows, and the extended attributes that tell an archive's facts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::format::name::ArchiveName;
use crate::partition::Part;
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

/// The extended attribute that tells which bytes of the source could not be read, and are zeros.
pub const BAD_RANGES: &str = "user.copal.bad_ranges";
/// The longest value of it, in bytes: the kernel takes 64 KiB, of which the last words take some.
const MAX_BAD_RANGES_TEXT: usize = 65_000;

/// Ranges of (offset, length) as `4096+512,…`; nothing if there are none. Of very many the first are told, and how many follow.
#[must_use]
pub fn bad_ranges(ranges: &[(u64, u64)]) -> Vec<u8> {
    let mut text = String::new();
    for (told, (offset, len)) in ranges.iter().enumerate() {
        if text.len() > MAX_BAD_RANGES_TEXT {
            text.push_str(&format!(",and {} more", ranges.len() - told));
            break;
        }
        text.push_str(if told == 0 { "" } else { "," });
        text.push_str(&format!("{offset}+{len}"));
    }
    text.into_bytes()
}

/// The extended attributes of an image that cost nothing: the archive's facts, as text.
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

/// What the extended attributes of a part tell besides, as text.
#[must_use]
pub fn part_facts(part: &Part) -> Vec<(String, Vec<u8>)> {
    let facts = [
        ("partition", part.number.to_string()),
        ("offset", part.start.to_string()),
        ("filesystem", part.filesystem.clone().unwrap_or_default()),
        ("label", part.label.clone()),
        ("uuid", part.uuid.clone().unwrap_or_default()),
    ];
    facts.into_iter().map(|(name, value)| (format!("user.copal.{name}"), value.into_bytes())).collect()
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
    fn bad_ranges_are_told_as_far_as_the_kernel_takes_them() {
        assert_eq!(bad_ranges(&[]), b"");
        assert_eq!(bad_ranges(&[(4096, 512), (1 << 40, 4096)]), b"4096+512,1099511627776+4096");
        let many: Vec<_> = (0..16384).map(|n| (n << 40, 4096)).collect();
        let text = String::from_utf8(bad_ranges(&many)).expect("text");
        assert!(text.len() < 1 << 16 && text.ends_with(" more"), "{} bytes", text.len());
        let (told, more) = text.rsplit_once(",and ").expect("it is cut");
        let more: usize = more.trim_end_matches(" more").parse().expect("a number");
        assert_eq!(told.split(',').count() + more, many.len());
    }

    #[test]
    fn times_of_any_sign() {
        assert_eq!(system_time(5), UNIX_EPOCH + Duration::from_nanos(5));
        assert_eq!(system_time(-5), UNIX_EPOCH - Duration::from_nanos(5));
        let _ = system_time(i64::MIN);
    }
}
