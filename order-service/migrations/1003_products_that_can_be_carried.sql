-- A product that the suite can't carry to the end is none: an order of nothing is refused by every payment gateway, and a SKU
-- that is none (contracts::Sku; inventory-service's stock.sku has the same pattern) can't be reserved, nor even read.
--
-- Not valid: rows that are there already are not looked at, so a live table that holds such a row neither fails this nor keeps
-- the new version from starting. Those are left to the program: it skips what it can't read, tells it in the log, and refuses
-- orders of nothing. From here on no row is written like that, and an old one can be changed only into a good one.
alter table products
    add constraint products_have_a_price check (price_minor > 0) not valid,
    -- Letters by their codes, whatever the database's language.
    add constraint products_have_a_sku check (sku collate "C" ~ '^[A-Za-z0-9._-]{1,64}$') not valid;

-- Where all rows are good, which is nearly everywhere, that is made certain at once. Elsewhere it is the operator's to do,
-- once the rows are mended:
-- alter table products validate constraint products_have_a_price, validate constraint products_have_a_sku;
do $$
begin
    alter table products validate constraint products_have_a_price, validate constraint products_have_a_sku;
exception
    when check_violation then
        raise warning 'products holds rows that cannot be ordered: the constraints hold for new rows only (%)', sqlerrm;
end
$$;
