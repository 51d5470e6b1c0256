//! The dialogue of CHAP (RFC 7143 12.1.3):
//!
//! ```text
//! initiator                                                target
//!   CHAP_A=<list>                                    ──►    Agreed
//!   ◄── CHAP_A=<one> CHAP_I=<id> CHAP_C=<challenge>
//!   CHAP_N=<name> CHAP_R=<response> [CHAP_I CHAP_C]  ──►    Challenged
//!   ◄── [CHAP_N=<name> CHAP_R=<response>]                   Passed
//! ```
//!
//! Whatever is wrong about name and response is the same to the initiator: AuthenticationFailure. What is no dialogue of CHAP is
//! InitiatorError, or MissingParameter.

use crate::chap::{Algorithm, CHALLENGE_LEN_MAX, ChapGrant, NAME_LEN_MAX, is_same};
use crate::error::LoginStatus;
use crate::text;

/// How far it is.
#[derive(Debug)]
pub(super) enum Chap {
    /// AuthMethod=CHAP was answered; the initiator says which algorithms it knows.
    Agreed(Box<ChapGrant>),
    /// Our challenge is out.
    Challenged(Box<ChapGrant>, Algorithm),
    /// The initiator has shown who it is.
    Passed,
}

impl Chap {
    /// Takes the keys of CHAP out of `pairs` and answers them into `reply`.
    ///
    /// # Errors
    /// The status to refuse the login with.
    pub(super) fn handle<'a>(
        self,
        pairs: &mut Vec<(&'a str, &'a str)>,
        reply: &mut Vec<u8>,
    ) -> Result<Self, LoginStatus> {
        let keys = Keys::take(pairs)?;
        match self {
            Self::Agreed(grant) => challenge(grant, &keys, reply),
            Self::Challenged(grant, algorithm) => {
                judge(&grant, algorithm, &keys, reply)?;
                Ok(Self::Passed)
            }
            Self::Passed if keys.is_empty() => Ok(Self::Passed),
            Self::Passed => Err(LoginStatus::InitiatorError),
        }
    }

    pub(super) const fn has_passed(&self) -> bool {
        matches!(self, Self::Passed)
    }
}

/// The keys of CHAP in one text.
#[derive(Debug, Default)]
struct Keys<'a> {
    algorithms: Option<&'a str>,
    identifier: Option<&'a str>,
    challenge: Option<&'a str>,
    name: Option<&'a str>,
    response: Option<&'a str>,
}

impl<'a> Keys<'a> {
    fn take(pairs: &mut Vec<(&'a str, &'a str)>) -> Result<Self, LoginStatus> {
        let mut keys = Self::default();
        let mut twice = false;
        pairs.retain(|&(key, value)| {
            let place = match key {
                "CHAP_A" => &mut keys.algorithms,
                "CHAP_I" => &mut keys.identifier,
                "CHAP_C" => &mut keys.challenge,
                "CHAP_N" => &mut keys.name,
                "CHAP_R" => &mut keys.response,
                _ => return true,
            };
            twice |= place.replace(value).is_some();
            false
        });
        if twice { Err(LoginStatus::InitiatorError) } else { Ok(keys) }
    }

    fn is_empty(&self) -> bool {
        let Self { algorithms, identifier, challenge, name, response } = self;
        [algorithms, identifier, challenge, name, response].into_iter().all(Option::is_none)
    }
}

/// Chooses the algorithm and sends the challenge.
fn challenge(grant: Box<ChapGrant>, keys: &Keys<'_>, reply: &mut Vec<u8>) -> Result<Chap, LoginStatus> {
    let Keys { algorithms, identifier: None, challenge: None, name: None, response: None } = keys else {
        return Err(LoginStatus::InitiatorError);
    };
    let list = algorithms.ok_or(LoginStatus::MissingParameter)?;
    let algorithm = Algorithm::choose(list).ok_or(LoginStatus::AuthenticationFailure)?;
    text::push(reply, "CHAP_A", &(algorithm as u8).to_string());
    text::push(reply, "CHAP_I", &grant.identifier.to_string());
    text::push(reply, "CHAP_C", &text::hex(&grant.key.challenge(&grant.nonce)));
    Ok(Chap::Challenged(grant, algorithm))
}

/// Looks at the initiator's answer, and answers its challenge if there is one.
fn judge(
    grant: &ChapGrant,
    algorithm: Algorithm,
    keys: &Keys<'_>,
    reply: &mut Vec<u8>,
) -> Result<(), LoginStatus> {
    if keys.algorithms.is_some() {
        return Err(LoginStatus::InitiatorError);
    }
    let (Some(name), Some(response)) = (keys.name, keys.response) else {
        return Err(LoginStatus::MissingParameter);
    };
    let response = text::binary(response, CHALLENGE_LEN_MAX).ok_or(LoginStatus::InitiatorError)?;
    let theirs = their_challenge(keys)?;
    if name.len() > NAME_LEN_MAX {
        return Err(LoginStatus::InitiatorError);
    }
    let own = grant.key.challenge(&grant.nonce);
    // All of it is looked at in each case: neither the status nor the time says what was wrong.
    let expected = algorithm.response(grant.identifier, &grant.initiator.secret, &own);
    let is_name = is_same(name.as_bytes(), grant.initiator.name.as_bytes());
    let is_response = is_same(&response, &expected);
    // What we would have answered ourselves is our answer, made to come back (RFC 7143 9.2.1).
    let is_ours = grant.target.as_ref().is_some_and(|target| {
        is_same(&response, &algorithm.response(grant.identifier, &target.secret, &own))
    });
    let is_reflected =
        theirs.as_ref().is_some_and(|(_, challenge)| *challenge == own || grant.key.is_own(challenge));
    if !is_name || !is_response || is_ours || is_reflected {
        tracing::debug!(is_name, is_response, is_ours, is_reflected, ?algorithm, "CHAP fails");
        return Err(LoginStatus::AuthenticationFailure);
    }
    if let Some((identifier, challenge)) = theirs {
        let target = grant.target.as_ref().ok_or(LoginStatus::AuthenticationFailure)?;
        text::push(reply, "CHAP_N", &target.name);
        text::push(reply, "CHAP_R", &text::hex(&algorithm.response(identifier, &target.secret, &challenge)));
    }
    Ok(())
}

/// The challenge by which the initiator asks who we are.
fn their_challenge(keys: &Keys<'_>) -> Result<Option<(u8, Vec<u8>)>, LoginStatus> {
    let (identifier, challenge) = match (keys.identifier, keys.challenge) {
        (None, None) => return Ok(None),
        (Some(identifier), Some(challenge)) => (identifier, challenge),
        _ => return Err(LoginStatus::MissingParameter),
    };
    let identifier = text::number(identifier).and_then(|n| u8::try_from(n).ok());
    let challenge = text::binary(challenge, CHALLENGE_LEN_MAX);
    identifier.zip(challenge).map(Some).ok_or(LoginStatus::InitiatorError)
}
