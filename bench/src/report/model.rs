//! What is kept of a run.

use std::path::Path;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::limits::{Flush, Limits, LowLoad, Roofline, SameBatches, flush};
use crate::plan::ABLATIONS;
use crate::rig::{Durability, Mails, Servers, Spring};
use crate::scenarios::{BesideSpring, DrainBesideRows, Drains, EndToEnd, Latency, Post, Recovery, Soak};

/// What was measured, where and under which settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// When the run began.
    pub at: jiff::Timestamp,
    /// The commit, and whether the tree had changes.
    pub commit: String,
    /// The processor.
    pub processor: String,
    /// Its cores.
    pub cores: usize,
    /// Memory in MB (10^6 bytes).
    pub memory_mb: u64,
    /// The kernel.
    pub kernel: String,
    /// The compiler.
    pub rustc: String,
    /// The durability of the servers.
    pub durability: Durability,
    /// Where the folder of mails is, `in memory` or `on the disk`; that of a soak is on the disk.
    #[serde(default = "on_disk")]
    pub mails: String,
    /// What a flush cost before anything else.
    pub flush_before: Flush,
}

/// Where they were before this was stated.
fn on_disk() -> String {
    Mails::ON_DISK.to_owned()
}

impl Provenance {
    /// Reads it.
    ///
    /// # Errors
    /// When a tool is missing.
    pub async fn read(servers: &Servers) -> Result<Self> {
        Ok(Self {
            at: jiff::Timestamp::now(),
            commit: said("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
            processor: line_of("/proc/cpuinfo", "model name").unwrap_or_default(),
            cores: std::thread::available_parallelism()?.get(),
            memory_mb: memory_mb(),
            kernel: said("uname", &["-sr"]),
            rustc: said("rustc", &["--version"]),
            durability: servers.durability().await?,
            mails: Mails::place()?.to_owned(),
            flush_before: flush::measure(servers.folder()).await?,
        })
    }
}

/// Where and how the suite was measured beside Spring.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpringProvenance {
    /// As of every run.
    pub run: Provenance,
    /// The version of the JVM.
    pub jvm: String,
}

