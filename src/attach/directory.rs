//! Where an attach shows its files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Error, Result, failed};
use crate::fuse::mountpoint::{MOUNT_TYPE, mount_on};

/// A directory to show files in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Its absolute path, without links.
    pub path: PathBuf,
    /// Whether it has to be made.
    pub is_new: bool,
}

/// Checks the directory that somebody asked for. It has to be empty, or its parent has to be there; apart from the repository, and from directories of
/// other attaches.
///
/// # Errors
/// [`Error::Directory`] with what to do.
pub fn choose(wanted: &Path, repository: &Path, taken: &[PathBuf]) -> Result<Chosen> {
    let refuse = |reason: String| Error::Directory { path: wanted.to_owned(), reason };
    let chosen = match fs::canonicalize(wanted) {
        Ok(path) => Chosen { path, is_new: false },
        Err(error) if error.kind() == io::ErrorKind::NotFound => below_parent(wanted)?,
        Err(error) => return Err(failed("use", wanted)(error)),
    };
    let path = &chosen.path;
    if path.to_str().is_none() {
        return Err(refuse("is not text in UTF-8; choose another directory".into()));
    }
    if let Some(other) = taken.iter().find(|other| path.starts_with(other) || other.starts_with(path)) {
        return Err(refuse(format!("is in use: 'copal detach {}' ends that", other.display())));
    }
    if path.starts_with(repository) || repository.starts_with(path) {
        return Err(refuse("and the repository lie in each other; choose another directory".into()));
    }
    if mount_on(path).is_some_and(|mount| mount.kind == MOUNT_TYPE) {
        return Err(refuse("is where a repository is mounted; choose another directory".into()));
    }
    if !chosen.is_new {
        check_empty(path, wanted)?;
    }
    Ok(chosen)
}

fn below_parent(wanted: &Path) -> Result<Chosen> {
    let refuse = |reason: &str| Error::Directory { path: wanted.to_owned(), reason: reason.to_owned() };
    let Some(name) = wanted.file_name() else {
        return Err(refuse("names no directory"));
    };
    if fs::symlink_metadata(wanted).is_ok() {
        return Err(refuse("is a link that leads nowhere"));
    }
    let parent = wanted.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent = fs::canonicalize(parent).map_err(|_| {
        refuse("cannot be made, since what it is to lie in does not exist; make that with 'mkdir -p' first")
    })?;
    Ok(Chosen { path: parent.join(name), is_new: true })
}

fn check_empty(path: &Path, wanted: &Path) -> Result<()> {
    let refuse = |reason: &str| Error::Directory { path: wanted.to_owned(), reason: reason.to_owned() };
    if !path.is_dir() {
        return Err(refuse("is not a directory"));
    }
    let mut entries = fs::read_dir(path).map_err(failed("list", path))?;
    if entries.next().is_some() {
        return Err(refuse("is not empty; choose an empty directory, or one that does not exist yet"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_empty_or_new_and_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().canonicalize().unwrap();
        let at = |name: &str| place.join(name);
        for name in ["empty", "full/x", "repo/inside", "taken"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink("nowhere", at("dead")).unwrap();
        let taken = [at("taken")];
        let chosen = |name: &str| choose(&at(name), &at("repo"), &taken);
        assert_eq!(chosen("empty").unwrap(), Chosen { path: at("empty"), is_new: false });
        assert_eq!(chosen("new").unwrap(), Chosen { path: at("new"), is_new: true });
        for (name, why) in [
            ("full", "not empty"),
            ("no/where", "mkdir -p"),
            ("file", "not a directory"),
            ("dead", "leads nowhere"),
            ("taken", "copal detach"),
            ("taken/below", "copal detach"),
            ("repo/inside", "lie in each other"),
            ("", "copal detach"),
        ] {
            let said = chosen(name).unwrap_err().to_string();
            assert!(said.contains(why), "{name}: {said}");
        }
    }
}
