//! The table of keys (RFC 7143 section 13, RFC 7144 3): one row each, read by the negotiation in login and in the full feature
//! phase, and by [`keys`], which lists it.

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
    /// It is of the session, and settled by its leading connection ("LO"); otherwise of its connection.
    pub leading: bool,
    /// What counts when nobody names it.
    pub default: &'static str,
}

const fn row(key: Key, name: &'static str, rule: Rule, stages: Stages, normal_only: bool) -> KeySpec {
    KeySpec { key, name, rule, stages, normal_only, leading: false, default: "" }
}

impl KeySpec {
    /// It is said, not negotiated.
    pub(crate) const fn is_declared(&self) -> bool {
        matches!(self.rule, Rule::DeclaredNumber(..) | Rule::DeclaredText(_) | Rule::FromTarget)
    }

    /// Of the session: only its leading connection may settle it.
    const fn leading(mut self, default: &'static str) -> Self {
        self.leading = true;
        self.default = default;
        self
    }

    /// Of the connection.
    const fn default(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }
}

const BURST: Rule = Rule::Min(LENGTH_MIN, DATA_SEGMENT_LENGTH_MAX);
const SECONDS_MAX: u32 = 3600;

/// In the order of [`Key`].
pub(crate) const KEYS: [KeySpec; 30] = {
    use Stages::{Any, FullFeature, Login, Operational, OperationalAndFullFeature, Security};
    [
        row(Key::AuthMethod, "AuthMethod", Rule::List, Security, false).default("None"),
        row(Key::DataDigest, "DataDigest", Rule::List, Operational, false).default("None"),
        row(Key::DataPduInOrder, "DataPDUInOrder", Rule::Or, Operational, true).leading("Yes"),
        row(Key::DataSequenceInOrder, "DataSequenceInOrder", Rule::Or, Operational, true).leading("Yes"),
        row(Key::DefaultTime2Retain, "DefaultTime2Retain", Rule::Min(0, SECONDS_MAX), Operational, false)
            .leading("20"),
        row(Key::DefaultTime2Wait, "DefaultTime2Wait", Rule::Max(0, SECONDS_MAX), Operational, false)
            .leading("2"),
        row(Key::ErrorRecoveryLevel, "ErrorRecoveryLevel", Rule::Min(0, 2), Operational, false).leading("0"),
        row(Key::FirstBurstLength, "FirstBurstLength", BURST, Operational, true).leading("65536"),
        row(Key::HeaderDigest, "HeaderDigest", Rule::List, Operational, false).default("None"),
        row(Key::IfMarkInt, "IFMarkInt", Rule::Obsolete("Reject"), Operational, false),
        row(Key::IfMarker, "IFMarker", Rule::Obsolete("No"), Operational, false),
        row(Key::ImmediateData, "ImmediateData", Rule::And, Operational, true).leading("Yes"),
        row(Key::InitialR2t, "InitialR2T", Rule::Or, Operational, true).leading("Yes"),
        row(Key::InitiatorAlias, "InitiatorAlias", Rule::DeclaredText(ALIAS_LEN_MAX), Any, false),
        row(Key::InitiatorName, "InitiatorName", Rule::DeclaredText(NAME_LEN_MAX), Login, false),
        row(Key::IscsiProtocolLevel, "iSCSIProtocolLevel", Rule::Min(0, 31), Operational, true).leading("1"),
        row(Key::MaxBurstLength, "MaxBurstLength", BURST, Operational, true).leading("262144"),
        row(Key::MaxConnections, "MaxConnections", Rule::Min(1, 65_535), Operational, true).leading("1"),
        row(Key::MaxOutstandingR2t, "MaxOutstandingR2T", Rule::Min(1, 65_535), Operational, true)
            .leading("1"),
        row(
            Key::MaxRecvDataSegmentLength,
            "MaxRecvDataSegmentLength",
            Rule::DeclaredNumber(LENGTH_MIN, DATA_SEGMENT_LENGTH_MAX),
            OperationalAndFullFeature,
            false,
        )
        .default("8192"),
        row(Key::OfMarkInt, "OFMarkInt", Rule::Obsolete("Reject"), Operational, false),
        row(Key::OfMarker, "OFMarker", Rule::Obsolete("No"), Operational, false),
        row(Key::SendTargets, "SendTargets", Rule::Request, FullFeature, false),
        row(Key::SessionType, "SessionType", Rule::DeclaredText(NAME_LEN_MAX), Login, false)
            .leading("Normal"),
        row(Key::TargetAddress, "TargetAddress", Rule::FromTarget, Any, false),
        row(Key::TargetAlias, "TargetAlias", Rule::FromTarget, Any, false),
        row(Key::TargetName, "TargetName", Rule::DeclaredText(NAME_LEN_MAX), Login, false),
        row(Key::TargetPortalGroupTag, "TargetPortalGroupTag", Rule::FromTarget, Any, false),
        row(Key::TaskReporting, "TaskReporting", Rule::List, Operational, true).leading("RFC3720"),
        row(Key::XNodeArchitecture, "X#NodeArchitecture", Rule::DeclaredText(ALIAS_LEN_MAX), Any, false),
    ]
};

