//! Which scenarios run, in which order.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::limits;
use crate::load::Mix;
use crate::report::{self, keep};
use crate::rig::{CountStatements, Overrides, Servers, Spring};
use crate::scenarios::end_to_end::Load;
use crate::scenarios::{Size, drain, end_to_end, latency, post, recovery, soak, spring};

/// What is switched off, one at a time, to see what it is worth: (name in the table, settings). First nothing, beside the
/// others: an hour ago is another machine.
pub const ABLATIONS: [(&str, &[(&str, &str)]); 8] = [
    ("as it is", &[]),
    ("batch size 1", &[("BATCH_MAX", "1")]),
    ("no group commit", &[("ORDER_GROUP_MAX", "1")]),
    ("one partition, so one lane", &[("PARTITIONS", "1")]),
    ("a relay that polls every 50 ms", &[("RELAY_WAKE", "false"), ("RELAY_POLL_MS", "50")]),
    ("no rest between batches", &[("REST_MS", "0")]),
    ("decided under locks only", &[("OPTIMISTIC_EVENTS", "0")]),
    ("single-row SQL", &[("STATEMENT_EVENTS", "1")]),
];

/// Orders a second that are few.
const LOW_LOAD: f64 = 100.0;

async fn start() -> Result<Servers> {
    ensure!(!cfg!(debug_assertions) || std::env::var_os("BENCH_DEBUG").is_some(), "build with --release: make bench");
    servers().await
}

/// A Kafka and a PostgreSQL on fresh data whose settings are durable.
///
/// # Errors
/// When they do not start, or are not.
pub async fn servers() -> Result<Servers> {
    let servers = Servers::start().await?;
    servers.durability().await?.check()?;
    Ok(servers)
}

/// Each scenario of each round, unless its result is there already; what is measured once comes with the first round.
///
/// # Errors
/// When anything fails.
pub async fn rounds(out: &Path, rounds: usize) -> Result<()> {
    let mut servers = start().await?;
    keep(out, "provenance", 0, async || report::Provenance::read(&servers).await).await?;
    let rounds_are_kept = (1..=rounds).all(|round| report::is_kept(out, "latency-half", round));
    let ablations_are_kept = (0..ABLATIONS.len()).all(|index| report::is_kept(out, "ablation", index));
    if !rounds_are_kept || !ablations_are_kept {
        warm_up(&mut servers).await?;
    }
    for round in 1..=rounds {
        one_round(&mut servers, out, round).await?;
    }
    once(&mut servers, out).await?;
    keep(out, "flush-after", 0, async || limits::flush::measure(servers.folder()).await).await?;
    Ok(())
}

/// A broker that was just started compiles for half of its time: what is measured first would pay for all.
async fn warm_up(servers: &mut Servers) -> Result<()> {
    end_to_end::measure(servers, Load::plain(few_orders(), 1)).await.map(drop)
}

async fn one_round(servers: &mut Servers, out: &Path, round: usize) -> Result<()> {
    let (size, seed) = (Size::FULL, u64::try_from(round)?);
    let plain = Overrides::default;
    let post = keep(out, "post", round, async || post::measure(servers, size, seed, &plain()).await).await?;
    let half = post.ceiling_per_second() / 2.0;
    keep(out, "limits", round, async || limits::measure(servers, size, half).await).await?;
    let whole =
        keep(out, "end-to-end", round, async || end_to_end::measure(servers, Load::plain(size, seed)).await).await?;
    keep(out, "same-batches", round, async || limits::broker::same_batches(servers, size, &whole).await).await?;
    keep(out, "good", round, async || {
        end_to_end::measure(servers, Load { mix: Mix::GOOD, ..Load::plain(size, seed) }).await
    })
    .await?;
    keep(out, "failing", round, async || {
        let mix = Mix { fails_once: 10, ..Mix::GOOD };
        end_to_end::measure(servers, Load { mix, poison: 1, ..Load::plain(size, seed) }).await
    })
    .await?;
    keep(out, "drain", round, async || drain::beside_rows(servers, size, seed).await).await?;
    let backlog = size.drain_orders_at_size_1;
    let one_by_one = plain().with("BATCH_MAX", 1);
    keep(out, "drain-size-1", round, async || drain::measure(servers, backlog, seed, &one_by_one).await).await?;
    let half = whole.orders_per_second / 2.0;
    keep(out, "limits-low", round, async || limits::low_load::measure(servers, size, LOW_LOAD).await).await?;
    for (name, rate) in [("latency-low", LOW_LOAD), ("latency-half", half)] {
        keep(out, name, round, async || {
            latency::measure(servers, size, seed, rate, plain(), CountStatements::No).await
        })
        .await?;
    }
    Ok(())
}

