//! Latencies in an HdrHistogram of microseconds.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// A minute; what took longer counts as that.
const HIGHEST_US: u64 = 60_000_000;

/// Recorded latencies.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

/// A point of the percentile curve: the share of requests (0 to 1) that took at most so many milliseconds.
pub type CurvePoint = (f64, f64);

/// Percentiles in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// How many were recorded.
    pub count: u64,
    /// The mean.
    pub mean_ms: f64,
    /// The median.
    pub p50_ms: f64,
    /// 95 of 100 took at most this.
    pub p95_ms: f64,
    /// 99 of 100.
    pub p99_ms: f64,
    /// 999 of 1,000.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// The curve, for the plot.
    pub curve: Vec<CurvePoint>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies {
    /// None yet; three significant digits.
    ///
    /// # Panics
    /// Never: the bounds are constants that the crate accepts.
    pub fn new() -> Self {
        Self(Histogram::new_with_bounds(1, HIGHEST_US, 3).expect("1 us to 60 s with 3 digits is a valid histogram"))
    }

    /// Records one.
    pub fn record(&mut self, latency: Duration) {
        self.record_us(u64::try_from(latency.as_micros()).unwrap_or(HIGHEST_US));
    }

    /// Records one, in microseconds.
    pub fn record_us(&mut self, latency_us: u64) {
        self.0.saturating_record(latency_us.max(1));
    }

    /// Adds those of another.
    ///
    /// # Errors
    /// Never for two of this type.
    pub fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        Ok(self.0.add(&other.0)?)
    }

    /// The value below which a share (0 to 1) lies, in milliseconds.
    pub fn quantile_ms(&self, share: f64) -> f64 {
        millis(self.0.value_at_quantile(share))
    }

    /// The summary.
    pub fn percentiles(&self) -> Percentiles {
        let curve = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.999, 0.9995, 0.9999, 1.0];
        Percentiles {
            count: self.0.len(),
            mean_ms: self.0.mean() / 1_000.0,
            p50_ms: self.quantile_ms(0.5),
            p95_ms: self.quantile_ms(0.95),
            p99_ms: self.quantile_ms(0.99),
            p999_ms: self.quantile_ms(0.999),
            max_ms: millis(self.0.max()),
            curve: curve.iter().map(|share| (*share, self.quantile_ms(*share))).collect(),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a minute of microseconds fits")]
fn millis(us: u64) -> f64 {
    us as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_recorded() {
        let mut latencies = Latencies::new();
        (1..=1_000).for_each(|ms| latencies.record(Duration::from_millis(ms)));
        let found = latencies.percentiles();
        assert_eq!(found.count, 1_000);
        for (wanted, got) in [(500.0, found.p50_ms), (990.0, found.p99_ms), (1_000.0, found.max_ms)] {
            assert!((got - wanted).abs() / wanted < 0.002, "{got} is not {wanted}");
        }
    }
}
