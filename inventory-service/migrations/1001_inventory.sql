-- What is on the shelf. Never oversold (I6): the constraint is the last word where the code should ever be wrong.
-- Sorted by bytes ("C"), so that "the first short SKU" means the same here and in the program.
create table stock (
    sku        text        collate "C" primary key check (sku ~ '^[A-Za-z0-9._-]{1,64}$'),
    stock      bigint      not null check (stock >= 0),
    reserved   bigint      not null default 0 check (reserved >= 0),
    sold       bigint      not null default 0 check (sold >= 0),
    updated_at timestamptz not null default now(),
    constraint stock_is_never_oversold check (reserved + sold <= stock)
) with (
    -- Few rows, each written by nearly every batch: room for new versions on the same page, and vacuum before they pile up.
    fillfactor = 30,
    autovacuum_vacuum_scale_factor = 0.0,
    autovacuum_vacuum_threshold = 1000
);

-- One row per order that inventory-service has heard of. A cancellation that found nothing is a row too (the tombstone):
-- an order.placed that comes after it reserves nothing. No index but the key: this table is written by every order.
create table reservations (
    order_id   uuid        primary key,
    state      text        not null check (state in ('reserved', 'sold', 'released', 'rejected', 'tombstone')),
    -- {"SKU-1": 2}
    lines      jsonb       not null check (jsonb_typeof(lines) = 'object'),
    updated_at timestamptz not null default now()
) with (fillfactor = 85);

-- The same SKUs as order-service's products: plenty of most, the last one of SKU-9, none of SKU-10.
insert into stock (sku, stock) values
    ('SKU-1',  1000000),
    ('SKU-2',  1000000),
    ('SKU-3',  1000000),
    ('SKU-4',  1000000),
    ('SKU-5',  1000000),
    ('SKU-6',  1000000),
    ('SKU-7',  1000000),
    ('SKU-8',  1000000),
    ('SKU-9',  1),
    ('SKU-10', 0);
