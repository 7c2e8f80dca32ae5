-- Transaction ids are stored in rows. A logical restore makes them meaningless in the new
-- cluster, so each is stored as its id there plus this offset. After a restore, which the
-- system identifier shows, lambda-db-setup raises the offset.
create table lambda.xid_offset (
    one boolean primary key default true check (one),
    value bigint not null default 0,
    system_identifier bigint not null
);
insert into lambda.xid_offset (system_identifier) select system_identifier from pg_control_system();

-- The current transaction's id, as rows store it. An adopted table has it as a default: its
-- application needs no right on the schema to insert rows.
create function lambda.current_id() returns bigint
language sql security definer
begin atomic
    select pg_current_xact_id()::text::bigint + value from lambda.xid_offset;
end;
grant execute on function lambda.current_id() to public;

-- Every pipeline and its table. Setup, restore, grants and checks go by this list.
create table lambda.pipelines (
    name text collate "C" primary key,
    -- As SQL writes it: schema and name, each quoted where needed.
    "table" text collate "C" not null unique,
    -- Precedes the names of the table's evidence columns.
    evidence_prefix text collate "C" not null default '',
    -- Columns with their types, and the key.
    definition jsonb not null,
    registered_at timestamptz not null default now()
);

-- One row a lane: a Kafka partition, or a chunk of a file.
create table lambda.ingest_progress (
    lane integer generated always as identity unique,
    pipeline text collate "C" not null,
    source text collate "C" not null,
    partition integer not null,
    -- How many partitions the topic had when this lane was first claimed.
    partitions integer,
    position bigint not null,
    end_position bigint,
    -- The largest position that a commit ever stored.
    high bigint not null default 0,
    -- Who holds the lane: the last claim written here.
    claim uuid,
    owner text,
    consumer_group text,
    claimed_at timestamptz,
    updated_at timestamptz not null default now(),
    -- The format of its records, which finds the decoder for a replay.
    format text,
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
    skipped bigint not null default 0,
    -- Wrapping sums of evidence.
    written bigint not null default 0,
    owned bigint not null default 0,
    displaced bigint not null default 0,
    -- The last record read, to notice a source that was swapped.
    last_position bigint,
    last_timestamp_ms bigint,
    last_checksum bigint,
    -- Hash of lane, position, high, counts, sums and last record; null before the first commit.
    hash bigint,
    primary key (pipeline, source, partition),
    check (position <= end_position),
    check (read = inserted + confirmed + corrected + superseded + duplicate + rejected + skipped)
) with (fillfactor = 50);
-- The lanes of streams: a few among those of every chunk that was ever loaded.
create index ingest_progress_streams on lambda.ingest_progress (pipeline, source, partition)
    where consumer_group is not null;

create table lambda.batch_jobs (
    id bigint generated always as identity primary key,
    job_id text collate "C" not null unique
        generated always as ('BAT' || lpad(id::text, greatest(5, length(id::text)), '0')) stored,
    pipeline text collate "C" not null,
    source text collate "C" not null,
    run_time timestamptz not null default now(),
    status text not null default 'pending' check (status in ('pending', 'running', 'completed', 'failed')),
    file_name text not null,
    header text not null,
    -- How the file's text is read, where that differs from the format's defaults.
    dialect jsonb not null default '{}',
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
    skipped bigint not null default 0,
    started_at timestamptz,
    finished_at timestamptz,
    error text,
    unique (pipeline, source),
    check (read = inserted + confirmed + corrected + superseded + duplicate + rejected + skipped)
);

-- The highest number that a job was ever given. A sequence would skip numbers: it is logged
-- 32 ahead, and a crash or a rollback takes nothing back. The highest number in batch_jobs
-- would be given again once its job is deleted.
create table lambda.job_numbers (
    one boolean primary key default true check (one),
    last bigint not null default 0
);
insert into lambda.job_numbers default values;

-- Rows that a job replaced. Their values are texts, from which a view reads the columns that
-- it uses: a JSON number loses -0, and the form of a time depends on the session.
create table lambda.corrections (
    id bigint generated always as identity primary key,
    pipeline text collate "C" not null,
    -- The key's values, in the order of the key.
    key jsonb not null,
    job_id text collate "C" not null,
    before jsonb not null,
    after jsonb not null,
    before_xid bigint not null,
    written_xid bigint not null,
    created_at timestamptz not null default now()
);
create index corrections_written_xid on lambda.corrections (written_xid);
create index corrections_key on lambda.corrections (pipeline, key);

-- Ends the session of a loader, if it is still in this transaction. Loaders are known by the
-- advisory lock that each of their sessions keeps; migrations and an operator's sessions have
-- none. A role may end its own sessions only, so it takes the owner's rights to end one of
-- another login.
create function lambda.end_loader(loader integer, in_transaction text) returns boolean
language sql security definer set search_path = pg_catalog, pg_temp
begin atomic
    select pg_terminate_backend(pid, 1000) from pg_locks
    where locktype = 'advisory' and classid = 1818324322 and objid = 1 and objsubid = 2 and granted
      and database = (select oid from pg_database where datname = current_database())
      and pid = loader and virtualtransaction = in_transaction;
end;
revoke execute on function lambda.end_loader(integer, text) from public;
