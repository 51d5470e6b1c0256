//! Sizes of images: read as `rbd` reads them, shown as `ceph` shows them.

use std::fmt;
use std::str::FromStr;

use lus_map::BlockSize;

/// librbd and the READ CAPACITY arithmetic of every initiator stay inside signed 64 bits.
const SIZE_BYTES_MAX: u64 = i64::MAX as u64;
/// A bare number counts these, as for `rbd create --size`.
const UNIT_DEFAULT_BYTES: u64 = 1 << 20;
/// Letters of the binary units by their power of 1024.
const UNITS: &str = "BKMGTPE";

/// A size in bytes, above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) u64);

/// Why a text is not a [`Size`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadSize {
    text: String,
    why: &'static str,
}

impl fmt::Display for BadSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid size '{}': {}", self.text, self.why)
    }
}

impl std::error::Error for BadSize {}

impl FromStr for Size {
    type Err = BadSize;

    fn from_str(text: &str) -> Result<Self, BadSize> {
        let bad = |why| BadSize { text: text.chars().take(64).collect(), why };
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(end);
        if digits.is_empty() {
            return Err(bad(
                "the form is a whole number and a unit: 512M, 10G, 1T (a bare number counts MiB)",
            ));
        }
        let unit_bytes = match unit.trim_start() {
            "" => UNIT_DEFAULT_BYTES,
            unit => unit_bytes(unit)
                .ok_or_else(|| bad("the units are B, K, M, G, T, P and E (powers of 1024)"))?,
        };
        let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_bytes));
        match bytes {
            Some(0) => Err(bad("it must not be zero")),
            Some(bytes) if bytes <= SIZE_BYTES_MAX => Ok(Self(bytes)),
            _ => Err(bad("it is too large")),
        }
    }
}

/// The bytes of `G`, `g`, `Gi` or `GiB`; none for anything else, `GB` too, which many take for a power of 1000.
fn unit_bytes(unit: &str) -> Option<u64> {
    let mut letters = unit.chars();
    let power = UNITS.find(letters.next()?.to_ascii_uppercase())?;
    let rest = letters.as_str();
    let known = match power {
        0 => rest.is_empty(),
        _ => rest.is_empty() || rest.eq_ignore_ascii_case("i") || rest.eq_ignore_ascii_case("ib"),
    };
    known.then(|| 1 << (10 * power))
}

impl Size {
    /// The size if it is a whole number of blocks.
    ///
    /// # Errors
    /// The sentence that says what is wrong.
    pub(crate) fn in_blocks(self, block_size: BlockSize) -> Result<u64, String> {
        match self.0 % u64::from(block_size.bytes()) {
            0 => Ok(self.0),
            _ => Err(format!(
                "size of {} bytes is not a multiple of the block size {}",
                self.0,
                block_size.bytes()
            )),
        }
    }
}

impl fmt::Display for Size {
    /// `10 GiB`, `1.5 TiB`, `867 MiB`: at most three places, as Ceph shows them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let power = (self.0.max(1).ilog2() / 10) as usize;
        let letter = &UNITS[power..=power];
        let unit_bytes = 1u64 << (10 * power);
        if power == 0 {
            return write!(f, "{} B", self.0);
        }
        if self.0.is_multiple_of(unit_bytes) {
            return write!(f, "{} {letter}iB", self.0 / unit_bytes);
        }
        let value = self.0 as f64 / unit_bytes as f64;
        let places = (0..=2).rev().find(|places| format!("{value:.places$}").len() <= 3).unwrap_or(0);
        write!(f, "{value:.places$} {letter}iB")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_rbd_reads_them() {
        for (text, bytes) in [
            ("512M", 512 << 20),
            ("10G", 10 << 30),
            ("1T", 1 << 40),
            ("1024", 1 << 30),
            ("1", 1 << 20),
            ("4096B", 4096),
            ("512K", 512 << 10),
            ("10g", 10 << 30),
            ("10Gi", 10 << 30),
            ("10GiB", 10 << 30),
            ("10 GiB", 10 << 30),
            ("1P", 1 << 50),
            ("7E", 7 << 60),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn refused() {
        for (text, why) in [
            ("", "the form is"),
            ("G", "the form is"),
            ("-1", "the form is"),
            ("+1G", "the form is"),
            ("1.5G", "the units are"),
            ("10GB", "the units are"),
            ("10X", "the units are"),
            ("10Bi", "the units are"),
            ("10Gib2", "the units are"),
            ("0", "zero"),
            ("0G", "zero"),
            ("8E", "too large"),
            ("99999999999999999999", "too large"),
            ("18446744073709551615", "too large"),
        ] {
            let error = text.parse::<Size>().unwrap_err().to_string();
            assert!(error.contains(why) && error.starts_with(&format!("invalid size '{text}'")), "{error}");
        }
    }

    #[test]
    fn as_ceph_shows_them() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1 << 10, "1 KiB"),
            (10 << 30, "10 GiB"),
            (3_006_477_107, "2.8 GiB"),
            (909_115_392, "867 MiB"),
            (1_649_267_441_664, "1.5 TiB"),
            ((1 << 40) - 1, "1024 GiB"),
            (1 << 40, "1 TiB"),
            (1 << 60, "1 EiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }

    #[test]
    fn whole_blocks() {
        assert_eq!(Size(8192).in_blocks(BlockSize::B4096), Ok(8192));
        assert_eq!(
            Size(4608).in_blocks(BlockSize::B4096),
            Err("size of 4608 bytes is not a multiple of the block size 4096".into())
        );
    }
}
