-- What an operator does with dead letters: the open ones are found without reading the
-- others, the payload that was replayed instead of the one read is kept beside it, and
-- payloads have an age limit.
alter table lambda.dead_letters
    add column edited_payload bytea,
    add column purged_at timestamptz;
create index dead_letters_open on lambda.dead_letters (id) where status = 'open';
