//! The subset of MessagePack that tokens are written in: integers, booleans, strings, byte strings and arrays.
//!
//! The reader borrows, never recurses and never allocates. Lengths are accepted only in their shortest form, as the Go
//! library writes them, so that a token has one encoding; integers are accepted in any form, as that library reads them
//! (they lie inside signed bytes, so nobody can change their form later). Specification: <https://github.com/msgpack/msgpack/blob/master/spec.md>.

use std::ops::Range;

/// Why bytes are not what the reader expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at byte {at}")]
pub struct CodecError {
    /// Where, in bytes from the start of the binary form.
    pub at: usize,
    /// What is wrong there.
    pub problem: CodecProblem,
}

/// What is wrong with an encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecProblem {
    /// The bytes end within a value.
    #[error("unexpected end")]
    End,
    /// Another type is wanted here.
    #[error("unexpected type")]
    Type,
    /// An array of another length is wanted here.
    #[error("wrong number of fields")]
    Arity,
    /// A length is not in its shortest form.
    #[error("length not in its shortest form")]
    LongForm,
    /// A byte string of another length is wanted here.
    #[error("wrong length")]
    Length,
    /// An integer does not fit.
    #[error("integer out of range")]
    Range,
    /// A string is not UTF-8.
    #[error("text is not UTF-8")]
    Utf8,
    /// There is more after the end.
    #[error("trailing bytes")]
    Trailing,
}

/// Reads values one after the other from borrowed bytes.
#[derive(Debug)]
pub struct Reader<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the start of `input`.
    pub fn new(input: &'a [u8]) -> Self {
        Self { input, at: 0 }
    }

    /// How many bytes have been read.
    pub fn position(&self) -> usize {
        self.at
    }

    /// An error about what begins at byte `at`.
    pub fn error<T>(&self, at: usize, problem: CodecProblem) -> Result<T, CodecError> {
        Err(CodecError { at, problem })
    }

    /// The header of an array: how many values follow.
    pub fn array(&mut self) -> Result<usize, CodecError> {
        let start = self.at;
        let count = match self.byte()? {
            marker @ 0x90..=0x9f => usize::from(marker & 0x0f),
            0xdc => self.length(start, 2, 16)?,
            0xdd => self.length(start, 4, 1 << 16)?,
            _ => return self.error(start, CodecProblem::Type),
        };
        // Each value takes a byte at least: a count beyond that is a lie that must not size anything.
        if count > self.input.len() - self.at { self.error(start, CodecProblem::End) } else { Ok(count) }
    }

    /// The header of an array of exactly `count` values.
    pub fn array_of(&mut self, count: usize) -> Result<(), CodecError> {
        let start = self.at;
        if self.array()? == count { Ok(()) } else { self.error(start, CodecProblem::Arity) }
    }

    /// A byte string: where its content lies.
    pub fn bin(&mut self) -> Result<Range<usize>, CodecError> {
        let start = self.at;
        let length = match self.byte()? {
            0xc4 => self.length(start, 1, 0)?,
            0xc5 => self.length(start, 2, 1 << 8)?,
            0xc6 => self.length(start, 4, 1 << 16)?,
            _ => return self.error(start, CodecProblem::Type),
        };
        self.skip(length)
    }

    /// A byte string of exactly `N` bytes.
    pub fn bin_of<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let start = self.at;
        let range = self.bin()?;
        let Ok(bytes) = self.input[range].try_into() else { return self.error(start, CodecProblem::Length) };
        Ok(bytes)
    }

    /// A string in UTF-8: where its content lies.
    pub fn str(&mut self) -> Result<Range<usize>, CodecError> {
        let start = self.at;
        let length = match self.byte()? {
            marker @ 0xa0..=0xbf => usize::from(marker & 0x1f),
            0xd9 => self.length(start, 1, 32)?,
            0xda => self.length(start, 2, 1 << 8)?,
            0xdb => self.length(start, 4, 1 << 16)?,
            _ => return self.error(start, CodecProblem::Type),
        };
        let range = self.skip(length)?;
        match std::str::from_utf8(&self.input[range.clone()]) {
            Ok(_) => Ok(range),
            Err(_) => self.error(start, CodecProblem::Utf8),
        }
    }

    /// A boolean.
    pub fn boolean(&mut self) -> Result<bool, CodecError> {
        let start = self.at;
        match self.byte()? {
            0xc2 => Ok(false),
            0xc3 => Ok(true),
            _ => self.error(start, CodecProblem::Type),
        }
    }

    /// An integer from 0, in any of the forms of an integer.
    pub fn unsigned(&mut self) -> Result<u64, CodecError> {
        let start = self.at;
        let Ok(value) = u64::try_from(self.integer()?) else { return self.error(start, CodecProblem::Range) };
        Ok(value)
    }

    /// An integer that fits in 64 bits with a sign, in any of the forms of an integer.
    pub fn signed(&mut self) -> Result<i64, CodecError> {
        let start = self.at;
        let Ok(value) = i64::try_from(self.integer()?) else { return self.error(start, CodecProblem::Range) };
        Ok(value)
    }

    /// Makes sure that everything has been read.
    pub fn end(&self) -> Result<(), CodecError> {
        if self.at == self.input.len() { Ok(()) } else { self.error(self.at, CodecProblem::Trailing) }
    }

    fn integer(&mut self) -> Result<i128, CodecError> {
        let start = self.at;
        Ok(match self.byte()? {
            marker @ 0x00..=0x7f => i128::from(marker),
            marker @ 0xe0..=0xff => i128::from(marker.cast_signed()),
            0xcc => i128::from(self.byte()?),
            0xcd => i128::from(u16::from_be_bytes(self.fixed()?)),
            0xce => i128::from(u32::from_be_bytes(self.fixed()?)),
            0xcf => i128::from(u64::from_be_bytes(self.fixed()?)),
            0xd0 => i128::from(i8::from_be_bytes(self.fixed()?)),
            0xd1 => i128::from(i16::from_be_bytes(self.fixed()?)),
            0xd2 => i128::from(i32::from_be_bytes(self.fixed()?)),
            0xd3 => i128::from(i64::from_be_bytes(self.fixed()?)),
            _ => return self.error(start, CodecProblem::Type),
        })
    }

    /// A big-endian length of `width` bytes that would not have fitted a shorter form, which holds all below `least`.
    fn length(&mut self, start: usize, width: usize, least: usize) -> Result<usize, CodecError> {
        let range = self.skip(width)?;
        let length = self.input[range].iter().fold(0, |length, &byte| (length << 8) | usize::from(byte));
        if length < least { self.error(start, CodecProblem::LongForm) } else { Ok(length) }
    }

    fn byte(&mut self) -> Result<u8, CodecError> {
        let Some(&byte) = self.input.get(self.at) else { return self.error(self.at, CodecProblem::End) };
        self.at += 1;
        Ok(byte)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let start = self.at;
        let range = self.skip(N)?;
        let Ok(bytes) = self.input[range].try_into() else { return self.error(start, CodecProblem::End) };
        Ok(bytes)
    }

    fn skip(&mut self, length: usize) -> Result<Range<usize>, CodecError> {
        let start = self.at;
        if length > self.input.len() - start {
            return self.error(start, CodecProblem::End);
        }
        self.at += length;
        Ok(start..self.at)
    }
}

