//! Fault injection (cargo feature `fault-injection`): the process dies at a named point, or works without one of its
//! guards. Only tests build this; without the feature neither this module nor any call to it is compiled.
//!
//! - `CRASH_AT=POINT` or `CRASH_AT=POINT:N` aborts the process when it passes [`Point`] for the N-th time, from 1. Nothing
//!   unwinds, flushes or closes: to everybody else it looks like SIGKILL, and comes at exactly that place.
//! - `REMOVE_GUARD=GUARD` switches one [`Guard`] off, to show that the checks see what it is for.
//!
//! [`arm`] reads both once, at start. Before it, and where neither is set, every point is passed and every guard stands.

use std::io::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The variable that names the point to die at.
pub const CRASH_AT: &str = "CRASH_AT";

/// The variable that names the guard to remove.
pub const REMOVE_GUARD: &str = "REMOVE_GUARD";

/// Declares an enumeration of names as they stand in the environment.
macro_rules! names {
    ($(#[$about:meta])* $type:ident { $($(#[$doc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $type { $($(#[$doc])* $variant,)* }

        impl $type {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name in the environment.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

names! {
    /// Where a process can be made to die.
    Point {
        /// A handler's outside call is about to be made.
        BeforeCall = "before-call",
        /// It has been answered and nothing says so yet.
        AfterCall = "after-call",
        /// A batch's transaction has begun.
        BeforeClaim = "before-claim",
        /// Its events are claimed in the inbox.
        AfterClaim = "after-claim",
        /// The handler is about to decide.
        BeforeEffects = "before-effects",
        /// It has decided and written its effects.
        AfterEffects = "after-effects",
        /// The outbox rows are written as well.
        BeforeCommit = "before-commit",
        /// The transaction is committed and nobody knows.
        AfterCommit = "after-commit",
        /// As `before-commit`, in a transaction that releases held events.
        BeforeReleaseCommit = "before-release-commit",
        /// As `after-commit`, in a transaction that releases held events.
        AfterReleaseCommit = "after-release-commit",
        /// An offset may be stored: everything below it is committed.
        BeforeOffsetStore = "before-offset-store",
        /// It is stored, and goes to the broker in the background.
        AfterOffsetStore = "after-offset-store",
        /// The relay has read a batch of rows.
        BeforeProduce = "before-produce",
        /// They are handed to the producer and no acknowledgement is awaited yet.
        AfterProduce = "after-produce",
        /// All of them are acknowledged.
        BeforeDelete = "before-delete",
        /// They are deleted.
        AfterDelete = "after-delete",
        /// order-service is about to insert a group of new orders.
        BeforeOrderInsert = "before-order-insert",
        /// They are committed, and no client is answered yet.
        AfterOrderInsert = "after-order-insert",
        /// payment-service's resolver is about to ask the gateway.
        BeforeResolverCall = "before-resolver-call",
        /// It has its answer and nothing says so yet.
        AfterResolverCall = "after-resolver-call",
        /// The answer is committed.
        AfterResolverCommit = "after-resolver-commit",
        /// notification-service is about to commit claims to send mails.
        BeforeDeliveryClaim = "before-delivery-claim",
        /// They are committed and no mail is on its way yet.
        AfterDeliveryClaim = "after-delivery-claim",
    }
}

names! {
    /// What can be switched off.
    Guard {
        /// An event that the inbox knows is a duplicate. Without it, it is decided again.
        InboxClaim = "inbox-claim",
        /// Events behind a failing one of their key wait. Without it, they overtake it.
        HeldKey = "held-key",
        /// The relay deletes what is acknowledged. Without it, what was handed to the producer.
        AckWait = "ack-wait",
        /// A mail is claimed before it is sent. Without it, every attempt sends one.
        DeliveryLedger = "delivery-ledger",
        /// An offset is stored after the commit. Without it, before the transaction.
        OffsetAfterCommit = "offset-after-commit",
    }
}

/// A variable that names no point or guard.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}={value}: {expected}")]
pub struct Unknown {
    /// The variable.
    pub variable: &'static str,
    /// Its value.
    pub value: String,
    /// What it may be.
    pub expected: String,
}

#[derive(Debug, Clone, Copy)]
struct Armed {
    crash: Option<(Point, u64)>,
    removed: Option<Guard>,
}

static ARMED: OnceLock<Armed> = OnceLock::new();

/// How often the armed point was passed.
static PASSED: AtomicU64 = AtomicU64::new(0);

/// Reads `CRASH_AT` and `REMOVE_GUARD`, and says in the log what kind of build this is.
///
/// # Errors
/// Where one of them names nothing that there is; the error lists what there is.
pub fn arm() -> Result<(), Unknown> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let armed = Armed::parse(variable(CRASH_AT), variable(REMOVE_GUARD))?;
    tracing::warn!(
        crash_at = armed.crash.map_or("nowhere", |(point, _)| point.name()),
        passage = armed.crash.map_or(0, |(_, nth)| nth),
        removed_guard = armed.removed.map_or("none", Guard::name),
        "THIS IS A FAULT-INJECTION BUILD: it can be made to crash and to work without its guards; never run it for real"
    );
    // A second call changes nothing: the first one counts.
    let _ = ARMED.set(armed);
    Ok(())
}

impl Armed {
    fn parse(crash_at: Option<String>, remove_guard: Option<String>) -> Result<Self, Unknown> {
        let crash = crash_at.map(|value| {
            let (name, nth) = value.split_once(':').unwrap_or((&value, "1"));
            let point = Point::ALL.iter().find(|point| point.name() == name);
            let nth = nth.parse().ok().filter(|nth| *nth > 0);
            point.copied().zip(nth).ok_or_else(|| {
                let expected = format!("POINT or POINT:N, from 1; points are {}", listed(Point::ALL, Point::name));
                Unknown { variable: CRASH_AT, value: value.clone(), expected }
            })
        });
        let removed = remove_guard.map(|value| {
            let guard = Guard::ALL.iter().find(|guard| guard.name() == value).copied();
            guard.ok_or_else(|| {
                let expected = format!("guards are {}", listed(Guard::ALL, Guard::name));
                Unknown { variable: REMOVE_GUARD, value, expected }
            })
        });
        Ok(Self { crash: crash.transpose()?, removed: removed.transpose()? })
    }
}

fn listed<T: Copy>(all: &[T], name: impl Fn(T) -> &'static str) -> String {
    all.iter().map(|one| name(*one)).collect::<Vec<_>>().join(", ")
}

/// Passes a point, or dies there.
pub fn pass(point: Point) {
    let Some((at, nth)) = ARMED.get().and_then(|armed| armed.crash) else { return };
    if at == point && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == nth {
        // Unbuffered, so that it is in the log whatever becomes of the process; one write, so that no other line tears it.
        let words = format!("crash point {} passed, passage {nth}: the process aborts\n", point.name());
        let _ = std::io::stderr().write_all(words.as_bytes());
        std::process::abort();
    }
}

/// Whether a guard is switched off.
pub fn removed(guard: Guard) -> bool {
    ARMED.get().is_some_and(|armed| armed.removed == Some(guard))
}
