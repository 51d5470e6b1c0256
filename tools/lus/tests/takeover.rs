//! Daemons in and out, moves, takeovers, flags, events: the whole program against a real cluster, without any daemon.

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lus_map::{LusMap, Origin, change};
use serde_json::json;

use support::{Fixture, IMAGES, end, play, unique};

#[test]
fn flags_and_health() {
    let f = Fixture::new();
    assert_eq!(f.lus("health").data(), "HEALTH_OK\n");
    assert_eq!(f.lus("health detail -f json").data(), "{\"status\":\"HEALTH_OK\",\"checks\":{}}\n");
    for word in ["set", "set", "unset", "unset"] {
        assert_eq!(f.lus(&format!("{word} nomove")).sentence(), format!("nomove is {word}"));
    }
    assert!(
        f.lus("set nosuch")
            .failure(22)
            .starts_with("Invalid command: nosuch not in noout|nomove|nofailover\n")
    );
    f.lus("set nofailover").sentence();
    f.lus("set noout").sentence();
    let status = f.lus("-s").data().to_owned();
    assert!(status.contains("lusd: 0 daemons: 0 up\n          flags nofailover,noout\n"), "{status}");
    assert_eq!(f.lus("-s -f json").json()["lusmap"]["flags"], json!(["nofailover", "noout"]));
    assert_eq!(f.lus("health").data(), "HEALTH_WARN nofailover,noout flag(s) set\n");
    let detail = f.lus("health detail").data().to_owned();
    assert!(
        detail.contains("[WRN] LUS_FLAG_SET: nofailover,noout flag(s) set\n    nofailover: "),
        "{detail}"
    );
    f.register("a", "192.0.2.1:0/1", &[]);
    let detail = f.lus("health detail -f json").json();
    for code in ["LUS_FLAG_SET", "LUS_NO_LEADER", "LUS_DAEMON_SILENT"] {
        assert_eq!(detail["checks"][code]["severity"], "HEALTH_WARN", "{code}: {detail}");
        assert!(detail["checks"][code]["detail"][0]["message"].is_string(), "{code}: {detail}");
    }
    assert!(f.lus("health more").failure(22).starts_with("Invalid command: more not in detail\n"));
}

#[test]
fn daemons_come_and_go() {
    let f = Fixture::new();
    for line in ["daemon in a", "daemon out a", "daemon drain a", "daemon rm a"] {
        assert_eq!(f.lus(line).failure(2), "Error ENOENT: no such daemon lus.a", "{line}");
    }
    f.register("a", "192.0.2.1:0/1", &[]);
    for n in 0..6 {
        f.lus(&format!("lu create null:{n} 1G")).sentence();
    }
    let units = |id: &str| {
        let all = f.lus("daemon ls -f json").json();
        let one = all.as_array().unwrap().iter().find(|daemon| daemon["id"] == id).cloned();
        one.unwrap_or_else(|| panic!("{id} is not in {all}"))["lus"].as_u64().unwrap()
    };
    assert_eq!(units("a"), 6);
    assert_eq!(
        f.lus("daemon drain a").failure(16),
        "Error EBUSY: lus.a has 6 logical units, and no other daemon is up and in"
    );
    assert_eq!(f.lus("daemon ls -f json").json()[0]["in"], true, "nothing of it was done");

    let (b, b_up_from) = f.register("b", "192.0.2.1:0/2", &[]);
    assert_eq!(f.lus("daemon out lus.a").sentence(), "lus.a is out");
    assert_eq!(f.lus("daemon out a").sentence(), "lus.a is already out");
    assert!(f.lus("daemon ls").data().contains("a   up     out    6"));
    assert_eq!(
        f.lus("daemon drain a").sentence(),
        "lus.a is out and hands over 6 logical units\nwatch it with: lus lu ls; lus events"
    );
    assert_eq!((units("a"), units("b")), (0, 6));
    assert_eq!(f.lus("daemon drain a").sentence(), "lus.a is out and has no logical units");
    f.lus("set nomove").sentence();
    assert_eq!(
        f.lus("daemon out b").sentence(),
        "lus.b is out\nflag nomove is set: its 6 logical units stay with it"
    );
    assert_eq!(
        f.lus("daemon in a").sentence(),
        "lus.a is in\nflag nomove is set: no logical units come to it by themselves"
    );
    assert_eq!(f.lus("daemon in a").sentence(), "lus.a is already in");

    assert_eq!(f.lus("daemon rm b").failure(16), "Error EBUSY: lus.b is up: stop it first");
    let store = f.store();
    let down =
        |map: &LusMap, origin: &Origin| change::daemon::mark_down(map, origin, (&b, b_up_from), "test");
    f.runtime.block_on(store.update(down)).unwrap();
    let refused = f.lus("daemon rm b");
    assert!(
        refused.failure(1).starts_with("Error EPERM: 1 RADOS clients of lus.b are not known to be fenced: "),
        "{refused:?}"
    );
    assert!(refused.stderr.contains("--yes-i-really-mean-it"), "{refused:?}");
    assert_eq!(f.lus("daemon rm b --yes-i-really-mean-it").sentence(), "lus.b removed");
    assert_eq!((units("a"), f.lus("daemon rm b").code), (6, 2));
    assert!(f.lus("daemon in .x").failure(22).starts_with("Invalid command: invalid daemon id '.x'"));
}

