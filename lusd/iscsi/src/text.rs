//! Text: lists of `key=value`, each ended by a zero byte (RFC 7143 6.1, 6.2).

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::error::TextError;

/// Greatest length of a key name, bytes (RFC 7143 6.1).
pub const KEY_LEN_MAX: usize = 63;
/// Greatest length of a value, bytes: a 1024-byte binary value of CHAP written in hexadecimal; all others are shorter.
pub const VALUE_LEN_MAX: usize = 2 + 2 * 1024;
/// Most pairs in one text. With it the answer to any login request, `KEY=NotUnderstood` to each at worst, fits the 8192 bytes
/// that every initiator takes.
pub const PAIRS_MAX: usize = 96;

/// The pairs of a complete text, in order. Empty pairs (padding that was counted as text) are skipped.
///
/// # Errors
/// The first thing that is wrong.
pub fn pairs(text: &[u8]) -> Result<Vec<(&str, &str)>, TextError> {
    let mut pairs = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.iter().position(|b| *b == 0).ok_or(TextError::Unterminated)?;
        let pair = &rest[..end];
        rest = &rest[end + 1..];
        if pair.is_empty() {
            continue;
        }
        if pairs.len() == PAIRS_MAX {
            return Err(TextError::TooManyPairs);
        }
        let equals = pair.iter().position(|b| *b == b'=').ok_or(TextError::NoEquals)?;
        let key = std::str::from_utf8(&pair[..equals]).map_err(|_| TextError::KeyName)?;
        let of_a_key = |b: u8| b.is_ascii_alphanumeric() || b".-+@_/#".contains(&b);
        if key.is_empty() || key.len() > KEY_LEN_MAX || !key.bytes().all(of_a_key) {
            return Err(TextError::KeyName);
        }
        let value = std::str::from_utf8(&pair[equals + 1..]).map_err(|_| TextError::Value)?;
        if value.len() > VALUE_LEN_MAX || value.chars().any(char::is_control) {
            return Err(TextError::Value);
        }
        pairs.push((key, value));
    }
    Ok(pairs)
}

/// Adds a pair to a text.
pub fn push(text: &mut Vec<u8>, key: &str, value: &str) {
    text.extend_from_slice(key.as_bytes());
    text.push(b'=');
    text.extend_from_slice(value.as_bytes());
    text.push(0);
}

/// A numerical value: decimal, or hexadecimal after `0x` (RFC 7143 6.1). None if it is neither or exceeds 32 bits.
#[must_use]
pub fn number(value: &str) -> Option<u32> {
    let (digits, radix) = match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None => (value, 10),
    };
    // `from_str_radix` would take a sign.
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| u32::from_str_radix(digits, radix).ok()).flatten()
}

/// Base64 as RFC 7143 6.1 has it: whether there are equals signs at the end, and what is in bits that make no byte, says nothing.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// A large binary value (RFC 7143 6.1): hexadecimal after `0x` (with an odd number of digits the first byte has one), or base64 after
/// `0b`. None if it is neither, or not of 1 to `len_max` bytes.
#[must_use]
pub fn binary(value: &str, len_max: usize) -> Option<Vec<u8>> {
    let (prefix, digits) = value.split_at_checked(2)?;
    let bytes = match prefix {
        "0x" | "0X" => from_hex(digits)?,
        "0b" | "0B" => BASE64.decode(digits).ok()?,
        _ => return None,
    };
    (1..=len_max).contains(&bytes.len()).then_some(bytes)
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    let (first, pairs) = digits.as_bytes().split_at(digits.len() % 2);
    let first = first.iter().map(|b| digit(*b));
    let pairs = pairs.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?));
    first.chain(pairs).collect()
}

/// Bytes as a binary value, hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|b| [b >> 4, b & 15]);
    "0x".chars().chain(digits.filter_map(|d| char::from_digit(d.into(), 16))).collect()
}

