//! ceph.conf, as far as options of our own stand in it. librados reads the same file for its own.
//!
//! Sections in brackets; `name = value`; a name is the same with blanks, dashes and underscores; `#` and `;` begin a comment unless
//! escaped or inside quotes; a backslash at the end of a line continues it.

use std::collections::HashMap;

use super::options::canonical;

/// Largest file that is read, bytes.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

/// A parsed file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ini {
    sections: HashMap<String, HashMap<String, String>>,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct BadLine {
    /// From 1.
    pub line: usize,
    /// The rule that it breaks.
    pub what: &'static str,
}

impl Ini {
    /// Parses a file's text. Of a repeated name the last value counts.
    ///
    /// # Errors
    /// [`BadLine`] for the first line that has none of the forms.
    pub fn parse(text: &str) -> Result<Self, BadLine> {
        let mut ini = Self::default();
        let mut section = "global".to_owned();
        let mut lines = text.lines().enumerate();
        while let Some((at, first)) = lines.next() {
            let mut line = first.to_owned();
            while let Some(shortened) = continued(&line) {
                line = shortened;
                match lines.next() {
                    Some((_, next)) => line.push_str(next),
                    None => break,
                }
            }
            let bad = |what| BadLine { line: at + 1, what };
            let line = strip(&line).map_err(bad)?;
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            if let Some(rest) = line.strip_prefix('[') {
                let name = rest.strip_suffix(']').ok_or(bad("a section's name ends with ]"))?.trim();
                if name.is_empty() {
                    return Err(bad("a section has a name"));
                }
                section = name.to_owned();
                continue;
            }
            let (name, value) = line.split_once('=').ok_or(bad("expected [SECTION] or NAME = VALUE"))?;
            let name = canonical(name);
            if name.is_empty() {
                return Err(bad("an option has a name"));
            }
            ini.sections.entry(section.clone()).or_default().insert(name, value.trim().to_owned());
        }
        Ok(ini)
    }

    /// The value of `option` (canonical name) for the entity `name`: `client.lus.a` looks into `[client.lus.a]`, `[client.lus]`,
    /// `[client]` and `[global]`, in this order.
    pub fn find(&self, name: &str, option: &str) -> Option<&str> {
        let mut section = name;
        loop {
            if let Some(value) = self.sections.get(section).and_then(|options| options.get(option)) {
                return Some(value);
            }
            match section.rsplit_once('.') {
                Some((shorter, _)) => section = shorter,
                None if section == "global" => return None,
                None => section = "global",
            }
        }
    }

    /// The names of options that begin with `prefix` and that the entity `name` would see.
    pub fn names(&self, name: &str, prefix: &str) -> Vec<String> {
        let seen = |section: &str| {
            section == "global"
                || name == section
                || name.strip_prefix(section).is_some_and(|rest| rest.starts_with('.'))
        };
        let mut names: Vec<String> = self
            .sections
            .iter()
            .filter(|(section, _)| seen(section))
            .flat_map(|(_, options)| options.keys())
            .filter(|option| option.starts_with(prefix))
            .cloned()
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// The line without the backslash that continues it.
fn continued(line: &str) -> Option<String> {
    let trimmed = line.trim_end();
    let shortened = trimmed.strip_suffix('\\')?;
    // An escaped backslash is a backslash.
    let before = shortened.bytes().rev().take_while(|b| *b == b'\\').count();
    (before % 2 == 0).then(|| shortened.to_owned())
}

/// The line without comment, quotes and escapes.
fn strip(line: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(line.len());
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', _) => out.push(chars.next().unwrap_or('\\')),
            ('#' | ';', None) => break,
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            _ => out.push(c),
        }
    }
    if quote.is_some() { Err("a quote is not closed") } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "\
; the file of a test
fsid = 1
[global]
  log file = /var/log/x   # a comment
  lus-data-memory = 2G
[client]
lus_pool = 'a # b ; c'
lus portal = 10.0.0.1, \\
    10.0.0.2
[client.lus]
lus_shards=3
lus_shards = 4 ; the last one counts
[client.lus.a]
lus_shards = 5
[client.lus.ab]
lus_shards = 6
[mon]
lus_x = 1
";

    #[test]
    fn sections_inherit_by_dotted_prefix() {
        let ini = Ini::parse(TEXT).unwrap();
        let find = |name, option| ini.find(name, option);
        assert_eq!(find("client.lus.a", "lus_shards"), Some("5"));
        assert_eq!(find("client.lus.b", "lus_shards"), Some("4"));
        assert_eq!(find("client.lus.a.b", "lus_shards"), Some("5"));
        assert_eq!(find("client.admin", "lus_shards"), None);
        assert_eq!(find("client.lus.a", "lus_pool"), Some("a # b ; c"));
        assert_eq!(find("client.lus.a", "lus_portal"), Some("10.0.0.1,     10.0.0.2"));
        assert_eq!(find("client.lus.a", "lus_data_memory"), Some("2G"));
        assert_eq!(find("client.lus.a", "log_file"), Some("/var/log/x"));
        assert_eq!(find("client.lus.a", "fsid"), Some("1"), "before any section it is global");
        assert_eq!(
            ini.names("client.lus.a", "lus_"),
            ["lus_data_memory", "lus_pool", "lus_portal", "lus_shards"],
            "what is in [mon] is not seen"
        );
    }

    #[test]
    fn bad_lines_are_named() {
        for (text, line) in [("a = 1\nfoo\n", 2), ("[x\n", 1), ("\n\n[]\n", 3), ("= 1", 1), ("a = 'x\n", 1)] {
            assert_eq!(Ini::parse(text).unwrap_err().line, line, "{text}");
        }
        assert_eq!(Ini::parse("a = b \\\\\nc = d").unwrap().find("client", "a"), Some("b \\"));
        assert_eq!(Ini::parse("a = b\\").unwrap().find("client", "a"), Some("b"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[\\[\\]a-c= \\\\\"'#;\n.]{0,80}") {
            let _ = Ini::parse(&text).map(|ini| ini.names("client.a.b", ""));
        }
    }
}
