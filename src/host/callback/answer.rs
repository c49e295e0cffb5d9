//! What the browser is shown: pages of our own, and the program's, made harmless.

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_LANGUAGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderName, HeaderValue, Response, StatusCode, response};
use http_body_util::Full;

use super::carry::Answered;

/// No scripts, nothing loaded, nothing sent. `sandbox` also keeps it out of the origin that the host's own servers have.
const HARMLESS: &str = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; base-uri 'none'; \
                        frame-ancestors 'none'";

/// The kinds of answer that are shown as what they are; anything else would be saved to the user's disk.
const SHOWN: [&str; 3] = ["text/html", "text/plain", "application/xhtml+xml"];

fn response(status: StatusCode) -> response::Builder {
    Response::builder()
        .status(status)
        .header(CONTENT_SECURITY_POLICY, HARMLESS)
        .header(X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(REFERRER_POLICY, "no-referrer")
        .header(CACHE_CONTROL, "no-store")
        .header(HeaderName::from_static("cross-origin-opener-policy"), "same-origin")
        .header(HeaderName::from_static("cross-origin-resource-policy"), "same-origin")
        .header(CONNECTION, "close")
}

fn built(response: response::Builder, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    // All of it is ours or was checked.
    response.body(Full::new(body.into())).unwrap_or_default()
}

/// A page of our own. `text` is shown as it is, line by line.
pub(super) fn page(status: StatusCode, title: &str, text: &str) -> Response<Full<Bytes>> {
    let html = format!(
        "<!doctype html><meta charset=utf-8><title>{title}</title><style>body{{font:16px/1.5 sans-serif;max-width:42em;margin:4em \
         auto;padding:0 1em}}p{{white-space:pre-wrap;overflow-wrap:anywhere}}</style><h1>{title}</h1><p>{text}</p>\
         <p><small>agent-creds</small></p>\n",
        title = escaped(title),
        text = escaped(text)
    );
    built(response(status).header(CONTENT_TYPE, "text/html; charset=utf-8"), html)
}

/// The program's own page.
pub(super) fn shown(answered: Answered) -> Response<Full<Bytes>> {
    let given = answered.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let kind = match HeaderValue::from_str(given) {
        Ok(kind) if SHOWN.contains(&essence.as_str()) => kind,
        _ => HeaderValue::from_static("text/plain; charset=utf-8"),
    };
    // Statuses with a meaning of their own to browsers (100, 204, 205, 304, 401, 407) are none for a page.
    let status = match answered.status.as_u16() {
        400 | 403 | 404 | 500..600 => answered.status,
        _ if answered.status.is_success() => StatusCode::OK,
        _ => StatusCode::BAD_GATEWAY,
    };
    let mut response = response(status).header(CONTENT_TYPE, kind);
    if let Some(language) = answered.headers.get(CONTENT_LANGUAGE) {
        response = response.header(CONTENT_LANGUAGE, language);
    }
    built(response, answered.body)
}

/// The browser is sent on, by a GET.
pub(super) fn redirect(location: &str) -> Response<Full<Bytes>> {
    built(response(StatusCode::SEE_OTHER).header(LOCATION, location), Bytes::new())
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn answered(status: u16, headers: &[(&'static str, &'static str)]) -> Answered {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        Answered { status: StatusCode::from_u16(status).unwrap(), headers, body: Bytes::from_static(b"<script>") }
    }

    #[test]
    fn threats_an_answer_of_the_sandbox_does_nothing_but_be_read() {
        let headers = [
            ("content-type", "text/html; charset=latin1"),
            ("set-cookie", "session=evil"),
            ("refresh", "0; url=http://localhost:631/"),
            ("link", "</x>; rel=preload"),
            ("location", "https://evil.example/"),
            ("content-security-policy", "default-src *"),
            ("content-disposition", "attachment; filename=x.sh"),
            ("clear-site-data", "\"*\""),
            ("service-worker-allowed", "/"),
            ("access-control-allow-origin", "*"),
            ("content-language", "de"),
        ];
        let response = shown(answered(200, &headers));
        let mut names: Vec<_> = response.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "cache-control",
                "connection",
                "content-language",
                "content-security-policy",
                "content-type",
                "cross-origin-opener-policy",
                "cross-origin-resource-policy",
                "referrer-policy",
                "x-content-type-options",
            ]
        );
        assert_eq!(response.headers()["content-security-policy"], HARMLESS);
        assert_eq!(response.headers()["content-type"], "text/html; charset=latin1");
    }

    #[test]
    fn nothing_is_saved_to_the_disk_and_no_status_asks_for_more() {
        for kind in [
            "application/octet-stream",
            "text/javascript",
            "image/svg+xml",
            "",
            "multipart/x-mixed-replace; boundary=x",
        ] {
            assert_eq!(
                shown(answered(200, &[("content-type", kind)])).headers()["content-type"],
                "text/plain; charset=utf-8"
            );
        }
        for (status, expected) in
            [(200, 200), (204, 200), (206, 200), (304, 502), (401, 502), (302, 502), (404, 404), (500, 500)]
        {
            assert_eq!(shown(answered(status, &[])).status().as_u16(), expected);
        }
    }

    #[test]
    fn our_own_pages_show_text_as_it_is() {
        assert_eq!(escaped("<a href='x'>&\""), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;");
    }
}
