//! Text negotiation (RFC 7143 6.2): offers in, answers out, by the rules of the table.

use std::sync::Arc;

use smallvec::SmallVec;

use super::keys::{self, Key, KeySpec, Place, Rule};
use crate::config::{Config, DigestOffer};
use crate::error::TextError;
use crate::params::{Params, SessionType, TaskReporting};
use crate::text;

const NOT_UNDERSTOOD: &str = "NotUnderstood";
const IRRELEVANT: &str = "Irrelevant";
const REJECT: &str = "Reject";

/// A request that came among the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked<'a> {
    /// AuthMethod with the methods that the initiator can do.
    AuthMethod(&'a str),
    /// SendTargets with its value.
    SendTargets(&'a str),
}

#[derive(Clone, Debug)]
pub(crate) struct Negotiation {
    config: Arc<Config>,
    pub params: Params,
    pub session_type: SessionType,
    pub initiator_alias: Option<String>,
    /// The connection is the session's first.
    is_leading: bool,
    /// One bit for each key that has come.
    seen: u32,
    /// The names that the login began with.
    names: SmallVec<[(Key, String); 3]>,
    /// Our MaxRecvDataSegmentLength was told.
    declared: bool,
}

const _: () = assert!(keys::KEYS.len() <= 32, "Negotiation::seen has a bit for each key");

impl Negotiation {
    /// `joined`: what the leading connection of the session has settled, if this is another one.
    pub(crate) fn new(config: Arc<Config>, session_type: SessionType, joined: Option<Params>) -> Self {
        Self {
            is_leading: joined.is_none(),
            params: joined.map(Params::of_another_connection).unwrap_or_default(),
            config,
            session_type,
            initiator_alias: None,
            seen: 0,
            names: SmallVec::new(),
            declared: false,
        }
    }

    /// Answers the keys of one complete text into `reply`; what is not a plain parameter is handed to `asked`, which returns the
    /// answer.
    ///
    /// # Errors
    /// A key that came before in this negotiation, but for a name that is said again as it was; a declaration that is not allowed.
    pub(crate) fn answer<'a>(
        &mut self,
        pairs: &[(&'a str, &'a str)],
        place: Place,
        reply: &mut Vec<u8>,
        mut asked: impl FnMut(Asked<'a>) -> Option<&'static str>,
    ) -> Result<(), TextError> {
        for &(name, value) in pairs {
            let Some(spec) = keys::find(name) else {
                text::push(reply, name, NOT_UNDERSTOOD);
                continue;
            };
            if spec.stages.hold(place) {
                let bit = 1 << spec.key as u32;
                if self.seen & bit != 0 {
                    // libiscsi says who it is in the operational stage again, where it offered CHAP and was answered None.
                    if self.names.iter().any(|(key, said)| *key == spec.key && said == value) {
                        continue;
                    }
                    return Err(TextError::RepeatedKey);
                }
                self.seen |= bit;
            }
            let answer = match spec.key {
                _ if !spec.stages.hold(place) => Some(REJECT.into()),
                // "LO": settled, and not for this connection to say (RFC 7143 13).
                _ if spec.leading && !self.is_leading && !spec.is_declared() => Some(REJECT.into()),
                Key::AuthMethod => asked(Asked::AuthMethod(value)).map(Into::into),
                Key::SendTargets => asked(Asked::SendTargets(value)).map(Into::into),
                _ if spec.normal_only && self.session_type == SessionType::Discovery => {
                    Some(IRRELEVANT.into())
                }
                _ => self.decide(spec, value)?,
            };
            if let Some(answer) = answer {
                text::push(reply, name, &answer);
            }
        }
        Ok(())
    }

    /// Forgets which keys have come: each negotiation in the full feature phase stands alone.
    pub(crate) fn start_again(&mut self) {
        self.seen = 0;
        self.names.clear();
    }

    /// False if we insist on a digest that was not agreed on.
    pub(crate) fn is_acceptable(&self) -> bool {
        let (config, params) = (&*self.config, &self.params);
        (config.header_digest.none || params.header_digest) && (config.data_digest.none || params.data_digest)
    }

    /// Tells our MaxRecvDataSegmentLength, once.
    pub(crate) fn declare(&mut self, reply: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.declared, true) {
            text::push(
                reply,
                "MaxRecvDataSegmentLength",
                &self.config.max_recv_data_segment_length.to_string(),
            );
        }
    }

    fn decide(&mut self, spec: &KeySpec, value: &str) -> Result<Option<String>, TextError> {
        Ok(match spec.rule {
            Rule::List => Some(self.choose(spec.key, value).unwrap_or(REJECT).to_owned()),
            Rule::Or | Rule::And => Some(match text::boolean(value) {
                Some(theirs) => {
                    let ours = self.own_boolean(spec.key);
                    let result = if spec.rule == Rule::Or { theirs || ours } else { theirs && ours };
                    self.set_boolean(spec.key, result);
                    if result { "Yes" } else { "No" }.to_owned()
                }
                None => REJECT.to_owned(),
            }),
            Rule::Min(low, high) | Rule::Max(low, high) => {
                Some(match text::number(value).filter(|n| (low..=high).contains(n)) {
                    Some(theirs) => {
                        let ours = self.own_number(spec.key);
                        let is_min = matches!(spec.rule, Rule::Min(..));
                        let result = if is_min { theirs.min(ours) } else { theirs.max(ours) };
                        self.set_number(spec.key, result);
                        result.to_string()
                    }
                    None => REJECT.to_owned(),
                })
            }
            Rule::DeclaredNumber(low, high) => {
                let n =
                    text::number(value).filter(|n| (low..=high).contains(n)).ok_or(TextError::Declaration)?;
                self.params.max_send_data_segment_length = n;
                None
            }
            Rule::DeclaredText(len_max) => {
                if value.len() > len_max {
                    return Err(TextError::Declaration);
                }
                match spec.key {
                    Key::InitiatorAlias => self.initiator_alias = Some(value.to_owned()),
                    Key::InitiatorName | Key::SessionType | Key::TargetName => {
                        self.names.push((spec.key, value.to_owned()));
                    }
                    _ => {}
                }
                None
            }
            Rule::FromTarget | Rule::Request => Some(REJECT.to_owned()),
            Rule::Obsolete(answer) => Some(answer.to_owned()),
        })
    }

    /// The first of the initiator's choices that we take too.
    fn choose(&mut self, key: Key, list: &str) -> Option<&'static str> {
        if key == Key::TaskReporting {
            let chosen = list.split(',').find_map(TaskReporting::from_name)?;
            self.params.task_reporting = chosen;
            return Some(chosen.name());
        }
        let (offer, on) = match key {
            Key::HeaderDigest => (self.config.header_digest, &mut self.params.header_digest),
            _ => (self.config.data_digest, &mut self.params.data_digest),
        };
        let DigestOffer { none, crc32c } = offer;
        let chosen = list.split(',').find_map(|v| match v {
            "None" if none => Some("None"),
            "CRC32C" if crc32c => Some("CRC32C"),
            _ => None,
        });
        *on = chosen == Some("CRC32C");
        chosen
    }

    fn own_boolean(&self, key: Key) -> bool {
        match key {
            Key::InitialR2t => self.config.initial_r2t,
            Key::ImmediateData => self.config.immediate_data,
            // Data is taken in order only: it goes straight to its place.
            Key::DataPduInOrder | Key::DataSequenceInOrder => true,
            _ => unreachable!("{key:?} is not a boolean"),
        }
    }

    fn set_boolean(&mut self, key: Key, value: bool) {
        match key {
            Key::InitialR2t => self.params.initial_r2t = value,
            Key::ImmediateData => self.params.immediate_data = value,
            _ => debug_assert!(value, "{key:?} was settled above"),
        }
    }

    fn own_number(&self, key: Key) -> u32 {
        let config = &*self.config;
        match key {
            Key::DefaultTime2Retain => config.default_time_2_retain_s.into(),
            Key::DefaultTime2Wait => config.default_time_2_wait_s.into(),
            Key::ErrorRecoveryLevel => 0,
            Key::FirstBurstLength => config.first_burst_length,
            Key::IscsiProtocolLevel => config.protocol_level.into(),
            Key::MaxBurstLength => config.max_burst_length,
            Key::MaxConnections => config.max_connections.into(),
            Key::MaxOutstandingR2t => config.max_outstanding_r2t.into(),
            _ => unreachable!("{key:?} is not a number"),
        }
    }

    /// `value` is within the key's range.
    fn set_number(&mut self, key: Key, value: u32) {
        let params = &mut self.params;
        match key {
            Key::DefaultTime2Retain => params.default_time_2_retain_s = value as u16,
            Key::DefaultTime2Wait => params.default_time_2_wait_s = value as u16,
            Key::ErrorRecoveryLevel => params.error_recovery_level = value as u8,
            Key::FirstBurstLength => params.first_burst_length = value,
            Key::IscsiProtocolLevel => params.protocol_level = value as u8,
            Key::MaxBurstLength => params.max_burst_length = value,
            Key::MaxConnections => params.max_connections = value as u16,
            Key::MaxOutstandingR2t => params.max_outstanding_r2t = value as u16,
            _ => unreachable!("{key:?} is not a number"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer_at(
        place: Place,
        session_type: SessionType,
        text: &[u8],
    ) -> Result<(String, Params), TextError> {
        let mut negotiation = Negotiation::new(Arc::new(Config::default()), session_type, None);
        let mut reply = Vec::new();
        negotiation.answer(&text::pairs(text).unwrap(), place, &mut reply, |_| None)?;
        let reply = String::from_utf8(reply).unwrap().replace('\0', " ");
        Ok((reply.trim_end().to_owned(), negotiation.params))
    }

    fn answer(text: &[u8]) -> (String, Params) {
        answer_at(Place::Operational, SessionType::Normal, text).unwrap()
    }

    #[test]
    fn what_open_iscsi_offers() {
        let (reply, params) = answer(
            b"InitialR2T=No\0ImmediateData=Yes\0FirstBurstLength=262144\0MaxBurstLength=16776192\0\
              MaxRecvDataSegmentLength=262144\0IFMarker=No\0OFMarker=No\0DefaultTime2Wait=2\0DefaultTime2Retain=0\0\
              HeaderDigest=CRC32C,None\0DataDigest=None\0ErrorRecoveryLevel=0\0MaxConnections=1\0MaxOutstandingR2T=1\0",
        );
        assert_eq!(
            reply,
            "InitialR2T=No ImmediateData=Yes FirstBurstLength=262144 MaxBurstLength=1048576 IFMarker=No OFMarker=No \
             DefaultTime2Wait=2 DefaultTime2Retain=0 HeaderDigest=CRC32C DataDigest=None ErrorRecoveryLevel=0 \
             MaxConnections=1 MaxOutstandingR2T=1"
        );
        assert!(params.header_digest && !params.data_digest && !params.initial_r2t && params.immediate_data);
        assert_eq!((params.first_burst_length, params.max_burst_length), (262_144, 1 << 20));
        assert_eq!(params.max_send_data_segment_length, 262_144);
    }

    /// For every negotiated key: values that are no value of it. The default stands.
    #[test]
    fn illegal_values_of_every_key_are_rejected() {
        let none: &[&str] = &[];
        for spec in &keys::KEYS {
            let bad = match spec.rule {
                Rule::Or | Rule::And => &["yes", "1", "", "Reject", "Irrelevant"][..],
                Rule::Min(..) | Rule::Max(..) => {
                    &["-1", "", "16777216", "99999999999", "Yes", "0x", "NotUnderstood"]
                }
                Rule::List if spec.stages == Stages::Operational => &["", "crc32c", "MD5", "none"],
                Rule::FromTarget => &["x", ""],
                _ => none,
            };
            for value in bad {
                let place = Place::Operational;
                let text = format!("{}={value}\0", spec.name);
                let (reply, params) = answer_at(place, SessionType::Normal, text.as_bytes()).unwrap();
                assert_eq!(reply, format!("{}=Reject", spec.name), "{value}");
                assert_eq!(params, Params::default());
            }
        }
        use super::keys::Stages;
    }

    #[test]
    fn range_edges() {
        for (text, reply) in [
            (&b"FirstBurstLength=511\0"[..], "FirstBurstLength=Reject"),
            (b"FirstBurstLength=512\0", "FirstBurstLength=512"),
            (b"MaxBurstLength=16777215\0", "MaxBurstLength=1048576"),
            (b"MaxConnections=0\0", "MaxConnections=Reject"),
            (b"MaxConnections=65535\0", "MaxConnections=1"),
            (b"DefaultTime2Wait=3601\0", "DefaultTime2Wait=Reject"),
            (b"DefaultTime2Wait=3600\0", "DefaultTime2Wait=3600"),
            (b"DefaultTime2Retain=20\0", "DefaultTime2Retain=0"),
            (b"ErrorRecoveryLevel=2\0", "ErrorRecoveryLevel=0"),
            (b"ErrorRecoveryLevel=3\0", "ErrorRecoveryLevel=Reject"),
            (b"MaxOutstandingR2T=16\0", "MaxOutstandingR2T=4"),
            (b"iSCSIProtocolLevel=2\0", "iSCSIProtocolLevel=2"),
            (b"iSCSIProtocolLevel=31\0", "iSCSIProtocolLevel=2"),
            (b"DataPDUInOrder=No\0", "DataPDUInOrder=Yes"),
            (b"IFMarkInt=2048~8192\0", "IFMarkInt=Reject"),
            (b"TaskReporting=FastAbort,RFC3720\0", "TaskReporting=FastAbort"),
            (b"TaskReporting=New,ResponseFence\0", "TaskReporting=ResponseFence"),
            (b"TaskReporting=New\0", "TaskReporting=Reject"),
            (b"X-com.example.key=1\0", "X-com.example.key=NotUnderstood"),
            (b"X#NodeArchitecture=plan9\0", ""),
            (b"AuthMethod=None\0", "AuthMethod=Reject"),
            (b"SendTargets=All\0", "SendTargets=Reject"),
        ] {
            assert_eq!(answer(text).0, reply);
        }
    }

    /// What is of the session is settled; what is of the connection starts anew.
    #[test]
    fn another_connection_of_a_session() {
        let settled = Params {
            max_burst_length: 4096,
            header_digest: true,
            max_send_data_segment_length: 512,
            max_connections: 4,
            ..Params::default()
        };
        let config = Arc::new(Config::default());
        let mut negotiation = Negotiation::new(config, SessionType::Normal, Some(settled.clone()));
        for spec in keys::KEYS.iter().filter(|spec| spec.leading && !spec.is_declared()) {
            let text = format!("{}=1\0", spec.name);
            let mut reply = Vec::new();
            let pairs = text::pairs(text.as_bytes()).unwrap();
            negotiation.answer(&pairs, Place::Operational, &mut reply, |_| None).unwrap();
            assert_eq!(reply, format!("{}=Reject\0", spec.name).as_bytes());
        }
        let mut reply = Vec::new();
        let text = b"SessionType=Normal\0DataDigest=CRC32C\0MaxRecvDataSegmentLength=1024\0";
        let pairs = text::pairs(text).unwrap();
        negotiation.answer(&pairs, Place::Operational, &mut reply, |_| None).unwrap();
        assert_eq!(reply, b"DataDigest=CRC32C\0");
        let wanted =
            Params { header_digest: false, data_digest: true, max_send_data_segment_length: 1024, ..settled };
        assert_eq!(negotiation.params, wanted);
    }

    #[test]
    fn declarations_that_are_not_allowed_end_the_negotiation() {
        for bad in ["511", "16777216", "no", ""] {
            let text = format!("MaxRecvDataSegmentLength={bad}\0");
            let result = answer_at(Place::Operational, SessionType::Normal, text.as_bytes());
            assert_eq!(result.unwrap_err(), TextError::Declaration);
        }
        let text = format!("InitiatorAlias={}\0", "a".repeat(256));
        assert!(answer_at(Place::Operational, SessionType::Normal, text.as_bytes()).is_err());
    }

    #[test]
    fn a_key_comes_once() {
        for spec in keys::KEYS.iter().filter(|spec| spec.stages.hold(Place::Operational)) {
            let text = format!("{0}=No\0Unknown=1\0{0}=Yes\0", spec.name);
            let result = answer_at(Place::Operational, SessionType::Discovery, text.as_bytes());
            assert!(matches!(result, Err(TextError::RepeatedKey | TextError::Declaration)), "{}", spec.name);
        }
    }

    #[test]
    fn discovery_and_wrong_places() {
        let (reply, _) = answer_at(
            Place::Operational,
            SessionType::Discovery,
            b"InitialR2T=No\0MaxBurstLength=512\0HeaderDigest=None\0",
        )
        .unwrap();
        assert_eq!(reply, "InitialR2T=Irrelevant MaxBurstLength=Irrelevant HeaderDigest=None");
        let place = Place::Security;
        let (reply, params) = answer_at(place, SessionType::Normal, b"InitialR2T=No\0").unwrap();
        assert_eq!((&*reply, params.initial_r2t), ("InitialR2T=Reject", true));
        let place = Place::FullFeature;
        let (reply, _) =
            answer_at(place, SessionType::Normal, b"MaxBurstLength=512\0TargetName=x\0").unwrap();
        assert_eq!(reply, "MaxBurstLength=Reject TargetName=Reject");
        let (reply, params) =
            answer_at(place, SessionType::Normal, b"MaxRecvDataSegmentLength=1024\0").unwrap();
        assert_eq!((&*reply, params.max_send_data_segment_length), ("", 1024));
    }
}
