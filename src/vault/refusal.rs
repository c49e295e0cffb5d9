//! A refusal in the words and in the shape that its reader understands: the error format of the API that was called, so that an
//! SDK raises its own error with our message in it, or text for people.
//!
//! The shape follows the upstream's name in our configuration, and what the request says of its reader. It decides nothing: the
//! same request is refused in any shape.

use serde_json::{Map, Value, json};

use crate::domain::decision::{Denial, Offer, Remedy};

/// Who will read a refusal, as far as the request's headers tell.
#[derive(Debug, Default)]
pub(super) struct Reader {
    json: bool,
    text: bool,
    terminal: bool,
    npm: bool,
    body: Body,
    aws: Aws,
}

/// What the request's body is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Body {
    #[default]
    Other,
    Grpc,
    Form,
    AwsJson,
}

/// What AWS's SDKs send to one kind of service alone.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Aws {
    #[default]
    No,
    S3,
    Json,
}

impl Reader {
    /// Looks at a request's headers, whose names are in lower case.
    pub(super) fn of<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Self {
        headers.fold(Self::default(), |mut reader, (name, value)| {
            reader.note(name, value);
            reader
        })
    }

    fn note(&mut self, name: &str, value: &[u8]) {
        match name {
            "accept" => {
                self.json |= contains(value, b"json");
                // Not `text/event-stream`: that is a program, too.
                self.text |= [&b"text/plain"[..], b"text/html", b"text/*"].iter().any(|kind| contains(value, kind));
            }
            "user-agent" => {
                let begins = |tools: &[&str]| tools.iter().any(|tool| value.starts_with(tool.as_bytes()));
                self.terminal |= begins(&["curl/", "Wget/", "git/"]);
                self.npm |= begins(&["npm/", "pnpm/", "yarn/"]);
            }
            "content-type" => {
                let is = |kind: &[u8]| value.get(..kind.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(kind));
                self.body = if is(b"application/grpc") {
                    Body::Grpc
                } else if is(b"application/x-amz-json") {
                    Body::AwsJson
                } else if is(b"application/x-www-form-urlencoded") {
                    Body::Form
                } else {
                    Body::Other
                };
            }
            "x-amz-target" => self.aws = Aws::Json,
            // S3 alone has it in every signed request.
            "x-amz-content-sha256" if self.aws == Aws::No => self.aws = Aws::S3,
            _ => {}
        }
    }

    /// The shape for a refusal of a request to `host`.
    pub(super) fn shape(&self, host: &str) -> Shape {
        if self.body == Body::Grpc {
            return Shape::Grpc;
        }
        // A program takes JSON, and most SDKs fail on anything else though they say `*/*`; a person at a terminal, or one who
        // asks for text, takes text.
        if !self.json && (self.text || self.terminal) {
            return Shape::Text;
        }
        if self.npm {
            return Shape::Npm;
        }
        self.aws(host).unwrap_or_else(|| api(host))
    }

    fn aws(&self, host: &str) -> Option<Shape> {
        let within = ["amazonaws.com", "amazonaws.com.cn", "api.aws"].into_iter();
        let service = within.filter_map(|domain| host.strip_suffix(domain)?.strip_suffix('.')).next();
        if self.aws == Aws::Json || self.body == Body::AwsJson {
            return Some(Shape::AwsJson);
        }
        let Some(service) = service else {
            // Other stores that take S3's requests.
            return (self.aws == Aws::S3).then_some(Shape::S3);
        };
        let has = |name: &str| service.split('.').any(|part| part == name);
        Some(if service.split('.').any(|part| part == "s3" || part.starts_with("s3-")) {
            Shape::S3
        } else if has("ec2") {
            Shape::Ec2
        } else if self.body == Body::Form || has("route53") || has("cloudfront") {
            Shape::AwsQuery
        } else {
            Shape::AwsJson
        })
    }
}

