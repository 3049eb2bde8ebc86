-- Batches change neighbours at once: with a quarter of a page free, one change in six found no room beside its old version,
-- and needed entries in both indexes.
alter table orders set (fillfactor = 50);