/// One key, as documentation shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFacts {
    /// The key.
    pub name: &'static str,
    /// How its value comes about.
    pub rule: &'static str,
    /// What it may be.
    pub range: String,
    /// What counts when nobody names it; empty: there is no such value.
    pub default: &'static str,
    /// Where it may come.
    pub stages: &'static str,
    /// "session" or "connection".
    pub scope: &'static str,
    /// Who may say it.
    pub sender: &'static str,
    /// Answered with Irrelevant in a discovery session.
    pub normal_only: bool,
}

/// Every key that is known, in the order of the table. All others are answered with NotUnderstood.
pub fn keys() -> impl Iterator<Item = KeyFacts> {
    KEYS.iter().map(KeySpec::facts)
}

impl KeySpec {
    fn facts(&self) -> KeyFacts {
        let (rule, range, sender) = match self.rule {
            Rule::List => ("the first of the list that both know", "a list".to_owned(), "both"),
            Rule::Or => ("Yes if one says so", "Yes or No".to_owned(), "both"),
            Rule::And => ("Yes if both say so", "Yes or No".to_owned(), "both"),
            Rule::Min(low, high) => ("the smaller number", format!("{low} to {high}"), "both"),
            Rule::Max(low, high) => ("the greater number", format!("{low} to {high}"), "both"),
            Rule::DeclaredNumber(low, high) => ("declared", format!("{low} to {high}"), "both"),
            Rule::DeclaredText(len) => ("declared", format!("text of {len} bytes at most"), "initiator"),
            Rule::FromTarget => ("declared", "text".to_owned(), "target"),
            Rule::Request => ("a request", "text".to_owned(), "initiator"),
            Rule::Obsolete(answer) => (answer, "anything".to_owned(), "initiator"),
        };
        let stages = match self.stages {
            Stages::Security => "security",
            Stages::Operational => "operational",
            Stages::Login => "login",
            Stages::FullFeature => "full feature",
            Stages::OperationalAndFullFeature => "operational, full feature",
            Stages::Any => "any",
        };
        let scope = if self.leading { "session" } else { "connection" };
        KeyFacts {
            name: self.name,
            rule,
            range,
            default: self.default,
            stages,
            scope,
            sender,
            normal_only: self.normal_only,
        }
    }
}

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

    /// RFC 7143 section 13: "LO" and "SW" of every key that is negotiated, and the defaults.
    #[test]
    fn the_list_says_what_the_rows_say() {
        let of_the_session: Vec<_> =
            keys().filter(|key| key.scope == "session").map(|key| (key.name, key.default)).collect();
        assert_eq!(
            of_the_session,
            [
                ("DataPDUInOrder", "Yes"),
                ("DataSequenceInOrder", "Yes"),
                ("DefaultTime2Retain", "20"),
                ("DefaultTime2Wait", "2"),
                ("ErrorRecoveryLevel", "0"),
                ("FirstBurstLength", "65536"),
                ("ImmediateData", "Yes"),
                ("InitialR2T", "Yes"),
                ("iSCSIProtocolLevel", "1"),
                ("MaxBurstLength", "262144"),
                ("MaxConnections", "1"),
                ("MaxOutstandingR2T", "1"),
                ("SessionType", "Normal"),
                ("TaskReporting", "RFC3720"),
            ]
        );
        let burst = keys().find(|key| key.name == "MaxBurstLength").unwrap();
        assert_eq!((&*burst.range, burst.rule), ("512 to 16777215", "the smaller number"));
        assert_eq!(keys().count(), KEYS.len());
    }
}
