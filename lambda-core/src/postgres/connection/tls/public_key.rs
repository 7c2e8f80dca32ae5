//! The public key of a certificate that is not verified itself.
//!
//! rustls reads only certificates of X.509 version 3. `openssl x509 -req` creates version
//! 1, which libpq accepts wherever it verifies nothing. The server's possession of the key
//! is verified in both cases: channel binding depends on it.

use rustls::DigitallySignedStruct;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::CertificateDer;

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;
const VERSION: u8 = 0xa0;

/// The fields between a certificate's version and its key: serial number, signature
/// algorithm, issuer, validity and subject.
const BEFORE_KEY: usize = 5;

/// Whether the key of `certificate` has signed `message`.
pub(super) fn has_signed(
    certificate: &CertificateDer<'_>,
    message: &[u8],
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> bool {
    let Some(key) = PublicKey::of(certificate) else { return false };
    let schemes = algorithms.mapping.iter().filter(|(scheme, _)| *scheme == signed.scheme);
    schemes.flat_map(|(_, candidates)| candidates.iter()).any(|candidate| {
        candidate.public_key_alg_id().as_ref() == key.algorithm
            && candidate.verify_signature(key.bits, message, signed.signature()).is_ok()
    })
}

/// A public key in DER, as in RFC 5280 (4.1).
#[derive(Debug, PartialEq, Eq)]
struct PublicKey<'a> {
    algorithm: &'a [u8],
    bits: &'a [u8],
}

impl<'a> PublicKey<'a> {
    /// Parses a certificate up to its key.
    fn of(certificate: &'a [u8]) -> Option<Self> {
        let (certificate, _) = element(SEQUENCE, certificate)?;
        let (mut fields, _) = element(SEQUENCE, certificate)?;
        if let Some((_, rest)) = element(VERSION, fields) {
            fields = rest;
        }
        for _ in 0..BEFORE_KEY {
            (_, fields) = element(*fields.first()?, fields)?;
        }
        let (key, _) = element(SEQUENCE, fields)?;
        let (algorithm, bits) = element(SEQUENCE, key)?;
        let (bits, _) = element(BIT_STRING, bits)?;
        // The first byte counts the unused bits of the last one.
        Some(Self { algorithm, bits: bits.strip_prefix(&[0])? })
    }
}

/// The value of the first element, if it has this tag, and the remaining bytes.
fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.strip_prefix(&[tag])?.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let value = parts.concat();
        let length = u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes();
        [&[tag, 0x82], &length[..], &value].concat()
    }

    fn certificate(version: &[u8]) -> Vec<u8> {
        let any = encoded(0x02, &[&[7; 300]]);
        let algorithm = encoded(SEQUENCE, &[b"algorithm"]);
        let key = encoded(SEQUENCE, &[&algorithm, &[BIT_STRING, 4, 0, 1, 2, 3]]);
        let before = any.repeat(BEFORE_KEY);
        let fields = encoded(SEQUENCE, &[version, &before, &key, b"extensions, of any form"]);
        encoded(SEQUENCE, &[&fields, b"and a signature"])
    }

    #[test]
    fn the_key_of_a_certificate_of_any_version_is_found() {
        let key = PublicKey { algorithm: b"algorithm", bits: &[1, 2, 3] };
        for version in [&b""[..], &[VERSION, 3, 2, 1, 2]] {
            assert_eq!(PublicKey::of(&certificate(version)).as_ref(), Some(&key));
        }
    }

    #[test]
    fn a_truncated_certificate_has_no_key() {
        let whole = certificate(b"");
        for length in 0..whole.len() {
            assert_eq!(PublicKey::of(&whole[..length]), None, "{length}");
        }
    }
}
