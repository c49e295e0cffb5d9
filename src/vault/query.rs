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

/// Name and value of a parameter as written, both decoded; the value is empty without a `=`.
pub(super) fn pair(parameter: &str) -> (Cow<'_, [u8]>, Cow<'_, [u8]>) {
    let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
    (decoded(name), decoded(value))
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
    // As long as it can become, so that it is never copied while it grows.
    let mut out = Zeroizing::new(Vec::with_capacity(name.len() + 1 + 3 * value.len()));
    out.extend_from_slice(name.as_bytes());
    out.push(b'=');
    encode_into(&mut out, value);
    out
}

/// Percent-encoded: all but letters, digits and `-._~`, which forms and RFC 3986 (§2.3) read alike.
pub(super) fn encode_into(out: &mut Vec<u8>, value: &[u8]) {
    for &byte in value {
        if is_unreserved(byte) {
            out.push(byte);
        } else {
            out.extend_from_slice(&escape(byte));
        }
    }
}

/// Appends the path with each byte percent-encoded but letters, digits and `-._~/`, whether it was or not.
pub(super) fn encode_path(path: &str, out: &mut String) {
    let bytes = path.as_bytes();
    let mut at = 0;
    while let Some(&written) = bytes.get(at) {
        let byte = (written == b'%').then(|| escaped(bytes, at + 1)).flatten();
        at += if byte.is_some() { 3 } else { 1 };
        let byte = byte.unwrap_or(written);
        if is_unreserved(byte) || byte == b'/' {
            out.push(char::from(byte));
        } else {
            out.extend(escape(byte).map(char::from));
        }
    }
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

fn escape(byte: u8) -> [u8; 3] {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    [b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]
}

/// The byte that the two hexadecimal digits at `at` stand for.
fn escaped(bytes: &[u8], at: usize) -> Option<u8> {
    let digit =
        |at: usize| bytes.get(at).and_then(|&byte| char::from(byte).to_digit(16)).and_then(|d| u8::try_from(d).ok());
    Some(digit(at)? << 4 | digit(at + 1)?)
}

/// Percent escapes and `+` decoded, once, as forms are (WHATWG URL §5.1); what is no escape stays as it is.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match (byte, escaped(bytes, at)) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
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
    fn a_path_is_encoded_once_however_it_was_written() {
        for (path, expected) in [
            ("/a/b-._~", "/a/b-._~"),
            ("/a%20b/c:d+(e)", "/a%20b/c%3Ad%2B%28e%29"),
            ("/%7e%3a%c3%a4%ff", "/~%3A%C3%A4%FF"),
            ("/100%/%4/%zz", "/100%25/%254/%25zz"),
            ("/%2541", "/%2541"),
        ] {
            let mut out = "x".to_owned();
            encode_path(path, &mut out);
            assert_eq!(&out[1..], expected, "{path}");
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
