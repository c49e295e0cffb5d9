//! Decision → `CheckResponse`.

use envoy_types::pb::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction,
};
use envoy_types::pb::envoy::service::auth::v3::{
    CheckResponse, DeniedHttpResponse, OkHttpResponse, check_response::HttpResponse,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::Struct;
use envoy_types::pb::google::rpc::Status;
use tonic::Code;

use super::query;
use super::refusal::Refusal;
use super::request::Asked;
use super::secrets::Injection;
use crate::domain::decision::{Denial, Unsignable};

/// The request goes on with the credential; the token does not. `now` is in Unix seconds. Envoy's filters are told `told`, and the
/// upstream is asked for `encoding`, if it is to be another one.
pub(super) fn inject(
    injection: &Injection,
    asked: &Asked<'_>,
    now: u64,
    told: Struct,
    encoding: Option<&str>,
) -> Result<CheckResponse, Unsignable> {
    let set = |name: &str, value: &str| header(name, value, HeaderAppendAction::OverwriteIfExistsOrAdd);
    let mut removed = asked.token_headers.clone();
    let mut headers: Vec<HeaderValueOption> = match injection {
        Injection::Headers(headers) => headers.iter().map(|(name, value)| set(name, value.as_str())).collect(),
        Injection::Query { name, assignment } => {
            vec![set(":path", &query::with(asked.access.target, name, assignment.as_str()))]
        }
        Injection::SigV4(signer) => {
            let signed = signer.sign(&asked.unsigned(), now)?;
            removed.extend(signed.removed);
            signed.set.iter().map(|(name, value)| set(name, value)).collect()
        }
    };
    headers.extend(encoding.map(|encoding| set("accept-encoding", encoding)));
    let is_set =
        |name: &str| headers.iter().filter_map(|option| option.header.as_ref()).any(|header| header.key == name);
    removed.retain(|name| !is_set(name));
    let headers_to_remove = removed.into_iter().map(str::to_owned).collect();
    let ok = OkHttpResponse { headers, headers_to_remove, ..Default::default() };
    Ok(CheckResponse { dynamic_metadata: Some(told), ..allow(ok) })
}

/// The request goes on as it is.
pub(super) fn pass_through() -> CheckResponse {
    allow(OkHttpResponse::default())
}

fn allow(ok: OkHttpResponse) -> CheckResponse {
    CheckResponse {
        status: Some(Status { code: Code::Ok as i32, ..Default::default() }),
        http_response: Some(HttpResponse::OkResponse(ok)),
        ..Default::default()
    }
}

/// The request is refused because of `denial`, in these words. Another server that asked is told why in short, too.
pub(super) fn deny(denial: &Denial, refusal: Refusal) -> CheckResponse {
    let code = match refusal.status {
        401 => Code::Unauthenticated,
        503 => Code::Unavailable,
        _ => Code::PermissionDenied,
    };
    let mut headers: Vec<HeaderValueOption> = Vec::with_capacity(refusal.headers.len());
    for (name, value) in refusal.headers {
        // The first of a name replaces what Envoy would say, and any other stands beside it.
        let again = headers.iter().filter_map(|option| option.header.as_ref()).any(|header| header.key == name);
        let action =
            if again { HeaderAppendAction::AppendIfExistsOrAdd } else { HeaderAppendAction::OverwriteIfExistsOrAdd };
        headers.push(header(name, value, action));
    }
    let mut response = refuse(code, refusal.status, headers, refusal.body);
    response.status.get_or_insert_default().message = denial.to_string();
    response
}

/// The check request is not one of ours: nothing is told.
pub(super) fn not_ours() -> CheckResponse {
    refuse(
        Code::PermissionDenied,
        403,
        vec![],
        "Unauthorized: the request did not come through a known route\n".to_owned(),
    )
}

/// The request names another host than its connection does, in Envoy's words for the same (`xds::resources`).
pub(super) fn misdirected(server_name: &str) -> CheckResponse {
    let name: String = server_name.chars().take(253).flat_map(char::escape_debug).collect();
    refuse(
        Code::PermissionDenied,
        421,
        vec![],
        format!(
            "Misdirected Request: this connection is for {name} (its TLS server name), and the request names another host. Open \
             a connection of its own for each host.\n"
        ),
    )
}

fn refuse(code: Code, status: u16, headers: Vec<HeaderValueOption>, body: String) -> CheckResponse {
    CheckResponse {
        status: Some(Status { code: code as i32, ..Default::default() }),
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus { code: status.into() }),
            headers,
            body,
        })),
        ..Default::default()
    }
}

/// Envoy reads `value` alone of what the vault sends; a `raw_value` makes the header empty (1.40).
fn header(key: &str, value: &str, action: HeaderAppendAction) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: key.to_owned(), value: value.to_owned(), ..Default::default() }),
        append_action: action as i32,
        ..Default::default()
    }
}
