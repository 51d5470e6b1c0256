//! The options of `lusd`: one row each. The command line, ceph.conf, the monitors' configuration, `--help` and the checks of values
//! all read this table.

use std::net::SocketAddr;
use std::time::Duration;

/// What a value may be. Ranges are inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text, also the empty one.
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `true`, `false`, `yes`, `no`, `on`, `off`, `1`, `0`.
    Bool,
    /// A whole number.
    Count(u64, u64),
    /// Bytes: a whole number with an optional `K`, `M`, `G` or `T` (powers of 1024; `Ki` and `KiB` too).
    Bytes(u64, u64),
    /// Seconds, with decimals or with a unit (`ms`, `s`, `m`, `h`, `d`, `y`); the range in whole seconds.
    Seconds(u64, u64),
    /// `ADDRESS:PORT`, several separated by commas or blanks; the port may be left out (3260).
    Portals,
}

/// One row of [`OPTIONS`].
#[derive(Clone, Copy, Debug)]
pub struct OptionSpec {
    /// As in ceph.conf, with underscores.
    pub name: &'static str,
    /// What a value may be.
    pub kind: Kind,
    /// In the form of `kind`.
    pub default: &'static str,
    /// One sentence for `--help`.
    pub doc: &'static str,
}

/// The port that IANA gave to iSCSI (RFC 7143, 15).
pub const ISCSI_PORT: u16 = 3260;
/// Most portals of one daemon, as the map takes them.
pub const PORTALS_MAX: usize = lus_map::PORTALS_MAX;

