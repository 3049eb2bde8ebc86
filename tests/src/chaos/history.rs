//! What a failed run leaves behind, in `target/chaos/seed-N/`: the schedule, the events, every log, topic and table.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use messaging::topics::TopicsFile;
use ops::verify::Places;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use testkit::{Record, consume_all};

use super::arena::Arena;
use super::report::Report;
use super::schedule::Planned;
use crate::Service;

/// Writes the report's JSON; its path.
///
/// # Errors
/// When it can't be written.
pub fn write_report(folder: &Path, report: &Report) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let path = folder.join(format!("seed-{}.json", report.seed));
    let text = serde_json::to_string_pretty(report)?;
    std::fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// Removes what an earlier run of this seed left.
///
/// # Errors
/// When it can't be removed.
pub fn clear(folder: &Path, seed: u64) -> Result<()> {
    let old = history_of(folder, seed);
    if old.exists() {
        std::fs::remove_dir_all(&old).with_context(|| format!("removing {}", old.display()))?;
    }
    Ok(())
}

fn history_of(folder: &Path, seed: u64) -> PathBuf {
    folder.join(format!("seed-{seed}"))
}

/// Keeps everything; where. What can't be read any more is named in `missing.txt`.
///
/// # Errors
/// When nothing can be written.
pub async fn keep(folder: &Path, seed: u64, arena: &Arena, schedule: &[Planned]) -> Result<PathBuf> {
    let kept = history_of(folder, seed);
    for part in ["logs", "topics", "tables"] {
        std::fs::create_dir_all(kept.join(part)).with_context(|| format!("making {}", kept.display()))?;
    }
    lines(&kept.join("schedule.jsonl"), schedule)?;
    lines(&kept.join("events.jsonl"), &arena.log.entries())?;
    let mut missing = Vec::new();
    logs(&kept, arena).await.unwrap_or_else(|error| missing.push(format!("{error:#}")));
    for topic in TopicsFile::builtin()?.expand() {
        let records = records(&arena.places, &topic.name).await;
        match records {
            Ok(records) => lines(&kept.join(format!("topics/{}.jsonl", topic.name)), &records)?,
            Err(error) => missing.push(format!("{}: {error:#}", topic.name)),
        }
    }
    for service in Service::ALL {
        if let Err(error) = tables(&kept, service, &arena.pools[&service]).await {
            missing.push(format!("{}: {error:#}", service.name()));
        }
    }
    if !missing.is_empty() {
        std::fs::write(kept.join("missing.txt"), missing.join("\n"))?;
    }
    Ok(kept)
}

fn lines<T: Serialize>(path: &Path, values: &[T]) -> Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for value in values {
        serde_json::to_writer(&mut file, value)?;
        file.write_all(b"\n")?;
    }
    file.flush().with_context(|| format!("writing {}", path.display()))
}

/// Logs of services and servers, and the gateway's ledger.
async fn logs(kept: &Path, arena: &Arena) -> Result<()> {
    let fleet = arena.fleet.lock().await;
    for entry in std::fs::read_dir(fleet.suite.folder())? {
        let path = entry?.path();
        if path.is_file() {
            std::fs::copy(&path, kept.join("logs").join(path.file_name().unwrap_or_default()))?;
        }
    }
    for (number, broker) in arena.brokers.lock().await.iter().enumerate() {
        std::fs::copy(broker.log_file(), kept.join(format!("logs/kafka-{}.log", number + 1)))?;
    }
    std::fs::copy(arena.postgres.lock().await.log_file(), kept.join("logs/postgres.log"))?;
    Ok(())
}

async fn records(places: &Places, topic: &str) -> Result<Vec<Value>> {
    let records = consume_all(&places.brokers.bootstrap, &places.physical(topic)).await?;
    Ok(records.iter().map(readable).collect())
}

fn readable(record: &Record) -> Value {
    let text = |bytes: &Option<Vec<u8>>| bytes.as_deref().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let headers: Vec<Value> = record.headers.iter().map(|(name, value)| json!([name, text(value)])).collect();
    json!({
        "partition": record.partition, "offset": record.offset, "timestamp_ms": record.timestamp_ms,
        "key": text(&record.key), "headers": headers, "payload": text(&record.payload),
    })
}

async fn tables(kept: &Path, service: Service, db: &PgPool) -> Result<()> {
    let names: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_class where relnamespace = 'public'::regnamespace \
         and relkind in ('r', 'p') and not relispartition order by 1",
    )
    .fetch_all(db)
    .await?;
    for name in names {
        // A name from the catalogue; the tables are the suite's own, plain lower case.
        let rows: Vec<Value> = sqlx::query_scalar(AssertSqlSafe(format!("select to_jsonb(t) from {name} t")))
            .fetch_all(db)
            .await
            .with_context(|| name.clone())?;
        lines(&kept.join(format!("tables/{}.{name}.jsonl", service.database())), &rows)?;
    }
    Ok(())
}
