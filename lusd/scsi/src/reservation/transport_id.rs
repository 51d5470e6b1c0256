//! TransportIDs of iSCSI initiator ports (SPC-4 7.6.4.6).
//!
//! ```text
//!   byte 0: TPID FORMAT (2 bits), PROTOCOL IDENTIFIER 5h   1: reserved   2, 3: ADDITIONAL LENGTH   4 ..: name, null terminated and padded
//!   format 00b: NAME         format 01b: NAME,i,0xISID  (12 hex digits)
//! ```

use super::InitiatorPort;
use super::action::Specified;
use crate::port::TARGET_NAME_BYTES_MAX;

/// Bytes before the name.
const HEADER_BYTES: usize = 4;
/// PROTOCOL IDENTIFIER of iSCSI.
const ISCSI: u8 = 0x05;
/// TPID FORMAT 01b, in place.
const WITH_ISID: u8 = 0x40;
/// ADDITIONAL LENGTH is at least this, and a multiple of four.
const ADDITIONAL_LENGTH_MIN: usize = 20;
/// What stands between the name and the ISID.
const SEPARATOR: &str = ",i,0x";
/// iSCSI names have the same limit for initiators as for targets (RFC 7143 4.2.7.1).
const NAME_BYTES_MAX: usize = TARGET_NAME_BYTES_MAX;

/// The wire form of an initiator port.
pub(super) fn encode(port: &InitiatorPort) -> Vec<u8> {
    let isid: String = port.isid.iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!("{}{SEPARATOR}{isid}", port.name);
    let additional = (text.len() + 1).next_multiple_of(4).max(ADDITIONAL_LENGTH_MIN);
    let mut bytes = vec![ISCSI | WITH_ISID, 0];
    // At most 223 + 5 + 12 + 1 bytes: fits.
    bytes.extend_from_slice(&(additional as u16).to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes.resize(HEADER_BYTES + additional, 0);
    bytes
}

/// The TransportID at the beginning of `bytes`, and how long it is. `None`: it is cut off, of another protocol, or malformed.
pub(super) fn decode(bytes: &[u8]) -> Option<(Specified, usize)> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let additional = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if additional < ADDITIONAL_LENGTH_MIN || !additional.is_multiple_of(4) {
        return None;
    }
    let field = rest.get(..additional)?;
    let end = field.iter().position(|byte| *byte == 0)?;
    let text = std::str::from_utf8(&field[..end]).ok()?;
    let specified = match header[0] {
        ISCSI => Specified::Device(name(text)?),
        first if first == ISCSI | WITH_ISID => {
            let (left, isid) = text.rsplit_once(SEPARATOR)?;
            Specified::Port(InitiatorPort { name: name(left)?, isid: parse_isid(isid)? })
        }
        _ => return None,
    };
    Some((specified, HEADER_BYTES + additional))
}

/// iSCSI names are compared in lower case (RFC 7143 4.2.7.2), in which a letter may take more bytes: what is kept has to fit.
fn name(text: &str) -> Option<String> {
    let name = text.to_lowercase();
    (!name.is_empty() && name.len() <= NAME_BYTES_MAX).then_some(name)
}

/// Hexadecimal digits of the six bytes; leading zeroes may be left out.
fn parse_isid(text: &str) -> Option<[u8; 6]> {
    const DIGITS_MAX: usize = 12;
    if text.is_empty() || text.len() > DIGITS_MAX || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let bytes = u64::from_str_radix(text, 16).ok()?.to_be_bytes();
    let (_, isid) = bytes.split_last_chunk::<6>()?;
    Some(*isid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_port_as_in_the_standard() {
        let port = InitiatorPort { name: "iqn.a:b".into(), isid: [0x00, 0x02, 0x3d, 0, 0, 1] };
        let bytes = encode(&port);
        assert_eq!(&bytes[..4], [0x45, 0, 0, 28]);
        assert_eq!(&bytes[4..], b"iqn.a:b,i,0x00023d000001\0\0\0\0");
        assert_eq!(decode(&bytes), Some((Specified::Port(port), 32)));
    }

    #[test]
    fn a_device_has_no_isid() {
        let bytes = [&[0x05, 0, 0, 20][..], b"IQN.a:b\0\0\0\0\0\0\0\0\0\0\0\0\0", b"next"].concat();
        assert_eq!(decode(&bytes), Some((Specified::Device("iqn.a:b".into()), 24)));
    }

    #[test]
    fn a_name_fits_in_lower_case_too() {
        let device = |name: &str| {
            let mut bytes = vec![0x05, 0, 0, 228];
            bytes.extend_from_slice(name.as_bytes());
            bytes.resize(4 + 228, 0);
            decode(&bytes)
        };
        assert_eq!(device(&"A".repeat(223)), Some((Specified::Device("a".repeat(223)), 232)));
        assert_eq!(device(&"a".repeat(224)), None);
        // Two bytes, and three in lower case.
        assert_eq!(device(&"\u{130}".repeat(111)), None);
    }

    #[test]
    fn what_is_malformed_is_none() {
        let good = encode(&InitiatorPort { name: "iqn.a:b".into(), isid: [1; 6] });
        for cut in 0..good.len() {
            assert_eq!(decode(&good[..cut]), None, "{cut} bytes");
        }
        for (at, byte) in [(0, 0x46), (0, 0x85), (0, 0x00), (3, 27), (3, 16), (2, 1), (15, b'y'), (16, b'g')]
        {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(decode(&bad), None, "byte {at}");
        }
        let unterminated = [&[0x05, 0, 0, 20][..], &[b'a'; 20]].concat();
        assert_eq!(decode(&unterminated), None);
        let empty = [&[0x05, 0, 0, 20][..], &[0; 20]].concat();
        assert_eq!(decode(&empty), None);
    }

    proptest! {
        #[test]
        fn ports_survive_the_wire(name in "[a-z0-9.:-]{1,223}", isid: [u8; 6]) {
            let port = InitiatorPort { name, isid };
            let bytes = encode(&port);
            prop_assert_eq!(decode(&bytes), Some((Specified::Port(port), bytes.len())));
        }

        #[test]
        fn noise_does_no_harm(noise in proptest::collection::vec(any::<u8>(), 0..64), head in 0usize..3) {
            let mut bytes = noise;
            if bytes.len() > 3 {
                bytes[0] = [0x05, 0x45, bytes[0]][head];
                (bytes[2], bytes[3]) = (0, bytes[3] & 0x3c);
            }
            if let Some((_, len)) = decode(&bytes) {
                prop_assert!(len <= bytes.len());
            }
        }
    }
}
