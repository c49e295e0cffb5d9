use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::pki_types::ServerName;

use super::*;
use crate::domain::node::NodeIdentity;
use crate::pki::NodePem;

/// A client that takes any server: what the server takes is looked at.
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
        Ok(HandshakeSignatureValid::assertion())
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

fn identity(id: &str, byte: u8) -> NodeIdentity {
    NodeIdentity { id: id.parse().unwrap(), gateway: "ci".parse().unwrap(), enrolment: [byte; 16].into() }
}

fn ca() -> Arc<Ca> {
    let dir = tempfile::tempdir().unwrap();
    Arc::new(Ca::load_or_create_for_nodes(dir.path(), SystemTime::now()).unwrap())
}

/// What the server says of a client with this certificate.
async fn handshake(tls: &Tls, pem: Option<&NodePem>) -> Result<(), Refusal> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)));
    let config = match pem {
        None => config.with_no_client_auth(),
        Some(pem) => {
            let chain = CertificateDer::from_pem_slice(pem.chain.as_bytes()).unwrap();
            config
                .with_client_auth_cert(vec![chain], PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).unwrap())
                .unwrap()
        }
    };
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let client = tokio::spawn(async move {
        let name = ServerName::try_from("any.example").unwrap();
        if let Ok(mut stream) = TlsConnector::from(Arc::new(config)).connect(name, theirs).await {
            let _ = stream.write_all(b"x").await;
            let _ = stream.read(&mut [0]).await;
        }
    });
    let accepted = tls.acceptor(SystemTime::now()).accept(ours).await;
    let outcome = match &accepted {
        Ok(stream) => {
            let session = stream.get_ref().1;
            assert_eq!(session.protocol_version(), Some(tokio_rustls::rustls::ProtocolVersion::TLSv1_3));
            Ok(())
        }
        Err(error) => Err(Refusal::of(error)),
    };
    drop(accepted);
    client.await.unwrap();
    outcome
}

#[tokio::test]
async fn only_enrolled_nodes_get_in_and_every_other_is_told_apart() {
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    let (ca, other) = (ca(), ca());
    let enrolments = Enrolments::default();
    let (good, revoked) = (identity("edge-1", 1), identity("edge-2", 2));
    enrolments.set([(good.clone(), false), (revoked.clone(), true)]);
    let tls = Tls::new(Arc::clone(&ca), enrolments.clone(), now).unwrap();

    let of_good = ca.mint_node(&good, hour, now).unwrap();
    assert_eq!(handshake(&tls, Some(&of_good)).await, Ok(()));
    assert_eq!(handshake(&tls, None).await, Err(Refusal::NoCertificate));
    assert_eq!(handshake(&tls, Some(&ca.mint_node(&revoked, hour, now).unwrap())).await, Err(Refusal::Revoked));
    let unknown = ca.mint_node(&identity("edge-1", 3), hour, now).unwrap();
    assert_eq!(handshake(&tls, Some(&unknown)).await, Err(Refusal::Unknown));
    let expired = ca.mint_node(&good, hour, now - 2 * hour).unwrap();
    assert_eq!(handshake(&tls, Some(&expired)).await, Err(Refusal::Expired));
    assert_eq!(handshake(&tls, Some(&other.mint_node(&good, hour, now).unwrap())).await, Err(Refusal::Foreign));
    // The server's own certificate is none for a client, nor is a leaf for an upstream.
    assert_eq!(handshake(&tls, Some(&ca.mint_server(hour, now).unwrap())).await, Err(Refusal::Foreign));

    enrolments.set([(good, true)]);
    assert_eq!(handshake(&tls, Some(&of_good)).await, Err(Refusal::Revoked));
}

#[tokio::test]
async fn what_is_not_tls_is_a_failed_handshake() {
    let tls = Tls::new(ca(), Enrolments::default(), SystemTime::now()).unwrap();
    for (garbage, refusal) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], Refusal::Handshake),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refusal::Handshake),
        (&[0x16, 3, 1, 0xff, 0xff], Refusal::Handshake),
        (&[0x16, 3, 1, 0, 99], Refusal::Closed),
        (b"", Refusal::Closed),
    ] {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        theirs.write_all(garbage).await.unwrap();
        drop(theirs);
        let error = tls.acceptor(SystemTime::now()).accept(ours).await.err().unwrap();
        assert_eq!(Refusal::of(&error), refusal, "{garbage:?}");
    }
}

#[test]
fn the_servers_certificate_is_renewed() {
    let now = SystemTime::now();
    let tls = Tls::new(ca(), Enrolments::default(), now).unwrap();
    let config = |at: SystemTime| Arc::as_ptr(tls.acceptor(at).config());
    let first = config(now);
    assert_eq!(config(now + RENEWED_AFTER / 2), first);
    assert_ne!(config(now + RENEWED_AFTER), first);
}
