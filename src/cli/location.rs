//! `REPO`, `REPO::ARCHIVE`, `::ARCHIVE`: which repository, and what in it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use anyhow::{Context, bail};

/// Names the repository where the command line does not.
const VARIABLE: &str = "COPAL_REPO";

/// A repository, and perhaps an archive in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Location {
    /// The repository's directory.
    pub(super) repository: PathBuf,
    /// What stands behind `::`.
    pub(super) reference: Option<String>,
}

impl Location {
    /// Reads an argument; what it leaves out comes from the environment.
    pub(super) fn parse(argument: Option<&OsStr>) -> anyhow::Result<Self> {
        Self::parse_with(argument, std::env::var_os(VARIABLE))
    }

    fn parse_with(argument: Option<&OsStr>, default: Option<OsString>) -> anyhow::Result<Self> {
        let bytes = argument.map_or(&b""[..], OsStrExt::as_bytes);
        let split = bytes.windows(2).rposition(|pair| pair == b"::");
        let (repository, reference) = match split {
            Some(at) => (&bytes[..at], Some(&bytes[at + 2..])),
            None => (bytes, None),
        };
        let reference = reference
            .map(|text| String::from_utf8(text.to_vec()))
            .transpose()
            .context("an archive's name behind '::' is always text in UTF-8")?;
        let repository = match (repository.is_empty(), default.filter(|path| !path.is_empty())) {
            (false, _) => OsString::from_vec(repository.to_vec()),
            (true, Some(default)) => default,
            (true, None) => bail!("no repository is named; write REPO or REPO::ARCHIVE, or set {VARIABLE}"),
        };
        Ok(Self { repository: repository.into(), reference })
    }

    /// What stands behind `::`, which this command needs.
    pub(super) fn required_reference(&self) -> anyhow::Result<&str> {
        match self.reference.as_deref() {
            Some(reference) if !reference.is_empty() => Ok(reference),
            _ => bail!(
                "name an archive as {}::ARCHIVE; 'copal list' shows what there is",
                self.repository.display()
            ),
        }
    }

    /// Refuses an archive where only a repository makes sense.
    pub(super) fn repository_only(self) -> anyhow::Result<PathBuf> {
        match self.reference {
            None => Ok(self.repository),
            Some(reference) => bail!("this command takes a repository, without '::{reference}'"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, default: &str) -> Result<(String, Option<String>), String> {
        let location = Location::parse_with(Some(OsStr::new(text)), Some(default.into()));
        let location = location.map_err(|error| error.to_string())?;
        Ok((location.repository.display().to_string(), location.reference))
    }

    #[test]
    fn the_last_double_colon_separates() {
        assert_eq!(parse("/r", ""), Ok(("/r".into(), None)));
        assert_eq!(parse("/r::web01", ""), Ok(("/r".into(), Some("web01".into()))));
        assert_eq!(parse("/r::x::web01", ""), Ok(("/r::x".into(), Some("web01".into()))));
        assert_eq!(parse("::web01", "/d"), Ok(("/d".into(), Some("web01".into()))));
        assert_eq!(parse("", "/d"), Ok(("/d".into(), None)));
        assert!(parse("::web01", "").unwrap_err().contains("COPAL_REPO"));
        let odd = Location::parse_with(Some(OsStr::from_bytes(b"/r\xff::a")), None).unwrap();
        assert_eq!(odd.repository.as_os_str().as_bytes(), b"/r\xff");
    }
}
