-- A batch changes neighbours at once, so a page keeps room for a second version of each of its rows: without it, a third
-- of the changes needed an entry in the index.
alter table reservations set (fillfactor = 45);
