//! The forms in which a secret may come back: what is looked for in answers, and masked.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use zeroize::{Zeroize, Zeroizing};

/// The name under which the vault tells Envoy [`Needles`], one a line, to look for in headers and trailers.
pub const NEEDLES_METADATA: &str = "redact";
/// The name under which the vault tells Envoy to look for them in the body, too.
pub const BODY_METADATA: &str = "redact_body";

/// What is shorter is not looked for: it would mask innocent text, and tell by it what the secret is.
pub const MIN_NEEDLE: usize = 8;

/// `Needles` are texts of [`MIN_NEEDLE`] bytes or more without line breaks, longest first and each once, wiped when
/// dropped. Its `Debug` does not show them.
pub struct Needles {
    lines: Zeroizing<String>,
    count: usize,
}

impl Needles {
    /// The forms of these secrets; `None` when all of them are too short to be looked for.
    ///
    /// A form is the secret as it is; percent-encoded in the ways that libraries differ; escaped as in JSON; and what it
    /// becomes inside of base64, whatever stands before and after it: three texts by where it begins, in both alphabets.
    pub fn of<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut forms = Forms(BTreeSet::new());
        // What has a line break is no header, and cannot be among credentials.
        for secret in secrets.into_iter().filter(|secret| secret.len() >= MIN_NEEDLE && !secret.contains(['\n', '\r']))
        {
            forms.add(secret.to_owned());
            for (kept, hex, plus) in PERCENT_ENCODINGS {
                forms.add(percent_encoded(secret, kept, hex, plus));
            }
            for slash in ["/", "\\/"] {
                forms.add(json_escaped(secret, slash));
            }
            for before in 0..3 {
                forms.add(inside_base64(secret, before, &STANDARD_NO_PAD));
                forms.add(inside_base64(secret, before, &URL_SAFE_NO_PAD));
            }
        }
        let count = forms.0.len();
        // As long as it becomes, so that it is never copied while it grows.
        let mut lines = Zeroizing::new(String::with_capacity(forms.0.iter().map(|(_, form)| form.len() + 1).sum()));
        for (_, form) in &forms.0 {
            if !lines.is_empty() {
                lines.push('\n');
            }
            lines.push_str(form);
        }
        (count > 0).then_some(Self { lines, count })
    }

    /// All of them, one a line.
    pub fn lines(&self) -> &str {
        &self.lines
    }
}

impl fmt::Debug for Needles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Needles({})", self.count)
    }
}

/// By length, the longest first.
struct Forms(BTreeSet<(std::cmp::Reverse<usize>, String)>);

impl Forms {
    fn add(&mut self, mut form: String) {
        let key = (std::cmp::Reverse(form.len()), form);
        if key.1.len() >= MIN_NEEDLE && !self.0.contains(&key) {
            self.0.insert(key);
        } else {
            form = key.1;
            form.zeroize();
        }
    }
}

impl Drop for Forms {
    fn drop(&mut self) {
        while let Some((_, mut form)) = self.0.pop_first() {
            form.zeroize();
        }
    }
}

/// Which bytes stay besides letters and digits, the digits of hexadecimal numbers, and whether a space becomes a `+`.
const PERCENT_ENCODINGS: [(&[u8], &[u8; 16], bool); 7] = [
    // RFC 3986 §2.3: Rust, Go's PathEscape by and large, Python's quote(safe="").
    (b"-._~", b"0123456789ABCDEF", false),
    (b"-._~", b"0123456789abcdef", false),
    // Python's quote.
    (b"-._~/", b"0123456789ABCDEF", false),
    // encodeURIComponent.
    (b"-._~!*'()", b"0123456789ABCDEF", false),
    // encodeURI.
    (b"-._~!*'();/?:@&=+$,#", b"0123456789ABCDEF", false),
    // Forms: WHATWG URL §5.2, and Python's quote_plus or Go's QueryEscape.
    (b"-._*", b"0123456789ABCDEF", true),
    (b"-._~", b"0123456789ABCDEF", true),
];

fn percent_encoded(secret: &str, kept: &[u8], hex: &[u8; 16], plus: bool) -> String {
    let mut out = String::with_capacity(3 * secret.len());
    for &byte in secret.as_bytes() {
        if byte.is_ascii_alphanumeric() || kept.contains(&byte) {
            out.push(char::from(byte));
        } else if plus && byte == b' ' {
            out.push('+');
        } else {
            out.push('%');
            out.push(char::from(hex[usize::from(byte >> 4)]));
            out.push(char::from(hex[usize::from(byte & 15)]));
        }
    }
    out
}

