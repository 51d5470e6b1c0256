//! The CHAP secrets as a RADOS object: read, compare-and-set, followed by the daemons.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lus_map::secrets::{CHALLENGE_KEY_BYTES, SECRETS_BYTES_MAX, SECRETS_OBJECT, SECRETS_VERSION_XATTR};
use lus_map::{Corrupt, Secrets, SecretsRefusal};
use lusd_ceph::{Error, Pool};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::error::StoreError;
use crate::objects::{NotifyReply, ObjectEvent, ObjectWatch, Objects, Read, Write};
use crate::rados::RadosObjects;

/// How often a write is sent again while nothing is known of it, or made again because another came first.
const ATTEMPTS: u32 = 16;
/// How long a notify waits for the daemons.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(1);
/// How long RADOS keeps the watch of a silent daemon.
const WATCH_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the version is looked at without being told to.
const POLL: Duration = Duration::from_secs(10);
/// How long to wait before a broken watch is made again after that failed.
const RETRY: Duration = Duration::from_secs(1);

/// The secrets of a cluster. Cheap to clone.
#[derive(Clone)]
pub struct SecretStore {
    objects: Arc<dyn Objects>,
}

/// Why the secrets were not changed.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// They do not allow it.
    #[error(transparent)]
    Refused(#[from] SecretsRefusal),
    /// They could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SecretStore {
    /// Those in `pool`, which is the namespace [`SECRETS_NAMESPACE`](lus_map::secrets::SECRETS_NAMESPACE) of the map's.
    pub fn open(pool: &Pool) -> Self {
        Self::with_objects(Arc::new(RadosObjects::new(pool.clone())))
    }

    /// Those in any objects.
    pub fn with_objects(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }

    /// The secrets; none if nobody has made them.
    ///
    /// # Errors
    /// [`StoreError::Record`] for what is corrupt, [`StoreError::Ceph`].
    pub async fn read(&self) -> Result<Option<Secrets>, StoreError> {
        let read = Read { xattrs: true, data: Some(SECRETS_BYTES_MAX + 1), ..Read::default() };
        let reply = match self.objects.read(SECRETS_OBJECT, read).await {
            Err(error) if error.is_not_found() => return Ok(None),
            reply => reply?,
        };
        let corrupt = |source| StoreError::Record { object: SECRETS_OBJECT.to_owned(), source };
        let secrets = Secrets::decode(&reply.data).map_err(corrupt)?;
        if reply.xattrs.get(SECRETS_VERSION_XATTR) != Some(&version_of(&secrets)) {
            let why = format!("xattr '{SECRETS_VERSION_XATTR}' is missing or does not agree with the data");
            return Err(corrupt(Corrupt::Undecodable { key: SECRETS_OBJECT.to_owned(), why }));
        }
        Ok(Some(secrets))
    }

    /// The secrets, made with `challenge_key` if nobody has: random bytes.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_or_create(
        &self,
        challenge_key: [u8; CHALLENGE_KEY_BYTES],
    ) -> Result<Secrets, StoreError> {
        for _ in 0..ATTEMPTS {
            if let Some(secrets) = self.read().await? {
                return Ok(secrets);
            }
            let secrets = Secrets::new(challenge_key);
            match self.objects.write(SECRETS_OBJECT, Write { create: true, ..write_of(&secrets) }).await {
                Ok(()) => return Ok(secrets),
                Err(error) if error.is_exists() || error.is_unknown_outcome() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Unstable { object: SECRETS_OBJECT.to_owned(), attempts: ATTEMPTS })
    }

    /// Changes the secrets: asks `step` of them as they are until what it says is written, then tells the daemons. None from `step`:
    /// there is nothing to change, and nobody is told.
    ///
    /// # Errors
    /// [`SecretsError::Refused`] with what `step` refuses; [`SecretsError::Store`].
    pub async fn update<F>(
        &self,
        challenge_key: [u8; CHALLENGE_KEY_BYTES],
        mut step: F,
    ) -> Result<Option<NotifyReply>, SecretsError>
    where
        F: FnMut(&Secrets) -> Result<Option<Secrets>, SecretsRefusal>,
    {
        let mut current = self.read_or_create(challenge_key).await?;
        for _ in 0..ATTEMPTS {
            let Some(next) = step(&current)? else { return Ok(None) };
            let write =
                Write { compare: vec![(SECRETS_VERSION_XATTR, version_of(&current))], ..write_of(&next) };
            match self.objects.write(SECRETS_OBJECT, write).await {
                Ok(()) => return Ok(Some(self.notify().await)),
                // They are others by now: somebody else's, or ours, if an attempt without an answer got there.
                Err(error) if error.is_compare_mismatch() || error.is_not_found() => {}
                Err(error) if !error.is_unknown_outcome() => return Err(StoreError::Ceph(error).into()),
                Err(error) => tracing::warn!(%error, "no answer to a change of the secrets; looking"),
            }
            current = self.read_or_create(challenge_key).await?;
            if current == next {
                return Ok(Some(self.notify().await));
            }
        }
        Err(StoreError::Unstable { object: SECRETS_OBJECT.to_owned(), attempts: ATTEMPTS }.into())
    }

    /// Tells the daemons. One that does not hear it finds out by its poll.
    async fn notify(&self) -> NotifyReply {
        let sent = self.objects.notify(SECRETS_OBJECT, Bytes::new(), NOTIFY_TIMEOUT).await;
        sent.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot tell the daemons of the new secrets; they will see them when they poll");
            NotifyReply::default()
        })
    }

    /// The secrets, if they are not of `version`.
    async fn read_if_other(&self, version: u64) -> Result<Option<Secrets>, StoreError> {
        let reply = self.objects.read(SECRETS_OBJECT, Read { xattrs: true, ..Read::default() }).await?;
        match reply.xattrs.get(SECRETS_VERSION_XATTR) {
            Some(found) if found.as_ref() == version.to_string().as_bytes() => Ok(None),
            _ => self.read().await,
        }
    }
}

