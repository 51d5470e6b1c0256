//! The CHAP secrets, in memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lus_map::secrets::{SECRETS_OBJECT, SECRETS_VERSION_XATTR};
use lus_map::{Chap, Credentials, Iqn, Secret, Secrets, SecretsRefusal, Subject, Timestamp};
use lus_map_store::memory::{Memory, WriteFault};
use lus_map_store::{SecretStore, SecretWatch, SecretsError, StoreError};
use lusd_ceph::Errno;
use tokio::sync::mpsc;

const KEY: [u8; 32] = [1; 32];
const OTHER_KEY: [u8; 32] = [2; 32];

fn store() -> (Memory, SecretStore) {
    let memory = Memory::default();
    (memory.clone(), SecretStore::with_objects(Arc::new(memory)))
}

fn target(name: &str) -> Subject {
    Subject::Target(format!("iqn.2026-11.io.lus:{name}").parse::<Iqn>().unwrap())
}

fn chap(secret: &str) -> Chap {
    let secret = Secret::new(secret.as_bytes()).unwrap();
    Chap { initiator: Credentials::new("host", secret).unwrap(), target: None, changed: Timestamp(1) }
}

async fn set(store: &SecretStore, name: &str, secret: &str) -> usize {
    let step = |secrets: &Secrets| secrets.set(&target(name), chap(secret)).map(Some);
    store.update(KEY, step).await.unwrap().unwrap().acks.len()
}

#[tokio::test]
async fn made_once_and_changed_by_comparison() {
    let (memory, store) = store();
    assert_eq!(store.read().await.unwrap(), None);
    let first = store.read_or_create(KEY).await.unwrap();
    assert_eq!((first.version(), first.challenge_key()), (1, &KEY));
    assert_eq!(store.read_or_create(OTHER_KEY).await.unwrap(), first, "the key stays");
    set(&store, "a", "a-secret-of-a").await;
    // Another one comes between the look and the write: both count.
    memory.before_read(1, move |memory| {
        let secrets = Secrets::decode(&memory.object(SECRETS_OBJECT).unwrap().data).unwrap();
        let secrets = secrets.set(&target("c"), chap("a-secret-of-c")).unwrap();
        memory.edit(SECRETS_OBJECT, |object| {
            object.data = Bytes::from(secrets.encode());
            let version = Bytes::from(secrets.version().to_string());
            object.xattrs.insert(SECRETS_VERSION_XATTR.to_owned(), version);
        });
    });
    memory.fail_writes([WriteFault::LostUnanswered]);
    set(&store, "b", "a-secret-of-b").await;
    let secrets = store.read().await.unwrap().unwrap();
    let subjects: Vec<_> = secrets.iter().map(|(subject, _)| subject.clone()).collect();
    assert_eq!((secrets.version(), subjects), (4, vec![target("a"), target("b"), target("c")]));
}

#[tokio::test]
async fn an_unknown_result_is_looked_at() {
    let (memory, store) = store();
    memory.fail_writes([WriteFault::MadeUnanswered, WriteFault::MadeUnanswered]);
    set(&store, "a", "a-secret-of-a").await;
    assert_eq!(store.read().await.unwrap().unwrap().version(), 2, "made once");
    memory.fail_writes([WriteFault::Late]);
    set(&store, "b", "a-secret-of-b").await;
    assert_eq!(store.read().await.unwrap().unwrap().version(), 3);
    memory.fail_writes([WriteFault::Fails(Errno::EPERM)]);
    let step = |secrets: &Secrets| secrets.remove(&target("a")).map(Some);
    let error = store.update(KEY, step).await.unwrap_err();
    assert!(matches!(error, SecretsError::Store(StoreError::Ceph(error)) if error.is_permission_denied()));
}

#[tokio::test]
async fn what_is_refused_is_not_written() {
    let (memory, store) = store();
    let step = |secrets: &Secrets| secrets.remove(&target("a")).map(Some);
    let error = store.update(KEY, step).await.unwrap_err();
    assert!(matches!(error, SecretsError::Refused(SecretsRefusal::NotSet(_))), "{error}");
    assert!(store.update(KEY, |_| Ok(None)).await.unwrap().is_none());
    assert_eq!(store.read().await.unwrap().unwrap().version(), 1);
    memory.edit(SECRETS_OBJECT, |object| object.data = Bytes::from_static(b"\xff"));
    assert!(matches!(store.read().await, Err(StoreError::Record { .. })));
    let secrets = Secrets::new(KEY);
    memory.edit(SECRETS_OBJECT, |object| {
        object.data = Bytes::from(secrets.encode());
        object.xattrs.insert(SECRETS_VERSION_XATTR.to_owned(), Bytes::from_static(b"9"));
    });
    assert!(matches!(store.read().await, Err(StoreError::Record { .. })));
}

#[tokio::test(start_paused = true)]
async fn daemons_follow() {
    let (memory, store) = store();
    let (sender, mut applied) = mpsc::channel(16);
    let apply = move |secrets: Secrets| sender.try_send(secrets.version()).unwrap();
    let watch = SecretWatch::start(store.clone(), KEY, apply).await.unwrap();
    assert_eq!(applied.try_recv(), Ok(1), "before it returns");
    assert_eq!(set(&store, "a", "a-secret-of-a").await, 1, "acknowledged");
    assert_eq!(applied.try_recv(), Ok(2), "before whoever changed them is answered");
    // A notify that is lost costs the time to the next poll; so does a watch that breaks.
    memory.lose_notifies(true);
    assert_eq!(set(&store, "b", "a-secret-of-b").await, 0);
    assert_eq!(applied.recv().await, Some(3));
    memory.lose_notifies(false);
    memory.break_watches();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(set(&store, "c", "a-secret-of-c").await, 1, "watched again");
    assert_eq!(applied.try_recv(), Ok(4));
    drop(watch);
    tokio::task::yield_now().await;
    assert_eq!(set(&store, "d", "a-secret-of-d").await, 0);
}
