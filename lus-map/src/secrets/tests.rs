use proptest::prelude::*;

use super::*;

const TARGET: &str = "iqn.2026-11.io.lus:disk";
const HOST: &str = "iqn.2026-11.io.host:web1";
const OTHER: &str = "iqn.2026-11.io.host:web2";

fn iqn(text: &str) -> Iqn {
    text.parse().unwrap()
}

fn credentials(name: &str, secret: &str) -> Credentials {
    Credentials::new(name, Secret::new(secret.as_bytes()).unwrap()).unwrap()
}

fn chap(secret: &str, mutual: Option<&str>) -> Chap {
    Chap {
        initiator: credentials("web1", secret),
        target: mutual.map(|secret| credentials("disk", secret)),
        changed: Timestamp(7),
    }
}

fn host() -> Subject {
    Subject::Host(iqn(TARGET), iqn(HOST))
}

fn target() -> Subject {
    Subject::Target(iqn(TARGET))
}

fn all() -> Secrets {
    let secrets = Secrets::new([3; 32]).set(&host(), chap("secret-of-web1", Some("secret-of-disk"))).unwrap();
    let secrets = secrets.set(&target(), chap("secret-of-all-hosts", None)).unwrap();
    secrets.set(&Subject::Discovery, chap("secret-of-everyone", None)).unwrap()
}

#[test]
fn a_hosts_own_beat_the_targets() {
    let (secrets, t, h, o) = (all(), iqn(TARGET), iqn(HOST), iqn(OTHER));
    let secret = |chap: Option<&Chap>| chap.map(|chap| chap.initiator.secret().expose().to_vec());
    assert_eq!(secret(secrets.at_login(Some(&t), Some(&h))).unwrap(), b"secret-of-web1");
    assert_eq!(secret(secrets.at_login(Some(&t), Some(&o))).unwrap(), b"secret-of-all-hosts");
    assert_eq!(secret(secrets.at_login(Some(&t), None)).unwrap(), b"secret-of-all-hosts");
    assert_eq!(secret(secrets.at_login(None, Some(&h))).unwrap(), b"secret-of-everyone");
    assert_eq!(secrets.at_login(Some(&iqn("iqn.2026-11.io.lus:other")), Some(&h)), None);
    let secrets = secrets.remove(&target()).unwrap();
    assert_eq!(secrets.at_login(Some(&t), Some(&o)), None);
    assert_eq!(secrets.version(), 5);
}

#[test]
fn what_is_refused() {
    for (len, good) in [(0, false), (11, false), (12, true), (255, true), (256, false)] {
        assert_eq!(Secret::new(&vec![b'a'; len]).is_ok(), good, "{len}");
    }
    assert_eq!(Secret::new(b"with a line\nend"), Err(SecretsRefusal::Control));
    let secret = || Secret::new(b"twelve bytes").unwrap();
    for (name, good) in
        [("", false), ("x", true), ("a\tb", false), (&*"n".repeat(255), true), (&*"n".repeat(256), false)]
    {
        assert_eq!(Credentials::new(name, secret()).is_ok(), good, "{name}");
    }
    let both = |secrets: &Secrets, subject: &Subject, chap| match secrets.set(subject, chap) {
        Err(SecretsRefusal::BothDirections(other)) => other,
        other => panic!("{other:?}"),
    };
    let secrets = all();
    // One's own two, an initiator's that is some target's, a target's that is some initiator's.
    let same = chap("the-same-on-both", Some("the-same-on-both"));
    assert_eq!(both(&secrets, &target(), same), target());
    assert_eq!(both(&secrets, &target(), chap("secret-of-disk", None)), host());
    let reversed = chap("something-new-1", Some("secret-of-everyone"));
    assert_eq!(both(&secrets, &target(), reversed), Subject::Discovery);
    // Two initiators may share one, and what is replaced does not count.
    assert!(secrets.set(&target(), chap("secret-of-web1", None)).is_ok());
    assert!(secrets.set(&host(), chap("secret-of-disk", Some("something-new-2"))).is_ok());
    assert_eq!(Secrets::new([0; 32]).remove(&host()), Err(SecretsRefusal::NotSet(host())));
    let newer = Secrets { min_writer: WRITER + 1, ..secrets };
    assert_eq!(newer.remove(&host()), Err(SecretsRefusal::TooOld(WRITER + 1)));
}

