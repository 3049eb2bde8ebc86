//! The switch for drills: what happens to every POST, whatever it asks.

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use service::Problem;
use service::problem::{FieldError, Pointer};

use crate::tokens::LONGEST_DELAY_MS;

/// The switch's position, the body of `POST /v1/faults`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What happens.
    pub mode: FaultMode,
    /// The status under [`FaultMode::Error`], 400 to 599 (default 503).
    #[serde(default = "default_status")]
    pub status: u16,
    /// The delay under [`FaultMode::Slow`], in milliseconds, at most 120000 (default 3000).
    #[serde(default = "default_delay_ms")]
    pub delay_ms: u64,
}

/// What happens to every POST.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultMode {
    /// Nothing unusual.
    #[default]
    None,
    /// It is answered with a status, without effect.
    Error,
    /// It is worked on after a delay.
    Slow,
    /// It takes effect, and its first caller waits `HANG_MS` for the answer; later calls with the key get it at once.
    Hang,
    /// Its connection is closed without an answer and without effect.
    Refuse,
}

fn default_status() -> u16 {
    StatusCode::SERVICE_UNAVAILABLE.as_u16()
}

fn default_delay_ms() -> u64 {
    3_000
}

impl Default for Fault {
    fn default() -> Self {
        Self::new(FaultMode::default())
    }
}

impl Fault {
    /// A mode with the default status and delay.
    pub fn new(mode: FaultMode) -> Self {
        Self { mode, status: default_status(), delay_ms: default_delay_ms() }
    }

    /// The switch, where its numbers make sense.
    pub fn validated(self) -> Result<Self, Problem> {
        let wrong = |field: &str, detail: &str| {
            Problem::invalid(vec![FieldError::new(Pointer::root().field(field), "out_of_range", detail)])
        };
        if !(400..600).contains(&self.status) {
            return Err(wrong("status", "must be 400 to 599"));
        }
        if self.delay_ms > LONGEST_DELAY_MS {
            return Err(wrong("delay_ms", "must be at most 120000"));
        }
        Ok(self)
    }

    /// The answer under [`FaultMode::Error`].
    pub fn problem(self) -> Problem {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        Problem::named(status, "injected_fault").with_detail("the gateway was told to fail")
    }
}
