//! `copal compact`.

use serde_json::json;

use crate::cli::args::CompactArgs;
use crate::cli::location::Location;
use crate::cli::output::{self, count, rfc3339, size, time};
use crate::cli::progress::Progress;
use crate::cli::repository::Opened;
use crate::cli::signals;
use crate::maintenance::compact::{CompactOptions, Compacted, Waiting, compact};
use crate::repository::liveness::SILENCE;

pub(in crate::cli) fn run(args: &CompactArgs) -> anyhow::Result<()> {
    let path = Location::parse(args.location.as_deref())?.repository_only()?;
    let opened = Opened::at(&path, &args.secrets)?;
    let options = CompactOptions { threshold: args.threshold, now: args.now, dry_run: args.dry_run };
    let stop = signals::stop()?;
    let progress = Progress::new(false, args.json || args.dry_run);
    let compacted = compact(&opened.repository, &options, &stop, &progress);
    progress.clear();
    let compacted = compacted?;
    for archive in &compacted.cleared.incomplete {
        log::warn!(
            "archive {archive} was never finished and lacks data: delete it with 'copal delete' (#{archive})"
        );
    }
    for pack in &compacted.plan.unreadable {
        log::warn!("pack {pack} cannot be read and stays as it is: run 'copal check --repair'");
    }
    if args.json {
        output::json(&document(args, &compacted))?;
    } else {
        output::lines(told(args, &compacted))?;
    }
    match compacted.stopped {
        Some(reason) => Err(anyhow::anyhow!(
            "there was no space to rewrite half-used packs ({reason}): free some elsewhere, then compact again"
        )),
        None => Ok(()),
    }
}

fn told(args: &CompactArgs, compacted: &Compacted) -> Vec<String> {
    let plan = &compacted.plan;
    let mut lines = vec![format!(
        "Stored     {} in {} packs; archives need {}",
        size(plan.stored),
        plan.packs,
        size(plan.live)
    )];
    if args.dry_run {
        let ((dead, dead_bytes), (half, half_dead, half_live)) = (plan.dead(), plan.half_dead());
        lines.push(format!("Would free {} in {dead} packs that no archive needs", size(dead_bytes)));
        lines.push(format!(
            "           {} in {half} packs that are rewritten, which stores {} anew",
            size(half_dead),
            size(half_live)
        ));
        lines.push(format!(
            "Records    {} of deleted archives would go, and could not be undeleted",
            plan.archives
        ));
    } else {
        lines.push(match compacted.packs {
            0 => "Freed      nothing".into(),
            packs => format!(
                "Freed      {}: {} with {} went, {} were stored in new packs",
                size(compacted.freed.saturating_sub(compacted.rewritten)),
                count(packs, "pack"),
                size(compacted.freed),
                size(compacted.rewritten)
            ),
        });
        if compacted.archives > 0 {
            lines.push(format!("Records    {} of deleted archives are gone", compacted.archives));
        }
    }
    if plan.tolerated > 0 {
        lines.push(format!(
            "Stays      {} that no archive needs, in packs of which it is less than {} %",
            size(plan.tolerated),
            args.threshold
        ));
    }
    lines.extend(compacted.waiting.values().map(waits));
    if !compacted.spared.is_empty() {
        lines.push(format!("Spared     {} packs that are needed after all", compacted.spared.len()));
    }
    let cleared = &compacted.cleared;
    if cleared.sessions > 0 {
        lines.push(format!(
            "Sessions   {} of dead processes were cleared away; {} archives of theirs are whole and confirmed",
            cleared.sessions,
            cleared.confirmed.len()
        ));
    }
    if cleared.unpublished > 0 {
        lines.push(format!("Removed    {} files that interrupted writers left", cleared.unpublished));
    }
    lines
}

/// What waits, for whom, and until when.
fn waits(waiting: &Waiting) -> String {
    let what = format!("Waits      {} in {} packs, until ", size(waiting.bytes), waiting.packs);
    let Some(session) = &waiting.session.session else {
        return format!("{what}session {} is gone, which cannot be read", waiting.session.id);
    };
    let silent = session.heartbeat.saturating_add(i64::try_from(SILENCE.as_nanos()).unwrap_or(i64::MAX));
    format!(
        "{what}'{}' on {} (process {}, {}, begun {}) ends; then compact again. If it died, {} at the latest; --now does not wait",
        output::escaped(session.what.as_bytes()),
        output::escaped(session.host.as_bytes()),
        session.pid,
        waiting.session.liveness.as_str(),
        time(session.started),
        time(silent)
    )
}

fn document(args: &CompactArgs, compacted: &Compacted) -> serde_json::Value {
    let plan = &compacted.plan;
    let ((dead, dead_bytes), (half, half_dead, half_live)) = (plan.dead(), plan.half_dead());
    let waiting = compacted.waiting.values().map(|waiting| {
        let session = waiting.session.session.as_ref();
        json!({
            "session": waiting.session.id, "packs": waiting.packs, "bytes": waiting.bytes,
            "what": session.map(|session| &session.what), "host": session.map(|session| &session.host),
            "pid": session.map(|session| session.pid), "state": waiting.session.liveness.as_str(),
            "started": session.map(|session| rfc3339(session.started)),
            "heartbeat": session.map(|session| rfc3339(session.heartbeat)),
        })
    });
    json!({
        "dry_run": args.dry_run, "packs": plan.packs, "stored": plan.stored, "live": plan.live,
        "dead": { "packs": dead, "bytes": dead_bytes },
        "half_dead": { "packs": half, "dead": half_dead, "live": half_live },
        "tolerated": plan.tolerated, "unreadable": plan.unreadable, "deleted_archives": plan.archives,
        "removed": { "packs": compacted.packs, "bytes": compacted.freed, "archives": compacted.archives },
        "rewritten": compacted.rewritten, "spared": compacted.spared,
        "waiting": waiting.collect::<Vec<_>>(),
        "sessions": {
            "cleared": compacted.cleared.sessions, "confirmed": compacted.cleared.confirmed,
            "incomplete": compacted.cleared.incomplete, "unpublished": compacted.cleared.unpublished,
        },
        "stopped": compacted.stopped,
    })
}
