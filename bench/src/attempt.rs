//! One scenario with settings of one's own, as text: nothing is kept. Against other programs, runs alternate on the same
//! servers, so that both meet the same machine in the same mood.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::measure::CpuSeconds;
use crate::measure::histogram::Percentiles;
use crate::plan;
use crate::report::{self, median};
use crate::rig::{CountStatements, Overrides, Servers};
use crate::scenarios::end_to_end::Load;
use crate::scenarios::latency::Turn;
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

    /// Measures so many pairs: as it is, and with what `other` has otherwise, and returns the medians of their ratios.
    ///
    /// # Errors
    /// When anything fails, or a run violates an invariant.
    pub async fn against(&self, other: &Other, pairs: usize) -> Result<String> {
        let mut servers = plan::servers().await?;
        let pairs = match self.trial {
            Trial::Latency(rate) => self.in_turns(&mut servers, other, rate, pairs).await?,
            Trial::EndToEnd | Trial::Drain => self.one_by_one(&mut servers, other, pairs).await?,
        };
        Ok(compared(&pairs))
    }

    /// Pairs of runs. A first one, in which the servers warm up, does not count. Prints each pair's ratios as they come.
    async fn one_by_one(&self, servers: &mut Servers, other: &Other, pairs: usize) -> Result<Vec<(Figures, Figures)>> {
        let plain = Other::default();
        let mut found = Vec::new();
        for pair in 0..=pairs {
            // In turns, so that neither is always the first on what the other left.
            let (own, theirs) = if pair % 2 == 0 {
                let own = self.run(servers, &plain).await?;
                (own, self.run(servers, other).await?)
            } else {
                let theirs = self.run(servers, other).await?;
                (self.run(servers, &plain).await?, theirs)
            };
            for ran in [&own, &theirs] {
                ensure!(ran.violations == 0, "{} invariants were violated: the run is void", ran.violations);
            }
            if pair == 0 {
                continue;
            }
            let ratios = common(&own.figures, &theirs.figures).map(|(name, own, theirs)| (name, own / theirs));
            let line: Vec<_> = ratios.map(|(name, ratio)| format!("{name} {ratio:.2}")).collect();
            eprintln!("pair {pair}: {}", line.join(", "));
            found.push((own.figures, theirs.figures));
        }
        Ok(found)
    }

    /// Pairs of turns of two suites that run beside each other, on servers that a run of one of them has warmed up.
    async fn in_turns(
        &self,
        servers: &mut Servers,
        other: &Other,
        rate: f64,
        pairs: usize,
    ) -> Result<Vec<(Figures, Figures)>> {
        let plain = Other::default();
        self.run(servers, &plain).await?;
        let both = [self.overrides(&plain)?, self.overrides(other)?];
        let turns = latency::in_turns(servers, Size::FULL, rate, pairs, both).await?;
        let figures = |turn: &Turn| paced(&turn.cpu_per_thousand, &turn.done, &turn.stages);
        Ok(turns.iter().map(|[own, theirs]| (figures(own), figures(theirs))).collect())
    }

    fn overrides(&self, other: &Other) -> Result<Overrides> {
        let settings: Vec<_> = self.settings.iter().chain(&other.settings).cloned().collect();
        Ok(Overrides { programs: other.programs.clone(), ..Overrides::of(&settings)? })
    }

    async fn run(&self, servers: &mut Servers, other: &Other) -> Result<Ran> {
        let orders = self.orders;
        let size = Size { end_to_end_orders: orders, drain_orders: orders, ..Size::FULL };
        let overrides = self.overrides(other)?;
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
                let figures = paced(&found.cpu_per_thousand, &found.done, &found.stages);
                Ran { text: report::paced(&found), figures, violations: found.violations }
            }
            Trial::Drain => {
                let found = drain::measure(servers, orders, 1, &overrides).await?;
                let mut figures = Figures::new();
                for drain in &found.drains {
                    figures.extend(cpu(&drain.service, &drain.cpu_per_thousand));
                    figures.insert(format!("{} events/s", drain.service), drain.events_per_second);
                }
                Ran { text: serde_json::to_string_pretty(&found)? + "\n", figures, violations: found.violations }
            }
        })
    }
}

/// What a run at a rate, or a turn, is compared by.
fn paced(seconds: &CpuSeconds, done: &Percentiles, stages: &Stages) -> Figures {
    let mut figures = cpu("order", seconds);
    figures.insert("final p50 ms".to_owned(), done.p50_ms);
    figures.insert("final p99 ms".to_owned(), done.p99_ms);
    figures.extend(Stages::NAMED.into_iter().map(|(stage, p50_ms)| (format!("p50 ms, {stage}"), p50_ms(stages))));
    figures
}

/// What both have, by name, where there is something to compare.
fn common<'a>(own: &'a Figures, theirs: &'a Figures) -> impl Iterator<Item = (&'a str, f64, f64)> {
    let both = own.iter().filter_map(|(name, own)| Some((name.as_str(), *own, *theirs.get(name)?)));
    both.filter(|(_, own, theirs)| *own > 0.0 && *theirs > 0.0)
}

/// The medians of pairs, and of their ratios, half of which are between the quartiles.
fn compared(pairs: &[(Figures, Figures)]) -> String {
    let mut by_name: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for (name, own, theirs) in pairs.iter().flat_map(|(own, theirs)| common(own, theirs)) {
        by_name.entry(name).or_default().push((own, theirs));
    }
    let mut text = format!(
        "{:<60}{:>10}{:>10}{:>8}  half of them    lowest to highest\n",
        format!("median of {} pairs", pairs.len()),
        "own",
        "other",
        "ratio",
    );
    for (name, pairs) in by_name {
        let middle = |pick: fn(&(f64, f64)) -> f64| median(&pairs.iter().map(pick).collect::<Vec<_>>());
        let (own, other, ratio) = (middle(|p| p.0), middle(|p| p.1), middle(|p| p.0 / p.1));
        let mut ratios: Vec<f64> = pairs.iter().map(|(own, other)| own / other).collect();
        ratios.sort_by(f64::total_cmp);
        let last = ratios.len() - 1;
        let (low, high) = (ratios[last / 4], ratios[last - last / 4]);
        if let (Some(own), Some(other), Some(ratio)) = (own, other, ratio) {
            let _ = writeln!(
                text,
                "{name:<60}{own:>10.3}{other:>10.3}{ratio:>8.3}  {low:.2} to {high:.2}    {:.2} to {:.2}",
                ratios[0], ratios[last],
            );
        }
    }
    text
}

/// CPU milliseconds for one order or event, by process.
fn cpu(of: &str, seconds: &CpuSeconds) -> Figures {
    let named = |(name, seconds): (&String, &f64)| (format!("ms per {of}: {name}"), *seconds);
    seconds.0.iter().map(named).chain([(format!("ms per {of}, all"), seconds.total())]).collect()
}