fn version_of(secrets: &Secrets) -> Bytes {
    Bytes::from(secrets.version().to_string())
}

fn write_of(secrets: &Secrets) -> Write {
    Write {
        set_xattrs: vec![(SECRETS_VERSION_XATTR, version_of(secrets))],
        data: Some(Bytes::from(secrets.encode())),
        ..Write::default()
    }
}

/// Follows the secrets until it is dropped.
#[derive(Debug)]
pub struct SecretWatch(JoinHandle<()>);

impl Drop for SecretWatch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl SecretWatch {
    /// Reads the secrets, made with `challenge_key` if nobody has, and hands each version to `apply`: the first before this
    /// returns, later ones before whoever changed them is answered.
    ///
    /// # Errors
    /// As [`SecretStore::read_or_create`], and what the first watch fails with.
    pub async fn start(
        store: SecretStore,
        challenge_key: [u8; CHALLENGE_KEY_BYTES],
        apply: impl Fn(Secrets) + Send + 'static,
    ) -> Result<Self, StoreError> {
        store.read_or_create(challenge_key).await?;
        // The watch before the look that counts: what changes behind it is announced.
        let watch = store.objects.watch(SECRETS_OBJECT, WATCH_TIMEOUT).await?;
        let secrets = store.read_or_create(challenge_key).await?;
        let version = secrets.version();
        apply(secrets);
        let follower = Follower { store, version, watch: Some(watch), apply };
        Ok(Self(tokio::spawn(follower.run())))
    }
}

struct Follower<F> {
    store: SecretStore,
    version: u64,
    watch: Option<Box<dyn ObjectWatch>>,
    apply: F,
}

impl<F: Fn(Secrets) + Send> Follower<F> {
    async fn run(mut self) {
        let mut poll = tokio::time::interval_at(tokio::time::Instant::now() + POLL, POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let retry = self.watch.is_none();
            let event = tokio::select! {
                _ = poll.tick() => None,
                () = tokio::time::sleep(RETRY), if retry => None,
                event = next(&mut self.watch) => Some(event),
            };
            let acknowledge = match event {
                Some(ObjectEvent::Notify(acknowledge)) => Some(acknowledge),
                Some(ObjectEvent::Broken(error)) => {
                    self.broken(&error);
                    None
                }
                Some(ObjectEvent::Lost) => None,
                None => {
                    if let Some(error) = self.watch.as_ref().and_then(|watch| watch.check().err()) {
                        self.broken(&error);
                    }
                    None
                }
            };
            match self.look().await {
                // Unacknowledged it tells whoever asks that this daemon does not follow.
                Err(error) => tracing::warn!(%error, "cannot follow the secrets: those read last count"),
                Ok(()) => {
                    if let Some(acknowledge) = acknowledge {
                        acknowledge(self.version.to_string().as_bytes());
                    }
                }
            }
        }
    }

    fn broken(&mut self, error: &Error) {
        tracing::warn!(%error, "the watch on the secrets is broken; watching again");
        self.watch = None;
    }

    /// Watches again if need be, then reads what is new.
    async fn look(&mut self) -> Result<(), StoreError> {
        if self.watch.is_none() {
            self.watch = Some(self.store.objects.watch(SECRETS_OBJECT, WATCH_TIMEOUT).await?);
        }
        if let Some(secrets) = self.store.read_if_other(self.version).await? {
            self.version = secrets.version();
            (self.apply)(secrets);
        }
        Ok(())
    }
}

/// The next event of a watch; never, without one.
async fn next(watch: &mut Option<Box<dyn ObjectWatch>>) -> ObjectEvent {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}
