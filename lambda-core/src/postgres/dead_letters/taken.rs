//! The rows of dead letters that one transaction replays: read, locked, and marked.

use std::collections::HashMap;

use tokio_postgres::Row;

use crate::dead_letter::Status;
use crate::decode::Message;
use crate::error::{Error, Server};
use crate::header::{Header, HeaderBuf};
use crate::postgres::commit::lanes;
use crate::postgres::commit::session::Session;
use crate::postgres::dead_letters::{Skip, headers, owning};
use crate::progress::LaneId;
use crate::resolve::Resolution;

/// A dead letter, locked.
#[derive(Debug)]
pub(super) struct Locked {
    pub(super) id: i64,
    pub(super) lane: LaneId,
    pub(super) position: i64,
    pub(super) status: Status,
    pub(super) purged: bool,
    pub(super) version: String,
}

/// What a dead letter's decoder saw, with the version of its row.
#[derive(Debug)]
pub(super) struct Payload {
    pub(super) bytes: Option<Vec<u8>>,
    pub(super) version: String,
    key: Option<Vec<u8>>,
    timestamp_ms: Option<i64>,
    line: Option<i64>,
    /// Its headers, as stored.
    headers: Option<String>,
}

impl Payload {
    /// Its headers, for [`Payload::message`].
    pub(super) fn headers(&self) -> Result<Vec<HeaderBuf>, Error> {
        self.headers.as_deref().map_or_else(|| Ok(Vec::new()), headers)
    }

    /// The message with its own payload, or with the `edited` one.
    pub(super) fn message<'a>(
        &'a self,
        headers: &'a [Header<'a>],
        edited: Option<&'a [u8]>,
    ) -> Message<'a> {
        let message = Message {
            key: self.key.as_deref(),
            timestamp_ms: self.timestamp_ms,
            headers,
            ..Message::of(edited.or(self.bytes.as_deref()))
        };
        match self.line {
            Some(line) => message.on_line(line.cast_unsigned()),
            None => message,
        }
    }
}

impl Locked {
    /// Reason to skip it, if any; a payload may be `given`.
    pub(super) fn skip(&self, given: bool) -> Option<Skip> {
        if self.status != Status::Open {
            return Some(Skip::Resolved(self.status));
        }
        (self.purged && !given).then_some(Skip::Purged)
    }

    /// The error for a row that has changed since it was read.
    pub(super) fn changed(&self) -> Error {
        Error::Temporary {
            server: Server::Postgres,
            what: "replay dead letters in PostgreSQL",
            remedy: "another replay or purge is running: let it finish",
            source: format!("dead letter {} changed in the meantime", self.id).into(),
        }
    }
}

/// Reads the payloads of dead letters, by number.
pub(super) async fn payloads(
    session: &Session,
    ids: &[i64],
) -> Result<HashMap<i64, Payload>, tokio_postgres::Error> {
    let sql = "\
        select id, coalesce(edited_payload, payload) as payload, xmin::text as version, key, \
               headers::text as headers, \
               (extract(epoch from message_time) * 1000)::bigint as timestamp_ms, line \
        from lambda.dead_letters where id = any($1)";
    let rows = session.connection().query(sql, &[&ids]).await?;
    let payload = |row: &Row| {
        let payload = Payload {
            bytes: row.try_get("payload")?,
            version: row.try_get("version")?,
            key: row.try_get("key")?,
            timestamp_ms: row.try_get("timestamp_ms")?,
            line: row.try_get("line")?,
            headers: row.try_get("headers")?,
        };
        Ok((row.try_get("id")?, payload))
    };
    rows.iter().map(payload).collect()
}

/// Locks dead letters by number. Returns them in the order of `ids`, without payloads:
/// locks must not wait for a client that reads those.
pub(super) async fn lock(
    session: &Session,
    ids: &[i64],
) -> Result<Vec<Locked>, tokio_postgres::Error> {
    let sql = "\
        select id, lane, position, status, xmin::text as version, \
               purged_at is not null and coalesce(edited_payload, payload) is null as purged \
        from lambda.dead_letters where id = any($1) order by id for update";
    let mut found = HashMap::with_capacity(ids.len());
    for row in session.connection().query(sql, &[&ids]).await? {
        let status: String = row.try_get("status")?;
        let letter = Locked {
            id: row.try_get("id")?,
            lane: LaneId(row.try_get("lane")?),
            position: row.try_get("position")?,
            // The column's check admits no other names.
            status: Status::parse(&status).unwrap_or(Status::Open),
            purged: row.try_get("purged")?,
            version: row.try_get("version")?,
        };
        found.insert(letter.id, letter);
    }
    Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
}

/// Stores the results, one for each entry. Replayed dead letters keep their reason. One
/// that is given a payload counts as not purged. Returns the new versions of their rows.
pub(super) async fn mark(
    session: &Session,
    ids: &[i64],
    resolution: &Resolution,
    edited: Option<&[u8]>,
) -> Result<HashMap<i64, String>, Error> {
    let sql = "\
        update lambda.dead_letters d \
        set attempts = d.attempts + 1, edited_payload = coalesce($4, d.edited_payload), \
            purged_at = case when $4::bytea is null then d.purged_at end, \
            status = case when n.reason is null then 'replayed' else 'open' end, \
            resolved_at = case when n.reason is null then now() end, \
            field = case when n.reason is null then d.field else n.field end, \
            reason = coalesce(n.reason, d.reason), detail = coalesce(n.detail, d.detail) \
        from unnest($1::int8[], $2::text[], $3::text[], $5::text[]) as n(id, reason, detail, field) \
        where d.id = n.id returning d.id, d.xmin::text";
    let [mut reasons, mut details, mut fields] = [(); 3].map(|()| vec![None; ids.len()]);
    for (index, reject) in &resolution.dead_letters {
        reasons[*index] = Some(reject.reason.as_str());
        details[*index] = Some(reject.detail.as_str());
        fields[*index] = reject.field.as_deref();
    }
    let marked =
        session.connection().query(sql, &[&ids, &reasons, &details, &edited, &fields]).await;
    let marked = marked.map_err(owning)?;
    lanes::expect_rows("marked in dead_letters", marked.len() as u64, ids.len())?;
    let version = |row: &Row| Ok((row.try_get(0)?, row.try_get(1)?));
    marked.iter().map(version).collect::<Result<_, _>>().map_err(owning)
}
