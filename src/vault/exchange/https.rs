//! One HTTPS request to a token endpoint: verified TLS, no redirect, a bounded answer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use zeroize::Zeroizing;

use crate::vault::live::FetchError;

/// How long a question may take, all in all.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The longest answer that is read, in bytes.
const MOST: usize = 64 * 1024;

/// What is asked.
pub(super) struct Ask {
    pub(super) url: Uri,
    pub(super) content_type: &'static str,
    pub(super) authorization: Option<Authorization>,
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// Who asks.
pub(super) enum Authorization {
    /// `user:password` in base64.
    Basic(Zeroizing<String>),
    Bearer(Zeroizing<String>),
}

/// What was answered.
pub(super) struct Answer {
    /// The host, for messages.
    pub(super) from: String,
    pub(super) status: u16,
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// Asks token endpoints, and trusts only certain CAs.
#[derive(Clone)]
pub struct HttpsClient(Arc<ClientConfig>);

/// Why no [`HttpsClient`] can be made.
#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    /// Nothing to trust.
    #[error("there is no CA certificate that could be trusted")]
    NoCa,
    /// The library does not support what it is built for.
    #[error("TLS cannot be set up")]
    Tls(#[from] tokio_rustls::rustls::Error),
}

impl HttpsClient {
    /// Trusts the certificates of this PEM text; those that cannot be used are left out.
    ///
    /// # Errors
    /// When none is left.
    pub fn new(ca_pem: &str) -> Result<Self, HttpsError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(ca_pem.as_bytes()).filter_map(Result::ok));
        if roots.is_empty() {
            return Err(HttpsError::NoCa);
        }
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(Self(Arc::new(config.with_root_certificates(roots).with_no_client_auth())))
    }

    pub(super) async fn ask(&self, ask: Ask) -> Result<Answer, FetchError> {
        let host = ask.url.host().unwrap_or_default().to_owned();
        match tokio::time::timeout(TIMEOUT, self.send(ask, &host)).await {
            Ok(answer) => answer,
            Err(_) => Err(FetchError::new(format_args!("{host} gave no answer within {TIMEOUT:?}"))),
        }
    }

    async fn send(&self, ask: Ask, host: &str) -> Result<Answer, FetchError> {
        let failed = |what: &str, error: &dyn fmt::Display| FetchError::new(format_args!("{what} {host}: {error}"));
        let Ask { url, content_type, authorization, body } = ask;
        let port = url.port_u16().unwrap_or(443);
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned()).map_err(|error| failed("no name of a server:", &error))?;
        let stream = TcpStream::connect((bare, port)).await.map_err(|error| failed("cannot connect to", &error))?;
        let stream = TlsConnector::from(Arc::clone(&self.0)).connect(name, stream).await;
        let stream = stream.map_err(|error| failed("no trusted TLS connection to", &error))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| failed("cannot speak HTTP with", &error))?;
        let mut connection = std::pin::pin!(connection);

        let authority = url.authority().map(ToString::to_string).unwrap_or_default();
        let target = url.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let length = body.len();
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(target)
            .header(HOST, authority)
            .header(USER_AGENT, concat!("agent-creds/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, content_type)
            .header(CONTENT_LENGTH, length)
            .body(Full::new(bytes::Bytes::from_owner(body)))
            .map_err(|error| failed("no request can be made for", &error))?;
        if let Some(authorization) = authorization {
            let (scheme, value) = match &authorization {
                Authorization::Basic(pair) => ("Basic ", pair),
                Authorization::Bearer(token) => ("Bearer ", token),
            };
            let line = Zeroizing::new([scheme, value].concat());
            let mut value =
                HeaderValue::from_str(&line).map_err(|error| failed("no request can be made for", &error))?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| failed("no answer from", &error))?;
            let status = response.status().as_u16();
            let mut incoming = response.into_body();
            // As much as can be, so that it is never copied while it grows.
            let mut body = Zeroizing::new(Vec::with_capacity(MOST));
            while let Some(frame) = incoming.frame().await {
                let frame = frame.map_err(|error| failed("the answer breaks off:", &error))?;
                let Some(data) = frame.data_ref() else { continue };
                if body.len() + data.len() > MOST {
                    return Err(failed("an answer from", &format_args!("longer than {MOST} bytes")));
                }
                body.extend_from_slice(data);
            }
            Ok(Answer { from: host.to_owned(), status, body })
        };
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            answer = &mut exchange => return answer,
            // It ends when the server closes; what was read before is still there.
            _ = &mut connection => {}
        }
        exchange.await
    }
}

impl fmt::Debug for HttpsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpsClient")
    }
}
