//! What goes into the machine and what comes out of it.

use super::BreakerSettings;

/// A topic's place in the consumer's list of topics.
pub type TopicIndex = u16;

/// A partition of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tp {
    /// The partition, from which its lane follows ([`Limits::lane_of`]).
    pub partition: i32,
    /// The topic.
    pub topic: TopicIndex,
}

/// Names a record of one assignment of its partition: after a rebalance the same offset has another name, so that an
/// answer to the old one can't be taken for the new one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    /// Where it is from.
    pub tp: Tp,
    /// Where it stands.
    pub offset: i64,
    /// Which assignment of the partition it came with.
    pub generation: u32,
}

/// What the machine needs to know of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Where it stands.
    pub offset: i64,
    /// A hash of its key; `None` for a record without one, which has no order to keep.
    pub key: Option<u64>,
    /// Not before this time (database clock, milliseconds since the Unix epoch).
    pub due_ms: Option<i64>,
    /// Its size in memory.
    pub bytes: usize,
    /// What is to be done with it.
    pub kind: Kind,
    /// Whether it may wait for others, for the sake of larger batches ([`Limits::linger_ms`]).
    pub lingers: bool,
}

/// What is to be done with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: a type that the group doesn't handle.
    Skip,
    /// A transaction.
    Plain,
    /// Preparation (look-ups, outside calls) and then a transaction.
    Prepared,
}

/// How a record's preparation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallResult {
    /// No call was needed.
    NotNeeded,
    /// The outside answered, be it with a "no".
    Answered,
    /// A time-out or a 5xx: the message's own failure, unless many fail.
    Failed,
    /// The dependency can't be reached: no attempt is counted.
    Refused,
}

/// Whether a batch met trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// None.
    None,
    /// The batch had to be taken apart: later ones start small and grow.
    Bisected,
    /// The database can't be reached or is overloaded: the lane waits, no attempt is counted.
    Outage,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// Partitions were assigned.
    Assigned(Vec<Tp>),
    /// Partitions are being taken away. What is in flight is finished, for some time: what was called for an event would be forgotten
    /// otherwise, and a mail that was sent be unknown.
    Revoked {
        /// Which.
        partitions: Vec<Tp>,
        /// They may be somebody else's already: none of their offsets may be stored any more. Who has them decides the same events
        /// again, and the inbox lets one of the two.
        lost: bool,
    },
    /// The bound for a revocation has passed: what is still in flight of these partitions is dropped.
    RevokeExpired(Vec<Tp>),
    /// Records that came together, of each partition in offset order: none of them starts before all are there.
    Arrived(Vec<(Tp, Vec<Arrival>)>),
    /// A record's preparation ended. Each record of a [`Output::Prepare`] gets this or `PreparationFailed`, also when
    /// its partition has gone.
    PreparationEnded(RecordId, CallResult),
    /// The preparation of these records could not be made for want of the database.
    PreparationFailed {
        /// The lane.
        lane: i32,
        /// Which.
        records: Vec<RecordId>,
    },
    /// A batch ended. Of its records, those in neither list are as they were.
    BatchEnded {
        /// The lane.
        lane: i32,
        /// Records whose outcome is committed.
        done: Vec<RecordId>,
        /// Records that are as they were; those with a time are prepared anew, not before it.
        left: Vec<(RecordId, Option<i64>)>,
        /// Whether it met trouble.
        trouble: Trouble,
    },
    /// Time passed.
    Tick,
    /// Stop taking records, finish what is in flight.
    Drain,
}

impl Input {
    /// The one lane that this concerns; `None` where it may be any.
    pub(super) fn lane(&self, limits: &Limits) -> Option<i32> {
        match self {
            Self::Arrived(partitions) => {
                let mut lanes = partitions.iter().map(|(tp, _)| limits.lane_of(*tp));
                let first = lanes.next();
                first.filter(|first| lanes.all(|lane| lane == *first))
            }
            Self::PreparationEnded(id, _) => Some(limits.lane_of(id.tp)),
            Self::PreparationFailed { lane, .. } | Self::BatchEnded { lane, .. } => Some(*lane),
            Self::Assigned(_) | Self::Revoked { .. } | Self::RevokeExpired(_) | Self::Tick | Self::Drain => None,
        }
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Look up and make the outside calls for these records.
    Prepare {
        /// The lane.
        lane: i32,
        /// Which.
        records: Vec<RecordId>,
    },
    /// Run the batch transaction for these records, in this order.
    Run {
        /// The lane.
        lane: i32,
        /// Which.
        records: Vec<RecordId>,
    },
    /// Store this offset (the next one to read) for the partition.
    Store(Tp, i64),
    /// Stop fetching the partition.
    Pause(Tp),
    /// Go on fetching the partition.
    Resume(Tp),
    /// Nothing of the partition is in flight any more: it can be given away.
    Released(Tp),
    /// Everything that was in flight has ended.
    Drained,
}

/// The machine's limits.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The most records in a batch.
    pub batch_max: usize,
    /// How many lanes there are; one for each partition where that is `None`.
    pub lanes: Option<i32>,
    /// The most preparations under way in a lane.
    pub calls_per_lane: usize,
    /// How long a lane waits for more after the first record that lingers, unless enough are there; 0 for not at all.
    pub linger_ms: i64,
    /// The longest that a lane rests after a batch of more than [`Limits::many`], unless the next one is full; 0 for not at all.
    pub rest_ms: i64,
    /// A batch of more records than this is one of many: they come faster than transactions end.
    pub many: usize,
    /// The most records of a partition in memory.
    pub queue_records: usize,
    /// The most bytes of a partition in memory.
    pub queue_bytes: usize,
    /// The first and the longest wait after an outage, in milliseconds.
    pub backoff_ms: (i64, i64),
    /// When the breaker opens.
    pub breaker: BreakerSettings,
}

impl Limits {
    /// The lane in which a partition's records are worked on: the same one for the partitions of one number, whatever
    /// their topics, because these hold the same keys.
    pub fn lane_of(&self, tp: Tp) -> i32 {
        self.lanes.map_or(tp.partition, |lanes| tp.partition % lanes.max(1))
    }
}

/// How many records are in each stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// Not started.
    pub waiting: usize,
    /// In look-up or call.
    pub preparing: usize,
    /// Prepared, before their transaction.
    pub ready: usize,
    /// In a transaction.
    pub running: usize,
    /// Committed, behind one that is not.
    pub done: usize,
}
