//! What a target wants: limits, offers and timers. All of it is settable; each default says why.

use std::time::Duration;

use crate::bhs::{AHS_LEN_MAX, BHS_LEN, DATA_SEGMENT_LENGTH_MAX, DIGEST_LEN};

/// Which digests a target takes part in. An initiator's order of preference decides between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestOffer {
    /// Go without.
    pub none: bool,
    /// CRC32C.
    pub crc32c: bool,
}

impl DigestOffer {
    /// Whatever the initiator prefers.
    pub const ANY: Self = Self { none: true, crc32c: true };
}

/// Settings of a connection; shared by all connections of a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// MaxRecvDataSegmentLength that we declare, bytes: 512 to 2^24 - 1. 256 KiB: what open-iscsi and ESXi use well.
    pub max_recv_data_segment_length: u32,
    /// Greatest FirstBurstLength, bytes: 512 to 2^24 - 1. 256 KiB: most writes then need no R2T.
    pub first_burst_length: u32,
    /// Greatest MaxBurstLength, bytes: 512 to 2^24 - 1, not less than the first burst. 1 MiB.
    pub max_burst_length: u32,
    /// Greatest MaxConnections, 1 to 16: connections of one session. 1: hosts that want several paths use several sessions.
    pub max_connections: u16,
    /// Greatest MaxOutstandingR2T, 1 to 65535. More than a few only helps on long lines.
    pub max_outstanding_r2t: u16,
    /// Commands of a session that may be in progress. 128 is what initiators' queues expect at most.
    pub command_window: u32,
    /// Immediate commands and task management functions that may be in progress beside the window.
    pub immediate_window: u32,
    /// True to make the initiator wait for R2Ts (InitialR2T=Yes).
    pub initial_r2t: bool,
    /// True to let data travel with its command (ImmediateData=Yes).
    pub immediate_data: bool,
    /// DefaultTime2Wait, seconds, 0 to 3600.
    pub default_time_2_wait_s: u16,
    /// DefaultTime2Retain, seconds, 0 to 3600. 0: at error recovery level 0 nothing is kept.
    pub default_time_2_retain_s: u16,
    /// Greatest iSCSIProtocolLevel, 1 (RFC 7143) or 2 (RFC 7144).
    pub protocol_level: u8,
    /// Header digests.
    pub header_digest: DigestOffer,
    /// Data digests.
    pub data_digest: DigestOffer,
    /// From the connection's start to the end of its login.
    pub login_timeout: Duration,
    /// A connection that was quiet for this long is pinged.
    pub nop_interval: Duration,
    /// A ping that brings nothing in for this long closes the connection.
    pub nop_timeout: Duration,
    /// A write whose data makes no progress for this long closes the connection.
    pub data_out_timeout: Duration,
    /// A discovery session that was quiet for this long is closed.
    pub discovery_timeout: Duration,
    /// Size of the buffer that headers and small data are received into, bytes.
    pub staging_bytes: usize,
    /// Greatest length of the text of one negotiation, bytes.
    pub text_bytes_max: usize,
    /// Most that the daemon lets one task receive, bytes; asserted by [`crate::Connection::accept`].
    pub task_data_bytes_max: u32,
    /// Headers and small data that wait for the initiator to read them, bytes: beyond this no more input is parsed.
    pub output_bytes_high: usize,
}

/// Smallest staging buffer, bytes: the longest header must fit.
pub const STAGING_BYTES_MIN: usize = 8 * 1024;
const _: () = assert!(STAGING_BYTES_MIN > BHS_LEN + AHS_LEN_MAX + 2 * DIGEST_LEN);
/// Smallest value of MaxRecvDataSegmentLength and of the burst lengths, bytes (RFC 7143 13.12 to 13.14).
pub const LENGTH_MIN: u32 = 512;
/// Greatest command window: a session's tasks are looked up in one table.
pub const COMMAND_WINDOW_MAX: u32 = 4096;
/// Most connections that one session may have.
pub const MAX_CONNECTIONS: u16 = 16;
/// Greatest immediate window.
pub const IMMEDIATE_WINDOW_MAX: u32 = 256;

