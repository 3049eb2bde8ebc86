//! Connections that are used again at once.
//!
//! sqlx's pool hands out what was idle longest, so that every server process is used in turn and finds its caches cold, and it
//! asks the server for a sign of life whenever a connection comes back: a round trip more for every statement. What runs for
//! each event or order takes the connection that was used last instead.
//!
//! Such connections are taken out of the pool for good (it may open others in their place), so whoever waits for the pool never
//! waits for one that lies idle here.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, PgConnection, PgPool, Postgres};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long an idle connection is taken to be alive without asking.
pub const TRUSTED: Duration = Duration::from_millis(500);

/// How long the server may take to give a sign of life.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// The pool, and connections beside it.
pub struct Connections {
    pool: PgPool,
    idle: Mutex<Vec<Idle>>,
    /// One for each connection that there may be beside the pool.
    places: Arc<Semaphore>,
}

struct Idle {
    connection: Ours,
    used: Instant,
}

/// A connection beside the pool.
struct Ours {
    connection: PgConnection,
    opened: Instant,
    _place: OwnedSemaphorePermit,
}

enum Whose {
    Pools(PoolConnection<Postgres>),
    Ours(Ours),
}

impl Connections {
    /// At most so many connections beside the pool.
    pub fn new(pool: PgPool, most: usize) -> Self {
        let places = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        Self { pool, idle: Mutex::default(), places }
    }

    /// For what is not done for each event.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The connection that was used last, or one of the pool's. To be given back with [`Lent::end`].
    ///
    /// # Errors
    /// As [`PgPool::acquire`].
    pub async fn take(&self) -> sqlx::Result<Lent<'_>> {
        loop {
            let Some(Idle { connection, used }) = self.idle().pop() else {
                return Ok(Lent { of: self, connection: Whose::Pools(self.pool.acquire().await?) });
            };
            let is_old = self.pool.options().get_max_lifetime().is_some_and(|most| connection.opened.elapsed() > most);
            let mut lent = Lent { of: self, connection: Whose::Ours(connection) };
            if !is_old && (used.elapsed() < TRUSTED || lent.is_alive().await) {
                return Ok(lent);
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("idle", &self.idle().len()).finish_non_exhaustive()
    }
}

/// A connection in use. Where it is dropped, for instance because its work was broken off, the pool looks after its own, and
/// any other is closed: the server rolls back what was open.
pub struct Lent<'a> {
    of: &'a Connections,
    connection: Whose,
}

impl Lent<'_> {
    /// Gives it back after what was done on it: [`Lent::give_back`] where that went well, [`Lent::recover`] where not.
    pub async fn end(self, went_well: bool) {
        if went_well {
            self.give_back();
        } else {
            self.recover().await;
        }
    }

    /// Gives it back after everything on it has ended well: no transaction is open, no statement was interrupted.
    pub fn give_back(self) {
        let connection = match self.connection {
            Whose::Ours(connection) => connection,
            Whose::Pools(connection) => match Arc::clone(&self.of.places).try_acquire_owned() {
                Ok(place) => Ours { connection: connection.detach(), opened: Instant::now(), _place: place },
                Err(_) => return,
            },
        };
        self.of.idle().push(Idle { connection, used: Instant::now() });
    }

    /// Gives it back after something on it has failed: what is open is rolled back first, and a connection that doesn't
    /// answer is closed.
    pub async fn recover(mut self) {
        if matches!(self.connection, Whose::Ours(_)) && self.is_alive().await {
            self.give_back();
        }
    }

    /// Whether the server answers; what was left open on it is rolled back by then.
    async fn is_alive(&mut self) -> bool {
        matches!(tokio::time::timeout(SIGN_OF_LIFE, self.ping()).await, Ok(Ok(())))
    }
}

impl fmt::Debug for Lent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_pools = matches!(self.connection, Whose::Pools(_));
        f.debug_struct("Lent").field("is_pools", &is_pools).finish_non_exhaustive()
    }
}

impl Deref for Lent<'_> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match &self.connection {
            Whose::Pools(connection) => connection,
            Whose::Ours(ours) => &ours.connection,
        }
    }
}

impl DerefMut for Lent<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match &mut self.connection {
            Whose::Pools(connection) => connection,
            Whose::Ours(ours) => &mut ours.connection,
        }
    }
}
