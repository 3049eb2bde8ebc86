//! What people see: lines, tables and colours. Foreign text is made harmless before it reaches a terminal.

mod table;

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

pub use table::{Align, Table};

/// How a piece of text looks; without colour it looks like any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// As the rest.
    Plain,
    /// The heading of something.
    Bold,
    /// Less important.
    Dim,
    /// It went well.
    Good,
    /// It was refused or given up.
    Bad,
    /// It was undone, or needs a look.
    Odd,
}

impl Paint {
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Bold => Some("1"),
            Self::Dim => Some("2"),
            Self::Good => Some("32"),
            Self::Bad => Some("31"),
            Self::Odd => Some("33"),
        }
    }
}

/// Where a command prints.
pub struct Screen {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    colour: bool,
    width: Option<usize>,
}

impl Screen {
    /// The process's own output.
    pub fn stdout() -> Self {
        let terminal = io::stdout().is_terminal();
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let width = terminal.then(terminal_size::terminal_size).flatten().map(|(width, _)| usize::from(width.0));
        Self { out: Box::new(io::stdout()), err: Box::new(io::stderr()), colour: terminal && wanted, width }
    }

    /// Any output, for tests: without colour, as wide as need be.
    pub fn into_writers(out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> Self {
        Self { out, err, colour: false, width: None }
    }

    /// One line.
    pub(crate) fn line(&mut self, text: impl AsRef<str>) -> io::Result<()> {
        writeln!(self.out, "{}", text.as_ref())?;
        self.out.flush()
    }

    /// A table, cut to the terminal.
    pub(crate) fn table(&mut self, table: &Table) -> io::Result<()> {
        for line in table.lines(self.width, |text, paint| self.painted(text, paint)) {
            writeln!(self.out, "{line}")?;
        }
        self.out.flush()
    }

    /// A value as one line of JSON.
    pub(crate) fn json(&mut self, value: &impl serde::Serialize) -> anyhow::Result<()> {
        Ok(self.line(serde_json::to_string(value)?)?)
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.out.flush()
    }

    /// `text`, in colour where there is any.
    pub(crate) fn painted(&self, text: &str, paint: Paint) -> String {
        match paint.code().filter(|_| self.colour) {
            Some(code) => format!("\x1b[{code}m{text}\x1b[0m"),
            None => text.to_owned(),
        }
    }

    /// Why a command failed, and what to do on lines of its own.
    pub(crate) fn error(&mut self, text: &str) {
        let label = self.painted("error:", Paint::Bad);
        let width = self.width.unwrap_or(usize::MAX);
        let text = text.lines().flat_map(|line| wrapped(line, width.saturating_sub(7))).collect::<Vec<_>>();
        // Nobody reads: then nobody is told.
        let _ = writeln!(self.err, "{label} {}", text.join("\n       "));
    }

    /// Something that isn't a result, beside the output proper.
    pub(crate) fn note(&mut self, text: &str) {
        let _ = writeln!(self.err, "{text}");
    }
}

/// Foreign text on one line: control characters, which could move the cursor or hide text, are shown as escapes.
pub fn plain(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(escaped).collect())
}

/// A line broken at spaces, so that no part is wider than `width` unless a word is.
fn wrapped(line: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in line.split(' ') {
        let last = lines.len() - 1;
        let current = &mut lines[last];
        if !current.is_empty() && current.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !current.is_empty() {
                current.push(' ');
            }
            current.push_str(word);
        }
    }
    lines
}

/// `n` things: `1 topic`, `2 topics`.
pub fn counted(n: usize, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_broken_at_spaces() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("unbreakable x", 4), ["unbreakable", "x"]);
        assert_eq!(wrapped("as it is", usize::MAX), ["as it is"]);
    }

    #[test]
    fn foreign_text_can_not_steer_a_terminal() {
        assert_eq!(plain("a\x1b[2Jb\nc\td\u{9b}1m"), "a\\u{1b}[2Jb\\nc\\td\\u{9b}1m");
        assert_eq!(plain("ä → ok"), "ä → ok");
    }
}
