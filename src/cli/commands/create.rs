//! `copal create`.

mod reuse;
mod volumes;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, anyhow, bail};
use serde_json::json;

use crate::archiver::create::{CreateOptions, Created, create};
use crate::archiver::{Error, ReadErrors};
use crate::cli::args::{CreateArgs, ReadErrorsArg};
use crate::cli::exit::is_broken_pipe;
use crate::cli::location::Location;
use crate::cli::output::{self, rfc3339, size, time};
use crate::cli::progress::Progress;
use crate::cli::repository::Opened;
use crate::cli::signals;
use crate::format::limits::{MAX_COMMENT, MAX_MEMBERS, MAX_NAME, MAX_TAGS, MAX_TOKEN};
use crate::format::name::ArchiveName;
use crate::repository::reference::parse_moment;
use crate::source::{SourceSpec, default_member_name};

pub(in crate::cli) fn run(args: &CreateArgs) -> anyhow::Result<()> {
    let location = Location::parse(Some(&args.location))?;
    let name = ArchiveName::new(location.required_reference()?)?;
    let mut options = options(args, name)?;
    let opened = Opened::at(&location.repository, &args.secrets)?;
    options.changed = reuse::changed(&args.reuse, &location, &opened)?;
    let stop = signals::stop()?;
    let progress = Progress::new(true, args.json);
    let created = create(&opened.repository, &options, &stop, &progress);
    progress.clear();
    let created = created.map_err(|error| match error {
        Error::Stopped { .. } => anyhow!(error).context(
            "no archive was made; what was stored so far stays, and is used when the backup is run again",
        ),
        error => error.into(),
    })?;
    created.warnings.iter().for_each(|warning| log::warn!("{warning}"));
    if created.id.is_some() {
        opened.remember()?;
    }
    match report(args, &created) {
        Err(error) if created.id.is_some() && !is_broken_pipe(&error) => {
            log::warn!("the archive is stored, but that could not be told: {error}");
            Ok(())
        }
        told => told,
    }
}

fn options(args: &CreateArgs, name: ArchiveName) -> anyhow::Result<CreateOptions> {
    if args.comment.len() > MAX_COMMENT {
        bail!("the comment is {} bytes long, {MAX_COMMENT} are allowed", args.comment.len());
    }
    if args.tags.len() > MAX_TAGS {
        bail!("{} tags are too many, {MAX_TAGS} are allowed", args.tags.len());
    }
    if args.reuse.source_token.len() > MAX_TOKEN {
        bail!("the source's token is {} bytes long, {MAX_TOKEN} are allowed", args.reuse.source_token.len());
    }
    let read_errors = match args.reuse.read_errors {
        ReadErrorsArg::Stop => ReadErrors::Stop,
        ReadErrorsArg::Zero => ReadErrors::Zero,
    };
    let time = args.timestamp.as_deref().map(parse_moment).transpose().map_err(anyhow::Error::msg)?;
    Ok(CreateOptions {
        name,
        members: members(args)?,
        comment: args.comment.clone(),
        tags: args.tags.iter().map(|tag| ArchiveName::new(tag)).collect::<Result<_, _>>()?,
        time,
        compression: args.compression,
        chunker: args.chunker,
        dry_run: args.dry_run,
        read_errors,
        force_read: args.reuse.force_read,
        source_token: args.reuse.source_token.clone(),
        changed: None,
        skip_unused: args.skip_unused,
    })
}

/// Members and their sources, by unique names.
fn members(args: &CreateArgs) -> anyhow::Result<Vec<(ArchiveName, SourceSpec)>> {
    if args.command {
        let Some((program, rest)) = args.program.split_first() else {
            bail!("--command needs a program behind '--'")
        };
        let spec = SourceSpec::Command { program: program.clone(), args: rest.to_vec() };
        return Ok(vec![(member_name(&spec), spec)]);
    }
    if !args.program.is_empty() {
        bail!("a program stands behind '--', but --command is not given; write --command -- PROGRAM");
    }
    let members = args.sources.iter().map(|source| member(source)).collect::<anyhow::Result<Vec<_>>>()?;
    if members.len() > MAX_MEMBERS {
        bail!("{} sources are too many for one archive, {MAX_MEMBERS} are allowed", members.len());
    }
    for (at, (name, _)) in members.iter().enumerate() {
        if members[..at].iter().any(|(other, _)| other == name) {
            bail!("two sources would be called {name} in the archive; name them with MEMBER=SOURCE");
        }
    }
    if members.iter().filter(|(_, spec)| *spec == SourceSpec::Stdin).count() > 1 {
        bail!("standard input ('-') can be read once only");
    }
    Ok(members)
}

