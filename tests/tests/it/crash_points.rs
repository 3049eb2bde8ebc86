//! Death at every named point, sampled: `make crash-matrix` goes through all points of all services.

use anyhow::{Result, bail};
use system_tests::Settings;
use system_tests::crash_matrix::{Ended, run, sample};

use crate::own_suite;

#[test]
fn four_services_that_die_at_any_point_break_no_promise() -> Result<()> {
    own_suite(&Settings::faulty(), async |suite| {
        for (number, cells) in sample(1).iter().enumerate() {
            let names: Vec<String> =
                cells.iter().map(|cell| format!("{} {}:{}", cell.service.name(), cell.point.name, cell.nth)).collect();
            match run(suite, cells).await {
                Ended::Kept(took) => println!("round {number}: {} ok, {:.1} s", names.join(", "), took.as_secs_f64()),
                Ended::NotReached(missing) => bail!("round {number}: never reached: {missing}"),
                Ended::Broken(told) => bail!("round {number}: {}: {told}", names.join(", ")),
            }
        }
        Ok(())
    })
}
