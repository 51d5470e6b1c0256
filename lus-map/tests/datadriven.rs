//! Scripts of what administrators and daemons do, and what comes of it: `tests/data/*.txt`.
//!
//! A script is blocks of a few lines of input, a line `----`, and the output up to an empty line. After each change
//! the map is checked, taken back, and replayed. `LUS_REWRITE=1` writes the output that came instead of comparing it.

use std::fmt::Write as _;
use std::str::FromStr;

use lus_map::change::daemon::{self, Register};
use lus_map::change::lu::{self, AddLu};
use lus_map::change::lun::{self, MapLun, UnmapLun};
use lus_map::change::{self, Change, Refusal, fence, flags, host, leader, placement, target};
use lus_map::events::events;
use lus_map::health::{health, status};
use lus_map::{
    Backend, BlockSize, ClientAddr, DaemonId, Epoch, Increment, InstanceKey, LuId, LuName, LusMap, Origin,
    PhysicalBlockSize, Timestamp, Verdict,
};
use uuid::Uuid;

struct World {
    map: LusMap,
    increments: Vec<Increment>,
    /// Seconds that have gone by beside the minute that each change takes.
    waited: i64,
}

impl World {
    fn new() -> Self {
        let increment = change::create(Uuid::from_u128(0xf51d), &origin(1, 0));
        let map = LusMap::create(&increment).expect("a first map");
        Self { map, increments: vec![increment], waited: 0 }
    }

    fn past(&self, epoch: u64) -> LusMap {
        let mut map = self.map.clone();
        while map.epoch() > Epoch(epoch) {
            let at = usize::try_from(map.epoch().0).unwrap() - 1;
            map =
                map.take_back(&self.increments[at], self.increments[at - 1].origin.when).expect("a way back");
        }
        map
    }

    fn make(&mut self, change: Result<Change, Refusal>) -> String {
        match change {
            Err(refusal) => format!("Error {}: {refusal}\n", refusal.errno_name()),
            Ok(Change::Already { said }) => format!("{said} (nothing to do)\n"),
            Ok(Change::Make { increment, said }) => {
                let next = self.map.apply(&increment).expect("it was made for this map");
                next.check().expect("every change keeps the invariants");
                let stored = Increment::decode(increment.epoch, &increment.encode()).expect("its own form");
                assert_eq!(stored, increment);
                let back = next.take_back(&increment, self.map.modified()).expect("a way back");
                assert_eq!(back, self.map);
                self.map = next;
                self.increments.push(increment);
                format!("{said}\n")
            }
        }
    }

    fn run(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let args = Args(&words);
        let (map, o) = (&self.map, &self.origin(&args));
        let change = match words[..2.min(words.len())] {
            ["target", "create"] => target::create(map, o, &args.at(2), args.has("--open")),
            ["target", "rm"] => target::remove(map, o, &args.at(2), args.has("--force")),
            ["host", "add"] => host::add(map, o, &args.at(2), &args.at(3)),
            ["host", "rm"] => host::remove(map, o, &args.at(2), &args.at(3), args.has("--force")),
            ["lu", "add"] => lu::add(map, o, &args.add_lu()),
            ["lu", "rm"] => lu::remove(map, o, &args.at(2), args.has("--force")),
            ["lu", "resize"] => lu::resize_volatile(map, o, &args.at(2), args.at(3)),
            ["lu", "access"] => lu::set_read_only(map, o, &args.at(2), args.has("read-only")),
            ["lun", "map"] => {
                let (lun, host) = (args.option("lun"), args.option("host"));
                lun::map(map, o, &MapLun { target: args.at(2), lu: args.at(3), lun, host })
            }
            ["lun", "unmap"] => {
                let (lun, host) = (args.option("lun"), args.option("host"));
                lun::unmap(map, o, &UnmapLun { target: args.at(2), lu: args.at(3), lun, host })
            }
            ["daemon", "register"] => daemon::register(map, o, &args.register()),
            ["daemon", "retire"] => daemon::retire(map, o, (&args.at(2), Epoch(args.at(3)))),
            ["daemon", "down"] => daemon::mark_down(map, o, (&args.at(2), Epoch(args.at(3))), "no beacon"),
            ["daemon", "opens"] => {
                daemon::add_data_addrs(map, o, (&args.at(2), Epoch(args.at(3))), &args.list("data"))
            }
            ["daemon", "closed"] => {
                daemon::remove_data_addrs(map, o, (&args.at(2), Epoch(args.at(3))), &args.list("data"))
            }
            ["daemon", "in"] => daemon::set_in(map, o, &args.at(2)),
            ["daemon", "out"] => daemon::set_out(map, o, &args.at(2)),
            ["daemon", "drain"] => daemon::drain(map, o, &args.at(2)),
            ["daemon", "leave"] => {
                let start = &args.starts(map, 2)[0];
                daemon::leave(map, o, (&start.id, start.up_from))
            }
            ["daemon", "ends"] => {
                let start = &args.starts(map, 2)[0];
                daemon::retire(map, o, (&start.id, start.up_from))
            }
            ["daemon", "rm"] => daemon::rm(map, o, &args.at(2), args.has("--force")),
            ["leader", "take"] => leader::take(map, o, &args.starts(map, 2)[0]),
            ["leader", "resign"] => leader::resign(map, o, &args.starts(map, 2)[0]),
            ["verdict", _] => daemon::declare_down(map, o, &args.verdicts(map)),
            ["failover"] | ["failover", _] => placement::failover(map, o),
            ["rebalance"] | ["rebalance", _] => placement::rebalance(map, o),
            ["lu", "move"] => lu::move_to(map, o, &args.at(2), &args.at(3)),
            ["lu", "pin"] => {
                let to = args.0.get(3).map(|id| id.parse().unwrap());
                lu::pin(map, o, &args.at(2), to.as_ref())
            }
            ["lu", "unpin"] => lu::unpin(map, o, &args.at(2)),
            ["set", flag] => flags::set(map, o, flag.parse().unwrap()),
            ["unset", flag] => flags::unset(map, o, flag.parse().unwrap()),
            ["wait", seconds] => {
                self.waited += seconds.parse::<i64>().unwrap();
                return String::new();
            }
            ["daemon", "fenced"] => daemon::fenced(map, o, &args.list("addrs"), args.option("at").unwrap()),
            ["fence", addr] => {
                fence::note(map, o, &addr.parse().unwrap(), "had the lock of rbd/x: taken over")
            }
            ["place"] => placement::place_unplaced(map, o),
            _ => return self.look(&args),
        };
        self.make(change)
    }

