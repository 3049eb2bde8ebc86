-- What can be ordered. Small and seldom changed: services keep a copy in memory (src/catalog.rs).
create table products (
    sku         text   primary key,
    name        text   not null,
    price_minor bigint not null check (price_minor between 0 and 1000000000),
    currency    text   not null check (currency ~ '^[A-Z]{3}$')
);

insert into products (sku, name, price_minor, currency) values
    ('SKU-1',  'Espresso beans, 1 kg',        1890, 'EUR'),
    ('SKU-2',  'Filter papers, 100 pieces',    349, 'EUR'),
    ('SKU-3',  'Hand grinder',                5900, 'EUR'),
    ('SKU-4',  'Pour-over kettle',            4450, 'EUR'),
    ('SKU-5',  'Stoneware mug',               1295, 'EUR'),
    ('SKU-6',  'Milk jug, 350 ml',            1750, 'EUR'),
    ('SKU-7',  'Coffee scale',                3990, 'EUR'),
    ('SKU-8',  'Descaler, 500 ml',             899, 'EUR'),
    ('SKU-9',  'Espresso machine, last one', 49900, 'EUR'),
    ('SKU-10', 'Moka pot, out of stock',      2950, 'EUR');

create type order_state as enum ('placed', 'confirmed', 'cancelled');
create type payment_step as enum
    ('pending', 'declined', 'authorized', 'capture_failed', 'voided', 'captured', 'refunded');
create type stock_step as enum ('pending', 'rejected', 'reserved', 'released');

-- One row per order, narrow and updated in place: about four times, never an indexed column, with room left on its page
-- (heap-only tuples). Lines are read and written whole, so they are a column. The payment token is not kept: it travels
-- in the order.placed event only.
create table orders (
    order_id        uuid         primary key,
    placed_event_id uuid         not null,
    trace_id        uuid         not null,
    placed_at       timestamptz  not null,
    total_minor     bigint       not null,
    state           order_state  not null default 'placed',
    payment         payment_step not null default 'pending',
    stock           stock_step   not null default 'pending',
    trace_sampled   boolean      not null,
    currency        text         not null,
    cancel_reason   text,
    customer_email  text         not null,
    customer_phone  text,
    lines           jsonb        not null,
    check ((state = 'cancelled') = (cancel_reason is not null))
) with (fillfactor = 75, autovacuum_vacuum_scale_factor = 0.05);

-- The one index beside the keys on a hot table: without it, one customer's page reads every order there is. It costs one
-- entry per order, at its insert; updates don't touch it.
create index orders_by_customer on orders (lower(customer_email), order_id);

-- The timeline: every event of an order that was published or heard. Insert-only. order.placed is not here: its id and
-- time are in the order's own row, which saves a row and an index entry per order.
create table order_events (
    order_id    uuid        not null,
    event_id    uuid        not null,
    at          timestamptz not null,
    -- One clock, the database's, and one microsecond apart within a batch: the order in which they were heard.
    recorded_at timestamptz not null,
    event_type  text        not null,
    detail      text        not null,
    template    text,
    primary key (order_id, event_id)
) with (fillfactor = 100);

-- One row per Idempotency-Key: who had it and what was answered (I3).
create table idempotency_keys (
    key         text        primary key,
    fingerprint bytea       not null,
    order_id    uuid        not null,
    created_at  timestamptz not null default now(),
    status      smallint    not null,
    headers     jsonb       not null,
    body        bytea       not null
) with (autovacuum_vacuum_scale_factor = 0.05);

-- Finds expired keys. A block range index: a few pages for millions of keys that were written in the order of their age.
create index idempotency_keys_by_age on idempotency_keys using brin (created_at)
    with (pages_per_range = 32, autosummarize = on);

-- How far the deadline sweeper got: no order below this id is still open.
create table deadline_progress (
    only_row boolean primary key default true check (only_row),
    low_id   uuid    not null
);
insert into deadline_progress (low_id) values ('00000000-0000-0000-0000-000000000000');
