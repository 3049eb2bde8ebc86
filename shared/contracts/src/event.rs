//! What an event is, and how a consumer's set of events is decoded.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ids::OrderId;

/// A fact that happened to an order, in the past tense.
pub trait Event: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The CloudEvents `type`: name and version, for example `order.placed.v1`.
    const TYPE: &'static str;
    /// The topic it is published on.
    const TOPIC: &'static str;

    /// The order concerned: the record's key, so that one order's events stay in one partition, in order.
    fn order_id(&self) -> OrderId;
}

/// Why a payload can't be read. Both kinds are permanent: the same bytes fail for ever.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not a CloudEvent, not JSON, or JSON that lacks what the contract requires.
    #[error("cannot decode: {0}")]
    Undecodable(String),
    /// A known event in a version that this program can't read.
    #[error("version not supported: {0}")]
    UnsupportedVersion(String),
}

/// The events that one consumer group handles, as one enum; see [`crate::event_set`].
pub trait EventSet: Sized + Send + Sync + 'static {
    /// The CloudEvents types in this set.
    const TYPES: &'static [&'static str];

    /// `Ok(None)` for a type that is none of this set's business.
    fn decode(event_type: &str, data: &[u8]) -> Result<Option<Self>, DecodeError>;

    /// The order concerned.
    fn order_id(&self) -> OrderId;

    /// The CloudEvents type.
    fn event_type(&self) -> &'static str;
}

/// `order.placed.v1` -> `order.placed`.
pub fn base_type(event_type: &str) -> &str {
    match event_type.rsplit_once(".v") {
        Some((base, version)) if !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit()) => base,
        _ => event_type,
    }
}

/// Declares an enum over events and its [`EventSet`]:
/// `event_set! { /// Docs. pub enum OrderEvent { Placed(OrderPlaced), Cancelled(OrderCancelled) } }`.
#[macro_export]
macro_rules! event_set {
    ($(#[$meta:meta])* pub enum $name:ident { $($variant:ident($event:ty)),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone)]
        pub enum $name {
            $(#[doc = concat!("A [`", stringify!($event), "`].")] $variant($event)),+
        }

        impl $crate::EventSet for $name {
            const TYPES: &'static [&'static str] = &[$(<$event as $crate::Event>::TYPE),+];

            fn decode(event_type: &str, data: &[u8]) -> Result<Option<Self>, $crate::DecodeError> {
                $(
                    if event_type == <$event as $crate::Event>::TYPE {
                        return $crate::event::from_json::<$event>(data).map(|event| Some(Self::$variant(event)));
                    }
                )+
                let base = $crate::event::base_type(event_type);
                if Self::TYPES.iter().any(|known| $crate::event::base_type(known) == base) {
                    return Err($crate::DecodeError::UnsupportedVersion(event_type.to_owned()));
                }
                Ok(None)
            }

            fn order_id(&self) -> $crate::OrderId {
                match self { $(Self::$variant(event) => $crate::Event::order_id(event)),+ }
            }

            fn event_type(&self) -> &'static str {
                match self { $(Self::$variant(_) => <$event as $crate::Event>::TYPE),+ }
            }
        }
    };
}

/// Reads an event's JSON; the error names where it went wrong.
pub fn from_json<E: Event>(data: &[u8]) -> Result<E, DecodeError> {
    serde_json::from_slice(data).map_err(|e| DecodeError::Undecodable(format!("{}: {e}", E::TYPE)))
}
