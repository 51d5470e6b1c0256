//! Parts of doc/conformance.md that tests make from the tables that the code reads. Each crate's test includes this file.

use std::fs;
use std::path::{Path, PathBuf};

/// The repository, seen from the crate that is tested.
fn root() -> PathBuf {
    let mut at = Path::new(env!("CARGO_MANIFEST_DIR"));
    while !at.join("doc/conformance.md").is_file() {
        at = at.parent().expect("doc/conformance.md above the crate");
    }
    at.to_owned()
}

/// Compares a part of the document with `text`; with LUS_UPDATE set writes it anew.
pub(crate) fn check_part(part: &str, text: &str) {
    let path = root().join("doc/conformance.md");
    let (begin, end) = (format!("<!-- {part}: made by a test -->\n"), format!("<!-- {part}: end -->\n"));
    let document = fs::read_to_string(&path).expect("the document");
    let (head, rest) = document.split_once(&begin).expect("the part begins");
    let (found, tail) = rest.split_once(&end).expect("the part ends");
    if std::env::var_os("LUS_UPDATE").is_some() && found != text {
        fs::write(&path, [head, &begin, text, &end, tail].concat()).expect("writable");
        return;
    }
    assert_eq!(found, text, "doc/conformance.md is stale: run this test with LUS_UPDATE=1");
}

/// Names of tests as the document shows them. Each must be there: `file::test` in this crate, `lusd: file::test` in the daemon,
/// `file.txt`, `qa NAME`, `suite NAME`.
pub(crate) fn shown(tests: &[&str]) -> String {
    let names: Vec<_> = tests
        .iter()
        .map(|test| {
            assert!(exists(test), "no test '{test}'");
            if test.contains("::") && !test.contains(": ") { format!("`{test}`") } else { (*test).to_owned() }
        })
        .collect();
    names.join(", ")
}

fn exists(test: &str) -> bool {
    if let Some(name) = test.strip_prefix("qa ") {
        return root().join("qa/checks").join(name).is_file();
    }
    if let Some(name) = test.strip_prefix("suite ") {
        return root().join("qa/suites/lus").join(name).is_dir();
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).to_owned();
    let (place, test) = match test.strip_prefix("lusd: ") {
        Some(test) => (root().join("lusd"), test),
        None => (here, test),
    };
    let (file, function) = match test.split_once("::") {
        Some((file, function)) => (format!("{file}.rs"), Some(format!("fn {function}("))),
        None => (test.to_owned(), None),
    };
    ["src", "tests"].iter().any(|folder| holds(&place.join(folder), &file, function.as_deref()))
}

/// Whether a file of that name below `folder` has the function.
fn holds(folder: &Path, file: &str, function: Option<&str>) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return holds(&path, file, function);
        }
        let text = || fs::read_to_string(&path).unwrap_or_default();
        path.file_name().is_some_and(|name| name == file)
            && function.is_none_or(|function| text().contains(function))
    })
}
