//! `suite dlt show`: one dead letter whole.

use std::fmt::Write as _;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::Args;
use messaging::Record;

use super::Letters;
use super::desk::{Desks, Services};
use super::letter::{Letter, shown};
use super::read::{Part, read};
use crate::Exit;
use crate::screen::{Paint, Screen, Table, counted, plain};

/// A value longer than this is cut on the screen; --raw writes it whole.
const MAX_SHOWN_BYTES: usize = 16 * 1024;

/// Show one dead letter whole: reason, origin, headers and value. Name it as `suite dlt list` does (payment-service 2:17),
/// or by its event's id.
#[derive(Debug, Args)]
pub struct Show {
    /// GROUP PARTITION:OFFSET, or EVENT_ID, or GROUP EVENT_ID
    #[arg(value_name = "GROUP|EVENT_ID", num_args = 1..=2, required = true)]
    pub which: Vec<String>,
    /// Write the value's bytes as they are, and nothing else
    #[arg(long, conflicts_with = "json")]
    pub raw: bool,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub(crate) services: Services,
    #[command(flatten)]
    pub(crate) letters: Letters,
}

/// How a dead letter is named.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Named {
    At { group: String, partition: i32, offset: i64 },
    Event { group: Option<String>, id: String },
}

impl Named {
    fn parse(which: &[String]) -> Result<Self> {
        match which {
            [id] if id.contains(':') => bail!("{id} of which group? suite dlt show GROUP {id}"),
            [id] => Ok(Self::Event { group: None, id: id.clone() }),
            [group, at] => match at.split_once(':') {
                None => Ok(Self::Event { group: Some(group.clone()), id: at.clone() }),
                Some((partition, offset)) => {
                    let what = || format!("{at} is no PARTITION:OFFSET such as 2:17");
                    let partition = i32::from_str(partition).with_context(what)?;
                    let offset = i64::from_str(offset).with_context(what)?;
                    Ok(Self::At { group: group.clone(), partition, offset })
                }
            },
            _ => bail!("name one dead letter: GROUP PARTITION:OFFSET or EVENT_ID"),
        }
    }
}

/// Runs the command.
pub async fn run(command: Show, screen: &mut Screen) -> Result<Exit> {
    let Show { which, raw, json, services, letters } = command;
    let found = find(&letters, Named::parse(&which)?).await?;
    if raw {
        let [(_, record)] = found.as_slice() else {
            bail!("{} have this event: name the group", counted(found.len(), "group"))
        };
        screen.bytes(record.value.as_deref().unwrap_or_default())?;
        return Ok(Exit::Ok);
    }
    let desks = Desks::new(services).ok();
    for (index, (group, record)) in found.iter().enumerate() {
        let letter = Letter::of(group, record);
        let state = state_of(desks.as_ref(), &letter, screen).await;
        if json {
            let mut line = as_json(&letter, record);
            if let Some(state) = state {
                line["state"] = state.into();
            }
            screen.json(&line)?;
            continue;
        }
        if index > 0 {
            screen.line("")?;
        }
        print(&letter, state, record, screen)?;
    }
    Ok(Exit::Ok)
}

async fn find(letters: &Letters, named: Named) -> Result<Vec<(String, Record)>> {
    match named {
        Named::At { group, partition, offset } => {
            let part = Part::One { partition, offset };
            let keep = |found: &mut Vec<_>, group: &str, record| found.push((group.to_owned(), record));
            let found = read(letters, vec![group.clone()], part, Vec::new(), keep).await?;
            if found.is_empty() {
                bail!("there is no record at {partition}:{offset} of {group}'s dead letters any more");
            }
            Ok(found)
        }
        Named::Event { group, id } => {
            let groups = letters.groups(group.as_deref())?;
            let wanted = id.clone();
            // The newest of each group: a redriven event may have died more than once.
            let keep = move |found: &mut Vec<(String, Record)>, group: &str, record: Record| {
                if Letter::of(group, &record).is_event(&record, &wanted) {
                    found.retain(|(other, _)| other != group);
                    found.push((group.to_owned(), record));
                }
            };
            let found = read(letters, groups, Part::All, Vec::new(), keep).await?;
            if found.is_empty() {
                bail!("no dead letter holds event {id}: suite dlt list shows those that there are");
            }
            Ok(found)
        }
    }
}

