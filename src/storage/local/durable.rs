//! Writing a file once and for good.
//!
//! A long file goes past the page cache where its file system lets it: nobody reads a pack soon after it was written, and copying it into fresh pages costs
//! a create more processor time than cutting and naming what is in it.

use std::fs::File;
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;

use crate::storage::aligned::{ALIGNMENT, Aligned, LARGEST_BLOCK, to_page};

/// Files of at least so many bytes go past the page cache.
const LONG_FILE: usize = 1 << 20;
/// Bytes that are copied to where they are aligned, and written at once past the page cache.
const PIECE: usize = 2 << 20;
// Where that is not enough for addresses, offsets and lengths, a file is written as others are.
const _: () = assert!(PIECE.is_multiple_of(LARGEST_BLOCK));

const NEW_FILE: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Makes a file in `dir` that was not there, of these parts joined; when this returns it is durable, but for its name.
///
/// # Errors
/// Those of the file system; the file may be there then, in part.
pub(super) fn write_new(dir: &OwnedFd, name: &str, parts: &[&[u8]]) -> io::Result<()> {
    let mut file = File::from(rustix::fs::openat(dir, name, NEW_FILE, FILE_MODE)?);
    let len: usize = parts.iter().map(|part| part.len()).sum();
    if len >= LONG_FILE && set_direct(&file, true).is_ok() {
        write_past_cache(&file, parts)?;
    } else {
        for part in parts {
            file.write_all(part)?;
        }
    }
    file.sync_data()
}

/// A file that is written piece by piece, past the page cache where its file system lets it.
#[derive(Debug)]
pub(super) struct Growing {
    file: File,
    /// Bytes that were appended.
    len: u64,
    /// Whether there may be others behind them, of an append that failed.
    is_longer: bool,
    /// Whether the system said once that it could not write what it had taken. It may not say so again.
    is_lost: bool,
}

impl Growing {
    /// Makes a file in `dir` that was not there.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn create(dir: &OwnedFd, name: &str) -> io::Result<Self> {
        let file = File::from(rustix::fs::openat(dir, name, NEW_FILE, FILE_MODE)?);
        // Where it cannot, through the page cache.
        let _ = set_direct(&file, true);
        Ok(Self { file, len: 0, is_longer: false, is_lost: false })
    }

    /// Appends bytes, a multiple of [`LARGEST_BLOCK`]; none of them after an error.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        debug_assert!(bytes.len().is_multiple_of(LARGEST_BLOCK));
        self.seek_end()?;
        self.is_longer = true;
        if to_page(bytes) == 0 {
            write_all(&self.file, bytes)?;
        } else {
            let mut buffer = Aligned::with_capacity(bytes.len().min(PIECE));
            for piece in bytes.chunks(PIECE) {
                buffer.clear();
                buffer.extend_from_slice(piece);
                write_all(&self.file, &buffer)?;
            }
        }
        self.is_longer = false;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Appends the last parts; when this returns the file is durable, but for its name. After an error it can be tried again, and fails again if the error
    /// was that of making it durable: what was appended before may be lost then.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn finish(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        self.seek_end()?;
        self.is_longer = true;
        write_past_cache(&self.file, parts)?;
        self.file.sync_data().inspect_err(|_| self.is_lost = true)
    }

    /// Goes to behind what was appended.
    fn seek_end(&mut self) -> io::Result<()> {
        if self.is_lost {
            return Err(io::Error::other("what was written before could not be made durable"));
        }
        if self.is_longer {
            self.file.set_len(self.len)?;
        }
        self.file.seek(SeekFrom::Start(self.len))?;
        Ok(())
    }

    /// Makes it look as if it had just been written, by the file system's clock.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn touch(&self) -> io::Result<()> {
        let time = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
        let times = Timestamps { last_access: time(UTIME_OMIT), last_modification: time(UTIME_NOW) };
        Ok(rustix::fs::futimens(&self.file, &times)?)
    }
}

/// Whether writes go past the page cache from now on.
fn set_direct(file: &File, direct: bool) -> io::Result<()> {
    let flags = if direct { OFlags::DIRECT } else { OFlags::empty() };
    Ok(rustix::fs::fcntl_setfl(file, flags)?)
}

