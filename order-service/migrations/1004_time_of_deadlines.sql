-- Since when the service has not been behind, and when an instance last looked: deadlines run from then on. Shared, because an
-- instance sees only its own partitions, and a restart is no outage.
alter table deadline_progress
    add column caught_up_since timestamptz not null default now(),
    add column watched_at      timestamptz not null default now();
