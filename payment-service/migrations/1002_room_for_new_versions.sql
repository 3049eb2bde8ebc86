-- A batch changes neighbours at once, so a page keeps room for a second, wider version of each of its rows: without it, half of
-- the changes needed an entry in the index.
alter table payments set (fillfactor = 35);
