//! W3C Trace Context: the `traceparent` that ties an order's POST, events, retries and mails into one trace (I15).

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// The caller recorded this trace.
const SAMPLED: u8 = 1;

/// A version 00 `traceparent` (<https://www.w3.org/TR/trace-context/#traceparent-header>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

/// Why a text is not a [`TraceParent`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C traceparent")]
pub struct InvalidTraceParent;

impl TraceParent {
    /// The root of a new, sampled trace.
    pub fn new_root() -> Self {
        Self { trace_id: new_trace_id(), span_id: new_span_id(), flags: SAMPLED }
    }

    /// Made of its parts; `None` where an id is zero, which the standard forbids. Of the flags only `sampled` is kept:
    /// the standard has others set to zero by who doesn't know them.
    pub fn from_parts(trace_id: u128, span_id: u64, flags: u8) -> Option<Self> {
        (trace_id != 0 && span_id != 0).then_some(Self { trace_id, span_id, flags: flags & SAMPLED })
    }

    /// The same trace, a new span.
    pub fn child(self) -> Self {
        Self { span_id: new_span_id(), ..self }
    }

    /// The trace's id: 32 hexadecimal digits.
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// The span's id: 16 hexadecimal digits.
    pub fn span_id(self) -> String {
        format!("{:016x}", self.span_id)
    }

    /// Both ids as numbers: the trace's and the span's.
    pub fn ids(self) -> (u128, u64) {
        (self.trace_id, self.span_id)
    }

    /// The same ids, recorded or not.
    pub fn with_sampled(self, sampled: bool) -> Self {
        Self { flags: if sampled { SAMPLED } else { 0 }, ..self }
    }

    /// Whether the caller recorded this trace.
    pub fn sampled(self) -> bool {
        self.flags & SAMPLED == SAMPLED
    }
}

/// Random in every bit: samplers take a share of all traces by the lower half, where a UUID has fixed bits.
fn new_trace_id() -> u128 {
    let (one, other) = (Uuid::new_v4().as_u128(), Uuid::new_v4().as_u128());
    (one ^ other.rotate_left(64)).max(1)
}

fn new_span_id() -> u64 {
    // The low half of a random UUID: 62 random bits; never zero, because the variant bits are set.
    Uuid::new_v4().as_u64_pair().1
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.trim().split('-');
        let (version, trace, span, flags) = (parts.next(), parts.next(), parts.next(), parts.next());
        let (Some(version), Some(trace), Some(span), Some(flags)) = (version, trace, span, flags) else {
            return Err(InvalidTraceParent);
        };
        let hex = |s: &str, len: usize| s.len() == len && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let shape = hex(version, 2) && hex(trace, 32) && hex(span, 16) && hex(flags, 2);
        // Version 00 has exactly four parts; a later one may have more; ff is forbidden.
        if !shape || version == "ff" || (version == "00" && parts.next().is_some()) {
            return Err(InvalidTraceParent);
        }
        let trace_id = u128::from_str_radix(trace, 16).map_err(|_| InvalidTraceParent)?;
        let span_id = u64::from_str_radix(span, 16).map_err(|_| InvalidTraceParent)?;
        let flags = u8::from_str_radix(flags, 16).map_err(|_| InvalidTraceParent)?;
        Self::from_parts(trace_id, span_id, flags).ok_or(InvalidTraceParent)
    }
}
