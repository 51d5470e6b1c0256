//! A judge beside the driver's, for runs without one of its rules: what it says is looked at, whether or not it comes to be written. It
//! looks at irregular times and takes every answer, as another driver might.

use std::sync::Arc;

use lus_map::Judge;
use lus_map::judge::Rules;
use tokio::time::{Instant, sleep};

use crate::daemon::Daemon;

pub(crate) async fn run(daemon: Arc<Daemon>, rules: Rules) {
    let mut judge = Judge::with_rules(daemon.me.clone(), rules);
    let begun = Instant::now();
    loop {
        let map = daemon.maps.borrow().clone();
        let asked = Instant::now();
        let look = daemon.store.watchers().await;
        let watchers = look.as_ref().map(|watchers| &watchers[..]);
        let verdicts = judge.look(asked - begun, asked.elapsed(), &map, watchers);
        daemon.oracle.judged(&daemon.me, &map, &verdicts);
        let soon = daemon.sim.chance(300);
        sleep(if soon { daemon.sim.ms(10..=150) } else { daemon.sim.ms(150..=1000) }).await;
    }
}
