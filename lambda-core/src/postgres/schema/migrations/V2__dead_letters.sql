create table lambda.dead_letters (
    id bigint generated always as identity primary key,
    lane integer not null,
    position bigint not null,
    line bigint,
    key bytea,
    -- Null for a message without a value.
    payload bytea,
    -- Pairs of a name and its value in base64, or null.
    headers jsonb,
    message_time timestamptz,
    -- The field that is wrong, where it is one.
    field text,
    reason text not null,
    detail text not null,
    job_id text collate "C",
    status text not null default 'open' check (status in ('open', 'replayed', 'discarded')),
    attempts integer not null default 0,
    created_at timestamptz not null default now(),
    resolved_at timestamptz,
    unique (lane, position)
);
