//! Files of generated transactions, as `lambda-lab generate` writes them.

use std::io::{self, Write};

use lambda_core::transaction::CSV_HEADER;
use lambda_core::transaction::synthetic::{Expectation, Format, Options, Synthetic};

/// Number of lines written of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// New and valid ones.
    pub valid: u64,
    /// Repetitions of valid ones, byte for byte.
    pub duplicate: u64,
    /// Lines that must be rejected.
    pub invalid: u64,
}

/// Writes `rows` lines of the traffic of `seed` to `out`, in bounded memory; a CSV file
/// begins with the header line.
///
/// # Errors
/// Errors of writing.
pub fn generate(
    seed: u64,
    rows: u64,
    options: Options,
    format: Format,
    out: &mut dyn Write,
) -> io::Result<Counts> {
    let mut traffic = Synthetic::new(seed).with(options);
    let mut counts = Counts::default();
    if format == Format::Csv {
        out.write_all(CSV_HEADER.as_bytes())?;
        out.write_all(b"\n")?;
    }
    for _ in 0..rows {
        let mut line = traffic.line(format);
        line.payload.push(b'\n');
        out.write_all(&line.payload)?;
        match line.expectation {
            Expectation::Valid => counts.valid += 1,
            Expectation::Duplicate => counts.duplicate += 1,
            Expectation::Invalid => counts.invalid += 1,
        }
    }
    out.flush()?;
    Ok(counts)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    #[test]
    fn a_seed_gives_one_file_whose_lines_are_as_counted() {
        let options = Options { accounts: 10, duplicate_ratio: 0.1, invalid_ratio: 0.1 };
        for (format, header_lines) in [(Format::Json, 0), (Format::Csv, 1)] {
            let write = |seed| {
                let mut file = Vec::new();
                let counts = generate(seed, 1000, options, format, &mut file).unwrap();
                (counts, file)
            };
            let (counts, file) = write(7);
            assert_eq!(counts.valid + counts.duplicate + counts.invalid, 1000);
            assert!(counts.duplicate > 50 && counts.invalid > 50, "{counts:?}");
            let lines = file.split_inclusive(|byte| *byte == b'\n').count();
            assert_eq!(lines, 1000 + header_lines);
            assert_eq!((counts, &file), (write(7).0, &write(7).1));
            assert_ne!(file, write(8).1);
        }
    }
}
