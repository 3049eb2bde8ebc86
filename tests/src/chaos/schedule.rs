//! What goes wrong and when: a pure function of the seed and the length, so that a seed replays its schedule.
//!
//! Faults run in tracks, one for each thing that can fail: the services, the brokers, the database, the gateway, the
//! records. A track has one fault at a time and heals it before its next one (never two brokers away, or the cluster
//! could not answer by design); the tracks overlap as they like. Every fault is healed before the end.

use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::Service;

/// `session.timeout.ms` during a run.
pub const SESSION_TIMEOUT_MS: u64 = 6_000;
/// `max.poll.interval.ms` during a run.
pub const MAX_POLL_INTERVAL_MS: u64 = 10_000;
/// Instances of each service when nothing is wrong.
pub const INSTANCES: usize = 2;
/// Instances that a group is scaled up to.
pub const MOST_INSTANCES: usize = 4;
/// Brokers.
pub const BROKERS: usize = 3;
/// From this length on every kind of fault appears.
pub const EVERY_KIND_MINUTES: u64 = 5;

/// SIGKILLs of services that a run has room for at least: what happens most in life happens most here.
const KILLS_PER_MINUTE: usize = 4;

/// Nothing fails before and after: the suite is seen working, and every fault is healed.
const MARGIN_MS: u64 = 3_000;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// SIGKILL of a service's instance, started again later.
    ServiceKill,
    /// SIGTERM of a service's instance, started again later.
    ServiceStop,
    /// SIGSTOP for longer than the session time-out, then SIGCONT.
    FreezePastSession,
    /// SIGSTOP for longer than `max.poll.interval.ms`, then SIGCONT.
    FreezePastPoll,
    /// A group's committed offsets set back while its members are stopped.
    OffsetsRewound,
    /// A group scaled to one member, then four, then two.
    GroupScaled,
    /// SIGKILL of a broker, started again later.
    BrokerKill,
    /// A clean stop of a broker, started again later.
    BrokerStop,
    /// New preferred leaders for the source topics, then an election.
    LeadersMoved,
    /// Fast shutdown of PostgreSQL, then a start.
    DatabaseRestart,
    /// SIGKILL of PostgreSQL, then a start with recovery.
    DatabaseCrash,
    /// Every connection of the services cut by the server.
    ConnectionsCut,
    /// The gateway answers 500 to everything.
    GatewayErrors,
    /// The gateway answers late, at times later than its callers wait.
    GatewaySlow,
    /// The gateway does what it is asked and keeps back the answer.
    GatewayTimeout,
    /// Records of the source topics published once more, byte for byte.
    Redelivery,
    /// Records on `orders` that nobody can read.
    Poison,
    /// Retries once more with another due time: an hour ago, or seconds ahead.
    DueTimesShifted,
}

/// What can fail independently of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Track {
    /// The services' processes.
    Services,
    /// Kafka's brokers.
    Brokers,
    /// PostgreSQL.
    Database,
    /// The payment gateway.
    Gateway,
    /// What is on the topics.
    Records,
}

/// A fault, with everything that was drawn for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What happens.
    pub kind: Kind,
    /// To which service, where it happens to one.
    pub service: Service,
    /// To which of its instances.
    pub instance: usize,
    /// To which broker.
    pub broker: usize,
    /// How many records, or by how many milliseconds.
    pub amount: u64,
}

/// A fault and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// When it begins, in milliseconds after the start of the load.
    pub at_ms: u64,
    /// How long it lasts, in milliseconds; then it is healed.
    pub lasts_ms: u64,
    /// How long its track has for it, healing included, in milliseconds. A slow machine may need longer.
    pub slot_ms: u64,
    /// What happens.
    pub fault: Fault,
}

impl Planned {
    /// When it begins, in seconds.
    #[allow(clippy::cast_precision_loss, reason = "hours in milliseconds are exact")]
    pub fn at_secs(&self) -> f64 {
        self.at_ms as f64 / 1_000.0
    }

