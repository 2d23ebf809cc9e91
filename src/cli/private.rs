//! Files that hold secrets.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

/// Makes a file that only its owner can read: whole and durable, or not at all, whoever is killed meanwhile. False if there is one of that name already, which
/// stays as it is.
///
/// # Errors
/// The file system's.
pub(super) fn make(path: &Path, contents: &[u8]) -> io::Result<bool> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.symlink_metadata().is_ok() {
        return Ok(false);
    }
    let mut file = tempfile::Builder::new().prefix(".copal-").tempfile_in(folder)?;
    file.write_all(contents)?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => {}
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(error.error),
    }
    File::open(folder)?.sync_all()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_is_there_stays_and_what_is_made_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert!(make(&path, b"one").unwrap());
        assert!(!make(&path, b"two").unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let dangling = dir.path().join("link");
        symlink("nowhere", &dangling).unwrap();
        assert!(!make(&dangling, b"one").unwrap());
        assert!(make(&dir.path().join("no/folder"), b"one").is_err());
        assert_eq!(dir.path().read_dir().unwrap().count(), 2, "nothing else is left");
    }
}
