//! What `copal cp` says of files that were not copied as they were: one by one as far as that helps, and in numbers.

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::cli::logger;
use crate::cli::output::{count, escaped, put_bytes, size};
use crate::cli::progress::Progress;
use crate::filesystem::Kind;
use crate::restore::{ACCESS, DEFAULT, Fact, Summary, Teller, Unset};

/// How many files are told one by one that were not copied, or have other names.
const MAX_TOLD: usize = 1000;
/// How many that lack something that the destination did not take: often it takes that from none.
const MAX_UNSET_TOLD: u64 = 20;
/// Memory for the names in the JSON document, in bytes: a million of them, but not what a hostile image could ask for.
const MAX_NAMED: usize = 256 << 20;
/// What an entry of the document takes besides its texts, about.
const ENTRY: usize = 256;

/// Tells of single files while they are copied.
pub(super) struct Voice {
    pub(super) progress: Progress,
    /// Whether a document is wanted.
    as_json: bool,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    failed: List,
    renamed: List,
    unset: List,
    skipped: List,
    /// Bytes of all documents, about.
    bytes: usize,
}

#[derive(Default)]
struct List {
    told: u64,
    documents: Vec<Value>,
}

impl Voice {
    pub(super) fn new(progress: Progress, as_json: bool) -> Self {
        Self { progress, as_json, heard: Mutex::default() }
    }

    fn tell(
        &self,
        list: impl FnOnce(&mut Heard) -> &mut List,
        most: u64,
        document: impl FnOnce() -> Value,
        text: &str,
    ) {
        let mut heard = self.heard.lock();
        heard.bytes += text.len() + ENTRY;
        let has_room = self.as_json && heard.bytes <= MAX_NAMED;
        let list = list(&mut heard);
        if has_room {
            list.documents.push(document());
        }
        list.told += 1;
        if list.told <= most {
            self.progress.aside(|| log::warn!("{text}"));
        }
    }

    /// All that was told.
    pub(super) fn document(self) -> Value {
        let heard = self.heard.into_inner();
        json!({
            "failed": heard.failed.documents, "renamed": heard.renamed.documents, "not_set": heard.unset.documents,
            "skipped": heard.skipped.documents,
        })
    }
}

impl Teller for Voice {
    fn failed(&self, path: &[u8], why: &str) {
        let document = || {
            let mut document = json!({ "reason": why });
            put_bytes(&mut document, "path", path);
            document
        };
        let text = format!("{}: {why}", escaped(path));
        self.tell(|heard| &mut heard.failed, MAX_TOLD as u64, document, &text);
    }

    fn skipped(&self, path: &[u8], kind: Kind) {
        let document = || {
            let mut document = json!({ "kind": kind.name() });
            put_bytes(&mut document, "path", path);
            document
        };
        self.tell(|heard| &mut heard.skipped, 0, document, &escaped(path));
    }

    fn renamed(&self, path: &[u8], name: &[u8]) {
        let document = || {
            let mut document = json!({});
            put_bytes(&mut document, "path", path);
            put_bytes(&mut document, "name", name);
            document
        };
        let (shown, there) = (escaped(path), escaped(name));
        let text = format!("{shown}: the destination cannot hold this name; it is {there} there");
        self.tell(|heard| &mut heard.renamed, MAX_TOLD as u64, document, &text);
    }

    fn unset(&self, path: &[u8], missing: &[Unset]) {
        let document = || {
            let mut document = json!({ "missing": missing.iter().map(fact_document).collect::<Vec<_>>() });
            put_bytes(&mut document, "path", path);
            document
        };
        let missing: Vec<_> =
            missing.iter().map(|one| format!("{} ({})", shown(&one.what), one.why)).collect();
        let text = format!("{} is copied without its {}", escaped(path), missing.join(", "));
        self.tell(|heard| &mut heard.unset, MAX_UNSET_TOLD, document, &text);
    }
}

fn shown(fact: &Fact) -> String {
    match fact {
        Fact::Owner(user, group) => format!("owner {user}:{group}"),
        Fact::Mode(mode) => format!("mode {mode:04o}"),
        Fact::Times => "times".into(),
        Fact::Attribute(name) if name == ACCESS => "access list".into(),
        Fact::Attribute(name) if name == DEFAULT => "access list for what is made in it".into(),
        Fact::Attribute(name) => format!("attribute {}", escaped(name)),
    }
}

