//! No dialogue gets in without the secret.

mod common;

use common::{INITIATOR, Peer, TARGET};
use lusd_iscsi::chap::{ChallengeKey, ChapGrant, Credentials, Secret};
use lusd_iscsi::pdu::Stage;
use lusd_iscsi::{Authentication, Config, Event, LoginGrant};
use proptest::prelude::*;

fn grant() -> LoginGrant {
    let credentials = |name: &str, secret: &[u8]| Credentials {
        name: name.to_owned(),
        secret: Secret::new(secret).unwrap(),
    };
    let chap = ChapGrant {
        initiator: credentials("web1", b"what nobody guesses"),
        target: Some(credentials("disk", b"what nobody hears")),
        identifier: 7,
        nonce: [9; 16],
        key: ChallengeKey::new([3; 32]),
    };
    let authentication = Authentication::Chap(Box::new(chap));
    LoginGrant { portal_group_tag: 1, tsih: 1, authentication, ..LoginGrant::default() }
}

/// A pair of a login: those of a good dialogue but for the response, and others.
fn pair() -> impl Strategy<Value = String> {
    let said = [
        "AuthMethod=CHAP,None",
        "AuthMethod=None,CHAP",
        "AuthMethod=None",
        "AuthMethod=",
        "CHAP_A=5",
        "CHAP_A=8,7,6,5",
        "CHAP_N=web1",
        "CHAP_N=disk",
        "CHAP_N=",
        "CHAP_R=0x00",
        "CHAP_R=",
        "CHAP_I=7",
        "CHAP_C=0x0909",
        "InitialR2T=No",
        "HeaderDigest=None",
        "X-com.example.a=1",
    ];
    prop_oneof![
        4 => proptest::sample::select(said.map(str::to_owned).to_vec()),
        1 => (proptest::sample::select(vec![16_usize, 20, 32]), any::<u8>())
            .prop_map(|(len, byte)| format!("CHAP_R=0x{}", format!("{byte:02x}").repeat(len))),
    ]
}

/// Stages of a request, as often as not those of a good dialogue.
fn stages() -> impl Strategy<Value = (Stage, Option<Stage>)> {
    use Stage::{FullFeaturePhase, LoginOperationalNegotiation, SecurityNegotiation};
    prop_oneof![
        6 => Just((SecurityNegotiation, None)),
        3 => Just((SecurityNegotiation, Some(FullFeaturePhase))),
        3 => Just((SecurityNegotiation, Some(LoginOperationalNegotiation))),
        1 => Just((SecurityNegotiation, Some(SecurityNegotiation))),
        2 => Just((LoginOperationalNegotiation, Some(FullFeaturePhase))),
        1 => Just((LoginOperationalNegotiation, None)),
        1 => Just((FullFeaturePhase, Some(FullFeaturePhase))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn without_the_secret_nobody_gets_in(
        offers in any::<bool>(),
        asks in any::<bool>(),
        requests in proptest::collection::vec((stages(), proptest::collection::vec(pair(), 0..5)), 1..8),
    ) {
        let mut peer = Peer::new(Config::default());
        let names = format!("InitiatorName={INITIATOR}\0TargetName={TARGET}\0");
        // As often as not it begins well, so that what is random comes late.
        let begin = [(offers, "AuthMethod=CHAP\0"), (offers && asks, "CHAP_A=7\0")];
        let begin = begin.iter().filter(|(said, _)| *said).map(|(_, text)| (*text).to_owned());
        let begin = begin.map(|text| ((Stage::SecurityNegotiation, None), text));
        let random = requests.into_iter().map(|(stages, pairs)| {
            (stages, pairs.iter().map(|pair| format!("{pair}\0")).collect::<String>())
        });
        for (i, ((csg, nsg), text)) in begin.chain(random).enumerate() {
            let request = lusd_iscsi::pdu::LoginRequest { csg, nsg, ..peer.login_request() };
            let text = if i == 0 { format!("{names}{text}") } else { text };
            peer.send(request.to_bhs(), text.as_bytes());
            while let Some(event) = peer.try_event() {
                match event {
                    Event::Login(_) => peer.conn.login_grant(grant()),
                    Event::Closed(_) => return Ok(()),
                    other => panic!("{other:?}"),
                }
            }
            for pdu in peer.pdus() {
                let said = pdu.text();
                prop_assert!(!said.iter().any(|(key, value)| key == "CHAP_N" && value == "disk"), "{said:?}");
            }
        }
    }
}