const fn row(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> OptionSpec {
    OptionSpec { name, kind, default, doc }
}

const KI: u64 = 1 << 10;
const MI: u64 = 1 << 20;
const GI: u64 = 1 << 30;
const YEAR_S: u64 = 365 * 86_400;

/// All options of our own, and those of Ceph that a daemon answers for itself (`log_file`, `pid_file`).
pub const OPTIONS: &[OptionSpec] = &[
    row("lus_portal", Kind::Portals, "0.0.0.0:3260", "addresses on which iSCSI is accepted"),
    row("lus_pool", Kind::Text, ".lus", "pool of the LUS map"),
    row("lus_shards", Kind::Count(0, 64), "0", "threads that carry connections; 0: one per core, at most 8"),
    row("lus_data_clients", Kind::Count(1, 16), "1", "RADOS clients for images; each LU uses one of them"),
    row(
        "lus_data_client_threads",
        Kind::Count(1, 16),
        "1",
        "threads of each of these for its messenger and its callbacks",
    ),
    row("lus_data_memory", Kind::Bytes(8 * MI, 1 << 44), "1G", "data memory of the daemon"),
    row("lus_connection_memory", Kind::Bytes(8 * MI, 1 << 40), "32M", "data memory of one connection"),
    row(
        "lus_connections_max",
        Kind::Count(1, 1_000_000),
        "4096",
        "connections at the same time; the last quarter is not for a peer that has half of them",
    ),
    row(
        "lus_logins_max",
        Kind::Count(1, 1_000_000),
        "512",
        "connections at one portal that have not logged in, or for discovery only; for one more the slowest is closed",
    ),
    row(
        "lus_sessions_max",
        Kind::Count(1, u16::MAX as u64),
        "3584",
        "normal sessions at the same time; what lus_connections_max has beyond is for logins, discovery and further connections",
    ),
    row(
        "lus_login_redirect",
        Kind::Text,
        "",
        "ADDRESS:PORT to which initiators are sent that log in here (target moved temporarily), or permanent:ADDRESS:PORT; empty: nowhere",
    ),
    row(
        "lus_max_recv_data_segment_length",
        Kind::Bytes(512, (1 << 24) - 1),
        "256K",
        "MaxRecvDataSegmentLength that the target declares (RFC 7143, 13.12)",
    ),
    row(
        "lus_first_burst_length",
        Kind::Bytes(512, (1 << 24) - 1),
        "256K",
        "FirstBurstLength, most unsolicited data of a command (13.14)",
    ),
    row("lus_max_burst_length", Kind::Bytes(512, (1 << 24) - 1), "1M", "MaxBurstLength (13.13)"),
    row(
        "lus_session_connections_max",
        Kind::Count(1, lusd_iscsi::MAX_CONNECTIONS as u64),
        "1",
        "MaxConnections, connections of one session (13.2)",
    ),
    row("lus_command_window", Kind::Count(1, 4096), "128", "commands of a session at the same time"),
    row("lus_login_timeout", Kind::Seconds(1, 600), "15", "a login takes no longer"),
    row(
        "lus_nop_interval",
        Kind::Seconds(1, 3600),
        "1",
        "a quiet connection is asked (NOP-In) after this time",
    ),
    row(
        "lus_nop_timeout",
        Kind::Seconds(1, 3600),
        "3",
        "a connection that does not answer a NOP-In is reset",
    ),
    row(
        "lus_send_timeout",
        Kind::Seconds(1, 3600),
        "30",
        "a connection that takes nothing of an answer is reset",
    ),
    row(
        "lus_blocklist_expire",
        Kind::Seconds(YEAR_S, 100 * YEAR_S),
        "10y",
        "life of the blocklist entries by which others are fenced",
    ),
    row(
        "lus_drain_timeout",
        Kind::Seconds(0, 3600),
        "30",
        "SIGTERM: commands in flight have this long to end",
    ),
    row(
        "lus_thin_threshold",
        Kind::Count(0, 99),
        "80",
        "percentage of its pool in use at which hosts of a thin LU are told (THIN PROVISIONING SOFT THRESHOLD REACHED); 0: never",
    ),
    row(
        "lus_pool_usage_interval",
        Kind::Seconds(1, 3600),
        "30",
        "the monitors are asked this often how full pools are",
    ),
    row("lus_open_parallel", Kind::Count(1, 256), "32", "LUs that are opened or closed at the same time"),
    row("lus_host_name", Kind::Text, "", "name of this machine in the map; empty: the kernel's"),
    row("lus_log", Kind::Text, "info", "what is logged: LEVEL or TARGET=LEVEL, several separated by commas"),
    row(
        "lus_log_format",
        Kind::Choice(&["text", "ceph"]),
        "text",
        "form of log lines; ceph: as Ceph's daemons write",
    ),
    row("lus_librados_log_file", Kind::Text, "", "file for librados' own log (debug_rados, debug_ms ...)"),
    row(
        "log_file",
        Kind::Text,
        "/var/log/ceph/$cluster-$name.log",
        "log file, unless -d; opened again on SIGHUP and when it was renamed; empty: stderr",
    ),
    row("pid_file", Kind::Text, "", "file that gets the process id"),
];

const _: () = assert!(GI > MI && MI > KI);

/// The row of `name`, in any of its spellings.
pub fn find(name: &str) -> Option<&'static OptionSpec> {
    let name = canonical(name);
    OPTIONS.iter().find(|row| row.name == name)
}

/// `log file`, `log-file`, `log_file`: one option.
pub fn canonical(name: &str) -> String {
    name.trim().replace([' ', '-'], "_")
}

/// A checked value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of [`Kind::Text`] and [`Kind::Choice`].
    Text(String),
    /// Of [`Kind::Bool`].
    Bool(bool),
    /// Of [`Kind::Count`] and [`Kind::Bytes`].
    Number(u64),
    /// Of [`Kind::Seconds`].
    Time(Duration),
    /// Of [`Kind::Portals`].
    Portals(Vec<SocketAddr>),
}

/// Why a text is no value of an option.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadValue {
    /// Not of the form.
    #[error("expected {0}")]
    Form(&'static str),
    /// One of the words is wanted.
    #[error("not one of {}", .0.join(", "))]
    Choice(&'static [&'static str]),
    /// Out of range.
    #[error("not within {0} and {1}")]
    Range(String, String),
}

