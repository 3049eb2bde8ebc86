//! The faults, each carried out and healed. What one needs from something that another track is failing right now, it
//! asks for until it gets it, within [`super::arena::PATIENCE`]; a fault that could not be carried out does not count.

pub mod brokers;
pub mod database;
pub mod gateway;
pub mod records;
pub mod services;

use std::time::Duration;

use anyhow::Result;

use super::arena::Arena;
use super::schedule::{Kind, Planned};

/// What a fault came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effect {
    /// What was done, in words, beyond the kind's name.
    pub told: String,
    /// Records that will be delivered again because of it.
    pub redelivered: u64,
}

impl Effect {
    fn of(told: impl Into<String>) -> Self {
        Self { told: told.into(), redelivered: 0 }
    }
}

/// Carries a fault out: it begins, lasts and is healed.
///
/// # Errors
/// When it could not be carried out or not be healed.
pub async fn carry_out(arena: &Arena, planned: &Planned) -> Result<Effect> {
    let (fault, lasts) = (planned.fault, Duration::from_millis(planned.lasts_ms));
    let (service, instance, amount) = (fault.service, fault.instance, fault.amount);
    match fault.kind {
        Kind::ServiceKill => services::kill(arena, service, instance, lasts).await,
        Kind::ServiceStop => services::stop(arena, service, instance, lasts).await,
        Kind::FreezePastSession | Kind::FreezePastPoll => services::freeze(arena, service, instance, lasts).await,
        Kind::OffsetsRewound => services::rewind(arena, service, i64::try_from(amount)?, lasts).await,
        Kind::GroupScaled => services::scale(arena, service, lasts).await,
        Kind::BrokerKill => brokers::kill(arena, fault.broker, lasts).await,
        Kind::BrokerStop => brokers::stop(arena, fault.broker, lasts).await,
        Kind::LeadersMoved => brokers::move_leaders(arena, fault.broker).await,
        Kind::DatabaseRestart => database::restart(arena, lasts).await,
        Kind::DatabaseCrash => database::crash(arena, lasts).await,
        Kind::ConnectionsCut => database::cut(arena, lasts).await,
        Kind::GatewayErrors => gateway::errors(arena, lasts).await,
        Kind::GatewaySlow => gateway::slow(arena, amount, lasts).await,
        Kind::GatewayTimeout => gateway::keep_back(arena, lasts).await,
        Kind::Redelivery => records::deliver_again(arena, service, usize::try_from(amount)?).await,
        Kind::Poison => records::poison(arena, amount).await,
        Kind::DueTimesShifted => records::shift_due_times(arena, usize::try_from(amount)?).await,
    }
}
