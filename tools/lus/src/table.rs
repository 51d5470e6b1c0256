//! Tables in Ceph's manner: upper-case headings, two spaces between columns, numbers to the right, no borders.

use comfy_table::{Cell, CellAlignment, ContentArrangement};

/// Which side the cells of a column stand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// One column's heading and side.
pub(crate) type Column = (&'static str, Align);

/// The lines of a table, each ended by a newline and without blanks at its end.
pub(crate) fn table(columns: &[Column], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    let cell = |text: String, align: Align| {
        Cell::new(text).set_alignment(match align {
            Align::Left => CellAlignment::Left,
            Align::Right => CellAlignment::Right,
        })
    };
    table.set_header(columns.iter().map(|(heading, align)| cell((*heading).to_owned(), *align)));
    for row in rows {
        assert_eq!(row.len(), columns.len(), "a row has a cell for each column");
        table.add_row(row.into_iter().zip(columns).map(|(text, (_, align))| cell(text, *align)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

#[cfg(test)]
mod tests {
    use super::{Align, table};

    #[test]
    fn golden() {
        let rows = [
            vec!["rbd/demo".to_owned(), "1 GiB".to_owned(), "lus.a".to_owned()],
            vec!["rbd/a-longer-name".to_owned(), "512 MiB".to_owned(), "-".to_owned()],
        ];
        let text = table(&[("NAME", Align::Left), ("SIZE", Align::Right), ("OWNER", Align::Left)], rows);
        assert_eq!(
            text,
            "NAME                  SIZE  OWNER\n\
             rbd/demo             1 GiB  lus.a\n\
             rbd/a-longer-name  512 MiB  -\n"
        );
    }

    #[test]
    fn headings_alone() {
        assert_eq!(table(&[("LUN", Align::Right), ("LU", Align::Left)], []), "LUN  LU\n");
    }
}
