//! The ledger's file: one JSON line an entry, appended before the entry counts.
//!
//! A line is handed to the kernel in one write, so a killed process loses nothing; a machine that loses power may lose the last
//! lines. A last line without its newline is what a crash leaves; it never counted and is cut off.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;

use anyhow::Context as _;

use crate::ledger::{Ledger, LedgerEntry};

/// The open file, with its length up to the last whole line.
pub struct Journal {
    file: File,
    length: u64,
    /// The file may end in part of a line: nothing may be added.
    torn: bool,
}

impl Journal {
    /// Opens or makes the file and reads every entry into `ledger`.
    pub fn open(path: &Path, ledger: &mut Ledger) -> anyhow::Result<Self> {
        let shown = path.display();
        let file = OpenOptions::new().read(true).append(true).create(true).open(path);
        let file = file.with_context(|| format!("the ledger file {shown} can't be opened"))?;
        file.try_lock().with_context(|| format!("the ledger file {shown} is in use by another gateway"))?;
        let length = read_lines(&file, ledger).with_context(|| format!("the ledger file {shown} can't be used"))?;
        let mut journal = Self { file, length, torn: true };
        journal.cut_back().with_context(|| format!("the ledger file {shown} can't be written"))?;
        Ok(journal)
    }

    /// Adds an entry. What an error leaves of its line is removed before the next one is written.
    pub fn append(&mut self, entry: &LedgerEntry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        if self.torn {
            self.cut_back()?;
        }
        self.torn = true;
        self.file.write_all(&line).and_then(|()| self.file.flush())?;
        self.torn = false;
        self.length += line.len() as u64;
        Ok(())
    }

    /// Removes what follows the last whole line.
    fn cut_back(&mut self) -> io::Result<()> {
        if self.file.metadata()?.len() != self.length {
            self.file.set_len(self.length)?;
        }
        self.torn = false;
        Ok(())
    }
}

fn read_lines(file: &File, ledger: &mut Ledger) -> anyhow::Result<u64> {
    let mut reader = BufReader::new(file);
    let (mut length, mut line) = (0, Vec::new());
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return Ok(length);
        }
        let number = ledger.len() + 1;
        let entry: LedgerEntry = serde_json::from_slice(&line).with_context(|| format!("line {number}"))?;
        ledger.record(entry).with_context(|| format!("line {number}"))?;
        length += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::{Authorize, Request};
    use jiff::Timestamp;
    use uuid::Uuid;

    fn entry(ledger: &Ledger, key: &str) -> LedgerEntry {
        let terms = Authorize {
            order_id: "o-1".into(),
            amount_minor: 1299,
            currency: "EUR".into(),
            payment_method: "tok_visa".into(),
        };
        let fresh = Uuid::from_u128(ledger.len() as u128 + 1);
        ledger.decide(key, &Request::Authorize(terms), fresh, Timestamp::UNIX_EPOCH).expect("decided")
    }

    fn written(path: &Path, keys: &[&str]) -> Ledger {
        let mut ledger = Ledger::new(100);
        let mut journal = Journal::open(path, &mut ledger).expect("open");
        for key in keys {
            let entry = entry(&ledger, key);
            journal.append(&entry).expect("append");
            ledger.record(entry).expect("record");
        }
        ledger
    }

    #[test]
    fn a_ledger_comes_back_as_it_was() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("ledger.jsonl");
        let before = written(&path, &["a", "b"]);
        assert_eq!(written(&path, &[]), before);
        assert_eq!(written(&path, &["c"]).len(), 3);
        assert_eq!(written(&path, &[]).len(), 3);
    }

    #[test]
    fn a_torn_last_line_is_cut_off_and_written_over() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("ledger.jsonl");
        written(&path, &["a"]);
        let whole = std::fs::read(&path).expect("read");
        for cut in [1, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, [whole.as_slice(), &whole[..cut]].concat()).expect("write");
            assert_eq!(written(&path, &["b"]).len(), 2);
            assert_eq!(written(&path, &[]).len(), 2);
        }
    }

    #[test]
    fn a_line_that_makes_no_sense_stops_the_start_with_its_number() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("ledger.jsonl");
        written(&path, &["a"]);
        let line = std::fs::read_to_string(&path).expect("read");
        for (bad, says) in [("{}\n", "line 2"), (line.as_str(), "expected entry 2, found 1")] {
            std::fs::write(&path, format!("{line}{bad}")).expect("write");
            let error = Journal::open(&path, &mut Ledger::new(100)).err().expect("refused");
            assert!(format!("{error:#}").contains(says), "{error:#}");
        }
    }

    #[test]
    fn a_ledger_file_has_one_gateway() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("ledger.jsonl");
        let _first = Journal::open(&path, &mut Ledger::new(100)).expect("open");
        let error = Journal::open(&path, &mut Ledger::new(100)).err().expect("refused");
        assert!(format!("{error:#}").contains("in use by another gateway"), "{error:#}");
    }
}
