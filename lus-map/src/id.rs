//! The names and numbers of the map, each checked once where it enters.
//!
//! Every type here is a value that cannot be nonsense: `FromStr` refuses what is out of form, `Display` gives the one
//! canonical text, and equality is that of the canonical text.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use uuid::Uuid;

/// Longest iSCSI name in bytes (RFC 7143 4.2.7.1).
pub const ISCSI_NAME_BYTES_MAX: usize = 223;
/// Longest daemon id in bytes: it is part of socket paths, of which 108 bytes are all there is.
pub const DAEMON_ID_BYTES_MAX: usize = 64;
/// Longest pool, namespace or image name in bytes; RBD itself stops at 96 to 255 depending on the call.
pub(crate) const IMAGE_PART_BYTES_MAX: usize = 255;
/// Longest name of a volatile logical unit in bytes.
pub(crate) const VOLATILE_NAME_BYTES_MAX: usize = 64;
/// Highest LUN: the flat space addressing of SAM-5 4.7.7.5 has 14 bits.
pub const LUN_MAX: u16 = 16383;

/// Why a text is not a name of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} '{text}': {why}")]
pub struct BadName {
    /// The kind of name that was wanted, such as `iSCSI name`.
    pub what: &'static str,
    /// The text as given, shortened to 256 bytes.
    pub text: String,
    /// The rule that it breaks.
    pub why: &'static str,
}

impl BadName {
    pub(crate) fn new(what: &'static str, text: &str, why: &'static str) -> Self {
        /// Enough to recognise the text; a peer may have sent any length.
        const SHOWN_BYTES_MAX: usize = 256;
        let mut end = text.len().min(SHOWN_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self { what, text: text[..end].to_owned(), why }
    }
}

/// Serializes by `Display`: every name is a JSON string.
macro_rules! serialize_as_text {
    ($($name:ty),+) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )+};
}

serialize_as_text!(DaemonId, LuId, Iqn, LuName, VolatileName, ImageSpec, ClientAddr, Wwn);

/// The number of a state of the map; each committed change makes the next. Epoch 1 is the map's creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch that a change of this one makes.
    pub fn next(self) -> Self {
        assert!(self.0 < u64::MAX, "the epoch counter cannot be exhausted");
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The id of a daemon: the part after `client.lus.` of its cephx entity. 1 to 64 of `A-Z a-z 0-9 _ - .`,
/// the first one a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DaemonId(Arc<str>);

impl DaemonId {
    /// The text of the id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DaemonId {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = |why| Err(BadName::new("daemon id", text, why));
        if text.is_empty() || text.len() > DAEMON_ID_BYTES_MAX {
            return bad("1 to 64 characters are wanted");
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b)) {
            return bad("only letters, digits, '_', '-' and '.' are allowed");
        }
        if !text.as_bytes()[0].is_ascii_alphanumeric() {
            return bad("it must begin with a letter or digit");
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for DaemonId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of a logical unit, for its whole life; the caller makes it (RFC 9562, version 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LuId(pub Uuid);

impl FromStr for LuId {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let id = Uuid::try_parse(text)
            .map_err(|_| BadName::new("logical unit id", text, "a hyphenated UUID is wanted"))?;
        // One text per id: the key of an entity must not exist in two spellings.
        if id.hyphenated().to_string() != text {
            return Err(BadName::new("logical unit id", text, "a lower-case hyphenated UUID is wanted"));
        }
        Ok(Self(id))
    }
}

impl fmt::Display for LuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.hyphenated(), f)
    }
}

/// An iSCSI node name (RFC 7143 4.2.7): `iqn.`, `eui.` or `naa.`, lower case.
///
/// Upper case is folded (RFC 3722 maps it). Of RFC 3722's characters the ASCII ones are taken, and `_` too, which it
/// prohibits but which hosts carry. Names outside ASCII are refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Iqn(Arc<str>);