/// Writes the first part as it is if it lies on a page, the others through an aligned buffer, and their unaligned end as others are written.
fn write_past_cache(file: &File, parts: &[&[u8]]) -> io::Result<()> {
    let (first, others) = parts.split_first().map_or((&[][..], parts), |(first, others)| (*first, others));
    let as_it_is = if to_page(first) == 0 { first.len() & !(LARGEST_BLOCK - 1) } else { 0 };
    let (now, end) = first.split_at(as_it_is);
    write_all(file, now)?;
    let copied = end.len() + others.iter().map(|part| part.len()).sum::<usize>();
    let mut buffer = Aligned::with_capacity(copied.min(PIECE));
    for part in [end].iter().chain(others) {
        let mut rest = *part;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(PIECE - buffer.len()));
            buffer.extend_from_slice(now);
            rest = later;
            if buffer.len() == PIECE {
                write_all(file, &buffer)?;
                buffer.clear();
            }
        }
    }
    let (aligned, end) = buffer.split_at(buffer.len() & !(ALIGNMENT - 1));
    write_all(file, aligned)?;
    set_direct(file, false)?;
    write_all(file, end)
}

/// As [`Write::write_all`], but through the page cache from where the file system wants another alignment.
fn write_all(mut file: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if is_misaligned(&error) && is_direct(file)? => set_direct(file, false)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_misaligned(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::INVAL.raw_os_error())
}

fn is_direct(file: &File) -> io::Result<bool> {
    Ok(rustix::fs::fcntl_getfl(file)?.contains(OFlags::DIRECT))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Seek};

    use super::*;

    fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn files_of_all_lengths_are_their_parts() {
        let dir = tempfile::tempdir().unwrap();
        let fd = OwnedFd::from(File::open(dir.path()).unwrap());
        let path = dir.path().join("file");
        for len in
            [20, LONG_FILE - 1, LONG_FILE, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + ALIGNMENT]
        {
            let bytes = noise(len, len as u64);
            let mut aligned = Aligned::with_capacity(len);
            aligned.extend_from_slice(&bytes);
            let cuts =
                [[0, 0], [7, len / 2], [len / 3, len], [ALIGNMENT.min(len / 2), len / 2], [len / 2, len]];
            for (bytes, [first, second]) in
                [&bytes[..], &aligned].into_iter().flat_map(|b| cuts.map(|c| (b, c)))
            {
                let parts = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                write_new(&fd, "file", &parts).unwrap();
                assert!(fs::read(&path).unwrap() == bytes, "{len} bytes, cut at {first} and {second}");
                let again = write_new(&fd, "file", &parts).unwrap_err();
                assert_eq!(again.kind(), ErrorKind::AlreadyExists);
                fs::remove_file(&path).unwrap();
            }
        }
    }

    #[test]
    fn what_an_append_left_that_failed_is_not_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let fd = OwnedFd::from(File::open(dir.path()).unwrap());
        let whole = noise(3 * LARGEST_BLOCK, 1);
        let (first, rest) = whole.split_at(LARGEST_BLOCK);
        let mut growing = Growing::create(&fd, "file").unwrap();
        growing.append(first).unwrap();
        // As one that ended in the middle, and one at the end.
        for _ in 0..2 {
            growing.is_longer = true;
            write_all(&growing.file, &noise(4 * LARGEST_BLOCK, 2)).unwrap();
            growing.append(&rest[..LARGEST_BLOCK]).unwrap();
            growing.len -= LARGEST_BLOCK as u64;
        }
        growing.is_longer = true;
        growing.finish(&[rest, b"end"]).unwrap();
        assert!(fs::read(dir.path().join("file")).unwrap() == [&whole[..], b"end"].concat());
        growing.finish(&[b"another end"]).unwrap();
        assert!(fs::read(dir.path().join("file")).unwrap() == [first, b"another end"].concat());
        growing.is_lost = true;
        assert!(growing.finish(&[]).is_err() && growing.append(rest).is_err());
    }

    #[test]
    fn what_a_file_system_does_not_align_goes_through_the_page_cache() {
        let mut file = tempfile::tempfile().unwrap();
        if set_direct(&file, true).is_err() {
            eprintln!("NOT TESTED: this file system has no direct writes");
            return;
        }
        write_all(&file, b"odd").unwrap();
        write_all(&file, &noise(ALIGNMENT, 1)[1..]).unwrap();
        assert!(!is_direct(&file).unwrap());
        file.rewind().unwrap();
        let mut found = Vec::new();
        file.read_to_end(&mut found).unwrap();
        assert!(found == [b"odd", &noise(ALIGNMENT, 1)[1..]].concat());
    }
}
