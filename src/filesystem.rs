//! Filesystems, read without a kernel: names, metadata and contents of what lies in a part of a disk.
//!
//! Volumes are hostile input and broken disks are the normal case. Invariants: nothing panics; no read goes beyond the volume; memory, the number of
//! reads and the depth of every recursion are bounded by fixed limits and the size of the volume, whatever it says. Names are bytes and pass
//! through as they are, also those that no kernel would show: who writes them somewhere has to mind `..` and slashes.
//!
//! The readers are our own, on top of the parsers of [`crate::allocation`], because none on crates.io was fit (docs/design.md says why). Nothing
//! here writes, and nothing is cached: what is read comes through the caches of whoever reads the disk.

mod content;
mod ext;
mod fat;
mod ntfs;
pub mod path;
mod volume;

use std::io;
use std::ops::Range;

pub use self::content::Content;
use self::volume::Volume;
use crate::allocation::Distrust;
use crate::partition::ReadAt;

/// The most entries of a directory, and bytes of their names, that are listed.
const MAX_ENTRIES: usize = 1 << 22;
const MAX_NAMES: usize = 128 << 20;

/// Why something cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not known here, or not the way it is stored.
    #[error("{what}")]
    Unsupported {
        /// What, as a sentence.
        what: String,
    },
    /// The filesystem contradicts itself.
    #[error("the filesystem is damaged: {what}")]
    Damaged {
        /// What is wrong.
        what: &'static str,
    },
    /// The disk failed; for an image, a chunk is lost.
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    /// No such name.
    #[error("there is nothing of that name; 'copal ls' shows what there is")]
    NotFound,
    /// A name was looked up in something else.
    #[error("it is not a directory")]
    NotDirectory,
    /// Symbolic links lead in circles.
    #[error("too many symbolic links")]
    Loop,
}

impl Error {
    /// The error with what caused it, in one line.
    #[must_use]
    pub fn told(&self) -> String {
        match self {
            Self::Io(cause) => format!("{self}: {cause}"),
            _ => self.to_string(),
        }
    }
}

/// What the parsers of [`crate::allocation`] call damaged is damaged here, too; they say it in words.
impl From<Distrust> for Error {
    fn from(distrust: Distrust) -> Self {
        match distrust {
            Distrust::Because(what) => Self::Unsupported { what },
            Distrust::Unreadable(error) => Self::Io(error),
        }
    }
}

/// A result of reading a filesystem.
pub type Result<T> = std::result::Result<T, Error>;

fn damaged(what: &'static str) -> Error {
    Error::Damaged { what }
}

fn unsupported(what: impl Into<String>) -> Error {
    Error::Unsupported { what: what.into() }
}

/// A file, directory or anything else that has a name. Two names of one file have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node(pub u64);

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device with its major and minor number.
    Character(u32, u32),
    /// A block device with its major and minor number.
    Block(u32, u32),
}

impl Kind {
    /// Its name for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Link => "link",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::Character(..) => "character",
            Self::Block(..) => "block",
        }
    }

    /// The letter that `ls -l` begins with.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Self::File => '-',
            Self::Directory => 'd',
            Self::Link => 'l',
            Self::Fifo => 'p',
            Self::Socket => 's',
            Self::Character(..) => 'c',
            Self::Block(..) => 'b',
        }
    }
}

/// A moment: seconds since 1970, and nanoseconds of the second that began then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Time {
    /// Seconds, negative before 1970.
    pub seconds: i64,
    /// Less than a thousand million.
    pub nanoseconds: u32,
}

/// What is known of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// What it is.
    pub kind: Kind,
    /// Bytes of its content.
    pub size: u64,
    /// Permission bits, with those for other users' identities and the sticky one; `None` where the filesystem has none.
    pub mode: Option<u16>,
    /// User and group; `None` where the filesystem has none.
    pub owner: Option<(u32, u32)>,
    /// When its content was changed last.
    pub modified: Time,
    /// When it was read last.
    pub accessed: Time,
    /// How many names it has.
    pub links: u32,
    /// Names and lengths of further contents, as NTFS has them.
    pub streams: Vec<(Vec<u8>, u64)>,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its bytes, whatever they are.
    pub name: Vec<u8>,
    /// What it leads to.
    pub node: Node,
    /// Whether that is a directory, if the entry says so.
    pub is_directory: Option<bool>,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Its name, as the kernel's interface has it: `user.comment`.
    pub name: Vec<u8>,
    /// Its value, as the kernel's interface has it.
    pub value: Vec<u8>,
}

