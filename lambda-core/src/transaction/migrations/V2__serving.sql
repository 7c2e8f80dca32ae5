-- The serving layer: views are sums, every change is a delta that carries the
-- transaction that made it, and a stored snapshot says which were seen.
-- Batch view + real-time view + what neither has seen = exact at any moment.

-- The snapshot up to which the two stored views have seen, and the first day
-- that views show.
create table lambda.serving (
    one boolean primary key default true check (one),
    upto bigint not null default 0,
    inflight bigint[] not null default '{}',
    horizon date not null default '-infinity'
);
insert into lambda.serving default values;

create table public.account_activity_batch (
    account_id text collate "C" not null,
    day date not null,
    transactions bigint not null,
    amount numeric not null,
    purchases bigint not null,
    withdrawals bigint not null,
    transfers bigint not null,
    refunds bigint not null,
    deposits bigint not null,
    purchase_amount numeric not null,
    withdrawal_amount numeric not null,
    transfer_amount numeric not null,
    refund_amount numeric not null,
    deposit_amount numeric not null,
    card_present bigint not null,
    risk_score numeric not null,
    high_risk bigint not null,
    primary key (account_id, day)
);
create index account_activity_batch_day on public.account_activity_batch (day);
create table public.account_activity_realtime (like public.account_activity_batch including all);

-- What one row adds to the views, times sign. High risk is a score of 0.7 and more.
create function lambda.account_activity_of(t public.transactions, sign integer) returns public.account_activity_batch
language sql immutable as $$
    select
        t.account_id,
        (t.event_time at time zone 'UTC')::date,
        sign::bigint,
        sign * t.amount,
        sign * (t.transaction_type = 'purchase')::integer::bigint,
        sign * (t.transaction_type = 'withdrawal')::integer::bigint,
        sign * (t.transaction_type = 'transfer')::integer::bigint,
        sign * (t.transaction_type = 'refund')::integer::bigint,
        sign * (t.transaction_type = 'deposit')::integer::bigint,
        case t.transaction_type when 'purchase' then sign * t.amount else 0 end,
        case t.transaction_type when 'withdrawal' then sign * t.amount else 0 end,
        case t.transaction_type when 'transfer' then sign * t.amount else 0 end,
        case t.transaction_type when 'refund' then sign * t.amount else 0 end,
        case t.transaction_type when 'deposit' then sign * t.amount else 0 end,
        sign * coalesce(t.card_present, false)::integer::bigint,
        sign * coalesce(t.risk_score, 0),
        sign * (coalesce(t.risk_score, 0) >= 0.7)::integer::bigint
$$;

create function lambda.unseen(xid bigint, upto bigint, inflight bigint[]) returns boolean
language sql immutable as 'select xid >= upto or xid = any(inflight)';

-- The deltas that a stored snapshot had not seen: rows inserted since, and
-- corrections of rows that it had seen. STABLE, so that it is inlined and reads
-- with the snapshot of the statement that calls it. The ranges are what the
-- BRIN indexes can use.
create function lambda.account_activity_changes(upto bigint, inflight bigint[])
returns setof public.account_activity_batch
language sql stable as $$
    select (lambda.account_activity_of(t, 1)).*
    from public.transactions t
    where t.written_xid between coalesce(inflight[1], upto) and coalesce(inflight[1], upto) + 4611686018427387904
      and lambda.unseen(t.written_xid, upto, inflight)
    union all
    select (lambda.account_activity_of(jsonb_populate_record(null::public.transactions, c.before), -1)).*
    from lambda.corrections c
    where c.written_xid between coalesce(inflight[1], upto) and coalesce(inflight[1], upto) + 4611686018427387904
      and lambda.unseen(c.written_xid, upto, inflight)
      and not lambda.unseen(c.before_xid, upto, inflight) and c.pipeline = 'transactions'
    union all
    select (lambda.account_activity_of(jsonb_populate_record(null::public.transactions, c.after), 1)).*
    from lambda.corrections c
    where c.written_xid between coalesce(inflight[1], upto) and coalesce(inflight[1], upto) + 4611686018427387904
      and lambda.unseen(c.written_xid, upto, inflight)
      and not lambda.unseen(c.before_xid, upto, inflight) and c.pipeline = 'transactions'
$$;

create view public.account_activity as
select
    account_id,
    day,
    sum(transactions)::bigint as transactions,
    sum(amount) as amount,
    sum(purchases)::bigint as purchases,
    sum(withdrawals)::bigint as withdrawals,
    sum(transfers)::bigint as transfers,
    sum(refunds)::bigint as refunds,
    sum(deposits)::bigint as deposits,
    sum(purchase_amount) as purchase_amount,
    sum(withdrawal_amount) as withdrawal_amount,
    sum(transfer_amount) as transfer_amount,
    sum(refund_amount) as refund_amount,
    sum(deposit_amount) as deposit_amount,
    sum(card_present)::bigint as card_present,
    sum(risk_score) as risk_score,
    sum(high_risk)::bigint as high_risk
from (
    table public.account_activity_batch
    union all
    table public.account_activity_realtime
    union all
    select c.*
    from (select * from lambda.serving limit 1) s, lambda.account_activity_changes(s.upto, s.inflight) c
) deltas
where day >= (select horizon from lambda.serving)
group by account_id, day
having sum(transactions) <> 0;