    /// How long it lasts, in seconds.
    #[allow(clippy::cast_precision_loss, reason = "hours in milliseconds are exact")]
    pub fn lasts_secs(&self) -> f64 {
        self.lasts_ms as f64 / 1_000.0
    }
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::ServiceKill,
        Self::ServiceStop,
        Self::FreezePastSession,
        Self::FreezePastPoll,
        Self::OffsetsRewound,
        Self::GroupScaled,
        Self::BrokerKill,
        Self::BrokerStop,
        Self::LeadersMoved,
        Self::DatabaseRestart,
        Self::DatabaseCrash,
        Self::ConnectionsCut,
        Self::GatewayErrors,
        Self::GatewaySlow,
        Self::GatewayTimeout,
        Self::Redelivery,
        Self::Poison,
        Self::DueTimesShifted,
    ];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::ServiceKill => "SIGKILL of a service",
            Self::ServiceStop => "SIGTERM of a service",
            Self::FreezePastSession => "SIGSTOP past the session time-out",
            Self::FreezePastPoll => "SIGSTOP past max.poll.interval",
            Self::OffsetsRewound => "committed offsets set back",
            Self::GroupScaled => "group scaled 1, 4, 2",
            Self::BrokerKill => "SIGKILL of a broker",
            Self::BrokerStop => "clean restart of a broker",
            Self::LeadersMoved => "partition leaders moved",
            Self::DatabaseRestart => "PostgreSQL restarted",
            Self::DatabaseCrash => "PostgreSQL killed",
            Self::ConnectionsCut => "database connections cut",
            Self::GatewayErrors => "gateway answers 500",
            Self::GatewaySlow => "gateway slow",
            Self::GatewayTimeout => "gateway time-out after success",
            Self::Redelivery => "records delivered again",
            Self::Poison => "unreadable records",
            Self::DueTimesShifted => "due times shifted",
        }
    }

    /// What it belongs to.
    pub fn track(self) -> Track {
        match self {
            Self::ServiceKill
            | Self::ServiceStop
            | Self::FreezePastSession
            | Self::FreezePastPoll
            | Self::OffsetsRewound
            | Self::GroupScaled => Track::Services,
            Self::BrokerKill | Self::BrokerStop | Self::LeadersMoved => Track::Brokers,
            Self::DatabaseRestart | Self::DatabaseCrash | Self::ConnectionsCut => Track::Database,
            Self::GatewayErrors | Self::GatewaySlow | Self::GatewayTimeout => Track::Gateway,
            Self::Redelivery | Self::Poison | Self::DueTimesShifted => Track::Records,
        }
    }

    /// How long it lasts, and what its healing is given, in milliseconds.
    fn lengths(self) -> (std::ops::Range<u64>, u64) {
        match self {
            Self::ServiceKill | Self::ServiceStop => (500..3_000, 2_000),
            Self::FreezePastSession => (SESSION_TIMEOUT_MS + 1_500..SESSION_TIMEOUT_MS + 3_000, 1_000),
            Self::FreezePastPoll => (MAX_POLL_INTERVAL_MS + 2_000..MAX_POLL_INTERVAL_MS + 4_000, 1_000),
            Self::OffsetsRewound => (0..1_000, 4_000),
            // In each of its three sizes.
            Self::GroupScaled => (9_000..13_000, 2_000),
            Self::BrokerKill => (6_000..9_000, 6_000),
            Self::BrokerStop => (2_000..5_000, 6_000),
            Self::LeadersMoved => (0..1, 5_000),
            Self::DatabaseRestart | Self::DatabaseCrash => (500..2_000, 2_500),
            Self::ConnectionsCut => (0..1_500, 500),
            Self::GatewayErrors | Self::GatewaySlow => (3_000..6_000, 100),
            Self::GatewayTimeout => (2_000..4_000, 100),
            Self::Redelivery => (0..1, 2_000),
            Self::Poison | Self::DueTimesShifted => (0..1, 1_000),
        }
    }
}

