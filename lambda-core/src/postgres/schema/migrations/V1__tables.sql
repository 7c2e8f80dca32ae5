-- Transaction ids are stored in rows. A logical restore makes them meaningless
-- in the new cluster, so each is stored as its id there plus this offset, which
-- lambda-db-setup raises after a restore; the system identifier tells one.
create table xid_offset (
    one boolean primary key default true check (one),
    value bigint not null default 0,
    system_identifier bigint not null
);
insert into xid_offset (system_identifier) select system_identifier from pg_control_system();

create table transactions (
    transaction_id text collate "C" primary key,
    account_id text not null,
    transaction_type text not null,
    amount numeric(10, 2) not null,
    event_time timestamptz not null,
    merchant_category text,
    location text,
    card_present boolean,
    risk_score numeric(4, 2),
    -- Who answers for the row: a job, or the stream (no job).
    job_id text collate "C",
    ingestion_type text not null,
    -- Evidence: where the row was read, what it said, which transaction inserted it.
    lane integer not null,
    position bigint not null,
    checksum bigint not null,
    written_xid bigint not null
);
-- A second btree would cost a factor of 3.8 on the write path; BRIN costs nothing measurable.
create index transactions_event_time on transactions
    using brin (event_time) with (pages_per_range = 16, autosummarize = on);
create index transactions_written_xid on transactions
    using brin (written_xid) with (pages_per_range = 16, autosummarize = on);

-- One row a lane: a Kafka partition, or a chunk of a file.
create table ingest_progress (
    lane integer generated always as identity unique,
    pipeline text collate "C" not null,
    source text collate "C" not null,
    partition integer not null,
    -- How many partitions the topic had when this lane was first claimed.
    partitions integer,
    position bigint not null,
    end_position bigint,
    -- Who holds the lane: the last claim written here.
    claim uuid,
    owner text,
    consumer_group text,
    claimed_at timestamptz,
    updated_at timestamptz not null default now(),
    -- A chunk's plan: its first line, the records in it and the SHA-256 of its bytes.
    first_line bigint,
    records bigint,
    digest bytea,
    read bigint not null default 0,
    inserted bigint not null default 0,
    confirmed bigint not null default 0,
    corrected bigint not null default 0,
    superseded bigint not null default 0,
    duplicate bigint not null default 0,
    rejected bigint not null default 0,
    -- Wrapping sums of evidence.
    written bigint not null default 0,
    owned bigint not null default 0,
    displaced bigint not null default 0,
    -- The last record read, to notice a source that was swapped.
    last_position bigint,
    last_timestamp_ms bigint,
    last_checksum bigint,
    primary key (pipeline, source, partition),
    check (position <= end_position),
    check (read = inserted + confirmed + corrected + superseded + duplicate + rejected)
) with (fillfactor = 50);
-- The lanes of streams: a few among those of every chunk that was ever loaded.
create index ingest_progress_streams on ingest_progress (pipeline, source, partition)
    where consumer_group is not null;

create table batch_jobs (
    id bigint generated always as identity primary key,
    job_id text collate "C" not null unique
        generated always as ('BAT' || lpad(id::text, greatest(5, length(id::text)), '0')) stored,
    pipeline text collate "C" not null,
    source text collate "C" not null,
    run_time timestamptz not null default now(),
    status text not null default 'pending' check (status in ('pending', 'running', 'completed', 'failed')),
    file_name text not null,
    header text not null,
    bytes bigint not null,
    records bigint not null,
    chunks integer not null,
    as_of timestamptz not null default now(),
    attempt integer not null default 0,
    owner text,
    lease_until timestamptz,
    read bigint not null default 0,
    inserted bigint not null default 0,
    confirmed bigint not null default 0,
    corrected bigint not null default 0,
    superseded bigint not null default 0,
    duplicate bigint not null default 0,
    rejected bigint not null default 0,
    started_at timestamptz,
    finished_at timestamptz,
    error text,
    unique (pipeline, source),
    check (read = inserted + confirmed + corrected + superseded + duplicate + rejected)
);

-- The highest number that a job was ever given. A sequence would skip numbers: it is
-- logged 32 ahead, and a crash or a rollback takes nothing back. The highest number in
-- batch_jobs would be given again once its job is deleted.
create table job_numbers (
    one boolean primary key default true check (one),
    last bigint not null default 0
);
insert into job_numbers default values;

create table dead_letters (
    id bigint generated always as identity primary key,
    lane integer not null,
    position bigint not null,
    line bigint,
    key bytea,
    -- Null for a message without a value.
    payload bytea,
    reason text not null,
    detail text not null,
    job_id text collate "C",
    status text not null default 'open' check (status in ('open', 'replayed', 'discarded')),
    attempts integer not null default 0,
    created_at timestamptz not null default now(),
    resolved_at timestamptz,
    unique (lane, position)
);

create table corrections (
    id bigint generated always as identity primary key,
    pipeline text collate "C" not null,
    key text collate "C" not null,
    job_id text collate "C" not null,
    before jsonb not null,
    after jsonb not null,
    before_xid bigint not null,
    written_xid bigint not null,
    created_at timestamptz not null default now()
);
create index corrections_written_xid on corrections (written_xid);
create index corrections_key on corrections (pipeline, key);

-- Ends the session of a loader, if it is still in this transaction. Loaders are known by
-- the advisory lock that each of their sessions keeps; migrations and an operator's
-- sessions have none. A role may end its own sessions only, so it takes the owner's rights
-- to end one of another login.
create function end_loader(loader integer, in_transaction text) returns boolean
language sql security definer set search_path = pg_catalog, pg_temp as $$
    select pg_terminate_backend(pid, 1000) from pg_locks
    where locktype = 'advisory' and classid = 1818324322 and objid = 1 and objsubid = 2 and granted
      and database = (select oid from pg_database where datname = current_database())
      and pid = loader and virtualtransaction = in_transaction
$$;
revoke execute on function end_loader(integer, text) from public;
