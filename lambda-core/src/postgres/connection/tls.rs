//! TLS to PostgreSQL, with libpq's meanings of `sslmode` and `sslrootcert`.

mod public_key;

use std::error::Error as _;
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{
    WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::Error;

/// Value for the root certificates that this machine trusts, in place of a file's name.
const SYSTEM: &str = "system";

/// Error of tokio-postgres about a server without TLS.
const NOT_OFFERED: &str = "server does not support TLS";

/// Whether a connection is encrypted, and how the server is verified.
///
/// ```
/// use lambda_core::postgres::SslMode;
///
/// let mode: SslMode = "verify-full".parse()?;
/// assert_eq!(mode, SslMode::VerifyFull);
/// # Ok::<(), lambda_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SslMode {
    /// Never encrypted.
    Disable,
    /// Encrypted if the server supports it. Nothing is verified: this protects from
    /// eavesdropping, but not from an attacker in between.
    #[default]
    Prefer,
    /// Encrypted. With root certificates as [`SslMode::VerifyCa`], like libpq; without any,
    /// nothing is verified.
    Require,
    /// Encrypted; a trusted certificate authority has signed the server's certificate.
    VerifyCa,
    /// The same, and the certificate is for the host of the connection.
    VerifyFull,
}

impl FromStr for SslMode {
    type Err = Error;

    /// Parses libpq's names. `allow` is read as `prefer`, which encrypts no less; an empty
    /// text is the default.
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "disable" => Ok(Self::Disable),
            "" | "prefer" | "allow" => Ok(Self::Prefer),
            "require" => Ok(Self::Require),
            "verify-ca" => Ok(Self::VerifyCa),
            "verify-full" => Ok(Self::VerifyFull),
            _ => Err(Error::misconfigured(
                "unknown sslmode",
                "set it to disable, prefer, require, verify-ca or verify-full",
            )),
        }
    }
}

impl fmt::Display for SslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        })
    }
}

/// TLS settings of a database.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsSettings {
    /// Verification of the server.
    pub mode: SslMode,
    /// The PEM file of trusted certificate authorities, or `system`, for `verify-full`
    /// only, which uses the system's also when this is `None`.
    pub root_cert: Option<String>,
}

/// TLS settings with their connector. The file of authorities is read once: a changed one
/// takes effect at the next start.
#[derive(Clone)]
pub(crate) struct Tls {
    settings: TlsSettings,
    connector: MakeRustlsConnect,
}

impl Tls {
    /// # Errors
    /// [`Error::Misconfigured`]: a file of authorities that is unreadable or empty, none on
    /// this machine, or one that the mode would not use.
    pub(crate) fn new(settings: &TlsSettings) -> Result<Self, Error> {
        let named = settings.root_cert.as_deref().filter(|name| !name.is_empty());
        let verifier = match (settings.mode, named) {
            (SslMode::Prefer, Some(_)) => {
                return Err(Error::misconfigured(
                    "DB_SSLROOTCERT is set, and DB_SSLMODE=prefer verifies nothing",
                    "set DB_SSLMODE to verify-full, or leave DB_SSLROOTCERT out",
                ));
            }
            // The holder of a certificate for any host could pose as the server.
            (SslMode::VerifyCa, None) | (SslMode::VerifyCa | SslMode::Require, Some(SYSTEM)) => {
                return Err(Error::misconfigured(
                    format!(
                        "sslmode {} does not verify the host name, and this machine trusts authorities \
                         that sign for anyone",
                        settings.mode
                    ),
                    "set DB_SSLMODE to verify-full, or DB_SSLROOTCERT to your own authority",
                ));
            }
            (SslMode::VerifyFull, _) => Verifier::Named(roots(named)?),
            (SslMode::VerifyCa, _) | (SslMode::Require, Some(_)) => {
                Verifier::Unnamed(Some(roots(named)?))
            }
            (SslMode::Disable | SslMode::Prefer | SslMode::Require, _) => Verifier::Unnamed(None),
        };
        Ok(Self { settings: settings.clone(), connector: connector(verifier) })
    }

    /// The connector for a connection.
    pub(crate) fn connector(&self) -> MakeRustlsConnect {
        self.connector.clone()
    }

