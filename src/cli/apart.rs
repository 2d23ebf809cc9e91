//! Keeps what is written out of the directory of the repository that is read.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::bail;

/// What tells a directory from all others, however it is reached.
pub(super) fn identity(directory: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(directory).ok().map(|found| (found.dev(), found.ino()))
}

/// Whether a file of this path is, or would be, in the repository, through links and bind mounts too.
pub(super) fn lies_in(path: &Path, repository: &Path) -> bool {
    let Some(repository) = identity(repository) else { return false };
    let is_in = |path: &Path| {
        let Ok(path) = path.canonicalize() else { return false };
        path.ancestors().any(|above| identity(above) == Some(repository))
    };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    is_in(path) || is_in(parent)
}

/// Refuses to write there.
pub(super) fn refuse_inside(path: &Path, repository: &Path) -> anyhow::Result<()> {
    if lies_in(path, repository) {
        bail!(
            "{} lies in the repository {}, where only Copal's own files belong; choose another place",
            path.display(),
            repository.display()
        );
    }
    Ok(())
}