impl Iqn {
    /// The text of the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Iqn {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = |why| Err(BadName::new("iSCSI name", text, why));
        if text.len() > ISCSI_NAME_BYTES_MAX {
            return bad("it is longer than 223 bytes");
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:_".contains(&b)) {
            return bad("only letters, digits, '-', '.', ':' and '_' are allowed");
        }
        let name = text.to_ascii_lowercase();
        let hex = |digits: &str| digits.bytes().all(|b| b.is_ascii_hexdigit());
        if let Some(rest) = name.strip_prefix("iqn.") {
            if !iqn_form(rest) {
                return bad("the form is iqn.YYYY-MM.REVERSED.DOMAIN[:NAME]");
            }
        } else if let Some(rest) = name.strip_prefix("eui.") {
            if rest.len() != 16 || !hex(rest) {
                return bad("the form is eui. and 16 hex digits");
            }
        } else if let Some(rest) = name.strip_prefix("naa.") {
            if !matches!(rest.len(), 16 | 32) || !hex(rest) {
                return bad("the form is naa. and 16 or 32 hex digits");
            }
        } else {
            return bad("it must begin with iqn., eui. or naa.");
        }
        Ok(Self(name.into()))
    }
}

/// Whether `rest`, what follows `iqn.`, is a date, a reversed domain, and perhaps `:` and a name (RFC 7143 4.2.7.4).
fn iqn_form(rest: &str) -> bool {
    let Some((date, authority)) = rest.split_once('.') else { return false };
    let Some((year, month)) = date.split_once('-') else { return false };
    let digits = |text: &str, len| text.len() == len && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(year, 4) || !digits(month, 2) || !("01"..="12").contains(&month) {
        return false;
    }
    let (domain, name) = match authority.split_once(':') {
        Some((domain, name)) => (domain, Some(name)),
        None => (authority, None),
    };
    let labels = domain.split('.').all(|label| {
        label.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric()) && !label.ends_with('-')
    });
    labels && name != Some("")
}

impl fmt::Display for Iqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where an RBD image is found by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageSpec {
    pool: Arc<str>,
    namespace: Arc<str>,
    image: Arc<str>,
}

impl ImageSpec {
    /// An image by its parts; an empty `namespace` is the pool's default one.
    ///
    /// # Errors
    /// [`BadName`] for an empty, overlong or unprintable part, or one with `/` or `@`.
    pub fn new(pool: &str, namespace: &str, image: &str) -> Result<Self, BadName> {
        for part in [pool, image] {
            if part.is_empty() {
                return Err(BadName::new("image", part, "pool and image must not be empty"));
            }
        }
        for part in [pool, namespace, image] {
            if part.len() > IMAGE_PART_BYTES_MAX {
                return Err(BadName::new("image", part, "a part is longer than 255 bytes"));
            }
            if part.contains(['/', '@']) || part.chars().any(char::is_control) {
                return Err(BadName::new("image", part, "'/', '@' and control characters are not allowed"));
            }
        }
        Ok(Self { pool: pool.into(), namespace: namespace.into(), image: image.into() })
    }

    /// The pool's name.
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// The RBD namespace inside the pool; empty for the default one.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The image's name.
    pub fn image(&self) -> &str {
        &self.image
    }
}

impl fmt::Display for ImageSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace() {
            "" => write!(f, "{}/{}", self.pool, self.image),
            namespace => write!(f, "{}/{}/{}", self.pool, namespace, self.image),
        }
    }
}

/// What stands after `ram:` or `null:`: 1 to 64 of `A-Z a-z 0-9 _ - .`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolatileName(Arc<str>);

