//! What `copal create` need not read: the map and its base, and what became of them.

use std::fs::File;
use std::io::{self, BufReader};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::archiver::create::{ChangedBlocks, Reused};
use crate::cli::args::ReuseArgs;
use crate::cli::location::Location;
use crate::cli::output::size;
use crate::cli::repository::Opened;
use crate::cli::selection;
use crate::source::ChangedMap;

/// Reads the map of changed blocks, if one was given, and finds its base.
pub(super) fn changed(
    args: &ReuseArgs,
    location: &Location,
    opened: &Opened,
) -> anyhow::Result<Option<ChangedBlocks>> {
    let (Some(path), Some(base)) = (&args.changed_map, &args.base) else { return Ok(None) };
    let base = selection::reference(location, base)?.resolve(&opened.archives)?.id();
    let format = args.changed_map_format.map(Into::into);
    let span_shift = opened.repository.config().span_shift;
    let map = if path.as_os_str() == "-" {
        ChangedMap::read(io::stdin().lock(), format, span_shift)
    } else {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        if file.metadata().is_ok_and(|found| found.is_dir()) {
            bail!("{} is a directory, not a map of changed blocks", path.display());
        }
        ChangedMap::read(BufReader::new(file), format, span_shift)
    };
    let map = map.with_context(|| format!("{} is no map of changed blocks", path.display()))?;
    Ok(Some(ChangedBlocks { map, base, base_token: args.base_token.clone(), trust: args.trust }))
}

/// What a person is told.
pub(super) fn line(reused: &Reused) -> String {
    let Reused { member, archive, data, is_unchanged } = reused;
    if *is_unchanged {
        return format!("Unchanged {member} is as it was in #{:.8}, and was not read", archive.to_string());
    }
    format!("Reused    {} of {member} from #{:.8}", size(*data), archive.to_string())
}

/// What a program is told.
pub(super) fn document(reused: &Reused) -> Value {
    let Reused { member, archive, data, is_unchanged } = reused;
    json!({ "member": member, "archive": archive, "data": data, "unchanged": is_unchanged })
}
