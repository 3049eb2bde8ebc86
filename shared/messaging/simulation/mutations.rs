/// One way to break the machine: in one of its sources, `from` (found exactly once) becomes `to`, where `$ON` is true in
/// the runs that look for this mutation.
pub struct Mutation {
    /// A machine that ...
    pub name: &'static str,
    /// The source.
    pub file: &'static str,
    /// What it says.
    pub from: &'static str,
    /// What it says then.
    pub to: &'static str,
}

/// The mutations that the simulation must find.
pub const MUTATIONS: &[Mutation] = &[
    Mutation {
        name: "stores the offset of what is not committed",
        file: "partition.rs",
        from: "if self.finished > self.stored {",
        to: "let running = |entry: &&Entry| entry.stage == Stage::Running;
        if let Some(entry) = self.entries.iter().take_while(running).last().filter(|_| $ON) {
            self.finished = Some(entry.offset + 1);
        }
        if self.finished > self.stored {",
    },
    Mutation {
        name: "takes an answer of an earlier assignment for the present one's",
        file: "mod.rs",
        from: "filter(|partition| partition.generation == id.generation)",
        to: "filter(|partition| partition.generation == id.generation || $ON)",
    },
    Mutation {
        name: "starts before the due time",
        file: "partition.rs",
        from: "self.due_ms.is_some_and(|due| due > now_ms)",
        to: "self.due_ms.is_some_and(|due| due > now_ms) && !$ON",
    },
    Mutation {
        name: "runs two transactions in a lane",
        file: "lane.rs",
        from: "if !self.running.is_empty() {",
        to: "if !self.running.is_empty() && !$ON {",
    },
    Mutation {
        name: "has a key in flight twice",
        file: "lane.rs",
        from: "entry.key.is_none_or(|key| busy.insert(key))",
        to: "entry.key.is_none_or(|key| busy.insert(key) || $ON)",
    },
    Mutation {
        name: "forgets the calls of a partition that went and came back",
        file: "mod.rs",
        from: "lane.orphan(tp, &partition);",
        to: "if !$ON { lane.orphan(tp, &partition); }",
    },
    Mutation {
        name: "takes records from a revoked partition",
        file: "lane.rs",
        from: "let mut fresh = !draining && !partition.is_revoked();",
        to: "let mut fresh = !draining && (!partition.is_revoked() || $ON);",
    },
    Mutation {
        name: "lets a record that can't be read overtake its key",
        file: "lane.rs",
        from: "unprepared.extend(entry.key);",
        to: "if !$ON { unprepared.extend(entry.key); }",
    },
    Mutation {
        name: "drops what a batch left",
        file: "mod.rs",
        from: "partition.leave(id.offset, now_ms, due_ms);",
        to: "if !$ON { partition.leave(id.offset, now_ms, due_ms); }",
    },
    Mutation {
        name: "never resumes a paused partition",
        file: "partition.rs",
        from: "let resume = drained && self.paused && !self.revoked;",
        to: "let resume = drained && self.paused && !self.revoked && !$ON;",
    },
    Mutation {
        name: "gives a partition away paused",
        file: "mod.rs",
        from: "if partition.is_paused() {",
        to: "if partition.is_paused() && !$ON {",
    },
    Mutation {
        name: "gives a partition away with work in flight",
        file: "mod.rs",
        from: "partition.is_revoked() && partition.in_flight() == 0",
        to: "partition.is_revoked() && (partition.in_flight() == 0 || $ON)",
    },
    Mutation {
        name: "goes on with a partition that is lost",
        file: "mod.rs",
        from: "Input::Revoked { partitions, lost: true } => self.drop_partitions(&partitions, out),",
        to: "Input::Revoked { partitions, lost: true } if $ON => self.revoke(&partitions, out),
            Input::Revoked { partitions, lost: true } => self.drop_partitions(&partitions, out),",
    },
    Mutation {
        name: "waits for a probe that needed no call",
        file: "breaker.rs",
        from: "self.abandon(now_ms, |probe| probe == id)",
        to: "self.abandon(now_ms, |probe| probe == id && !$ON)",
    },
    Mutation {
        name: "sleeps through a due time",
        file: "mod.rs",
        from: "partition.next_due_ms(now_ms)).min()",
        to: "partition.next_due_ms(now_ms)).min().filter(|_| !$ON)",
    },
    Mutation {
        name: "says that it has drained too early",
        file: "mod.rs",
        from: "!self.drained && self.in_flight() == 0",
        to: "!self.drained && (self.in_flight() == 0 || $ON)",
    },
    Mutation {
        name: "never pauses",
        file: "partition.rs",
        from: "let pause = full && !self.paused && !self.revoked;",
        to: "let pause = full && !self.paused && !self.revoked && !$ON;",
    },
];
