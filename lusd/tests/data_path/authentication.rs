//! Logins by CHAP: who has to, with which secret, what becomes of those that fail.

use lus_map::{Chap, Credentials, Iqn, Secret, Secrets, Subject, Timestamp};
use sha2::Digest;

use crate::gateway::{Gateway, HOST, OTHER_HOST, TARGET, limits};
use crate::initiator::{Command, Initiator};

const OF_HOST: &str = "secret-of-the-host";
const OF_TARGET: &str = "secret-of-the-target";
const OF_ALL: &str = "secret-of-all-hosts";

/// Statuses (RFC 7143 11.13.5).
const AUTHENTICATION_FAILURE: (u8, u8) = (2, 1);
const SERVICE_UNAVAILABLE: (u8, u8) = (3, 1);

/// Stages and T bit of a login request (11.12).
const STAY_IN_SECURITY: u8 = 0;
const SECURITY_TO_FULL: u8 = 0x80 | 3;

fn iqn(name: &str) -> Iqn {
    name.parse().unwrap()
}

fn credentials(name: &str, secret: &str) -> Credentials {
    Credentials::new(name, Secret::new(secret.as_bytes()).unwrap()).unwrap()
}

fn chap(secret: &str, mutual: Option<&str>) -> Chap {
    let target = mutual.map(|secret| credentials("disk", secret));
    Chap { initiator: credentials("web1", secret), target, changed: Timestamp(0) }
}

fn secrets(list: &[(Subject, Chap)]) -> Secrets {
    list.iter()
        .fold(Secrets::new([5; 32]), |secrets, (subject, chap)| secrets.set(subject, chap.clone()).unwrap())
}

/// A gateway with a unit, whose target wants CHAP of [`HOST`] with a secret of its own, and of all others.
fn gateway() -> Gateway {
    let (gateway, _) = Gateway::with_ram(limits(), 2);
    gateway.service.authenticator.set(secrets(&[
        (Subject::Host(iqn(TARGET), iqn(HOST)), chap(OF_HOST, Some(OF_TARGET))),
        (Subject::Target(iqn(TARGET)), chap(OF_ALL, None)),
    ]));
    gateway
}

fn from_hex(value: &str) -> Vec<u8> {
    let digits = value.strip_prefix("0x").unwrap();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// SHA-256 of identifier, secret and challenge (RFC 1994 4.1).
fn response(identifier: u8, secret: &str, challenge: &[u8]) -> String {
    let hash = sha2::Sha256::new().chain_update([identifier]).chain_update(secret).chain_update(challenge);
    to_hex(&hash.finalize())
}

fn value<'a>(pairs: &'a [String], key: &str) -> &'a str {
    let found = pairs.iter().find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("{key} in {pairs:?}"))
}

type Answer = Result<Vec<String>, (u8, u8)>;

/// The first two requests: who it is, and which algorithms. Gives the identifier and the challenge.
fn challenged(initiator: &mut Initiator, host: &str, target: &str) -> (u8, Vec<u8>) {
    let session = match target {
        "" => "SessionType=Discovery".to_owned(),
        _ => format!("TargetName={target}"),
    };
    let names = format!("InitiatorName={host}\0{session}\0AuthMethod=CHAP,None\0");
    let agreed = initiator.login_step(STAY_IN_SECURITY, &names).expect("the names are known");
    assert_eq!(value(&agreed, "AuthMethod"), "CHAP");
    let asked = initiator.login_step(STAY_IN_SECURITY, "CHAP_A=7,5\0").unwrap();
    assert_eq!(value(&asked, "CHAP_A"), "7");
    (value(&asked, "CHAP_I").parse().unwrap(), from_hex(value(&asked, "CHAP_C")))
}

fn login_with(initiator: &mut Initiator, host: &str, target: &str, secret: &str, keys: &str) -> Answer {
    let (identifier, challenge) = challenged(initiator, host, target);
    let response = response(identifier, secret, &challenge);
    initiator.login_step(SECURITY_TO_FULL, &format!("CHAP_N=web1\0CHAP_R={response}\0{keys}"))
}

fn login(gateway: &Gateway, host: &str, secret: &str) -> Answer {
    login_with(&mut gateway.connect(), host, TARGET, secret, "")
}

#[test]
fn who_knows_the_secret_gets_in() {
    let gateway = gateway();
    let mut host = gateway.connect();
    login_with(&mut host, HOST, TARGET, OF_HOST, "").unwrap();
    host.clear_attentions(0);
    host.run(&Command::read(0, 1)).good();
    // A host's own secret beats the target's.
    assert_eq!(login(&gateway, HOST, OF_ALL), Err(AUTHENTICATION_FAILURE));
    assert!(login(&gateway, OTHER_HOST, OF_ALL).is_ok());
    assert_eq!(login(&gateway, OTHER_HOST, OF_HOST), Err(AUTHENTICATION_FAILURE));
    // Names in another case are the same names.
    assert!(login(&gateway, &HOST.to_uppercase().replace("IQN", "iqn"), OF_HOST).is_ok());
    assert_eq!(gateway.service.authenticator.counters().failed, 2);
}