/// A boolean value: `Yes` or `No`.
#[must_use]
pub fn boolean(value: &str) -> Option<bool> {
    match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pairs_of_a_login() {
        let text = b"InitiatorName=iqn.2026-11.io.lus:host\0SessionType=Normal\0X-com.example.a=\0\0\0";
        let expected = [
            ("InitiatorName", "iqn.2026-11.io.lus:host"),
            ("SessionType", "Normal"),
            ("X-com.example.a", ""),
        ];
        assert_eq!(pairs(text).unwrap(), expected);
        assert_eq!(pairs(b"").unwrap(), []);
    }

    #[test]
    fn a_text_truncated_at_every_offset_is_its_whole_pairs_or_an_error() {
        let text = b"Alpha=1\0Beta=2\0";
        for cut in 0..=text.len() {
            let got = pairs(&text[..cut]).map(|p| p.len());
            let expected = match cut {
                0 => Ok(0),
                8 => Ok(1),
                15 => Ok(2),
                _ => Err(TextError::Unterminated),
            };
            assert_eq!(got, expected, "{cut}");
        }
    }

    #[test]
    fn what_is_not_a_pair() {
        assert_eq!(pairs(b"Alpha\0"), Err(TextError::NoEquals));
        assert_eq!(pairs(b"=1\0"), Err(TextError::KeyName));
        assert_eq!(pairs(b"Al pha=1\0"), Err(TextError::KeyName));
        assert_eq!(pairs(b"A=\xff\0"), Err(TextError::Value));
        assert_eq!(pairs(b"A=\x01\0"), Err(TextError::Value));
        let long = |key: usize, value: usize| [&*vec![b'k'; key], b"=", &*vec![b'v'; value], b"\0"].concat();
        assert!(pairs(&long(KEY_LEN_MAX, VALUE_LEN_MAX)).is_ok());
        assert_eq!(pairs(&long(KEY_LEN_MAX + 1, 1)), Err(TextError::KeyName));
        assert_eq!(pairs(&long(1, VALUE_LEN_MAX + 1)), Err(TextError::Value));
        assert_eq!(pairs(&b"A=1\0".repeat(PAIRS_MAX + 1)), Err(TextError::TooManyPairs));
    }

    #[test]
    fn numbers_and_booleans() {
        assert_eq!(number("262144"), Some(262_144));
        assert_eq!(number("0x40000"), Some(262_144));
        assert_eq!(number("0XfF"), Some(255));
        for bad in ["", "0x", "+1", "-1", " 1", "1 ", "4294967296", "ff", "0x1g", "Yes"] {
            assert_eq!(number(bad), None, "{bad}");
        }
        assert_eq!((boolean("Yes"), boolean("No"), boolean("yes")), (Some(true), Some(false), None));
    }

    #[test]
    fn binary_values() {
        let of = |value| binary(value, 4);
        for (value, bytes) in [
            ("0x00", &[0][..]),
            ("0XaBcD", &[0xab, 0xcd]),
            ("0x1", &[1]),
            ("0x123", &[0x01, 0x23]),
            ("0x01020304", &[1, 2, 3, 4]),
            ("0bAQ==", &[1]),
            ("0BAQ", &[1]),
            ("0bAQ=", &[1]),
            ("0bAQI=", &[1, 2]),
            ("0bAQID", &[1, 2, 3]),
            ("0bAQIDBA==", &[1, 2, 3, 4]),
            ("0b+/+/", &[0xfb, 0xff, 0xbf]),
            ("0bAR==", &[1]),
        ] {
            assert_eq!(of(value).as_deref(), Some(bytes), "{value}");
        }
        for bad in [
            "",
            "0",
            "0x",
            "0b",
            "12",
            "abcd",
            "0x1g",
            "0x+1",
            "0x 1",
            "0x0102030405",
            "0bAQIDBAU=",
            "0bA",
            "0bAQIDBA=A",
            "0b-_-_",
            "0b====",
            "0bA Q=",
            "\u{e9}x11",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
        assert!(binary(&format!("0x{}", "0".repeat(2048)), 1024).is_some());
        assert_eq!(binary(&format!("0x{}", "0".repeat(2049)), 1024), None);
        assert_eq!((hex(&[]), hex(&[0, 0x1f, 0xff])), ("0x".into(), "0x001fff".into()));
    }

    proptest! {
        #[test]
        fn binary_values_are_read_as_written(bytes in proptest::collection::vec(any::<u8>(), 1..64)) {
            prop_assert_eq!(binary(&hex(&bytes), 64), Some(bytes.clone()));
            prop_assert_eq!(binary(&format!("0b{}", BASE64.encode(&bytes)), 64), Some(bytes));
        }

        #[test]
        fn any_text_is_a_binary_value_or_none(value in "0[xXbB][0-9a-zA-Z+/= ]{0,40}|\\PC{0,20}") {
            if let Some(bytes) = binary(&value, 16) {
                prop_assert!((1..=16).contains(&bytes.len()));
            }
        }

        #[test]
        fn what_is_pushed_is_read(list in proptest::collection::vec(("[A-Za-z][A-Za-z0-9.@_-]{0,62}", "[ -~]{0,100}"), 0..8)) {
            let mut text = Vec::new();
            for (key, value) in &list {
                push(&mut text, key, value);
            }
            let read: Vec<_> = pairs(&text).unwrap().iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            prop_assert_eq!(read, list);
        }

        #[test]
        fn any_bytes_are_pairs_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = pairs(&bytes);
        }
    }
}
