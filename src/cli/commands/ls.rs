//! `copal ls`.

use std::collections::HashSet;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;

use serde_json::{Value, json};

use crate::cli::args::LsArgs;
use crate::cli::inside::{Inner, Inside, archive, named};
use crate::cli::output::{self, escaped, put_bytes, size};
use crate::cli::repository::Opened;
use crate::filesystem::path::{Place, expand, find};
use crate::filesystem::{self, Entry, Filesystem, Kind, Metadata, Node, Time};
use crate::image::reader::ImageReader;

/// For chunks of directories and inodes.
const CACHE: usize = 64 << 20;

pub(in crate::cli) fn run(args: &LsArgs) -> anyhow::Result<()> {
    let inside = Inside::parse(&args.location)?;
    let opened = Opened::at(&inside.location.repository, &args.secrets)?;
    let (archive, part) = archive(&inside, &opened)?;
    let record = opened.repository.record(archive.id())?;
    let reader = ImageReader::new(opened.repository.clone(), CACHE);
    let inner = Inner::new(&reader, &record, args.member.as_deref(), named(&inside, archive, part))?;
    if part.is_none() && inside.path.is_none() && args.paths.is_empty() {
        return show_parts(&inner, args.json);
    }
    let part = inner.part(part)?;
    let filesystem = inner.open(part)?;
    let mut paths: Vec<Vec<u8>> = inside.path.iter().cloned().collect();
    paths.extend(args.paths.iter().map(|path| path.as_bytes().to_vec()));
    if paths.is_empty() {
        paths.push(b"/".to_vec());
    }
    let mut listing = Listing::new(&*filesystem, args);
    paths.iter().try_for_each(|path| listing.path(path))?;
    listing.finish()
}

/// The table of parts.
fn show_parts(inner: &Inner<'_>, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        let part = |part: &crate::partition::Part| {
            json!({
                "number": part.number, "name": part.name, "filesystem": part.filesystem, "label": part.label,
                "uuid": part.uuid, "start": part.start, "size": part.len,
                "readable": part.filesystem.as_deref().is_some_and(filesystem::is_known),
            })
        };
        let parts: Vec<_> = inner.parts.iter().map(part).collect();
        return output::json(&json!({ "member": inner.member.name, "parts": parts, "notes": inner.remarks }));
    }
    let head = ["PART", "NAME", "FILESYSTEM", "LABEL", "SIZE"].map(str::to_owned).to_vec();
    let row = |part: &crate::partition::Part| {
        let filesystem = part.filesystem.clone().unwrap_or_else(|| "-".into());
        let label = escaped(part.label.as_bytes());
        vec![part.number.to_string(), part.name.clone(), filesystem, label, size(part.len)]
    };
    let rows: Vec<_> = std::iter::once(head).chain(inner.parts.iter().map(row)).collect();
    output::table(&rows, &[0, 4])?;
    output::lines(inner.remarks.iter().map(|remark| format!("note: {remark}")))
}

/// What is being listed.
struct Listing<'a> {
    filesystem: &'a dyn Filesystem,
    args: &'a LsArgs,
    out: BufWriter<io::StdoutLock<'static>>,
    is_terminal: bool,
    documents: Vec<Value>,
    /// Directories that were listed: none is twice, however the filesystem is damaged.
    seen: HashSet<Node>,
    several: bool,
}

impl<'a> Listing<'a> {
    fn new(filesystem: &'a dyn Filesystem, args: &'a LsArgs) -> Self {
        let out = BufWriter::new(io::stdout().lock());
        let is_terminal = io::stdout().is_terminal();
        Self {
            filesystem,
            args,
            out,
            is_terminal,
            documents: Vec::new(),
            seen: HashSet::new(),
            several: args.recursive || args.paths.len() > 1,
        }
    }

