//! What the tests of every crate share: a real Kafka and PostgreSQL, databases and topics of their own, and waiting
//! for a state instead of sleeping.
//!
//! Everything made here is unmade: databases and topics when their handle is dropped, programs when the process ends.

mod cluster;
mod database;
mod eventually;
mod kafka;
mod topics;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

pub use cluster::{Cluster, PrivateCluster};
pub use database::TestDatabase;
pub use eventually::eventually;
pub use kafka::{Record, committed, consume_all, produce_raw};
pub use local_stack::{
    Kafka, KafkaOptions, Postgres, PostgresOptions, Scratch, ServiceOptions, ServiceProcess, free_port,
};
pub use topics::TestTopics;

/// A name that no other test has: `prefix`, and lower-case hexadecimal digits.
pub fn unique(prefix: &str) -> String {
    let id = uuid::Uuid::now_v7().simple().to_string();
    // The first twelve digits are the clock and the next one the version; the rest is random.
    format!("{prefix}_{}{}", &id[6..12], &id[13..24])
}

/// A topic prefix that no other test has.
pub fn topic_prefix() -> String {
    format!("{}.", unique("t"))
}

/// A binary of this workspace, in the profile that the running test or program was built with.
///
/// # Errors
/// When it has not been built: `make test` builds all before it runs any test.
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("where does this test's binary lie?")?;
    let folder = own.parent().context("a program lies in target/PROFILE, a test in its deps")?;
    let profile = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let path = profile.join(name);
    ensure!(path.is_file(), "{} is not built: cargo build --workspace --bins", path.display());
    Ok(path)
}
