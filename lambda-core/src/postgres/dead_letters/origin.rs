//! Origins of dead letters: the precedence of their records, and the codec of their bytes.

use std::sync::Arc;

use crate::batch::{Batch, Body, Entry, Slice, Span};
use crate::dead_letter::Reject;
use crate::decode::csv::{CsvDecoder, Header};
use crate::decode::json;
use crate::error::Error;
use crate::job::JobRef;
use crate::outcome::Authority;
use crate::progress::{ClaimId, Progress};
use crate::record::{Record, Row};

/// Attributes shared by the lanes of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    /// The target table.
    pub(super) pipeline: String,
    /// The source's name, as lanes have it.
    pub(super) source: String,
    /// The job that reads it and the header line of its file; none for a stream.
    pub(super) file: Option<(JobRef, String)>,
}

/// A record to replay.
#[derive(Debug)]
pub(super) struct Undecoded<'a> {
    /// The lane in which it was read, with its present progress.
    pub(super) lane: &'a Progress,
    /// Its position in the lane.
    pub(super) position: i64,
    /// Its bytes.
    pub(super) payload: Option<&'a [u8]>,
    /// Reason to reject it, if that is known without decoding its bytes.
    pub(super) refused: Option<&'a Reject>,
}

impl Origin {
    /// Builds a batch of these records, with the authority that they had when they were
    /// read. Its spans move nothing, and it holds no payloads.
    pub(super) fn decode<R: Record>(&self, records: &[Undecoded<'_>]) -> Result<Batch, Error> {
        let mut decode = self.decoder::<R>()?;
        let (mut spans, mut entries, mut rows) = (Vec::<Span>::new(), Vec::new(), Vec::new());
        for record in records {
            let lane = record.lane;
            let known = spans.iter().position(|span| span.lane == lane.lane);
            let span = known.unwrap_or_else(|| {
                spans.push(Span {
                    lane: lane.lane,
                    partition: lane.name.partition,
                    claim: lane.claim.unwrap_or_else(ClaimId::random),
                    from: lane.position,
                    to: lane.position,
                    last: None,
                });
                spans.len() - 1
            });
            let decoded = match record.refused {
                Some(reject) => Err(reject.clone()),
                None => decode(record.payload, &mut rows),
            };
            let body = match decoded {
                Ok(row) => Body::Row { content: Slice::new(row.content), key: Slice::new(row.key) },
                Err(reject) => Body::Rejected(Box::new(reject)),
            };
            let (span, position) = (span as u32, record.position);
            let payload = Slice::new(0..0);
            entries.push(Entry { span, position, line: None, payload, message_key: None, body });
        }
        let authority =
            self.file.as_ref().map_or(Authority::Stream, |(job, _)| Authority::Batch(*job));
        let table = const { &R::TABLE };
        Ok(Batch::new(authority, table, spans, entries, Arc::default(), Arc::new(rows)))
    }

    fn decoder<R: Record>(&self) -> Result<Box<Decoder>, Error> {
        let Some((_, header)) = &self.file else { return Ok(Box::new(json::decode::<R>)) };
        let header = Header::parse(header.as_bytes(), const { &R::TABLE })?;
        let mut decoder = CsvDecoder::<R>::new(header);
        Ok(Box::new(move |payload, rows| decoder.decode(payload.unwrap_or_default(), rows)))
    }
}

type Decoder = dyn FnMut(Option<&[u8]>, &mut Vec<u8>) -> Result<Row, Reject> + Send;
