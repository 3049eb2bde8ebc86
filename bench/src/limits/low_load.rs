//! One Kafka hop and one commit as often as orders come at a low load, instead of in a tight loop.
//!
//! Between two orders cores go to sleep and caches fill with other things, for everybody: in a tight loop, a commit of the same rows
//! takes less than half of the time. Both count from their sending, so how late a timer wakes up is not in them.

use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{broker, commit};
use crate::load::count_at;
use crate::measure::histogram::Percentiles;
use crate::rig::Servers;
use crate::scenarios::Size;

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LowLoad {
    /// How many of each there were in a second.
    pub rate: f64,
    /// From send to receive, acks=all.
    pub hop: Percentiles,
    /// The rows of one POST in one transaction, on one connection.
    pub commit: Percentiles,
}

/// Measures both, one after the other, `rate` times a second.
///
/// # Errors
/// When the broker or the server does not answer.
pub async fn measure(servers: &mut Servers, size: Size, rate: f64) -> Result<LowLoad> {
    let (period, seconds) = (Duration::from_secs_f64(1.0 / rate), size.steady_secs / 2);
    let commit = commit::one_in_each(servers, period, Duration::from_secs(u64::try_from(seconds)?)).await?;
    let hop = broker::hop_in_each(servers, period, count_at(rate, seconds)?).await?;
    Ok(LowLoad { rate, hop, commit })
}
