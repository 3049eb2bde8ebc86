//! After the faults: wait until everything is done, and put together what the run came to.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use contracts::OrderId;
use ops::verify::{Facts, Scope, check};
use sqlx::PgPool;

use super::arena::Arena;
use super::counts::Counts;
use super::recovery::recovery_ms;
use super::report::Report;
use super::schedule::Kind;
use super::traffic::Tally;
use super::{Options, Seen, carried_out};
use crate::Service;

/// How long the suite may take to finish what is under way. Never a measure: a slow machine needs long.
const DRAIN: Duration = Duration::from_secs(180);

/// What the check says in the end.
#[derive(Debug, Default)]
pub struct Verdict {
    violations: Vec<String>,
    /// What was excused, by reason.
    exempt: BTreeMap<String, u64>,
    /// Records that a group has not committed yet.
    behind: usize,
}

impl Verdict {
    fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.behind == 0
    }
}

/// Verifies again and again until nothing is wrong or the time is over: the last look counts.
pub async fn drain(arena: &Arena, tally: &Tally) -> Verdict {
    let start = Instant::now();
    loop {
        let over = start.elapsed() > DRAIN;
        match look(arena, tally).await {
            Ok(verdict) if verdict.is_clean() || over => return verdict,
            Ok(verdict) => arena.log.note(format!("not done yet: {} promises are open", verdict.violations.len())),
            Err(error) if over => {
                let violations = vec![format!("nothing can be verified: {error:#}")];
                return Verdict { violations, ..Verdict::default() };
            }
            Err(error) => arena.log.note(format!("can't be verified yet: {error:#}")),
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

async fn look(arena: &Arena, tally: &Tally) -> Result<Verdict> {
    let facts = Facts::gather(&arena.places, &Scope::All).await?;
    let report = check(&facts);
    let mut violations: Vec<String> = report.violations.iter().map(ToString::to_string).collect();
    let lost = tally.taken.iter().filter(|order: &&OrderId| !facts.orders.contains_key(order));
    violations.extend(lost.map(|order| format!("I1 order {order} was answered 202 and has no row")));
    let mut exempt = BTreeMap::new();
    for excused in &report.exempt {
        *exempt.entry(excused.why.clone()).or_default() += 1;
    }
    Ok(Verdict { violations, exempt, behind: report.behind })
}

/// The report, but for its times and its judgement.
///
/// # Errors
/// When the topics can't be counted.
pub async fn report(options: &Options, arena: &Arena, seen: Seen, verdict: Verdict) -> Result<Report> {
    let counts = Counts::read(&arena.places).await.context("counting what is on the topics")?;
    let faults = carried_out(&seen.done);
    let count = |kind: Kind| faults.get(&kind).copied().unwrap_or(0);
    let redelivered = |kind: Kind| -> u64 {
        let effects = seen.done.iter().filter(|done| done.kind == kind).flat_map(|done| &done.outcome);
        effects.map(|effect| effect.redelivered).sum()
    };
    let (rewound, shifted) = (redelivered(Kind::OffsetsRewound), redelivered(Kind::DueTimesShifted));
    let written_again = redelivered(Kind::Redelivery);
    let reproduced = written_again + shifted;
    let republished = counts.copies.saturating_sub(written_again);
    let failed = seen.done.iter().filter_map(|done| {
        let error = done.outcome.as_ref().err()?;
        Some(format!("{}: {error:#}", done.kind.name()))
    });
    let mut violations = verdict.violations;
    violations.extend(seen.tally.wrong.iter().map(|wrong| format!("a customer was told: {wrong}")));
    violations.extend(seen.offset_violations.iter().cloned());
    violations.extend(panics(arena).await?);
    let orders = ends(&arena.pools[&Service::Order]).await?;
    let is_final = |end: &str| end.starts_with("confirmed") || end.starts_with("cancelled");
    Ok(Report {
        seed: options.seed,
        minutes: options.minutes,
        commit: commit(),
        started_at: seen.started_at,
        took_secs: 0,
        passed: false,
        failures: Vec::new(),
        faults_failed: failed.collect(),
        orders_placed: u64::try_from(seen.tally.taken.len())?,
        orders_final: orders.iter().filter(|(end, _)| is_final(end)).map(|(_, count)| count).sum(),
        orders,
        twins: seen.tally.twins,
        turned_away: seen.tally.turned_away,
        sigkills: count(Kind::ServiceKill),
        redeliveries: reproduced + rewound + republished,
        reproduced,
        rewound,
        republished,
        retries: counts.retries,
        dead_letters: counts.dead_letters.values().sum(),
        dead_letter_reasons: counts.dead_letters,
        exits: seen.exits,
        longest_recovery_ms: seen.done.iter().filter_map(|done| recovery_ms(done.healed_ms, &seen.samples)).max(),
        drain_ms: 0,
        offset_samples: seen.offset_samples,
        violations: u64::try_from(violations.len())?,
        violations_found: violations,
        exempt: verdict.exempt,
        replay: format!("make chaos SEED={} MINUTES={} RATE={}", options.seed, options.minutes, options.rate),
        faults,
    })
}

/// How orders ended: "confirmed", "cancelled: out_of_stock"; those that have not are "placed".
async fn ends(orders: &PgPool) -> Result<BTreeMap<String, u64>> {
    let rows: Vec<(String, i64)> =
        sqlx::query_as("select state || coalesce(': ' || cancel_reason, ''), count(*) from orders group by 1")
            .fetch_all(orders)
            .await?;
    rows.into_iter().map(|(end, count)| Ok((end, u64::try_from(count)?))).collect()
}

/// A service that panics has a defect, whatever it recovers to.
async fn panics(arena: &Arena) -> Result<Vec<String>> {
    let fleet = arena.fleet.lock().await;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(fleet.suite.folder())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            found
                .extend(text.lines().filter(|line| line.contains("panicked at")).map(|line| format!("{name}: {line}")));
        }
    }
    Ok(found)
}

fn commit() -> String {
    let said = std::process::Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=10"]).output();
    let text = said.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    let text = text.map(|text| String::from_utf8_lossy(&text).trim().to_owned());
    text.filter(|text| !text.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}
