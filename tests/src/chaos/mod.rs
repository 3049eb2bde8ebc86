//! `make chaos`: orders keep coming while everything that can fail fails, then all is healed, drained and verified.
//!
//! - The schedule is drawn from the seed before anything starts ([`schedule`], pure), so a seed replays its faults.
//! - Each track of it runs beside the others ([`faults`], on what the [`arena`] holds) under an open load ([`traffic`]).
//! - Afterwards [`ops::verify`] reads everything, and [`judge`] (pure) fails a run with a violation, or one in which too
//!   little happened to prove anything.
//! - The [`report`] is printed and kept as JSON; a failed run keeps its [`history`].
//!
//! Replayed is what is done to the suite. Threads, sockets and clocks are real, so the same seed may meet them otherwise.

pub mod arena;
pub mod counts;
pub mod faults;
pub mod history;
pub mod judge;
pub mod kafka;
pub mod log;
pub mod recovery;
pub mod report;
pub mod schedule;
pub mod traffic;
mod verdict;
pub mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::future::join_all;
use jiff::Timestamp;
use ops::verify::Sampler;

use arena::Arena;
use faults::Effect;
use judge::Floors;
use recovery::Sample;
use schedule::{Kind, Planned, Track};
use traffic::{Tally, Traffic};

/// A run.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the schedule and the load are drawn from.
    pub seed: u64,
    /// How long faults and load last, in minutes, at least 1.
    pub minutes: u64,
    /// Orders a second.
    pub rate: u32,
    /// Where the report goes, and the history.
    pub folder: PathBuf,
    /// Of which runs the history is kept.
    pub keep: Keep,
}

/// Of which runs the history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Of those that fail.
    Failed,
    /// Of every one.
    All,
}

/// A fault that is over.
#[derive(Debug)]
struct Done {
    kind: Kind,
    healed_ms: u64,
    outcome: Result<Effect>,
}

/// What was seen while the load ran.
#[derive(Debug, Default)]
struct Seen {
    done: Vec<Done>,
    exits: u64,
    samples: Vec<Sample>,
    offset_samples: u64,
    offset_violations: Vec<String>,
    started_at: Timestamp,
    tally: Tally,
}

/// Runs, prints and writes the report; whether it passed.
///
/// # Errors
/// When the run could not be made: then it says nothing about the suite.
pub async fn run(options: &Options) -> Result<bool> {
    let start = Instant::now();
    history::clear(&options.folder, options.seed)?;
    let schedule = schedule::plan(options.seed, options.minutes);
    println!(
        "seed {}, {} min, {} faults; starting the servers and services",
        options.seed,
        options.minutes,
        schedule.len()
    );
    let mut arena = Arena::start().await?;
    let outcome = rounds(options, &mut arena, &schedule, start).await;
    arena.tear_down().await;
    outcome
}

async fn rounds(options: &Options, arena: &mut Arena, schedule: &[Planned], start: Instant) -> Result<bool> {
    let products = arena.products().await?;
    arena.load_starts();
    let seen = fail(options, arena, schedule, products).await?;
    arena.log.note("everything is healed; draining");
    let drain = Instant::now();
    let verdict = verdict::drain(arena, &seen.tally).await;
    let mut report = verdict::report(options, arena, seen, verdict).await?;
    report.drain_ms = u64::try_from(drain.elapsed().as_millis())?;
    report.took_secs = start.elapsed().as_secs();
    report.failures = judge::judge(&report.figures(), &Floors::of(options.minutes, schedule));
    report.passed = report.failures.is_empty();
    println!("{report}");
    let path = history::write_report(&options.folder, &report)?;
    println!("report: {}", path.display());
    for failure in &report.failures {
        println!("FAILED: {failure}");
    }
    if !report.passed || options.keep == Keep::All {
        let kept = history::keep(&options.folder, options.seed, arena, schedule).await?;
        println!("history: {}\nreplay:  {}", kept.display(), report.replay);
    }
    Ok(report.passed)
}

/// Load and faults, until every fault is healed and every customer has an answer.
async fn fail(options: &Options, arena: &Arena, schedule: &[Planned], products: [crate::NewOrder; 3]) -> Result<Seen> {
    let mut seen = Seen { started_at: Timestamp::now(), ..Seen::default() };
    let mut sampler = Sampler::new(arena.places.clone());
    let started_ms = u64::try_from(seen.started_at.as_millisecond())?;
    let urls = arena.order_urls.clone();
    let traffic = Traffic::start(arena.http.clone(), urls, products, options.seed, options.rate);
    let whole = Duration::from_secs(60 * options.minutes);
    let tracks = async {
        let tracks = Track::ALL.map(|track| run_track(arena, schedule, track));
        let (done, ()) = tokio::join!(join_all(tracks), tokio::time::sleep(whole));
        arena.heal().await?;
        anyhow::Ok((done.into_iter().flatten().collect(), traffic.finish().await?))
    };
    let (done, tally) = tokio::select! {
        ended = tracks => ended?,
        never = watch::supervise(arena, &mut seen.exits) => match never {},
        never = watch::sample(arena, &mut seen.samples, started_ms) => match never {},
        never = watch::sample_offsets(arena, &mut sampler, &mut seen.offset_violations) => match never {},
    };
    // Everything is back: now a look must succeed.
    watch::look_at_offsets(arena, &mut sampler, &mut seen.offset_violations).await?;
    Ok(Seen { done, tally, offset_samples: sampler.samples(), ..seen })
}

async fn run_track(arena: &Arena, schedule: &[Planned], track: Track) -> Vec<Done> {
    let mut done = Vec::new();
    for planned in schedule.iter().filter(|planned| planned.fault.kind.track() == track) {
        tokio::time::sleep(Duration::from_millis(planned.at_ms.saturating_sub(arena.log.now_ms()))).await;
        let kind = planned.fault.kind;
        arena.log.note(format!("{} begins", kind.name()));
        let outcome = faults::carry_out(arena, planned).await;
        let told = outcome.as_ref().map_or_else(|error| format!("failed: {error:#}"), |effect| effect.told.clone());
        arena.log.note(format!("{} is healed  {told}", kind.name()));
        done.push(Done { kind, healed_ms: arena.log.now_ms(), outcome });
    }
    done
}

/// Faults by kind that were carried out.
fn carried_out(done: &[Done]) -> BTreeMap<Kind, u64> {
    let mut faults = BTreeMap::new();
    for done in done.iter().filter(|done| done.outcome.is_ok()) {
        *faults.entry(done.kind).or_default() += 1;
    }
    faults
}
