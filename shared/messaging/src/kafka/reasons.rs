//! Why no broker can be reached: an error code says that there was no answer, the client's own words say why.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::client::DefaultClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::metadata::Metadata;
use rdkafka::types::RDKafkaErrorCode;

/// What librdkafka files the end of a connection under.
const FAILED: &str = "FAIL";

/// The context of a client that asks: remembers what librdkafka said last of a connection that failed, such as
/// `ssl://kafka:9093/bootstrap: SSL handshake failed: ... certificate verify failed`.
#[derive(Debug, Default)]
pub struct Reasons(Mutex<Option<String>>);

impl Reasons {
    fn last(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for Reasons {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility == FAILED {
            let reason = message.split_once("]: ").map_or(message, |(_thread, reason)| reason);
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
        }
        DefaultClientContext.log(level, facility, message);
    }
}

impl ConsumerContext for Reasons {}

/// Every topic that the brokers list; where none answers within `bound`, why not. Whom a broker doesn't let in is told at once:
/// librdkafka would go on trying with the same password. Blocks: not for async code.
///
/// # Errors
/// What the client says of the connection that failed last.
pub fn metadata(client: &BaseConsumer<Reasons>, bound: Duration) -> Result<Metadata, String> {
    /// How long no broker may be there before the client is asked why.
    const LOOK: Duration = Duration::from_millis(250);
    let start = Instant::now();
    let left = || bound.saturating_sub(start.elapsed());
    while !left().is_zero() {
        match client.fetch_metadata(None, LOOK.min(left())) {
            Ok(metadata) => return Ok(metadata),
            // No connection yet.
            Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::BrokerTransportFailure) => {
                if is_turned_away(client) {
                    return last_look(client, Duration::ZERO);
                }
            }
            // Somebody is there, and takes longer than a look.
            Err(_) => break,
        }
    }
    last_look(client, left())
}

/// Whether a broker refused who this client says it is. What the client has to say waits until it is polled.
fn is_turned_away(client: &BaseConsumer<Reasons>) -> bool {
    let told = std::iter::from_fn(|| client.poll(Duration::from_millis(10)));
    let refusals = told.filter(|event| {
        let code = event.as_ref().err().and_then(KafkaError::rdkafka_error_code);
        code == Some(RDKafkaErrorCode::Authentication)
    });
    refusals.count() > 0
}

/// The answer within `bound`, or the client's own words why there is none.
fn last_look(client: &BaseConsumer<Reasons>, bound: Duration) -> Result<Metadata, String> {
    client.fetch_metadata(None, bound).map_err(|error| {
        // What the client has to say waits until it is polled.
        while client.poll(Duration::from_millis(10)).is_some() {}
        client.context().last().unwrap_or_else(|| error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_of_a_connection_is_kept_without_the_thread_that_said_it() {
        let reasons = Reasons::default();
        let log = |facility, message| reasons.log(RDKafkaLogLevel::Error, facility, message);
        log("CONFWARN", "[thrd:app]: something else");
        assert_eq!(reasons.last(), None);
        log(FAILED, "[thrd:ssl://kafka:9093/bootstrap]: ssl://kafka:9093/bootstrap: certificate verify failed");
        assert_eq!(reasons.last().as_deref(), Some("ssl://kafka:9093/bootstrap: certificate verify failed"));
    }
}
