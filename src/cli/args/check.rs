//! Arguments of `copal check`.

use std::ffi::OsString;

use clap::Args;

use crate::cli::output::parse_size;
use crate::cli::secret::SecretArgs;
use crate::maintenance::check::subset::Subset;

pub(super) const AFTER_HELP: &str = "\
Examples:
  copal check /srv/backups
  copal check /srv/backups --verify-data
  copal check /srv/backups --verify-data --subset $(date +%-d)/31      each night a part, each month all
  copal check /srv/backups::web01 --verify-data
  copal check /srv/backups --repair
Exit codes: 0 all is well, 1 damage or a missing second copy was found, 2 the check failed.";

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("opens").multiple(true)))]
pub(in crate::cli) struct CheckArgs {
    /// Repository, or one archive in it
    #[arg(value_name = "REPO[::ARCHIVE]")]
    pub(in crate::cli) location: Option<OsString>,
    /// Open every chunk and recompute its id
    #[arg(long, group = "opens")]
    pub(in crate::cli) verify_data: bool,
    /// Repair what can be repaired: write lost copies again, rebuild the index, put bad packs aside, give up what is lost so that the rest stays
    /// readable; opens every chunk before
    #[arg(long, group = "opens")]
    pub(in crate::cli) repair: bool,
    /// Open a part of the packs only: 3/30 (always the same third of thirty), 5% or 20GiB (drawn anew each time)
    #[arg(long, value_name = "PART", value_parser = parse_subset, requires = "opens")]
    pub(in crate::cli) subset: Option<Subset>,
    /// Check these archives only; can be given several times
    #[arg(long = "archive", value_name = "ARCHIVE")]
    pub(in crate::cli) archives: Vec<String>,
    /// Print one JSON document
    #[arg(long)]
    pub(in crate::cli) json: bool,
    #[command(flatten)]
    pub(in crate::cli) secrets: SecretArgs,
}

fn parse_subset(text: &str) -> Result<Subset, String> {
    let bad = || format!("{text:?} is no part; write 3/30, 5% or 20GiB");
    if let Some((number, of)) = text.split_once('/') {
        let (number, of) = (number.trim().parse().map_err(|_| bad())?, of.trim().parse().map_err(|_| bad())?);
        if number == 0 || number > of {
            return Err(format!("{text:?} is no part; parts of {of} are 1/{of} to {of}/{of}"));
        }
        return Ok(Subset::Part { number, of });
    }
    if let Some(percent) = text.strip_suffix('%') {
        let percent = percent.trim().parse().ok().and_then(Subset::percent);
        return percent.ok_or_else(|| format!("{text:?} is no part; write a percentage from 0.01% to 100%"));
    }
    parse_size(text).map_err(|_| bad()).and_then(|bytes| match bytes {
        0 => Err(bad()),
        bytes => Ok(Subset::Bytes(bytes)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        assert_eq!(parse_subset("3/30"), Ok(Subset::Part { number: 3, of: 30 }));
        assert_eq!(parse_subset("5%"), Ok(Subset::Share(500)));
        assert_eq!(parse_subset("20GiB"), Ok(Subset::Bytes(20 << 30)));
        for bad in ["", "0/30", "31/30", "3/", "0%", "101%", "x%", "0", "20X", "-1/3"] {
            assert!(parse_subset(bad).is_err(), "{bad}");
        }
    }
}