    /// That of the next change; with `term=` that of a leader.
    fn origin(&self, args: &Args<'_>) -> Origin {
        let origin = origin(self.map.epoch().0 + 1, self.waited);
        let term = match args.text("term") {
            Some("now") => Some(self.map.meta().leader_term),
            _ => args.option("term"),
        };
        Origin { leader_term: term, ..origin }
    }

    fn look(&self, args: &Args<'_>) -> String {
        match args.0 {
            ["dump"] => self.map.to_string(),
            ["dump", epoch] => self.past(epoch.parse().unwrap()).to_string(),
            ["json"] => format!("{}\n", serde_json::to_string_pretty(&self.map).unwrap()),
            ["log"] => self.increments.iter().fold(String::new(), |mut out, increment| {
                writeln!(out, "{} {} {}", increment.epoch, increment.origin.who, increment.why).unwrap();
                out
            }),
            ["places"] => self.map.placements().fold(String::new(), |mut out, placement| {
                writeln!(out, "{placement}").unwrap();
                out
            }),
            ["daemons"] => self.map.daemons().fold(String::new(), |mut out, daemon| {
                writeln!(out, "{daemon}").unwrap();
                out
            }),
            ["events", epoch] => {
                let after: usize = epoch.parse().unwrap();
                let events = events(&self.increments[after..]).unwrap();
                events.iter().fold(String::new(), |mut out, event| {
                    writeln!(out, "{event}").unwrap();
                    out
                })
            }
            ["health"] => {
                let checks = health(&self.map, [], self.origin(args).when);
                checks.iter().fold(format!("{}\n", status(&checks)), |mut out, check| {
                    writeln!(out, "{check}").unwrap();
                    out
                })
            }
            ["keys"] => self.map.raw_entries().fold(String::new(), |mut out, (key, raw)| {
                writeln!(out, "{key} {} bytes", raw.len()).unwrap();
                out
            }),
            ["view", target, initiator] => {
                let (target, initiator) = (target.parse().unwrap(), initiator.parse().unwrap());
                let mut out = format!("admitted {}\n", self.map.admits(&target, &initiator));
                for (lun, lu) in self.map.view(&target, &initiator) {
                    writeln!(out, "{lun} {}", lu.name()).unwrap();
                }
                out
            }
            ["diff", epoch] => {
                let diff = self.past(epoch.parse().unwrap()).diff(&self.map);
                let mut out = format!("{} to {}, meta {}\n", diff.from, diff.to, diff.meta);
                let counts = |kind, a: usize, r: usize, c: usize| format!("{kind} +{a} -{r} ~{c}\n");
                macro_rules! count {
                    ($($kind:ident),+) => {$(
                        let d = &diff.$kind;
                        out += &counts(stringify!($kind), d.added.len(), d.removed.len(), d.changed.len());
                    )+};
                }
                count!(daemons, targets, hosts, luns, lus, placements);
                out
            }
            words => panic!("no such input: {words:?}"),
        }
    }
}

/// An origin for the change that makes `epoch`: a minute for each, and what was waited.
fn origin(epoch: u64, waited: i64) -> Origin {
    let minute = (1_795_230_000_000_000 + epoch * 60_000_000).strict_add_signed(waited * 1_000_000);
    Origin::new(Uuid::from_u128(epoch.into()), Timestamp(minute), "client.admin")
}

