//! The command line. Where fio has a word for it, it is fio's.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::{Parser, ValueEnum};

/// Longest I/O, bytes: what targets take in one command.
pub const IO_BYTES_MAX: u64 = 16 << 20;

/// Loads one logical unit, for a while or for a number of I/Os, and says how fast it was.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub struct Options {
    /// iscsi://HOST:PORT/IQN/LUN
    pub url: Url,
    /// What to do
    #[arg(long, value_enum, default_value_t = Rw::Randread)]
    pub rw: Rw,
    /// Length of one I/O: bytes, or with k, m, g behind
    #[arg(long, value_parser = size, default_value = "4k")]
    pub bs: u64,
    /// Commands in flight in each session
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=512))]
    pub iodepth: u32,
    /// Sessions, each with one connection; each works on the whole range
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub sessions: u32,
    /// Seconds; what is in flight then is waited for
    #[arg(long, default_value = "5", value_parser = seconds)]
    pub runtime: Duration,
    /// End after so many I/Os in all, if that comes before the runtime's end
    #[arg(long)]
    pub number_ios: Option<u64>,
    /// Only this much from the beginning of the unit
    #[arg(long, value_parser = size)]
    pub size: Option<u64>,
    /// Agree on a CRC32C of each header
    #[arg(long)]
    pub header_digest: bool,
    /// Seed of the addresses and of the pattern
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write a pattern that depends on seed and place, and compare with it what is read
    #[arg(long)]
    pub verify: bool,
    /// Name to log in with
    #[arg(long, default_value = "iqn.2026-11.io.lus:load")]
    pub initiator: String,
    /// Seconds without any answer after which the run has failed
    #[arg(long, default_value = "30", value_parser = seconds)]
    pub patience: Duration,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Direction and order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "fio's words")]
pub enum Rw {
    Read,
    Write,
    Randread,
    Randwrite,
}

impl Rw {
    /// True for both kinds of writes.
    #[must_use]
    pub const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Randwrite)
    }

    /// True where the next address does not follow from the one before.
    #[must_use]
    pub const fn is_random(self) -> bool {
        matches!(self, Self::Randread | Self::Randwrite)
    }
}

/// How the result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// fio's shape.
    Json,
}

/// Where a logical unit is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// HOST:PORT, as [`std::net::ToSocketAddrs`] takes it.
    pub portal: String,
    /// The target's name.
    pub target: String,
    /// The number of the logical unit.
    pub lun: u16,
}

impl FromStr for Url {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let rest = text.strip_prefix("iscsi://").context("it must begin with iscsi://")?;
        let [portal, target, lun] = rest.split('/').collect::<Vec<_>>()[..] else {
            bail!("it must be iscsi://HOST:PORT/IQN/LUN");
        };
        let has_port = portal.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty()
                && !port.contains(']')
                && port.bytes().all(|b| b.is_ascii_digit())
                && !port.is_empty()
        });
        let portal = if has_port { portal.to_owned() } else { format!("{portal}:3260") };
        ensure!(!portal.starts_with(':') && !target.is_empty(), "it must be iscsi://HOST:PORT/IQN/LUN");
        let lun: u16 = lun.parse().context("the LUN must be a number")?;
        ensure!(lun < 1 << 14, "a LUN is less than 16384");
        Ok(Self { portal, target: target.to_owned(), lun })
    }
}

impl Url {
    /// The LUN as it is sent: peripheral device addressing below 256, flat space addressing above (SAM-5 4.7.7).
    #[must_use]
    pub fn wire_lun(&self) -> u64 {
        let flat = if self.lun < 256 { 0 } else { 1 << 14 };
        u64::from(self.lun | flat) << 48
    }
}

/// A number of bytes: `4096`, `4k`, `1M`, `2g` (powers of 1024).
fn size(text: &str) -> anyhow::Result<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        unit => bail!("'{unit}' is not b, k, m, g or t"),
    };
    let number: u64 = digits.parse().context("not a number")?;
    let bytes = number.checked_mul(1 << shift).context("too large")?;
    ensure!(bytes > 0, "must not be 0");
    Ok(bytes)
}

fn seconds(text: &str) -> anyhow::Result<Duration> {
    let seconds: f64 = text.parse().context("not a number of seconds")?;
    ensure!(seconds > 0.0 && seconds <= 1e6, "must be more than 0 and at most a million");
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options, clap::Error> {
        Options::try_parse_from([&["lus-load", "iscsi://127.0.0.1:3260/iqn.a:b/0"], words].concat())
    }

    #[test]
    fn urls() {
        let url: Url = "iscsi://127.0.0.1:13210/iqn.2026-11.io.lus:a/7".parse().unwrap();
        let expected =
            Url { portal: "127.0.0.1:13210".into(), target: "iqn.2026-11.io.lus:a".into(), lun: 7 };
        assert_eq!(url, expected);
        assert_eq!("iscsi://host/iqn.a:b/0".parse::<Url>().unwrap().portal, "host:3260");
        assert_eq!("iscsi://[::1]/iqn.a:b/0".parse::<Url>().unwrap().portal, "[::1]:3260");
        assert_eq!("iscsi://[::1]:99/iqn.a:b/0".parse::<Url>().unwrap().portal, "[::1]:99");
        for bad in [
            "",
            "iscsi://",
            "iscsi://a:1/iqn",
            "iscsi://a:1/iqn/x",
            "iscsi://a:1//0",
            "http://a:1/iqn/0",
            "iscsi://a:1/iqn/16384",
        ] {
            assert!(bad.parse::<Url>().is_err(), "{bad}");
        }
    }

    #[test]
    fn luns_on_the_wire() {
        let lun = |lun| Url { portal: String::new(), target: String::new(), lun }.wire_lun();
        assert_eq!(lun(0), 0);
        assert_eq!(lun(255), 0x00ff_0000_0000_0000);
        assert_eq!(lun(256), 0x4100_0000_0000_0000);
    }

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("512", 512), ("4k", 4096), ("256K", 262_144), ("1m", 1 << 20), ("2G", 2 << 30), ("1t", 1 << 40)]
        {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        for bad in ["", "k", "0", "-1", "4kk", "1.5m", "99999999999g", "4 k"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fios_words() {
        let options = parse(&[
            "--rw=randwrite",
            "--bs=256k",
            "--iodepth=8",
            "--runtime=2",
            "--size=512m",
            "-f",
            "json",
        ])
        .unwrap();
        assert_eq!((options.rw, options.bs, options.iodepth), (Rw::Randwrite, 262_144, 8));
        assert_eq!((options.runtime, options.size), (Duration::from_secs(2), Some(512 << 20)));
        assert_eq!(options.format, Format::Json);
        for bad in [
            ["--rw=trim"],
            ["--bs=0"],
            ["--iodepth=0"],
            ["--sessions=0"],
            ["--runtime=0"],
            ["--runtime=-1"],
            ["--runtime=inf"],
        ] {
            assert!(parse(&bad).is_err(), "{bad:?}");
        }
    }
}
