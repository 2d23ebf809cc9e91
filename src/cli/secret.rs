//! Where a passphrase or key file comes from. Nothing here is ever logged, and all copies are wiped.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use zeroize::{Zeroize, Zeroizing};

use super::private;
use crate::codec::slot_key::Secret;

/// Longest passphrase in bytes.
const MAX_PASSPHRASE: u64 = 64 << 10;
/// Bounds of a key file's length in bytes.
const KEY_FILE: std::ops::RangeInclusive<u64> = 32..=1 << 20;

/// Holds a passphrase for a new slot.
const NEW_PASSPHRASE: &str = "COPAL_NEW_PASSPHRASE";

/// How the user gives the secret.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct SecretArgs {
    /// Read the passphrase from the first line of FILE
    #[arg(long, value_name = "FILE", conflicts_with = "key_file")]
    pub(super) passphrase_file: Option<PathBuf>,
    /// Unlock with FILE instead of a passphrase
    #[arg(long, value_name = "FILE", env = "COPAL_KEY_FILE")]
    pub(super) key_file: Option<PathBuf>,
    /// Accept a repository that was swapped, rolled back or is no longer encrypted since this machine last saw it
    #[arg(long)]
    pub(super) trust_changed: bool,
    /// What the names of its environment variables begin with, and its options' behind the dashes.
    #[arg(skip = FIRST)]
    names: Names,
}

/// How the ways to give a secret are called.
#[derive(Debug, Clone, Copy, Default)]
struct Names {
    variables: &'static str,
    options: &'static str,
}

/// The repository that a command works on.
const FIRST: Names = Names { variables: "COPAL_", options: "--" };
/// The repository that archives are copied to.
const TO: Names = Names { variables: "COPAL_TO_", options: "--to-" };

/// How the user gives the secret of the repository that archives are copied to.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ToSecretArgs {
    /// Read the passphrase of DST from the first line of FILE
    #[arg(long, value_name = "FILE", conflicts_with = "to_key_file")]
    to_passphrase_file: Option<PathBuf>,
    /// Unlock DST with FILE instead of a passphrase
    #[arg(long, value_name = "FILE", env = "COPAL_TO_KEY_FILE")]
    to_key_file: Option<PathBuf>,
    /// Accept DST although it was swapped, rolled back or is no longer encrypted since this machine last saw it
    #[arg(long)]
    to_trust_changed: bool,
}

impl ToSecretArgs {
    /// As those of any repository.
    pub(super) fn secrets(&self) -> SecretArgs {
        SecretArgs {
            passphrase_file: self.to_passphrase_file.clone(),
            key_file: self.to_key_file.clone(),
            trust_changed: self.to_trust_changed,
            names: TO,
        }
    }
}

/// How the user gives a secret for a new slot.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct NewSecretArgs {
    /// Read the new passphrase from the first line of FILE; COPAL_NEW_PASSPHRASE or a prompt, if not given
    #[arg(long, value_name = "FILE", conflicts_with = "new_key_file")]
    pub(super) new_passphrase_file: Option<PathBuf>,
    /// Unlock with FILE from now on; it is made if it is not there
    #[arg(long, value_name = "FILE")]
    pub(super) new_key_file: Option<PathBuf>,
}

impl NewSecretArgs {
    /// Whether it was given in any way but a prompt.
    pub(super) fn is_given(&self) -> bool {
        self.new_passphrase_file.is_some()
            || self.new_key_file.is_some()
            || std::env::var_os(NEW_PASSPHRASE).is_some()
    }

    /// The new secret, and whether its key file had to be made; a prompt asks twice.
    pub(super) fn get(&self, repository: &Path) -> anyhow::Result<(Secret, bool)> {
        if let Some(path) = &self.new_key_file {
            let made = make_key_file(path)?;
            return Ok((read_key_file(path)?, made));
        }
        let passphrase = if let Some(path) = &self.new_passphrase_file {
            read_passphrase_file(path)?
        } else if let Some(passphrase) = variable(NEW_PASSPHRASE)? {
            passphrase
        } else if can_ask() {
            ask_twice(repository, &prompt)?
        } else {
            bail!(
                "a new passphrase is needed and there is no terminal to ask on: set {NEW_PASSPHRASE}, or give --new-passphrase-file or --new-key-file"
            );
        };
        if passphrase.is_empty() {
            bail!(
                "the new passphrase is empty; take several words, or a key file with --new-key-file (nothing was changed)"
            );
        }
        Ok((Secret::Passphrase(passphrase), false))
    }
}

impl SecretArgs {
    /// For what needs no secret.
    pub(super) fn without_secret(trust_changed: bool) -> Self {
        Self { trust_changed, names: FIRST, ..Self::default() }
    }

