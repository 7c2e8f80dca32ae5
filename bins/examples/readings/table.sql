create schema ops;
create type ops.quality as enum ('good', 'suspect', 'bad');

create table ops.readings (
    device text,
    recorded_at timestamptz,
    site uuid not null,
    floor smallint,
    room integer,
    millidegrees integer not null,
    humidity numeric(5, 2),
    pressure double precision,
    co2 real,
    energy numeric,
    uptime bigint,
    charging boolean not null default false,
    quality ops.quality,
    firmware varchar(12),
    installed date,
    synced_at timestamp(3),
    reports_at time,
    raw bytea,
    labels text[],
    extra jsonb,
    primary key (device, recorded_at)
);
