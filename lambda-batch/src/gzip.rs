//! Reads gzip files: members one after the other, and zero bytes after the last one, as
//! tapes and block devices pad them. Refuses any other data there; `gzip` itself ignores it
//! with a warning, so it would be lost.

use std::io::{self, BufRead, Read};
use std::mem;

use flate2::bufread::GzDecoder;

/// Offset of a byte that belongs to no member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("other data at byte {at}")]
pub(crate) struct Garbage {
    pub(crate) at: u64,
}

/// Reads all members as one content.
#[derive(Debug)]
pub(crate) struct Members<R> {
    state: State<R>,
}

#[derive(Debug)]
enum State<R> {
    /// At a member's first byte, or after the last member.
    Between(Counted<R>),
    Inside(Box<GzDecoder<Counted<R>>>),
    /// At the end, or after a failed read.
    Done,
}

impl<R: BufRead> Members<R> {
    /// Reads `input`, which begins with a member.
    pub(crate) fn new(input: R) -> Self {
        Self { state: State::Between(Counted { input, at: 0 }) }
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            match mem::replace(&mut self.state, State::Done) {
                State::Done => return Ok(0),
                State::Between(mut input) => match input.fill_buf() {
                    Ok([]) => return Ok(0),
                    Ok([0, ..]) => return padding(&mut input).map(|()| 0),
                    Ok([0x1f, ..]) => self.state = State::Inside(Box::new(GzDecoder::new(input))),
                    Ok(_) => return Err(garbage(input.at)),
                    Err(error) => {
                        self.state = State::Between(input);
                        return Err(error);
                    }
                },
                State::Inside(mut member) => match member.read(into) {
                    Ok(0) => self.state = State::Between(member.into_inner()),
                    read => {
                        self.state = State::Inside(member);
                        return read;
                    }
                },
            }
        }
    }
}

/// Reads zeros up to the end.
fn padding<R: BufRead>(input: &mut Counted<R>) -> io::Result<()> {
    loop {
        let bytes = match input.fill_buf() {
            Ok([]) => return Ok(()),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let all = zeros == bytes.len();
        input.consume(zeros);
        if !all {
            return Err(garbage(input.at));
        }
    }
}

fn garbage(at: u64) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Garbage { at })
}

/// Counts what is taken from a reader.
#[derive(Debug)]
struct Counted<R> {
    input: R,
    at: u64,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(into)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.input.consume(count);
        self.at += count as u64;
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use std::io::{BufReader, Write as _};

    use super::*;

    fn member(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn all(bytes: &[u8], buffer: usize) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        Members::new(BufReader::with_capacity(buffer, bytes)).read_to_end(&mut all).map(|_| all)
    }

    #[test]
    fn zeros_after_the_last_member_are_padding() {
        let two = [member(b"one\n"), member(b""), member(b"two\n")].concat();
        for padding in [0, 1, 511, 70_000] {
            for buffer in [1, 7, 1 << 16] {
                let padded = [&two[..], &vec![0; padding]].concat();
                assert_eq!(all(&padded, buffer).unwrap(), b"one\ntwo\n", "{padding} zeros");
            }
        }
    }

    #[test]
    fn other_data_after_the_last_member_is_reported_with_its_byte() {
        let one = member(b"one\n");
        for (behind, first) in [(&b"x"[..], 0), (b"\0\0\0x", 3), (b"\0\x1f\x8b", 1)] {
            for buffer in [1, 1 << 16] {
                let error = all(&[&one, behind].concat(), buffer).unwrap_err();
                let garbage = error.get_ref().unwrap().downcast_ref::<Garbage>().unwrap();
                assert_eq!(garbage.at, one.len() as u64 + first);
            }
        }
    }
}
