//! The dead letters that a command is about: of each event the letter of its last death.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use messaging::Record;

use super::Letters;
use super::filter::Filter;
use super::letter::Letter;
use super::read::{Part, read};

/// The most that is kept in memory, in bytes.
const MAX_BYTES: usize = 1024 * 1024 * 1024;

/// A letter, its record, and its edited value.
pub type One = (Letter, Record, Option<Vec<u8>>);

/// Letters by the place of their event: group and id, or where the record is.
#[derive(Debug, Default)]
pub struct Chosen {
    letters: BTreeMap<(String, String), One>,
    bytes: usize,
    /// Letters that were looked at, also those that the filter didn't want.
    read: usize,
}

impl Chosen {
    /// Counts a letter that is looked at.
    pub fn count_read(&mut self) {
        self.read += 1;
    }

    /// How many letters were looked at.
    pub fn read(&self) -> usize {
        self.read
    }

    /// Adds a letter; the last death of an event wins.
    pub fn add(&mut self, letter: Letter, record: Record, edited: Option<Vec<u8>>) {
        let event = letter.event_id.clone().unwrap_or_else(|| letter.at());
        let place = (letter.group.clone(), event);
        if self.letters.get(&place).is_some_and(|(known, ..)| known.attempts > letter.attempts) {
            return;
        }
        self.bytes += record.size_bytes();
        if let Some((_, old, _)) = self.letters.insert(place, (letter, record, edited)) {
            self.bytes -= old.size_bytes();
        }
    }

    /// How many events.
    pub fn len(&self) -> usize {
        self.letters.len()
    }

    /// Oldest first within each group.
    pub fn by_group(self) -> BTreeMap<String, Vec<One>> {
        let mut groups: BTreeMap<String, Vec<One>> = BTreeMap::new();
        for one in self.letters.into_values() {
            groups.entry(one.0.group.clone()).or_default().push(one);
        }
        for letters in groups.values_mut() {
            letters.sort_by_key(|(letter, ..)| (letter.last_failed_at, letter.partition, letter.offset));
        }
        groups
    }
}

/// Reads the letters that the filter wants.
///
/// # Errors
/// Where Kafka doesn't answer, or it is more than may be kept in memory.
pub async fn choose(letters: &Letters, filter: Filter) -> Result<Chosen> {
    let groups = letters.groups(filter.group.as_deref())?;
    let found = read(letters, groups, Part::All, (Chosen::default(), false), move |(chosen, full), group, record| {
        let letter = Letter::of(group, &record);
        chosen.count_read();
        *full = *full || chosen.bytes > MAX_BYTES;
        if !*full && filter.wants(&letter, &record) {
            chosen.add(letter, record, None);
        }
    })
    .await?;
    match found {
        (_, true) => bail!("these are too many for one command: narrow them with --since and --until"),
        (chosen, false) => Ok(chosen),
    }
}
