//! TLS towards nodes: 1.3 alone, with a certificate of the nodes' CA on both sides, and no session resumed: every connection
//! shows its certificate.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
};

use crate::domain::node::{Enrolments, Standing};
use crate::pki::{Ca, node_of_certificate};

/// How long the server's certificate towards nodes lives, and after which part of it there is a new one. Nodes check it when they
/// connect.
const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
const RENEWED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Why a connection was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It had no certificate.
    NoCertificate,
    /// Its certificate is not of the nodes' CA.
    Foreign,
    /// Its certificate has ended, or not begun.
    Expired,
    /// Its node was revoked.
    Revoked,
    /// Its certificate names no node that was enrolled here.
    Unknown,
    /// It did not speak TLS 1.3 as it should.
    Handshake,
    /// It went away before it had said who it is.
    Closed,
    /// It took too long.
    Slow,
    /// There are too many.
    Busy,
}

impl Refusal {
    /// Every reason.
    pub(super) const ALL: [Self; 9] = [
        Self::NoCertificate,
        Self::Foreign,
        Self::Expired,
        Self::Revoked,
        Self::Unknown,
        Self::Handshake,
        Self::Closed,
        Self::Slow,
        Self::Busy,
    ];

    /// Its name in metrics.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Foreign => "foreign",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Unknown => "unknown",
            Self::Handshake => "handshake",
            Self::Closed => "closed",
            Self::Slow => "slow",
            Self::Busy => "busy",
        }
    }

    /// Why a handshake failed.
    pub(super) fn of(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(Error::NoCertificatesPresented) => Self::NoCertificate,
            Some(Error::InvalidCertificate(reason)) => match reason {
                CertificateError::Revoked => Self::Revoked,
                CertificateError::ApplicationVerificationFailure => Self::Unknown,
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Self::Expired,
                _ => Self::Foreign,
            },
            Some(_) => Self::Handshake,
            // What the system says of the connection.
            None => Self::Closed,
        }
    }
}

/// The server's side of TLS.
pub(super) struct Tls {
    ca: Arc<Ca>,
    provider: Arc<CryptoProvider>,
    verifier: Arc<Verifier>,
    current: Mutex<(TlsAcceptor, SystemTime)>,
}

impl Tls {
    /// TLS with the CA of nodes, for those that are enrolled.
    ///
    /// # Errors
    /// When the CA's certificate cannot be used.
    pub(super) fn new(ca: Arc<Ca>, enrolments: Enrolments, now: SystemTime) -> anyhow::Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_slice(ca.certificate_pem().as_bytes());
        roots.add(certificate.context("the certificate of the nodes' CA cannot be read")?)?;
        let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .context("the certificate of the nodes' CA cannot be used")?;
        let verifier = Arc::new(Verifier { inner, enrolments });
        let acceptor = acceptor(&ca, &provider, &verifier, now)?;
        Ok(Self { ca, provider, verifier, current: Mutex::new((acceptor, now)) })
    }

    /// What takes a connection at the time `now`.
    pub(super) fn acceptor(&self, now: SystemTime) -> TlsAcceptor {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // Also when the clock was set back.
        if now.duration_since(current.1).map_or(true, |age| age >= RENEWED_AFTER) {
            match acceptor(&self.ca, &self.provider, &self.verifier, now) {
                Ok(new) => *current = (new, now),
                Err(error) => tracing::error!("the certificate towards nodes cannot be renewed: {error:#}"),
            }
        }
        current.0.clone()
    }
}

fn acceptor(
    ca: &Ca,
    provider: &Arc<CryptoProvider>,
    verifier: &Arc<Verifier>,
    now: SystemTime,
) -> anyhow::Result<TlsAcceptor> {
    let pem = ca.mint_server(LIFETIME, now)?;
    let chain = CertificateDer::pem_slice_iter(pem.chain.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes())?;
    let verifier: Arc<dyn ClientCertVerifier> = Arc::<Verifier>::clone(verifier);
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would go on with a certificate that has ended, or was revoked.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Takes certificates of the nodes' CA that name an enrolled node, which is told in the handshake when it is not.
#[derive(Debug)]
struct Verifier {
    inner: Arc<dyn ClientCertVerifier>,
    enrolments: Enrolments,
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        let standing = node_of_certificate(end_entity).map(|(identity, _)| self.enrolments.standing(&identity));
        match standing {
            Some(Standing::Enrolled) => Ok(verified),
            Some(Standing::Revoked) => Err(CertificateError::Revoked.into()),
            Some(Standing::Unknown) | None => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
