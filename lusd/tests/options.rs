//! The table of options in doc/deploy.md is made from the one in the code. `LUS_BLESS=1` writes it instead of comparing it.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::path::Path;

use lusd::config::options::OPTIONS;

const BEGIN: &str = "<!-- options: written by `LUS_BLESS=1 cargo test -p lusd --test options`, from the table in the code -->\n";
const END: &str = "<!-- end of options -->\n";

fn table() -> String {
    let mut table = String::from("| option | value | default | |\n|---|---|---|---|\n");
    for row in OPTIONS {
        // A bar would begin another column.
        let range = row.range().replace('|', "\\|");
        let default = if row.default.is_empty() { String::new() } else { format!("`{}`", row.default) };
        writeln!(table, "| `{}` | {range} | {default} | {} |", row.name, row.doc).unwrap();
    }
    table
}

#[test]
fn the_documented_options_are_those_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../doc/deploy.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the mark before the table");
    let (found, after) = rest.split_once(END).expect("the mark behind the table");
    let wanted = table();
    if std::env::var_os("LUS_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{wanted}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(found, wanted, "doc/deploy.md: write it anew: LUS_BLESS=1 cargo test -p lusd --test options");
}
