-- What customers were told, one row per order and template (I7). "sending" with its owner and lease is committed before a
-- mail server is called, everything else after: so a crash between the two leaves a lease that expires, and never a
-- mail that nobody knows of.
create table deliveries (
    order_id    uuid        not null,
    template    text        not null check (template in ('order_received', 'order_confirmed', 'order_cancelled')),
    state       text        not null check (state in ('sending', 'retrying', 'sent', 'unknown', 'failed')),
    -- Names one claim, not one process: only whoever made a claim may end it early.
    owner       uuid,
    lease_until timestamptz,
    message_id  text        not null,
    attempts    integer     not null,
    -- An attempt's outcome was never known, so the mail may be there although its state doesn't say so, or twice.
    in_doubt    boolean     not null default false,
    -- The last failure's class or the reason that was reported; never an address.
    reason      text,
    updated_at  timestamptz not null default now(),
    primary key (order_id, template),
    check ((state = 'sending') = (owner is not null)),
    check ((owner is null) = (lease_until is null))
) with (fillfactor = 80);

-- For operators: what is not known or was given up. Deliveries that go well never enter it.
create index deliveries_to_look_at on deliveries (order_id, template) where state in ('unknown', 'failed');
