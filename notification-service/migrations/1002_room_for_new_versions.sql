-- A new version of a row needs no new index entries where it fits on the row's page and no indexed column changed (a
-- heap-only tuple). Batches change many neighbours at once, so a page keeps room for a second version of each of its rows.
alter table deliveries set (fillfactor = 45);

-- An index that names state in its condition made every change of state one of an indexed column. A block range index
-- does not (PostgreSQL 16): few pages whose rows were all sent are ever read to find those to look at.
drop index deliveries_to_look_at;
create index deliveries_by_state on deliveries using brin (state) with (pages_per_range = 32, autosummarize = on);
