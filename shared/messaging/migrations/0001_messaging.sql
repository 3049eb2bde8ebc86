-- The inbox: one row per consumed event says where it is (I9). Partitioned by the event's own day (from its UUIDv7),
-- so that a late duplicate meets the same partition and whole days are dropped.
create type inbox_outcome as enum ('done', 'held', 'retrying', 'dead', 'discarded');

create table processed_events (
    day      date          not null,
    event_id uuid          not null,
    outcome  inbox_outcome not null,
    attempt  smallint      not null,
    primary key (day, event_id)
) partition by range (day);

-- Days that no partition was made for: far past, far future. Nothing is ever refused for its date.
create table processed_events_default partition of processed_events default;

-- The outbox: records that are true but not yet published (I11). Rows live for milliseconds.
create table outbox (
    id         bigint generated always as identity primary key,
    topic      text        not null,
    key        bytea,
    headers    bytea       not null,
    payload    bytea,
    created_at timestamptz not null default now()
) with (
    autovacuum_vacuum_scale_factor = 0.0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0,
    fillfactor = 100
);

-- Order per key through failure (I8): the event that blocks a key, and the later ones that wait for it.
create table blocked_keys (
    topic         text        not null,
    key           bytea       not null,
    head_event_id uuid        not null,
    head_day      date        not null,
    state         text        not null check (state in ('blocked', 'draining', 'parked')),
    due_at        timestamptz,
    since         timestamptz not null default now(),
    primary key (topic, key)
);

create table held_events (
    id             bigint generated always as identity primary key,
    topic          text        not null,
    key            bytea       not null,
    event_id       uuid        not null,
    day            date        not null,
    headers        bytea       not null,
    payload        bytea,
    held_at        timestamptz not null default now()
);
create index held_events_by_key on held_events (topic, key, id);