fn api(host: &str) -> Shape {
    let below = |domain: &str| host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    match host {
        "api.anthropic.com" => Shape::Anthropic,
        "api.github.com" | "uploads.github.com" => Shape::GitHub,
        _ if below("ghe.com") => Shape::GitHub,
        _ if below("googleapis.com") => Shape::Google,
        // OpenAI's and Stripe's, and those of the many who took it over from them.
        _ => Shape::Error,
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window.eq_ignore_ascii_case(needle))
}

/// The format of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// For people.
    Text,
    /// Envoy makes `grpc-status` and `grpc-message` of status and body.
    Grpc,
    /// `{"error": {"type", "code", "message", "param"}}`: OpenAI, Stripe, and who knows nothing better.
    Error,
    /// `{"type": "error", "error": {"type", "message"}}`.
    Anthropic,
    /// `{"message", "status"}`.
    GitHub,
    /// `{"error": {"code": 403, "message", "status": "PERMISSION_DENIED"}}`.
    Google,
    /// `{"error": "…"}`: npm and its kind show that, if it is a text.
    Npm,
    /// `<Error>`.
    S3,
    /// `<ErrorResponse><Error>`: AWS's query protocol.
    AwsQuery,
    /// `<Response><Errors><Error>`.
    Ec2,
    /// `{"__type", "message"}`: AWS's JSON protocols.
    AwsJson,
}

/// A refusal as it is sent.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, &'static str)>,
    pub(super) body: String,
}

/// Writes the refusal because of `denial`.
pub(super) fn write(shape: Shape, denial: &Denial, remedy: &Remedy) -> Refusal {
    let status = match (shape, denial.status()) {
        // Google's libraries answer 401 by refreshing their credentials, which a token cannot be, and complain of that instead.
        (Shape::Google, 401) => 403,
        (_, status) => status,
    };
    let said = Said { denial, remedy, message: denial.to_string(), status };
    let (content_type, body) = match shape {
        Shape::Text => ("text/plain; charset=utf-8", said.text()),
        // It becomes a header.
        Shape::Grpc => ("text/plain; charset=utf-8", cut(&said.sentence(), 2000)),
        Shape::Error => (JSON, json_text(&said.error())),
        Shape::Anthropic => (JSON, json_text(&said.anthropic())),
        Shape::GitHub => (JSON, json_text(&said.github())),
        Shape::Google => (JSON, json_text(&said.google())),
        Shape::Npm => (JSON, json_text(&json!({ "error": said.sentence(), "code": denial.reason() }))),
        Shape::S3 => (XML, said.xml("<Error>", "</Error>")),
        Shape::AwsQuery => (XML, said.xml("<ErrorResponse><Error><Type>Sender</Type>", "</Error></ErrorResponse>")),
        Shape::Ec2 => (XML, said.xml("<Response><Errors><Error>", "</Error></Errors></Response>")),
        Shape::AwsJson => ("application/x-amz-json-1.1", json_text(&said.aws_json())),
    };
    let mut headers = vec![("content-type", content_type), ("cache-control", "no-store")];
    match denial {
        // git sends its credentials only when challenged.
        Denial::NoToken => headers.extend([
            ("www-authenticate", "Basic realm=\"agent-creds\""),
            ("www-authenticate", "Bearer realm=\"agent-creds\""),
        ]),
        Denial::CredentialUnavailable(_) | Denial::VaultUnavailable(_) => headers.push(("retry-after", "1")),
        _ => {}
    }
    if shape == Shape::AwsJson {
        headers.push(("x-amzn-errortype", said.aws_exception()));
    }
    Refusal { status, headers, body }
}

const JSON: &str = "application/json";
const XML: &str = "application/xml";
/// What tells our errors from the API's own, where there is a place for it.
const REFUSAL: &str = "agent_creds_refusal";

struct Said<'a> {
    denial: &'a Denial,
    remedy: &'a Remedy,
    message: String,
    status: u16,
}

