//! `copal key`: what opens a repository.

mod recovery;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::json;

use crate::cli::args::{KeyAddArgs, KeyArgs, KeyChangeArgs, KeyCommand, KeyListArgs, KeyRemoveArgs};
use crate::cli::location::Location;
use crate::cli::output::{self, rfc3339, time};
use crate::cli::repository::{Found, Opened};
use crate::cli::secret::SecretArgs;
use crate::codec::slot_key::{Derivation, Secret};
use crate::id::SlotId;
use crate::repository::Error;
use crate::repository::slots::{self, ListedSlot, NewSlot, OpenedSlot, Removed};

pub(in crate::cli) fn run(args: &KeyArgs) -> anyhow::Result<()> {
    match &args.command {
        KeyCommand::List(args) => list(args),
        KeyCommand::Add(args) => add(args),
        KeyCommand::Remove(args) => remove(args),
        KeyCommand::ChangePassphrase(args) => change(args),
        KeyCommand::Export(args) => recovery::export(args),
        KeyCommand::Import(args) => recovery::import(args),
    }
}

fn list(args: &KeyListArgs) -> anyhow::Result<()> {
    let path = Location::parse(args.location.as_deref())?.repository_only()?;
    let (opened, known) = open_all(&path, &args.secrets)?;
    let slots = slots::list(&opened.repository, &known)?;
    let mirrors = opened.repository.config().mirror;
    if args.json {
        let slots: Vec<_> = slots.iter().map(summary).collect();
        return output::json(&json!({ "repository": opened.repository.id(), "slots": slots }));
    }
    let head = ["ID", "OPENS WITH", "LABEL", "CREATED (UTC)", ""].map(str::to_owned).to_vec();
    let rows = slots.iter().map(|slot| row(slot, mirrors));
    output::table(&std::iter::once(head).chain(rows).collect::<Vec<_>>(), &[])
}

fn add(args: &KeyAddArgs) -> anyhow::Result<()> {
    let path = Location::parse(args.location.as_deref())?.repository_only()?;
    let (opened, slot, _) = open(&path, &args.secrets)?;
    let (secret, made_file) = args.new.get(&path)?;
    warn_of_label(&args.label, &slot);
    let new = NewSlot { secret: &secret, derivation: Derivation::PASSPHRASE, label: &args.label };
    let known = [slot];
    let slot = slots::add(&opened.repository, known[0].keys(), &known, &new)?;
    told_new(&opened, &slot, args.new.new_key_file.as_deref().filter(|_| made_file), args.json)
}

/// Says which slot was made, and which key file.
fn told_new(
    opened: &Opened,
    slot: &OpenedSlot,
    made_file: Option<&Path>,
    as_json: bool,
) -> anyhow::Result<()> {
    if as_json {
        let repository = opened.repository.id();
        return output::json(&json!({ "repository": repository, "slot": slot.id, "label": slot.label }));
    }
    let lines = made_file.map(|path| format!("Made key file {}.", path.display()));
    output::lines(lines.into_iter().chain([format!("Made key slot {}.", shown(slot.id))]))
}

fn warn_of_label(label: &str, known: &OpenedSlot) {
    if !label.is_empty() && known.label == label {
        log::warn!("key slot {} is called {label:?}, too: name either by its id", shown(known.id));
    }
}

fn remove(args: &KeyRemoveArgs) -> anyhow::Result<()> {
    let (path, selector) = split(&args.words)?;
    let selector = selector.to_str().context("a key slot's id or label is always text in UTF-8")?;
    let (opened, known) = open_all(&path, &args.secrets)?;
    let target = slots::find(&slots::list(&opened.repository, &known)?, selector)?.id;
    let removed = slots::remove(&opened.repository, &known, target)?;
    if args.json {
        return output::json(&json!({ "repository": opened.repository.id(), "removed": [target] }));
    }
    output::lines([
        match removed {
            Removed::Now => format!("Removed key slot {}.", shown(target)),
            Removed::Before => {
                format!("Key slot {} was removed before; its marker is gone now, too.", shown(target))
            }
        },
        "Copies of the repository made before still open with its secret.".into(),
    ])
}

fn change(args: &KeyChangeArgs) -> anyhow::Result<()> {
    let path = Location::parse(args.location.as_deref())?.repository_only()?;
    let (opened, known) = match open_all(&path, &args.secrets) {
        Err(error) if is_wrong_secret(&error) && args.new.is_given() => {
            return changed_before(args, &path, error);
        }
        opened => opened?,
    };
    let (secret, made_file) = args.new.get(&path)?;
    let changed = slots::change(&opened.repository, &known, &secret, Derivation::PASSPHRASE)?;
    if args.json {
        let removed = &changed.removed;
        let json =
            json!({ "repository": opened.repository.id(), "slot": changed.slot.id, "removed": removed });
        return output::json(&json);
    }
    let made = args.new.new_key_file.as_ref().filter(|_| made_file);
    let made = made.map(|path| format!("Made key file {}.", path.display()));
    let gone: Vec<_> = changed.removed.iter().map(|slot| shown(*slot)).collect();
    output::lines(made.into_iter().chain([
        format!("Key slot {} replaces {}.", shown(changed.slot.id), gone.join(", ")),
        "Copies of the repository made before still open with the old secret.".into(),
    ]))
}

