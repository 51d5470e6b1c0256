//! `lus lu ls` and `lus lu info`.

use std::collections::HashMap;
use std::fmt::Write;

use lus_map::{Backend, Lu, LuId, LuName, LuRecord, LunMapping, LusMap};
use lusd_ceph::{Features, Layout, MirrorState};
use lusd_scsi::Naa;
use serde_json::{Value, json};

use super::facts::{Facts, gather};
use super::state::{Lock, State};
use super::step::step;
use super::{image, no_such_lu, takeover};
use crate::error::Result;
use crate::output::Reply;
use crate::session::Session;
use crate::size::Size;
use crate::table::{Align, Column, table};

const COLUMNS: [Column; 6] = [
    ("NAME", Align::Left),
    ("SIZE", Align::Right),
    ("BLOCK", Align::Right),
    ("OWNER", Align::Left),
    ("STATE", Align::Left),
    ("LUNS", Align::Right),
];

/// All units with their state.
///
/// # Errors
/// What reading the map and the records gives.
pub(super) async fn list(session: &Session) -> Result<Reply> {
    let Some(map) = session.map_if_any().await? else {
        return Ok(Reply::data(table(&COLUMNS, []), json!([])));
    };
    let facts = gather(session, &map).await?;
    let mut units: Vec<(&Lu, &Facts)> = map.lus().zip(&facts).collect();
    units.sort_by_cached_key(|(lu, _)| lu.name());
    Ok(list_reply(&map, &units))
}

fn list_reply(map: &LusMap, units: &[(&Lu, &Facts)]) -> Reply {
    let mut luns: HashMap<LuId, usize> = HashMap::new();
    for mapping in map.all_luns() {
        *luns.entry(mapping.lu).or_default() += 1;
    }
    let luns = |lu: &Lu| luns.get(&lu.id).copied().unwrap_or(0);
    let rows = units.iter().map(|(lu, facts)| {
        vec![
            lu.name().to_string(),
            facts.size.map_or_else(|| "-".to_owned(), |bytes| Size(bytes).to_string()),
            lu.block_size.bytes().to_string(),
            map.placement(&lu.id)
                .map_or_else(|| "-".to_owned(), |placement| format!("lus.{}", placement.owner)),
            facts.state.to_string(),
            luns(lu).to_string(),
        ]
    });
    let json: Vec<Value> = units
        .iter()
        .map(|(lu, facts)| {
            json!({
                "name": lu.name(),
                "id": lu.id,
                "size_bytes": facts.size,
                "block_size": lu.block_size,
                "owner": map.placement(&lu.id).map(|placement| &placement.owner),
                "state": facts.state,
                "luns": luns(lu),
            })
        })
        .collect();
    Reply::data(table(&COLUMNS, rows), json)
}

/// What can be said of a unit's image.
#[derive(Debug)]
enum Picture {
    /// It has none.
    None,
    /// It cannot be opened.
    Missing { why: String },
    /// It can.
    Seen { size: u64, layout: Layout, features: Features, mirror: MirrorState },
}

/// Everything about one unit.
#[derive(Debug)]
struct Unit<'a> {
    map: &'a LusMap,
    lu: &'a Lu,
    state: State,
    record: Option<LuRecord>,
    picture: Picture,
    locks: Vec<Lock>,
    /// What is to happen before it is served by its owner.
    step: Option<String>,
}

/// One unit with all there is to know.
///
/// # Errors
/// ENOENT; what reading the record gives.
pub(super) async fn info(session: &Session, name: &LuName) -> Result<Reply> {
    let map = session.map_if_any().await?;
    let found = map.as_ref().and_then(|map| Some((map, map.lu_named(name)?)));
    let (map, lu) = found.ok_or_else(|| no_such_lu(name))?;
    let record = session.record(&lu.id).await?;
    let (picture, locks) = match &lu.backend {
        Backend::Rbd { .. } => look(session, map, lu, record.as_ref()).await,
        Backend::Ram { .. } | Backend::Null { .. } => (Picture::None, Vec::new()),
    };
    let state = match &picture {
        Picture::Seen { .. } => State::of(map, lu, record.as_ref()).with_locks(record.as_ref(), &locks),
        Picture::None | Picture::Missing { .. } => State::of(map, lu, record.as_ref()),
    };
    let fenced = match locks.iter().find(|lock| lock.is_foreign()) {
        Some(lock) => takeover::is_fenced(session, lock).await,
        None => false,
    };
    let known = matches!(picture, Picture::Seen { .. }).then_some(locks.as_slice());
    let step = step(map, lu, record.as_ref(), known, fenced);
    let unit = Unit { map, lu, state, record, picture, locks, step };
    Ok(Reply::data(unit.plain(), unit.json()))
}

/// Opens the image for a look; that it cannot be opened is something to show.
async fn look(session: &Session, map: &LusMap, lu: &Lu, record: Option<&LuRecord>) -> (Picture, Vec<Lock>) {
    let Backend::Rbd { image: spec, image_id } = &lu.backend else { return (Picture::None, Vec::new()) };
    let seen = async {
        let pool = image::pool(&session.cluster, spec).await?;
        let image = image::look(&pool, spec).await?;
        let picture = Picture::Seen {
            size: image.size(),
            layout: image.layout(),
            features: image.features().await?,
            mirror: image.mirror_state().await?,
        };
        let same = image.id() == image_id;
        image.close().await?;
        let picture = match same {
            true => picture,
            false => Picture::Missing { why: format!("another image has taken the name {spec}") },
        };
        Ok::<_, crate::error::Failure>((
            picture,
            image::locks(&pool, image_id, map, record).await.unwrap_or_default(),
        ))
    };
    match seen.await {
        Ok(seen) => seen,
        Err(failure) => (Picture::Missing { why: failure.message }, Vec::new()),
    }
}