/// `MEMBER=SOURCE`, unless a file of the whole text exists or a slash stands before the sign.
fn member(text: &OsStr) -> anyhow::Result<(ArchiveName, SourceSpec)> {
    let bytes = text.as_bytes();
    let at = bytes.iter().position(|byte| *byte == b'=');
    let named =
        at.filter(|at| *at > 0 && !bytes[..*at].contains(&b'/') && !std::path::Path::new(text).exists());
    let spec = |source: &[u8]| match source {
        b"-" => SourceSpec::Stdin,
        path => SourceSpec::Path(OsString::from(OsStr::from_bytes(path)).into()),
    };
    match named {
        None => {
            let spec = spec(bytes);
            Ok((member_name(&spec), spec))
        }
        Some(at) => {
            let name = std::str::from_utf8(&bytes[..at]).context("a member's name is text in UTF-8")?;
            Ok((ArchiveName::new(name)?, spec(&bytes[at + 1..])))
        }
    }
}

/// A name for a source that was given none: its own, with what the grammar forbids replaced.
fn member_name(spec: &SourceSpec) -> ArchiveName {
    let name = default_member_name(spec);
    ArchiveName::new(&name).unwrap_or_else(|_| {
        let clean: String =
            name.chars().map(|c| if "/@~#*?[:".contains(c) || c.is_control() { '_' } else { c }).collect();
        let clean = clean.trim().trim_start_matches('.');
        let mut end = clean.len().min(MAX_NAME);
        while !clean.is_char_boundary(end) {
            end -= 1;
        }
        let image = || ArchiveName::new("image").expect("a plain word keeps the grammar");
        ArchiveName::new(clean[..end].trim_end()).unwrap_or_else(|_| image())
    })
}

fn report(args: &CreateArgs, created: &Created) -> anyhow::Result<()> {
    let record = &created.record;
    let stats = record.stats;
    let data: u64 = record.members.iter().map(|member| member.data).sum();
    let bad = record.members.iter().flat_map(|member| &member.bad);
    let unread: u64 = bad.map(|(_, len)| len).sum();
    let seconds = (record.finished - record.started) as f64 / 1e9;
    if args.json {
        return output::json(&json!({
            "id": created.id, "name": record.name, "time": rfc3339(record.time), "size": record.size(), "data": data,
            "read": stats.read, "new_chunks": stats.new_chunks, "new_plain": stats.new_plain,
            "new_stored": stats.new_sealed, "reused_chunks": stats.reused_chunks,
            "resumed_chunks": created.resumed.chunks, "resumed_plain": created.resumed.plain, "seconds": seconds,
            "dry_run": created.id.is_none(), "warnings": created.warnings, "unread": unread,
            "reused": created.reused.iter().map(reuse::document).collect::<Vec<_>>(),
            "left_out": record.members.iter().map(|member| member.left_out).sum::<u64>(), "volumes": created.unused,
        }));
    }
    let resumed = (created.resumed.chunks > 0).then(|| {
        format!(
            "Resumed   {} in {} chunks were there from a backup that did not end",
            size(created.resumed.plain),
            created.resumed.chunks
        )
    });
    volumes::print(&created.unused)?;
    if !args.stats && !args.dry_run {
        return output::lines(resumed);
    }
    let what = match created.id {
        Some(id) => format!("Archive   {} #{:.8}, {}", record.name, id.to_string(), time(record.time)),
        None => format!("Dry run   {}: nothing was stored", record.name),
    };
    let lines = [
        what,
        format!("Size      {}, of which {} in data", size(record.size()), size(data)),
        format!("Read      {} in {seconds:.1} s", size(stats.read)),
        format!("Chunks    {} new, {} already there", stats.new_chunks, stats.reused_chunks),
        format!("Stored    {} for {} of new data", size(stats.new_sealed), size(stats.new_plain)),
    ];
    output::lines(lines.into_iter().chain(created.reused.iter().map(reuse::line)).chain(resumed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_named_by_hand_or_by_their_source() {
        let member = |text: &str| member(OsStr::new(text)).map(|(name, spec)| (name.to_string(), spec));
        let path = |path: &str| SourceSpec::Path(path.into());
        assert_eq!(
            member("/dev/vg0/web01-snap").unwrap(),
            ("web01-snap".into(), path("/dev/vg0/web01-snap"))
        );
        assert_eq!(member("vda=/dev/sda").unwrap(), ("vda".into(), path("/dev/sda")));
        assert_eq!(member("/x=y/disk.img").unwrap(), ("disk.img".into(), path("/x=y/disk.img")));
        assert_eq!(member("-").unwrap(), ("stdin".into(), SourceSpec::Stdin));
        assert_eq!(member("root=-").unwrap(), ("root".into(), SourceSpec::Stdin));
        assert_eq!(member("/a/.x@y#").unwrap().0, "x_y_");
        assert_eq!(member("/a/..").unwrap().0, "image");
        assert!(member("a@b=/dev/sda").is_err());
    }
}
