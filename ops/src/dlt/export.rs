//! `suite dlt export`: dead letters as JSON lines, to be read, edited and redriven from.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use contracts::Bytes;
use messaging::Record;
use serde::{Deserialize, Serialize};

use super::chosen::{Chosen, choose};
use super::desk::Sent;
use super::filter::Filter;
use super::letter::Letter;
use super::{Letters, say_nothing_matches};
use crate::Exit;
use crate::screen::Screen;

/// Write dead letters as JSON lines, oldest first, each with all its bytes. To redrive some edited: change "value" in their
/// lines and give the file to `suite dlt redrive --from FILE`.
#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    letters: Letters,
}

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    group: String,
    partition: i32,
    offset: i64,
    /// When the record was written, milliseconds since the Unix epoch.
    timestamp_ms: i64,
    event_id: Option<String>,
    event_type: Option<String>,
    order_key: Option<String>,
    reason: Option<String>,
    error: String,
    /// What may be edited; null where the value is no JSON.
    value: serde_json::Value,
    /// The record as it is, in base64.
    record: Sent,
}

/// Runs the command.
pub async fn run(command: Export, screen: &mut Screen) -> Result<Exit> {
    let Export { filter, letters } = command;
    let chosen = choose(&letters, filter).await?;
    if chosen.len() == 0 {
        say_nothing_matches(chosen.read(), true, screen)?;
    }
    for (_, letters) in chosen.by_group() {
        for (letter, record, _) in letters {
            screen.json(&Line {
                group: letter.group.clone(),
                partition: letter.partition,
                offset: letter.offset,
                timestamp_ms: record.timestamp_ms,
                event_id: letter.event_id.clone(),
                event_type: letter.event_type.clone(),
                order_key: letter.key.clone(),
                reason: letter.reason.clone(),
                error: letter.error(),
                value: json_of(record.value.as_deref()),
                record: Sent::of(&record, None),
            })?;
        }
    }
    Ok(Exit::Ok)
}

/// The letters of a file that the filter wants, with the values that were edited.
///
/// # Errors
/// Names the line that can't be read.
pub fn read(file: &Path, filter: &Filter) -> Result<Chosen> {
    let opened = std::fs::File::open(file).with_context(|| format!("can't read {}", file.display()))?;
    let mut chosen = Chosen::default();
    for (index, line) in BufReader::new(opened).lines().enumerate() {
        let place = || format!("{}, line {}", file.display(), index + 1);
        let line = line.with_context(place)?;
        if line.trim().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_str(&line)
            .map_err(|e| anyhow!("{}: {e}\nOne line of `suite dlt export` is expected", place()))?;
        let (record, edited) = line.into_record().with_context(place)?;
        let letter = Letter::of(&record.topic, &record);
        chosen.count_read();
        if filter.wants(&letter, &record) {
            chosen.add(letter, record, edited);
        }
    }
    Ok(chosen)
}

impl Line {
    /// The record, under its group's name, and its value where that was edited.
    fn into_record(self) -> Result<(Record, Option<Vec<u8>>)> {
        let decoded = |text: String| STANDARD.decode(text).map(Bytes::from);
        let bytes = |text: Option<String>| text.map(decoded).transpose().context("no base64");
        let headers = self.record.headers.into_iter().map(|header| Ok((header.name.into(), bytes(header.value)?)));
        let value = bytes(self.record.value)?;
        let edited = match &self.value {
            value_now if *value_now == json_of(value.as_deref()) => None,
            value_now => Some(serde_json::to_vec(value_now)?),
        };
        let record = Record {
            topic: Arc::from(self.group),
            partition: self.partition,
            offset: self.offset,
            timestamp_ms: self.timestamp_ms,
            key: bytes(self.record.key)?,
            headers: headers.collect::<Result<_>>()?,
            value,
        };
        Ok((record, edited))
    }
}

fn json_of(value: Option<&[u8]>) -> serde_json::Value {
    value.and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or_default()
}