    fn path(&mut self, path: &[u8]) -> anyhow::Result<()> {
        let places = match expand(self.filesystem, path) {
            Err(error) => {
                log::warn!("{}: {}", escaped(path), error.told());
                return Ok(());
            }
            // A link that is named with a slash behind is meant to be followed.
            Ok(places) if path.ends_with(b"/") && places.len() == 1 => {
                vec![find(self.filesystem, path, true)?]
            }
            Ok(places) => places,
        };
        self.several |= places.len() > 1;
        let mut directories = Vec::new();
        for place in places {
            match self.metadata(&place) {
                Some(found) if found.kind == Kind::Directory && !self.args.directory => {
                    directories.push(place);
                }
                Some(found) => self.line(&place, &place.path(), &found)?,
                None => {}
            }
        }
        directories.into_iter().try_for_each(|place| self.directory(place))
    }

    fn metadata(&self, place: &Place) -> Option<Metadata> {
        match self.filesystem.metadata(place.node) {
            Ok(found) => Some(found),
            Err(error) => {
                log::warn!("{}: {}", escaped(&place.path()), error.told());
                None
            }
        }
    }

    /// Lists a directory, and with `-R` those below it.
    fn directory(&mut self, place: Place) -> anyhow::Result<()> {
        let mut waiting = vec![place];
        while let Some(place) = waiting.pop() {
            if !self.seen.insert(place.node) {
                continue;
            }
            let Some(entries) = self.entries(&place) else { continue };
            if self.several && !self.args.json {
                self.name(&place.path())?;
                self.out.write_all(b":\n")?;
            }
            let mut below = Vec::new();
            for entry in &entries {
                if self.entry(&place.below(entry), entry)? && self.args.recursive {
                    below.push(place.below(entry));
                }
            }
            if self.several && !self.args.json {
                self.out.write_all(b"\n")?;
            }
            waiting.extend(below.into_iter().rev());
        }
        Ok(())
    }

    /// The names in a directory that are to be shown, in their order.
    fn entries(&self, place: &Place) -> Option<Vec<Entry>> {
        let mut entries = match self.filesystem.list(place.node) {
            Ok(entries) => entries,
            Err(error) => {
                log::warn!("{}: {}", escaped(&place.path()), error.told());
                return None;
            }
        };
        entries.retain(|entry| self.args.all || !self.filesystem.is_own(entry.node));
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Some(entries)
    }

    /// Shows a name in a directory; says whether it is a directory. What is known of it is read only if it is wanted.
    fn entry(&mut self, place: &Place, entry: &Entry) -> anyhow::Result<bool> {
        if let Some(is_directory) = entry.is_directory.filter(|_| !self.args.long && !self.args.json) {
            self.plain(&entry.name)?;
            return Ok(is_directory);
        }
        let Some(found) = self.metadata(place) else {
            self.plain(&entry.name)?;
            return Ok(false);
        };
        self.line(place, &entry.name, &found)?;
        Ok(found.kind == Kind::Directory)
    }

    fn plain(&mut self, name: &[u8]) -> anyhow::Result<()> {
        if !self.args.json {
            self.name(name)?;
            self.out.write_all(b"\n")?;
        }
        Ok(())
    }

    fn name(&mut self, name: &[u8]) -> io::Result<()> {
        if self.is_terminal { self.out.write_all(escaped(name).as_bytes()) } else { self.out.write_all(name) }
    }

