//! `copal init`.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use serde_json::json;

use crate::cli::args::{Encryption, InitArgs};
use crate::cli::location::Location;
use crate::cli::{output, repository, secret};
use crate::format::limits::MAX_RESERVE;
use crate::repository::unlock::{InitOptions, init};
use crate::storage::local::LocalStorage;

pub(in crate::cli) fn run(args: &InitArgs) -> anyhow::Result<()> {
    let path = Location::parse(args.location.as_deref())?.repository_only()?;
    // Before anybody types a passphrase for nothing.
    check_place(&path)?;
    let secret = match args.encryption {
        Encryption::None if args.secrets.is_given() => {
            bail!("a secret was given together with --encryption none: take one of them away");
        }
        Encryption::None => None,
        Encryption::Passphrase if args.secrets.key_file.is_some() => {
            bail!("a key file was given; ask for --encryption keyfile");
        }
        Encryption::Passphrase => Some(args.secrets.get_new(&path)?),
        Encryption::Keyfile => {
            let file =
                args.secrets.key_file.as_deref().context("--encryption keyfile needs --key-file FILE")?;
            if secret::make_key_file(file)? && !args.json {
                output::lines([format!("Made key file {}.", file.display())])?;
            }
            Some(args.secrets.get_new(&path)?)
        }
    };
    let reserve = u32::try_from(args.reserve).ok().filter(|len| *len <= MAX_RESERVE);
    let reserve = reserve.with_context(|| {
        format!("a reserve of {} bytes is too much; at most 1G makes sense", args.reserve)
    })?;
    let storage = LocalStorage::create(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::DirectoryNotEmpty => not_empty(&path),
        std::io::ErrorKind::NotFound => no_parent(&path),
        std::io::ErrorKind::NotADirectory => anyhow!("{} is not a directory", path.display()),
        _ => anyhow!(error).context(format!("cannot make {}", path.display())),
    })?;
    let options = InitOptions {
        secret,
        chunker: args.chunker,
        span_shift: args.span_size,
        mirror: !args.no_mirror,
        reserve,
        ..InitOptions::default()
    };
    let made = init(Arc::new(storage), &options).with_context(|| {
        format!("the repository in {} is not finished: remove that directory, then try again", path.display())
    })?;
    repository::remember_new(&path, &made);
    if args.json {
        let encrypted = args.encryption != Encryption::None;
        return output::json(&json!({ "repository": made.id(), "path": path, "encrypted": encrypted }));
    }
    output::lines(what_to_keep(args, &path, &made.id().to_string()))
}

/// Refuses a place where no repository can be made.
fn check_place(path: &Path) -> anyhow::Result<()> {
    match std::fs::metadata(path) {
        Ok(found) if !found.is_dir() => bail!("{} is not a directory", path.display()),
        Ok(_) => {}
        Err(_) => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            if parent.is_some_and(|parent| !parent.is_dir()) {
                return Err(no_parent(path));
            }
        }
    }
    let used = std::fs::read_dir(path).is_ok_and(|mut entries| {
        entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != "lost+found"))
    });
    if used { Err(not_empty(path)) } else { Ok(()) }
}

fn no_parent(path: &Path) -> anyhow::Error {
    anyhow!("cannot make {}: the directory above it does not exist; make that first", path.display())
}

fn not_empty(path: &Path) -> anyhow::Error {
    anyhow!("{} is not empty; give a new or empty directory (nothing was changed)", path.display())
}

fn what_to_keep(args: &InitArgs, path: &Path, id: &str) -> Vec<String> {
    let mut lines = vec![format!("Made repository {id} in {}.", path.display())];
    match args.encryption {
        Encryption::Passphrase => lines.extend([
            "Keep the passphrase safe, and apart from this machine: without it nobody can read the backups,".to_owned(),
            "and nothing can bring it back.".to_owned(),
        ]),
        Encryption::Keyfile => lines.extend([
            "Keep a copy of the key file safe, and apart from this machine and the repository: without it nobody can".to_owned(),
            "read the backups, and nothing can bring it back.".to_owned(),
        ]),
        Encryption::None => lines.push("It is NOT encrypted: whoever can read the directory can read the backups.".to_owned()),
    }
    lines
}
