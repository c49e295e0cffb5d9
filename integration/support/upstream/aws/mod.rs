//! As much of AWS as its SDKs need to be content: S3, DynamoDB and STS, told apart by the host. Every request has to carry a
//! valid signature ([`signature`]), as there.

mod s3;
mod signature;

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

pub use self::s3::Object;
use super::journal::Recorded;
use super::routes::Body;

/// An account, with what it stores.
#[derive(Debug, Default)]
pub struct Aws {
    /// What signatures name.
    pub access_key_id: String,
    /// What they are made with.
    pub secret_access_key: String,
    /// What has to come with them.
    pub session_token: Option<String>,
    pub(super) store: Mutex<Store>,
}

/// What is stored.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// By bucket and key.
    objects: BTreeMap<(String, String), Object>,
    /// The parts of each upload, by number.
    uploads: BTreeMap<String, BTreeMap<u32, Bytes>>,
    items: BTreeMap<String, Value>,
    /// Why requests were refused.
    refused: Vec<String>,
}

impl Aws {
    /// An account with this key.
    pub fn new(access_key_id: &str, secret_access_key: &str, session_token: Option<&str>) -> Self {
        Self {
            access_key_id: access_key_id.to_owned(),
            secret_access_key: secret_access_key.to_owned(),
            session_token: session_token.map(str::to_owned),
            store: Mutex::default(),
        }
    }

    /// An object, if it is there.
    pub fn object(&self, bucket: &str, key: &str) -> Option<Object> {
        self.store.lock().unwrap().objects.get(&(bucket.to_owned(), key.to_owned())).cloned()
    }

    /// Why requests were refused so far.
    pub fn refused(&self) -> Vec<String> {
        self.store.lock().unwrap().refused.clone()
    }

    pub(super) fn answer(&self, request: &Recorded) -> Response<Body> {
        let name = request.host.split('.').next().unwrap_or_default();
        let service = if matches!(name, "dynamodb" | "sts") { name } else { "s3" };
        let body = match signature::verify(self, request, service) {
            Ok(body) => body,
            Err(why) => {
                let answer = error(StatusCode::FORBIDDEN, "SignatureDoesNotMatch", &why);
                self.store.lock().unwrap().refused.push(why);
                return answer;
            }
        };
        let store = &mut *self.store.lock().unwrap();
        match service {
            "dynamodb" => dynamodb(store, request),
            "sts" => sts(request),
            _ => s3::answer(store, request, body),
        }
    }
}

fn dynamodb(store: &mut Store, request: &Recorded) -> Response<Body> {
    let input: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let table = &input["TableName"];
    let output = match request.header("x-amz-target").as_deref() {
        Some("DynamoDB_20120810.PutItem") => {
            store.items.insert(format!("{table}{}", input["Item"]["id"]), input["Item"].clone());
            json!({})
        }
        Some("DynamoDB_20120810.GetItem") => match store.items.get(&format!("{table}{}", input["Key"]["id"])) {
            Some(item) => json!({ "Item": item }),
            None => json!({}),
        },
        _ => return error(StatusCode::BAD_REQUEST, "UnknownOperationException", ""),
    };
    typed("application/x-amz-json-1.0", output.to_string())
}

fn sts(request: &Recorded) -> Response<Body> {
    if !request.body.starts_with(b"Action=GetCallerIdentity&") {
        return error(StatusCode::BAD_REQUEST, "InvalidAction", "");
    }
    xml("<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult>\
         <Arn>arn:aws:iam::123456789012:user/agent</Arn><UserId>AIDAEXAMPLE</UserId><Account>123456789012</Account>\
         </GetCallerIdentityResult><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
        .to_owned())
}

/// An answer in XML.
fn xml(text: String) -> Response<Body> {
    typed("application/xml", text)
}

fn typed(content_type: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An error, as S3 writes it.
fn error(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    let text = escaped(message);
    let mut response = xml(format!("<Error><Code>{code}</Code><Message>{text}</Message></Error>"));
    *response.status_mut() = status;
    response
}

/// A text for XML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
