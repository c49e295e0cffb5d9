//! Certificates for the test upstreams: a CA that also issues the bad ones.

use std::sync::{Arc, OnceLock};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate authority nobody but the tests trusts.
pub struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// What is right or wrong with an issued certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CertKind {
    /// Nothing is wrong.
    #[default]
    Good,
    /// Signed by the CA for the right name, but expired in 2021.
    Expired,
    /// Signed by the CA, for `wrong.invalid`.
    WrongName,
    /// For the right name, signed by itself.
    SelfSigned,
}

/// A leaf certificate and its key.
pub struct ServerCert {
    /// The certificate. There are no intermediates.
    pub cert: CertificateDer<'static>,
    /// Its private key.
    pub key: PrivateKeyDer<'static>,
}

impl TestCa {
    /// Makes a CA with a fresh key. `name` appears in its subject.
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = Default::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// The CA that every upstream of this process uses unless told otherwise.
    pub fn shared() -> Arc<Self> {
        static SHARED: OnceLock<Arc<TestCa>> = OnceLock::new();
        Arc::clone(SHARED.get_or_init(|| Arc::new(Self::new("upstream test CA"))))
    }

    /// The CA's certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Issues a certificate for `names` (DNS names, wildcards or IP addresses).
    pub fn issue<S: AsRef<str>>(&self, names: &[S], kind: CertKind) -> ServerCert {
        let names = match kind {
            CertKind::WrongName => vec!["wrong.invalid".to_owned()],
            _ => names.iter().map(|name| name.as_ref().to_owned()).collect(),
        };
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = Default::default();
        params.distinguished_name.push(DnType::CommonName, "upstream test leaf");
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if kind == CertKind::Expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let cert = match kind {
            CertKind::SelfSigned => params.self_signed(&key),
            _ => params.signed_by(&key, &self.issuer),
        };
        ServerCert { cert: cert.unwrap().der().clone(), key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() }
    }
}
