//! Texts as they are written in TOML and on a shell's command line, to be copied from an answer and pasted.

use std::fmt::Write as _;

/// A basic string of TOML, in ASCII.
pub fn toml_string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            // Writing to a text cannot fail.
            _ => drop(write!(out, "\\U{:08X}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

/// An array of strings, on one line.
pub fn toml_array<S: AsRef<str>>(values: &[S]) -> String {
    let values: Vec<String> = values.iter().map(|value| toml_string(value.as_ref())).collect();
    format!("[{}]", values.join(", "))
}

/// One word for a POSIX shell, in quotes unless it has only characters that no shell reads in any other way.
pub fn shell_word(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:,=@+".contains(&byte);
    // zsh expands a `=` at the beginning.
    if !text.is_empty() && !text.starts_with('=') && text.bytes().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // That shells and TOML read back what was written is tested where offers are (`cli/mint/offers_tests.rs`).
    #[test]
    fn only_what_needs_quotes_has_them() {
        for (text, word) in [
            ("api.stripe.com", "api.stripe.com"),
            ("GET,POST", "GET,POST"),
            ("/v1/customers", "/v1/customers"),
            ("/v1/**", "'/v1/**'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
            ("=x", "'=x'"),
            ("$(id)", "'$(id)'"),
        ] {
            assert_eq!(shell_word(text), word);
        }
    }
}
