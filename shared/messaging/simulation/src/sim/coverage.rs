//! What the seeds have seen, counted: a simulation that never meets something says nothing about it.

macro_rules! seen {
    ($($name:ident => $text:literal,)*) => {
        /// Something that the seeds together must meet.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Seen { $(#[doc = $text] $name,)* }

        /// All of them with their names, in the order of [`Seen`].
        pub const ALL: &[(Seen, &str)] = &[$((Seen::$name, $text),)*];
    };
}

seen! {
    Assigned => "input Assigned",
    Revoked => "input Revoked",
    Lost => "input Revoked, lost",
    RevokeExpired => "input RevokeExpired",
    Arrived => "input Arrived",
    NotNeeded => "input PreparationEnded, NotNeeded",
    Answered => "input PreparationEnded, Answered",
    Failed => "input PreparationEnded, Failed",
    Refused => "input PreparationEnded, Refused",
    LateAnswer => "input PreparationEnded of an earlier assignment",
    PreparationFailed => "input PreparationFailed",
    EndedWell => "input BatchEnded, no trouble",
    Bisected => "input BatchEnded, bisected",
    Outage => "input BatchEnded, outage",
    LeftEarly => "input BatchEnded, left with a new due time",
    LateBatch => "input BatchEnded of an earlier assignment",
    Tick => "input Tick",
    Drain => "input Drain",
    Prepare => "output Prepare",
    Run => "output Run",
    Store => "output Store",
    Pause => "output Pause",
    Resume => "output Resume",
    Released => "output Released",
    Drained => "output Drained",
    Waiting => "stage waiting",
    Preparing => "stage preparing",
    Ready => "stage ready",
    Running => "stage running",
    Done => "stage done (behind an unfinished one)",
    BreakerClosed => "breaker closed",
    BreakerOpenShare => "breaker open by share",
    BreakerOpenRefused => "breaker open by refusal",
    BreakerProbing => "breaker probing",
    Gap => "model: offset gap",
    CopyOnSource => "model: record published twice on its source",
    CopyByRelay => "model: outbox row published twice",
    SetBack => "model: fetch position set back",
    Duplicate => "model: duplicate found by the claim",
    Held => "model: event held",
    ReleasedHeld => "model: held event released",
    StaleStep => "model: release step found other held events than it prepared",
    HeldWithHead => "model: event held in the transaction that settles its head",
    Full => "model: event without room behind its blocked key",
    Retried => "model: retry recorded",
    Dead => "model: dead letter recorded",
    Redriven => "model: dead letter redriven",
    Parked => "model: key parked by a dead letter",
    Early => "model: refused as early by the database's clock",
    Conflict => "model: transaction started again",
    UnknownCommit => "model: committed, but the answer was lost",
    DatabaseOutage => "model: database outage",
    GatewayRefuses => "model: gateway refuses connections",
    GatewayErrs => "model: gateway answers 5xx",
    Crash => "model: crash",
    CrashBeforeCommit => "model: crash with stored offsets that were not committed",
    CrashInCall => "model: crash between call and transaction",
    Zombie => "model: zombie that worked on without its partitions",
    DrainExpired => "model: drain bound passed",
    ClockAhead => "model: clock jumped ahead",
    ClockBack => "model: clock jumped back",
}

/// How often each was seen.
#[derive(Debug, Clone)]
pub struct Coverage {
    counts: Vec<u64>,
    /// Steps of all machines.
    pub machine_steps: u64,
    /// Random steps of all runs.
    pub random_steps: u64,
    /// Events produced.
    pub events: u64,
}

impl Default for Coverage {
    fn default() -> Self {
        Self { counts: vec![0; ALL.len()], machine_steps: 0, random_steps: 0, events: 0 }
    }
}

impl Coverage {
    /// It was seen.
    pub fn saw(&mut self, what: Seen) {
        self.counts[what as usize] += 1;
    }

    /// It was seen so often.
    pub fn saw_many(&mut self, what: Seen, times: usize) {
        self.counts[what as usize] += times as u64;
    }

    /// Adds what another run saw.
    pub fn add(&mut self, other: &Self) {
        for (sum, count) in self.counts.iter_mut().zip(&other.counts) {
            *sum += count;
        }
        self.machine_steps += other.machine_steps;
        self.random_steps += other.random_steps;
        self.events += other.events;
    }

    /// What was never seen.
    pub fn missing(&self) -> Vec<&'static str> {
        ALL.iter().filter(|(what, _)| self.counts[*what as usize] == 0).map(|(_, name)| *name).collect()
    }

    /// One line each.
    pub fn report(&self) -> String {
        let lines = ALL.iter().map(|(what, name)| format!("{:>12}  {name}\n", self.counts[*what as usize]));
        let totals = format!(
            "{:>12}  steps of machines\n{:>12}  random steps\n{:>12}  events\n",
            self.machine_steps, self.random_steps, self.events
        );
        lines.chain([totals]).collect()
    }
}