fn fact_document(missing: &Unset) -> Value {
    let mut document = match &missing.what {
        Fact::Owner(user, group) => json!({ "what": "owner", "uid": user, "gid": group }),
        Fact::Mode(mode) => json!({ "what": "mode", "mode": format!("{mode:04o}") }),
        Fact::Times => json!({ "what": "times" }),
        Fact::Attribute(_) => json!({ "what": "attribute" }),
    };
    if let Fact::Attribute(name) = &missing.what {
        put_bytes(&mut document, "name", name);
    }
    document["reason"] = missing.why.to_string().into();
    document
}

/// Tells once what concerns many files.
pub(super) fn tell(summary: &Summary, no_owner: bool) {
    if summary.failed > 0 {
        let named = if summary.failed > MAX_TOLD as u64 {
            format!(", of which {MAX_TOLD} are named")
        } else {
            String::new()
        };
        log::warn!("not copied: {}{named}", count(summary.failed, "path"));
    }
    if summary.unset > 0 {
        log::warn!("{}", unset(summary));
    }
    for note in
        [left(summary, no_owner), skipped(summary), streams(summary), swept(summary)].into_iter().flatten()
    {
        logger::line(&format!("copal: {note}"));
    }
}

/// So many of each, without those of which there are none.
fn listed(counts: &[(u64, &str)]) -> String {
    let some = counts.iter().filter(|(number, _)| *number > 0);
    some.map(|(number, of)| count(*number, of)).collect::<Vec<_>>().join(", ")
}

/// What the destination did not take.
fn unset(summary: &Summary) -> String {
    let all = listed(&[
        (summary.unset_owners, "owner"),
        (summary.unset_modes, "mode"),
        (summary.unset_times, "time"),
        (summary.unset_attributes, "extended attribute"),
    ]);
    let named = if summary.unset > MAX_UNSET_TOLD {
        format!("; {MAX_UNSET_TOLD} of them are named here, all with --json")
    } else {
        String::new()
    };
    format!("the destination did not take all that belongs to {}: {all}{named}", count(summary.unset, "path"))
}

/// What was not tried, which is nothing to warn of.
fn left(summary: &Summary, no_owner: bool) -> Option<String> {
    let all = listed(&[
        (summary.left_owners, "owner"),
        (summary.left_identities, "set-id bit"),
        (summary.left_attributes, "system attribute"),
    ]);
    if all.is_empty() {
        return None;
    }
    let why = match () {
        () if no_owner => "left out, as --no-owner says",
        () if rustix::process::geteuid().is_root() => "left out with owners that could not be set",
        () => "not set, since only root may: what was copied is yours",
    };
    Some(format!("{why}: {all}"))
}

fn skipped(summary: &Summary) -> Option<String> {
    let skipped = summary.skipped;
    (skipped > 0).then(|| format!("{skipped} left out (devices, pipes, sockets; --devices makes them)"))
}

fn streams(summary: &Summary) -> Option<String> {
    let streams = count(summary.streams, "stream");
    let text = format!("{streams} beside the contents of files not copied ('copal ls -l' names them)");
    (summary.streams > 0).then_some(text)
}

fn swept(summary: &Summary) -> Option<String> {
    let files = count(summary.swept, "temporary file");
    (summary.swept > 0)
        .then(|| format!("{files} of a 'copal cp' that was killed removed from the destination"))
}

/// The numbers for programs.
pub(super) fn counts(summary: &Summary) -> Value {
    json!({
        "files": summary.files, "directories": summary.directories, "links": summary.links, "hard_links": summary.hard_links,
        "specials": summary.specials, "skipped": summary.skipped, "bytes": summary.bytes, "streams": summary.streams,
        "owners_not_set": summary.unset_owners + summary.left_owners, "modes_not_set": summary.unset_modes,
        "times_not_set": summary.unset_times,
        "attributes_not_set": summary.unset_attributes + summary.left_attributes,
        "set_id_bits_not_set": summary.left_identities, "incomplete": summary.unset, "renamed": summary.renamed, "leftovers_removed": summary.swept,
        "failed": summary.failed,
    })
}

/// The numbers for people.
pub(super) fn counted(summary: &Summary, dry_run: bool) -> String {
    let verb = if dry_run { "Would copy" } else { "Copied" };
    let mut text = format!("{verb} {} ({} of data)", count(summary.files, "file"), size(summary.bytes));
    for (number, of) in [
        (summary.directories, "directory"),
        (summary.links, "symbolic link"),
        (summary.hard_links, "hard link"),
        (summary.specials, "special file"),
    ] {
        if number > 0 {
            text.push_str(&format!(", {}", count(number, of).replace("directorys", "directories")));
        }
    }
    text
}