impl Track {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Services, Self::Brokers, Self::Database, Self::Gateway, Self::Records];

    /// The pause between two of its faults, in milliseconds.
    fn pause_ms(self) -> std::ops::Range<u64> {
        match self {
            Self::Services => 1_500..4_000,
            Self::Brokers => 5_000..10_000,
            Self::Database => 8_000..14_000,
            Self::Gateway => 5_000..9_000,
            Self::Records => 3_000..6_000,
        }
    }

    /// What a run of this length begins with, as far as there is room: every kind once, and kills of services for every
    /// minute.
    fn wanted(self, minutes: u64, rng: &mut ChaCha8Rng) -> Vec<Kind> {
        let mut kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| kind.track() == self).collect();
        if self == Self::Services {
            let kills = KILLS_PER_MINUTE.saturating_mul(usize::try_from(minutes).unwrap_or(usize::MAX));
            kinds.extend(std::iter::repeat_n(Kind::ServiceKill, kills - 1));
        }
        kinds.shuffle(rng);
        // A short run has no room for all: kills come first there.
        if minutes < EVERY_KIND_MINUTES {
            kinds.sort_by_key(|kind| *kind != Kind::ServiceKill);
        }
        kinds
    }
}

/// The faults of a run, ordered by time. `minutes` is at least 1.
pub fn plan(seed: u64, minutes: u64) -> Vec<Planned> {
    let mut planned = Vec::new();
    for (number, track) in Track::ALL.into_iter().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // Its own stream, so that what one track draws doesn't change another.
        rng.set_stream(u64::try_from(number).unwrap_or_default());
        planned.extend(plan_track(track, minutes.max(1), &mut rng));
    }
    planned.sort_by_key(|planned| planned.at_ms);
    planned
}

fn plan_track(track: Track, minutes: u64, rng: &mut ChaCha8Rng) -> Vec<Planned> {
    let end_ms = minutes * 60_000 - MARGIN_MS;
    let mut kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| kind.track() == track).collect();
    if track == Track::Services {
        kinds.extend([Kind::ServiceKill; 3]);
    }
    let mut wanted = track.wanted(minutes, rng).into_iter();
    let mut planned = Vec::new();
    let mut at_ms = MARGIN_MS + rng.random_range(0..track.pause_ms().start);
    loop {
        let from_wish_list = wanted.next();
        let drawn = from_wish_list.or_else(|| kinds.choose(rng).copied());
        let Some(kind) = drawn else { break };
        let (lasts, healing_ms) = kind.lengths();
        let lasts_ms = rng.random_range(lasts);
        let slot_ms = lasts_ms + healing_ms;
        let (fault, pause_ms) = (draw(kind, rng), rng.random_range(track.pause_ms()));
        if at_ms + slot_ms <= end_ms {
            planned.push(Planned { at_ms, lasts_ms, slot_ms, fault });
            at_ms += slot_ms + pause_ms;
        } else if from_wish_list.is_none() {
            break;
        }
    }
    planned
}

fn draw(kind: Kind, rng: &mut ChaCha8Rng) -> Fault {
    let amount = match kind {
        Kind::Redelivery => rng.random_range(10..40),
        Kind::OffsetsRewound => rng.random_range(5..25),
        Kind::Poison => rng.random_range(1..4),
        Kind::DueTimesShifted => rng.random_range(3..8),
        // Payment-service waits 1.5 s for an answer.
        Kind::GatewaySlow => rng.random_range(200..2_500),
        _ => 0,
    };
    let service = Service::ALL[rng.random_range(0..Service::ALL.len())];
    Fault { kind, service, instance: rng.random_range(0..INSTANCES), broker: rng.random_range(0..BROKERS), amount }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