impl SpringProvenance {
    /// Reads it.
    ///
    /// # Errors
    /// When a tool is missing.
    pub async fn read(servers: &Servers) -> Result<Self> {
        Ok(Self { run: Provenance::read(servers).await?, jvm: Spring::jvm()? })
    }
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

fn line_of(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory_mb() -> u64 {
    let kib =
        line_of("/proc/meminfo", "MemTotal").and_then(|text| text.trim_end_matches(" kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1_024 / 1_000_000
}

/// One round of the scenarios; what is missing has not run yet.
#[derive(Debug, Clone, Default)]
pub struct Round {
    /// This machine's limits.
    pub limits: Option<Limits>,
    /// POST alone.
    pub post: Option<Post>,
    /// End to end, as a shop orders.
    pub end_to_end: Option<EndToEnd>,
    /// The broker with the batches of that run.
    pub same_batches: Option<SameBatches>,
    /// End to end, every order good.
    pub good: Option<EndToEnd>,
    /// The same with 1 % that fail once and 0.1 % poison.
    pub failing: Option<EndToEnd>,
    /// A backlog per consumer, and the limit of the first.
    pub drain: Option<DrainBesideRows>,
    /// With one event in each transaction.
    pub drain_size_1: Option<Drains>,
    /// What a hop and a commit take at a low load.
    pub limits_low: Option<LowLoad>,
    /// Placed to final at a low load.
    pub latency_low: Option<Latency>,
    /// Placed to final at half of what end to end reached.
    pub latency_half: Option<Latency>,
}

impl Round {
    /// What an order can't do without.
    pub fn roofline(&self) -> Option<Roofline> {
        Some(Roofline::of(self.limits.as_ref()?, self.same_batches.as_ref()?))
    }
}

/// Every round of a run, and what is measured once.
#[derive(Debug, Clone)]
pub struct Results {
    /// Where and how.
    pub provenance: Provenance,
    /// The rounds.
    pub rounds: Vec<Round>,
    /// End to end with statements counted: the counts, not the speed.
    pub counts: Option<EndToEnd>,
    /// Where and how the ablations were measured.
    pub ablations_provenance: Option<Provenance>,
    /// In the order of [`crate::plan::ABLATIONS`].
    pub ablations: Vec<Option<EndToEnd>>,
    /// Where and how it was killed.
    pub recovery_provenance: Option<Provenance>,
    /// After SIGKILL.
    pub recovery: Option<Vec<Recovery>>,
    /// Where and how the soak was.
    pub soak_provenance: Option<Provenance>,
    /// Twenty minutes.
    pub soak: Option<Soak>,
    /// Where and how the suite was measured beside Spring.
    pub spring_provenance: Option<SpringProvenance>,
    /// The rounds of it.
    pub spring: Vec<BesideSpring>,
    /// What a flush cost after everything else.
    pub flush_after: Option<Flush>,
}

impl Results {
    /// Violated invariants of all runs.
    pub fn violations(&self) -> usize {
        let rounds = self.rounds.iter().flat_map(|round| [&round.end_to_end, &round.good, &round.failing]);
        let whole = rounds.chain([&self.counts]).chain(&self.ablations).flatten().map(|run| run.violations);
        let latency = self.rounds.iter().flat_map(|round| [&round.latency_low, &round.latency_half]);
        let latency = latency.flatten().map(|run| run.violations);
        let drains = self
            .rounds
            .iter()
            .flat_map(|round| [round.drain.as_ref().map(|beside| &beside.found), round.drain_size_1.as_ref()]);
        let drains = drains.flatten().map(|drains| drains.violations);
        let killed = self.recovery.iter().flatten().map(|run| run.violations);
        whole.chain(latency).chain(drains).chain(killed).chain(self.soak.iter().map(|run| run.violations)).sum()
    }
}

/// The result in `out/NAME-ROUND.json`; measures and writes it where it is not there yet.
///
/// # Errors
/// When measuring fails, or the file cannot be read or written.
pub async fn keep<T: Serialize + DeserializeOwned>(
    out: &Path,
    name: &str,
    round: usize,
    measure: impl AsyncFnOnce() -> Result<T>,
) -> Result<T> {
    if let Some(found) = read(out, name, round)? {
        println!("{name} {round}: there already");
        return Ok(found);
    }
    let begin = std::time::Instant::now();
    let found = measure().await.with_context(|| format!("{name}, round {round}"))?;
    std::fs::create_dir_all(out)?;
    let (file, fresh) = (file(out, name, round), out.join("fresh.part"));
    std::fs::write(&fresh, serde_json::to_vec_pretty(&found)?)?;
    std::fs::rename(&fresh, &file).with_context(|| format!("writing {}", file.display()))?;
    println!("{name} {round}: {} s", begin.elapsed().as_secs());
    Ok(found)
}

/// Whether this result is there already.
pub fn is_kept(out: &Path, name: &str, round: usize) -> bool {
    file(out, name, round).exists()
}

fn file(out: &Path, name: &str, round: usize) -> std::path::PathBuf {
    out.join(format!("{name}-{round}.json"))
}

fn read<T: DeserializeOwned>(out: &Path, name: &str, round: usize) -> Result<Option<T>> {
    let file = file(out, name, round);
    match std::fs::read(&file) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).with_context(|| format!("reading {}", file.display()))?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
    }
}

/// Everything that is in `out`.
///
/// # Errors
/// When nothing is, or a file is no result.
pub fn load(out: &Path) -> Result<Results> {
    let provenance = read(out, "provenance", 0)?.with_context(|| format!("{} has no results", out.display()))?;
    let mut rounds = Vec::new();
    for round in 1.. {
        let found = Round {
            limits: read(out, "limits", round)?,
            post: read(out, "post", round)?,
            end_to_end: read(out, "end-to-end", round)?,
            same_batches: read(out, "same-batches", round)?,
            good: read(out, "good", round)?,
            failing: read(out, "failing", round)?,
            drain: read(out, "drain", round)?,
            drain_size_1: read(out, "drain-size-1", round)?,
            limits_low: read(out, "limits-low", round)?,
            latency_low: read(out, "latency-low", round)?,
            latency_half: read(out, "latency-half", round)?,
        };
        if found.post.is_none() && found.end_to_end.is_none() {
            break;
        }
        rounds.push(found);
    }
    let ablations = (0..ABLATIONS.len()).map(|index| read(out, "ablation", index)).collect::<Result<_>>()?;
    Ok(Results {
        provenance,
        rounds,
        counts: read(out, "counts", 0)?,
        ablations_provenance: read(out, "ablations-provenance", 0)?,
        ablations,
        recovery_provenance: read(out, "recovery-provenance", 0)?,
        recovery: read(out, "recovery", 0)?,
        soak_provenance: read(out, "soak-provenance", 0)?,
        soak: read(out, "soak", 0)?,
        spring_provenance: read(out, "spring-provenance", 0)?,
        spring: load_spring(out)?,
        flush_after: read(out, "flush-after", 0)?,
    })
}

/// The rounds beside Spring that are in `out`.
///
/// # Errors
/// When a file is no result.
pub fn load_spring(out: &Path) -> Result<Vec<BesideSpring>> {
    (1..).map_while(|round| read(out, "spring", round).transpose()).collect()
}
