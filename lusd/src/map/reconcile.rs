//! Makes the daemon what the map says: an owner's task for each LU, and the view that initiators get. What did not change in the map
//! is not touched.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use lus_map::{DaemonId, Epoch, Iqn, Lu, LuId, LusMap, MapDiff};
use lus_map_store::MapWatch;
use lusd_scsi::PortGroup;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tracing::{debug, info, warn};

use super::view::{self, Own, Units, Viewer};
use crate::lun::describe;
use crate::lun::owner::{Made, Owner, Shared, State, Wanted};
use crate::lun::room::Rooms;
use crate::observe::service_map::Counts;
use crate::service::Service;

/// Units made and not shown yet; their tasks wait beyond it.
const MADE_QUEUE: usize = 1024;
/// How often the owners are counted, for `ceph service status` and for the end of a daemon that hands its LUs over.
const COUNT_INTERVAL: Duration = Duration::from_millis(250);

/// What the rest of the daemon holds of the reconciler.
pub struct Reconciler {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    /// Every LU of the first map is shown, and of those placed here each is served, or cannot be now. Hosts that come back earlier
    /// would be told NOT READY for a moment, which not all of them bear.
    pub first: watch::Receiver<bool>,
    /// The epoch that the daemon lives by.
    pub epoch: watch::Receiver<Epoch>,
    /// What became of the LUs placed here.
    pub counts: watch::Receiver<Counts>,
}

