//! TLS to a shared vault: 1.3 alone, a certificate of its CA of nodes on both sides, and the server's name in a URI, so that it
//! does not matter by which address it is reached.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{ResolvesClientCert, Resumption, verify_server_cert_signed_by_trust_anchor};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::identity::IdentityFile;
use crate::domain::policy::Address;
use crate::pki::is_server_certificate;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// What the server is called where the file has an IP address: proxies on the way that go by names know none.
const NO_NAME: &str = "vault.invalid";

/// Makes connections to one vault.
#[derive(Clone)]
pub(super) struct Connector {
    address: Address,
    config: Arc<ClientConfig>,
    key: Arc<CurrentKey>,
}

impl Connector {
    /// With this identity.
    ///
    /// # Errors
    /// When its parts are none that TLS can use.
    pub(super) fn new(address: Address, file: &IdentityFile) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(file.ca.as_bytes()).map_err(|_| Error::General(NO_CA.to_owned()))?;
        roots.add(ca)?;
        let key = Arc::new(CurrentKey(ArcSwap::from_pointee(certified(file, &provider)?)));
        let verifier = Arc::new(Verifier { roots, provider: Arc::clone(&provider) });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::<CurrentKey>::clone(&key));
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self { address, config: Arc::new(config), key })
    }

    /// Connections that are made from now on show this certificate.
    ///
    /// # Errors
    /// When it and its key are none that TLS can use.
    pub(super) fn renew(&self, file: &IdentityFile) -> Result<(), Error> {
        let provider = ring::default_provider();
        self.key.0.store(Arc::new(certified(file, &provider)?));
        Ok(())
    }

    /// A connection, on which each knows the other.
    ///
    /// # Errors
    /// When there is none in time, or the other is not the server.
    pub(super) async fn connect(self) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
        let made = tokio::time::timeout(CONNECT, self.try_connect()).await;
        made.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn try_connect(&self) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
        let (stream, name) = match &self.address {
            Address::Ip(address) => (TcpStream::connect(address).await?, NO_NAME.to_owned()),
            Address::Name(host, port) => (TcpStream::connect((host.as_str(), *port)).await?, host.to_string()),
        };
        let _ = stream.set_nodelay(true);
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        Ok(TokioIo::new(TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await?))
    }
}

const NO_CA: &str = "the certificate of the vault's authority cannot be read";

fn certified(file: &IdentityFile, provider: &CryptoProvider) -> Result<CertifiedKey, Error> {
    let unreadable = || Error::General("the certificate and its key cannot be read".to_owned());
    let chain = CertificateDer::pem_slice_iter(file.certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
    let key = PrivateKeyDer::from_pem_slice(file.key.as_bytes()).map_err(|_| unreadable())?;
    CertifiedKey::from_der(chain.map_err(|_| unreadable())?, key, provider)
}

/// The certificate that is shown now.
#[derive(Debug)]
struct CurrentKey(ArcSwap<CertifiedKey>);

impl ResolvesClientCert for CurrentKey {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Takes the server of that CA, whatever address it was reached by, and no node of it.
#[derive(Debug)]
struct Verifier {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        if is_server_certificate(end_entity) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::NotValidForName))
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
