//! The way to the cluster: one RADOS client, the pool of the map, the map's store.

use std::sync::Arc;
use std::time::Duration;

use lus_map::secrets::{CHALLENGE_KEY_BYTES, SECRETS_NAMESPACE};
use lus_map::{
    Change, Epoch, Increment, LuId, LuRecord, LusMap, Origin, Refusal, Secrets, SecretsRefusal, Timestamp,
};
use lus_map_store::{
    MapStore, NotifyOutcome, RecordStore, RecordWrite, SecretStore, SecretsError, StoreError,
};
use lusd_ceph::{Cluster, ClusterOptions, Errno};

use crate::args::Global;
use crate::error::{Failure, Result};
use crate::output::{Reply, count};

/// A command says that it still waits when the cluster did not answer for so long.
const WAIT_NOTICE: Duration = Duration::from_secs(10);

/// How often the removal of a record is tried while a daemon writes it: it writes once as it lets go of the unit.
const RECORD_ATTEMPTS: u32 = 8;

/// A connected client.
pub(crate) struct Session {
    /// The RADOS client; safe to open images with.
    pub(crate) cluster: Cluster,
    store: MapStore,
    records: RecordStore,
    /// The pool of the map.
    pool: String,
}

/// What came of an intent.
#[derive(Debug)]
pub(crate) struct Changed {
    /// The map with the change in it.
    pub(crate) map: Arc<LusMap>,
    /// What to tell the user.
    pub(crate) said: String,
    /// Whether there was something to change.
    pub(crate) made: bool,
    /// Who has said so far that they follow the map.
    pub(crate) heard: Heard,
}

/// What the watchers of the map, the daemons, answered to a notify.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Daemons that follow.
    pub(crate) following: usize,
    /// Daemons that did not answer in time. One that has been gone for some seconds is no watcher any more.
    pub(crate) behind: usize,
}

impl From<NotifyOutcome> for Heard {
    fn from(outcome: NotifyOutcome) -> Self {
        Self { following: outcome.acked.len(), behind: outcome.missing }
    }
}

impl Changed {
    /// The answer to a command that gave something.
    pub(crate) fn granted(self) -> Reply {
        Reply::done(self.said)
    }

    /// The answer to a command that took something away: it says so where a daemon may not have done it yet.
    pub(crate) fn revoked(self) -> Reply {
        let reply = Reply::done(self.said);
        match self.heard.behind {
            0 => reply,
            behind => reply.note(format!("{} did not acknowledge it yet", count(behind, "daemon"))),
        }
    }
}

impl Session {
    /// Connects as the options say.
    ///
    /// # Errors
    /// What connecting gives; ENOENT with the commands to run if the pool of the map is missing.
    pub(crate) async fn open(global: &Global) -> Result<Self> {
        let options = options(global);
        let name = options.name.clone();
        let connected = waiting("the cluster's monitors", Cluster::connect(options)).await;
        let cluster = connected.map_err(|error| cannot_connect(&error, &name))?;
        match cluster.pool(&global.lus_pool, None).await {
            Ok(pool) => {
                let store = MapStore::open(&pool);
                let records = RecordStore::new(store.objects());
                Ok(Self { records, store, cluster, pool: global.lus_pool.clone() })
            }
            Err(error) => {
                // Awaited, as in `close`: the process must not end while librados's threads do.
                cluster.shutdown().await;
                match error.is_not_found() {
                    true => Err(no_pool(&global.lus_pool)),
                    false => Err(error.into()),
                }
            }
        }
    }

    /// The map as it is now.
    ///
    /// # Errors
    /// ENOENT if nobody has created it yet; what reading it gives.
    pub(crate) async fn map(&self) -> Result<Arc<LusMap>> {
        let found = self.map_if_any().await?;
        found.ok_or_else(|| {
            Failure::not_found("there is no LUS map yet: the first change, or the first daemon, creates it")
        })
    }