    /// Whether a secret was given in any way but a prompt.
    pub(super) fn is_given(&self) -> bool {
        let variables = ["PASSPHRASE", "PASSCOMMAND", "PASSPHRASE_FD"];
        self.passphrase_file.is_some()
            || self.key_file.is_some()
            || variables.iter().any(|name| std::env::var_os(self.variable(name)).is_some())
    }

    /// The full name of an environment variable.
    fn variable(&self, name: &str) -> String {
        format!("{}{name}", self.names.variables)
    }

    /// Asks on the terminal, if there is one.
    fn ask(&self, prompt: &str) -> anyhow::Result<Zeroizing<String>> {
        let Names { variables, options } = self.names;
        if !can_ask() {
            bail!(
                "a passphrase is needed and there is no terminal to ask on ({}): set {variables}PASSPHRASE, {variables}PASSCOMMAND or {variables}PASSPHRASE_FD, or give {options}passphrase-file or {options}key-file",
                prompt.trim_end_matches(": ")
            );
        }
        self::prompt(prompt)
    }

    /// The secret for a repository that exists.
    pub(super) fn get(&self, repository: &Path) -> anyhow::Result<Secret> {
        if let Some(secret) = self.given()? {
            return Ok(secret);
        }
        let prompt = format!("Passphrase for {}: ", repository.display());
        Ok(Secret::Passphrase(self.ask(&prompt)?))
    }

    /// The secret for a new repository; a prompt asks twice.
    pub(super) fn get_new(&self, repository: &Path) -> anyhow::Result<Secret> {
        let secret = match self.given()? {
            Some(secret) => secret,
            None => Secret::Passphrase(ask_twice(repository, &|text| self.ask(text))?),
        };
        if matches!(&secret, Secret::Passphrase(text) if text.is_empty()) {
            bail!(
                "the passphrase is empty; for a repository that is not encrypted, ask for --encryption none"
            );
        }
        Ok(secret)
    }

    fn given(&self) -> anyhow::Result<Option<Secret>> {
        if let Some(path) = &self.key_file {
            return read_key_file(path).map(Some);
        }
        let passphrase = if let Some(path) = &self.passphrase_file {
            read_passphrase_file(path)?
        } else if let Some(number) = std::env::var_os(self.variable("PASSPHRASE_FD")) {
            from_descriptor(&self.variable("PASSPHRASE_FD"), &number.to_string_lossy())?
        } else if let Some(passphrase) = variable(&self.variable("PASSPHRASE"))? {
            passphrase
        } else if let Some(command) = variable(&self.variable("PASSCOMMAND"))? {
            from_command(&self.variable("PASSCOMMAND"), &command)?
        } else {
            return Ok(None);
        };
        Ok(Some(Secret::Passphrase(passphrase)))
    }
}

/// The value of a variable, which must be text.
fn variable(name: &str) -> anyhow::Result<Option<Zeroizing<String>>> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(Zeroizing::new(value))),
        Err(std::env::VarError::NotPresent) => Ok(None),
        // The error would show the value.
        Err(std::env::VarError::NotUnicode(_)) => bail!("{name} is not text in UTF-8"),
    }
}

fn read_passphrase_file(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let file = File::open(path).with_context(|| format!("cannot open passphrase file {}", path.display()))?;
    first_line(file).with_context(|| format!("cannot read passphrase file {}", path.display()))
}

/// Whether there is a terminal to ask on.
fn can_ask() -> bool {
    std::io::stderr().is_terminal() || std::io::stdin().is_terminal()
}

type Ask<'a> = &'a dyn Fn(&str) -> anyhow::Result<Zeroizing<String>>;

/// Asks for a new passphrase, twice.
fn ask_twice(repository: &Path, ask: Ask<'_>) -> anyhow::Result<Zeroizing<String>> {
    let first = ask(&format!("New passphrase for {}: ", repository.display()))?;
    if first != ask("The same again: ")? {
        bail!("the two passphrases differ; nothing was made");
    }
    Ok(first)
}

fn prompt(text: &str) -> anyhow::Result<Zeroizing<String>> {
    Ok(Zeroizing::new(rpassword::prompt_password(text).context("cannot ask for the passphrase")?))
}

/// The first line, without its end.
fn first_line(from: impl Read) -> anyhow::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_PASSPHRASE as usize + 1));
    from.take(MAX_PASSPHRASE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_PASSPHRASE {
        bail!("the passphrase is longer than 64 KiB");
    }
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line = std::str::from_utf8(line).context("the passphrase is not text in UTF-8")?;
    Ok(Zeroizing::new(line.to_owned()))
}

