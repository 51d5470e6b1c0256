//! CHAP as iSCSI has it (RFC 1994; RFC 7143 9.2.1, 12.1.3): secrets, challenges and the algorithms. The dialogue is in
//! `login::chap`.
//!
//! Nothing here is random: challenges are made from nonces that the daemon draws. What is secret is compared in constant time and
//! never shown, not by `Debug` either.

use std::sync::Arc;

use constant_time_eq::constant_time_eq;
use sha3::Digest;
use smallvec::SmallVec;

use crate::text;

/// Shortest secret, bytes: 96 bits (RFC 7143 9.2.1: shorter ones only within IPsec).
pub const SECRET_LEN_MIN: usize = 12;
/// Longest secret, bytes.
pub const SECRET_LEN_MAX: usize = 255;
/// Longest CHAP_N, bytes (RFC 7143 6.1: a text value).
pub const NAME_LEN_MAX: usize = 255;
/// Longest CHAP_C that is taken, bytes (RFC 7143 12.1.3).
pub const CHALLENGE_LEN_MAX: usize = 1024;
/// Length of a nonce, bytes: two of them are never the same.
pub const NONCE_LEN: usize = 16;
/// Length of a challenge of ours, bytes: a nonce, and the mark by which it is known again.
pub const CHALLENGE_LEN: usize = 2 * NONCE_LEN;
/// Length of a [`ChallengeKey`], bytes.
pub const KEY_LEN: usize = 32;

/// A secret that is too short or too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a CHAP secret of {0} bytes, not of {SECRET_LEN_MIN} to {SECRET_LEN_MAX}")]
pub struct SecretLength(pub usize);

/// A secret: 12 to 255 bytes, any.
#[derive(Clone)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    /// The secret with these bytes.
    ///
    /// # Errors
    /// If it is shorter than 12 or longer than 255 bytes.
    pub fn new(bytes: &[u8]) -> Result<Self, SecretLength> {
        if (SECRET_LEN_MIN..=SECRET_LEN_MAX).contains(&bytes.len()) {
            Ok(Self(bytes.into()))
        } else {
            Err(SecretLength(bytes.len()))
        }
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        constant_time_eq(&self.0, &other.0)
    }
}

impl Eq for Secret {}

/// A name (CHAP_N) and the secret that goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The name, at most 255 bytes.
    pub name: String,
    /// The secret.
    pub secret: Secret,
}

/// By what an initiator is known, and by what we are known to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChapGrant {
    /// What the initiator has to know.
    pub initiator: Credentials,
    /// What we show that we know, to an initiator that asks. Without it such an initiator is turned away.
    pub target: Option<Credentials>,
    /// CHAP_I of our challenge: any number.
    pub identifier: u8,
    /// Nobody may guess it, and it is never used again.
    pub nonce: [u8; NONCE_LEN],
    /// Makes challenges, and knows those that are ours.
    pub key: ChallengeKey,
}

/// Makes challenges that are known again as ours on any connection, without a list of them: the second half is a hash of the first
/// under this key. Who sends one back would have us answer it for him (RFC 7143 9.2.1).
#[derive(Clone, PartialEq, Eq)]
pub struct ChallengeKey([u8; KEY_LEN]);

impl ChallengeKey {
    /// A key that nobody else knows.
    #[must_use]
    pub const fn new(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// The challenge with this nonce.
    #[must_use]
    pub fn challenge(&self, nonce: &[u8; NONCE_LEN]) -> [u8; CHALLENGE_LEN] {
        let mut challenge = [0; CHALLENGE_LEN];
        challenge[..NONCE_LEN].copy_from_slice(nonce);
        challenge[NONCE_LEN..].copy_from_slice(&self.mark(nonce));
        challenge
    }

    /// Whether a challenge was made with this key.
    #[must_use]
    pub fn is_own(&self, challenge: &[u8]) -> bool {
        match challenge.split_at_checked(NONCE_LEN) {
            Some((nonce, mark)) => constant_time_eq(mark, &self.mark(nonce)),
            None => false,
        }
    }

    /// SHA-3 with the key before the message is a keyed hash, as it cannot be prolonged from outside (unlike SHA-2).
    fn mark(&self, nonce: &[u8]) -> [u8; NONCE_LEN] {
        let hash = sha3::Sha3_256::new().chain_update(b"lus challenge").chain_update(self.0);
        let hash = hash.chain_update(nonce).finalize();
        let mut mark = [0; NONCE_LEN];
        mark.copy_from_slice(&hash[..NONCE_LEN]);
        mark
    }
}

impl std::fmt::Debug for ChallengeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChallengeKey(..)")
    }
}

/// A response: as long as the algorithm's hash.
pub(crate) type Response = SmallVec<[u8; 32]>;