    /// The map as it is now; none if nobody has created it yet.
    ///
    /// # Errors
    /// What reading it gives.
    pub(crate) async fn map_if_any(&self) -> Result<Option<Arc<LusMap>>> {
        match waiting("the LUS map", self.store.latest()).await {
            Ok(map) => Ok(Some(map)),
            Err(StoreError::NoMap) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The map as it is now, created if nobody has done so yet.
    ///
    /// # Errors
    /// What reading or creating it gives.
    pub(crate) async fn map_to_change(&self) -> Result<Arc<LusMap>> {
        Ok(waiting("the LUS map", self.store.latest_or_create()).await?)
    }

    /// The map as it was in `epoch`.
    ///
    /// # Errors
    /// ENOENT for an epoch that is not kept, or not yet made.
    pub(crate) async fn past(&self, epoch: Epoch) -> Result<Arc<LusMap>> {
        Ok(waiting("the LUS map", self.store.past(epoch)).await?)
    }

    /// The increments that made the epochs behind `after`, up to `to`, oldest first; those that are kept.
    ///
    /// # Errors
    /// What reading them gives.
    pub(crate) async fn increments(&self, after: Epoch, to: Epoch) -> Result<Vec<Increment>> {
        Ok(waiting("the LUS map", self.store.increments(after, to)).await?)
    }

    /// The time by this machine's clock.
    pub(crate) fn now(&self) -> Timestamp {
        self.store.origin().when
    }

    /// Carries out an intent: asks it of the newest map until its increment is committed.
    ///
    /// # Errors
    /// What the map refuses; ETIMEDOUT where it is not known whether the change was made.
    pub(crate) async fn change(
        &self,
        intent: impl Fn(&LusMap, &Origin) -> std::result::Result<Change, Refusal>,
    ) -> Result<Changed> {
        self.map_to_change().await?;
        let updated = waiting("the LUS map", self.store.update(&intent)).await?;
        let (map, said, made) = (updated.map.clone(), updated.said.clone(), updated.changed());
        // The notify must be out before this program ends, or the daemons would learn of the change by their poll only.
        let heard = updated.wait_for_watchers().await.into();
        Ok(Changed { map, said, made, heard })
    }

    /// Asks the daemons which of them follow the map; none where this client may not ask. A second at most.
    pub(crate) async fn roll_call(&self, map: &LusMap) -> Option<Heard> {
        Some(self.store.notify(map.epoch()).finished().await.ok()?.into())
    }

    /// Where the records of the units are.
    pub(crate) fn records(&self) -> RecordStore {
        self.records.clone()
    }

    /// The record of a unit; none if no daemon has made it yet.
    ///
    /// # Errors
    /// What reading it gives.
    pub(crate) async fn record(&self, lu: &LuId) -> Result<Option<LuRecord>> {
        Ok(self.records.read(lu).await?)
    }

    /// Removes the record of a unit that is gone.
    ///
    /// # Errors
    /// What removing gives; EBUSY if a daemon still writes it.
    pub(crate) async fn remove_record(&self, lu: &LuId) -> Result<()> {
        for _ in 0..RECORD_ATTEMPTS {
            let Some(record) = self.records.read(lu).await? else { return Ok(()) };
            match self.records.remove(&record).await? {
                RecordWrite::Written | RecordWrite::Lost(None) => return Ok(()),
                RecordWrite::Lost(Some(_)) => {}
            }
        }
        Err(Failure::new(Errno::EBUSY, format!("object 'lu.{lu}' is still being written")))
    }

    /// The CHAP secrets; none if nobody has made them yet.
    ///
    /// # Errors
    /// What reading them gives; EPERM with the capabilities that are needed.
    pub(crate) async fn secrets(&self) -> Result<Option<Secrets>> {
        let read = self.secret_store().await?.read().await;
        read.map_err(|error| self.secrets_failure(error.into()))
    }

    /// Changes the secrets. Gives how many daemons did not say in time that they follow.
    ///
    /// # Errors
    /// What they refuse; what reading and writing gives.
    pub(crate) async fn change_secrets(
        &self,
        step: impl FnMut(&Secrets) -> std::result::Result<Option<Secrets>, SecretsRefusal>,
    ) -> Result<usize> {
        let mut challenge_key = [0; CHALLENGE_KEY_BYTES];
        getrandom::fill(&mut challenge_key)
            .map_err(|error| Failure::new(Errno::EIO, format!("no random numbers: {error}")))?;
        let store = self.secret_store().await?;
        let updated = waiting("the CHAP secrets", store.update(challenge_key, step)).await;
        let told = updated.map_err(|error| self.secrets_failure(error))?;
        Ok(told.map_or(0, |told| told.missing))
    }

    /// As [`change_secrets`](Self::change_secrets), where there are any.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn forget_secrets(
        &self,
        step: impl FnMut(&Secrets) -> std::result::Result<Option<Secrets>, SecretsRefusal>,
    ) -> Result<()> {
        match self.secrets().await? {
            Some(_) => self.change_secrets(step).await.map(drop),
            None => Ok(()),
        }
    }

    async fn secret_store(&self) -> Result<SecretStore> {
        Ok(SecretStore::open(&self.cluster.pool(&self.pool, Some(SECRETS_NAMESPACE)).await?))
    }

    /// Says which capabilities are missing, where they are.
    fn secrets_failure(&self, error: SecretsError) -> Failure {
        let pool = &self.pool;
        match &error {
            SecretsError::Store(StoreError::Ceph(denied)) if denied.is_permission_denied() => Failure::new(
                denied.errno(),
                format!(
                    "this client may not use the CHAP secrets: osd 'allow rwx pool={pool} namespace={SECRETS_NAMESPACE}' \
                     is needed"
                ),
            ),
            _ => error.into(),
        }
    }

    /// Ends the client, and all that it has open: the process must not end while librados's threads run.
    pub(crate) async fn close(self) {
        drop(self.store);
        drop(self.records);
        self.cluster.shutdown().await;
    }
}

/// The client's options: what `CEPH_ARGS` says, then what the command line says.
fn options(global: &Global) -> ClusterOptions {
    let mut options = ClusterOptions::from_env().for_images();
    if let Some(cluster) = &global.cluster {
        options.cluster.clone_from(cluster);
    }
    if let Some(conf) = &global.conf {
        options.conf = Some(conf.clone());
    }
    match (&global.name, &global.id) {
        (Some(name), _) => options.name.clone_from(name),
        (None, Some(id)) => options.name = format!("client.{id}"),
        (None, None) => {}
    }
    if let Some(keyring) = &global.keyring {
        options.keyring = Some(keyring.clone());
    }
    match global.connect_timeout {
        Some(seconds) => options.option("client_mount_timeout", seconds.to_string()),
        None => options,
    }
}

fn cannot_connect(error: &lusd_ceph::Error, name: &str) -> Failure {
    let hint = match error.errno() {
        Errno::ENOENT => "; is there a configuration file (-c FILE) and a keyring (-k FILE)?",
        Errno::EACCES | Errno::EPERM => "; is the key in the keyring (-k FILE) that of the name (-n NAME)?",
        Errno::ETIMEDOUT => "; no monitor answered",
        _ => "",
    };
    Failure::new(error.errno(), format!("cannot connect to the cluster as {name}: {error}{hint}"))
}

/// What to do where the pool of the map is missing.
fn no_pool(pool: &str) -> Failure {
    Failure::not_found(format!(
        "the pool of the LUS map, '{pool}', does not exist; create it with:\n    \
         ceph osd pool create {pool} 16\n    \
         ceph osd pool application enable {pool} lus"
    ))
}

/// Awaits `work` and says on stderr, from time to time, what for.
async fn waiting<T>(what: &str, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        match tokio::time::timeout(WAIT_NOTICE, work.as_mut()).await {
            Ok(done) => return done,
            Err(_) => eprintln!("still waiting for {what} ..."),
        }
    }
}