    /// The mode as tokio-postgres knows it.
    pub(crate) fn mode(&self) -> tokio_postgres::config::SslMode {
        match self.settings.mode {
            SslMode::Disable => tokio_postgres::config::SslMode::Disable,
            SslMode::Prefer => tokio_postgres::config::SslMode::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => {
                tokio_postgres::config::SslMode::Require
            }
        }
    }

    /// Converts an error between TLS and `server` that a person has to fix. A handshake
    /// that broke off is not one: the server or the network went away.
    pub(crate) fn refusal(&self, error: &tokio_postgres::Error, server: &str) -> Option<Error> {
        let cause = error.source()?;
        if cause.to_string() == NOT_OFFERED {
            return Some(Error::misconfigured(
                format!("{server} offers no TLS, which sslmode {} requires", self.settings.mode),
                "set ssl = on at the server, or DB_SSLMODE=disable on a network you trust",
            ));
        }
        let inner = cause.downcast_ref::<io::Error>()?.get_ref()?;
        let (what, remedy) = match inner.downcast_ref::<rustls::Error>()? {
            rustls::Error::InvalidCertificate(error) => self.of_certificate(error, server),
            rustls::Error::PeerIncompatible(_) | rustls::Error::AlertReceived(_) => (
                format!("{server} and this program do not agree on TLS"),
                "let the server accept TLS 1.2 or 1.3, use a key of RSA (2048 bits or more), P-256, \
                 P-384 or Ed25519, and require no client certificate",
            ),
            _ => return None,
        };
        let source = Some(inner.to_string().into());
        Some(Error::Misconfigured { what, remedy: remedy.into(), source })
    }

    fn of_certificate(&self, error: &CertificateError, server: &str) -> (String, &'static str) {
        use CertificateError as Refused;
        match error {
            Refused::UnknownIssuer | Refused::BadSignature => {
                let file = self.settings.root_cert.as_deref().filter(|name| *name != SYSTEM);
                let roots = file.map_or_else(
                    || "an authority that this machine trusts".to_owned(),
                    |file| format!("an authority in {file}"),
                );
                (
                    format!("the certificate of {server} is not signed by {roots}"),
                    "set DB_SSLROOTCERT to the certificate of the authority that signed it",
                )
            }
            Refused::NotValidForName | Refused::NotValidForNameContext { .. } => (
                format!("the certificate of {server} is for another host"),
                "set DB_HOST to a name in its subjectAltName, or issue it for this one",
            ),
            Refused::Expired | Refused::ExpiredContext { .. } => (
                format!("the certificate of {server} has expired"),
                "renew the server's certificate, or correct this machine's clock",
            ),
            Refused::NotValidYet | Refused::NotValidYetContext { .. } => (
                format!("the certificate of {server} is not valid yet"),
                "correct this machine's clock, or renew the server's certificate",
            ),
            _ => (
                format!("the certificate of {server} is refused"),
                "issue the server a certificate of version 3 that is not an authority itself",
            ),
        }
    }
}

impl Default for Tls {
    fn default() -> Self {
        let connector = connector(Verifier::Unnamed(None));
        Self { settings: TlsSettings::default(), connector }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

/// Verification of a server.
enum Verifier {
    /// By an authority and the host name, as rustls does.
    Named(RootCertStore),
    /// See [`Unnamed`].
    Unnamed(Option<RootCertStore>),
}

fn connector(verifier: Verifier) -> MakeRustlsConnect {
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has cipher suites for TLS 1.2 and 1.3");
    let builder = match verifier {
        Verifier::Named(roots) => builder.with_root_certificates(roots),
        Verifier::Unnamed(roots) => {
            let verifier = Arc::new(Unnamed { roots, algorithms });
            builder.dangerous().with_custom_certificate_verifier(verifier)
        }
    };
    let mut config = builder.with_no_client_auth();
    // `sslnegotiation=direct` requires this; libpq always sends it.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    MakeRustlsConnect::new(config)
}

/// The authorities in a file, or those that this machine trusts.
fn roots(named: Option<&str>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    let Some(file) = named.filter(|name| *name != SYSTEM) else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(Error::misconfigured(
                "this machine trusts no authority",
                "install ca-certificates, or set DB_SSLROOTCERT to a PEM file",
            ));
        }
        return Ok(roots);
    };
    let unusable = |what: &str, source: Option<crate::error::Source>| Error::Misconfigured {
        what: format!("{what} {file}, the file of trusted authorities"),
        remedy: "set DB_SSLROOTCERT to a PEM file of certificates".into(),
        source,
    };
    let bytes =
        std::fs::read(file).map_err(|error| unusable("could not read", Some(Box::new(error))))?;
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate =
            certificate.map_err(|error| unusable("could not decode", Some(Box::new(error))))?;
        let added = roots.add(certificate);
        added.map_err(|error| unusable("could not use a certificate of", Some(Box::new(error))))?;
    }
    if roots.is_empty() {
        return Err(unusable("no certificate is in", None));
    }
    Ok(roots)
}

