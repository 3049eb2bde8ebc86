-- One row per order that payment-service has heard of; a cancellation without a payment is a row too (the tombstone).
-- No index but the key: this table is written by every order.
create table payments (
    order_id         uuid        primary key,
    state            text        not null check (state in (
        'authorizing', 'authorized', 'declined', 'capturing', 'captured', 'capture_failed', 'cancelled', 'voided', 'refunded')),
    amount_minor     bigint      not null,
    currency         text        not null,
    authorization_id text,
    code             text,
    updated_at       timestamptz not null default now(),
    check (state not in ('authorized', 'capturing', 'captured', 'voided', 'refunded') or authorization_id is not null)
) with (fillfactor = 90);

-- What is still to be settled with the gateway, or was: calls whose outcome nobody knows (authorize, capture) and
-- compensations (void, refund). Written under the lock of the order's row in payments.
create table intents (
    order_id     uuid        not null,
    kind         text        not null check (kind in ('authorize', 'capture', 'void', 'refund')),
    state        text        not null check (state in ('unknown', 'pending', 'stuck', 'done')),
    doubt        text        check (doubt in ('possible', 'lost')),
    outcome      text,
    since        timestamptz not null,
    due_at       timestamptz,
    leased_until timestamptz,
    attempts     integer     not null default 0,
    last_error   text,
    cause        uuid        not null,
    traceparent  text        not null,
    primary key (order_id, kind),
    check ((state in ('pending', 'stuck')) = (due_at is not null))
);
create index intents_due on intents (due_at) where due_at is not null;
create index intents_open on intents (order_id, kind) where state <> 'done';