#[test]
fn moves_and_pins() {
    let f = Fixture::new();
    f.register("a", "192.0.2.1:0/1", &[]);
    f.lus("lu create null:x 1G").sentence();
    f.lus("lu create ram:y 64M").sentence();
    let (b, b_up_from) = f.register("b", "192.0.2.1:0/2", &[]);
    let info = |name: &str| f.lus(&format!("lu info {name} -f json")).json();
    let watch = |name: &str| format!("watch it with: lus lu info {name}; lus events");
    assert_eq!(info("null:x")["placement"]["owner"], "a");
    assert_eq!(info("null:x")["step"], "nobody holds it: lus.a is to open it");

    assert_eq!(
        f.lus("lu move null:x lus.b").sentence(),
        format!("logical unit 'null:x' goes to lus.b\n{}", watch("null:x"))
    );
    assert_eq!(f.lus("lu move null:x b").sentence(), "logical unit 'null:x' is already placed on lus.b");
    let refused = f.lus("lu move ram:y b");
    assert!(
        refused.failure(1).starts_with("Error EPERM: WARNING: logical unit ram:y keeps its data in the ")
    );
    assert_eq!(info("ram:y")["placement"]["owner"], "a");
    assert!(
        f.lus("lu move ram:y b --yes-i-really-mean-it")
            .sentence()
            .ends_with("what was in the memory of its last owner is lost")
    );
    assert!(f.lus("lu info null:x").data().contains("owner:       lus.b (up), since epoch 6, moved\n"));
    assert_eq!(f.lus("lu move null:x c").failure(2), "Error ENOENT: no such daemon lus.c");
    assert_eq!(f.lus("lu move null:z a").failure(2), "Error ENOENT: no such logical unit null:z");

    assert_eq!(
        f.lus("lu pin null:x a").sentence(),
        format!("logical unit 'null:x' is pinned to lus.a\n{}", watch("null:x"))
    );
    assert_eq!(f.lus("lu pin null:x").sentence(), "logical unit 'null:x' is pinned to lus.a");
    assert_eq!(info("null:x")["placement"]["pin"], "a");
    assert!(f.lus("lu info null:x").data().contains(", pinned\n    pin:         lus.a\n"));
    assert_eq!(
        f.lus("lu move null:x b").failure(16),
        "Error EBUSY: logical unit null:x is pinned to lus.a; take the pin away with: lus lu unpin null:x"
    );
    for _ in 0..2 {
        assert_eq!(f.lus("lu unpin null:x").sentence(), "logical unit 'null:x' is not pinned");
    }
    f.lus("daemon out b").sentence();
    assert_eq!(
        f.lus("lu move null:x b").failure(112),
        "Error EHOSTDOWN: lus.b is out: it is to have no logical units; let it have some with: lus daemon in b"
    );
    assert_eq!(
        f.lus("lu pin null:x b").sentence(),
        "logical unit 'null:x' is pinned to lus.b\nit goes there when that daemon is up and in"
    );
    let store = f.store();
    let down =
        |map: &LusMap, origin: &Origin| change::daemon::mark_down(map, origin, (&b, b_up_from), "test");
    f.runtime.block_on(store.update(down)).unwrap();
    assert_eq!(f.lus("lu move null:x b").failure(112), "Error EHOSTDOWN: lus.b is not up");
    assert_eq!(info("ram:y")["step"], "the leader is to give it another owner");
    let lines = f.lus("lu ls").data().to_owned();
    assert!(lines.contains("ram:y   64 MiB    512  lus.b  down      0\n"), "{lines}");
}