impl Default for Config {
    fn default() -> Self {
        Self {
            max_recv_data_segment_length: 256 << 10,
            first_burst_length: 256 << 10,
            max_burst_length: 1 << 20,
            max_connections: 1,
            max_outstanding_r2t: 4,
            command_window: 128,
            immediate_window: 32,
            initial_r2t: false,
            immediate_data: true,
            default_time_2_wait_s: 2,
            default_time_2_retain_s: 0,
            protocol_level: 2,
            header_digest: DigestOffer::ANY,
            data_digest: DigestOffer::ANY,
            login_timeout: Duration::from_secs(15),
            nop_interval: Duration::from_secs(1),
            nop_timeout: Duration::from_secs(3),
            data_out_timeout: Duration::from_secs(30),
            discovery_timeout: Duration::from_secs(60),
            staging_bytes: 64 << 10,
            text_bytes_max: 16 << 10,
            task_data_bytes_max: 32 << 20,
            output_bytes_high: 256 << 10,
        }
    }
}

/// A setting that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {value}, not from {min} to {max}")]
pub struct ConfigError {
    /// The field of [`Config`].
    pub name: &'static str,
    /// What it was set to.
    pub value: u64,
    /// Smallest value.
    pub min: u64,
    /// Greatest value.
    pub max: u64,
}

impl Config {
    /// Checks every number against its range.
    ///
    /// # Errors
    /// The first one that is out of it.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let length = u64::from(LENGTH_MIN)..=u64::from(DATA_SEGMENT_LENGTH_MAX);
        let burst = u64::from(self.first_burst_length)..=u64::from(DATA_SEGMENT_LENGTH_MAX);
        let day_ms = 24 * 3600 * 1000;
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let checks = [
            ("max_recv_data_segment_length", self.max_recv_data_segment_length.into(), length.clone()),
            ("first_burst_length", self.first_burst_length.into(), length),
            ("max_burst_length", self.max_burst_length.into(), burst),
            ("max_connections", self.max_connections.into(), 1..=MAX_CONNECTIONS.into()),
            ("max_outstanding_r2t", self.max_outstanding_r2t.into(), 1..=65535),
            ("command_window", self.command_window.into(), 1..=COMMAND_WINDOW_MAX.into()),
            ("immediate_window", self.immediate_window.into(), 1..=IMMEDIATE_WINDOW_MAX.into()),
            ("default_time_2_wait_s", self.default_time_2_wait_s.into(), 0..=3600),
            ("default_time_2_retain_s", self.default_time_2_retain_s.into(), 0..=3600),
            ("protocol_level", self.protocol_level.into(), 1..=2),
            ("login_timeout", ms(self.login_timeout), 1..=day_ms),
            ("nop_interval", ms(self.nop_interval), 1..=day_ms),
            ("nop_timeout", ms(self.nop_timeout), 1..=day_ms),
            ("data_out_timeout", ms(self.data_out_timeout), 1..=day_ms),
            ("discovery_timeout", ms(self.discovery_timeout), 1..=day_ms),
            ("staging_bytes", self.staging_bytes as u64, STAGING_BYTES_MIN as u64..=16 << 20),
            ("text_bytes_max", self.text_bytes_max as u64, 1024..=1 << 20),
            ("task_data_bytes_max", self.task_data_bytes_max.into(), 512..=u32::MAX.into()),
            ("output_bytes_high", self.output_bytes_high as u64, 4096..=1 << 30),
        ];
        for (name, value, range) in checks {
            if !range.contains(&value) {
                return Err(ConfigError { name, value, min: *range.start(), max: *range.end() });
            }
        }
        for (name, offer) in [("header_digest", self.header_digest), ("data_digest", self.data_digest)] {
            if !offer.none && !offer.crc32c {
                return Err(ConfigError { name, value: 0, min: 1, max: 2 });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_nonsense_is_named() {
        let good = Config::default();
        assert_eq!(good.validate(), Ok(()));
        let bad = Config { max_burst_length: 512, ..good.clone() };
        assert_eq!(bad.validate().unwrap_err().name, "max_burst_length");
        let bad = Config { header_digest: DigestOffer { none: false, crc32c: false }, ..good };
        assert_eq!(bad.validate().unwrap_err().name, "header_digest");
    }
}
