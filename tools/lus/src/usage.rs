//! Bad syntax in Ceph's form, around clap's parsing: `Invalid command: ...`, the signature, `Error EINVAL: invalid command`.

use clap::error::{ContextKind, ContextValue, Error, ErrorKind};
use clap::{Arg, ArgAction, Command};

/// So many signatures are offered for words that are no command, as Ceph does.
const CLOSEST_MAX: usize = 10;

/// What to print for arguments that do not parse.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Help or version, as asked: to stdout, exit code 0.
    Asked(String),
    /// The lines of an error: to stderr, exit code EINVAL.
    Invalid(String),
}

/// Turns clap's `error` about `words` (the arguments after the program's name) into what the user sees.
pub(crate) fn answer(root: &Command, words: &[String], error: &Error) -> Answer {
    let mut root = root.clone();
    root.build();
    let named = named(&root, words);
    let problem = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            return Answer::Asked(error.render().to_string());
        }
        _ if named.subcommands(&root) => return Answer::Invalid(no_such_command(&root, words)),
        kind => problem(kind, named.command, error),
    };
    let signature = match named.path.is_empty() {
        true => String::new(),
        false => signature(&named.path, named.command) + "\n",
    };
    Answer::Invalid(format!("Invalid command: {problem}\n{signature}Error EINVAL: invalid command\n"))
}

/// The command that the first words name, as far as they name one.
struct Named<'a> {
    path: String,
    command: &'a Command,
    /// Whether a word follows, or should, that names none of the command's own commands.
    unknown: bool,
}

impl Named<'_> {
    /// Whether it is a noun whose verb is missing or wrong, or nothing at all is named by the words.
    fn subcommands(&self, root: &Command) -> bool {
        let is_noun = self.command.has_subcommands();
        is_noun && (self.unknown || self.path != "" && !std::ptr::eq(self.command, root))
    }
}

fn named<'a>(root: &'a Command, words: &[String]) -> Named<'a> {
    let mut named = Named { path: String::new(), command: root, unknown: false };
    for word in plain_words(root, words) {
        match named.command.find_subcommand(&word) {
            Some(command) => {
                named.command = command;
                named.path = format!("{} {}", named.path, command.get_name()).trim_start().to_owned();
            }
            None => {
                named.unknown = true;
                break;
            }
        }
    }
    named
}

/// The words that are neither options nor values of the options that stand before any command.
fn plain_words(root: &Command, words: &[String]) -> Vec<String> {
    let takes_value = |word: &str| {
        !word.contains('=')
            && root.get_arguments().any(|arg| {
                let long = arg.get_long_and_visible_aliases().unwrap_or_default();
                let named = long.iter().any(|long| word.strip_prefix("--") == Some(long))
                    || arg.get_short().is_some_and(|short| word == format!("-{short}"));
                named && arg.get_action().takes_values()
            })
    };
    let mut plain = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.starts_with('-') && word.len() > 1 {
            true if takes_value(word) => drop(words.next()),
            true => {}
            false => plain.push(word.clone()),
        }
    }
    plain
}

/// The part after `Invalid command: `.
fn problem(kind: ErrorKind, command: &Command, error: &Error) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    };
    let invalid_arg = text(ContextKind::InvalidArg);
    match kind {
        ErrorKind::MissingRequiredArgument => {
            let first = invalid_arg.split(", ").next().unwrap_or_default();
            let arg = command.get_arguments().find(|arg| shown(arg) == first || arg.to_string() == first);
            let parameter =
                arg.map_or(first.to_owned(), |arg| format!("{}({})", arg.get_id(), value_form(arg)));
            format!("missing required parameter {parameter}")
        }
        ErrorKind::UnknownArgument => format!("unused arguments: ['{invalid_arg}']"),
        ErrorKind::InvalidValue => match error.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(valid)) if !text(ContextKind::InvalidValue).is_empty() => {
                format!("{} not in {}", text(ContextKind::InvalidValue), valid.join("|"))
            }
            _ => format!("a value is required for '{invalid_arg}'"),
        },
        ErrorKind::ValueValidation => match std::error::Error::source(error) {
            Some(source) => source.to_string(),
            None => format!("invalid value '{}' for '{invalid_arg}'", text(ContextKind::InvalidValue)),
        },
        ErrorKind::ArgumentConflict => match text(ContextKind::PriorArg) {
            prior if prior.is_empty() || prior == invalid_arg => {
                format!("'{invalid_arg}' is given more than once")
            }
            prior => format!("'{invalid_arg}' cannot be used with '{prior}'"),
        },
        _ => {
            let rendered = error.render().to_string();
            rendered.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
        }
    }
}

