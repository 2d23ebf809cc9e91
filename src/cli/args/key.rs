//! The arguments of `copal key`.

use std::ffi::OsString;

use clap::{Args, Subcommand};

use crate::cli::secret::{NewSecretArgs, SecretArgs};

#[derive(Debug, Args)]
pub(in crate::cli) struct KeyArgs {
    #[command(subcommand)]
    pub(in crate::cli) command: KeyCommand,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum KeyCommand {
    /// List key slots
    #[command(after_help = "Example: copal key list /srv/backups")]
    List(KeyListArgs),
    /// Make another slot, with a passphrase or a key file of its own
    #[command(
        after_help = "Example: copal key add /srv/backups --label 'night shift' --new-key-file /root/copal.key"
    )]
    Add(KeyAddArgs),
    /// Remove a slot; its secret opens nothing any more, and need not be known
    #[command(after_help = "\
Example: copal key remove /srv/backups 1f2e3d
The repository is opened with the secret of a slot that stays. So the last slot is never removed.")]
    Remove(KeyRemoveArgs),
    /// Replace the passphrase or key file that opens the repository
    #[command(after_help = "Example: copal key change-passphrase /srv/backups")]
    ChangePassphrase(KeyChangeArgs),
    /// Write the keys themselves to a file or to paper, for the day when every secret is lost
    #[command(after_help = "\
Examples:
  copal key export /srv/backups /media/stick/copal-recovery.txt
  copal key export /srv/backups - --paper | lp
Nothing protects the keys in either form: who has it reads every backup.")]
    Export(KeyExportArgs),
    /// Make a slot with a new secret from exported keys; no other secret is needed
    #[command(after_help = "\
Examples:
  copal key import /srv/backups /media/stick/copal-recovery.txt
  copal key import /srv/backups -      # then type the lines of the paper, and Ctrl-D")]
    Import(KeyImportArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct KeyListArgs {
    /// Repository
    #[arg(value_name = "REPO")]
    pub(in crate::cli) location: Option<OsString>,
    /// Print one JSON document
    #[arg(long)]
    pub(in crate::cli) json: bool,
    #[command(flatten)]
    pub(in crate::cli) secrets: SecretArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct KeyAddArgs {
    /// Repository
    #[arg(value_name = "REPO")]
    pub(in crate::cli) location: Option<OsString>,
    /// What to call the slot, up to 200 bytes
    #[arg(long, value_parser = parse_label, default_value = "")]
    pub(in crate::cli) label: String,
    /// Print one JSON document
    #[arg(long)]
    pub(in crate::cli) json: bool,
    #[command(flatten)]
    pub(in crate::cli) new: NewSecretArgs,
    #[command(flatten)]
    pub(in crate::cli) secrets: SecretArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct KeyRemoveArgs {
    /// Repository, and the beginning of the slot's id, or its label where your secret opens it
    #[arg(value_names = ["REPO", "SLOT"], num_args = 1..=2, required = true)]
    pub(in crate::cli) words: Vec<OsString>,
    /// Print one JSON document
    #[arg(long)]
    pub(in crate::cli) json: bool,
    #[command(flatten)]
    pub(in crate::cli) secrets: SecretArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct KeyChangeArgs {
    /// Repository
    #[arg(value_name = "REPO")]
    pub(in crate::cli) location: Option<OsString>,
    /// Print one JSON document
    #[arg(long)]
    pub(in crate::cli) json: bool,
    #[command(flatten)]
    pub(in crate::cli) new: NewSecretArgs,
    #[command(flatten)]
    pub(in crate::cli) secrets: SecretArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct KeyExportArgs {
    /// Repository, and a new file, or '-' for standard output
    #[arg(value_names = ["REPO", "FILE"], num_args = 1..=2, required = true)]
    pub(in crate::cli) words: Vec<OsString>,
    /// Write lines to print and to type back, each with a checksum
    #[arg(long)]
    pub(in crate::cli) paper: bool,
    #[command(flatten)]
    pub(in crate::cli) secrets: SecretArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct KeyImportArgs {
    /// Repository, and the exported file, or '-' for standard input
    #[arg(value_names = ["REPO", "FILE"], num_args = 1..=2, required = true)]
    pub(in crate::cli) words: Vec<OsString>,
    /// What to call the slot, up to 200 bytes
    #[arg(long, value_parser = parse_label, default_value = "")]
    pub(in crate::cli) label: String,
    /// Print one JSON document
    #[arg(long)]
    pub(in crate::cli) json: bool,
    #[command(flatten)]
    pub(in crate::cli) new: NewSecretArgs,
    /// Accept a repository that was swapped or rolled back since this machine last saw it
    #[arg(long)]
    pub(in crate::cli) trust_changed: bool,
}

fn parse_label(text: &str) -> Result<String, String> {
    crate::format::slot::check_label(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}
