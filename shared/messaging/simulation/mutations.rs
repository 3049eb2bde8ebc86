/// One way to break the machine, or what the simulator models of the transaction: in one source, `from` (found exactly once) becomes `to`, where `$ON` is true in
/// the runs that look for this mutation.
pub struct Mutation {
    /// Something that ...
    pub name: &'static str,
    /// The source: `machine/` or `sim/`.
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
        file: "machine/partition.rs",
        from: "if self.finished > self.stored && !self.lost {",
        to: "let running = |entry: &&Entry| entry.stage == Stage::Running;
        if let Some(entry) = self.entries.iter().take_while(running).last().filter(|_| $ON) {
            self.finished = Some(entry.offset + 1);
        }
        if self.finished > self.stored && !self.lost {",
    },
    Mutation {
        name: "takes an answer of an earlier assignment for the present one's",
        file: "machine/mod.rs",
        from: "filter(|partition| partition.generation == id.generation)",
        to: "filter(|partition| partition.generation == id.generation || $ON)",
    },
    Mutation {
        name: "starts before the due time",
        file: "machine/partition.rs",
        from: "self.due_ms.is_some_and(|due| due > now_ms)",
        to: "self.due_ms.is_some_and(|due| due > now_ms) && !$ON",
    },
    Mutation {
        name: "runs two transactions in a lane",
        file: "machine/lane.rs",
        from: "if !self.running.is_empty() {",
        to: "if !self.running.is_empty() && !$ON {",
    },
    Mutation {
        name: "has a key in flight twice",
        file: "machine/lane.rs",
        from: "entry.key.is_none_or(|key| busy.insert(key))",
        to: "entry.key.is_none_or(|key| busy.insert(key) || $ON)",
    },
    Mutation {
        name: "forgets the calls of a partition that went and came back",
        file: "machine/mod.rs",
        from: "lane.orphan(tp, &partition);",
        to: "if !$ON { lane.orphan(tp, &partition); }",
    },
    Mutation {
        name: "takes records from a revoked partition",
        file: "machine/partition.rs",
        from: "(true, _) => 0,",
        to: "(true, _) if !$ON => 0,
            (true, _) => self.entries.len(),",
    },
    Mutation {
        name: "takes records while it drains",
        file: "machine/partition.rs",
        from: "(false, true) =>",
        to: "(false, true) if !$ON =>",
    },
    Mutation {
        name: "lets a record that can't be read overtake its key",
        file: "machine/lane.rs",
        from: "unprepared.extend(entry.key);",
        to: "if !$ON { unprepared.extend(entry.key); }",
    },
    Mutation {
        name: "drops what a batch left",
        file: "machine/mod.rs",
        from: "partition.leave(id.offset, now_ms, due_ms);",
        to: "if !$ON { partition.leave(id.offset, now_ms, due_ms); }",
    },
    Mutation {
        name: "never resumes a paused partition",
        file: "machine/partition.rs",
        from: "let resume = drained && self.paused && !self.revoked;",
        to: "let resume = drained && self.paused && !self.revoked && !$ON;",
    },
    Mutation {
        name: "gives a partition away paused",
        file: "machine/mod.rs",
        from: "if partition.is_paused() {",
        to: "if partition.is_paused() && !$ON {",
    },
    Mutation {
        name: "gives a partition away with work in flight",
        file: "machine/mod.rs",
        from: "partition.is_revoked() && partition.in_flight() == 0",
        to: "partition.is_revoked() && (partition.in_flight() == 0 || $ON)",
    },
    Mutation {
        name: "forgets what is in flight of a partition that is lost",
        file: "machine/mod.rs",
        from: "Input::Revoked { partitions, lost } => self.revoke(&partitions, lost, out),",
        to: "Input::Revoked { partitions, lost: true } if $ON => self.drop_partitions(&partitions, out),
            Input::Revoked { partitions, lost } => self.revoke(&partitions, lost, out),",
    },
    Mutation {
        name: "stores an offset of a partition that is lost",
        file: "machine/partition.rs",
        from: "self.lost |= lost;",
        to: "self.lost |= lost && !$ON;",
    },
    Mutation {
        name: "waits for a probe that needed no call",
        file: "machine/breaker.rs",
        from: "self.abandon(now_ms, |probe| probe == id)",
        to: "self.abandon(now_ms, |probe| probe == id && !$ON)",
    },
    Mutation {
        name: "sleeps through a due time",
        file: "machine/mod.rs",
        from: "partition.next_due_ms(now_ms));",
        to: "partition.next_due_ms(now_ms).filter(|_| !$ON));",
    },
    Mutation {
        name: "sleeps through the end of a rest",
        file: "machine/mod.rs",
        from: "lane.rests_until(now_ms)).min()",
        to: "lane.rests_until(now_ms).filter(|_| !$ON)).min()",
    },
    Mutation {
        name: "says that it has drained too early",
        file: "machine/mod.rs",
        from: "!self.drained && self.in_flight() == 0",
        to: "!self.drained && (self.in_flight() == 0 || $ON)",
    },
    Mutation {
        name: "never pauses",
        file: "machine/partition.rs",
        from: "let pause = full && !self.paused && !self.revoked;",
        to: "let pause = full && !self.paused && !self.revoked && !$ON;",
    },
    // The transaction's guards, removed from the model: were the checks blind to them, it would show here.
    Mutation {
        name: "claims what the inbox knows",
        file: "sim/database.rs",
        from: "None => true,\n            Some((outcome, attempt)) =>",
        to: "None => true,\n            Some(_) if $ON => true,\n            Some((outcome, attempt)) =>",
    },
    Mutation {
        name: "does not set aside what is behind a blocked key",
        file: "sim/batch.rs",
        from: "let behind = key.filter(|key| {",
        to: "let behind = key.filter(|_| !$ON).filter(|key| {",
    },
    Mutation {
        name: "settles a head before it holds what waits behind it",
        file: "sim/batch.rs",
        from: "for &(task, event, key) in &sorted.held {",
        to: "if $ON {
            self.settle_heads(&sorted, &heads, saw);
        }
        let heads = if $ON { BTreeSet::new() } else { heads };
        for &(task, event, key) in &sorted.held {",
    },
    Mutation {
        name: "takes an event's first copy of a batch and not its latest attempt",
        file: "sim/batch.rs",
        from: "if rank(task) > rank(&part[*chosen]) {",
        to: "if rank(task) > rank(&part[*chosen]) && !$ON {",
    },
    Mutation {
        name: "lets a later part of a batch overtake one that was left",
        file: "sim/work.rs",
        from: "if self.parts.len() < self.barrier {",
        to: "if self.parts.len() < self.barrier && !$ON {",
    },
    Mutation {
        name: "lets the copy of a held event claim it",
        file: "sim/database.rs",
        from: "self.inbox.insert(event, (Outcome::Held, record.attempt));",
        to: "self.inbox.insert(event, (Outcome::Held, record.attempt - u16::from($ON)));",
    },
    Mutation {
        name: "releases held events whatever the state of their key",
        file: "sim/release.rs",
        from: "is_none_or(|block| block.state != State::Draining)",
        to: "is_none_or(|block| block.state != State::Draining && !$ON)",
    },
    Mutation {
        name: "frees a key that has held events",
        file: "sim/database.rs",
        from: "if self.next_held(key, 1).is_empty() {",
        to: "if self.next_held(key, 1).is_empty() || $ON {",
    },
    Mutation {
        name: "makes what comes back wait for room behind its key",
        file: "sim/batch.rs",
        from: "filter(|(task, _, _)| !task.record.comeback)",
        to: "filter(|(task, _, _)| !task.record.comeback || $ON)",
    },
    Mutation {
        name: "attempts what the database's clock finds early",
        file: "sim/batch.rs",
        from: "if owned.iter().any(|task| task.record.due_ms.is_some_and(|due| due > self.now_ms)) {",
        to: "if !$ON && owned.iter().any(|task| task.record.due_ms.is_some_and(|due| due > self.now_ms)) {",
    },
];
