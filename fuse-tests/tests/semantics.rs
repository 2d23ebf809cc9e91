//! `docs/semantics.md` and the tests say the same.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Where tests may be.
const SOURCES: [&str; 3] = ["src", "tests", "fuse-tests/tests"];

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A sentence of the page, and the tests behind it.
#[derive(Debug, PartialEq, Eq)]
struct Guarantee {
    sentence: String,
    tests: Vec<String>,
}

/// The items of the page; below its first heading of the second level, everything else is an error.
fn guarantees(page: &str) -> Result<Vec<Guarantee>, String> {
    let start = page.find("\n## ").ok_or("no sections")?;
    let mut items: Vec<String> = Vec::new();
    for line in page[start..].lines() {
        if let Some(item) = line.strip_prefix("- ") {
            items.push(item.to_owned());
        } else if let (Some(rest), Some(last)) = (line.strip_prefix("  "), items.last_mut()) {
            last.push(' ');
            last.push_str(rest);
        } else if !line.is_empty() && !line.starts_with("## ") {
            return Err(format!("neither heading nor guarantee: {line:?}"));
        }
    }
    items.iter().map(|item| guarantee(item)).collect()
}

fn guarantee(item: &str) -> Result<Guarantee, String> {
    let mut rest = item.trim();
    let mut tests = Vec::new();
    while let Some((before, test)) = rest.strip_suffix('`').and_then(|rest| rest.rsplit_once('`')) {
        tests.insert(0, test.to_owned());
        rest = before.trim_end();
    }
    if tests.is_empty()
        || tests.iter().any(|test| !test.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric()))
    {
        return Err(format!("no test behind {item:?}"));
    }
    if !rest.ends_with('.') || rest.contains(". ") {
        return Err(format!("not one sentence: {rest:?}"));
    }
    Ok(Guarantee { sentence: rest.to_owned(), tests })
}

/// The names of all functions that are tests, in all sources below a directory.
fn collect_tests(path: &Path, found: &mut BTreeSet<String>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("list") {
            collect_tests(&entry.expect("entry").path(), found);
        }
    } else if path.extension().is_some_and(|ending| ending == "rs") {
        let text = fs::read_to_string(path).expect("a source is text");
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            is_test |= line == "#[test]";
            if let Some((name, _)) = line.strip_prefix("fn ").and_then(|rest| rest.split_once('(')) {
                if is_test {
                    found.insert(name.to_owned());
                }
                is_test = false;
            }
        }
    }
}

#[test]
fn the_page_of_semantics_is_true_to_the_tests() {
    let page = fs::read_to_string(root().join("docs/semantics.md")).expect("the page is there");
    let guarantees = guarantees(&page).unwrap_or_else(|error| panic!("docs/semantics.md: {error}"));
    assert!(guarantees.len() > 40, "{} guarantees", guarantees.len());
    let mut tests = BTreeSet::new();
    SOURCES.iter().for_each(|source| collect_tests(&root().join(source), &mut tests));
    for Guarantee { sentence, tests: named } in &guarantees {
        for test in named {
            assert!(tests.contains(test), "docs/semantics.md: {sentence:?} names {test}, which is no test");
        }
    }
    let sentences: BTreeSet<&String> = guarantees.iter().map(|guarantee| &guarantee.sentence).collect();
    assert_eq!(sentences.len(), guarantees.len(), "a guarantee stands there twice");
}

#[test]
fn a_guarantee_without_a_test_is_noticed() {
    let page = |items: &str| guarantees(&format!("# Title\n\nWords.\n\n## Section\n\n{items}"));
    let good = page("- It is `so`. `a_test`\n  `another_test`\n").expect("a guarantee");
    let expected =
        Guarantee { sentence: "It is `so`.".into(), tests: vec!["a_test".into(), "another_test".into()] };
    assert_eq!(good, [expected]);
    for bad in [
        "- It is so.\n",
        "- It is `so`.\n",
        "It is so.\n",
        "- It is. So it is. `a_test`\n",
        "- It is so `a_test`\n",
        "- So. `a test`\n",
    ] {
        assert!(page(bad).is_err(), "{bad:?}");
    }
}