/// `no valid command found; 3 closest matches:` and the signatures.
fn no_such_command(root: &Command, words: &[String]) -> String {
    let words = plain_words(root, words);
    let mut ranked: Vec<(usize, usize, String)> = leaves(root)
        .into_iter()
        .enumerate()
        .map(|(index, (path, command))| (distance(&words, &path), index, signature(&path, command)))
        .collect();
    ranked.sort();
    let best = ranked.first().map_or(0, |(distance, ..)| *distance);
    // What is no nearer than something quite else is no help, unless nothing is near at all.
    let closest: Vec<&str> = ranked
        .iter()
        .filter(|(distance, ..)| *distance <= best + 2)
        .map(|(_, _, signature)| signature.split(" :  ").next().unwrap_or_default())
        .take(CLOSEST_MAX)
        .collect();
    format!(
        "no valid command found; {} closest matches:\n{}\nError EINVAL: invalid command\n",
        closest.len(),
        closest.join("\n")
    )
}

/// How far `words` are from naming the command at `path`: edits of each word, a missing verb costs nothing.
fn distance(words: &[String], path: &str) -> usize {
    path.split(' ')
        .enumerate()
        .map(|(at, name)| match words.get(at) {
            Some(word) if name.starts_with(word.as_str()) => 0,
            Some(word) => (edits(word, name) * 4).div_ceil(name.len()) * if at == 0 { 2 } else { 1 },
            None => 1,
        })
        .sum()
}

/// The Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The commands that do something, with their words, in the order of the help.
pub(crate) fn leaves(root: &Command) -> Vec<(String, &Command)> {
    fn walk<'a>(path: &str, command: &'a Command, found: &mut Vec<(String, &'a Command)>) {
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help" && !sub.is_hide_set()) {
            let path = format!("{path} {}", sub.get_name()).trim_start().to_owned();
            match sub.has_subcommands() {
                true => walk(&path, sub, found),
                false => found.push((path, sub)),
            }
        }
    }
    let mut found = Vec::new();
    walk("", root, &mut found);
    found
}

/// `lu create <lu> <size> [--block-size 512|4096] :  create an image and offer it`.
pub(crate) fn signature(path: &str, command: &Command) -> String {
    let mut text = path.to_owned();
    let own = |arg: &&Arg| !arg.is_global_set() && !matches!(arg.get_id().as_str(), "help" | "version");
    let (positional, options): (Vec<&Arg>, Vec<&Arg>) =
        command.get_arguments().filter(own).partition(|arg| arg.is_positional());
    for arg in positional {
        text += " ";
        text += &shown(arg);
    }
    for arg in options.into_iter().filter(|arg| !arg.is_hide_set()) {
        text += " ";
        text += &shown(arg);
    }
    match command.get_about() {
        Some(about) => format!("{text} :  {}", about.to_string().trim_end_matches('.')),
        None => text,
    }
}

/// `<size>`, `[<epoch>]`, `[--open]`, `[--lun <N>]`, `[--block-size 512|4096]`.
fn shown(arg: &Arg) -> String {
    let text = match (arg.get_long(), arg.get_action()) {
        (None, _) => format!("<{}>", arg.get_id()),
        (Some(long), ArgAction::SetTrue) => format!("--{long}"),
        (Some(long), _) => match arg.get_possible_values() {
            values if values.is_empty() => format!("--{long} <{}>", value_form(arg).to_lowercase()),
            _ => format!("--{long} {}", value_form(arg)),
        },
    };
    if arg.is_required_set() { text } else { format!("[{text}]") }
}

/// What stands for a value: the name, or the values that there are.
fn value_form(arg: &Arg) -> String {
    let values: Vec<String> =
        arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    match (values.is_empty(), arg.get_value_names()) {
        (false, _) => values.join("|"),
        (true, Some([name, ..])) => name.to_string(),
        (true, _) => arg.get_id().to_string(),
    }
}
