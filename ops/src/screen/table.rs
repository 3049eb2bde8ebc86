//! Columns that line up.

use super::{Paint, plain};

const GAP: &str = "  ";

/// Columns are left out until the last one has so much room, or all that it needs.
const ROOM_FOR_LAST: usize = 24;

/// To which side a column's texts lean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Texts.
    Left,
    /// Numbers.
    Right,
}

/// Rows under headings. The last column takes what is left of the terminal's width and is cut there.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<(String, Paint)>>,
    indent: usize,
    /// Headings of columns that a narrow terminal does without, the first one first.
    optional: &'static [&'static str],
}

impl Table {
    /// A table with these headings.
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new(), indent: 0, optional: &[] }
    }

    /// Columns that a narrow terminal does without, the first one first.
    pub fn without(mut self, optional: &'static [&'static str]) -> Self {
        self.optional = optional;
        self
    }

    /// Names and values without headings, indented.
    pub fn pairs() -> Self {
        Self { columns: vec![("", Align::Left), ("", Align::Left)], rows: Vec::new(), indent: 2, optional: &[] }
    }

    /// One more row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = (String, Paint)>) {
        self.rows.push(cells.into_iter().map(|(text, paint)| (plain(&text).into_owned(), paint)).collect());
    }

    /// One more name and value.
    pub fn pair(&mut self, name: &str, value: impl Into<String>) {
        self.row([(name.to_owned(), Paint::Dim), (value.into(), Paint::Plain)]);
    }

    pub(super) fn lines(&self, width: Option<usize>, paint: impl Fn(&str, Paint) -> String) -> Vec<String> {
        let shown = self.shown(width);
        let headings: Vec<_> = self.columns.iter().map(|(heading, _)| ((*heading).to_owned(), Paint::Dim)).collect();
        let headed = self.columns.iter().any(|(heading, _)| !heading.is_empty());
        let rows = headed.then_some(&headings).into_iter().chain(&self.rows);
        rows.map(|row| self.line(row, &shown, width, &paint)).collect()
    }

    /// The columns that are shown, and how wide each is.
    fn shown(&self, width: Option<usize>) -> Vec<(usize, usize)> {
        let widest = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|(text, _)| text.chars().count());
            cells.chain([self.columns[column].0.len()]).max().unwrap_or(0)
        };
        let mut shown: Vec<(usize, usize)> = (0..self.columns.len()).map(|column| (column, widest(column))).collect();
        let room = shown.last().map_or(0, |(_, width)| (*width).min(ROOM_FOR_LAST));
        for name in self.optional {
            let before_last: usize = shown[..shown.len() - 1].iter().map(|(_, width)| width + GAP.len()).sum();
            if width.is_none_or(|width| before_last + room <= width) {
                break;
            }
            shown.retain(|(column, _)| self.columns[*column].0 != *name);
        }
        shown
    }

    fn line(
        &self,
        row: &[(String, Paint)],
        shown: &[(usize, usize)],
        width: Option<usize>,
        paint: &impl Fn(&str, Paint) -> String,
    ) -> String {
        let mut line = " ".repeat(self.indent);
        let mut used = self.indent;
        for (index, (column, column_width)) in shown.iter().copied().enumerate() {
            let Some((text, colour)) = row.get(column) else { continue };
            if index > 0 {
                line.push_str(GAP);
                used += GAP.len();
            }
            let last = index + 1 == shown.len();
            let right = self.columns[column].1 == Align::Right;
            let padding = " ".repeat(column_width.saturating_sub(text.chars().count()));
            let text = if last { cut(text, width.map(|width| width.saturating_sub(used))) } else { text.clone() };
            let painted = if text.is_empty() { text } else { paint(&text, *colour) };
            match (right, last) {
                (true, _) => line.extend([padding, painted]),
                (false, true) => line.push_str(&painted),
                (false, false) => line.extend([painted, padding]),
            }
            used += column_width;
        }
        line.truncate(line.trim_end().len());
        line
    }
}

fn cut(text: &str, room: Option<usize>) -> String {
    /// Less than this is no text any more: rather let the terminal wrap.
    const LEAST: usize = 12;
    match room {
        Some(room) if text.chars().count() > room && room >= LEAST => {
            text.chars().take(room - 1).chain(['…']).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&[("NAME", Align::Left), ("N", Align::Right), ("TEXT", Align::Left)]);
        let cell = |text: &str| (text.to_owned(), Paint::Plain);
        table.row([cell("ä"), cell("1"), cell("a long text that goes on")]);
        table.row([cell("longer"), cell("1000"), cell("")]);
        table
    }

    #[test]
    fn columns_line_up_and_nothing_trails() {
        let lines = sample().lines(None, |text, _| text.to_owned());
        assert_eq!(
            lines,
            [
                "NAME       N  TEXT", //
                "ä          1  a long text that goes on",
                "longer  1000",
            ]
        );
    }

    #[test]
    fn the_last_column_is_cut_at_the_terminal_s_edge() {
        let lines = sample().lines(Some(30), |text, _| text.to_owned());
        assert_eq!(lines[1], "ä          1  a long text tha…");
        assert_eq!(lines[1].chars().count(), 30);
    }

    #[test]
    fn a_narrow_terminal_does_without_some_columns() {
        let narrow = |width| sample().without(&["N", "NAME"]).lines(Some(width), |text, _| text.to_owned());
        assert_eq!(narrow(38)[1], "ä          1  a long text that goes on");
        assert_eq!(narrow(37)[1], "ä       a long text that goes on");
        assert_eq!(narrow(31)[1], "a long text that goes on");
    }

    #[test]
    fn colours_do_not_shift_columns() {
        let lines = sample().lines(None, |text, _| format!("<{text}>"));
        assert_eq!(lines[1], "<ä>          <1>  <a long text that goes on>");
    }
}
