//! CDP messages: a client's read strictly, Chrome's read as far as needed and passed on without copies of large values.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

/// A client's message: valid JSON, no key twice, written anew from what was understood.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) id: i64,
    pub(super) method: String,
    pub(super) params: Map<String, Value>,
    pub(super) session: Option<String>,
}

/// Why a message of a client is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    #[error("the message is no valid JSON, or has a key twice: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the message needs an integer `id`")]
    Id,
    #[error("the message needs a string `method`, an object `params` if any, and a string `sessionId` if any")]
    Shape,
}

impl Command {
    pub(super) fn parse(text: &str) -> Result<Self, CommandError> {
        let Strict(Value::Object(mut message)) = serde_json::from_str(text)? else { return Err(CommandError::Shape) };
        let id = message.get("id").and_then(Value::as_i64).ok_or(CommandError::Id)?;
        let Some(Value::String(method)) = message.remove("method") else { return Err(CommandError::Shape) };
        let params = match message.remove("params") {
            // `null` is what pyppeteer sends, and Chrome takes.
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(params)) => params,
            Some(_) => return Err(CommandError::Shape),
        };
        let session = match message.remove("sessionId") {
            None => None,
            Some(Value::String(session)) => Some(session),
            Some(_) => return Err(CommandError::Shape),
        };
        Ok(Self { id, method, params, session })
    }
}

/// A message of Chrome's, its values as they came.
#[derive(Debug, Deserialize)]
pub(super) struct FromChrome<'a> {
    pub(super) id: Option<u64>,
    #[serde(borrow)]
    pub(super) method: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "sessionId")]
    pub(super) session: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) params: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) result: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) error: Option<&'a RawValue>,
}

/// What a value of Chrome's says; `{}` when it is not there.
///
/// Text of pages may have half a surrogate pair, which Chrome escapes and no Rust string holds: it becomes a replacement character.
pub(super) fn value(raw: Option<&RawValue>) -> Value {
    let Some(raw) = raw else { return Value::Object(Map::new()) };
    serde_json::from_str(raw.get())
        .or_else(|_| serde_json::from_str(&without_lone_surrogates(raw.get())))
        .unwrap_or_else(|_| Value::Object(Map::new()))
}

fn without_lone_surrogates(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    let unit = |text: &str| {
        let digits = text.strip_prefix("\\u")?.get(..4)?;
        u16::from_str_radix(digits, 16).ok()
    };
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let taken = match unit(rest) {
            Some(0xD800..=0xDBFF)
                if rest.get(6..).and_then(unit).is_some_and(|low| (0xDC00..=0xDFFF).contains(&low)) =>
            {
                12
            }
            Some(0xD800..=0xDFFF) => {
                out.push_str("\\ufffd");
                rest = &rest[6..];
                continue;
            }
            Some(_) => 6,
            // `\\` and `\"`: what follows the backslash is no beginning of an escape.
            None => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
        };
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out.push_str(rest);
    out
}

/// JSON without a key twice in any object.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Seed.deserialize(deserializer).map(Strict)
    }
}

struct Seed;

impl<'de> DeserializeSeed<'de> for Seed {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Seed {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that is none"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Seed)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(Seed)?;
            if map.insert(key, value).is_some() {
                return Err(de::Error::custom("a key twice in one object"));
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_strictly() {
        let command =
            Command::parse(r#"{"id":1,"method":"A.b","params":{"x":[1,-2,0.5,null,true,"é"]},"sessionId":"S"}"#)
                .unwrap();
        assert_eq!((command.id, command.method.as_str(), command.session.as_deref()), (1, "A.b", Some("S")));
        assert_eq!(Value::Object(command.params).to_string(), r#"{"x":[1,-2,0.5,null,true,"é"]}"#);
        let bare = Command::parse(r#"{"id":1,"method":"A.b","params":null}"#).unwrap();
        assert!(bare.params.is_empty());
        for text in [
            r#"{"id":1,"method":"Browser.getVersion","method":"Browser.close"}"#,
            r#"{"id":1,"method":"Page.navigate","params":{"url":"https://a/","u\u0072l":"file:///"}}"#,
            r#"{"id":1,"method":"A.b","params":{"a":[{"b":1,"b":2}]}}"#,
            r#"{"id":1,"method":"A.b"} {"id":2,"method":"A.b"}"#,
            r#"{"id":1,"method":"A.b","params":[]}"#,
            r#"{"id":1,"method":"A.b","sessionId":1}"#,
            r#"{"id":1.5,"method":"A.b"}"#,
            r#"{"id":"1","method":"A.b"}"#,
            r#"{"method":"A.b"}"#,
            r#"{"id":1,"method":"\ud800"}"#,
            r#"[{"id":1,"method":"A.b"}]"#,
            "{'id':1}",
            "",
            &"[".repeat(100_000),
        ] {
            assert!(Command::parse(text).is_err(), "{text:.80}");
        }
    }

    #[test]
    fn half_a_surrogate_pair_of_a_page_is_no_obstacle() {
        let message: FromChrome<'_> =
            serde_json::from_str(r#"{"id":1,"result":{"a":"x\ud800y\\ud800\ud83d\ude00\udc00\""},"sessionId":"S"}"#)
                .unwrap();
        assert_eq!(value(message.result)["a"], "x\u{fffd}y\\ud800😀\u{fffd}\"");
        assert_eq!(value(None), serde_json::json!({}));
    }
}
