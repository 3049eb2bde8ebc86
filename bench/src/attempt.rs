//! One scenario with settings of one's own, as text: nothing is kept. Against other programs, runs alternate on the same
//! servers, so that both meet the same machine in the same mood.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::measure::CpuSeconds;
use crate::plan;
use crate::report::{self, median};
use crate::rig::{CountStatements, Overrides, Servers};
use crate::scenarios::end_to_end::Load;
use crate::scenarios::{Size, Stages, drain, end_to_end, latency};

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub enum Trial {
    /// Throughput.
    EndToEnd,
    /// Latency at so many orders a second.
    Latency(f64),
    /// Each consumer's backlog.
    Drain,
}

/// What is measured, how large, and with which settings of the services.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// What.
    pub trial: Trial,
    /// Whether statements are counted and the dearest listed; not of a drain.
    pub count: CountStatements,
    /// Orders; at a rate, those of 20 s are sent instead.
    pub orders: usize,
    /// Variables of every service.
    pub settings: Vec<(String, String)>,
}

/// Figures by name.
type Figures = BTreeMap<String, f64>;

/// What a run is compared with.
#[derive(Debug, Clone, Default)]
pub struct Other {
    /// Where its programs are, where not beside this one.
    pub programs: Option<PathBuf>,
    /// Variables of every service, beside those of both.
    pub settings: Vec<(String, String)>,
}

/// What one run came to.
struct Ran {
    text: String,
    figures: Figures,
    violations: usize,
}

impl Attempt {
    /// Measures once.
    ///
    /// # Errors
    /// When anything fails.
    pub async fn once(&self) -> Result<String> {
        let mut servers = plan::servers().await?;
        Ok(self.run(&mut servers, &Other::default()).await?.text)
    }

    /// Measures so many pairs of runs: as it is, then with what `other` has otherwise. A first pair, in which the servers warm up,
    /// does not count. Prints each pair's ratios as they come, and returns their medians.
    ///
    /// # Errors
    /// When anything fails, or a run violates an invariant.
    pub async fn against(&self, other: &Other, pairs: usize) -> Result<String> {
        let mut servers = plan::servers().await?;
        let plain = Other::default();
        let mut ratios: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        for pair in 0..=pairs {
            // In turns, so that neither is always the first on what the other left.
            let (own, theirs) = if pair % 2 == 0 {
                let own = self.run(&mut servers, &plain).await?;
                (own, self.run(&mut servers, other).await?)
            } else {
                let theirs = self.run(&mut servers, other).await?;
                (self.run(&mut servers, &plain).await?, theirs)
            };
            for ran in [&own, &theirs] {
                ensure!(ran.violations == 0, "{} invariants were violated: the run is void", ran.violations);
            }
            if pair == 0 {
                continue;
            }
            let (own, theirs) = (own.figures, theirs.figures);
            let both = own.iter().filter_map(|(name, own)| Some((name.clone(), *own, *theirs.get(name)?)));
            let both = both.filter(|(_, own, theirs)| *own > 0.0 && *theirs > 0.0);
            let mut line = format!("pair {pair}:");
            for (name, own, theirs) in both {
                let _ = write!(line, " {name} {:.2}", own / theirs);
                ratios.entry(name).or_default().push((own, theirs));
            }
            eprintln!("{line}");
        }
        let mut text =
            format!("{:<34}{:>10}{:>10}{:>8}  lowest to highest\n", "median of pairs", "own", "other", "ratio");
        for (name, pairs) in ratios {
            let middle = |pick: fn(&(f64, f64)) -> f64| median(&pairs.iter().map(pick).collect::<Vec<_>>());
            let (own, other, ratio) = (middle(|p| p.0), middle(|p| p.1), middle(|p| p.0 / p.1));
            let spread = pairs.iter().map(|(own, other)| own / other);
            let (low, high) = spread.fold((f64::MAX, f64::MIN), |(low, high), it| (low.min(it), high.max(it)));
            if let (Some(own), Some(other), Some(ratio)) = (own, other, ratio) {
                let _ = writeln!(text, "{name:<34}{own:>10.3}{other:>10.3}{ratio:>8.3}  {low:.2} to {high:.2}");
            }
        }
        Ok(text)
    }

    async fn run(&self, servers: &mut Servers, other: &Other) -> Result<Ran> {
        let orders = self.orders;
        let size = Size { end_to_end_orders: orders, drain_orders: orders, ..Size::FULL };
        let settings: Vec<_> = self.settings.iter().chain(&other.settings).cloned().collect();
        let overrides = Overrides { programs: other.programs.clone(), ..Overrides::of(&settings)? };
        Ok(match self.trial {
            Trial::EndToEnd => {
                let load = Load { overrides, count: self.count, ..Load::plain(size, 1) };
                let found = end_to_end::measure(servers, load).await?;
                let mut figures = cpu("order", &found.cpu_per_thousand);
                figures.insert("orders/s".to_owned(), found.orders_per_second);
                figures.insert("transactions per order".to_owned(), found.per_order.transactions);
                let requests = found.requests_per_order.0.iter();
                figures.extend(requests.map(|(api, count)| (format!("{api} requests per order"), *count)));
                figures.insert("MB idle".to_owned(), found.resident_mb.0);
                figures.insert("MB under load".to_owned(), found.resident_mb.1);
                Ran { text: report::attempted(&found), figures, violations: found.violations }
            }
            Trial::Latency(rate) => {
                let found = latency::measure(servers, size, 1, rate, overrides, self.count).await?;
                let mut figures = cpu("order", &found.cpu_per_thousand);
                figures.insert("final p50 ms".to_owned(), found.done.p50_ms);
                figures.insert("final p99 ms".to_owned(), found.done.p99_ms);
                let stages = Stages::NAMED.into_iter();
                figures.extend(stages.map(|(stage, p50_ms)| (format!("p50 ms, {stage}"), p50_ms(&found.stages))));
                Ran { text: report::paced(&found), figures, violations: found.violations }
            }
            Trial::Drain => {
                let found = drain::measure(servers, orders, 1, &overrides).await?;
                let mut figures = Figures::new();
                for drain in &found {
                    figures.extend(cpu(&drain.service, &drain.cpu_per_thousand));
                    figures.insert(format!("{} events/s", drain.service), drain.events_per_second);
                }
                // Whether anything was lost is seen by its count: it waits for an answer to each event.
                Ran { text: serde_json::to_string_pretty(&found)? + "\n", figures, violations: 0 }
            }
        })
    }
}

/// CPU milliseconds for one order or event, by process.
fn cpu(of: &str, seconds: &CpuSeconds) -> Figures {
    let named = |(name, seconds): (&String, &f64)| (format!("ms per {of}: {name}"), *seconds);
    seconds.0.iter().map(named).chain([(format!("ms per {of}, all"), seconds.total())]).collect()
}