/// What became of it, where its service can be asked.
async fn state_of(desks: Option<&Desks>, letter: &Letter, screen: &mut Screen) -> Option<String> {
    match desks?.standing(&letter.group, &[letter]).await {
        Ok(mut found) => {
            let standing = found.remove(letter.event_id.as_ref()?)?;
            let decision = standing.decision().map(|decision| format!(" ({decision})")).unwrap_or_default();
            Some(format!("{}{decision}", standing.of_letter(letter)))
        }
        Err(error) => {
            screen.note(&format!("note: not known whether it is still dead: {error:#}"));
            None
        }
    }
}

fn print(letter: &Letter, state: Option<String>, record: &Record, screen: &mut Screen) -> Result<()> {
    let place = format!("Dead letter {} of {}", letter.at(), letter.group);
    screen.line(screen.painted(&place, Paint::Bold))?;
    let mut table = Table::pairs();
    let unknown = || "?".to_owned();
    let mut row = |name: &str, value: String, paint| table.row([(name.to_owned(), Paint::Dim), (value, paint)]);
    if let Some(state) = state {
        row("state", state, Paint::Bold);
    }
    row("reason", letter.reason.clone().unwrap_or_else(unknown), Paint::Bad);
    row("error", letter.error(), Paint::Plain);
    let tries = letter.attempts.map_or_else(unknown, |n| n.to_string());
    let (first, last) = (shown(letter.first_failed_at), shown(letter.last_failed_at));
    row("attempts", format!("{tries}, the first failed {first}, the last {last}"), Paint::Plain);
    row("event", letter.event_type.clone().unwrap_or_else(unknown), Paint::Plain);
    row("event id", letter.event_id.clone().unwrap_or_else(unknown), Paint::Plain);
    row("key", letter.key.clone().unwrap_or_else(|| "none".to_owned()), Paint::Plain);
    let origin = &letter.original;
    let number = |n: Option<i64>| n.map_or_else(unknown, |n| n.to_string());
    let from = format!(
        "{} {}:{}, {}",
        origin.topic.clone().unwrap_or_else(unknown),
        number(origin.partition.map(i64::from)),
        number(origin.offset),
        shown(origin.time)
    );
    row("published", from, Paint::Plain);
    row("traceparent", letter.traceparent.clone().unwrap_or_else(|| "none".to_owned()), Paint::Plain);
    screen.table(&table)?;

    screen.line("")?;
    screen.line(screen.painted("Headers", Paint::Bold))?;
    let mut table = Table::pairs();
    for (name, value) in &record.headers {
        table.pair(name, header_shown(name, value.as_deref()));
    }
    screen.table(&table)?;

    screen.line("")?;
    let bytes = record.value.as_deref();
    let size = bytes.map_or_else(|| "none".to_owned(), |bytes| counted(bytes.len(), "byte"));
    screen.line(format!("{} ({size})", screen.painted("Value", Paint::Bold)))?;
    for line in value_lines(bytes.unwrap_or_default()) {
        screen.line(format!("  {line}"))?;
    }
    Ok(())
}

