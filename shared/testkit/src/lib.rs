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
    let path = profile_folder()?.join(name);
    ensure!(path.is_file(), "{} is not built: cargo build --workspace --bins", path.display());
    Ok(path)
}

/// A binary of this workspace with crash points and removable guards (cargo feature `fault-injection`).
///
/// # Errors
/// When it has not been built: `make test` builds it before it runs any test.
pub fn faulty_binary(name: &str) -> Result<PathBuf> {
    let profile = profile_folder()?;
    let (target, profile) = profile.parent().zip(profile.file_name()).context("a profile lies in target")?;
    let path = target.join("fault-injection").join(profile).join(name);
    ensure!(path.is_file(), "{} is not built: deploy/build-faulty.sh", path.display());
    Ok(path)
}

/// Where the binaries of the profile lie that the running program was built with.
fn profile_folder() -> Result<PathBuf> {
    let program = std::env::current_exe().context("where does this program lie?")?;
    let folder = program.parent().context("a program lies in a folder")?;
    // A test lies in target/PROFILE/deps, a binary in target/PROFILE.
    let profile = if folder.ends_with("deps") { folder.parent() } else { Some(folder) };
    Ok(profile.context("deps lies in target/PROFILE")?.to_owned())
}
