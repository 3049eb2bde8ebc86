-- Ends a statement, and so its transaction, whose condition does not hold: 40001 (serialization_failure) says that it may be
-- done again, from what is there by then. Volatile: it is called where it stands, once.
create function abort_unless(new_events boolean, free_keys boolean, unchanged_rows boolean) returns boolean
language plpgsql volatile as $$
begin
    if new_events and free_keys and unchanged_rows then
        return true;
    end if;
    raise exception 'decided on what has changed since: events new %, keys free %, rows unchanged %',
        new_events, free_keys, unchanged_rows using errcode = '40001';
end
$$;