/// Inside a JSON string (RFC 8259 §7); some escape the slash, too.
fn json_escaped(secret: &str, slash: &str) -> String {
    let mut out = String::with_capacity(2 * secret.len());
    for c in secret.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\t' => out.push_str("\\t"),
            '/' => out.push_str(slash),
            c => out.push(c),
        }
    }
    out
}

/// The characters that stand in base64 for `secret` alone, when `before` bytes (or three more, or six …) go before it.
fn inside_base64(secret: &str, before: usize, alphabet: &impl Engine) -> String {
    let mut bytes = Zeroizing::new(vec![0; before + secret.len()]);
    if let Some(rest) = bytes.get_mut(before..) {
        rest.copy_from_slice(secret.as_bytes());
    }
    let mut text = alphabet.encode(&*bytes);
    // A character is six bits: the first ones belong to what goes before, in part; the last one to what follows.
    let own = (8 * before).div_ceil(6)..8 * bytes.len() / 6;
    let found = text.get(own).map(str::to_owned).unwrap_or_default();
    text.zeroize();
    found
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};
    use proptest::prelude::*;

    use super::*;

    fn needles(secrets: &[&str]) -> Vec<String> {
        let needles = Needles::of(secrets.iter().copied());
        needles.map(|needles| needles.lines().split('\n').map(str::to_owned).collect()).unwrap_or_default()
    }

    #[test]
    fn a_common_key_has_four_forms() {
        assert_eq!(
            needles(&["sk_test_123456"]),
            ["NrX3Rlc3RfMTIzNDU2", "c2tfdGVzdF8xMjM0NT", "za190ZXN0XzEyMzQ1N", "sk_test_123456",]
        );
    }

    #[test]
    fn what_libraries_make_of_a_key_with_everything_in_it() {
        let found = needles(&["a b+/=&\"~*Z9ü"]);
        for form in [
            "a b+/=&\"~*Z9ü",
            "a%20b%2B%2F%3D%26%22~%2AZ9%C3%BC",
            "a%20b%2b%2f%3d%26%22~%2aZ9%c3%bc",
            "a%20b%2B/%3D%26%22~%2AZ9%C3%BC",
            "a%20b%2B%2F%3D%26%22~*Z9%C3%BC",
            "a%20b+/=&%22~*Z9%C3%BC",
            "a+b%2B%2F%3D%26%22%7E*Z9%C3%BC",
            "a+b%2B%2F%3D%26%22~%2AZ9%C3%BC",
            "a b+/=&\\\"~*Z9ü",
            "a b+\\/=&\\\"~*Z9ü",
        ] {
            assert!(found.iter().any(|found| found == form), "{form} is not among {found:?}");
        }
        assert!(found.is_sorted_by_key(|form| std::cmp::Reverse(form.len())));
    }

    #[test]
    fn short_secrets_are_not_looked_for_and_nothing_shows() {
        assert!(needles(&["1234567", "", "a\nb345678"]).is_empty());
        assert_eq!(needles(&["1234567", "12345678"]), needles(&["12345678"]));
        let needles = Needles::of(["sk_test_123456"]).unwrap();
        assert_eq!(format!("{needles:?}"), "Needles(4)");
    }

    proptest! {
        /// Wherever the secret stands in what is encoded, one of the needles is in the result.
        #[test]
        fn base64_of_anything_around_it_has_a_needle(
            before in prop::collection::vec(any::<u8>(), 0..20),
            secret in "[ -~äöü]{8,40}",
            after in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let found = needles(&[&secret]);
            let all = [before.as_slice(), secret.as_bytes(), &after].concat();
            for text in [STANDARD.encode(&all), URL_SAFE.encode(&all), URL_SAFE_NO_PAD.encode(&all)] {
                let needle = found.iter().find(|needle| text.contains(needle.as_str()));
                prop_assert!(needle.is_some(), "{found:?} are not in {text}");
                // All of the secret but a character at each end, of which bits belong to what is around it.
                prop_assert!(needle.unwrap().len() + 2 >= secret.len() * 4 / 3);
            }
        }

        #[test]
        fn needles_are_long_and_have_no_line_breaks(secrets in prop::collection::vec("[\t -~ä]{0,30}", 0..4)) {
            let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
            let found = needles(&secrets);
            prop_assert!(found.iter().all(|needle| needle.len() >= MIN_NEEDLE && !needle.contains(['\r', '\n'])));
            for secret in secrets.into_iter().filter(|secret| secret.len() >= MIN_NEEDLE) {
                prop_assert!(found.iter().any(|needle| needle == secret));
            }
        }
    }
}
