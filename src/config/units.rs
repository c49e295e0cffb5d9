//! Small values of the configuration files, each with its guarantee.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;

/// An `EnvName` is the name of an environment variable: a letter or `_`, then letters, digits and `_` (POSIX XBD §8.1), at
/// most 255 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct EnvName(Arc<str>);

/// Why a text is not an [`EnvName`]. The text is not repeated: it may be a secret in the wrong place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the name of an environment variable has letters, digits and `_`, and does not begin with a digit")]
pub struct EnvNameError;

impl EnvName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EnvName {
    type Err = EnvNameError;

    fn from_str(text: &str) -> Result<Self, EnvNameError> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let first = text.bytes().next().is_some_and(|b| !b.is_ascii_digit());
        if first && text.len() <= 255 && text.bytes().all(legal) { Ok(Self(text.into())) } else { Err(EnvNameError) }
    }
}

impl fmt::Display for EnvName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A `Memory` is an amount of memory in bytes, 6 MiB (the least docker takes) or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Memory(u64);

/// Why a text is not a [`Memory`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// Not docker's notation.
    #[error("an amount of memory is a number and a unit b, k, m, g or t, as in \"8g\" or \"512m\"")]
    Notation,
    /// Under 6 MiB.
    #[error("a container needs \"6m\" or more (without a unit the number is in bytes)")]
    TooLittle,
}

impl Memory {
    /// The amount in bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Memory {
    type Err = MemoryError;

    /// Docker's notation (go-units `RAMInBytes`): `8g`, `512MiB`, `1.5g`; units are powers of 1,024, in any case.
    fn from_str(text: &str) -> Result<Self, MemoryError> {
        let lower = text.trim().to_ascii_lowercase();
        let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
        let (number, unit) = lower.split_at(digits);
        let shift = match unit.trim_start() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(MemoryError::Notation),
        };
        // Billionths times a power of two: exact for every amount that can be meant.
        let billionths = u128::from(decimal_billionths(number).ok_or(MemoryError::Notation)?);
        let bytes = u64::try_from((billionths << shift) / 1_000_000_000).map_err(|_| MemoryError::Notation)?;
        if bytes < 6 << 20 { Err(MemoryError::TooLittle) } else { Ok(Self(bytes)) }
    }
}

/// A `Cpus` is a share of processors in billionths of one, more than none and at most 4,096 processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Cpus(u64);

/// Why a text is not a [`Cpus`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a number of processors is a decimal number above 0, as in \"4\" or \"1.5\"")]
pub struct CpusError;

impl Cpus {
    /// Billionths of a processor: docker's `NanoCpus`.
    pub fn nanos(self) -> u64 {
        self.0
    }
}

impl FromStr for Cpus {
    type Err = CpusError;

    fn from_str(text: &str) -> Result<Self, CpusError> {
        match decimal_billionths(text) {
            Some(nanos) if (1..=4096 * 1_000_000_000).contains(&nanos) => Ok(Self(nanos)),
            _ => Err(CpusError),
        }
    }
}

/// `12`, `1.5`, `0.25` in billionths; `None` for anything else, for more than nine decimals, and when it does not fit.
fn decimal_billionths(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let fraction: u64 = format!("{fraction:0<9}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1_000_000_000)?.checked_add(fraction)
}

/// An `ImageName` is a container image reference: 1 to 255 visible ASCII characters that do not begin with `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct ImageName(Arc<str>);

/// Why a text is not an [`ImageName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an image is named as docker does, as in \"agent-creds-sandbox\" or \"registry.example.com/team/image:tag\"")]
pub struct ImageNameError;

impl ImageName {
    /// The reference as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for ImageName {
    fn default() -> Self {
        Self("agent-creds-sandbox".into())
    }
}

impl FromStr for ImageName {
    type Err = ImageNameError;

    fn from_str(text: &str) -> Result<Self, ImageNameError> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b);
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if first && text.len() <= 255 && text.bytes().all(legal) { Ok(Self(text.into())) } else { Err(ImageNameError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_dockers_notation() {
        for (text, bytes) in [
            ("8g", 8 << 30),
            ("512m", 512 << 20),
            ("512MiB", 512 << 20),
            ("1.5g", 3 << 29),
            ("10485760", 10 << 20),
            ("10485760b", 10 << 20),
            ("8192 KB", 8 << 20),
            ("1T", 1 << 40),
        ] {
            assert_eq!(text.parse::<Memory>().map(Memory::bytes), Ok(bytes), "{text}");
        }
        for bad in ["", "g", "8x", "-8g", "8gg", "1e9", ".5g", "5.g", "99999999999g", "18446744073709551615t", "1.2.3g"]
        {
            assert_eq!(bad.parse::<Memory>(), Err(MemoryError::Notation), "{bad}");
        }
        assert_eq!("8".parse::<Memory>(), Err(MemoryError::TooLittle));
    }

    #[test]
    fn cpus_are_decimals() {
        assert_eq!("4".parse::<Cpus>().map(Cpus::nanos), Ok(4_000_000_000));
        assert_eq!("1.5".parse::<Cpus>().map(Cpus::nanos), Ok(1_500_000_000));
        for bad in ["", "0", "0.0", "-1", "4 ", "1e3", "four", "5000", "1.0000000001", "99999999999999999999"] {
            assert_eq!(bad.parse::<Cpus>(), Err(CpusError), "{bad}");
        }
    }

    #[test]
    fn names() {
        assert!("STRIPE_API_KEY".parse::<EnvName>().is_ok());
        assert!("_x1".parse::<EnvName>().is_ok());
        for bad in ["", "1A", "A-B", "A=B", "Ä", "A B"] {
            assert!(bad.parse::<EnvName>().is_err(), "{bad}");
        }
        assert!("registry.example.com:5000/a/b:c@sha256:00".parse::<ImageName>().is_ok());
        for bad in ["", "-v", "a b", "a\n", "/abs"] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad:?}");
        }
    }
}