impl Unit<'_> {
    fn size(&self) -> Option<u64> {
        match &self.picture {
            Picture::None => self.lu.backend.size_bytes(),
            Picture::Missing { .. } => None,
            Picture::Seen { size, .. } => Some(*size),
        }
    }

    /// The world wide name as hosts see it.
    fn wwn(&self) -> String {
        match &self.lu.wwn {
            Some(wwn) => wwn.to_string(),
            None => Naa::from_id(*self.lu.id.0.as_bytes()).to_string(),
        }
    }

    fn luns(&self) -> impl Iterator<Item = &LunMapping> {
        self.map.all_luns().filter(|mapping| mapping.lu == self.lu.id)
    }

    /// Where the blocks are: `image rbd/web1, id 10f3a, ...`.
    fn backend(&self) -> String {
        match (&self.lu.backend, &self.picture) {
            (Backend::Ram { .. }, _) => "memory of the daemon, volatile".to_owned(),
            (Backend::Null { .. }, _) => "none, for measuring".to_owned(),
            (Backend::Rbd { image, image_id }, Picture::Missing { why }) => {
                format!("image {image}, id {image_id}: {why}")
            }
            (Backend::Rbd { image, image_id }, _) => format!("image {image}, id {image_id}"),
        }
    }

    fn owner(&self) -> String {
        let Some(placement) = self.map.placement(&self.lu.id) else { return "none".to_owned() };
        let daemon = self.map.daemon(&placement.owner);
        let state = daemon.map_or_else(|| "unknown".to_owned(), |daemon| daemon.state.to_string());
        format!("lus.{} ({state}), since epoch {}, {}", placement.owner, placement.since, placement.reason)
    }

    fn plain(&self) -> String {
        let lu = self.lu;
        let mut text = format!("logical unit '{}':\n", lu.name());
        let mut line = |key: &str, value: &str| {
            let _ = writeln!(text, "    {:<13}{value}", format!("{key}:"));
        };
        line("id", &lu.id.to_string());
        line(
            "size",
            &self
                .size()
                .map_or_else(|| "unknown".to_owned(), |bytes| format!("{} ({bytes} bytes)", Size(bytes))),
        );
        line(
            "block size",
            &format!("{}, physical: {}", lu.block_size.bytes(), lu.physical_block_size.bytes()),
        );
        line("access", if lu.read_only { "read-only" } else { "read-write" });
        line("wwn", &format!("naa.{}", self.wwn()));
        line("serial", &lu.serial);
        line("vendor", &format!("{}, product: {}", lu.vendor, lu.product));
        line("created", &lu.created.to_string());
        line("backend", &self.backend());
        if let Picture::Seen { layout, features, mirror, .. } = &self.picture {
            line("objects", &Size(layout.object_size).to_string());
            line("features", &features.to_string());
            if *mirror != MirrorState::Disabled {
                line("mirroring", mirror_word(*mirror));
            }
        }
        line("owner", &self.owner());
        if let Some(pin) = self.map.placement(&lu.id).and_then(|placement| placement.pin.as_ref()) {
            line("pin", &format!("lus.{pin}"));
        }
        line("state", &self.state.to_string());
        if let Some(step) = &self.step {
            line("step", step);
        }
        match &self.record {
            Some(record) => line("record", &format!("{}, epoch {}", record.state, record.lu_epoch)),
            None => line("record", "none"),
        }
        if let Some(record) = &self.record {
            super::reservation::lines(&record.reservations).for_each(|(key, value)| line(key, &value));
        }
        if matches!(lu.backend, Backend::Rbd { .. }) {
            match self.locks.as_slice() {
                [] => line("lock", "not held"),
                locks => locks.iter().for_each(|lock| line("lock", &lock.to_string())),
            }
        }
        for mapping in self.luns() {
            let host =
                mapping.host.as_ref().map_or_else(|| "every host".to_owned(), |host| format!("host {host}"));
            line("mapped", &format!("LUN {} of target {}, {host}", mapping.lun, mapping.target));
        }
        text
    }

    fn json(&self) -> Value {
        let lu = self.lu;
        let luns: Vec<Value> = self
            .luns()
            .map(|mapping| json!({"target": mapping.target, "lun": mapping.lun, "host": mapping.host}))
            .collect();
        let mut json = json!({
            "name": lu.name(),
            "id": lu.id,
            "size_bytes": self.size(),
            "block_size": lu.block_size,
            "physical_block_size": lu.physical_block_size,
            "read_only": lu.read_only,
            "wwn": self.wwn(),
            "serial": lu.serial,
            "vendor": lu.vendor,
            "product": lu.product,
            "created": lu.created,
            "backend": lu.backend,
            "placement": self.map.placement(&lu.id),
            "state": self.state,
            "step": self.step,
            "record": self.record,
            "lockers": self.locks,
            "luns": luns,
        });
        json["image"] = match &self.picture {
            Picture::None => Value::Null,
            Picture::Missing { why } => json!({"error": why}),
            Picture::Seen { layout, features, mirror, .. } => json!({
                "object_size": layout.object_size,
                "stripe_unit": layout.stripe_unit,
                "stripe_count": layout.stripe_count,
                "features": features.names().collect::<Vec<_>>(),
                "mirroring": mirror_word(*mirror),
            }),
        };
        json
    }
}

fn mirror_word(mirror: MirrorState) -> &'static str {
    match mirror {
        MirrorState::Disabled => "disabled",
        MirrorState::Disabling => "disabling",
        MirrorState::Primary => "primary",
        MirrorState::NonPrimary => "non-primary",
    }
}