    fn line(&mut self, place: &Place, name: &[u8], found: &Metadata) -> anyhow::Result<()> {
        let target = if found.kind == Kind::Link { self.filesystem.target(place.node).ok() } else { None };
        if self.args.json {
            self.documents.push(document(place, found, target.as_deref()));
            return Ok(());
        }
        if !self.args.long {
            return self.plain(name);
        }
        write!(self.out, "{} ", facts(found))?;
        self.name(name)?;
        if let Some(target) = target {
            self.out.write_all(b" -> ")?;
            self.name(&target)?;
        }
        self.out.write_all(b"\n")?;
        for (stream, len) in &found.streams {
            write!(self.out, "{:>57} ", size_column(*len))?;
            self.name(&[name, b":", stream].concat())?;
            self.out.write_all(b"\n")?;
        }
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<()> {
        self.out.flush()?;
        if self.args.json {
            return output::json(&json!({ "entries": self.documents }));
        }
        Ok(())
    }
}

fn size_column(bytes: u64) -> String {
    bytes.to_string()
}

/// What stands in front of a name in a long listing.
fn facts(found: &Metadata) -> String {
    let permissions = found.mode.map_or_else(|| "---------".to_owned(), permissions);
    let (user, group) =
        found.owner.map_or(("-".into(), "-".into()), |(user, group)| (user.to_string(), group.to_string()));
    let size = match found.kind {
        Kind::Character(major, minor) | Kind::Block(major, minor) => format!("{major}, {minor}"),
        _ => size_column(found.size),
    };
    let time = moment(found.modified, "%Y-%m-%d %H:%M:%SZ");
    format!(
        "{}{permissions} {:>3} {user:>5} {group:>5} {size:>12} {time:>20}",
        found.kind.letter(),
        found.links
    )
}

/// Permission bits as `ls -l` writes them.
fn permissions(mode: u16) -> String {
    let mut text: Vec<char> = "rwxrwxrwx".chars().collect();
    for (at, c) in text.iter_mut().enumerate() {
        if mode & (0o400 >> at) == 0 {
            *c = '-';
        }
    }
    for (bit, at, plain, marked) in [(0o4000, 2, 'S', 's'), (0o2000, 5, 'S', 's'), (0o1000, 8, 'T', 't')] {
        if mode & bit != 0 {
            text[at] = if text[at] == '-' { plain } else { marked };
        }
    }
    text.into_iter().collect()
}

/// A moment as people or programs read it.
fn moment(time: Time, format: &str) -> String {
    let nanoseconds = i32::try_from(time.nanoseconds).unwrap_or(0);
    jiff::Timestamp::new(time.seconds, nanoseconds)
        .map_or_else(|_| "unknown".into(), |time| time.strftime(format).to_string())
}

/// An entry for programs. Bytes that are not text are escaped as on a terminal, and the name is there in hex then, too.
fn document(place: &Place, found: &Metadata, target: Option<&[u8]>) -> Value {
    let path = place.path();
    let mut document = json!({
        "kind": found.kind.name(), "size": found.size, "links": found.links, "node": place.node.0,
        "mode": found.mode.map(|mode| format!("{mode:04o}")), "modified": moment(found.modified, "%Y-%m-%dT%H:%M:%S.%NZ"),
        "uid": found.owner.map(|(user, _)| user), "gid": found.owner.map(|(_, group)| group),
    });
    put_bytes(&mut document, "path", &path);
    if let Some(target) = target {
        put_bytes(&mut document, "target", target);
    }
    if let Kind::Character(major, minor) | Kind::Block(major, minor) = found.kind {
        document["device"] = json!([major, minor]);
    }
    if !found.streams.is_empty() {
        let stream = |(name, len): &(Vec<u8>, u64)| {
            let mut document = json!({ "size": len });
            put_bytes(&mut document, "name", name);
            document
        };
        document["streams"] = found.streams.iter().map(stream).collect();
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_written_as_ls_writes_them() {
        for (mode, text) in
            [(0o755, "rwxr-xr-x"), (0o4644, "rwSr--r--"), (0o7777, "rwsrwsrwt"), (0o1000, "--------T")]
        {
            assert_eq!(permissions(mode), text);
        }
    }

    #[test]
    fn moments_of_any_sign() {
        let time = Time { seconds: -1, nanoseconds: 500_000_000 };
        assert_eq!(moment(time, "%Y-%m-%dT%H:%M:%S.%NZ"), "1969-12-31T23:59:59.500000000Z");
        assert_eq!(moment(Time { seconds: i64::MAX, nanoseconds: 0 }, "%Y"), "unknown");
    }
}
