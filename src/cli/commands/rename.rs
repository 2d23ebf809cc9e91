//! `copal rename`.

use anyhow::bail;
use serde_json::json;

use crate::cli::args::RenameArgs;
use crate::cli::location::Location;
use crate::cli::output;
use crate::cli::repository::Opened;
use crate::cli::selection::{count, references, select};
use crate::format::name::ArchiveName;
use crate::repository::states::{Change, apply};

pub(in crate::cli) fn run(args: &RenameArgs) -> anyhow::Result<()> {
    let location = Location::parse(Some(&args.location))?;
    let references = references(&location, &[])?;
    let name = ArchiveName::new(&args.name)?;
    let opened = Opened::at(&location.repository, &args.secrets)?;
    let chosen = select(&references, &opened.archives, args.all)?;
    let others = opened.archives.iter().filter(|archive| archive.name == name);
    let others = others.filter(|archive| chosen.iter().all(|chosen| chosen.id() != archive.id())).count();
    if others > 0 && !args.merge {
        bail!(
            "{} called {name} already; their histories would become one, which 'prune' judges together; if that is right, repeat with --merge",
            if others == 1 { "1 archive is".to_owned() } else { format!("{others} archives are") }
        );
    }
    let changed: Vec<_> = chosen.into_iter().filter(|archive| archive.name != name).collect();
    let changes: Vec<_> =
        changed.iter().map(|archive| (archive.id(), Change::Rename(name.clone()))).collect();
    if !changes.is_empty() {
        let renamed = apply(&opened.repository, &format!("rename to {name}"), &changes);
        opened.remember()?;
        renamed?;
    }
    if args.json {
        let ids: Vec<_> = changed.iter().map(|archive| archive.id()).collect();
        return output::json(&json!({ "name": name, "renamed": ids }));
    }
    output::lines([format!("{} renamed to {name}", count(changes.len()))])
}
