//! Decoders around another one.

use std::fmt;

use crate::dead_letter::Reject;
use crate::decode::{Decode, Decoded, Message};
use crate::error::Error;
use crate::record::{RowWriter, Table};

/// The decoder of [`Decode::filter`].
pub struct Filter<D, F> {
    decoder: D,
    keeps: F,
}

impl<D, F> Filter<D, F> {
    pub(super) fn new(decoder: D, keeps: F) -> Self {
        Self { decoder, keeps }
    }
}

impl<D: Decode, F> Decode for Filter<D, F>
where
    F: Fn(&Message<'_>) -> bool + Send + Sync + 'static,
{
    fn format(&self) -> &str {
        self.decoder.format()
    }

    fn bind(&mut self, table: &Table) -> Result<(), Error> {
        self.decoder.bind(table)
    }

    fn decode(&self, message: &Message<'_>, row: &mut RowWriter<'_>) -> Result<Decoded, Reject> {
        if (self.keeps)(message) {
            self.decoder.decode(message, row)
        } else {
            Ok(Decoded::Skip("a filter does not keep it"))
        }
    }
}

impl<D: Decode, F> fmt::Debug for Filter<D, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Filter").field(&self.decoder.format()).finish()
    }
}

/// The decoder of [`Decode::map`].
pub struct Map<D, F> {
    format: String,
    decoder: D,
    change: F,
}

impl<D, F> Map<D, F> {
    pub(super) fn new(format: &str, decoder: D, change: F) -> Self {
        Self { format: format.to_owned(), decoder, change }
    }
}

impl<D: Decode, F> Decode for Map<D, F>
where
    F: Fn(&Message<'_>) -> Result<Vec<u8>, Reject> + Send + Sync + 'static,
{
    fn format(&self) -> &str {
        &self.format
    }

    fn bind(&mut self, table: &Table) -> Result<(), Error> {
        self.decoder.bind(table)
    }

    fn decode(&self, message: &Message<'_>, row: &mut RowWriter<'_>) -> Result<Decoded, Reject> {
        let payload = (self.change)(message)?;
        self.decoder.decode(&Message { payload: Some(&payload), ..*message }, row)
    }
}

impl<D: Decode, F> fmt::Debug for Map<D, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Map").field(&self.format).finish()
    }
}