/// Appends the header of an array of `count` values.
pub fn put_array(out: &mut Vec<u8>, count: usize) {
    match count {
        0..16 => out.push(0x90 | low_byte(count)),
        16..0x1_0000 => put_length(out, 0xdc, count, 2),
        _ => put_length(out, 0xdd, count, 4),
    }
}

/// Appends a byte string.
pub fn put_bin(out: &mut Vec<u8>, bytes: &[u8]) {
    match bytes.len() {
        length @ 0..0x100 => put_length(out, 0xc4, length, 1),
        length @ 0x100..0x1_0000 => put_length(out, 0xc5, length, 2),
        length => put_length(out, 0xc6, length, 4),
    }
    out.extend_from_slice(bytes);
}

/// Appends a string.
pub fn put_str(out: &mut Vec<u8>, text: &str) {
    match text.len() {
        length @ 0..32 => out.push(0xa0 | low_byte(length)),
        length @ 32..0x100 => put_length(out, 0xd9, length, 1),
        length @ 0x100..0x1_0000 => put_length(out, 0xda, length, 2),
        length => put_length(out, 0xdb, length, 4),
    }
    out.extend_from_slice(text.as_bytes());
}

/// Appends a boolean.
pub fn put_boolean(out: &mut Vec<u8>, value: bool) {
    out.push(if value { 0xc3 } else { 0xc2 });
}

/// Appends an integer from 0 in its shortest form.
pub fn put_unsigned(out: &mut Vec<u8>, value: u64) {
    let bytes = value.to_be_bytes();
    let (marker, width) = match value {
        0..0x80 => (None, 1),
        0x80..0x100 => (Some(0xcc), 1),
        0x100..0x1_0000 => (Some(0xcd), 2),
        0x1_0000..0x1_0000_0000 => (Some(0xce), 4),
        _ => (Some(0xcf), 8),
    };
    out.extend(marker);
    out.extend_from_slice(&bytes[8 - width..]);
}

