-- What operators decided about dead letters: one row per decision, written in the transaction that carries it out (I14).
-- A command that is given again finds its row, so an interrupted redrive is resumed by running it again.
create table operator_actions (
    id           bigint generated always as identity primary key,
    at           timestamptz not null default now(),
    -- One per run of a command: what belongs together.
    command_id   uuid        not null,
    decided_by   text        not null,
    why          text        not null,
    action       text        not null check (action in ('redrive', 'edit', 'discard')),
    day          date        not null,
    event_id     uuid        not null,
    -- The attempt that the event died of: the next dead letter of the same event is another decision.
    dead_attempt smallint    not null,
    -- The event that took its place, where the payload was edited.
    new_event_id uuid,
    -- The limit on redrives was overridden.
    forced       boolean     not null default false,
    topic        text        not null,
    key          bytea,
    event_type   text,
    check ((action = 'edit') = (new_event_id is not null)),
    unique (event_id, dead_attempt, action)
);
create index operator_actions_by_time on operator_actions (at);
