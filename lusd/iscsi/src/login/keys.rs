//! The table of keys (RFC 7143 section 13, RFC 7144 3): one row each, read by the negotiation in login and in the full feature
//! phase.

use crate::bhs::DATA_SEGMENT_LENGTH_MAX;
use crate::config::LENGTH_MIN;

/// Greatest length of an iSCSI name, bytes (RFC 7143 4.2.7.1).
pub(crate) const NAME_LEN_MAX: usize = 223;
/// Greatest length of an alias, bytes (RFC 7143 6.1: a text value).
pub(crate) const ALIAS_LEN_MAX: usize = 255;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Key {
    AuthMethod,
    DataDigest,
    DataPduInOrder,
    DataSequenceInOrder,
    DefaultTime2Retain,
    DefaultTime2Wait,
    ErrorRecoveryLevel,
    FirstBurstLength,
    HeaderDigest,
    IfMarkInt,
    IfMarker,
    ImmediateData,
    InitialR2t,
    InitiatorAlias,
    InitiatorName,
    IscsiProtocolLevel,
    MaxBurstLength,
    MaxConnections,
    MaxOutstandingR2t,
    MaxRecvDataSegmentLength,
    OfMarkInt,
    OfMarker,
    SendTargets,
    SessionType,
    TargetAddress,
    TargetAlias,
    TargetName,
    TargetPortalGroupTag,
    TaskReporting,
    XNodeArchitecture,
}

/// How a value comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// A list in order of preference; the first that both know.
    List,
    /// Booleans: Yes if one says so.
    Or,
    /// Booleans: Yes if both say so.
    And,
    /// Numbers within a range: the smaller one.
    Min(u32, u32),
    /// Numbers within a range: the greater one.
    Max(u32, u32),
    /// The initiator says a number; it is not answered.
    DeclaredNumber(u32, u32),
    /// The initiator says a text of so many bytes at most; it is not answered.
    DeclaredText(usize),
    /// Only targets say this.
    FromTarget,
    /// A request of its own.
    Request,
    /// No longer of use; the one answer to it (RFC 7143 13.25).
    Obsolete(&'static str),
}

/// Where a key may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stages {
    /// Security negotiation.
    Security,
    /// Operational negotiation.
    Operational,
    /// Either of the two.
    Login,
    /// Full feature phase.
    FullFeature,
    /// Operational negotiation and full feature phase.
    OperationalAndFullFeature,
    /// Anywhere.
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Security,
    Operational,
    FullFeature,
}

impl Stages {
    pub(crate) fn hold(self, place: Place) -> bool {
        match place {
            Place::Security => matches!(self, Self::Security | Self::Login | Self::Any),
            Place::Operational => {
                matches!(self, Self::Operational | Self::Login | Self::OperationalAndFullFeature | Self::Any)
            }
            Place::FullFeature => {
                matches!(self, Self::FullFeature | Self::OperationalAndFullFeature | Self::Any)
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct KeySpec {
    pub key: Key,
    pub name: &'static str,
    pub rule: Rule,
    pub stages: Stages,
    /// It says nothing in a discovery session ("Irrelevant when: SessionType=Discovery").
    pub normal_only: bool,
}

const fn row(key: Key, name: &'static str, rule: Rule, stages: Stages, normal_only: bool) -> KeySpec {
    KeySpec { key, name, rule, stages, normal_only }
}

const BURST: Rule = Rule::Min(LENGTH_MIN, DATA_SEGMENT_LENGTH_MAX);
const SECONDS_MAX: u32 = 3600;

/// In the order of [`Key`].
pub(crate) const KEYS: [KeySpec; 30] = {
    use Stages::{Any, FullFeature, Login, Operational, OperationalAndFullFeature, Security};
    [
        row(Key::AuthMethod, "AuthMethod", Rule::List, Security, false),
        row(Key::DataDigest, "DataDigest", Rule::List, Operational, false),
        row(Key::DataPduInOrder, "DataPDUInOrder", Rule::Or, Operational, true),
        row(Key::DataSequenceInOrder, "DataSequenceInOrder", Rule::Or, Operational, true),
        row(Key::DefaultTime2Retain, "DefaultTime2Retain", Rule::Min(0, SECONDS_MAX), Operational, false),
        row(Key::DefaultTime2Wait, "DefaultTime2Wait", Rule::Max(0, SECONDS_MAX), Operational, false),
        row(Key::ErrorRecoveryLevel, "ErrorRecoveryLevel", Rule::Min(0, 2), Operational, false),
        row(Key::FirstBurstLength, "FirstBurstLength", BURST, Operational, true),
        row(Key::HeaderDigest, "HeaderDigest", Rule::List, Operational, false),
        row(Key::IfMarkInt, "IFMarkInt", Rule::Obsolete("Reject"), Operational, false),
        row(Key::IfMarker, "IFMarker", Rule::Obsolete("No"), Operational, false),
        row(Key::ImmediateData, "ImmediateData", Rule::And, Operational, true),
        row(Key::InitialR2t, "InitialR2T", Rule::Or, Operational, true),
        row(Key::InitiatorAlias, "InitiatorAlias", Rule::DeclaredText(ALIAS_LEN_MAX), Any, false),
        row(Key::InitiatorName, "InitiatorName", Rule::DeclaredText(NAME_LEN_MAX), Login, false),
        row(Key::IscsiProtocolLevel, "iSCSIProtocolLevel", Rule::Min(0, 31), Operational, true),
        row(Key::MaxBurstLength, "MaxBurstLength", BURST, Operational, true),
        row(Key::MaxConnections, "MaxConnections", Rule::Min(1, 65_535), Operational, true),
        row(Key::MaxOutstandingR2t, "MaxOutstandingR2T", Rule::Min(1, 65_535), Operational, true),
        row(
            Key::MaxRecvDataSegmentLength,
            "MaxRecvDataSegmentLength",
            Rule::DeclaredNumber(LENGTH_MIN, DATA_SEGMENT_LENGTH_MAX),
            OperationalAndFullFeature,
            false,
        ),
        row(Key::OfMarkInt, "OFMarkInt", Rule::Obsolete("Reject"), Operational, false),
        row(Key::OfMarker, "OFMarker", Rule::Obsolete("No"), Operational, false),
        row(Key::SendTargets, "SendTargets", Rule::Request, FullFeature, false),
        row(Key::SessionType, "SessionType", Rule::DeclaredText(NAME_LEN_MAX), Login, false),
        row(Key::TargetAddress, "TargetAddress", Rule::FromTarget, Any, false),
        row(Key::TargetAlias, "TargetAlias", Rule::FromTarget, Any, false),
        row(Key::TargetName, "TargetName", Rule::DeclaredText(NAME_LEN_MAX), Login, false),
        row(Key::TargetPortalGroupTag, "TargetPortalGroupTag", Rule::FromTarget, Any, false),
        row(Key::TaskReporting, "TaskReporting", Rule::List, Operational, true),
        row(Key::XNodeArchitecture, "X#NodeArchitecture", Rule::DeclaredText(ALIAS_LEN_MAX), Any, false),
    ]
};

pub(crate) fn find(name: &str) -> Option<&'static KeySpec> {
    KEYS.iter().find(|spec| spec.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_the_order_of_their_keys_and_found_by_name() {
        for (i, spec) in KEYS.iter().enumerate() {
            assert_eq!(spec.key as usize, i, "{}", spec.name);
            assert_eq!(find(spec.name).unwrap().key, spec.key);
        }
        assert!(find("X-com.example").is_none());
    }
}
