//! Certificates for a test's own servers, by its own authority.

use std::fmt;

use pem::Pem;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

use crate::Failure;

/// An authority that no other program trusts.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A server's certificate and its key, as PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The key, in PKCS #8.
    pub key: String,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

impl Authority {
    /// Creates an authority.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new() -> Result<Self, Failure> {
        let mut params = CertificateParams::new(Vec::new())?;
        // OpenSSL takes a certificate whose issuer has the same name for self-signed.
        params.distinguished_name.push(DnType::CommonName, "an authority of the tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? })
    }

    /// Its own certificate, as PEM.
    pub fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for a host's name.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn issue(&self, host: &str) -> Result<Identity, Failure> {
        self.sign(&CertificateParams::new(vec![host.to_owned()])?)
    }

    /// A certificate for a host's name that was valid for the year 2020.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn issue_expired(&self, host: &str) -> Result<Identity, Failure> {
        let mut params = CertificateParams::new(vec![host.to_owned()])?;
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2020, 12, 31);
        self.sign(&params)
    }

    /// A certificate of X.509 version 1, as from `openssl x509 -req`: without extensions. Its
    /// signature is wrong: a client that checks it refuses the certificate.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn issue_version_1(&self, host: &str) -> Result<Identity, Failure> {
        let key = KeyPair::generate()?;
        let issued =
            CertificateParams::new(vec![host.to_owned()])?.signed_by(&key, &self.issuer)?;
        let old = without_extensions(issued.der()).ok_or("rcgen made no certificate")?;
        Ok(Identity {
            certificate: pem::encode(&Pem::new("CERTIFICATE", old)),
            key: key.serialize_pem(),
        })
    }

    fn sign(&self, params: &CertificateParams) -> Result<Identity, Failure> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Identity { certificate, key: key.serialize_pem() })
    }
}

/// A certificate without its version and its extensions, the first and the last of its
/// fields (RFC 5280, 4.1).
fn without_extensions(certificate: &[u8]) -> Option<Vec<u8>> {
    let (certificate, _) = split(certificate)?;
    let (mut fields, after) = split(certificate.value)?;
    let mut kept = Vec::new();
    while let Some((field, rest)) = split(fields.value) {
        if ![0xa0, 0xa3].contains(&field.whole[0]) {
            kept.extend_from_slice(field.whole);
        }
        fields.value = rest;
    }
    Some(sequence(&[&sequence(&[&kept]), after]))
}

/// An element of DER.
struct Element<'a> {
    whole: &'a [u8],
    value: &'a [u8],
}

/// The first element, and what comes after it.
fn split(der: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let first = *der.get(1)?;
    let long = if first < 0x80 { 0 } else { usize::from(first & 0x7f) };
    let length = match long {
        0 => usize::from(first),
        _ => der.get(2..2 + long)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)),
    };
    let (whole, rest) = der.split_at_checked(2 + long + length)?;
    Some((Element { whole, value: &whole[2 + long..] }, rest))
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    let value = parts.concat();
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes();
    // Shortest form, as DER requires, for lengths up to that of a certificate.
    let head = match value.len() {
        ..0x80 => vec![0x30, length[1]],
        0x80..0x100 => vec![0x30, 0x81, length[1]],
        _ => vec![0x30, 0x82, length[0], length[1]],
    };
    [head, value].concat()
}
