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
        _ if named.is_incomplete() => return Answer::Invalid(no_such_command(&root, &named.path, words)),
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
    /// Whether a word follows that names none of the command's own commands.
    unknown: bool,
}

impl Named<'_> {
    /// Whether the words name a noun without one of its verbs, or begin with no word that is known.
    fn is_incomplete(&self) -> bool {
        self.command.has_subcommands() && (self.unknown || !self.path.is_empty())
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

/// `no valid command found; 3 closest matches:` and the signatures: all of the noun's, where that is known.
fn no_such_command(root: &Command, path: &str, words: &[String]) -> String {
    let words = plain_words(root, words);
    let mut ranked: Vec<(usize, usize, String)> = leaves(root)
        .into_iter()
        .filter(|(leaf, _)| path.is_empty() || leaf.split(' ').next() == Some(path))
        .enumerate()
        .map(|(index, (leaf, command))| (distance(&words, &leaf), index, usage(&leaf, command)))
        .collect();
    ranked.sort();
    let closest: Vec<String> = ranked.into_iter().take(CLOSEST_MAX).map(|(_, _, usage)| usage).collect();
    format!(
        "no valid command found; {} closest matches:\n{}\nError EINVAL: invalid command\n",
        closest.len(),
        closest.join("\n")
    )
}

/// How far `words` are from naming the command at `path`: the edits that make each word the wanted one.
fn distance(words: &[String], path: &str) -> usize {
    let wanted = path.split(' ').enumerate();
    wanted
        .map(|(at, wanted)| match words.get(at) {
            Some(word) if wanted.starts_with(word.as_str()) => usize::from(word != wanted),
            Some(word) => edits(word, wanted) + 1,
            None => 0,
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
fn signature(path: &str, command: &Command) -> String {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let mut letters = about.trim_end_matches('.').chars();
    let first = letters.next().map(|letter| letter.to_ascii_lowercase());
    format!("{} :  {}{}", usage(path, command), first.map(String::from).unwrap_or_default(), letters.as_str())
}

/// `lu create <lu> <size> [--block-size 512|4096]`.
pub(crate) fn usage(path: &str, command: &Command) -> String {
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
    text
}

/// `<size>`, `[<epoch>]`, `noout|nomove`, `[--open]`, `[--lun <N>]`, `[--block-size 512|4096]`.
fn shown(arg: &Arg) -> String {
    let text = match (arg.get_long(), arg.get_action()) {
        (None, _) if arg.get_possible_values().is_empty() => format!("<{}>", arg.get_id()),
        (None, _) => value_form(arg),
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

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;
    use crate::args::{Cli, command};

    fn said(line: &str) -> Answer {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let root = command();
        let matches =
            root.clone().try_get_matches_from(std::iter::once("lus".to_owned()).chain(words.clone()));
        match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
            Ok(cli) => panic!("it parses: {cli:?}"),
            Err(error) => answer(&root, &words, &error),
        }
    }

    fn invalid(line: &str) -> String {
        match said(line) {
            Answer::Invalid(text) => text,
            Answer::Asked(text) => panic!("not asked for: {text}"),
        }
    }

    const CREATE: &str =
        "target create <target> [--open] :  create a target\nError EINVAL: invalid command\n";

    #[test]
    fn golden_problems() {
        for (line, problem) in [
            ("target create", "missing required parameter target(IQN)"),
            ("target create foo", "invalid iSCSI name 'foo': it must begin with iqn., eui. or naa."),
            ("target create iqn.2026-11.x:y z", "unused arguments: ['z']"),
            ("target create iqn.2026-11.x:y --frob", "unused arguments: ['--frob']"),
            ("target create iqn.2026-11.x:y --open --open", "'--open' is given more than once"),
            ("target create iqn.2026-11.x:y -f yaml", "yaml not in plain|json|json-pretty"),
            ("-f yaml target create iqn.2026-11.x:y", "yaml not in plain|json|json-pretty"),
            ("target create iqn.2026-11.x:y -f", "a value is required for '--format <FORMAT>'"),
            (
                "target create iqn.2026-11.x:y --name a --id b",
                "'--name <NAME>' cannot be used with '--id <ID>'",
            ),
        ] {
            assert_eq!(invalid(line), format!("Invalid command: {problem}\n{CREATE}"), "{line}");
        }
        assert_eq!(
            invalid("lu create rbd/x 10X --wwn 1"),
            "Invalid command: invalid size '10X': the units are B, K, M, G, T, P and E (powers of 1024)\n\
             lu create <lu> <size> [--block-size 512|4096] [--physical-block-size 512|4096|16384|65536] [--wwn <hex>] \
             [--serial <text>] [--vendor <text>] [--product <text>] [--read-only] :  create an image and offer it as a logical unit\nError EINVAL: invalid command\n"
        );
        assert_eq!(
            invalid("dump x"),
            "Invalid command: invalid epoch 'x': a whole number is wanted\ndump [<epoch>] :  show the whole LUS map, now or as it was\n\
             Error EINVAL: invalid command\n"
        );
        assert_eq!(
            invalid("--frob"),
            "Invalid command: unused arguments: ['--frob']\nError EINVAL: invalid command\n"
        );
    }

    #[test]
    fn golden_matches() {
        let targets = "no valid command found; 7 closest matches:\n\
                       target create <target> [--open]\n\
                       target ls\n\
                       target info <target>\n\
                       target rm <target> [--yes-i-really-mean-it]\n\
                       target auth set <target> [--chap-name <name>] [--in-file <file>] [--mutual] [--mutual-name <name>]\n\
                       target auth rm <target>\n\
                       target auth ls\n\
                       Error EINVAL: invalid command\n";
        assert_eq!(invalid("target"), targets);
        assert_eq!(invalid("-f json --id admin target"), targets);
        let verbs = invalid("target lss");
        assert!(verbs.starts_with("no valid command found; 7 closest matches:\ntarget ls\n"), "{verbs}");
        let nouns = invalid("tagret create iqn.2026-11.x:y");
        assert!(nouns.starts_with("no valid command found; 10 closest matches:\ntarget create "), "{nouns}");
        let nouns = invalid("lus ls");
        assert!(nouns.starts_with("no valid command found; 10 closest matches:\nlu ls\n"), "{nouns}");
    }

    #[test]
    fn help_is_no_error() {
        for line in ["--help", "-h", "lu --help", "lu create --help", "help", "help lu create"] {
            assert!(matches!(said(line), Answer::Asked(_)), "{line}");
        }
    }

    #[test]
    fn help_mentions_every_command_and_argument() {
        let mut root = command();
        root.build();
        for (path, command) in leaves(&root) {
            let line = format!("{} --help", path.rsplit_once(' ').map_or("", |(above, _)| above));
            let Answer::Asked(help) = said(&line) else { panic!("{line}") };
            assert!(help.contains(command.get_name()), "{path}");
            assert!(command.get_about().is_some(), "{path}");
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{path} {}", arg.get_id());
            }
        }
    }

    #[test]
    fn distances() {
        assert_eq!(
            [edits("", ""), edits("ls", "lss"), edits("tagret", "target"), edits("abc", "")],
            [0, 1, 2, 3]
        );
    }
}
