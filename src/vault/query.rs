//! One parameter in the query of a request target: read, and put in. All other bytes of the target stay as they are.
//!
//! Envoy could do it (`query_parameters_to_set`), but sorts the parameters that the client sent.

use std::borrow::Cow;

use zeroize::Zeroizing;

/// The path of a target, and the parameters of its query as they are written.
pub(super) fn split(target: &str) -> (&str, impl Iterator<Item = &str>) {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    (path, query.into_iter().flat_map(|query| query.split('&')))
}

/// What a parameter as written is set to, decoded, when it is called `name`; empty without a `=`.
pub(super) fn value_of<'a>(parameter: &'a str, name: &str) -> Option<Cow<'a, [u8]>> {
    let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
    (*decoded(key) == *name.as_bytes()).then(|| decoded(value))
}

/// The target with `assignment` (`name=value`, encoded) as its last parameter, and no other one of this name.
pub(super) fn with(target: &str, name: &str, assignment: &str) -> String {
    let (path, parameters) = split(target);
    let mut out = String::with_capacity(target.len() + assignment.len() + 2);
    out.push_str(path);
    out.push('?');
    for parameter in parameters.filter(|parameter| value_of(parameter, name).is_none()) {
        out.push_str(parameter);
        out.push('&');
    }
    if out.ends_with("?&") || out.ends_with("&&") {
        // A parameter that is empty and last: `/?`, `/?a=b&`.
        out.pop();
    }
    out.push_str(assignment);
    out
}

/// `name=value`, the value percent-encoded (RFC 3986 §2.3: all but letters, digits, `-._~`). `name` needs no encoding.
pub(super) fn assignment(name: &str, value: &[u8]) -> Zeroizing<Vec<u8>> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    // As long as it can become, so that it is never copied while it grows.
    let mut out = Zeroizing::new(Vec::with_capacity(name.len() + 1 + 3 * value.len()));
    out.extend_from_slice(name.as_bytes());
    out.push(b'=');
    for &byte in value {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
    out
}

/// Percent escapes and `+` decoded, once, as forms are (WHATWG URL §5.1); what is no escape stays as it is.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(bytes);
    }
    let digit =
        |at: usize| bytes.get(at).and_then(|&byte| char::from(byte).to_digit(16)).and_then(|d| u8::try_from(d).ok());
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match (byte, digit(at), digit(at + 1)) {
            (b'%', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                at += 2;
            }
            (b'+', ..) => out.push(b' '),
            _ => out.push(byte),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameter_is_put_in_and_others_of_its_name_go() {
        for (target, expected) in [
            ("/v1", "/v1?key=K"),
            ("/v1?", "/v1?key=K"),
            ("/v1?a&", "/v1?a&key=K"),
            ("/v1?key=a", "/v1?key=K"),
            ("/v1?key", "/v1?key=K"),
            ("/v1?b=2&key=a&a=1&key=c", "/v1?b=2&a=1&key=K"),
            ("/v1?%6bey=a&k%65y=b&%6B%45y=c&key%3Da=d", "/v1?%6B%45y=c&key%3Da=d&key=K"),
            ("/v1?Key=a&keys=b&key[]=c&x=key=d", "/v1?Key=a&keys=b&key[]=c&x=key=d&key=K"),
            // Other bytes stay as they are, in their order.
            ("/a%20b/key=x?z=%7e+%zz&&a=b?c&", "/a%20b/key=x?z=%7e+%zz&&a=b?c&key=K"),
        ] {
            assert_eq!(with(target, "key", "key=K"), expected, "{target}");
        }
    }

    #[test]
    fn values_are_decoded_once() {
        for (parameter, value) in [
            ("key=abc", Some("abc")),
            ("key=a%62%2541", Some("ab%41")),
            ("%6b%65%79=a+b%", Some("a b%")),
            ("key=%", Some("%")),
            ("key=%4", Some("%4")),
            ("key=%+1", Some("% 1")),
            ("key", Some("")),
            ("key=a=b", Some("a=b")),
            ("Key=a", None),
            ("%256bey=a", None),
            ("", None),
        ] {
            let found = value_of(parameter, "key");
            assert_eq!(found.as_deref(), value.map(str::as_bytes), "{parameter}");
        }
    }

    #[test]
    fn every_byte_that_could_be_read_otherwise_is_encoded() {
        let text = "a-._~Z9 +&=#?/%\u{e4}\t\"";
        let encoded = assignment("key", text.as_bytes());
        let encoded = std::str::from_utf8(&encoded).unwrap();
        assert_eq!(encoded, "key=a-._~Z9%20%2B%26%3D%23%3F%2F%25%C3%A4%09%22");
        assert_eq!(value_of(encoded, "key").as_deref(), Some(text.as_bytes()));
    }
}