impl Reconciler {
    /// Starts to follow `follow`, and `rooms`.
    pub fn start(
        shared: Arc<Shared>,
        service: Arc<Service>,
        own: Own,
        follow: Arc<MapWatch>,
        rooms: Rooms,
    ) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (first_sender, first) = watch::channel(false);
        let (epoch_sender, epoch) = watch::channel(Epoch(0));
        let (counts_sender, counts) = watch::channel(Counts::default());
        let (made_sender, made) = mpsc::channel(MADE_QUEUE);
        let state = Following {
            shared,
            service,
            own,
            map: None,
            owners: HashMap::new(),
            ending: JoinSet::new(),
            units: Units::new(),
            rooms,
            viewer: Viewer::default(),
            port_groups: Arc::default(),
            made: made_sender,
            unseen: HashSet::new(),
            first: Some(first_sender),
            epoch: epoch_sender,
            counts: counts_sender,
        };
        let task = tokio::spawn(state.run(follow, made, stopped));
        Self { stop, task, first, epoch, counts }
    }

    /// Releases every LU, and waits for that.
    pub async fn stop(self) {
        // It may have ended by itself, with the map's end.
        let _ = self.stop.send(());
        if let Err(error) = self.task.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

struct Following {
    shared: Arc<Shared>,
    service: Arc<Service>,
    own: Own,
    map: Option<Arc<LusMap>>,
    owners: HashMap<LuId, Owner>,
    /// Owners of LUs that are gone from the map.
    ending: JoinSet<()>,
    units: Units,
    rooms: Rooms,
    viewer: Viewer,
    /// Target port groups of all daemons.
    port_groups: Arc<[PortGroup]>,
    made: mpsc::Sender<Made>,
    /// LUs of the first map that are not shown yet.
    unseen: HashSet<LuId>,
    first: Option<watch::Sender<bool>>,
    epoch: watch::Sender<Epoch>,
    counts: watch::Sender<Counts>,
}

impl Following {
    async fn run(
        mut self,
        follow: Arc<MapWatch>,
        mut made: mpsc::Receiver<Made>,
        mut stopped: oneshot::Receiver<()>,
    ) {
        let mut maps = follow.maps();
        let mut tick = tokio::time::interval(COUNT_INTERVAL);
        let map = maps.borrow_and_update().clone();
        self.unseen = map.lus().map(|lu| lu.id).collect();
        self.apply(map, &follow);
        self.note_seen();
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                changed = maps.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let map = maps.borrow_and_update().clone();
                    self.apply(map, &follow);
                }
                Some(first) = made.recv() => {
                    let mut batch = vec![first];
                    while let Ok(more) = made.try_recv() {
                        batch.push(more);
                    }
                    self.show(batch);
                }
                () = self.rooms.changed() => self.rooms.tell(&self.units),
                Some(ended) = self.ending.join_next() => if let Err(error) = ended { warn!(%error, "an LU's task ended badly") },
                _ = tick.tick() => self.count(),
            }
        }
        // Who still wants to show a unit must not wait for us.
        drop(made);
        for (_, owner) in self.owners.drain() {
            owner.want(|wanted| wanted.gone = true);
            self.ending.spawn(owner.ended());
        }
        while let Some(ended) = self.ending.join_next().await {
            if let Err(error) = ended {
                warn!(%error, "an LU's task ended badly");
            }
        }
    }

    fn apply(&mut self, map: Arc<LusMap>, follow: &MapWatch) {
        let diff = match &self.map {
            Some(before) => before.diff(&map),
            None => map.diff_from_nothing(),
        };
        debug!(from = diff.from.0, to = diff.to.0, "map");
        self.port_groups(&map, &diff);
        self.lus(&map, &diff);
        let targets = touched(&diff);
        for iqn in &targets {
            self.viewer.refresh(&map, iqn, &self.units);
        }
        if !targets.is_empty() || !diff.daemons.is_empty() {
            self.service.publish(self.viewer.view(&map, &self.own));
        }
        let epoch = map.epoch();
        self.map = Some(map);
        self.count();
        self.epoch.send_replace(epoch);
        follow.applied(epoch);
    }

    /// Starts, tells and ends owners.
    fn lus(&mut self, map: &LusMap, diff: &MapDiff) {
        for (id, lu) in &diff.lus.removed {
            self.units.remove(id);
            self.unseen.remove(id);
            if let Some(owner) = self.owners.remove(id) {
                info!(lu = %lu.name(), "removed from the map");
                owner.want(|wanted| wanted.gone = true);
                self.ending.spawn(owner.ended());
            }
        }
        for (id, lu) in &diff.lus.added {
            let lu: Arc<Lu> = Arc::new((***lu).clone());
            let (here, elsewhere) = self.place(map, id);
            let wanted = Wanted { lu, here, elsewhere, gone: false };
            self.owners.insert(*id, Owner::start(self.shared.clone(), wanted, self.made.clone()));
        }
        for (id, _, lu) in &diff.lus.changed {
            let lu: Arc<Lu> = Arc::new((***lu).clone());
            self.describe(id, &lu);
            if let Some(owner) = self.owners.get(id) {
                owner.want(|wanted| wanted.lu = lu);
            }
        }
        for id in diff.placements.keys() {
            let (here, elsewhere) = self.place(map, id);
            if let Some(owner) = self.owners.get(id) {
                owner.want(|wanted| (wanted.here, wanted.elsewhere) = (here, elsewhere));
            }
        }
    }

    /// Tells the units that are shown which paths lead where: before their owners' tasks act, so that hosts hear of a change first.
    fn port_groups(&mut self, map: &LusMap, diff: &MapDiff) {
        let groups = if diff.daemons.is_empty() { self.port_groups.clone() } else { view::port_groups(map) };
        if groups != self.port_groups {
            self.port_groups = groups;
            for (id, unit) in &self.units {
                unit.scsi.set_port_groups(view::port_groups_of(map, &self.port_groups, &self.own, id));
            }
            return;
        }
        for id in diff.placements.keys() {
            if let Some(unit) = self.units.get(id) {
                unit.scsi.set_port_groups(view::port_groups_of(map, &self.port_groups, &self.own, id));
            }
        }
    }

    /// Whether an LU is placed here, or else where.
    fn place(&self, map: &LusMap, id: &LuId) -> (bool, Option<DaemonId>) {
        match map.placement(id).map(|placement| &placement.owner) {
            Some(owner) if *owner == self.own.id => (true, None),
            owner => (false, owner.cloned()),
        }
    }

    /// Names and protection of an LU that exists already.
    fn describe(&self, id: &LuId, lu: &Lu) {
        let Some(unit) = self.units.get(id) else { return };
        unit.scsi.set_read_only(lu.read_only);
        match describe::identity(lu) {
            Ok(identity) => unit.scsi.set_identity(identity),
            Err(error) => warn!(lu = %lu.name(), %error, "the new identity does not fit"),
        }
    }

    /// Shows units that were made, in the targets that map them.
    fn show(&mut self, made: Vec<Made>) {
        let mut ids = HashSet::new();
        for (id, unit) in made {
            // It may have left the map meanwhile.
            if let Some(map) = &self.map
                && self.owners.contains_key(&id)
            {
                unit.scsi.set_port_groups(view::port_groups_of(map, &self.port_groups, &self.own, &id));
                self.units.insert(id, unit);
                ids.insert(id);
            }
            self.unseen.remove(&id);
        }
        self.rooms.tell(self.units.iter().filter(|(id, _)| ids.contains(id)));
        let Some(map) = self.map.clone() else { return };
        let mapped = map.all_luns().filter(|mapping| ids.contains(&mapping.lu));
        let targets: BTreeSet<Iqn> = mapped.map(|mapping| mapping.target.clone()).collect();
        for iqn in &targets {
            self.viewer.refresh(&map, iqn, &self.units);
        }
        if !targets.is_empty() {
            self.service.publish(self.viewer.view(&map, &self.own));
        }
        self.note_seen();
    }

    /// Once every LU of the first map is shown: waits, beside the reconciler, until none is being opened.
    fn note_seen(&mut self) {
        if !self.unseen.is_empty() {
            return;
        }
        let Some(first) = self.first.take() else { return };
        let mut states: Vec<_> = self.owners.values().map(Owner::states).collect();
        tokio::spawn(async move {
            for state in &mut states {
                // An error is the owner's end.
                let _ = state.wait_for(|state| !matches!(state, State::Opening)).await;
            }
            first.send_replace(true);
        });
    }

    fn count(&self) {
        let mut counts = Counts::default();
        for owner in self.owners.values() {
            match owner.state() {
                State::Idle => {}
                State::Serving(_) => counts.serving += 1,
                State::Opening | State::Waiting(_) => counts.waiting += 1,
            }
        }
        self.counts.send_replace(counts);
    }
}

/// Targets that look different now.
fn touched(diff: &MapDiff) -> BTreeSet<Iqn> {
    let hosts = diff.hosts.keys().map(|key| &key.target);
    let luns = diff.luns.keys().map(|key| &key.target);
    diff.targets.keys().chain(hosts).chain(luns).cloned().collect()
}
