//! Requests to brokers, as the services' Kafka clients count them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::load::Connection;
use crate::rig::{Service, Suite};

/// The clients publish their counts every 2 s.
const PUBLISHED: Duration = Duration::from_millis(2_100);

/// Requests by type (`Fetch`, `Produce` ...), of all four services.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Requests(pub BTreeMap<String, f64>);

impl Requests {
    /// What was sent up to now.
    ///
    /// # Errors
    /// When a service does not answer, or shows no such metric.
    pub async fn read(suite: &Suite) -> Result<Self> {
        tokio::time::sleep(PUBLISHED).await;
        let mut sum = Self::default();
        for service in Service::ALL {
            let page = Connection::open(suite.address(service)).await?.get("/metrics").await?;
            let found = sum.add(&page);
            found.with_context(|| format!("{} does not tell its requests to brokers", service.name()))?;
        }
        Ok(sum)
    }

    /// Adds what a page of metrics tells; `None` where it tells nothing.
    fn add(&mut self, page: &str) -> Option<()> {
        let mut found = None;
        for line in page.lines() {
            let Some(labels) = line.strip_prefix("kafka_client_requests_total{") else { continue };
            let (labels, count) = labels.rsplit_once("} ")?;
            let kind = labels.split_once("request=\"")?.1.split('"').next()?;
            *self.0.entry(kind.to_owned()).or_default() += count.trim().parse::<f64>().ok()?;
            found = Some(());
        }
        found
    }

    /// For each of `count` orders, what was sent since `before`.
    #[must_use]
    pub fn per_order(&self, before: &Self, count: usize) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark fit")]
        let count = count as f64;
        let of = |(kind, now): (&String, &f64)| {
            (kind.clone(), (now - before.0.get(kind).copied().unwrap_or_default()) / count)
        };
        Self(self.0.iter().map(of).filter(|(_, sent)| *sent > 0.0).collect())
    }

    /// Of all types.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.0.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_both_clients_are_added_up_by_type() {
        let page = "# TYPE kafka_client_requests_total counter\n\
                    kafka_client_requests_total{client=\"consumer\",request=\"Fetch\",otel_scope_name=\"a\"} 40\n\
                    kafka_client_requests_total{client=\"producer\",request=\"Metadata\"} 1\n\
                    kafka_client_requests_total{client=\"consumer\",request=\"Metadata\"} 2\n\
                    other_total{request=\"Fetch\"} 7\n";
        let mut requests = Requests::default();
        assert_eq!(requests.add(page), Some(()));
        assert_eq!(requests.0, [("Fetch".to_owned(), 40.0), ("Metadata".to_owned(), 3.0)].into());
        assert_eq!(requests.add("other_total 7\n"), None, "a page without them is not an empty sum");
        let before = Requests([("Fetch".to_owned(), 20.0), ("Metadata".to_owned(), 3.0)].into());
        assert_eq!(requests.per_order(&before, 10).0, [("Fetch".to_owned(), 2.0)].into());
    }
}
