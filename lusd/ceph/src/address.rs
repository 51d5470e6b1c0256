//! The address of a RADOS client: what a fence names.

use std::{fmt, net::IpAddr, str::FromStr};

/// `ip:port/nonce` of a RADOS client, the form that `ceph osd blocklist add` wants: `127.0.0.1:0/3141592`, `[::1]:0/7`.
///
/// The nonce makes it one client instance: a process that connects again gets another one. Parsing takes the forms that Ceph prints,
/// with a messenger type in front (`v1:`, `v2:`, `any:`) or as a vector of such addresses (`[v2:...,v1:...]`), of which all must name the same
/// client; the type is dropped, since the monitor matches a blocklist entry without it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientAddr {
    ip: IpAddr,
    port: u16,
    nonce: u32,
}

/// Longest text that is parsed; a vector of two IPv6 addresses has about 130 bytes.
const TEXT_MAX_BYTES: usize = 512;

/// The text is not the address of one client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the address of a RADOS client (expected IP:PORT/NONCE)")]
pub struct ParseAddrError;

impl ClientAddr {
    /// From its parts.
    ///
    /// # Errors
    /// An unspecified IP address or a nonce of 0: that names no client, and a fence of it would fence nobody.
    pub fn new(ip: IpAddr, port: u16, nonce: u32) -> Result<ClientAddr, ParseAddrError> {
        if ip.is_unspecified() || nonce == 0 {
            Err(ParseAddrError)
        } else {
            Ok(ClientAddr { ip, port, nonce })
        }
    }

    /// The IP address of the host.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// 0 for clients, which do not listen.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Distinguishes the client instances of one host; never 0.
    pub fn nonce(&self) -> u32 {
        self.nonce
    }

    fn parse_one(text: &str) -> Option<ClientAddr> {
        let text = ["v1:", "v2:", "any:"].iter().find_map(|kind| text.strip_prefix(kind)).unwrap_or(text);
        let (endpoint, nonce) = text.split_once('/')?;
        let (ip, port) = endpoint.rsplit_once(':')?;
        let ip: IpAddr = match ip.strip_prefix('[') {
            Some(ip) => IpAddr::V6(ip.strip_suffix(']')?.parse().ok()?),
            None => IpAddr::V4(ip.parse().ok()?),
        };
        ClientAddr::new(ip, decimal(port)?, decimal(nonce)?).ok()
    }
}

/// Digits only: `parse` alone takes a sign as well.
fn decimal<T: FromStr>(text: &str) -> Option<T> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

impl FromStr for ClientAddr {
    type Err = ParseAddrError;

    fn from_str(text: &str) -> Result<Self, ParseAddrError> {
        if text.len() > TEXT_MAX_BYTES {
            return Err(ParseAddrError);
        }
        if let Some(addr) = ClientAddr::parse_one(text) {
            return Ok(addr);
        }
        let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).ok_or(ParseAddrError)?;
        let mut addrs = inner.split(',').map(ClientAddr::parse_one);
        let first = addrs.next().flatten().ok_or(ParseAddrError)?;
        if addrs.all(|addr| addr == Some(first)) { Ok(first) } else { Err(ParseAddrError) }
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            IpAddr::V4(ip) => write!(f, "{ip}:{}/{}", self.port, self.nonce),
            IpAddr::V6(ip) => write!(f, "[{ip}]:{}/{}", self.port, self.nonce),
        }
    }
}

impl fmt::Debug for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientAddr({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for (text, shown) in [
            ("127.0.0.1:0/123", "127.0.0.1:0/123"),
            ("v1:127.0.0.1:0/1453112381", "127.0.0.1:0/1453112381"),
            ("any:10.1.2.3:0/4294967295", "10.1.2.3:0/4294967295"),
            ("[fe80::1]:0/7", "[fe80::1]:0/7"),
            ("v2:[::1]:6800/7", "[::1]:6800/7"),
            ("[v2:127.0.0.1:0/9,v1:127.0.0.1:0/9]", "127.0.0.1:0/9"),
            ("[v1:[::1]:0/9]", "[::1]:0/9"),
        ] {
            let addr: ClientAddr = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(addr.to_string(), shown);
            assert_eq!(addr.to_string().parse(), Ok(addr));
        }
    }

    #[test]
    fn nonsense() {
        for text in [
            "",
            "-",
            "127.0.0.1",
            "127.0.0.1:0",
            "127.0.0.1:0/",
            "127.0.0.1:0/0",
            "0.0.0.0:0/5",
            "[::]:0/5",
            "127.0.0.1:0/4294967296",
            "127.0.0.1:0/+5",
            "127.0.0.1:+0/5",
            "127.0.0.1:65536/5",
            "::1:0/5",
            "[127.0.0.1]:0/5",
            "v3:127.0.0.1:0/5",
            "host:0/5",
            "[]",
            "[v2:127.0.0.1:0/9,v1:127.0.0.1:0/8]",
            "[v2:127.0.0.1:0/9,]",
            "127.0.0.1:0/5 ",
        ] {
            assert_eq!(text.parse::<ClientAddr>(), Err(ParseAddrError), "{text}");
        }
        assert!("1".repeat(600).parse::<ClientAddr>().is_err());
    }
}
