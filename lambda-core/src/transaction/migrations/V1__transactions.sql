create table public.transactions (
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
    written_xid bigint not null,
    check ((job_id is null) = (ingestion_type = 'STREAM'))
    -- Room for confirmations on the row's own page, and none for new rows among old ones:
    -- the rows of a time stay together, as BRIN needs them.
) with (fillfactor = 90);
-- A second btree would cost a factor of 3.8 on the write path; BRIN costs nothing
-- measurable. The refresh of the views summarizes it: the server's own queue for that loses
-- requests.
create index transactions_event_time on public.transactions
    using brin (event_time) with (pages_per_range = 16);
create index transactions_written_xid on public.transactions
    using brin (written_xid) with (pages_per_range = 16);

-- The jobs, under the name that they always had.
create view public.batch_jobs as
select
    id, job_id, pipeline, source, run_time, status, file_name, header, dialect, bytes, records,
    chunks, as_of, attempt, owner, lease_until, read, inserted, confirmed, corrected,
    superseded, duplicate, rejected, skipped, started_at, finished_at, error
from lambda.batch_jobs;
