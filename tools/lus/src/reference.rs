//! doc/cli.md, written from the tree that parses, so that the two cannot disagree.

use std::fmt::Write;
use std::path::PathBuf;

use clap::{Arg, ArgAction, Command};

use crate::args::command;
use crate::usage;

/// Set to write the file instead of comparing it.
const BLESS: &str = "LUS_BLESS";

const HEAD: &str = "\
<!-- Written by `LUS_BLESS=1 cargo test -p lus reference`, from the command itself. -->

# The command lus

";

const CONVENTIONS: &str = "\
## How it answers

| | |
|---|---|
| stdout | data: plain text, `-f json` on one line, `-f json-pretty` indented |
| stderr | sentences for people: `target 'iqn...' created`, and errors |
| success | exit code 0, also where the work was done already: `target 'iqn...' already exists` |
| failure | `Error ENOENT: no such target iqn...`; the exit code is the error number, here 2 |
| bad syntax | `Invalid command: ...`, the command's form, `Error EINVAL: invalid command`; exit code 22 |
| danger | what is in use, destroys data, or takes an image from another client asks for `--yes-i-really-mean-it` (EBUSY, EPERM) |

Exit codes that scripts may want to tell apart:

| code | name | when |
|---|---|---|
| 1 | EPERM | data would be destroyed, a client fenced or forgotten, and the flag is missing; the map was written by a newer version |
| 2 | ENOENT | no such target, host, logical unit, daemon, image, pool, epoch; no pool for the map |
| 13 | EACCES | the capabilities of this client, or of the daemons, do not suffice |
| 16 | EBUSY | in use: mapped, has hosts or LUNs, its image is in another client's hands; a daemon that is up, or has no other to hand over to; a pin |
| 17 | EEXIST | it exists, and is other than asked for; the number, WWN or serial is another one's |
| 22 | EINVAL | bad syntax, or a value that makes no sense |
| 30 | EROFS | the image is a mirror's copy |
| 39 | ENOTEMPTY | the image has snapshots and was left |
| 110 | ETIMEDOUT | no answer; for a change it says that its outcome is not known |
| 112 | EHOSTDOWN | the daemon that is to have the logical unit is not up, or out |

A change is one compare-and-set of the map's next epoch: commands that run at the same time all take effect, one after another. A
command that takes something away waits, about a second at most, until the daemons say that they follow, and says so where one
does not. One that moves logical units, or puts daemons in and out, returns when the map says so, and the daemons do the rest.

The cluster, the client's name and its key are found as `ceph` finds them: options, then `CEPH_ARGS` and `CEPH_CONF`, then
/etc/ceph. The map's pool is `.lus`, or what `--lus-pool` or `LUS_POOL` says.

";

/// The file's text.
fn reference() -> String {
    let mut root = command();
    root.build();
    let mut text = HEAD.to_owned();
    text += &introduction(&root);
    text += CONVENTIONS;
    text += "## Commands\n\n```\n";
    for (path, command) in usage::leaves(&root) {
        let _ = writeln!(text, "lus {}", usage::usage(&path, command));
    }
    text += "```\n\n## Global options\n\n";
    text += &arguments(root.get_arguments());
    for (path, command) in usage::leaves(&root) {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = write!(text, "\n## lus {path}\n\n{about}.\n\n    lus {}\n", usage::usage(&path, command));
        for part in [
            arguments(command.get_arguments().filter(|arg| !arg.is_global_set())),
            command.get_after_long_help().map(|help| markdown(&help.to_string())).unwrap_or_default(),
        ] {
            if !part.is_empty() {
                text.push('\n');
                text += &part;
            }
        }
    }
    text.truncate(text.trim_end().len());
    text + "\n"
}

/// The help's own text about the program.
fn introduction(root: &Command) -> String {
    let about = root.get_long_about().map(ToString::to_string).unwrap_or_default();
    let examples = root.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    format!("{}\n{}\n", markdown(&about), markdown(&examples))
}

/// Help as Markdown: what is indented becomes a block of its own.
fn markdown(help: &str) -> String {
    let mut text = String::new();
    let mut after_block = true;
    for line in help.trim_end().lines() {
        let in_block = line.starts_with("    ");
        if in_block && !after_block && !text.ends_with("\n\n") {
            text.push('\n');
        }
        after_block = in_block;
        text += line;
        text.push('\n');
    }
    text
}

fn arguments<'a>(arguments: impl Iterator<Item = &'a Arg>) -> String {
    let mut rows = String::new();
    for arg in arguments.filter(|arg| !matches!(arg.get_id().as_str(), "help")) {
        let mut names: Vec<String> = arg.get_short().map(|short| format!("-{short}")).into_iter().collect();
        names.extend(
            arg.get_long_and_visible_aliases().unwrap_or_default().iter().map(|long| format!("--{long}")),
        );
        if arg.is_positional() {
            names.push(format!("<{}>", arg.get_id()));
        }
        let takes_value = !arg.is_positional() && !matches!(arg.get_action(), ArgAction::SetTrue);
        let value = arg.get_value_names().filter(|_| takes_value).map(|names| format!(" {}", names[0]));
        let values: Vec<String> =
            arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
        let mut help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        if takes_value && !values.is_empty() && !arg.is_hide_possible_values_set() {
            let _ = write!(help, ": {}", values.join(", "));
        }
        if let [default] = arg.get_default_values()
            && takes_value
        {
            let _ = write!(help, " [default: {}]", default.to_string_lossy());
        }
        let _ = writeln!(rows, "| `{}{}` | {help} |", names.join("`, `"), value.unwrap_or_default());
    }
    match rows.is_empty() {
        true => rows,
        false => format!("| | |\n|---|---|\n{rows}"),
    }
}

#[test]
fn reference_is_current() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../doc/cli.md");
    let wanted = reference();
    if std::env::var_os(BLESS).is_some() {
        std::fs::write(&path, wanted).unwrap();
        return;
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == wanted,
        "doc/cli.md is not what the command says; write it anew: LUS_BLESS=1 cargo test -p lus reference"
    );
}
