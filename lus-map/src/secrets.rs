//! The CHAP secrets, object [`SECRETS_OBJECT`] in the namespace [`SECRETS_NAMESPACE`] of the map's pool: apart from the map, so that
//! the map can be read, dumped and kept in its history by whoever may not know them.
//!
//! ```text
//!   login of an initiator at a target ─► what is set for this host there, else what is set for the target, else none
//!   discovery                         ─► what is set for discovery, else none
//! ```
//!
//! What is set must be shown: a login without it is refused. [`Secret`] is shown by nothing; its bytes are taken out in one place each.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prost::Message;
use serde::Serialize;

use crate::id::Iqn;
use crate::model::WRITER;
use crate::time::Timestamp;
use crate::wire::{Corrupt, message, name, pb};

/// The namespace of the pool: capabilities can be given without it.
pub const SECRETS_NAMESPACE: &str = "secrets";
/// The object.
pub const SECRETS_OBJECT: &str = "lus_secrets";
/// The xattr that holds the version, the count of writes, in decimal digits.
pub const SECRETS_VERSION_XATTR: &str = "version";
/// Largest stored form, bytes.
pub const SECRETS_BYTES_MAX: usize = 16 << 20;
/// Subjects with secrets at most.
pub const SECRETS_MAX: usize = 16_384;
/// Shortest secret, bytes (RFC 7143 9.2.1: 96 bits).
pub const SECRET_BYTES_MIN: usize = 12;
/// Longest secret, bytes.
pub const SECRET_BYTES_MAX: usize = 255;
/// Longest name (CHAP_N), bytes.
pub const CHAP_NAME_BYTES_MAX: usize = 255;
/// Length of the key that marks challenges, bytes.
pub const CHALLENGE_KEY_BYTES: usize = 32;

/// A secret of CHAP.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    /// The secret with these bytes.
    ///
    /// # Errors
    /// [`SecretsRefusal::Length`]; [`SecretsRefusal::Control`] for what cannot be typed in at a host.
    pub fn new(bytes: &[u8]) -> Result<Self, SecretsRefusal> {
        if !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&bytes.len()) {
            return Err(SecretsRefusal::Length(bytes.len()));
        }
        if bytes.iter().any(u8::is_ascii_control) {
            return Err(SecretsRefusal::Control);
        }
        Ok(Self(bytes.into()))
    }

    /// The bytes, for whoever computes with them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A name (CHAP_N) and the secret that goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    name: Arc<str>,
    secret: Secret,
}

impl Credentials {
    /// The credentials with this name.
    ///
    /// # Errors
    /// [`SecretsRefusal::Name`] for one that is empty, longer than 255 bytes, or has control characters.
    pub fn new(name: &str, secret: Secret) -> Result<Self, SecretsRefusal> {
        if name.is_empty() || name.len() > CHAP_NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(SecretsRefusal::Name);
        }
        Ok(Self { name: name.into(), secret })
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The secret.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }
}

/// For whom secrets are set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Subject {
    /// Whoever asks which targets there are.
    Discovery,
    /// Every host of a target that has none of its own there.
    Target(Iqn),
    /// One host of a target.
    Host(Iqn, Iqn),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Discovery => f.write_str("discovery"),
            Self::Target(target) => write!(f, "target '{target}'"),
            Self::Host(target, initiator) => write!(f, "host '{initiator}' of target '{target}'"),
        }
    }
}

/// How a subject shows who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chap {
    /// What the initiator has to know.
    pub initiator: Credentials,
    /// What the target shows to an initiator that asks; none: it cannot.
    pub target: Option<Credentials>,
    /// When it was set.
    pub changed: Timestamp,
}

/// Why something is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretsRefusal {
    /// Too short, or too long.
    #[error("a secret of {0} bytes; {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} are wanted (RFC 7143 9.2.1)")]
    Length(usize),
    /// Not to be typed in.
    #[error("a secret with control characters")]
    Control,
    /// No name.
    #[error("a CHAP name has 1 to {CHAP_NAME_BYTES_MAX} bytes and no control characters")]
    Name,
    /// One secret for both directions: whoever knows it could show it back.
    #[error("a secret of initiators must not be one of a target too (RFC 7143 9.2.1): it is that of {0}")]
    BothDirections(Subject),
    /// Nothing is set.
    #[error("{0} has no authentication")]
    NotSet(Subject),
    /// Full.
    #[error(
        "secrets of {SECRETS_MAX} subjects, of {SECRETS_BYTES_MAX} bytes in all, are the most there can be"
    )]
    TooMany,
    /// A newer program wrote them.
    #[error("object '{SECRETS_OBJECT}' asks for writer level {0}, this version has {WRITER}")]
    TooOld(u32),
}

