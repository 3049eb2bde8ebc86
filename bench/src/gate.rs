//! The gate: a run in which anything was lost or doubled is void, however fast it was.

use std::time::{Duration, Instant};

use anyhow::Result;
use ops::verify::{Facts, Scope, check};

use crate::rig::{Servers, Suite};

/// Offsets are committed twice a second, so a suite at rest may need a moment until everything agrees.
const BOUND: Duration = Duration::from_secs(20);

/// How many violations of the invariants there are in a suite at rest; each is printed.
///
/// # Errors
/// When something cannot be read.
pub async fn check_all(servers: &Servers, suite: &Suite) -> Result<usize> {
    let (places, begin) = (suite.places(servers), Instant::now());
    loop {
        let report = check(&Facts::gather(&places, &Scope::All).await?);
        if report.violations.is_empty() || begin.elapsed() > BOUND {
            report.violations.iter().take(20).for_each(|violation| eprintln!("{violation}"));
            return Ok(report.violations.len());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