#[test]
fn a_target_goes_with_its_hosts() {
    let left = all().forget_target(&iqn(TARGET)).unwrap().unwrap();
    assert_eq!(left.iter().map(|(subject, _)| subject).collect::<Vec<_>>(), [&Subject::Discovery]);
    assert_eq!(left.forget_target(&iqn(TARGET)).unwrap(), None);
}

#[test]
fn nothing_shows_a_secret() {
    let secrets = all();
    let mut shown = format!("{secrets:?}");
    for (subject, chap) in secrets.iter() {
        shown += &format!("{subject} {subject:?} {chap:?} {chap:#?}");
    }
    assert!(shown.contains("web1") && !shown.contains("secret-of"), "{shown}");
    assert!(!shown.contains("3, 3"), "{shown}");
}

#[test]
fn stored_and_read_again() {
    let secrets = all();
    let raw = secrets.encode();
    assert_eq!(Secrets::decode(&raw).unwrap(), secrets);
    for cut in 0..raw.len() {
        if let Ok(read) = Secrets::decode(&raw[..cut]) {
            assert_ne!(read, secrets, "{cut}");
        }
    }
}

#[test]
fn what_is_stored_wrongly_is_named_without_the_secret() {
    let good = || pb::Secret {
        target: TARGET.to_owned(),
        name: "web1".to_owned(),
        secret: b"never-to-be-seen".to_vec(),
        ..pb::Secret::default()
    };
    let stored = |secrets: Vec<pb::Secret>| pb::Secrets {
        min_writer: WRITER,
        version: 1,
        challenge_key: vec![0; 32],
        secrets,
    };
    assert!(Secrets::decode(&stored(vec![good()]).encode_to_vec()).is_ok());
    let bad = [
        pb::Secrets { version: 0, ..stored(vec![good()]) },
        pb::Secrets { challenge_key: vec![0; 31], ..stored(vec![]) },
        stored(vec![good(), good()]),
        stored(vec![pb::Secret { target: String::new(), initiator: HOST.to_owned(), ..good() }]),
        stored(vec![pb::Secret { target: TARGET.to_uppercase(), ..good() }]),
        stored(vec![pb::Secret { secret: b"never-to-be".to_vec(), ..good() }]),
        stored(vec![pb::Secret { secret: vec![b'x'; 256], ..good() }]),
        stored(vec![pb::Secret { name: String::new(), ..good() }]),
        stored(vec![pb::Secret { target_name: "disk".to_owned(), ..good() }]),
        stored(vec![pb::Secret { target_secret: b"never-to-be-seen-too".to_vec(), ..good() }]),
    ];
    for (i, bad) in bad.into_iter().enumerate() {
        let error = Secrets::decode(&bad.encode_to_vec()).unwrap_err().to_string();
        assert!(error.contains(SECRETS_OBJECT) && !error.contains("never-to-be"), "{i}: {error}");
    }
    assert!(Secrets::decode(&vec![0; SECRETS_BYTES_MAX + 1]).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_secrets_or_an_error(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Secrets::decode(&raw);
    }

    #[test]
    fn what_is_set_is_read(
        list in proptest::collection::vec(("[a-z]{1,8}", "[ -~]{12,40}", proptest::option::of("[!-~]{12,40}")), 0..8),
    ) {
        let mut secrets = Secrets::new([9; 32]);
        for (host, secret, mutual) in &list {
            let initiator = iqn(&format!("iqn.2026-11.io.host:{host}"));
            let chap = chap(secret, mutual.as_deref());
            if let Ok(next) = secrets.set(&Subject::Host(iqn(TARGET), initiator), chap) {
                secrets = next;
            }
        }
        prop_assert_eq!(Secrets::decode(&secrets.encode()).unwrap(), secrets);
    }
}
