//! Writing an image in order, to a pipe above all.
//!
//! Most of a disk are holes, and a pipe has room for zeros that nobody copies: a file in memory that is all hole lends it the one page of zeros that the
//! system keeps (`splice`; shared since Linux 6.6, and made of fresh pages before). Files and terminals are written to.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, fcntl_setpipe_size, splice};

/// What a pipe is to hold, in bytes, if the system allows it: fewer turns of its two ends.
const PIPE: usize = 1 << 20;

/// Takes an image in order.
#[derive(Debug)]
pub struct Stream {
    out: File,
    /// A file of [`PIPE`] bytes that is all hole, if `out` takes from it.
    hole: Option<OwnedFd>,
}

impl Stream {
    /// Writes to `out`, from where it stands.
    #[must_use]
    pub fn new(out: OwnedFd) -> Self {
        // Either is of use only where `out` is a pipe, which the first zeros tell.
        let _ = fcntl_setpipe_size(&out, PIPE);
        Self { out: out.into(), hole: hole().ok() }
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// The medium's.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// Appends zeros.
    ///
    /// # Errors
    /// The medium's.
    pub fn zeros(&mut self, mut len: u64) -> io::Result<()> {
        static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        while let Some(hole) = self.hole.as_ref().filter(|_| len > 0) {
            let part = len.min(PIPE as u64) as usize;
            match splice(hole, Some(&mut 0), &self.out, None, part, SpliceFlags::empty()) {
                Ok(0) | Err(Errno::INVAL | Errno::BADF | Errno::NOSYS | Errno::PERM) => self.hole = None,
                Ok(spliced) => len -= spliced as u64,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        while len > 0 {
            let part = len.min(ZEROS.len() as u64);
            self.write(&ZEROS[..part as usize])?;
            len -= part;
        }
        Ok(())
    }
}

fn hole() -> rustix::io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create("copal-zeros", MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&file, PIPE as u64)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    /// Zeros longer and shorter than what goes at once, between bytes.
    fn write_to(out: OwnedFd) -> (bool, Vec<u8>) {
        let mut stream = Stream::new(out);
        let mut expected = Vec::new();
        for (number, zeros) in [0, 1, 4095, 5 << 20, 70_001].into_iter().enumerate() {
            let bytes = vec![number as u8 + 1; 10_000 * number + 3];
            stream.write(&bytes).unwrap();
            stream.zeros(zeros).unwrap();
            expected.extend(bytes);
            expected.resize(expected.len() + zeros as usize, 0);
        }
        (stream.hole.is_some(), expected)
    }

    #[test]
    fn a_pipe_gets_zeros_that_nobody_writes() {
        let (reader, writer) = std::io::pipe().unwrap();
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            { reader }.read_to_end(&mut all).unwrap();
            all
        });
        let (spliced, expected) = write_to(writer.into());
        assert!(spliced, "zeros were written");
        assert!(reading.join().unwrap() == expected);
    }

    #[test]
    fn a_file_gets_zeros_too() {
        let mut file = tempfile::tempfile().unwrap();
        let (spliced, expected) = write_to(file.try_clone().unwrap().into());
        assert!(!spliced, "only a pipe takes pages");
        let mut all = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut all).unwrap();
        assert!(all == expected);
    }

    #[test]
    fn a_reader_that_has_left_is_an_error() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut stream = Stream::new(writer.into());
        assert_eq!(stream.zeros(1).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(stream.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
