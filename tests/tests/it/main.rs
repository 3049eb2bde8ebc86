//! Stories of the whole suite: its real programs as processes, on a real Kafka and PostgreSQL.
//!
//! Stories that disturb nobody share one running suite and look at their own orders only. Those that kill, stop or
//! restart have a suite of their own, and those that stop a server have that server of their own too.
#![allow(missing_docs)]

mod backlog;
mod crash_points;
mod crashes;
mod damage;
mod dead_letters;
mod faulty_build;
mod instances;
mod metrics;
mod outages;
mod prometheus;
mod races;
mod redelivery;
mod removed_guards;
mod secured;
mod stories;
mod traces;

use std::sync::LazyLock;

use anyhow::Result;
use system_tests::{Settings, Suite};
use testkit::{Cluster, PrivateCluster};
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

/// One runtime for all stories: connections of the shared suite outlive the story that opened them.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));

/// Never dropped: its programs are ended, and its folder removed, when this process ends.
static SHARED: OnceCell<Suite> = OnceCell::const_new();

/// A story on the suite that is shared.
fn story(story: impl AsyncFnOnce(&'static Suite) -> Result<()>) -> Result<()> {
    RUNTIME.block_on(async {
        let start = async || Suite::start(Cluster::shared().await?, &Settings::default()).await;
        let suite = SHARED.get_or_try_init(start).await?;
        let told = story(suite).await;
        tell(suite, &told);
        told
    })
}

/// A story on a suite of its own.
fn own_suite(settings: &Settings, story: impl AsyncFnOnce(&mut Suite) -> Result<()>) -> Result<()> {
    RUNTIME.block_on(async {
        let mut suite = Suite::start(Cluster::shared().await?, settings).await?;
        let told = story(&mut suite).await;
        tell(&suite, &told);
        suite.throw_away().await;
        told
    })
}

/// A story on a suite of its own, and on servers of which at least one is its own.
fn own_servers(
    servers: impl AsyncFnOnce() -> Result<PrivateCluster>,
    story: impl AsyncFnOnce(&mut PrivateCluster, &mut Suite) -> Result<()>,
) -> Result<()> {
    own_servers_with(&Settings::default(), servers, story)
}

/// [`own_servers`], with other settings of the suite.
fn own_servers_with(
    settings: &Settings,
    servers: impl AsyncFnOnce() -> Result<PrivateCluster>,
    story: impl AsyncFnOnce(&mut PrivateCluster, &mut Suite) -> Result<()>,
) -> Result<()> {
    RUNTIME.block_on(async {
        let mut cluster = servers().await?;
        let mut suite = Suite::start(&cluster, settings).await?;
        let told = story(&mut cluster, &mut suite).await;
        tell(&suite, &told);
        suite.throw_away().await;
        told
    })
}

fn tell(suite: &Suite, told: &Result<()>) {
    if let Err(error) = told {
        // The error first: who shows only a part of a long output shows its beginning.
        eprintln!("{error:?}\n{}", suite.logs());
    }
}
