//! Parts of doc/conformance.md that tests make from the tables that the code reads. Each crate's test includes this file.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

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
    // Tests run side by side, and each writes the whole document.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
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
    let is_file = test.split_once("::").is_some_and(|(folder, file)| {
        place.join("tests").join(folder).join(file).with_extension("rs").is_file()
    });
    is_file || ["src", "tests"].iter().any(|folder| holds(&place.join(folder), &file, function.as_deref()))
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

/// Names of the form `file::item`, by hand or not, that nothing below `lusd` has: `file::*` is a file or folder, and so is `folder::file`.
#[allow(dead_code, reason = "one crate's test looks for all names")]
pub(crate) fn missing_names() -> Vec<String> {
    let document = fs::read_to_string(root().join("doc/conformance.md")).expect("the document");
    let mut sources = Vec::new();
    collect(&root().join("lusd"), &mut sources);
    let is_name = |name: &&str| {
        name.contains("::") && name.chars().all(|c| c.is_ascii_alphanumeric() || "_:*".contains(c))
    };
    let names = document.split('`').skip(1).step_by(2).filter(is_name);
    names.filter(|name| !is_there(name, &sources)).map(str::to_owned).collect()
}

fn is_there(name: &str, sources: &[(PathBuf, String)]) -> bool {
    let mut parts = name.rsplit("::");
    let (Some(item), Some(file)) = (parts.next(), parts.next()) else { return false };
    sources.iter().any(|(path, text)| {
        let of_file = path.file_stem().is_some_and(|stem| stem == file);
        let in_folder = path.parent().and_then(Path::file_name).is_some_and(|folder| folder == file);
        match item {
            "*" => of_file || in_folder,
            _ => {
                let kinds = [format!("fn {item}("), format!("static {item}:"), format!("mod {item};")];
                of_file && kinds.iter().any(|kind| text.contains(kind))
                    || in_folder && path.file_stem().is_some_and(|stem| stem == item)
            }
        }
    })
}

fn collect(folder: &Path, sources: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("text");
            sources.push((path, text));
        }
    }
}
