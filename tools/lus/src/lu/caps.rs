//! Whether the daemons' cephx capabilities let them use a pool, and the command that adds what is missing.

use std::fmt::Write;

use lus_map::{DaemonId, LusMap};
use lusd_ceph::{Cluster, Errno};
use serde::Deserialize;
use serde_json::json;

use crate::error::{Failure, Result};

/// Daemons whose capabilities are read at most: they are all alike in practice.
const ENTITIES_MAX: usize = 64;

/// What `auth get` tells of an entity, without its key.
#[derive(Debug, Default, Deserialize)]
struct Entity {
    entity: String,
    #[serde(default)]
    caps: std::collections::BTreeMap<String, String>,
}

/// Refuses a pool and namespace that a registered daemon could not write, with the line that changes it.
///
/// Says nothing where this client may not read capabilities, or a daemon's entity is not there: the daemon itself finds out.
///
/// # Errors
/// EACCES with the commands to run; what the monitors answer otherwise.
pub(crate) async fn require(cluster: &Cluster, map: &LusMap, pool: &str, namespace: &str) -> Result<()> {
    let mut ids: Vec<&DaemonId> = map.daemons().map(|daemon| &daemon.id).collect();
    ids.dedup();
    let mut missing = Vec::new();
    for id in ids.into_iter().take(ENTITIES_MAX) {
        let command = json!({"prefix": "auth get", "entity": format!("client.lus.{id}"), "format": "json"});
        let reply = match cluster.mon_command(command.to_string()).await {
            Ok((reply, _)) => reply,
            Err(error) if matches!(error.errno(), Errno::EACCES | Errno::EPERM | Errno::ENOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        let Ok(entities) = serde_json::from_slice::<Vec<Entity>>(&reply) else { continue };
        let Some(entity) = entities.into_iter().next() else { continue };
        let osd = entity.caps.get("osd").map_or("", String::as_str);
        if !allow(osd, pool, namespace) {
            missing.push(entity);
        }
    }
    refuse(&missing, pool, namespace)
}

fn refuse(missing: &[Entity], pool: &str, namespace: &str) -> Result<()> {
    let Some(first) = missing.first() else { return Ok(()) };
    let place = if namespace.is_empty() { pool.to_owned() } else { format!("{pool}/{namespace}") };
    let mut text =
        format!("the capabilities of {} do not reach pool '{place}'; allow it with:", first.entity);
    for entity in missing {
        let _ = write!(text, "\n    {}", caps_command(entity, pool, namespace));
    }
    text += "\nthen restart the daemon: a running one keeps the capabilities it had when it connected";
    Err(Failure::new(Errno::EACCES, text))
}

/// `auth caps` replaces everything, so the line repeats what the entity has.
fn caps_command(entity: &Entity, pool: &str, namespace: &str) -> String {
    let mut wanted = format!("profile rbd pool={pool}");
    if !namespace.is_empty() {
        let _ = write!(wanted, " namespace={namespace}");
    }
    let mut caps = entity.caps.clone();
    let osd = caps.entry("osd".to_owned()).or_default();
    *osd = if osd.trim().is_empty() { wanted } else { format!("{osd}, {wanted}") };
    caps.iter().fold(format!("ceph auth caps {}", entity.entity), |line, (service, cap)| {
        line + &format!(" {service} '{}'", cap.replace('\'', "'\\''"))
    })
}

/// Whether the OSD capability `cap` lets a client read, write and call object classes in `pool` and `namespace`.
///
/// A grant whose form is unknown counts as one: this check is a help, the OSD is the judge.
fn allow(cap: &str, pool: &str, namespace: &str) -> bool {
    cap.split([',', ';']).map(str::trim).filter(|grant| !grant.is_empty()).any(|grant| {
        let tokens: Vec<String> = grant
            .replace('=', " = ")
            .split_whitespace()
            .filter(|token| *token != "=")
            .map(|token| token.trim_matches(['"', '\'']).to_owned())
            .collect();
        let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
        grants(&tokens, pool, namespace)
    })
}

fn grants(tokens: &[&str], pool: &str, namespace: &str) -> bool {
    let after = |word: &str| {
        let at = tokens.iter().position(|token| *token == word)?;
        tokens.get(at + 1).copied()
    };
    let in_pool = after("pool").is_none_or(|granted| granted == pool);
    let in_namespace = match after("namespace") {
        None => true,
        Some(granted) => match granted.strip_suffix('*') {
            Some(prefix) => namespace.starts_with(prefix),
            None => granted == namespace,
        },
    };
    // Access to some objects only is none to an image.
    let whole = after("object_prefix").is_none();
    let enough = match tokens {
        ["profile", profile, ..] => *profile == "rbd",
        ["allow", ..] => tokens[1..].iter().any(|token| {
            *token == "*"
                || *token == "all"
                || ['r', 'w', 'x'].iter().all(|right| token.contains(*right)) && is_rights(token)
        }),
        _ => true,
    };
    in_pool && in_namespace && whole && enough
}

/// Whether `token` is made of `r`, `w`, `x` alone, and so no name.
fn is_rights(token: &str) -> bool {
    token.len() <= 3 && token.chars().all(|c| "rwx".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reaches_a_pool() {
        for cap in [
            "profile rbd",
            "profile rbd pool=rbd",
            "profile rbd pool=other, profile rbd pool=rbd",
            "allow rwx pool=.lus, profile rbd pool = rbd",
            "allow *",
            "allow rwx",
            "allow rwx pool=rbd",
            "allow pool rbd rwx",
            "allow rwx pool=\"rbd\"",
            "allow rwx pool rbd; allow r pool .lus",
            "allow rwx tag rbd *=*",
            "profile rbd pool=rbd namespace=\"\"",
            "profile rbd pool=rbd namespace=*",
        ] {
            assert!(allow(cap, "rbd", ""), "{cap}");
        }
        for cap in [
            "",
            "allow rwx pool=.lus",
            "profile rbd pool=rbd2",
            "profile rbd-read-only pool=rbd",
            "allow r pool=rbd",
            "allow rw pool=rbd",
            "allow r",
            "allow class-read pool=rbd",
            "allow rwx pool=rbd object_prefix rbd_children",
            "profile rbd pool=rbd namespace=a",
        ] {
            assert!(!allow(cap, "rbd", ""), "{cap}");
        }
        assert!(allow("profile rbd pool=rbd namespace=a", "rbd", "a"));
        assert!(allow("profile rbd pool=rbd", "rbd", "a"));
        assert!(allow("profile rbd pool=rbd namespace=a*", "rbd", "ab"));
        assert!(!allow("profile rbd pool=rbd namespace=b", "rbd", "a"));
    }

    #[test]
    fn the_line_to_run() {
        let entity = Entity {
            entity: "client.lus.a".into(),
            caps: [
                ("mon".to_owned(), "profile rbd, allow command \"osd blocklist\"".to_owned()),
                ("osd".to_owned(), "allow rwx pool=.lus".to_owned()),
            ]
            .into(),
        };
        let failure = refuse(&[entity], "ssd", "").unwrap_err();
        assert_eq!(
            failure.to_string(),
            "Error EACCES: the capabilities of client.lus.a do not reach pool 'ssd'; allow it with:\n    \
             ceph auth caps client.lus.a mon 'profile rbd, allow command \"osd blocklist\"' \
             osd 'allow rwx pool=.lus, profile rbd pool=ssd'\n\
             then restart the daemon: a running one keeps the capabilities it had when it connected"
        );
        let bare = Entity { entity: "client.lus.b".into(), ..Entity::default() };
        assert_eq!(
            caps_command(&bare, "ssd", "n"),
            "ceph auth caps client.lus.b osd 'profile rbd pool=ssd namespace=n'"
        );
        assert!(refuse(&[], "ssd", "").is_ok());
    }
}