fn from_descriptor(variable: &str, number: &str) -> anyhow::Result<Zeroizing<String>> {
    let number: u32 =
        number.parse().ok().with_context(|| format!("{variable} is {number:?}, not a number"))?;
    let file = File::open(format!("/dev/fd/{number}"))
        .with_context(|| format!("{variable} names descriptor {number}, which cannot be read"))?;
    first_line(file).with_context(|| format!("cannot read the passphrase from {variable}"))
}

/// Runs a command without a shell; its words are split as a shell would.
fn from_command(variable: &str, command: &str) -> anyhow::Result<Zeroizing<String>> {
    let words = shlex::split(command).unwrap_or_default();
    let [program, args @ ..] = &words[..] else { bail!("{variable} is empty or has an open quote") };
    let mut child = Command::new(program)
        .args(args)
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("{variable}: cannot run {program:?}"))?;
    let read = child.stdout.take().map(first_line);
    let status = child.wait()?;
    if !status.success() {
        bail!("{variable}: {program:?} failed with {status}");
    }
    read.with_context(|| format!("{variable} gave no output"))?
}

fn read_key_file(path: &Path) -> anyhow::Result<Secret> {
    let file = File::open(path).with_context(|| {
        format!("cannot open key file {}; without it the repository stays locked", path.display())
    })?;
    let mut contents = Zeroizing::new(Vec::new());
    file.take(KEY_FILE.end() + 1)
        .read_to_end(&mut contents)
        .with_context(|| format!("cannot read key file {}", path.display()))?;
    let len = contents.len() as u64;
    if !KEY_FILE.contains(&len) {
        let has = if len < *KEY_FILE.start() { format!("{len} bytes") } else { "too many bytes".into() };
        bail!("key file {} has {has}; 32 to 1048576 are allowed", path.display());
    }
    Ok(Secret::KeyFile(contents))
}

/// Makes a key file of 32 random bytes in hex, readable by its owner only. An existing file is left alone.
pub(super) fn make_key_file(path: &Path) -> anyhow::Result<bool> {
    let mut random = [0; 32];
    getrandom::fill(&mut random)?;
    let mut text: Zeroizing<String> =
        Zeroizing::new(random.iter().map(|byte| format!("{byte:02x}")).collect());
    random.zeroize();
    text.push('\n');
    let made = private::make(path, text.as_bytes());
    made.with_context(|| format!("cannot make key file {}", path.display()))
}

/// Hands a secret to the process that serves a mount: its sort, then its bytes.
pub(super) fn send(secret: Option<&Secret>, to: &mut impl std::io::Write) -> std::io::Result<()> {
    match secret {
        None => to.write_all(b"n"),
        Some(Secret::Passphrase(text)) => to.write_all(b"p").and_then(|()| to.write_all(text.as_bytes())),
        Some(Secret::KeyFile(bytes)) => to.write_all(b"k").and_then(|()| to.write_all(bytes)),
    }
}

/// Takes what [`send`] sent.
pub(super) fn receive(from: impl Read) -> anyhow::Result<Option<Secret>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(*KEY_FILE.end() as usize + 2));
    from.take(KEY_FILE.end() + 2).read_to_end(&mut bytes)?;
    match bytes.split_first() {
        Some((b'n', [])) => Ok(None),
        Some((b'p', text)) => {
            Ok(Some(Secret::Passphrase(Zeroizing::new(std::str::from_utf8(text)?.to_owned()))))
        }
        Some((b'k', contents)) => Ok(Some(Secret::KeyFile(Zeroizing::new(contents.to_vec())))),
        _ => bail!("no secret came from the parent process"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_line_counts() {
        assert_eq!(*first_line(&b"two words\r\nmore\n"[..]).unwrap(), "two words");
        assert_eq!(*first_line(&b""[..]).unwrap(), "");
        assert!(first_line(&b"\xff"[..]).is_err());
    }

    #[test]
    fn commands_run_without_a_shell() {
        assert_eq!(*from_command("X", "printf '%s' 'a b;c'").unwrap(), "a b;c");
        assert!(from_command("X", "false").unwrap_err().to_string().contains("failed with"));
        assert!(from_command("X", "'open").is_err());
        assert!(from_command("X", "/no/such/program").unwrap_err().to_string().contains("cannot run"));
    }

    #[test]
    fn secrets_travel_whole() {
        let secret = Secret::Passphrase(Zeroizing::new("grün".into()));
        let mut pipe = Vec::new();
        send(Some(&secret), &mut pipe).unwrap();
        let Some(Secret::Passphrase(text)) = receive(&pipe[..]).unwrap() else { panic!("a passphrase") };
        assert_eq!(*text, "grün");
        assert!(receive(&b"n"[..]).unwrap().is_none());
        assert!(receive(&b""[..]).is_err());
    }
}
