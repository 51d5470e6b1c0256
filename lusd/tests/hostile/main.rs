//! Figures of hostile peers: for each attack what it costs a target, in a process of its own, and how long another host waits meanwhile.
//!
//! ```text
//! cargo test -p lusd --test hostile
//! ```
//!
//! The target is the daemon's data path with the limits that it has by default (but without pings), and a `ram:` unit. The attacker comes from 127.0.0.2, the other host from
//! 127.0.0.1: over and over it logs in, writes, reads back, and logs out. Memory is the process's resident size at its peak, less what it was before;
//! data memory is what the daemon accounts for. Afterwards everything has to be free again.

#![expect(clippy::print_stdout, reason = "a program, which tells what it has measured")]

// What the data path's tests share; not all of it is used here.
#[allow(dead_code)]
#[path = "../data_path/gateway.rs"]
mod gateway;
#[allow(dead_code)]
#[path = "../data_path/initiator.rs"]
mod initiator;

mod attack;
mod host;
mod target;

use std::time::{Duration, Instant};

use attack::ATTACKS;
use host::Host;
use target::Target;

/// How long an attack goes on.
const ATTACK: Duration = Duration::from_millis(1500);
/// Another host waits no longer for login, write, read and logout: hosts give a login 15 s. Attacks take processors too, and this machine may have few.
const WAIT_MAX: Duration = Duration::from_secs(15);
const MIB: f64 = (1 << 20) as f64;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == target::SERVE) {
        return target::serve();
    }
    lusd::process::raise_open_files();
    let filters: Vec<_> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let chosen = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(*filter));
    let (mut passed, mut filtered) = (0, 0);
    let row = |words: [&str; 7]| {
        let [name, connections, resident, bound, data, served, longest] = words;
        println!("{name:34} {connections:>11} {resident:>8} {bound:>8} {data:>8} {served:>6} {longest:>9}");
    };
    row(["attack", "connections", "resident", "bound", "data", "others", "longest"]);
    row(["", "at most", "MiB", "MiB", "MiB", "served", "ms"]);
    for (name, bound, attack) in ATTACKS {
        if !chosen(name) {
            filtered += 1;
            continue;
        }
        run(name, *bound, attack);
        passed += 1;
    }
    println!(
        "\ntest result: ok. {passed} passed; 0 failed; 0 ignored; 0 measured; {filtered} filtered out\n"
    );
}

/// One attack on a target of its own; panics where it is not withstood.
fn run(name: &str, bound: attack::Bound, attack: &attack::Attack) {
    let mut target = Target::start();
    // Once through, so that what is only set up once is not counted.
    Host::serve_once(target.address);
    let before = target.reset_peak();
    let host = Host::start(target.address);
    let begun = Instant::now();
    let held = attack(target.address, begun + ATTACK);
    let served = host.stop();
    let state = target.state();
    let resident = target.peak().saturating_sub(before);
    let (resident_mib, data_mib) = (resident as f64 / MIB, state.data_peak as f64 / MIB);
    let bound_mib = bound.resident as f64 / MIB;
    let longest = served.longest;
    println!(
        "{name:34} {:11} {resident_mib:8.1} {bound_mib:8.1} {data_mib:8.1} {:6} {:9}",
        state.connections_peak,
        served.count,
        longest.as_millis()
    );
    assert!(resident <= bound.resident, "{name}: {resident_mib:.1} MiB are more than {bound_mib:.1}");
    assert!(state.data_peak <= bound.data, "{name}: {data_mib:.1} MiB of data");
    assert!(served.count > 0 && longest <= WAIT_MAX, "{name}: another host waited {longest:?}");
    drop(held);
    target.is_free_again(name);
}
