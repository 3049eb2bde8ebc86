//! Columns that line up.

use super::{Paint, plain};

const GAP: &str = "  ";

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
}

impl Table {
    /// A table with these headings.
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new(), indent: 0 }
    }

    /// Names and values without headings, indented.
    pub fn pairs() -> Self {
        Self { columns: vec![("", Align::Left), ("", Align::Left)], rows: Vec::new(), indent: 2 }
    }

    /// One more row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = (String, Paint)>) {
        self.rows.push(cells.into_iter().map(|(text, paint)| (plain(&text).into_owned(), paint)).collect());
    }

    /// One more name and value.
    pub fn pair(&mut self, name: &str, value: impl Into<String>) {
        self.row([(name.to_owned(), Paint::Dim), (value.into(), Paint::Plain)]);
    }

    /// How wide each column is; the last one needs no padding.
    pub(super) fn lines(&self, width: Option<usize>, paint: impl Fn(&str, Paint) -> String) -> Vec<String> {
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|(text, _)| text.chars().count());
                cells.chain([self.columns[column].0.len()]).max().unwrap_or(0)
            })
            .collect();
        let headings = self.columns.iter().map(|(heading, _)| ((*heading).to_owned(), Paint::Dim)).collect::<Vec<_>>();
        let headed = self.columns.iter().any(|(heading, _)| !heading.is_empty());
        let rows = headed.then_some(&headings).into_iter().chain(&self.rows);
        rows.map(|row| self.line(row, &widths, width, &paint)).collect()
    }

    fn line(
        &self,
        row: &[(String, Paint)],
        widths: &[usize],
        width: Option<usize>,
        paint: &impl Fn(&str, Paint) -> String,
    ) -> String {
        let mut line = " ".repeat(self.indent);
        let mut used = self.indent;
        for (column, (text, colour)) in row.iter().enumerate() {
            if column > 0 {
                line.push_str(GAP);
                used += GAP.len();
            }
            let last = column + 1 == row.len();
            let right = self.columns[column].1 == Align::Right;
            let padding = " ".repeat(widths[column].saturating_sub(text.chars().count()));
            let text = if last { cut(text, width.map(|width| width.saturating_sub(used))) } else { text.clone() };
            let painted = if text.is_empty() { text } else { paint(&text, *colour) };
            match (right, last) {
                (true, _) => line.extend([padding, painted]),
                (false, true) => line.push_str(&painted),
                (false, false) => line.extend([painted, padding]),
            }
            used += widths[column];
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
    fn colours_do_not_shift_columns() {
        let lines = sample().lines(None, |text, _| format!("<{text}>"));
        assert_eq!(lines[1], "<ä>          <1>  <a long text that goes on>");
    }
}