/// How a response is made, by the number of CHAP_A (IANA, PPP authentication algorithms).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Algorithm {
    Md5 = 5,
    Sha1 = 6,
    Sha256 = 7,
    Sha3_256 = 8,
}

impl Algorithm {
    const ALL: [Self; 4] = [Self::Md5, Self::Sha1, Self::Sha256, Self::Sha3_256];

    /// The first of an initiator's list that we know too.
    pub(crate) fn choose(list: &str) -> Option<Self> {
        let known = |n: u32| Self::ALL.into_iter().find(|algorithm| *algorithm as u32 == n);
        list.split(',').find_map(|value| text::number(value).and_then(known))
    }

    /// Identifier, secret and challenge, hashed in this order (RFC 1994 4.1).
    pub(crate) fn response(self, identifier: u8, secret: &Secret, challenge: &[u8]) -> Response {
        fn hash<D: Digest>(identifier: u8, secret: &Secret, challenge: &[u8]) -> Response {
            let hash = D::new().chain_update([identifier]).chain_update(&secret.0).chain_update(challenge);
            SmallVec::from_slice(&hash.finalize())
        }
        let hash = match self {
            Self::Md5 => hash::<md5::Md5>,
            Self::Sha1 => hash::<sha1::Sha1>,
            Self::Sha256 => hash::<sha2::Sha256>,
            Self::Sha3_256 => hash::<sha3::Sha3_256>,
        };
        hash(identifier, secret, challenge)
    }
}

/// Whether two are the same, in a time that does not say where they differ.
pub(crate) fn is_same(a: &[u8], b: &[u8]) -> bool {
    constant_time_eq(a, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.as_bytes()).unwrap()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Made with Python's hashlib: `new(name, bytes([0x2a]) + b"correct horse battery" + bytes(range(16)))`.
    #[test]
    fn responses_of_every_algorithm() {
        let challenge: Vec<u8> = (0..16).collect();
        let secret = secret("correct horse battery");
        for (algorithm, expected) in [
            (Algorithm::Md5, "7efffe0f324cdaeb9442b9216e36d904"),
            (Algorithm::Sha1, "f960d1db12d99fa70d7120fdb7368a2226f7ca0b"),
            (Algorithm::Sha256, "27750b3c27f8f918a878a6e96ac6ba3778f21ad55a7cd93fbd1424ab63cbe87b"),
            (Algorithm::Sha3_256, "983c8a268420313515d40186ac94b8c2146173a611c48d1fa21af77a5fe8f0cd"),
        ] {
            assert_eq!(hex(&algorithm.response(0x2a, &secret, &challenge)), expected, "{algorithm:?}");
        }
    }

    #[test]
    fn the_initiators_order_counts() {
        for (list, chosen) in [
            ("5", Some(Algorithm::Md5)),
            ("7,5", Some(Algorithm::Sha256)),
            ("8,7,6,5", Some(Algorithm::Sha3_256)),
            ("6,8", Some(Algorithm::Sha1)),
            ("0x7,5", Some(Algorithm::Sha256)),
            ("9,128,MD5,,5", Some(Algorithm::Md5)),
            ("261,4,9", None),
            ("", None),
        ] {
            assert_eq!(Algorithm::choose(list), chosen, "{list}");
        }
    }

    #[test]
    fn secrets_have_bounds_and_are_not_shown() {
        for (len, good) in [(0, false), (11, false), (12, true), (255, true), (256, false)] {
            assert_eq!(Secret::new(&vec![b'x'; len]).is_ok(), good, "{len}");
        }
        let credentials = Credentials { name: "host".into(), secret: secret("not for your eyes") };
        let key = ChallengeKey::new([7; KEY_LEN]);
        let grant = ChapGrant {
            initiator: credentials.clone(),
            target: Some(credentials),
            identifier: 1,
            nonce: [0; 16],
            key,
        };
        let shown = format!("{grant:?}");
        assert!(shown.contains("host") && !shown.contains("eyes") && !shown.contains("7, 7"), "{shown}");
        assert_eq!(secret("not for your eyes"), grant.initiator.secret);
        assert_ne!(secret("not for your ears"), grant.initiator.secret);
    }

    #[test]
    fn own_challenges_are_known_again() {
        let (ours, other) = (ChallengeKey::new([1; KEY_LEN]), ChallengeKey::new([2; KEY_LEN]));
        let challenge = ours.challenge(&[9; NONCE_LEN]);
        assert!(ours.is_own(&challenge) && !other.is_own(&challenge));
        assert_ne!(challenge, ours.challenge(&[8; NONCE_LEN]));
        for i in 0..CHALLENGE_LEN {
            let mut changed = challenge;
            changed[i] ^= 1;
            assert!(!ours.is_own(&changed), "{i}");
        }
        assert!(!ours.is_own(&challenge[..CHALLENGE_LEN - 1]) && !ours.is_own(&[]));
    }
}
