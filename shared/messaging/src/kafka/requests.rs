//! How many requests the Kafka clients sent, by type, as librdkafka's statistics count them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::Statistics;

/// Requests by type (`Fetch`, `Produce`, `OffsetCommit` ...) of the clients that had one part: one after the other,
/// since a client that is replaced counts from 0 again.
#[derive(Debug, Default)]
pub(crate) struct Requests(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Of clients that were replaced.
    before: BTreeMap<String, u64>,
    /// Of the one that is there.
    now: BTreeMap<String, u64>,
}

impl Requests {
    /// Takes what a client says of itself.
    pub(crate) fn learn(&self, statistics: &Statistics) {
        let all = statistics.brokers.values().flat_map(|broker| &broker.req);
        self.counted(all.map(|(kind, count)| (kind.as_str(), u64::try_from(*count).unwrap_or(0))));
    }

    fn counted<'a>(&self, requests: impl Iterator<Item = (&'a str, u64)>) {
        let mut counts = self.counts();
        counts.now.clear();
        for (kind, count) in requests.filter(|(_, count)| *count > 0) {
            *counts.now.entry(kind.to_owned()).or_default() += count;
        }
    }

    /// The client is gone; another one begins at 0.
    pub(crate) fn client_replaced(&self) {
        let mut counts = self.counts();
        for (kind, count) in std::mem::take(&mut counts.now) {
            *counts.before.entry(kind).or_default() += count;
        }
    }

    /// Since the start, by type.
    pub(crate) fn by_type(&self) -> BTreeMap<String, u64> {
        let counts = self.counts();
        let mut sum = counts.before.clone();
        for (kind, count) in &counts.now {
            *sum.entry(kind.clone()).or_default() += count;
        }
        sum
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_client_does_not_set_the_counts_back() {
        let requests = Requests::default();
        let sum = |requests: &Requests| requests.by_type().into_iter().collect::<Vec<_>>();
        // Two brokers of one client.
        requests.counted([("Fetch", 3), ("Produce", 0), ("Fetch", 4)].into_iter());
        assert_eq!(sum(&requests), [("Fetch".to_owned(), 7)]);
        requests.counted([("Fetch", 9)].into_iter());
        requests.client_replaced();
        assert_eq!(sum(&requests), [("Fetch".to_owned(), 9)]);
        requests.counted([("Fetch", 2), ("OffsetCommit", 1)].into_iter());
        assert_eq!(sum(&requests), [("Fetch".to_owned(), 11), ("OffsetCommit".to_owned(), 1)]);
    }
}
