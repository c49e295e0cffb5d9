//! As much of Stripe's, OpenAI's and Anthropic's APIs as their SDKs need to be content.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, Response};
use serde_json::{Value, json};

use super::journal::Recorded;
use super::routes::{Body, json_response};
use super::streams::event_stream;

/// What the streamed answers say, word by word.
const WORDS: [&str; 4] = ["The ", "key ", "stays ", "outside."];

/// The API's answer, if this is a path one of the APIs has.
pub(super) fn answer(method: &Method, path: &str, request: &Recorded) -> Option<Response<Body>> {
    let streamed = || request_json(&request.body)["stream"] == json!(true);
    Some(match (method.as_str(), path) {
        ("GET", "/v1/customers") => json_response(&list("/v1/customers", &json!([customer()]))),
        ("POST", "/v1/customers") => json_response(&customer()),
        ("GET", "/v1/charges") => json_response(&list("/v1/charges", &json!([charge()]))),
        ("POST", "/v1/charges") => json_response(&charge()),
        ("GET", "/v1/models") => json_response(&json!({
            "object": "list",
            "data": [{"id": "gpt-test", "object": "model", "created": 1_700_000_000, "owned_by": "test"}],
        })),
        ("POST", "/v1/chat/completions") if streamed() => events(openai_stream()),
        ("POST", "/v1/chat/completions") => json_response(&openai_completion()),
        ("POST", "/v1/messages") if streamed() => events(anthropic_stream()),
        ("POST", "/v1/messages") => json_response(&anthropic_message()),
        _ => return None,
    })
}

fn request_json(body: &Bytes) -> Value {
    serde_json::from_slice(body).unwrap_or_default()
}

fn customer() -> Value {
    json!({"id": "cus_test", "object": "customer", "email": "agent@example.com", "livemode": false, "metadata": {}})
}

fn charge() -> Value {
    json!({"id": "ch_test", "object": "charge", "amount": 1999, "currency": "eur", "paid": true, "livemode": false})
}

fn list(url: &str, data: &Value) -> Value {
    json!({"object": "list", "url": url, "has_more": false, "data": data})
}

fn openai_completion() -> Value {
    json!({
        "id": "chatcmpl-test",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "gpt-test",
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": WORDS.concat()},
            "finish_reason": "stop",
        }],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    })
}

fn openai_stream() -> Vec<String> {
    let chunk = |delta: Value, finish: Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
        let chunk = json!({
            "id": "chatcmpl-test",
            "object": "chat.completion.chunk",
            "created": 1_700_000_000,
            "model": "gpt-test",
            "choices": [choice],
        });
        format!("data: {chunk}\n\n")
    };
    let first = chunk(json!({"role": "assistant", "content": ""}), Value::Null);
    let words = WORDS.iter().map(|word| chunk(json!({"content": word}), Value::Null));
    let last = [chunk(json!({}), json!("stop")), "data: [DONE]\n\n".to_owned()];
    std::iter::once(first).chain(words).chain(last).collect()
}

fn anthropic_message() -> Value {
    json!({
        "id": "msg_test",
        "type": "message",
        "role": "assistant",
        "model": "claude-test",
        "content": [{"type": "text", "text": WORDS.concat()}],
        "stop_reason": "end_turn",
        "stop_sequence": null,
        "usage": {"input_tokens": 3, "output_tokens": 4},
    })
}

fn anthropic_stream() -> Vec<String> {
    let event = |name: &str, mut data: Value| {
        data["type"] = json!(name);
        format!("event: {name}\ndata: {data}\n\n")
    };
    let mut start = anthropic_message();
    start["content"] = json!([]);
    start["stop_reason"] = Value::Null;
    let delta =
        |word: &&str| event("content_block_delta", json!({"index": 0, "delta": {"type": "text_delta", "text": word}}));
    let head = [
        event("message_start", json!({"message": start})),
        event("content_block_start", json!({"index": 0, "content_block": {"type": "text", "text": ""}})),
        event("ping", json!({})),
    ];
    let stop = json!({"delta": {"stop_reason": "end_turn", "stop_sequence": null}, "usage": {"output_tokens": 4}});
    let tail = [
        event("content_block_stop", json!({"index": 0})),
        event("message_delta", stop),
        event("message_stop", json!({})),
    ];
    head.into_iter().chain(WORDS.iter().map(delta)).chain(tail).collect()
}

/// The events one by one with a little time between them, so that a proxy that buffers would show.
fn events(events: Vec<String>) -> Response<Body> {
    event_stream(stream::iter(events).then(|event| async move {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        event
    }))
}
