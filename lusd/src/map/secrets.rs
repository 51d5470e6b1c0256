//! The CHAP secrets: from RADOS to whoever looks at logins.

use std::sync::Arc;

use anyhow::{Context, anyhow};
use lus_map::secrets::{CHALLENGE_KEY_BYTES, SECRETS_NAMESPACE};
use lus_map_store::{SecretStore, SecretWatch, StoreError};
use lusd_ceph::Cluster;
use tracing::info;

use crate::service::Service;

/// Reads the secrets, and follows them until the watch is dropped. A daemon that cannot must not let anybody in: it would not ask those
/// who have to authenticate.
///
/// # Errors
/// Missing capabilities, with those that are needed; whatever keeps them from being read.
pub async fn follow(control: &Cluster, pool: &str, service: Arc<Service>) -> anyhow::Result<SecretWatch> {
    let opened = control.pool(pool, Some(SECRETS_NAMESPACE)).await;
    let opened = opened.with_context(|| format!("cannot open pool '{pool}'"))?;
    let mut challenge_key = [0; CHALLENGE_KEY_BYTES];
    getrandom::fill(&mut challenge_key).map_err(|error| anyhow!("no random numbers: {error}"))?;
    let apply = move |secrets: lus_map::Secrets| {
        info!(version = secrets.version(), subjects = secrets.iter().count(), "secrets read");
        service.authenticator.set(secrets);
    };
    match SecretWatch::start(SecretStore::open(&opened), challenge_key, apply).await {
        Err(StoreError::Ceph(error)) if error.is_permission_denied() => {
            Err(anyhow!(error).context(format!(
                "its caps do not let it read the CHAP secrets: osd 'allow rwx pool={pool}' or 'allow rwx pool={pool} \
                 namespace={SECRETS_NAMESPACE}' is needed"
            )))
        }
        started => started.context("cannot follow the CHAP secrets"),
    }
}
