//! Waiting for a state.

use std::fmt::Display;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

const POLL: Duration = Duration::from_millis(25);

/// Asks `check` again and again until it answers `Ok`, and returns that answer. An `Err` says what was seen instead;
/// the last one is in the error when `bound` passes.
///
/// ```no_run
/// # use std::time::Duration;
/// # async fn status() -> anyhow::Result<String> { Ok("confirmed".into()) }
/// # async fn example() -> anyhow::Result<()> {
/// testkit::eventually("the order is confirmed", Duration::from_secs(30), async || {
///     let status = status().await?;
///     anyhow::ensure!(status == "confirmed", "its status is {status}");
///     Ok(())
/// })
/// .await
/// # }
/// ```
///
/// # Errors
/// When `bound` passes first.
pub async fn eventually<T>(
    what: impl Display,
    bound: Duration,
    mut check: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    let mut last = anyhow!("it was never asked to the end");
    while start.elapsed() < bound {
        // A check that hangs is cut off; what was seen before it is what there is to tell.
        let left = bound.saturating_sub(start.elapsed());
        match tokio::time::timeout(left, check()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(seen)) => last = seen,
            Err(_) => break,
        }
        tokio::time::sleep(POLL).await;
    }
    Err(last).with_context(|| format!("not within {bound:?}: {what}"))
}
