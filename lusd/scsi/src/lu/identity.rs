//! Who a logical unit says it is: INQUIRY strings, serial number and world wide names (SPC-4 4.4).

use std::fmt;
use std::fmt::Write as _;

/// Longest PRODUCT SERIAL NUMBER, in bytes: fits the one byte lengths of the T10 vendor id designator.
pub const SERIAL_BYTES_MAX: usize = 64;

/// Why an identity was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// A field of INQUIRY is longer than the wire has room for.
    #[error("longer than {max} characters")]
    TooLong {
        /// Room on the wire, in bytes.
        max: usize,
    },
    /// The field is empty.
    #[error("empty")]
    Empty,
    /// T10 strings are printable ASCII (SPC-4 4.4.1).
    #[error("not printable ASCII")]
    NotPrintableAscii,
    /// A WWN is neither 16 nor 32 hex digits long.
    #[error("a WWN has 16 or 32 hex digits, this has {0} characters")]
    WwnLength(usize),
    /// A WWN has a character that is no hex digit.
    #[error("not a hex digit: {0:?}")]
    WwnDigit(char),
    /// The first digit of a WWN (NAA type) does not go with its length: 2, 3 or 5 with 16 digits, 6 with 32.
    #[error("NAA type {naa_type:x} does not go with {digits} hex digits: 2, 3 or 5 has 16, 6 has 32")]
    WwnType {
        /// NAA, the high nibble of the first byte.
        naa_type: u8,
        /// Number of hex digits given.
        digits: usize,
    },
}

/// A NAA designator (SPC-4): the world wide name by which multipath recognizes a logical unit.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Naa {
    bytes: [u8; 16],
    len: u8,
}

/// Bytes of NAA types 2, 3 and 5.
const NAA_SHORT_BYTES: usize = 8;
/// Bytes of NAA type 6.
const NAA_LONG_BYTES: usize = 16;

impl Naa {
    /// The locally assigned name (type 3) of a logical unit without a WWN of its own: the id's halves folded into
    /// 60 bits. Hosts remember it, so this function never changes.
    pub const fn from_id(id: [u8; 16]) -> Naa {
        const LOCALLY_ASSIGNED: u64 = 3 << 60;
        let id = u128::from_be_bytes(id);
        let folded = ((id >> 64) as u64 ^ id as u64) & ((1 << 60) - 1);
        let short = (LOCALLY_ASSIGNED | folded).to_be_bytes();
        let mut bytes = [0; NAA_LONG_BYTES];
        bytes.split_at_mut(NAA_SHORT_BYTES).0.copy_from_slice(&short);
        Naa { bytes, len: NAA_SHORT_BYTES as u8 }
    }

    /// Reads a WWN of 16 (NAA 2, 3, 5) or 32 hex digits (NAA 6); a leading `0x`, `naa.` or `wwn-0x` is skipped.
    pub fn parse(text: &str) -> Result<Naa, IdentityError> {
        let digits =
            ["wwn-0x", "0x", "naa."].iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or(text);
        let count = digits.chars().count();
        if count != 2 * NAA_SHORT_BYTES && count != 2 * NAA_LONG_BYTES {
            return Err(IdentityError::WwnLength(count));
        }
        let mut bytes = [0; NAA_LONG_BYTES];
        for (at, character) in digits.chars().enumerate() {
            let digit = character.to_digit(16).ok_or(IdentityError::WwnDigit(character))?;
            bytes[at / 2] = bytes[at / 2] << 4 | digit as u8;
        }
        let naa_type = bytes[0] >> 4;
        match (naa_type, count / 2) {
            (2 | 3 | 5, NAA_SHORT_BYTES) | (6, NAA_LONG_BYTES) => Ok(Naa { bytes, len: (count / 2) as u8 }),
            _ => Err(IdentityError::WwnType { naa_type, digits: count }),
        }
    }

    /// 8 or 16 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Display for Naa {
    /// Lower case hex digits without a prefix.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Naa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "naa.{self}")
    }
}

impl std::str::FromStr for Naa {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Naa, IdentityError> {
        Naa::parse(text)
    }
}

/// What INQUIRY and its pages say about a logical unit; the same on every path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub(crate) id: [u8; 16],
    pub(crate) vendor: [u8; 8],
    pub(crate) product: [u8; 16],
    pub(crate) revision: [u8; 4],
    pub(crate) serial: String,
    pub(crate) naa: Naa,
}

impl Identity {
    /// Vendor `CEPH`, product `LUS`, the id in hex digits as serial number, the NAA name made from the id.
    pub fn new(id: [u8; 16]) -> Identity {
        let mut serial = String::with_capacity(2 * id.len());
        for byte in id {
            // Writing to a String cannot fail.
            let _ = write!(serial, "{byte:02x}");
        }
        Identity {
            id,
            vendor: *b"CEPH    ",
            product: *b"LUS             ",
            revision: *b"0001",
            serial,
            naa: Naa::from_id(id),
        }
    }

