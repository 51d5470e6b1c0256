//! Header and data digests: CRC32C (RFC 7143 13.1, B.4), four bytes, least significant first.
//!
//! `crc32c` uses the processor's instruction where there is one.

use crate::bhs::DIGEST_LEN;

/// A running CRC32C.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crc(u32);

impl Crc {
    /// The CRC of nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// The CRC after `bytes` too.
    #[must_use]
    pub fn append(self, bytes: &[u8]) -> Self {
        Self(crc32c::crc32c_append(self.0, bytes))
    }

    /// The digest as it is sent.
    #[must_use]
    pub const fn to_wire(self) -> [u8; DIGEST_LEN] {
        self.0.to_le_bytes()
    }
}

/// The digest of one piece of bytes, as it is sent.
#[must_use]
pub fn of(bytes: &[u8]) -> [u8; DIGEST_LEN] {
    Crc::new().append(bytes).to_wire()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 7143 A.4 (bytes in the order in which they are sent).
    #[test]
    fn the_examples_of_the_rfc() {
        assert_eq!(of(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(of(&[0xff; 32]), [0x43, 0xab, 0xa8, 0x62]);
        let up: Vec<u8> = (0..32).collect();
        assert_eq!(of(&up), [0x4e, 0x79, 0xdd, 0x46]);
        let down: Vec<u8> = (0..32).rev().collect();
        assert_eq!(of(&down), [0x5c, 0xdb, 0x3f, 0x11]);
    }

    #[test]
    fn pieces_give_what_the_whole_gives() {
        let bytes: Vec<u8> = (0..=255).collect();
        for cut in 0..bytes.len() {
            let (a, b) = bytes.split_at(cut);
            assert_eq!(Crc::new().append(a).append(b).to_wire(), of(&bytes));
        }
    }
}
