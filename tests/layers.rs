//! Imports point down only: the layers of `docs/design.md`, checked in the source.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// From the top, as `docs/design.md` draws them. A module may use those of later layers.
const LAYERS: [&[&str]; 7] = [
    &["main"],
    &["cli"],
    &["archiver", "attach", "restore", "fuse", "maintenance"],
    &["source", "chunker", "image", "partition", "allocation", "filesystem"],
    &["repository"],
    &["format", "codec", "storage"],
    &["id", "extent", "task", "pool"],
];

/// What else is allowed, within a layer: what is attached is mounted first, a partition table is read from any source or image, what a partition holds from
/// it, and sealed formats need keys.
const WITHIN: [(&str, &str); 7] = [
    ("attach", "fuse"),
    ("partition", "source"),
    ("partition", "image"),
    ("allocation", "partition"),
    ("filesystem", "partition"),
    ("filesystem", "allocation"),
    ("format", "codec"),
];

fn layer(module: &str) -> usize {
    let found = LAYERS.iter().position(|modules| modules.contains(&module));
    found.unwrap_or_else(|| panic!("module {module} has no layer: put it into docs/design.md and here"))
}

fn may_use(user: &str, used: &str) -> bool {
    user == used || WITHIN.contains(&(user, used)) || layer(user) < layer(used)
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("src") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The top-level module that a file belongs to; `None` for the list of modules itself and for tests.
fn module_of(path: &Path) -> Option<String> {
    let parts: Vec<String> = path.iter().map(|part| part.to_string_lossy().replace(".rs", "")).collect();
    let is_test = parts.iter().any(|part| part == "tests");
    (parts[0] != "lib" && !is_test).then(|| parts[0].clone())
}

/// Code without comments, and without the test modules at the end of files.
fn code(text: &str) -> String {
    let end =
        text.find("#[cfg(test)]\nmod tests {").or_else(|| text.find("#[cfg(test)]\npub(crate) mod tests {"));
    let lines = text[..end.unwrap_or(text.len())].lines();
    lines.map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The top-level modules that code names behind `root`: `crate::a::b`, or `crate::{a, b::c}` with their first parts.
fn names_behind(code: &str, root: &str) -> BTreeSet<String> {
    let ident =
        |text: &str| text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(root) {
        let rest = &code[at + root.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            names.insert(ident(rest));
            continue;
        };
        let mut depth = 0;
        let mut first = true;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => first = true,
                c if first && !c.is_whitespace() => {
                    names.insert(ident(&group[at..]));
                    first = false;
                }
                _ => {}
            }
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn uses() -> BTreeMap<(String, String), BTreeSet<PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut uses: BTreeMap<_, BTreeSet<PathBuf>> = BTreeMap::new();
    for file in files {
        let inside = file.strip_prefix(&root).expect("found beneath");
        let Some(user) = module_of(inside) else { continue };
        let code = code(&std::fs::read_to_string(&file).expect("source"));
        let root = if user == "main" { "copal::" } else { "crate::" };
        for used in names_behind(&code, root) {
            uses.entry((user.clone(), used)).or_default().insert(inside.to_owned());
        }
    }
    uses
}

#[test]
fn imports_point_down_only() {
    let uses = uses();
    assert!(uses.contains_key(&("archiver".into(), "repository".into())), "the search finds imports");
    let upward = uses.iter().filter(|((user, used), _)| !may_use(user, used));
    let upward: Vec<String> =
        upward.map(|((user, used), files)| format!("{user} uses {used}: {files:?}")).collect();
    assert_eq!(upward, Vec::<String>::new());
}

#[test]
fn the_search_understands_imports() {
    let code = code(
        "use crate::a::{b, c};\nuse crate::{d, e::f, g::{h, i}, j as k};\nlet x = crate::l::m; // crate::n\n#[cfg(test)]\nmod tests { use crate::o; }",
    );
    let names: Vec<String> = names_behind(&code, "crate::").into_iter().collect();
    assert_eq!(names, ["a", "d", "e", "g", "j", "l"]);
    assert!(!may_use("repository", "image") && may_use("image", "repository"));
    assert!(!may_use("storage", "format") && !may_use("codec", "format") && may_use("format", "codec"));
    assert!(!may_use("source", "partition") && !may_use("fuse", "archiver") && !may_use("id", "extent"));
}

/// Only what talks to the user may print, and only `fuse` knows its crate's types.
#[test]
fn only_the_command_line_prints() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for file in files {
        let inside = file.strip_prefix(&root).expect("found beneath");
        let Some(module) = module_of(inside) else { continue };
        let code = code(&std::fs::read_to_string(&file).expect("source"));
        for print in ["println!", "eprintln!", "print!(", "eprint!("] {
            assert!(
                ["cli", "main"].contains(&&*module) || !code.contains(print),
                "{} prints",
                inside.display()
            );
        }
        assert!(module == "fuse" || !code.contains("fuser::"), "{} knows fuser", inside.display());
    }
}