/// Text as it is; the numbers that Spring's tools write in binary as numbers; other bytes in hexadecimal.
fn header_shown(name: &str, value: Option<&[u8]>) -> String {
    let Some(value) = value else { return "null".to_owned() };
    if name.starts_with("kafka_dlt-original-") {
        if let Ok(bytes) = <[u8; 4]>::try_from(value)
            && name.ends_with("partition")
        {
            return i32::from_be_bytes(bytes).to_string();
        }
        if let Ok(bytes) = <[u8; 8]>::try_from(value)
            && (name.ends_with("offset") || name.ends_with("timestamp"))
        {
            return i64::from_be_bytes(bytes).to_string();
        }
    }
    match std::str::from_utf8(value) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("0x{}", hex(value)),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// JSON indented, other text line by line, anything else as a hexadecimal dump.
fn value_lines(value: &[u8]) -> Vec<String> {
    let cut = value.len() > MAX_SHOWN_BYTES;
    let mut lines: Vec<String> = match (serde_json::from_slice::<serde_json::Value>(value), std::str::from_utf8(value))
    {
        (Ok(json), _) if !cut => {
            let text = serde_json::to_string_pretty(&json).unwrap_or_default();
            text.lines().map(|line| plain(line).into_owned()).collect()
        }
        (_, Ok(text)) => {
            let head = &text[..text.floor_char_boundary(MAX_SHOWN_BYTES)];
            head.lines().map(|line| plain(line).into_owned()).collect()
        }
        (_, Err(_)) => value[..value.len().min(MAX_SHOWN_BYTES)].chunks(16).enumerate().map(dump_line).collect(),
    };
    if cut {
        lines.push(format!("... cut at {MAX_SHOWN_BYTES} bytes; --raw writes all"));
    }
    lines
}

fn dump_line((row, bytes): (usize, &[u8])) -> String {
    let text: String = bytes
        .iter()
        .map(|&byte| if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '.' })
        .collect();
    let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{:06x}  {:<47}  {text}", row * 16, pairs.join(" "))
}

fn as_json(letter: &Letter, record: &Record) -> serde_json::Value {
    let headers = record.headers.iter().map(|(name, value)| {
        serde_json::json!({"name": name, "value": value.as_ref().map(|_| header_shown(name, value.as_deref()))})
    });
    let value = record.value.as_deref();
    serde_json::json!({
        "dead_letter": letter,
        "headers": headers.collect::<Vec<_>>(),
        "value": value.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(bytes).ok()),
        "value_text": value.and_then(|bytes| std::str::from_utf8(bytes).ok()),
        "value_hex": value.map(hex),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_is_named_by_place_or_by_event() {
        let named = |which: &[&str]| Named::parse(&which.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        let group = "g".to_owned();
        assert_eq!(named(&["g", "2:17"]).expect("a place"), Named::At { group, partition: 2, offset: 17 });
        assert_eq!(named(&["e"]).expect("an event"), Named::Event { group: None, id: "e".to_owned() });
        let of_group = Named::Event { group: Some("g".to_owned()), id: "e".to_owned() };
        assert_eq!(named(&["g", "e"]).expect("an event"), of_group);
        for bad in [&["2:17"][..], &["g", "2:"], &["g", ":1"], &["g", "x:1"]] {
            assert!(named(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn binary_numbers_are_shown_as_numbers_and_other_bytes_in_hexadecimal() {
        assert_eq!(header_shown("kafka_dlt-original-partition", Some(&3_i32.to_be_bytes())), "3");
        assert_eq!(header_shown("kafka_dlt-original-offset", Some(&258_i64.to_be_bytes())), "258");
        assert_eq!(header_shown("kafka_dlt-original-topic", Some(b"orders")), "orders");
        assert_eq!(header_shown("other", Some(&[0xff, 0])), "0xff00");
        assert_eq!(header_shown("other", None), "null");
    }

    #[test]
    fn a_value_is_shown_as_what_it_is() {
        assert_eq!(value_lines(br#"{"a":[1]}"#), ["{", "  \"a\": [", "    1", "  ]", "}"]);
        assert_eq!(value_lines(b"not json\n\x1b[2J"), ["not json", "\\u{1b}[2J"]);
        assert_eq!(
            value_lines(b"\xff\x00 not text, longer"),
            [
                "000000  ff 00 20 6e 6f 74 20 74 65 78 74 2c 20 6c 6f 6e  .. not text, lon",
                "000010  67 65 72                                         ger",
            ]
        );
        let long = value_lines("ä".repeat(MAX_SHOWN_BYTES).as_bytes());
        assert_eq!(long.len(), 2);
        assert!(long[1].contains("--raw"));
    }
}