fn is_wrong_secret(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Error::WrongPassphrase { .. } | Error::WrongKeyFile { .. }))
}

/// The old secret opens nothing. If the new one does, an earlier run did all but tidy up.
fn changed_before(args: &KeyChangeArgs, path: &Path, error: anyhow::Error) -> anyhow::Result<()> {
    let (secret, _) = args.new.get(path)?;
    let found = Found::at(path, &args.secrets, true)?;
    let Ok((opened, slot)) = found.unlock_slot(&secret) else { return Err(error) };
    slots::removal::clean(&opened.repository)?;
    if args.json {
        let json = json!({ "repository": opened.repository.id(), "slot": slot.id, "removed": [] });
        return output::json(&json);
    }
    output::lines([format!(
        "Nothing to change: the new secret opens key slot {} already, the old one opens none.",
        shown(slot.id)
    )])
}

/// Opens the repository, and hands on the slot that the secret opened.
fn open(path: &Path, secrets: &SecretArgs) -> anyhow::Result<(Opened, OpenedSlot, Secret)> {
    let found = Found::at(path, secrets, secrets.is_given())?;
    if !found.needs_secret() {
        return Err(Error::from(slots::SlotError::NotEncrypted).into());
    }
    let secret = secrets.get(path)?;
    let (opened, slot) = found.unlock_slot(&secret)?;
    Ok((opened, slot, secret))
}

/// Opens the repository, and hands on all slots that the secret opens.
fn open_all(path: &Path, secrets: &SecretArgs) -> anyhow::Result<(Opened, Vec<OpenedSlot>)> {
    let (opened, _, secret) = open(path, secrets)?;
    let all = slots::open_all(&opened.repository, &secret)?;
    Ok((opened, all))
}

/// `[REPO] WORD`: the repository, from the environment if it is not given, and the word.
fn split(words: &[OsString]) -> anyhow::Result<(PathBuf, &OsStr)> {
    let (location, word) = match words {
        [word] => (None, word),
        [location, word] => (Some(location.as_os_str()), word),
        _ => bail!("a repository and one more word are expected"),
    };
    Ok((Location::parse(location)?.repository_only()?, word))
}

fn shown(id: SlotId) -> String {
    format!("#{:.8}", id.to_string())
}

/// A slot for programs.
fn summary(slot: &ListedSlot) -> serde_json::Value {
    let derivation = slot.derivation.as_ref().ok().map(|derivation| match derivation {
        Derivation::Argon2id { memory_kib, iterations, lanes } => json!({
            "kind": "argon2id", "memory": u64::from(*memory_kib) << 10, "iterations": iterations, "lanes": lanes,
        }),
        Derivation::KeyFile => json!({ "kind": "key-file" }),
    });
    let removals = slot.removals.iter().map(|removal| match removal {
        Some((time, host)) => json!({ "time": rfc3339(*time), "host": host }),
        None => json!({}),
    });
    json!({
        "id": slot.id, "derivation": derivation, "problem": slot.derivation.as_ref().err(),
        "opened": slot.opened.is_some(), "label": slot.opened.as_ref().map(|(label, _)| label),
        "created": slot.opened.as_ref().map(|(_, created)| rfc3339(*created)), "copies": slot.copies,
        "removals": removals.collect::<Vec<_>>(),
    })
}

fn row(slot: &ListedSlot, mirrors: bool) -> Vec<String> {
    let opens_with = match &slot.derivation {
        Ok(Derivation::Argon2id { memory_kib, iterations, lanes }) => {
            let memory = output::size(u64::from(*memory_kib) << 10);
            format!("passphrase (Argon2id, {memory}, {iterations} passes, {lanes} lanes)")
        }
        Ok(Derivation::KeyFile) => "key file".into(),
        Err(_) => "-".into(),
    };
    let (label, created) = match &slot.opened {
        Some((label, created)) => (output::escaped(label.as_bytes()), time(*created)),
        None => ("(sealed)".into(), "(sealed)".into()),
    };
    vec![shown(slot.id), opens_with, label, created, notes(slot, mirrors).join("; ")]
}

fn notes(slot: &ListedSlot, mirrors: bool) -> Vec<String> {
    let mut notes = Vec::new();
    notes.extend(slot.opened.is_some().then(|| "opened with your secret".to_owned()));
    let gone = slot.copies == [false; 2];
    match slot.copies {
        [true, false] if mirrors => notes.push("SECOND COPY MISSING".into()),
        [false, true] => notes.push("FIRST COPY MISSING".into()),
        [false, false] => notes.push("removed; only a marker is left".into()),
        _ => {}
    }
    if let Err(problem) = &slot.derivation
        && !gone
    {
        notes.push(format!("CANNOT BE READ: {}", output::escaped(problem.as_bytes())));
    }
    for removal in &slot.removals {
        notes.push(match removal {
            Some((at, host)) => {
                format!("removal began {} on {}", time(*at), output::escaped(host.as_bytes()))
            }
            None => "removal began".into(),
        });
    }
    notes
}