#[test]
fn what_happened() {
    let f = Fixture::new();
    assert_eq!((f.lus("events").data(), f.lus("events -f json").data()), ("", "[]\n"));
    f.register("a", "192.0.2.1:0/1", &[]);
    let b = f.register("b", "192.0.2.1:0/2", &[]);
    f.lus("lu create null:x 1G").sentence();
    let owner = f.lus("lu info null:x -f json").json()["placement"]["owner"].as_str().unwrap().to_owned();
    let other = if owner == "a" { "b" } else { "a" };
    f.lus(&format!("lu move null:x {other}")).sentence();
    f.lead(&b);
    let kinds = |line: &str| -> Vec<String> {
        let all = f.lus(line).json();
        all.as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(kinds("events -f json"), ["register", "register", "move", "leader"]);
    assert_eq!(kinds("events 2 -f json"), ["move", "leader"]);
    assert_eq!(f.lus("events 0 -f json").data(), "[]\n");
    let moved = f.lus("events 2 -f json").json()[0].clone();
    assert_eq!(
        (&moved["subject"], &moved["reason"], &moved["epoch"]),
        (&json!("null:x"), &json!(format!("from lus.{owner} to lus.{other}: moved")), &json!(5))
    );
    let line = f.lus("events 2").data().lines().next().unwrap().to_owned();
    assert!(
        line.ends_with(&format!(
            " e5 move     null:x: from lus.{owner} to lus.{other}: moved (by client.admin)"
        )),
        "{line}"
    );

    // More epochs than are read together, and none of them tells of anything.
    for n in 0..70 {
        let target = format!("iqn.2026-11.io.lus:{n}").parse().unwrap();
        let store = f.store();
        f.runtime
            .block_on(store.update(|map, origin| change::target::create(map, origin, &target, true)))
            .unwrap();
    }
    assert_eq!(kinds("events -f json"), ["register", "register", "move", "leader"]);

    let mut follower = Command::new(env!("CARGO_BIN_EXE_lus"))
        .args(["--lus-pool", &f.map_pool, "events", "1", "--follow", "-f", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<serde_json::Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next()["kind"], "leader");
    f.lus("set nomove").sentence();
    let flag = next();
    assert_eq!(
        (&flag["kind"], &flag["subject"], &flag["reason"]),
        (&json!("flag"), &json!("nomove"), &json!("set"))
    );
    drop(lines);
    // It ends when it has something to say and nobody reads it.
    f.lus("unset nomove").sentence();
    assert_eq!(follower.wait().unwrap().code(), Some(0));
}

#[test]
fn a_foreign_holder_is_fenced_when_told_to() {
    let f = Fixture::new();
    let image = format!("{IMAGES}/{}", unique("foreign"));
    f.lus(&format!("lu create {image} 64M")).sentence();
    f.lus("lu create null:x 64M").sentence();
    let takeover = |flag: &str| f.lus(&format!("lu takeover {image}{flag}"));
    let really = || takeover(" --yes-i-really-mean-it");
    assert_eq!(f.lus("lu takeover rbd/nosuch").failure(2), "Error ENOENT: no such logical unit rbd/nosuch");
    assert!(f.lus("lu takeover null:x").failure(22).contains("has no image"));
    assert_eq!(
        really().sentence(),
        format!("logical unit '{image}' is locked by nobody: nothing to take over")
    );

    let player = play(&f, &image);
    let addr = player.addr.as_str().to_owned();
    let blocklist = || f.mon(json!({"prefix": "osd blocklist ls", "format": "json"}));
    let listed = || String::from_utf8(blocklist()).unwrap().contains(&format!("\"{addr}\""));
    let warning = takeover("").failure(1).to_owned();
    assert!(
        warning.starts_with(&format!(
            "Error EPERM: WARNING: logical unit {image} is locked by FOREIGN client client."
        )) && warning.contains(&format!("({addr})")),
        "{warning}"
    );
    assert!(!listed(), "nobody is fenced");
    assert!(f.runtime.block_on(player.image.is_lock_owner()).unwrap());
    let step = || f.lus(&format!("lu info {image} -f json")).json()["step"].as_str().unwrap().to_owned();
    assert!(step().starts_with("no daemon is there to own it"), "{}", step());
    let a = f.register("a", "192.0.2.1:0/1", &[]);
    f.lead(&a);
    assert!(step().starts_with("waits for FOREIGN client client."), "{}", step());
    let health = f.lus("health detail").data().to_owned();
    assert!(
        health.contains(&format!("to take it over: lus lu takeover {image}\n"))
            && health.starts_with("HEALTH_ERR "),
        "{health}"
    );

    let said = really().sentence().to_owned();
    assert!(
        said.contains(&format!("({addr}) is on the blocklist now\nlus.a takes logical unit '{image}'")),
        "{said}"
    );
    assert!(listed());
    let told = f.lus("events 1 -f json").json()[0].clone();
    assert_eq!((&told["kind"], &told["subject"]), (&json!("fence"), &json!(addr)));
    assert!(told["who"].as_str().unwrap().starts_with("client.admin "), "{told}");
    let reason = told["reason"].as_str().unwrap();
    assert!(reason.ends_with(&format!(", not of LUS, had the lock of {image}: taken over")), "{reason}");
    // The OSD refuses it from the moment on at which it has that OSD map itself.
    let deadline = Instant::now() + Duration::from_secs(30);
    let failed = loop {
        match f.runtime.block_on(player.image.is_lock_owner()) {
            Err(error) => break error,
            Ok(_) => assert!(Instant::now() < deadline, "the fenced client goes on"),
        }
        f.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(50)).await });
    };
    assert!(failed.is_fenced(), "{failed}");
    assert!(step().starts_with("lus.a is to break the lock of client."), "{}", step());
    for again in [takeover(""), really()] {
        assert!(again.sentence().contains(&format!("({addr}) is already on the blocklist\n")), "{again:?}");
    }
    end(&f, player);
}