/// All secrets of a cluster, at one version.
#[derive(Clone, PartialEq, Eq)]
pub struct Secrets {
    min_writer: u32,
    version: u64,
    challenge_key: [u8; CHALLENGE_KEY_BYTES],
    chaps: BTreeMap<Subject, Chap>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets")
            .field("version", &self.version)
            .field("subjects", &self.chaps.len())
            .finish()
    }
}

impl Secrets {
    /// None yet. `challenge_key` is random, and stays for good.
    pub fn new(challenge_key: [u8; CHALLENGE_KEY_BYTES]) -> Self {
        Self { min_writer: WRITER, version: 1, challenge_key, chaps: BTreeMap::new() }
    }

    /// The count of writes.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The key by which the daemons know their challenges.
    pub fn challenge_key(&self) -> &[u8; CHALLENGE_KEY_BYTES] {
        &self.challenge_key
    }

    /// Who has secrets, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Subject, &Chap)> {
        self.chaps.iter()
    }

    /// What is set for a subject itself.
    pub fn chap(&self, subject: &Subject) -> Option<&Chap> {
        self.chaps.get(subject)
    }

    /// What an initiator has to show at a login: with a target, or for discovery.
    pub fn at_login(&self, target: Option<&Iqn>, initiator: Option<&Iqn>) -> Option<&Chap> {
        let Some(target) = target else { return self.chap(&Subject::Discovery) };
        let own =
            initiator.and_then(|initiator| self.chap(&Subject::Host(target.clone(), initiator.clone())));
        own.or_else(|| self.chap(&Subject::Target(target.clone())))
    }

    /// The next version, in which `chap` is set for `subject`.
    ///
    /// # Errors
    /// [`SecretsRefusal::BothDirections`], [`SecretsRefusal::TooMany`], [`SecretsRefusal::TooOld`].
    pub fn set(&self, subject: &Subject, chap: Chap) -> Result<Self, SecretsRefusal> {
        let mut next = self.next()?;
        next.chaps.insert(subject.clone(), chap.clone());
        if let Some(other) = next.in_both_directions(subject, &chap) {
            return Err(SecretsRefusal::BothDirections(other.clone()));
        }
        if next.chaps.len() > SECRETS_MAX || next.to_pb().encoded_len() > SECRETS_BYTES_MAX {
            return Err(SecretsRefusal::TooMany);
        }
        Ok(next)
    }

    /// The next version, in which nothing is set for `subject`.
    ///
    /// # Errors
    /// [`SecretsRefusal::NotSet`], [`SecretsRefusal::TooOld`].
    pub fn remove(&self, subject: &Subject) -> Result<Self, SecretsRefusal> {
        let mut next = self.next()?;
        match next.chaps.remove(subject) {
            Some(_) => Ok(next),
            None => Err(SecretsRefusal::NotSet(subject.clone())),
        }
    }

    /// The next version, in which nothing is set for a target and its hosts; none: nothing was.
    ///
    /// # Errors
    /// [`SecretsRefusal::TooOld`].
    pub fn forget_target(&self, target: &Iqn) -> Result<Option<Self>, SecretsRefusal> {
        let mut next = self.next()?;
        next.chaps.retain(|subject, _| match subject {
            Subject::Target(of) | Subject::Host(of, _) => of != target,
            Subject::Discovery => true,
        });
        Ok((next.chaps.len() < self.chaps.len()).then_some(next))
    }

    fn next(&self) -> Result<Self, SecretsRefusal> {
        if self.min_writer > WRITER {
            return Err(SecretsRefusal::TooOld(self.min_writer));
        }
        Ok(Self { version: self.version + 1, ..self.clone() })
    }

    /// Who has a secret of `chap` in the other direction; `subject` itself where its two are the same.
    fn in_both_directions<'a>(&'a self, subject: &'a Subject, chap: &Chap) -> Option<&'a Subject> {
        let of_target = |chap: &'a Chap| chap.target.as_ref().map(Credentials::secret);
        let collides = |other: &'a Chap| {
            of_target(other) == Some(chap.initiator.secret())
                || chap.target.as_ref().is_some_and(|own| own.secret() == other.initiator.secret())
        };
        let own = self.chaps.get(subject).is_some_and(collides).then_some(subject);
        own.or_else(|| self.chaps.iter().find(|(_, other)| collides(other)).map(|(subject, _)| subject))
    }

    /// The object's data.
    pub fn encode(&self) -> Vec<u8> {
        self.to_pb().encode_to_vec()
    }

    fn to_pb(&self) -> pb::Secrets {
        let secrets = self.chaps.iter().map(|(subject, chap)| {
            let (target, initiator) = match subject {
                Subject::Discovery => (String::new(), String::new()),
                Subject::Target(target) => (target.to_string(), String::new()),
                Subject::Host(target, initiator) => (target.to_string(), initiator.to_string()),
            };
            let own = chap.target.as_ref();
            pb::Secret {
                target,
                initiator,
                name: chap.initiator.name().to_owned(),
                secret: chap.initiator.secret().expose().to_vec(),
                target_name: own.map_or_else(String::new, |own| own.name().to_owned()),
                target_secret: own.map_or_else(Vec::new, |own| own.secret().expose().to_vec()),
                changed_us: chap.changed.0,
            }
        });
        pb::Secrets {
            min_writer: self.min_writer,
            version: self.version,
            challenge_key: self.challenge_key.to_vec(),
            secrets: secrets.collect(),
        }
    }

    /// The secrets out of the object's data.
    ///
    /// # Errors
    /// [`Corrupt`], naming the object and what is wrong, with no secret in it.
    pub fn decode(raw: &[u8]) -> Result<Self, Corrupt> {
        let undecodable = |why| Corrupt::Undecodable { key: SECRETS_OBJECT.to_owned(), why };
        if raw.len() > SECRETS_BYTES_MAX {
            return Err(undecodable(format!("more than {SECRETS_BYTES_MAX} bytes")));
        }
        Self::from_bytes(raw).map_err(undecodable)
    }

    fn from_bytes(raw: &[u8]) -> Result<Self, String> {
        let stored: pb::Secrets = message(raw)?;
        if stored.version == 0 {
            return Err("version 0".to_owned());
        }
        let challenge_key = stored.challenge_key.as_slice().try_into();
        let challenge_key = challenge_key.map_err(|_| "a challenge key of another length".to_owned())?;
        if stored.secrets.len() > SECRETS_MAX {
            return Err(format!("more than {SECRETS_MAX} subjects"));
        }
        let mut chaps = BTreeMap::new();
        for secret in stored.secrets {
            let (subject, chap) = entry(secret)?;
            if let Some(twice) = chaps.insert(subject.clone(), chap) {
                return Err(format!("{subject} comes twice, as {} too", twice.initiator.name()));
            }
        }
        Ok(Self { min_writer: stored.min_writer, version: stored.version, challenge_key, chaps })
    }
}

fn entry(stored: pb::Secret) -> Result<(Subject, Chap), String> {
    let subject = match (&*stored.target, &*stored.initiator) {
        ("", "") => Subject::Discovery,
        ("", _) => return Err("a host without a target".to_owned()),
        (target, "") => Subject::Target(name(target)?),
        (target, initiator) => Subject::Host(name(target)?, name(initiator)?),
    };
    let credentials = |name: &str, secret: &[u8]| {
        let made = Secret::new(secret).and_then(|secret| Credentials::new(name, secret));
        made.map_err(|error| format!("{subject}: {error}"))
    };
    let initiator = credentials(&stored.name, &stored.secret)?;
    let target = match (&*stored.target_name, &*stored.target_secret) {
        ("", []) => None,
        (name, secret) => Some(credentials(name, secret)?),
    };
    Ok((subject, Chap { initiator, target, changed: Timestamp(stored.changed_us) }))
}

#[cfg(test)]
mod tests;