/// For ablations, each of which is measured once, and to warm up.
fn few_orders() -> Size {
    Size { end_to_end_orders: Size::FULL.end_to_end_orders / 4, ..Size::FULL }
}

async fn once(servers: &mut Servers, out: &Path) -> Result<()> {
    let size = Size::FULL;
    keep(out, "counts", 0, async || {
        end_to_end::measure(servers, Load { count: CountStatements::Yes, ..Load::plain(size, 1) }).await
    })
    .await?;
    keep(out, "ablations-provenance", 0, async || report::Provenance::read(servers).await).await?;
    for (index, (_, settings)) in ABLATIONS.iter().enumerate() {
        let overrides = Overrides::of(settings)?;
        keep(out, "ablation", index, async || {
            end_to_end::measure(servers, Load { overrides, ..Load::plain(few_orders(), 1) }).await
        })
        .await?;
    }
    keep(out, "recovery-provenance", 0, async || report::Provenance::read(servers).await).await?;
    // On servers of its own: a broker that starts again looks through all its topics, and this one has those of thirty runs.
    keep(out, "recovery", 0, async || recovery::measure(&mut self::servers().await?, size, 1).await).await?;
    Ok(())
}

/// The soak, at half of what the first round reached end to end.
///
/// # Errors
/// When the first round has not been measured, or anything fails.
pub async fn soak(out: &Path) -> Result<()> {
    let results = report::load(out)?;
    let whole = results.rounds.first().and_then(|round| round.end_to_end.as_ref());
    let rate =
        whole.context("run `make bench` first: the soak's rate is half of what it found")?.orders_per_second / 2.0;
    let mut servers = start().await?;
    keep(out, "soak-provenance", 0, async || report::Provenance::read(&servers).await).await?;
    keep(out, "soak", 0, async || soak::measure(&mut servers, Size::FULL, 1, rate).await).await?;
    Ok(())
}

/// The suite beside Spring.
///
/// # Errors
/// When Spring's program can't be built, or anything fails.
pub async fn beside_spring(out: &Path, rounds: usize) -> Result<()> {
    let program = Spring::build().await?;
    let mut servers = start().await?;
    keep(out, "spring-provenance", 0, async || report::SpringProvenance::read(&servers).await).await?;
    if !(1..=rounds).all(|round| report::is_kept(out, "spring", round)) {
        warm_up(&mut servers).await?;
    }
    for round in 1..=rounds {
        let seed = u64::try_from(round)?;
        keep(out, "spring", round, async || spring::measure(&mut servers, Size::FULL, seed, &program).await).await?;
    }
    Ok(())
}

/// What CI runs: the text to print, and how many invariants were violated.
///
/// # Errors
/// When anything fails.
pub async fn smoke() -> Result<(String, usize)> {
    let (size, mut servers) = (Size::SMOKE, servers().await?);
    let whole = end_to_end::measure(&mut servers, Load::plain(size, 1)).await?;
    let batched = drain::measure(&mut servers, size.drain_orders, 1, &Overrides::default()).await?;
    let one_by_one = Overrides::default().with("BATCH_MAX", 1);
    let single = drain::measure(&mut servers, size.drain_orders_at_size_1, 1, &one_by_one).await?;
    let violations = whole.violations + batched.violations + single.violations;
    Ok((report::smoke(&whole, &batched, &single), violations))
}
