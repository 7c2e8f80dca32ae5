//! Origins of dead letters: the precedence of their records, and the decoder of their bytes.

use std::sync::Arc;

use crate::batch::{Batch, Body, Entry, Slice, Span};
use crate::dead_letter::Reject;
use crate::decode::Decode;
use crate::error::Error;
use crate::header::{Header, HeaderBuf};
use crate::job::JobRef;
use crate::outcome::Authority;
use crate::pipeline::Pipeline;
use crate::postgres::dead_letters::taken::Payload;
use crate::progress::{ClaimId, Progress};
use crate::record::Scratch;

/// Attributes shared by the lanes of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    /// The pipeline's name.
    pub(super) pipeline: String,
    /// The source's name, as lanes have it.
    pub(super) source: String,
    /// The format of its records; unknown for lanes that no claim or job created.
    pub(super) format: Option<String>,
    /// The file; none for a stream.
    pub(super) file: Option<OriginFile>,
}

/// A file, as its job has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OriginFile {
    /// The job that reads it.
    pub(super) job: JobRef,
    /// The header line.
    pub(super) header: String,
    /// The dialect of its rows, as JSON.
    pub(super) dialect: String,
}

/// A record to replay.
#[derive(Debug)]
pub(super) struct Undecoded<'a> {
    /// The lane in which it was read, with its present progress.
    pub(super) lane: &'a Progress,
    /// Its position in the lane.
    pub(super) position: i64,
    /// What its decoder saw.
    pub(super) read: &'a Payload,
    /// The payload that it sees instead, if there is one.
    pub(super) edited: Option<&'a [u8]>,
    /// Reason to reject it, if that is known without decoding its bytes.
    pub(super) refused: Option<&'a Reject>,
}

impl Origin {
    /// Builds a batch of these records, with the authority that they had when they were
    /// read. Its spans move nothing, and it holds no payloads.
    pub(super) fn decode(
        &self,
        pipeline: &Pipeline,
        records: &[Undecoded<'_>],
    ) -> Result<Batch, Error> {
        let decoder = self.decoder(pipeline)?;
        let mut scratch = Scratch::default();
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
            let body = if let Some(reject) = record.refused {
                Body::Rejected(Box::new(reject.clone()))
            } else {
                let headers = record.read.headers()?;
                let headers: Vec<Header<'_>> = headers.iter().map(HeaderBuf::as_header).collect();
                let message = record.read.message(&headers, record.edited);
                Body::decode(&*decoder, pipeline.table(), &message, &mut rows, &mut scratch)
            };
            let (span, position) = (span as u32, record.position);
            let payload = Slice::new(0..0);
            entries.push(Entry::new(span, position, payload, body));
        }
        let authority =
            self.file.as_ref().map_or(Authority::Stream, |file| Authority::Batch(file.job));
        Ok(Batch::new(authority, spans, entries, Arc::default(), Arc::new(rows)))
    }

    /// The decoder of the format that the lanes had.
    fn decoder(&self, pipeline: &Pipeline) -> Result<Arc<dyn Decode>, Error> {
        if let Some(OriginFile { header, dialect, .. }) = &self.file {
            let files = pipeline.files().clone().in_dialect(dialect)?;
            return Ok(Arc::new(files.open(header.as_bytes(), pipeline.table())?));
        }
        let decoder = pipeline.decoder();
        match &self.format {
            Some(format) if format != decoder.format() => Err(Error::misconfigured(
                format!(
                    "messages of {} have the format {format}, and this program decodes {}",
                    self.source,
                    decoder.format()
                ),
                "replay them with the program that reads the topic",
            )),
            _ => Ok(Arc::clone(decoder)),
        }
    }
}