/// Ignores the server's name: its certificate must lead to one of the roots or, without
/// roots, may be any. The server's possession of the key is verified in both cases.
#[derive(Debug)]
struct Unnamed {
    roots: Option<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Unnamed {
    /// Returns `verified`. Where only the certificate's key counts and rustls cannot read
    /// the rest, checks whether that key has signed the message.
    fn or_by_key(
        &self,
        verified: Result<HandshakeSignatureValid, rustls::Error>,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match verified {
            Err(rustls::Error::InvalidCertificate(_))
                if self.roots.is_none()
                    && public_key::has_signed(certificate, message, signed, &self.algorithms) =>
            {
                Ok(HandshakeSignatureValid::assertion())
            }
            verified => verified,
        }
    }
}

impl ServerCertVerifier for Unnamed {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(end_entity)?,
                roots,
                intermediates,
                now,
                self.algorithms.all,
            )?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let verified = verify_tls12_signature(message, certificate, signed, &self.algorithms);
        self.or_by_key(verified, message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let verified = verify_tls13_signature(message, certificate, signed, &self.algorithms);
        self.or_by_key(verified, message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    fn made(mode: SslMode, root_cert: Option<&str>) -> Result<Tls, Error> {
        Tls::new(&TlsSettings { mode, root_cert: root_cert.map(str::to_owned) })
    }

    fn refused(mode: SslMode, root_cert: &str) -> String {
        let error = made(mode, Some(root_cert)).err().unwrap();
        assert_eq!(error.exit_code(), 78);
        error.chain()
    }

    #[test]
    fn a_mode_that_does_not_verify_the_name_may_not_trust_the_systems_authorities() {
        const REFUSAL: &str = "does not verify the host name";
        for (mode, root_cert) in [
            (SslMode::VerifyCa, None),
            (SslMode::VerifyCa, Some("")),
            (SslMode::VerifyCa, Some("system")),
            (SslMode::Require, Some("system")),
        ] {
            let error = made(mode, root_cert).err().unwrap();
            assert_eq!(error.exit_code(), 78, "{mode} {root_cert:?}");
            let says = error.chain();
            assert!(says.contains(REFUSAL) && says.contains("set DB_SSLMODE to verify-full"));
        }
        // This checks the name. The machine may still trust no authority.
        for root_cert in [None, Some("system")] {
            let error = made(SslMode::VerifyFull, root_cert).err();
            assert!(error.is_none_or(|error| !error.chain().contains(REFUSAL)), "{root_cert:?}");
        }
        // These verify nothing, and do not pretend to.
        for mode in [SslMode::Disable, SslMode::Prefer, SslMode::Require] {
            assert!(made(mode, None).is_ok(), "{mode}");
        }
    }

    #[test]
    fn a_file_of_authorities_is_read_at_once_and_never_ignored() {
        assert!(
            refused(SslMode::VerifyFull, "/nonexistent").contains("could not read /nonexistent")
        );
        assert!(refused(SslMode::VerifyCa, "/dev/null").contains("no certificate is in /dev/null"));
        assert!(refused(SslMode::Require, "/nonexistent").contains("DB_SSLROOTCERT"));
        assert!(refused(SslMode::Prefer, "/nonexistent").contains("verifies nothing"));
    }

    #[test]
    fn modes_are_read_by_libpqs_names() {
        for name in ["disable", "prefer", "require", "verify-ca", "verify-full"] {
            assert_eq!(name.parse::<SslMode>().unwrap().to_string(), name);
        }
        assert_eq!("allow".parse::<SslMode>().unwrap(), SslMode::Prefer);
        assert_eq!("nonsense".parse::<SslMode>().unwrap_err().exit_code(), 78);
    }
}