struct Args<'a>(&'a [&'a str]);

impl Args<'_> {
    fn at<T: FromStr<Err: std::fmt::Debug>>(&self, index: usize) -> T {
        self.0[index].parse().unwrap()
    }

    fn has(&self, flag: &str) -> bool {
        self.0.contains(&flag)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    fn option<T: FromStr<Err: std::fmt::Debug>>(&self, name: &str) -> Option<T> {
        self.text(name).map(|text| text.parse().unwrap())
    }

    fn list<T: FromStr<Err: std::fmt::Debug>>(&self, name: &str) -> Vec<T> {
        let texts = self.text(name).unwrap_or_default().split(',').filter(|text| !text.is_empty());
        texts.map(|text| text.parse().unwrap()).collect()
    }

    /// Starts of daemons, `a.4,b`: that of epoch 4, the latest.
    fn starts(&self, map: &LusMap, index: usize) -> Vec<InstanceKey> {
        let one = |text: &str| match text.split_once('.') {
            Some((id, up_from)) => {
                InstanceKey { id: id.parse().unwrap(), up_from: Epoch(up_from.parse().unwrap()) }
            }
            None => map.daemon(&text.parse().unwrap()).unwrap().key(),
        };
        self.0[index].split(',').map(one).collect()
    }

    fn verdicts(&self, map: &LusMap) -> Vec<Verdict> {
        let one = |key: InstanceKey| {
            let reason = format!("no watch of {}", key.id);
            Verdict { daemon: key.id, up_from: key.up_from, reason }
        };
        self.starts(map, 1).into_iter().map(one).collect()
    }

    fn add_lu(&self) -> AddLu {
        let size_bytes = self.option("size").unwrap_or(1 << 20);
        let backend = match self.at(2) {
            LuName::Rbd(image) => {
                Backend::Rbd { image, image_id: self.option("image_id").expect("image_id=...") }
            }
            LuName::Ram(name) => Backend::Ram { name, size_bytes },
            LuName::Null(name) => Backend::Null { name, size_bytes },
        };
        let mut ask = AddLu::new(LuId(Uuid::from_u128(self.option("id").expect("id=..."))), backend);
        ask.block_size = BlockSize::new(self.option("block").unwrap_or(512)).unwrap();
        ask.physical_block_size =
            self.option("physical").map(|bytes| PhysicalBlockSize::new(bytes).expect("physical=..."));
        (ask.wwn, ask.serial) = (self.option("wwn"), self.option("serial"));
        (ask.vendor, ask.product) = (self.option("vendor"), self.option("product"));
        ask.read_only = self.has("ro");
        ask
    }

    fn register(&self) -> Register {
        let id: DaemonId = self.at(2);
        Register {
            hostname: format!("host-{id}"),
            id,
            portals: self.list("portals"),
            version: "0.1.0".to_owned(),
            control_addr: self.option("control").expect("control=..."),
            data_addrs: self.list::<ClientAddr>("data"),
        }
    }
}

fn run_script(path: &std::path::Path) -> Result<(), String> {
    let script = std::fs::read_to_string(path).unwrap();
    let mut world = World::new();
    let (mut out, mut input, mut lines) = (String::new(), Vec::new(), script.lines());
    while let Some(line) = lines.next() {
        if line != "----" {
            out += &format!("{line}\n");
            if !line.is_empty() && !line.starts_with('#') {
                input.push(line);
            }
            continue;
        }
        lines.by_ref().find(|line| line.is_empty());
        let output: String = input.drain(..).map(|line| world.run(line)).collect();
        out += &format!("----\n{output}\n");
    }
    assert!(input.is_empty(), "{}: input without ----", path.display());
    replay(&world);
    if std::env::var_os("LUS_REWRITE").is_some() {
        std::fs::write(path, out.trim_end().to_owned() + "\n").unwrap();
    } else if out.trim_end() != script.trim_end() {
        let same = out.lines().zip(script.lines()).take_while(|(a, b)| a == b).count();
        let (came, wanted) = (out.lines().nth(same), script.lines().nth(same));
        return Err(format!("{}:{}\n   came {came:?}\n wanted {wanted:?}", path.display(), same + 1));
    }
    Ok(())
}

/// Replaying every increment gives the map, and so does reading it whole.
fn replay(world: &World) {
    let mut map = LusMap::create(&world.increments[0]).unwrap();
    for increment in &world.increments[1..] {
        map = map.apply(increment).unwrap();
    }
    assert_eq!(map, world.map);
    let stored: Vec<(String, &[u8])> = map.raw_entries().map(|(key, raw)| (key.to_string(), raw)).collect();
    let whole = stored.iter().map(|(key, raw)| (key.as_str(), *raw));
    assert_eq!(LusMap::decode(map.epoch(), map.modified(), whole).unwrap(), world.map);
}

#[test]
fn scripts() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    let failures: Vec<String> = paths.iter().filter_map(|path| run_script(path).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