#[test]
fn a_fence_of_somebody_else_is_not_for_good() {
    let f = Fixture::new();
    let image = format!("{IMAGES}/{}", unique("short"));
    f.lus(&format!("lu create {image} 64M")).sentence();
    let player = play(&f, &image);
    f.mon(json!({"prefix": "osd blocklist", "blocklistop": "add", "addr": player.addr.as_str(), "expire": 600.0}));
    let said = f.lus(&format!("lu takeover {image} --yes-i-really-mean-it"));
    let way_out = format!("ceph osd blocklist rm {} && lus lu takeover {image} ", player.addr);
    assert!(said.failure(16).contains("was put on the blocklist by somebody else, until 2"), "{said:?}");
    assert!(said.stderr.contains(&way_out), "{said:?}");
    f.mon(json!({"prefix": "osd blocklist", "blocklistop": "rm", "addr": player.addr.as_str()}));
    let said = f.lus(&format!("lu takeover {image} --yes-i-really-mean-it"));
    assert!(said.sentence().contains("the next daemon that owns logical unit"), "{said:?}");
    end(&f, player);
}

#[test]
fn clients_of_lus_are_not_fenced() {
    let f = Fixture::new();
    let image = format!("{IMAGES}/{}", unique("own"));
    f.lus(&format!("lu create {image} 64M")).sentence();
    let player = play(&f, &image);
    f.register("a", "192.0.2.1:0/1", std::slice::from_ref(&player.addr));
    let said = f.lus(&format!("lu takeover {image} --yes-i-really-mean-it"));
    assert!(said.sentence().contains("is locked by lus.a, client."), "{said:?}");
    assert!(f.runtime.block_on(player.image.is_lock_owner()).unwrap());
    end(&f, player);
}
