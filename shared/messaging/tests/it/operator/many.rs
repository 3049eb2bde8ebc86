//! Ten thousand dead letters, redriven twice and twice again (I14).

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use contracts::envelope;
use contracts::{Event, EventId, TraceParent};
use jiff::Timestamp;
use messaging::operator::{Answer, DeadLetter, MAX_LETTERS};
use messaging::outbox::Row;
use testkit::eventually;

use super::Desk;
use crate::relaying::append;
use crate::rig::{Rig, placed};

const LETTERS: usize = 10_000;
/// Ample: it takes a fraction of that on two busy cores.
const LONG: Duration = Duration::from_secs(300);

/// Publishes poison by the group's own relay, which is the fastest producer here.
async fn publish_poison(rig: &Rig) -> Result<()> {
    let mut rows = Vec::new();
    for _ in 0..LETTERS {
        let event = placed("poison");
        let (now, trace) = (Timestamp::now(), TraceParent::new_root());
        let (headers, value) = envelope::encode(&event, EventId::new(), "/test", now, None, trace)?;
        rows.push(Row::new("orders", Some(event.order_id().to_string().into()), headers, Some(value))?);
    }
    append(rig, &rows).await
}

async fn wait_count(desk: &Desk, what: &str, statement: &'static str) -> Result<()> {
    eventually(format!("{LETTERS} {what}"), LONG, async || {
        let count = desk.count(statement).await?;
        ensure!(count == LETTERS as i64, "{count}");
        Ok(())
    })
    .await
}

async fn redrive_all(desk: &Desk, letters: &[DeadLetter], expected: &[Answer]) -> Result<()> {
    for batch in letters.chunks(MAX_LETTERS) {
        let said = desk.redrive(batch).await?;
        let other = said.iter().find(|answer| !expected.contains(answer));
        ensure!(other.is_none(), "{other:?} instead of {expected:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_dead_letters_redriven_twice_take_effect_once() -> Result<()> {
    let desk = Desk::new(&[50]).await?;
    let (start, instance) = (Instant::now(), desk.start());
    publish_poison(&desk.rig).await?;
    wait_count(&desk, "dead", "select count(*) from processed_events where outcome = 'dead'").await?;
    wait_count(&desk, "letters published", "select 10000 - count(*) from outbox").await?;
    let letters = desk.letters(LETTERS).await?;
    let dead = start.elapsed();

    desk.handler.mend();
    redrive_all(&desk, &letters, &[Answer::Redriven]).await?;
    // While the first one is being worked off.
    redrive_all(&desk, &letters, &[Answer::AlreadyRedriven, Answer::Done]).await?;
    let redriven = start.elapsed();
    wait_count(&desk, "done", "select count(*) from processed_events where outcome = 'done'").await?;
    redrive_all(&desk, &letters, &[Answer::Done]).await?;
    desk.rig.wait_settled().await?;

    let distinct = desk.count("select count(distinct event_id) from applied").await?;
    let applied = desk.count("select count(*) from applied").await?;
    let audited = desk.count("select count(*) from operator_actions").await?;
    assert_eq!((distinct, applied, audited), (10_000, 10_000, 10_000));
    println!("dead after {dead:?}, redriven twice after {redriven:?}, done after {:?}", start.elapsed());
    instance.stop().await
}
