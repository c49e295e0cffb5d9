//! On a chain of many hosts the server name of the connection says which host a request is for, and the request has to agree.

use envoy_types::pb::envoy::service::auth::v3::AttributeContext;

use crate::domain::decision::ANY_EXACT_HOST;

/// Why a `CheckRequest` cannot be decided upon.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unread<'a> {
    /// It does not come from a route of ours.
    #[error("the check request has no {0}: it does not come from a route that this server made")]
    NotOurs(&'static str),
    /// The request names another host than its connection, whose server name this is.
    #[error("the request is for another host than its connection")]
    Misdirected(&'a str),
}

/// The host of a route that stands for many, `pattern`: the server name of the connection, which Envoy knows from the
/// handshake. The request must name the same (RFC 9110 §7.4).
pub(super) fn server_name<'a>(
    attributes: &'a AttributeContext,
    pattern: &str,
    authority: &str,
) -> Result<&'a str, Unread<'a>> {
    let name =
        attributes.tls_session.as_ref().map(|session| session.sni.as_str()).ok_or(Unread::NotOurs("TLS session"))?;
    // Only what this route is for: the filter chain has chosen it by that.
    let is_below = |parent: &str| name.strip_suffix(parent).is_some_and(|rest| !rest.is_empty());
    if name.is_empty() || !(pattern == ANY_EXACT_HOST || pattern.strip_prefix('*').is_some_and(is_below)) {
        return Err(Unread::NotOurs("server name of this route"));
    }
    let host = authority.rsplit_once(':').map_or(authority, |(host, port)| {
        if port.bytes().all(|digit| digit.is_ascii_digit()) { host } else { authority }
    });
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.eq_ignore_ascii_case(name) { Ok(name) } else { Err(Unread::Misdirected(name)) }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::service::auth::v3::attribute_context::TlsSession;

    use super::*;

    fn ask<'a>(attributes: &'a AttributeContext, pattern: &str, authority: &str) -> Result<&'a str, Unread<'a>> {
        server_name(attributes, pattern, authority)
    }

    fn connection(sni: &str) -> AttributeContext {
        AttributeContext { tls_session: Some(TlsSession { sni: sni.to_owned() }), ..Default::default() }
    }

    #[test]
    fn the_host_is_the_server_name_and_the_request_agrees() {
        let connection = connection("a.s3.example.com");
        for pattern in ["*", "*.s3.example.com", "*.example.com"] {
            for authority in ["a.s3.example.com", "A.S3.example.com", "a.s3.example.com:443", "a.s3.example.com."] {
                assert_eq!(ask(&connection, pattern, authority), Ok("a.s3.example.com"));
            }
            for other in [
                "b.s3.example.com",
                "",
                "a.s3.example.com:x",
                "a.s3.example.com@b",
                "a.s3.example.com,b",
                "s3.example.com",
            ] {
                assert_eq!(ask(&connection, pattern, other), Err(Unread::Misdirected("a.s3.example.com")), "{other}");
            }
        }
    }

    #[test]
    fn without_a_server_name_of_the_route_there_is_no_host() {
        let name = "a.s3.example.com";
        for (attributes, pattern) in [
            (AttributeContext::default(), "*"),
            (connection(""), "*"),
            (connection(name), "*.other.example.com"),
            (connection("s3.example.com"), "*.s3.example.com"),
            (connection(".s3.example.com"), "*.s3.example.com"),
        ] {
            assert!(matches!(ask(&attributes, pattern, name), Err(Unread::NotOurs(_))), "{pattern}");
        }
    }
}
