//! The login's text: what we ask for, and what came of it. As libiscsi does it: no authentication, `None` and CRC32C header digests.

use anyhow::{Context, bail, ensure};
use lusd_iscsi::text;

/// MaxRecvDataSegmentLength that we declare, bytes: as libiscsi.
pub const MAX_RECV_DATA_SEGMENT_LENGTH: u32 = 256 << 10;
/// We leave the burst lengths to the target: the greatest value there is.
const BURST_LENGTH: u32 = (1 << 24) - 1;

/// What target and we agreed on. Lengths in bytes; the values that stand without an answer are the RFC's (RFC 7143 13).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Each header has a CRC32C.
    pub header_digest: bool,
    /// Data that does not travel with its command must be asked for.
    pub initial_r2t: bool,
    /// Data may travel with its command.
    pub immediate_data: bool,
    /// Most that may be sent without having been asked for.
    pub first_burst_length: u32,
    /// Most that one R2T may ask for.
    pub max_burst_length: u32,
    /// Longest data segment that the target takes.
    pub max_send_data_segment_length: u32,
}

impl Default for Agreed {
    fn default() -> Self {
        Self {
            header_digest: false,
            initial_r2t: true,
            immediate_data: true,
            first_burst_length: 64 << 10,
            max_burst_length: 256 << 10,
            max_send_data_segment_length: 8 << 10,
        }
    }
}

/// The text of the security stage.
#[must_use]
pub fn who(initiator: &str, target: &str) -> Vec<u8> {
    let mut text = Vec::new();
    for (key, value) in [
        ("InitiatorName", initiator),
        ("TargetName", target),
        ("SessionType", "Normal"),
        ("AuthMethod", "None"),
    ] {
        text::push(&mut text, key, value);
    }
    text
}

/// The text of the operational stage.
#[must_use]
pub fn how(header_digest: bool) -> Vec<u8> {
    let (recv, burst) = (MAX_RECV_DATA_SEGMENT_LENGTH.to_string(), BURST_LENGTH.to_string());
    let mut text = Vec::new();
    for (key, value) in [
        ("HeaderDigest", if header_digest { "CRC32C" } else { "None" }),
        ("DataDigest", "None"),
        ("InitialR2T", "No"),
        ("ImmediateData", "Yes"),
        ("MaxRecvDataSegmentLength", recv.as_str()),
        ("FirstBurstLength", burst.as_str()),
        ("MaxBurstLength", burst.as_str()),
        ("MaxConnections", "1"),
        ("MaxOutstandingR2T", "1"),
        ("ErrorRecoveryLevel", "0"),
        ("DefaultTime2Wait", "2"),
        ("DefaultTime2Retain", "0"),
        ("IFMarker", "No"),
        ("OFMarker", "No"),
        ("DataPDUInOrder", "Yes"),
        ("DataSequenceInOrder", "Yes"),
    ] {
        text::push(&mut text, key, value);
    }
    text
}

impl Agreed {
    /// Takes the pairs of one answer over.
    ///
    /// # Errors
    /// A text that is none, a value that is none, or an answer that we cannot live with.
    pub fn take(&mut self, answer: &[u8], wants_header_digest: bool) -> anyhow::Result<()> {
        for (key, value) in text::pairs(answer).context("the target's login text")? {
            let number = || text::number(value).with_context(|| format!("{key}={value}"));
            let boolean = || text::boolean(value).with_context(|| format!("{key}={value}"));
            match key {
                "HeaderDigest" => {
                    let wanted = if wants_header_digest { "CRC32C" } else { "None" };
                    ensure!(
                        value == wanted,
                        "the target answers HeaderDigest={value}, {wanted} was asked for"
                    );
                    self.header_digest = wants_header_digest;
                }
                "DataDigest" => ensure!(value == "None", "the target answers DataDigest={value}"),
                "AuthMethod" => ensure!(value == "None", "the target wants AuthMethod={value}"),
                "InitialR2T" => self.initial_r2t = boolean()?,
                "ImmediateData" => self.immediate_data = boolean()?,
                "FirstBurstLength" => self.first_burst_length = number()?,
                "MaxBurstLength" => self.max_burst_length = number()?,
                "MaxRecvDataSegmentLength" => self.max_send_data_segment_length = number()?,
                "TargetAddress" => bail!("the target wants us to go elsewhere: {value}"),
                _ => {}
            }
        }
        ensure!(
            self.max_send_data_segment_length >= 512,
            "the target takes no data segments of a sane length"
        );
        Ok(())
    }

    /// How much of a write of `len` bytes goes with the command, and how much follows unasked.
    #[must_use]
    pub fn unsolicited(&self, len: u32) -> (u32, u32) {
        let burst = len.min(self.first_burst_length);
        let immediate = if self.immediate_data { burst.min(self.max_send_data_segment_length) } else { 0 };
        (immediate, if self.initial_r2t { 0 } else { burst - immediate })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_answered_is_the_rfcs() {
        let mut agreed = Agreed::default();
        agreed.take(b"", false).unwrap();
        assert_eq!(agreed, Agreed::default());
        assert_eq!((agreed.unsolicited(4096), agreed.unsolicited(256 << 10)), ((4096, 0), (8192, 0)));
    }

    #[test]
    fn both_answers_to_initial_r2t() {
        let text = |r2t: &str| {
            format!(
                "InitialR2T={r2t}\0FirstBurstLength=65536\0MaxBurstLength=0x40000\0MaxRecvDataSegmentLength=16384\0"
            )
        };
        let mut agreed = Agreed::default();
        agreed.take(text("Yes").as_bytes(), false).unwrap();
        assert_eq!(agreed.unsolicited(1 << 20), (16384, 0));
        agreed.take(text("No").as_bytes(), false).unwrap();
        assert_eq!(
            (agreed.unsolicited(1 << 20), agreed.unsolicited(20_000)),
            ((16384, 49152), (16384, 3616))
        );
        agreed.take(b"ImmediateData=No\0", false).unwrap();
        assert_eq!((agreed.unsolicited(1 << 20), agreed.max_burst_length), ((0, 65536), 262_144));
    }

    #[test]
    fn a_digest_must_be_answered_as_it_was_asked_for() {
        let mut agreed = Agreed::default();
        agreed.take(b"HeaderDigest=CRC32C\0", true).unwrap();
        assert!(agreed.header_digest);
        assert!(Agreed::default().take(b"HeaderDigest=None\0", true).is_err());
        assert!(Agreed::default().take(b"HeaderDigest=CRC32C\0", false).is_err());
    }

    #[test]
    fn answers_that_make_no_sense() {
        for bad in [
            "DataDigest=CRC32C\0",
            "AuthMethod=CHAP\0",
            "InitialR2T=yes\0",
            "MaxBurstLength=many\0",
            "MaxRecvDataSegmentLength=0\0",
            "no pair\0",
        ] {
            assert!(Agreed::default().take(bad.as_bytes(), false).is_err(), "{bad}");
        }
    }
}