impl Said<'_> {
    /// Both the reason and the remedy, on one line: many SDKs show one text, and nothing else.
    fn sentence(&self) -> String {
        format!("{}. Help: {}", self.message, self.remedy.one_line())
    }

    fn text(&self) -> String {
        let Self { message, remedy: Remedy { say, offer }, .. } = self;
        match offer {
            Some(offer) => {
                let lines: String = offer.text().lines().map(|line| format!("    {line}\n")).collect();
                format!("{message}\nHelp: {say}:\n\n{lines}\n")
            }
            None => format!("{message}\nHelp: {say}\n"),
        }
    }

    /// `more`, and what every error in JSON has: what to show, and for programs the parts of it.
    fn fields(&self, more: &[(&str, &str)]) -> Map<String, Value> {
        let mut fields: Map<String, Value> =
            more.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        fields.insert("message".to_owned(), json!(self.sentence()));
        fields.insert("help".to_owned(), json!(self.remedy.one_line()));
        let (name, value) = match &self.remedy.offer {
            Some(offer @ Offer::Toml { .. }) => ("toml", offer.text()),
            Some(offer @ Offer::Command(_)) => ("command", offer.text()),
            None => return fields,
        };
        fields.insert(name.to_owned(), json!(value.trim_end()));
        fields
    }

    fn error(&self) -> Value {
        let mut error = self.fields(&[("type", REFUSAL), ("code", self.denial.reason())]);
        error.insert("param".to_owned(), Value::Null);
        json!({ "error": error })
    }

    fn anthropic(&self) -> Value {
        let kind = match self.status {
            401 => "authentication_error",
            403 => "permission_error",
            _ => "api_error",
        };
        let error = self.fields(&[("type", kind), ("code", self.denial.reason())]);
        json!({ "type": "error", "error": error, "request_id": null })
    }

    fn github(&self) -> Value {
        let status = self.status.to_string();
        Value::Object(self.fields(&[("status", &status), ("code", self.denial.reason())]))
    }

    fn google(&self) -> Value {
        let status = match self.status {
            503 => "UNAVAILABLE",
            _ => "PERMISSION_DENIED",
        };
        let mut error = self.fields(&[("status", status)]);
        let sentence = self.sentence();
        error.insert("code".to_owned(), json!(self.status));
        error.insert("errors".to_owned(), json!([{ "domain": "global", "reason": "forbidden", "message": sentence }]));
        let reason = self.denial.reason().to_ascii_uppercase();
        let info = "type.googleapis.com/google.rpc.ErrorInfo";
        error.insert("details".to_owned(), json!([{ "@type": info, "reason": reason, "domain": "agent-creds" }]));
        json!({ "error": error })
    }

    fn aws_json(&self) -> Value {
        // The newer ones read `message`, the older `Message`; both are in what AWS itself sends.
        Value::Object(self.fields(&[("__type", self.aws_exception()), ("Message", &self.sentence())]))
    }

    /// Nothing else is so plainly no fault of the network or the clock, which SDKs answer by trying again.
    fn aws_exception(&self) -> &'static str {
        if self.status == 503 { "ServiceUnavailableException" } else { "AccessDeniedException" }
    }

    fn xml(&self, begin: &str, end: &str) -> String {
        let code = if self.status == 503 { "ServiceUnavailable" } else { "AccessDenied" };
        let message = xml_text(&self.sentence());
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{begin}<Code>{code}</Code><Message>{message}</Message>{end}\n"
        )
    }
}

fn json_text(value: &Value) -> String {
    format!("{value}\n")
}

/// The text for the inside of an element; what XML 1.0 has no way to write is replaced.
fn xml_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\t' | '\n' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'.. => out.push(c),
            _ => out.push('\u{fffd}'),
        }
    }
    out
}

/// At most `most` characters.
fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests;
