//! Processes of the services: killed, stopped, frozen, set back, scaled.

use std::time::Duration;

use anyhow::Result;
use testkit::eventually;

use super::Effect;
use crate::Service;
use crate::chaos::arena::{Arena, PATIENCE};
use crate::chaos::kafka;
use crate::chaos::schedule::{INSTANCES, MOST_INSTANCES};

/// SIGKILL, and a start after a while.
///
/// # Errors
/// As [`super::carry_out`].
pub async fn kill(arena: &Arena, service: Service, instance: usize, lasts: Duration) -> Result<Effect> {
    let killed = eventually(format!("{} {instance} is killed", service.name()), PATIENCE, async || {
        let mut fleet = arena.fleet.lock().await;
        // One that has ended by itself is started again by the supervisor, and then killed.
        fleet.suite.kill9(service, instance).await?;
        fleet.down.insert((service, instance));
        Ok(())
    })
    .await;
    tokio::time::sleep(lasts).await;
    start(arena, service, instance).await?;
    killed.map(|()| Effect::of(format!("{} {instance}", service.name())))
}

/// SIGTERM, and a start after a while.
///
/// # Errors
/// As [`super::carry_out`].
pub async fn stop(arena: &Arena, service: Service, instance: usize, lasts: Duration) -> Result<Effect> {
    take_down(arena, service, instance).await;
    tokio::time::sleep(lasts).await;
    start(arena, service, instance).await?;
    Ok(Effect::of(format!("{} {instance}", service.name())))
}

/// SIGSTOP, and SIGCONT after a while.
///
/// # Errors
/// As [`super::carry_out`].
pub async fn freeze(arena: &Arena, service: Service, instance: usize, lasts: Duration) -> Result<Effect> {
    arena.fleet.lock().await.suite.pause(service, instance)?;
    tokio::time::sleep(lasts).await;
    arena.fleet.lock().await.suite.resume(service, instance)?;
    Ok(Effect::of(format!("{} {instance} for {} ms", service.name(), lasts.as_millis())))
}

/// A group's members are stopped, its committed offsets set back by up to `by` in each partition, its members started.
///
/// # Errors
/// As [`super::carry_out`].
pub async fn rewind(arena: &Arena, service: Service, by: i64, lasts: Duration) -> Result<Effect> {
    for instance in 0..INSTANCES {
        take_down(arena, service, instance).await;
    }
    tokio::time::sleep(lasts).await;
    // A member that did not leave in order is waited for: its session has to end.
    let what = format!("the offsets of {} are set back", service.name());
    let rewound = eventually(what, PATIENCE, async || kafka::rewind(&arena.places, service, by).await).await;
    for instance in 0..INSTANCES {
        start(arena, service, instance).await?;
    }
    let redelivered = rewound?;
    Ok(Effect { told: format!("{} by {redelivered} records", service.name()), redelivered })
}

/// One member, then four, then two.
///
/// # Errors
/// As [`super::carry_out`].
pub async fn scale(arena: &Arena, service: Service, lasts: Duration) -> Result<Effect> {
    let pause = lasts / 3;
    for instance in 1..INSTANCES {
        take_down(arena, service, instance).await;
    }
    tokio::time::sleep(pause).await;
    for instance in 1..INSTANCES {
        start(arena, service, instance).await?;
    }
    for instance in INSTANCES..MOST_INSTANCES {
        arena.fleet.lock().await.suite.start_another(service, instance)?;
    }
    tokio::time::sleep(pause).await;
    for instance in INSTANCES..MOST_INSTANCES {
        if let Err(error) = arena.fleet.lock().await.suite.retire(service, instance).await {
            tell_unclean(arena, &error);
        }
    }
    tokio::time::sleep(pause).await;
    Ok(Effect::of(service.name()))
}

/// Stops an instance in order. One that does not end in order, because what it needs is away, is told and goes on.
async fn take_down(arena: &Arena, service: Service, instance: usize) {
    let mut fleet = arena.fleet.lock().await;
    fleet.down.insert((service, instance));
    if let Err(error) = fleet.suite.stop(service, instance).await {
        tell_unclean(arena, &error);
    }
}

async fn start(arena: &Arena, service: Service, instance: usize) -> Result<()> {
    let mut fleet = arena.fleet.lock().await;
    fleet.suite.restart(service, instance).await?;
    fleet.down.remove(&(service, instance));
    Ok(())
}

fn tell_unclean(arena: &Arena, error: &anyhow::Error) {
    let text = format!("{error:#}");
    arena.log.note(format!("no orderly stop: {}", text.lines().next().unwrap_or_default()));
}
