//! A client by hand, with a node's certificate: it says whatever it likes.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tonic::transport::{Channel, Endpoint};

/// Takes any server: what is looked at is what the server takes. That nodes verify it is Envoy's part.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Who a hand-made client is.
#[derive(Clone)]
pub(super) struct Wire {
    addr: SocketAddr,
    config: Arc<ClientConfig>,
}

impl Wire {
    /// With the certificate that is in this bootstrap.
    pub(super) fn of(addr: SocketAddr, bootstrap: &Value) -> Self {
        let path = "/static_resources/clusters/2/transport_socket_matches/0/transport_socket/typed_config\
                    /common_tls_context/tls_certificates/0";
        let pem = |part: &str| {
            bootstrap.pointer(&format!("{path}/{part}/inline_string")).and_then(Value::as_str).unwrap().as_bytes()
        };
        let chain = CertificateDer::pem_slice_iter(pem("certificate_chain")).map(Result::unwrap).collect();
        Self::with(addr, Some((chain, PrivateKeyDer::from_pem_slice(pem("private_key")).unwrap())))
    }

    /// With this certificate, or none.
    pub(super) fn with(
        addr: SocketAddr,
        certificate: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    ) -> Self {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)));
        let mut config = match certificate {
            Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self { addr, config: Arc::new(config) }
    }

    /// A connection; by TLS 1.3 the server's refusal may come only when it is read from.
    pub(super) async fn tls(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.addr).await?;
        let name = ServerName::try_from("xds.invalid").unwrap();
        TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await
    }

    /// A gRPC channel, by one connection.
    pub(super) async fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        let endpoint = Endpoint::from_static("http://xds.invalid").connect_timeout(Duration::from_secs(20));
        endpoint.timeout(Duration::from_secs(20)).connect_with_connector(Connector(self.clone())).await
    }
}

/// What tonic connects by.
struct Connector(Wire);

impl tower::Service<http::Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let wire = self.0.clone();
        Box::pin(async move { wire.tls().await.map(TokioIo::new) })
    }
}
