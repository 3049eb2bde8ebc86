//! The gateway between its HTTP side and its state: it takes the time that a token asks for.
//!
//! No lock is held while anything is awaited. Work goes on when a caller hangs up, as a real gateway's does: its effect is
//! found later under its key.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use jiff::Timestamp;
use service::Problem;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::calls::{CallOutcome, Calls};
use crate::faults::Fault;
use crate::operation::{Answer, Kind, Request};
use crate::state::{Begin, NoEffect, State};
use crate::tokens::{LONGEST_DELAY_MS, Script};

/// Orders that may be released; more are refused.
const MOST_RELEASES: usize = 100_000;

/// All that the gateway is, apart from HTTP.
pub struct Gateway {
    state: Mutex<State>,
    fault: Mutex<Fault>,
    /// The orders that no `held` token holds any more.
    released: watch::Sender<HashSet<String>>,
    /// The log of received calls.
    pub calls: Calls,
    /// How long the first caller of a `timeout` token waits.
    hang: Duration,
    stop: CancellationToken,
}

/// What came of a call.
pub struct Decided {
    /// For the log of calls.
    pub outcome: CallOutcome,
    /// For the caller.
    pub answer: Result<Answer, Problem>,
    /// Keep the caller waiting first, with [`Gateway::hang`].
    pub hang: bool,
}

impl Gateway {
    /// A gateway over a state; raising `stop` ends every wait.
    pub fn new(state: State, calls: Calls, hang: Duration, stop: CancellationToken) -> Self {
        Self {
            state: Mutex::new(state),
            fault: Mutex::new(Fault::default()),
            released: watch::Sender::default(),
            calls,
            hang,
            stop,
        }
    }

    /// The state, for a moment.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The switch's position.
    pub fn fault(&self) -> Fault {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns the switch.
    pub fn set_fault(&self, fault: Fault) {
        tracing::info!(?fault, "fault switch");
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// Lets an order's held calls go on, those that come later too.
    ///
    /// # Errors
    /// When [`MOST_RELEASES`] orders have been released.
    pub fn release(&self, order_id: String) -> Result<(), Problem> {
        let mut room = true;
        self.released.send_if_modified(|released| {
            room = released.len() < MOST_RELEASES || released.contains(&order_id);
            room && released.insert(order_id)
        });
        if room { Ok(()) } else { Err(Problem::unavailable("too many orders have been released", 60)) }
    }

    /// The order that a request is about; none where it names an authorization that isn't there.
    pub fn order_of(&self, request: &Request) -> Option<String> {
        match request {
            Request::Authorize(terms) => Some(terms.order_id.clone()),
            Request::Capture(id) | Request::Void(id) | Request::Refund(id) => {
                self.state().ledger().order_of(*id).map(str::to_owned)
            }
        }
    }

    /// Decides a request, or repeats what was decided under its key.
    pub async fn decide(&self, key: &Arc<str>, request: &Request) -> Decided {
        loop {
            let next = self.state().begin(key, request);
            match next {
                Begin::Replay(answer) => {
                    return Decided { outcome: CallOutcome::Replayed, answer: Ok(answer), hang: false };
                }
                Begin::Refused(refusal) => return Decided::without_effect(refusal.into()),
                Begin::Fail => return Decided::without_effect(told_to_fail()),
                Begin::Run(script) => return self.run(key, request, script).await,
                Begin::Wait(mut done) => {
                    tokio::select! {
                        // It only ever ends, by being dropped.
                        _ = done.changed() => {}
                        () = self.stop.cancelled() => return Decided::without_effect(stopping()),
                    }
                }
            }
        }
    }

    async fn run(&self, key: &Arc<str>, request: &Request, script: Script) -> Decided {
        let running = RunningKey { gateway: self, key, finished: false };
        let waited = match script.held {
            true => self.hold(self.order_of(request).unwrap_or_default()).await,
            false => self.pause(Duration::from_millis(script.delay_ms)).await,
        };
        if let Err(problem) = waited {
            return Decided::without_effect(problem);
        }
        match running.finish() {
            Ok(answer) => Decided { outcome: CallOutcome::Applied, answer: Ok(answer), hang: script.hang },
            Err(NoEffect::Refused(refusal)) => Decided::without_effect(refusal.into()),
            Err(NoEffect::Journal(error)) => Decided::without_effect(Problem::internal(error)),
        }
    }

    /// What took effect under a key; waits for a call that is running.
    pub async fn operation(&self, key: &str) -> Result<(Kind, Answer), Problem> {
        loop {
            let running = {
                let state = self.state();
                if let Some(found) = state.ledger().operation(key) {
                    return Ok(found);
                }
                state.running(key)
            };
            let Some(mut done) = running else {
                return Err(Problem::not_found("nothing took effect under this key"));
            };
            tokio::select! {
                _ = done.changed() => {}
                () = self.stop.cancelled() => return Err(stopping()),
            }
        }
    }

    /// Waits; ends early with a problem when the gateway stops.
    pub async fn pause(&self, time: Duration) -> Result<(), Problem> {
        if time.is_zero() {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(()),
            () = self.stop.cancelled() => Err(stopping()),
        }
    }

    /// Waits for an order's release, at most [`LONGEST_DELAY_MS`]; ends early with a problem when the gateway stops.
    async fn hold(&self, order_id: String) -> Result<(), Problem> {
        let mut released = self.released.subscribe();
        tokio::select! {
            // It can't fail: the sender is here.
            _ = released.wait_for(|released| released.contains(&order_id)) => Ok(()),
            waited = self.pause(Duration::from_millis(LONGEST_DELAY_MS)) => waited,
        }
    }

    /// Keeps a caller waiting whose request took effect.
    pub async fn hang(&self) -> Result<(), Problem> {
        self.pause(self.hang).await
    }
}

impl Decided {
    fn without_effect(problem: Problem) -> Self {
        let outcome = if problem.status >= 500 { CallOutcome::Failed } else { CallOutcome::Rejected };
        Self { outcome, answer: Err(problem), hang: false }
    }
}

/// A key that runs; released by finishing or, where the call ends otherwise, by being dropped.
struct RunningKey<'a> {
    gateway: &'a Gateway,
    key: &'a Arc<str>,
    /// After finishing, the key may already run for somebody else.
    finished: bool,
}

impl RunningKey<'_> {
    fn finish(mut self) -> Result<Answer, NoEffect> {
        self.finished = true;
        self.gateway.state().finish(self.key, Uuid::now_v7(), Timestamp::now())
    }
}

impl Drop for RunningKey<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.gateway.state().abandon(self.key);
        }
    }
}

fn told_to_fail() -> Problem {
    Problem::named(StatusCode::INTERNAL_SERVER_ERROR, "gateway_error")
        .with_detail("the payment method's token asks for this failure")
}

fn stopping() -> Problem {
    Problem::unavailable("the gateway is stopping", 1)
}
