//! What goes on beside the faults: ended services are started again, and the orders are looked at.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::Result;
use ops::verify::Sampler;
use sqlx::PgPool;
use uuid::Uuid;

use super::arena::Arena;
use super::recovery::Sample;
use crate::Service;

const LOOK: Duration = Duration::from_millis(500);

/// Starts services again that have ended by themselves, as whatever runs them in production does. How many it were is in
/// `exits`; each is told with how it ended.
pub async fn supervise(arena: &Arena, exits: &mut u64) -> Infallible {
    loop {
        tokio::time::sleep(LOOK).await;
        let mut fleet = arena.fleet.lock().await;
        for (service, instance, how) in fleet.suite.ended() {
            if fleet.down.contains(&(service, instance)) {
                continue;
            }
            *exits += 1;
            let again = fleet.suite.restart(service, instance).await;
            let outcome = again.map_or_else(|error| format!("{error:#}"), |()| "started again".to_owned());
            arena.log.note(format!("{} {instance} ended by itself ({how}): {outcome}", service.name()));
        }
    }
}

/// Looks at the oldest open order all the time; what it can't see, because the database is away, it leaves out.
pub async fn sample(arena: &Arena, samples: &mut Vec<Sample>, start_ms: u64) -> Infallible {
    loop {
        if let Ok(oldest) = oldest_open(&arena.pools[&Service::Order]).await {
            let oldest_open_ms = oldest.map(|placed_ms| placed_ms.saturating_sub(start_ms));
            samples.push(Sample { at_ms: arena.log.now_ms(), oldest_open_ms });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Looks at the committed offsets all the time (I10). What can't be read, because a broker or the database is away, the
/// next look reads.
pub async fn sample_offsets(arena: &Arena, sampler: &mut Sampler, violations: &mut Vec<String>) -> Infallible {
    loop {
        look_at_offsets(arena, sampler, violations).await.ok();
        tokio::time::sleep(4 * LOOK).await;
    }
}

/// Looks at the committed offsets once.
///
/// # Errors
/// When something can't be read.
pub async fn look_at_offsets(arena: &Arena, sampler: &mut Sampler, violations: &mut Vec<String>) -> Result<()> {
    for violation in sampler.sample().await? {
        arena.log.note(format!("{violation}"));
        violations.push(violation.to_string());
    }
    Ok(())
}

/// When the oldest open order was placed, in milliseconds since 1970: an order's id begins with its time.
async fn oldest_open(orders: &PgPool) -> sqlx::Result<Option<u64>> {
    let query = sqlx::query_scalar("select order_id from orders where state = 'placed' order by order_id limit 1");
    let oldest: Option<Uuid> = query.fetch_optional(orders).await?;
    Ok(oldest.map(|id| u64::try_from(id.as_u128() >> 80).unwrap_or_default()))
}