impl OptionSpec {
    /// Checks `text`.
    ///
    /// # Errors
    /// [`BadValue`], without the option's name.
    pub fn parse(&self, text: &str) -> Result<Value, BadValue> {
        let text = text.trim();
        match self.kind {
            Kind::Text => Ok(Value::Text(text.to_owned())),
            Kind::Choice(words) if words.contains(&text) => Ok(Value::Text(text.to_owned())),
            Kind::Choice(words) => Err(BadValue::Choice(words)),
            Kind::Bool => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => Ok(Value::Bool(true)),
                "false" | "no" | "off" | "0" => Ok(Value::Bool(false)),
                _ => Err(BadValue::Form("true or false")),
            },
            Kind::Count(min, max) => {
                let n = decimal(text).ok_or(BadValue::Form("a whole number"))?;
                within(n, min, max, |n| n.to_string()).map(Value::Number)
            }
            Kind::Bytes(min, max) => {
                let n = bytes(text).ok_or(BadValue::Form("a size such as 262144, 256K or 1G"))?;
                within(n, min, max, bytes_text).map(Value::Number)
            }
            Kind::Seconds(min, max) => {
                let time = seconds(text).ok_or(BadValue::Form("a time such as 2, 0.5, 500ms, 10m or 10y"))?;
                if time < Duration::from_secs(min) || time > Duration::from_secs(max) {
                    return Err(BadValue::Range(format!("{min} s"), format!("{max} s")));
                }
                Ok(Value::Time(time))
            }
            Kind::Portals => portals(text).map(Value::Portals),
        }
    }

    /// The form and range, as `--help` shows it.
    pub fn range(&self) -> String {
        match self.kind {
            Kind::Text => "TEXT".to_owned(),
            Kind::Choice(words) => words.join("|"),
            Kind::Bool => "true|false".to_owned(),
            Kind::Count(min, max) => format!("{min}..{max}"),
            Kind::Bytes(min, max) => format!("{}..{}", bytes_text(min), bytes_text(max)),
            Kind::Seconds(min, max) => format!("{min}..{max} s"),
            Kind::Portals => "ADDR[:PORT],...".to_owned(),
        }
    }
}

fn within(n: u64, min: u64, max: u64, show: impl Fn(u64) -> String) -> Result<u64, BadValue> {
    if (min..=max).contains(&n) { Ok(n) } else { Err(BadValue::Range(show(min), show(max))) }
}

/// Digits only; `parse` alone takes a sign.
fn decimal(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let n = decimal(text.get(..digits)?)?;
    let unit = text[digits..].trim().to_ascii_lowercase();
    let shift = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix(['b', 'i'])).unwrap_or(&unit) {
        "" if unit.is_empty() || unit == "b" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    n.checked_mul(1 << shift)
}

fn bytes_text(n: u64) -> String {
    match n {
        0 => "0".to_owned(),
        n if n % (1 << 40) == 0 => format!("{}T", n >> 40),
        n if n % GI == 0 => format!("{}G", n / GI),
        n if n % MI == 0 => format!("{}M", n / MI),
        n if n % KI == 0 => format!("{}K", n / KI),
        n => n.to_string(),
    }
}