#[test]
fn nobody_gets_around_it() {
    let gateway = gateway();
    assert_eq!(gateway.connect().login(HOST, TARGET, ""), Err(AUTHENTICATION_FAILURE), "no security stage");
    let names = format!("InitiatorName={HOST}\0TargetName={TARGET}\0");
    for method in ["", "AuthMethod=None\0"] {
        let answer = gateway.connect().login_step(SECURITY_TO_FULL, &format!("{names}{method}"));
        assert_eq!(answer, Err(AUTHENTICATION_FAILURE), "{method}");
    }
    let mut host = gateway.connect();
    challenged(&mut host, HOST, TARGET);
    assert_eq!(host.login_step(SECURITY_TO_FULL, ""), Err((2, 7)), "nothing is shown");
    assert_eq!(gateway.service.authenticator.counters().failed, 3);
}

#[test]
fn the_target_shows_who_it_is() {
    let gateway = gateway();
    let challenge = [0xc3; 40];
    let ask = format!("CHAP_I=17\0CHAP_C={}\0", to_hex(&challenge));
    let shown = login_with(&mut gateway.connect(), HOST, TARGET, OF_HOST, &ask).unwrap();
    assert_eq!(value(&shown, "CHAP_N"), "disk");
    assert_eq!(value(&shown, "CHAP_R"), response(17, OF_TARGET, &challenge));
    // Not before the initiator has; and where there is nothing to show it says so.
    let answer = login_with(&mut gateway.connect(), HOST, TARGET, OF_ALL, &ask);
    assert_eq!(answer, Err(AUTHENTICATION_FAILURE));
    let answer = login_with(&mut gateway.connect(), OTHER_HOST, TARGET, OF_ALL, &ask);
    assert_eq!(answer, Err(AUTHENTICATION_FAILURE));
}

#[test]
fn a_challenge_of_another_connection_is_not_answered() {
    let gateway = gateway();
    let (_, theirs) = challenged(&mut gateway.connect(), HOST, TARGET);
    let ask = format!("CHAP_I=17\0CHAP_C={}\0", to_hex(&theirs));
    let answer = login_with(&mut gateway.connect(), HOST, TARGET, OF_HOST, &ask);
    assert_eq!(answer, Err(AUTHENTICATION_FAILURE));
    let (_, again) = challenged(&mut gateway.connect(), HOST, TARGET);
    assert_ne!(theirs, again, "each is used once");
}

#[test]
fn discovery_has_a_secret_of_its_own() {
    let gateway = gateway();
    let names = format!("InitiatorName={HOST}\0SessionType=Discovery\0AuthMethod=CHAP,None\0");
    // Hosts that always offer CHAP get None as long as none is set, whatever is set for targets.
    let answer = gateway.connect().login_step(SECURITY_TO_FULL, &names).unwrap();
    assert_eq!(value(&answer, "AuthMethod"), "None");
    gateway.service.authenticator.set(secrets(&[(Subject::Discovery, chap("everyone's-secret", None))]));
    let mut host = gateway.connect();
    login_with(&mut host, HOST, "", "everyone's-secret", "").unwrap();
    assert_eq!(host.send_targets("All").len(), 2);
    assert_eq!(gateway.connect().login(HOST, "", ""), Err(AUTHENTICATION_FAILURE));
    // And the other way round; what was changed counts for the next login.
    assert!(gateway.connect().login(HOST, TARGET, "").is_ok());
}

#[test]
fn a_login_that_fails_takes_nobodys_place() {
    let gateway = gateway();
    let mut host = gateway.connect();
    login_with(&mut host, HOST, TARGET, OF_HOST, "").unwrap();
    host.clear_attentions(0);
    let mut other = gateway.connect();
    other.isid = host.isid;
    let answer = login_with(&mut other, HOST, TARGET, "not-the-right-one", "");
    assert_eq!(answer, Err(AUTHENTICATION_FAILURE));
    host.run(&Command::test_unit_ready()).good();
}

#[test]
fn who_fails_too_often_waits() {
    let gateway = gateway();
    let wrong = |host| login(&gateway, host, "not-the-right-one");
    for n in 0..8 {
        assert_eq!(wrong(OTHER_HOST), Err(AUTHENTICATION_FAILURE), "{n}");
    }
    // Not even the right one is looked at. Other hosts at this address go on.
    assert_eq!(gateway.connect().login(OTHER_HOST, TARGET, ""), Err(SERVICE_UNAVAILABLE));
    assert!(login(&gateway, HOST, OF_HOST).is_ok());
    let counters = gateway.service.authenticator.counters();
    assert_eq!((counters.failed, counters.turned_away), (8, 1));
}
