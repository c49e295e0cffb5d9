//! Why a request that is allowed cannot be signed anew.

/// Why the credential of a host, which signs requests (AWS Signature Version 4), cannot sign this one. Names nothing that the
/// client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unsignable {
    /// Each chunk of the body has a signature of its own, made with a key that is none.
    #[error("each chunk of its body is signed (STREAMING-AWS4-HMAC-SHA256-PAYLOAD)")]
    SignedChunks,
    /// SigV4A.
    #[error("its signature is asymmetric (AWS4-ECDSA-P256-SHA256)")]
    Asymmetric,
    /// `x-amz-content-sha256` is neither a hash nor a word that is known.
    #[error(
        "its x-amz-content-sha256 is neither a SHA-256 hash nor UNSIGNED-PAYLOAD nor STREAMING-UNSIGNED-PAYLOAD-TRAILER"
    )]
    Payload,
    /// The hash of its body belongs into the signature, and nobody has it.
    #[error("its signature has to cover its body, which the vault was not sent")]
    NoBody,
    /// The vault was sent only the beginning of the body that the signature has to cover.
    #[error("its signature has to cover its body, which is longer than the vault reads")]
    LongBody,
    /// Neither the client, nor the host's name, nor `vault.toml` says for where to sign.
    #[error("its region and service are not known")]
    NoScope,
    /// `X-Amz-Date` or `X-Amz-Expires` of a presigned URL is missing or not valid.
    #[error("its X-Amz-Date or X-Amz-Expires is missing or not valid")]
    Validity,
    /// The path, the query or a header has bytes that a signature cannot cover.
    #[error("its path, its query or a header to be signed is not valid UTF-8 or not a valid URL")]
    Encoding,
}

impl Unsignable {
    /// The status of the answer.
    pub(super) fn status(self) -> u16 {
        if self == Self::LongBody { 413 } else { 403 }
    }

    /// What would make it possible.
    pub(super) fn help(self, host: &str) -> String {
        match self {
            Self::SignedChunks => "let the client sign no chunks: current AWS SDKs do not over HTTPS; else set payload signing or \
                                   chunked encoding off (Java: chunkedEncodingEnabled(false)), or send the hash of the whole body"
                .to_owned(),
            Self::Asymmetric => {
                "name one region, so that the client signs with AWS4-HMAC-SHA256; multi-region access points are not supported"
                    .to_owned()
            }
            Self::Payload => "send the SHA-256 hash of the body in x-amz-content-sha256, or UNSIGNED-PAYLOAD".to_owned(),
            Self::NoBody => "sign the request with an AWS SDK, the token being the access key id, or send the SHA-256 hash of \
                             the body in x-amz-content-sha256"
                .to_owned(),
            Self::LongBody => {
                "send the SHA-256 hash of the body in x-amz-content-sha256, and the vault need not read it".to_owned()
            }
            Self::NoScope => format!(
                "sign the request with an AWS SDK, or set `region` and `service` under [credentials.\"{host}\"] in the server's \
                 vault.toml"
            ),
            Self::Validity => "make the URL with an AWS SDK".to_owned(),
            Self::Encoding => "percent-encode UTF-8 in the URL, and send ASCII in x-amz- headers".to_owned(),
        }
    }
}