/// A filesystem that is read. Everything may be called by several threads at once.
pub trait Filesystem: Sync {
    /// What it is, by the name at `blkid`.
    fn kind(&self) -> &'static str;

    /// What to tell before anything else: that a journal was replayed, or could not be.
    fn notes(&self) -> &[String];

    /// What may be wrong with all that is shown.
    fn warnings(&self) -> &[String] {
        &[]
    }

    /// Whether names are the same in upper and lower case.
    fn ignores_case(&self) -> bool {
        false
    }

    /// The directory that all begins with.
    fn root(&self) -> Node;

    /// What is known of a node.
    ///
    /// # Errors
    /// [`Error`].
    fn metadata(&self, node: Node) -> Result<Metadata>;

    /// Names in a directory, without `.` and `..`, in no particular order.
    ///
    /// # Errors
    /// [`Error`]; [`Error::NotDirectory`] if it is none.
    fn list(&self, node: Node) -> Result<Vec<Entry>>;

    /// Whether the filesystem's own files are among the names of its root: those that nobody made.
    fn is_own(&self, _node: Node) -> bool {
        false
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// [`Error`].
    fn target(&self, node: Node) -> Result<Vec<u8>>;

    /// Extended attributes.
    ///
    /// # Errors
    /// [`Error`].
    fn attributes(&self, _node: Node) -> Result<Vec<Attribute>> {
        Ok(Vec::new())
    }

    /// Where the content of a file lies.
    ///
    /// # Errors
    /// [`Error`].
    fn open(&self, node: Node) -> Result<Content>;

    /// Fills `buf` with a content's bytes from `offset`, all of which it has.
    ///
    /// # Errors
    /// [`Error`].
    fn read(&self, content: &Content, offset: u64, buf: &mut [u8]) -> Result<()>;
}

/// Whether [`open`] knows filesystems of this name at `blkid`.
#[must_use]
pub fn is_known(kind: &str) -> bool {
    matches!(kind, "ext2" | "ext3" | "ext4" | "ntfs" | "vfat")
}

/// Opens the filesystem of this name at `blkid` in a range of a disk.
///
/// # Errors
/// [`Error`].
pub fn open<'a>(
    disk: &'a (dyn ReadAt + Sync),
    range: Range<u64>,
    kind: &str,
) -> Result<Box<dyn Filesystem + 'a>> {
    let volume = Volume::new(disk, range);
    match kind {
        "ext2" | "ext3" | "ext4" => Ok(Box::new(ext::Ext::open(volume)?)),
        "ntfs" => Ok(Box::new(ntfs::Ntfs::open(volume)?)),
        "vfat" => Ok(Box::new(fat::Fat::open(volume)?)),
        _ => Err(unsupported(format!("files of {kind} cannot be read here"))),
    }
}

/// Text in UTF-16, little-endian, as bytes: UTF-8, or what halves of characters would be in it (WTF-8), so that all texts stay apart.
fn bytes_of_utf16(text: &[u8]) -> Vec<u8> {
    let units = text.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let mut bytes = Vec::with_capacity(text.len());
    for c in char::decode_utf16(units) {
        match c {
            Ok(c) => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
            Err(half) => {
                let [high, low] = half.unpaired_surrogate().to_be_bytes();
                bytes.extend([0xe0 | high >> 4, 0x80 | (high & 0xf) << 2 | low >> 6, 0x80 | low & 0x3f]);
            }
        }
    }
    bytes
}

/// Names of a directory that is being read, within bounds.
#[derive(Default)]
struct Names {
    entries: Vec<Entry>,
    bytes: usize,
}

impl Names {
    fn add(&mut self, entry: Entry) -> Result<()> {
        self.bytes += entry.name.len();
        if self.entries.len() == MAX_ENTRIES || self.bytes > MAX_NAMES {
            return Err(unsupported("the directory has more names than can be listed (4 million)"));
        }
        self.entries.push(entry);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_characters_are_kept() {
        let utf16 = |units: &[u16]| units.iter().flat_map(|unit| unit.to_le_bytes()).collect::<Vec<u8>>();
        assert_eq!(bytes_of_utf16(&utf16(&[0x61, 0xfc, 0xd83d, 0xde00])), "aü😀".as_bytes());
        assert_eq!(bytes_of_utf16(&utf16(&[0xd800])), b"\xed\xa0\x80");
        assert_eq!(bytes_of_utf16(&utf16(&[0xdfff, 0x61])), b"\xed\xbf\xbfa");
    }
}
