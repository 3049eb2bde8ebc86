//! What a running service is asked, and from when on an answer is bad.
//!
//! | check | probe | fails when |
//! |---|---|---|
//! | `accepting` | ready | the service is stopping |
//! | `database` | ready | a round trip on a pooled connection fails or takes 2 s |
//! | `inbox` | ready | today's or tomorrow's partition of the inbox is missing |
//! | `broker` | ready | no connection to a broker has been up for 10 s |
//! | `consumer` | ready | the group has not answered yet, or this has not been a settled member of it for 30 s; holding no partition is fine |
//! | `relay` | ready | rows have been waiting for 30 s without any acknowledgement, or a topic has refused one for so long |
//! | `lanes` | ready, live | a batch has been running for 30 s (ready) or 120 s (live: a transaction ends by itself after 8 s, restarts are bounded) |
//! | `polling` | live | the polling thread or the core has shown no sign of life for 60 s |
//! | `breaker` | shown only | it is open: work waits, and neither a restart nor less work would help |
//!
//! A service that takes work without Kafka (order-service: an order waits in the outbox) only shows `broker`, `consumer` and
//! `relay`: taking it out of the load balancer for an outage of Kafka would refuse orders that it can take.

use std::sync::Arc;
use std::time::Duration;

use messaging::consumer::{Breaker, ConsumerStatus};
use messaging::inbox;
use messaging::relay::RelayStatus;
use sqlx::PgPool;

use super::{Health, Weight};

/// From when on something counts as stuck or away. The defaults are meant for production; tests shorten them.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A batch that runs longer makes the service not ready.
    pub slow_lane: Duration,
    /// A batch that runs longer makes it not live.
    pub stuck_lane: Duration,
    /// A polling thread or core that is silent for longer makes it not live.
    pub silent: Duration,
    /// Without a broker for longer it is not ready.
    pub broker_away: Duration,
    /// Without a settled place in its group for longer it is not ready.
    pub unsettled: Duration,
    /// Rows that wait for an acknowledgement for longer make it not ready.
    pub stuck_relay: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            slow_lane: Duration::from_secs(30),
            stuck_lane: Duration::from_secs(120),
            silent: Duration::from_secs(60),
            broker_away: Duration::from_secs(10),
            unsettled: Duration::from_secs(30),
            stuck_relay: Duration::from_secs(30),
        }
    }
}

impl Health {
    /// Adds what is asked of a consumer.
    pub(crate) fn consumer(self, status: &Arc<ConsumerStatus>, limits: Limits, kafka: Weight) -> Self {
        let asked = |check: fn(&ConsumerStatus, Limits) -> Result<String, String>| {
            let status = Arc::clone(status);
            move || std::future::ready(check(&status, limits))
        };
        self.live("lanes", asked(|status, limits| lanes(status, limits.stuck_lane)))
            .live("polling", asked(polling))
            .ready("lanes", asked(|status, limits| lanes(status, limits.slow_lane)))
            .weighed(kafka, "broker", asked(broker))
            .weighed(kafka, "consumer", asked(member))
            .reported("breaker", asked(|status, _| breaker(status)))
    }

    /// Adds what is asked of a relay.
    pub(crate) fn relay(self, status: Arc<RelayStatus>, limits: Limits, kafka: Weight) -> Self {
        self.weighed(kafka, "relay", move || {
            let waiting = status.waiting();
            let outcome = match status.is_leading() {
                // Also between two tries, and while it has stepped aside for another instance.
                _ if waiting > limits.stuck_relay => Err(format!(
                    "rows have been waiting for an acknowledgement for {}; {} are in flight",
                    seconds(waiting),
                    status.in_flight()
                )),
                true => Ok(format!("publishing; {} rows in flight", status.in_flight())),
                false => Ok("standing by".to_owned()),
            };
            std::future::ready(outcome)
        })
    }

    /// Adds what is asked of the inbox.
    pub(crate) fn inbox(self, pool: &PgPool) -> Self {
        let pool = pool.clone();
        self.ready("inbox", move || {
            let pool = pool.clone();
            async move {
                match inbox::has_days_ahead(&pool).await {
                    Ok(true) => Ok(()),
                    Ok(false) => Err("today's or tomorrow's partition of the inbox is missing".to_owned()),
                    Err(failure) => Err(failure.to_string()),
                }
            }
        })
    }
}

fn lanes(status: &ConsumerStatus, longest: Duration) -> Result<String, String> {
    let running = status.longest_batch();
    if running > longest {
        return Err(format!("a batch has been running for {}", seconds(running)));
    }
    Ok(format!("{} records in memory, {} in flight", status.queued(), status.in_flight()))
}

fn polling(status: &ConsumerStatus, limits: Limits) -> Result<String, String> {
    match status.silent_for() {
        Some(silent) if silent > limits.silent => {
            Err(format!("the consumer has shown no sign of life for {}", seconds(silent)))
        }
        Some(_) => Ok("alive".to_owned()),
        // Waiting for the broker, the database or the topics, each with a bound: a restart would wait as well.
        None => Ok("not started yet".to_owned()),
    }
}

fn broker(status: &ConsumerStatus, limits: Limits) -> Result<String, String> {
    match status.broker_seen() {
        None => Err("no broker has answered yet".to_owned()),
        Some(ago) if ago > limits.broker_away => Err(format!("no broker has been there for {}", seconds(ago))),
        Some(_) => Ok("connected".to_owned()),
    }
}

fn member(status: &ConsumerStatus, limits: Limits) -> Result<String, String> {
    if !status.has_joined() {
        return Err("the consumer group has not answered yet".to_owned());
    }
    match status.membership_seen() {
        Some(ago) if ago > limits.unsettled => {
            Err(format!("it has not been a settled member of its group for {}", seconds(ago)))
        }
        _ => Ok(match status.assigned() {
            0 => "no partition: others of the group have them all".to_owned(),
            1 => "1 partition".to_owned(),
            partitions => format!("{partitions} partitions"),
        }),
    }
}

fn breaker(status: &ConsumerStatus) -> Result<String, String> {
    match status.breaker() {
        Breaker::Closed => Ok("closed".to_owned()),
        Breaker::HalfOpen => Err("half-open: one call is made to see whether it is answered".to_owned()),
        Breaker::Open => Err("open: outside calls wait, no attempt is counted".to_owned()),
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