    /// T10 VENDOR IDENTIFICATION, at most 8 characters.
    pub fn with_vendor(mut self, vendor: &str) -> Result<Identity, IdentityError> {
        self.vendor = padded(vendor)?;
        Ok(self)
    }

    /// PRODUCT IDENTIFICATION, at most 16 characters.
    pub fn with_product(mut self, product: &str) -> Result<Identity, IdentityError> {
        self.product = padded(product)?;
        Ok(self)
    }

    /// PRODUCT REVISION LEVEL, at most 4 characters.
    pub fn with_revision(mut self, revision: &str) -> Result<Identity, IdentityError> {
        self.revision = padded(revision)?;
        Ok(self)
    }

    /// PRODUCT SERIAL NUMBER, at most [`SERIAL_BYTES_MAX`] characters.
    pub fn with_serial(mut self, serial: &str) -> Result<Identity, IdentityError> {
        check_text(serial, SERIAL_BYTES_MAX)?;
        self.serial = serial.to_owned();
        Ok(self)
    }

    /// A given world wide name.
    pub fn with_naa(mut self, naa: Naa) -> Identity {
        self.naa = naa;
        self
    }

    /// The world wide name.
    pub fn naa(&self) -> Naa {
        self.naa
    }

    /// The serial number.
    pub fn serial(&self) -> &str {
        &self.serial
    }
}

fn check_text(text: &str, max: usize) -> Result<(), IdentityError> {
    if text.is_empty() {
        return Err(IdentityError::Empty);
    }
    if !text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return Err(IdentityError::NotPrintableAscii);
    }
    if text.len() > max {
        return Err(IdentityError::TooLong { max });
    }
    Ok(())
}

/// Left aligned, padded with spaces (SPC-4 4.4.1).
fn padded<const N: usize>(text: &str) -> Result<[u8; N], IdentityError> {
    check_text(text, N)?;
    let mut field = [b' '; N];
    field[..text.len()].copy_from_slice(text.as_bytes());
    Ok(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: [u8; 16] =
        [0x6b, 0xa7, 0xb8, 0x10, 0x9d, 0xad, 0x41, 0xd1, 0x80, 0xb4, 0x00, 0xc0, 0x4f, 0xd4, 0x30, 0xc8];

    #[test]
    fn the_name_made_from_an_id_is_fixed_for_ever() {
        // 6ba7b8109dad41d1 xor 80b400c04fd430c8, high nibble replaced by 3
        assert_eq!(Naa::from_id(ID).to_string(), "3b13b8d0d2797119");
        assert_eq!(Naa::from_id(ID).as_bytes().len(), 8);
    }

    #[test]
    fn wwns_parse_by_type_and_length() {
        for good in
            ["2000000000000001", "3000000000000001", "5000000000000001", "60000000000000000000000000000001"]
        {
            assert_eq!(Naa::parse(good).unwrap().to_string(), good);
        }
        assert_eq!(Naa::parse("naa.50000000000000FF").unwrap().to_string(), "50000000000000ff");
        assert_eq!(Naa::parse("0x5000000000000001"), Naa::parse("wwn-0x5000000000000001"));
        assert_eq!(Naa::parse(""), Err(IdentityError::WwnLength(0)));
        assert_eq!(Naa::parse("500000000000000"), Err(IdentityError::WwnLength(15)));
        assert_eq!(Naa::parse("500000000000000g"), Err(IdentityError::WwnDigit('g')));
        assert_eq!(Naa::parse("50000000000000\u{e9}0"), Err(IdentityError::WwnDigit('\u{e9}')));
        for (text, naa_type) in
            [("6000000000000001", 6), ("1000000000000001", 1), ("50000000000000000000000000000001", 5)]
        {
            assert_eq!(Naa::parse(text), Err(IdentityError::WwnType { naa_type, digits: text.len() }));
        }
    }

    #[test]
    fn strings_are_bounded_printable_ascii() {
        let identity = Identity::new(ID);
        assert_eq!(identity.serial(), "6ba7b8109dad41d180b400c04fd430c8");
        assert_eq!(identity.clone().with_vendor("LIO-ORG").unwrap().vendor, *b"LIO-ORG ");
        assert_eq!(identity.clone().with_vendor("123456789"), Err(IdentityError::TooLong { max: 8 }));
        assert_eq!(identity.clone().with_product(""), Err(IdentityError::Empty));
        assert_eq!(identity.clone().with_product("a\tb"), Err(IdentityError::NotPrintableAscii));
        assert_eq!(identity.clone().with_revision("12345"), Err(IdentityError::TooLong { max: 4 }));
        assert!(identity.clone().with_serial(&"x".repeat(SERIAL_BYTES_MAX)).is_ok());
        assert!(identity.with_serial(&"x".repeat(SERIAL_BYTES_MAX + 1)).is_err());
    }
}