impl VolatileName {
    /// The text of the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VolatileName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = |why| Err(BadName::new("logical unit name", text, why));
        if text.is_empty() || text.len() > VOLATILE_NAME_BYTES_MAX {
            return bad("1 to 64 characters are wanted after the colon");
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b)) {
            return bad("only letters, digits, '_', '-' and '.' are allowed after the colon");
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for VolatileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an administrator calls a logical unit: `POOL/IMAGE`, `POOL/NAMESPACE/IMAGE`, `ram:NAME` or `null:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LuName {
    /// An RBD image.
    Rbd(ImageSpec),
    /// A volatile one in the daemon's memory.
    Ram(VolatileName),
    /// One that reads zeroes and forgets writes.
    Null(VolatileName),
}

impl FromStr for LuName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        if let Some(name) = text.strip_prefix("ram:") {
            return Ok(Self::Ram(name.parse()?));
        }
        if let Some(name) = text.strip_prefix("null:") {
            return Ok(Self::Null(name.parse()?));
        }
        let parts: Vec<&str> = text.split('/').collect();
        match parts[..] {
            [pool, image] => Ok(Self::Rbd(ImageSpec::new(pool, "", image)?)),
            [pool, namespace, image] if !namespace.is_empty() => {
                Ok(Self::Rbd(ImageSpec::new(pool, namespace, image)?))
            }
            _ => Err(BadName::new(
                "logical unit name",
                text,
                "the form is POOL/IMAGE, POOL/NAMESPACE/IMAGE, ram:NAME or null:NAME",
            )),
        }
    }
}

impl fmt::Display for LuName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rbd(image) => fmt::Display::fmt(image, f),
            Self::Ram(name) => write!(f, "ram:{name}"),
            Self::Null(name) => write!(f, "null:{name}"),
        }
    }
}

/// A logical unit number, 0 to 16383 (what flat space addressing holds, SAM-5 4.7.7.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Lun(u16);

impl Lun {
    /// The number, or none above [`LUN_MAX`].
    pub fn new(number: u16) -> Option<Self> {
        (number <= LUN_MAX).then_some(Self(number))
    }

    /// The bare number.
    pub fn number(self) -> u16 {
        self.0
    }
}

impl FromStr for Lun {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let number: Option<u16> = text.parse().ok();
        number
            .and_then(Self::new)
            .ok_or_else(|| BadName::new("LUN", text, "a number of 0 to 16383 is wanted"))
    }
}

impl fmt::Display for Lun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The address of one RADOS client instance, as the OSD blocklist has it: `IP:PORT/NONCE`.
///
/// The messenger's type prefix (`v1:`, `v2:`, `any:`) is dropped, since the same client is written with and without.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientAddr(Arc<str>);

impl ClientAddr {
    /// The text of the address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClientAddr {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = |why| Err(BadName::new("RADOS client address", text, why));
        let bare = ["v1:", "v2:", "any:"].iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or(text);
        let Some((socket, nonce)) = bare.rsplit_once('/') else {
            return bad("the form is IP:PORT/NONCE");
        };
        let Ok(nonce) = nonce.parse::<u32>() else {
            return bad("the nonce is not a number of 32 bits");
        };
        let Some((ip, port)) = socket.rsplit_once(':') else {
            return bad("the form is IP:PORT/NONCE");
        };
        let Ok(port) = port.parse::<u16>() else {
            return bad("the port is not a number of 16 bits");
        };
        let ip = match ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')) {
            Some(v6) => v6.parse().map(IpAddr::V6).ok(),
            None => ip.parse().map(IpAddr::V4).ok(),
        };
        match ip {
            Some(IpAddr::V4(ip)) => Ok(Self(format!("{ip}:{port}/{nonce}").into())),
            Some(IpAddr::V6(ip)) => Ok(Self(format!("[{ip}]:{port}/{nonce}").into())),
            None => bad("it does not begin with an IP address"),
        }
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A world wide name given to a logical unit: NAA 2, 3 or 5 (16 hex digits) or NAA 6 (32), SPC-4 7.8.6.6.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wwn(Arc<str>);

impl Wwn {
    /// The hex digits, lower case, without a prefix.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Wwn {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = |why| Err(BadName::new("WWN", text, why));
        let lower = text.to_ascii_lowercase();
        let digits = lower.strip_prefix("0x").or_else(|| lower.strip_prefix("naa.")).unwrap_or(&lower);
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return bad("hex digits are wanted");
        }
        match (digits.len(), digits.as_bytes().first()) {
            (16, Some(b'2' | b'3' | b'5')) | (32, Some(b'6')) => Ok(Self(digits.into())),
            (16 | 32, _) => bad("the first digit must be 2, 3 or 5 (16 digits) or 6 (32 digits)"),
            _ => bad("16 or 32 hex digits are wanted"),
        }
    }
}

impl fmt::Display for Wwn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<T: FromStr<Err = BadName> + ToString>(text: &str) -> Result<String, &'static str> {
        text.parse::<T>().map(|value| value.to_string()).map_err(|error| error.why)
    }

    #[test]
    fn iscsi_names() {
        for good in [
            "iqn.2026-11.io.lus:demo",
            "iqn.2001-04.com.example",
            "iqn.1991-05.com.microsoft:win-host_1",
            "iqn.2001-04.com.example:storage:disk2.sys1.xyz",
            "eui.02004567a425678d",
            "naa.52004567ba64678d",
            "naa.62004567ba64678d0123456789abcdef",
        ] {
            assert_eq!(text::<Iqn>(good).as_deref(), Ok(good));
            assert_eq!(text::<Iqn>(&good.to_uppercase()).as_deref(), Ok(good), "case is folded");
        }
        for bad in [
            "",
            "iqn",
            "iqn.",
            "foo",
            "iqn.2026.io.lus:a",
            "iqn.2026-13.io.lus:a",
            "iqn.2026-00.io.lus:a",
            "iqn.2026-1.io.lus:a",
            "iqn.2026-11.:a",
            "iqn.2026-11.io..lus",
            "iqn.2026-11.io.lus:",
            "iqn.2026-11.io.lus:a b",
            "iqn.2026-11.io.lus:a/b",
            "iqn.2026-11.io.lus:\u{e9}",
            "eui.0123",
            "eui.02004567a425678g",
            "naa.0123",
        ] {
            assert!(text::<Iqn>(bad).is_err(), "{bad}");
        }
        let long = format!("iqn.2026-11.io.lus:{}", "a".repeat(223 - 19));
        assert_eq!(long.len(), ISCSI_NAME_BYTES_MAX);
        assert!(text::<Iqn>(&long).is_ok());
        assert!(text::<Iqn>(&format!("{long}a")).is_err());
    }

    #[test]
    fn unit_names() {
        for good in ["rbd/a", "rbd/ns/a", "ram:x", "null:x-1", "p/with space"] {
            assert_eq!(text::<LuName>(good).as_deref(), Ok(good));
        }
        for bad in
            ["", "a", "/a", "a/", "a//b", "a/b/c/d", "rbd/a@snap", "ram:", "ram:a/b", "null:a b", "a/b\n"]
        {
            assert!(text::<LuName>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn client_addresses() {
        assert_eq!(text::<ClientAddr>("v1:127.0.0.1:0/123").as_deref(), Ok("127.0.0.1:0/123"));
        assert_eq!(text::<ClientAddr>("[::1]:0/4294967295").as_deref(), Ok("[::1]:0/4294967295"));
        for bad in [
            "",
            "127.0.0.1",
            "127.0.0.1:0",
            "127.0.0.1/1",
            "127.0.0.1:0/x",
            "::1:0/1",
            "h:0/1",
            "1.2.3.4:0/4294967296",
        ] {
            assert!(text::<ClientAddr>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_and_ids() {
        assert_eq!(text::<Lun>("16383").as_deref(), Ok("16383"));
        assert!(text::<Lun>("16384").is_err());
        assert!(text::<Lun>("-1").is_err());
        assert_eq!(text::<Wwn>("0x500A0B1234567890").as_deref(), Ok("500a0b1234567890"));
        assert_eq!(
            text::<Wwn>("naa.6001405abcdef0123456789abcdef012").as_deref(),
            Ok("6001405abcdef0123456789abcdef012")
        );
        assert!(text::<Wwn>("4001405abcdef012").is_err());
        assert!(text::<Wwn>("6001405abcdef012").is_err());
        assert_eq!(text::<DaemonId>("node-1.b").as_deref(), Ok("node-1.b"));
        for bad in ["", ".a", "a/b", "a b"] {
            assert!(text::<DaemonId>(bad).is_err(), "{bad}");
        }
        let id = "8ec8f1b2-9e43-4a5f-8b61-6d0c6d2cbd5a";
        assert_eq!(text::<LuId>(id).as_deref(), Ok(id));
        assert!(text::<LuId>(&id.to_uppercase()).is_err());
        assert!(text::<LuId>(&id.replace('-', "")).is_err());
    }

    #[test]
    fn a_bad_name_is_shortened_at_a_character() {
        let error = "\u{e9}".repeat(1000).parse::<Iqn>().unwrap_err();
        assert_eq!(error.text.len(), 256);
    }
}
