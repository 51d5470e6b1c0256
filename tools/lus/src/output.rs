//! What a command prints: data to stdout in the wanted format, the sentence for people to stderr.

use std::io::{self, Write};

use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;
use serde_json::ser::PrettyFormatter;

/// `-f`, `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Plain,
    /// On one line.
    Json,
    /// Indented by four spaces, as Ceph does.
    JsonPretty,
}

/// What a command has to say when it succeeds.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    /// The data as text for people; empty or ended by a newline.
    plain: String,
    /// The same for programs; none where a command has no data.
    json: Option<Value>,
    /// Sentences for stderr, a line each, whatever the format.
    notes: Vec<String>,
}

impl Reply {
    /// Data in both forms.
    ///
    /// # Panics
    /// If `json` has a map whose keys are no strings: a mistake of ours.
    pub(crate) fn data(plain: impl Into<String>, json: impl Serialize) -> Self {
        let json = serde_json::to_value(json).expect("a reply is a JSON value");
        Self { plain: plain.into(), json: Some(json), notes: Vec::new() }
    }

    /// Text that is the same in every format, such as a script.
    pub(crate) fn text(plain: impl Into<String>) -> Self {
        Self { plain: plain.into(), json: None, notes: Vec::new() }
    }

    /// No data: a sentence that says what was done.
    pub(crate) fn done(sentence: impl Into<String>) -> Self {
        Self::default().note(sentence)
    }

    /// With one more sentence.
    #[must_use]
    pub(crate) fn note(mut self, sentence: impl Into<String>) -> Self {
        self.notes.push(sentence.into());
        self
    }

    /// What goes to stdout in `format`.
    fn stdout(&self, format: Format) -> String {
        match (format, &self.json) {
            (Format::Plain, _) | (_, None) => self.plain.clone(),
            (Format::Json, Some(json)) => format!("{json}\n"),
            (Format::JsonPretty, Some(json)) => format!("{}\n", pretty(json)),
        }
    }

    /// Prints data, then sentences.
    ///
    /// # Errors
    /// What writing to stdout gives; a reader that has gone away is no error.
    pub(crate) fn print(&self, format: Format) -> io::Result<()> {
        self.print_to_reader(format).map(drop)
    }

    /// As [`print`](Self::print), for what goes on as long as somebody reads: whether the reader is still there.
    ///
    /// # Errors
    /// What writing to stdout gives.
    pub(crate) fn print_to_reader(&self, format: Format) -> io::Result<bool> {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(self.stdout(format).as_bytes()).and_then(|()| stdout.flush());
        let reads = match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => false,
            result => result.map(|()| true)?,
        };
        for note in &self.notes {
            eprintln!("{note}");
        }
        Ok(reads)
    }
}

fn pretty(json: &Value) -> String {
    let mut text = Vec::new();
    let mut serializer =
        serde_json::Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"    "));
    json.serialize(&mut serializer).expect("a JSON value can be written to memory");
    String::from_utf8(text).expect("JSON is UTF-8")
}

/// `1 daemon`, `2 daemons`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn formats() {
        let reply = Reply::data("a line\n", json!([{"lun": 0}])).note("listed 1 entry");
        assert_eq!(reply.stdout(Format::Plain), "a line\n");
        assert_eq!(reply.stdout(Format::Json), "[{\"lun\":0}]\n");
        assert_eq!(reply.stdout(Format::JsonPretty), "[\n    {\n        \"lun\": 0\n    }\n]\n");
        let reply = Reply::done("target 'x' created");
        assert_eq!(reply.stdout(Format::Plain), "");
        assert_eq!(reply.stdout(Format::Json), "");
        assert_eq!(reply.notes, ["target 'x' created"]);
    }

    #[test]
    fn counts() {
        assert_eq!([count(0, "lu"), count(1, "lu"), count(2, "lu")], ["0 lus", "1 lu", "2 lus"]);
    }
}
