//! `copal key export` and `copal key import`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, bail};
use zeroize::Zeroizing;

use super::{open, split, told_new};
use crate::cli::apart::lies_in;
use crate::cli::args::{KeyExportArgs, KeyImportArgs};
use crate::cli::repository::Found;
use crate::cli::secret::SecretArgs;
use crate::cli::{output, private};
use crate::codec::slot_key::Derivation;
use crate::format::recovery::{MAX_FORM, RecoveryForm};
use crate::repository::Error;
use crate::repository::slots::{self, NewSlot, SlotError};

pub(super) fn export(args: &KeyExportArgs) -> anyhow::Result<()> {
    let (path, target) = split(&args.words)?;
    let file = (target != "-").then(|| Path::new(target));
    // Before anybody types a passphrase for nothing.
    file.map_or(Ok(()), |file| check_target(file, &path))?;
    let (opened, slot, _) = open(&path, &args.secrets)?;
    let form = RecoveryForm { repository: opened.repository.id(), keys: slot.keys().clone() };
    let text = if args.paper { form.to_paper() } else { form.to_text() };
    let Some(file) = file else {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())?;
        return Ok(out.flush()?);
    };
    let made = private::make(file, text.as_bytes());
    if !made.with_context(|| format!("cannot write {}", file.display()))? {
        bail!("{} is there already, and stays as it is: name another file", file.display());
    }
    output::lines([
        format!("Wrote the keys of repository {} to {}.", opened.repository.id(), file.display()),
        "NOTHING PROTECTS THEM: whoever reads that file can read every backup, those of the future too.".into(),
        "Keep it apart from the repository, where nobody else gets at it. 'copal key import' makes a slot of it.".into(),
    ])
}

/// Refuses to overwrite, and to lay the keys beside what they lock.
fn check_target(file: &Path, repository: &Path) -> anyhow::Result<()> {
    if file.symlink_metadata().is_ok() {
        bail!("{} exists; give the name of a new file", file.display());
    }
    if lies_in(file, repository) {
        bail!("{} lies in the repository, which these keys open: keep them elsewhere", file.display());
    }
    Ok(())
}

pub(super) fn import(args: &KeyImportArgs) -> anyhow::Result<()> {
    let (path, source) = split(&args.words)?;
    let secrets = SecretArgs::without_secret(args.trust_changed);
    let found = Found::at(&path, &secrets, true)?;
    if !found.needs_secret() {
        return Err(Error::from(SlotError::NotEncrypted).into());
    }
    let text = read_form(source)?;
    let form = RecoveryForm::parse(&text)
        .with_context(|| format!("the recovery form in {} cannot be used", source.display()))?;
    if form.repository != found.id() {
        let other = SlotError::OtherRepository { form: form.repository, repository: found.id() };
        return Err(Error::from(other).into());
    }
    let opened = found.unlock_keys(&form.keys)?;
    let (secret, made_file) = args.new.get(&path)?;
    let new = NewSlot { secret: &secret, derivation: Derivation::PASSPHRASE, label: &args.label };
    let slot = slots::add(&opened.repository, &form.keys, &[], &new)?;
    told_new(&opened, &slot, args.new.new_key_file.as_deref().filter(|_| made_file), args.json)
}

fn read_form(source: &OsStr) -> anyhow::Result<Zeroizing<String>> {
    let name = source.display();
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FORM as usize + 1));
    let read = if source == "-" {
        std::io::stdin().lock().take(MAX_FORM + 1).read_to_end(&mut bytes)
    } else {
        File::open(source).and_then(|file| file.take(MAX_FORM + 1).read_to_end(&mut bytes))
    };
    read.with_context(|| format!("cannot read the recovery form in {name}"))?;
    let text = std::str::from_utf8(&bytes)
        .ok()
        .with_context(|| format!("{name} is no recovery form: it is not text"))?;
    Ok(Zeroizing::new(text.to_owned()))
}