fn seconds(text: &str) -> Option<Duration> {
    let split = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let number = text.get(..split)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let unit_ms: u64 = match text[split..].trim() {
        "" | "s" => 1000,
        "ms" => 1,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "y" => YEAR_S * 1000,
        _ => return None,
    };
    /// Nanoseconds are the finest that a time has.
    const FRACTION_DIGITS_MAX: usize = 9;
    if (whole.is_empty() && fraction.is_empty()) || fraction.len() > FRACTION_DIGITS_MAX {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { decimal(whole)? };
    let mut nanos = u128::from(whole).checked_mul(u128::from(unit_ms) * 1_000_000)?;
    if !fraction.is_empty() {
        let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
        nanos += u128::from(decimal(fraction)?) * u128::from(unit_ms) * 1_000_000 / scale;
    }
    Some(Duration::from_nanos(u64::try_from(nanos).ok()?))
}

fn portals(text: &str) -> Result<Vec<SocketAddr>, BadValue> {
    const FORM: BadValue = BadValue::Form("addresses such as 192.0.2.1:3260, [2001:db8::1]:3260");
    let mut portals = Vec::new();
    for part in text.split([',', ' ', ';']).filter(|part| !part.is_empty()) {
        let address = match part.parse::<SocketAddr>() {
            Ok(address) => address,
            Err(_) => {
                let ip = part.strip_prefix('[').and_then(|p| p.strip_suffix(']')).unwrap_or(part);
                SocketAddr::new(ip.parse().map_err(|_| FORM)?, ISCSI_PORT)
            }
        };
        if address.port() == 0 {
            return Err(FORM);
        }
        if !portals.contains(&address) {
            portals.push(address);
        }
    }
    match portals.len() {
        0 => Err(FORM),
        1..=PORTALS_MAX => Ok(portals),
        n => Err(BadValue::Range("1 portal".to_owned(), format!("{PORTALS_MAX} portals, found {n}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_value_and_every_name_is_canonical() {
        for row in OPTIONS {
            assert!(row.parse(row.default).is_ok(), "{}: {}", row.name, row.default);
            assert_eq!(canonical(row.name), row.name);
            assert_eq!(OPTIONS.iter().filter(|other| other.name == row.name).count(), 1, "{}", row.name);
            assert!(!row.doc.is_empty() && !row.range().is_empty());
        }
        assert_eq!(find("lus-data memory").map(|row| row.name), Some("lus_data_memory"));
        assert!(find("rbd_cache").is_none());
    }

    #[test]
    fn sizes() {
        for (text, n) in [
            ("0", 0),
            ("17", 17),
            ("4K", 4096),
            ("4k", 4096),
            ("1MiB", MI),
            ("1 G", GI),
            ("2Ti", 1 << 41),
            ("9b", 9),
        ] {
            assert_eq!(bytes(text), Some(n), "{text}");
        }
        for text in [
            "",
            "K",
            "-1",
            "+1",
            "1.5G",
            "1X",
            "1ibb",
            "18446744073709551616",
            "99999999999999T",
            "1i",
            "1ib",
        ] {
            assert_eq!(bytes(text), None, "{text}");
        }
        for n in [1, 4096, 3 * MI, 5 * GI, 1 << 40] {
            assert_eq!(bytes(&bytes_text(n)), Some(n));
        }
    }

    #[test]
    fn times() {
        for (text, ms) in [
            ("2", 2000),
            ("0.5", 500),
            ("500ms", 500),
            ("1.25s", 1250),
            ("2 m", 120_000),
            ("1d", 86_400_000),
            (".5", 500),
        ] {
            assert_eq!(seconds(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", ".", "s", "-1", "1w", "1.2.3", "0.0000000001", "99999999999999999999"] {
            assert_eq!(seconds(text), None, "{text}");
        }
        let row = find("lus_blocklist_expire").unwrap();
        assert_eq!(row.parse("10y"), Ok(Value::Time(Duration::from_secs(10 * YEAR_S))));
        assert!(matches!(row.parse("1h"), Err(BadValue::Range(..))));
    }

    #[test]
    fn addresses() {
        let row = find("lus_portal").unwrap();
        let Ok(Value::Portals(found)) =
            row.parse("127.0.0.1:3261, 10.0.0.1 [::1]:3262,[2001:db8::1],127.0.0.1:3261")
        else {
            panic!()
        };
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["127.0.0.1:3261", "10.0.0.1:3260", "[::1]:3262", "[2001:db8::1]:3260"]);
        for text in ["", ",", "host:3260", "10.0.0.1:0", "10.0.0.1:65536", "::1:3260:x"] {
            assert!(row.parse(text).is_err(), "{text}");
        }
        let many: Vec<_> = (1..=PORTALS_MAX as u16 + 1).map(|port| format!("10.0.0.1:{port}")).collect();
        assert!(row.parse(&many.join(",")).is_err());
    }
}
