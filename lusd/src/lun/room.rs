//! How much room there is in the pools of thin LUs: the monitors are asked now and then, and the units are told.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lus_map::LuId;
use lusd_ceph::{Cluster, PoolUsage};
use lusd_scsi::Room;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use super::unit::Unit;

/// By the pools' numbers.
type Usage = HashMap<i64, PoolUsage>;

/// The task that asks; it ends when this is dropped.
pub struct Rooms {
    usage: watch::Receiver<Usage>,
    task: JoinHandle<()>,
}

impl Drop for Rooms {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Rooms {
    /// Asks at once, and then after each `interval`.
    pub fn follow(control: Cluster, interval: Duration) -> Self {
        let (sender, usage) = watch::channel(Usage::new());
        Self { usage, task: tokio::spawn(ask(control, interval, sender)) }
    }

    /// Waits for other figures than were told last.
    pub async fn changed(&mut self) {
        if self.usage.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Tells `units` how much room they have. A line in the log for each pool in which little is left.
    pub fn tell<'a>(&mut self, units: impl IntoIterator<Item = (&'a LuId, &'a Arc<Unit>)>) {
        let usage = self.usage.borrow_and_update();
        let mut told: HashMap<i64, (u8, usize)> = HashMap::new();
        for (_, unit) in units {
            let Some(pool) = unit.data_pool() else { continue };
            let Some(used) = usage.get(&pool) else { continue };
            let room = Room { available_bytes: used.available_bytes, used_bytes: used.stored_bytes };
            if unit.scsi.set_room(room) {
                told.entry(pool).or_insert((room.available_percent(), 0)).1 += 1;
            }
        }
        for (pool, (available_percent, units)) in told {
            warn!(pool, available_percent, units, "little room is left in the pool: hosts are told");
        }
    }
}

/// Figures that cannot be had stay as they were. That is said when it begins.
async fn ask(control: Cluster, interval: Duration, usage: watch::Sender<Usage>) {
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tick.tick().await;
        match control.pool_usage().await {
            Ok(now) => {
                failing = false;
                usage.send_if_modified(|known| {
                    let differs = *known != now;
                    *known = now;
                    differs
                });
            }
            Err(error) if failing => debug!(%error, "the monitors do not say how full pools are"),
            Err(error) => {
                failing = true;
                warn!(%error, "the monitors do not say how full pools are: hosts are not told when little room is left");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use lusd_scsi::{AccessState, Identity, LogicalUnit, LogicalUnitConfig};

    use super::*;

    fn unit(id: u8, pool: Option<i64>) -> (LuId, Arc<Unit>) {
        let config = LogicalUnitConfig {
            soft_threshold_percent: Some(20),
            ..LogicalUnitConfig::new(Identity::new([id; 16]), 1 << 30)
        };
        let id = LuId(uuid::Uuid::from_bytes([id; 16]));
        let scsi = LogicalUnit::new(config, AccessState::Serving).unwrap();
        let unit = Unit::new(id, format!("rbd/{id}"), scsi, 1);
        unit.set_data_pool(pool);
        (id, unit)
    }

    #[tokio::test]
    async fn each_unit_is_told_of_its_own_pool() {
        let units: HashMap<_, _> = [(1, Some(5)), (2, Some(5)), (3, Some(6)), (4, None), (5, Some(7))]
            .map(|(id, pool)| unit(id, pool))
            .into();
        let of =
            |id: u8| units[&LuId(uuid::Uuid::from_bytes([id; 16]))].scsi.room().map(Room::available_percent);
        let (sender, usage) = watch::channel(Usage::new());
        let mut rooms = Rooms { usage, task: tokio::spawn(std::future::pending()) };
        rooms.tell(&units);
        assert_eq!([1, 2, 3, 4, 5].map(of), [None; 5]);
        let usage = |available_bytes, stored_bytes| PoolUsage { stored_bytes, available_bytes };
        sender.send_replace(Usage::from([(5, usage(10, 90)), (6, usage(70, 30)), (8, usage(1, 99))]));
        rooms.changed().await;
        rooms.tell(&units);
        assert_eq!([1, 2, 3, 4, 5].map(of), [Some(10), Some(10), Some(70), None, None]);
        // A pool that is not told of any more: its last figures stay.
        sender.send_replace(Usage::from([(5, usage(50, 50))]));
        rooms.changed().await;
        rooms.tell(&units);
        assert_eq!([1, 2, 3, 4, 5].map(of), [Some(50), Some(50), Some(70), None, None]);
    }
}