/// Appends an integer in the form the Go library gives it: unsigned and shortest from 0 on, else signed and shortest.
pub fn put_signed(out: &mut Vec<u8>, value: i64) {
    if let Ok(value) = u64::try_from(value) {
        return put_unsigned(out, value);
    }
    let bytes = value.to_be_bytes();
    let (marker, width) = match value {
        -32.. => (None, 1),
        -0x80..-32 => (Some(0xd0), 1),
        -0x8000..-0x80 => (Some(0xd1), 2),
        -0x8000_0000..-0x8000 => (Some(0xd2), 4),
        _ => (Some(0xd3), 8),
    };
    out.extend(marker);
    out.extend_from_slice(&bytes[8 - width..]);
}

fn put_length(out: &mut Vec<u8>, marker: u8, length: usize, width: usize) {
    let bytes = length.to_be_bytes();
    out.push(marker);
    out.extend_from_slice(&bytes[bytes.len() - width..]);
}

fn low_byte(length: usize) -> u8 {
    length.to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn integers_are_written_short_and_read_in_any_form() {
        for (value, bytes) in [
            (0i64, &[0x00][..]),
            (127, &[0x7f]),
            (128, &[0xcc, 0x80]),
            (256, &[0xcd, 0x01, 0x00]),
            (65_536, &[0xce, 0, 1, 0, 0]),
            (1 << 32, &[0xcf, 0, 0, 0, 1, 0, 0, 0, 0]),
            (-1, &[0xff]),
            (-32, &[0xe0]),
            (-33, &[0xd0, 0xdf]),
            (-129, &[0xd1, 0xff, 0x7f]),
            (-32_769, &[0xd2, 0xff, 0xff, 0x7f, 0xff]),
            (i64::MIN, &[0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            let mut out = Vec::new();
            put_signed(&mut out, value);
            assert_eq!(out, bytes, "{value}");
            assert_eq!(Reader::new(&out).signed(), Ok(value));
        }
        for long in [&[0xcc, 4][..], &[0xcd, 0, 4], &[0xd0, 4], &[0xd3, 0, 0, 0, 0, 0, 0, 0, 4]] {
            assert_eq!(Reader::new(long).unsigned(), Ok(4));
        }
        let problem = |bytes: &[u8]| Reader::new(bytes).unsigned().unwrap_err().problem;
        assert_eq!(problem(&[0xff]), CodecProblem::Range);
        assert_eq!(problem(&[0xcf, 0]), CodecProblem::End);
        assert_eq!(problem(&[0xc0]), CodecProblem::Type);
        let big = [0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(Reader::new(&big).signed().unwrap_err().problem, CodecProblem::Range);
        assert_eq!(Reader::new(&big).unsigned(), Ok(u64::MAX));
    }

    #[test]
    fn lengths_have_one_form() {
        let mut array = vec![0xdc, 0, 15];
        array.extend([0; 15]);
        assert_eq!(Reader::new(&array).array().unwrap_err().problem, CodecProblem::LongForm);
        assert_eq!(Reader::new(&[0xc5, 0, 1, 7]).bin().unwrap_err().problem, CodecProblem::LongForm);
        assert_eq!(Reader::new(&[0xd9, 1, b'a']).str().unwrap_err().problem, CodecProblem::LongForm);
        assert_eq!(Reader::new(&[0xdd, 0xff, 0xff, 0xff, 0xff]).array().unwrap_err().problem, CodecProblem::End);
        assert_eq!(Reader::new(&[0xa1, 0xff]).str().unwrap_err().problem, CodecProblem::Utf8);
        assert_eq!(Reader::new(&[0x92, 0]).array().unwrap_err().problem, CodecProblem::End);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(text in "\\PC{0,300}", bytes in prop::collection::vec(any::<u8>(), 0..300), n: i64, u: u64) {
            let mut out = Vec::new();
            put_str(&mut out, &text);
            put_bin(&mut out, &bytes);
            put_signed(&mut out, n);
            put_unsigned(&mut out, u);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(&out[reader.str().unwrap()], text.as_bytes());
            prop_assert_eq!(&out[reader.bin().unwrap()], &bytes[..]);
            prop_assert_eq!(reader.signed().unwrap(), n);
            prop_assert_eq!(reader.unsigned().unwrap(), u);
            prop_assert!(reader.end().is_ok());
        }

        #[test]
        fn arrays_are_read_as_written(count in 0usize..70_000) {
            let mut out = Vec::new();
            put_array(&mut out, count);
            out.resize(out.len() + count, 0);
            prop_assert_eq!(Reader::new(&out).array(), Ok(count));
        }
    }
}
