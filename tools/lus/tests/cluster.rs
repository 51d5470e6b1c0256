//! The whole program against a real cluster, without any daemon.

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use lus_map::{Fenced, Holder, LuId};
use lus_map_store::{MapWatch, WatchOptions};
use lusd_ceph::{CreateOptions, Features};
use serde_json::json;

use support::{Fixture, IMAGES, Player, play, rbd, run, unique};

const TARGET: &str = "iqn.2026-11.io.lus:test";
const HOST: &str = "iqn.1994-05.com.redhat:web1";
const OTHER: &str = "iqn.1994-05.com.redhat:web2";
const NO_DAEMON: &str = "no daemon is up: the first one that starts will own it";

#[test]
fn missing_pool_says_what_to_do() {
    let f = Fixture::without_pool();
    let pool = &f.map_pool;
    for line in ["status", "dump", "target ls", "target create iqn.2026-11.io.lus:x", "lu create ram:x 1G"] {
        assert_eq!(
            f.lus(line).failure(2),
            format!(
                "Error ENOENT: the pool of the LUS map, '{pool}', does not exist; create it with:\n    \
                 ceph osd pool create {pool} 16\n    ceph osd pool application enable {pool} lus"
            )
        );
    }
}

#[test]
fn nothing_yet() {
    let f = Fixture::new();
    assert!(f.lus("-s").data().contains("map:    none yet"));
    let status = f.lus("status -f json").json();
    assert_eq!(status["health"], json!({"status": "HEALTH_OK", "checks": {}}));
    assert_eq!(status["lusmap"]["epoch"], json!(null));
    for line in ["target ls", "lu ls", "daemon ls"] {
        assert_eq!(f.lus(line).data().lines().count(), 1, "{line}");
        assert_eq!(f.lus(&format!("{line} -f json")).data(), "[]\n", "{line}");
    }
    assert!(f.lus("dump").failure(2).starts_with("Error ENOENT: there is no LUS map yet"));
    assert!(f.lus("dump 1").failure(2).starts_with("Error ENOENT: there is no LUS map"));
    for line in ["target info", "target rm", "host ls", "lun ls"] {
        assert_eq!(
            f.lus(&format!("{line} {TARGET}")).failure(2),
            format!("Error ENOENT: no such target {TARGET}")
        );
    }
    for line in ["lu info rbd/x", "lu resize rbd/x 1G", "lu rm rbd/x"] {
        assert_eq!(f.lus(line).failure(2), "Error ENOENT: no such logical unit rbd/x");
    }
}

#[test]
fn targets_and_hosts() {
    let f = Fixture::new();
    assert_eq!(f.lus(&format!("target create {TARGET}")).sentence(), format!("target '{TARGET}' created"));
    assert_eq!(
        f.lus(&format!("target create {TARGET}")).sentence(),
        format!("target '{TARGET}' already exists")
    );
    assert!(f.lus(&format!("target create {TARGET} --open")).failure(17).starts_with("Error EEXIST: "));
    let upper = TARGET.to_uppercase();
    assert_eq!(
        f.lus(&format!("target create {upper}")).sentence(),
        format!("target '{TARGET}' already exists")
    );
    f.lus("target create iqn.2026-11.io.lus:open --open").sentence();
    assert_eq!(
        f.lus("target ls").data(),
        "TARGET                   ACCESS  HOSTS  LUNS\n\
         iqn.2026-11.io.lus:open  open        0     0\n\
         iqn.2026-11.io.lus:test  hosts       0     0\n"
    );

    let added = f.lus(&format!("host add {TARGET} {HOST}"));
    assert_eq!(added.sentence(), format!("host '{HOST}' added to target '{TARGET}'"));
    let again = f.lus(&format!("host add {TARGET} {HOST}"));
    assert_eq!(again.sentence(), format!("host '{HOST}' already exists in target '{TARGET}'"));
    assert!(f.lus(&format!("host add iqn.2026-11.io.lus:none {HOST}")).failure(2).contains("no such target"));
    let hosts = f.lus(&format!("host ls {TARGET} -f json")).json();
    assert_eq!((hosts[0]["host"].as_str(), hosts[0]["luns"].as_u64()), (Some(HOST), Some(0)));
    assert!(f.lus(&format!("host ls {TARGET}")).data().contains(HOST));
    let info = f.lus(&format!("target info {TARGET} -f json")).json();
    assert_eq!((&info["hosts"], &info["luns"], &info["open"]), (&json!([HOST]), &json!([]), &json!(false)));
    assert!(f.lus(&format!("target info {TARGET}")).data().contains(&format!("    host:     {HOST}\n")));

    let busy = f.lus(&format!("target rm {TARGET}"));
    assert!(busy.failure(16).ends_with("pass --yes-i-really-mean-it to remove them with it"), "{busy:?}");
    let removed = f.lus(&format!("host rm {TARGET} {HOST}"));
    assert_eq!(removed.sentence(), format!("host '{HOST}' removed from target '{TARGET}'"));
    assert!(f.lus(&format!("host rm {TARGET} {HOST}")).failure(2).contains("no such host"));
    assert_eq!(f.lus(&format!("target rm {TARGET}")).sentence(), format!("target '{TARGET}' removed"));
    assert!(f.lus(&format!("target rm {TARGET}")).failure(2).contains("no such target"));
}

#[test]
fn luns() {
    let f = Fixture::new();
    f.lus(&format!("target create {TARGET}")).sentence();
    f.lus(&format!("host add {TARGET} {HOST}")).sentence();
    for name in ["ram:a", "null:b", "ram:c"] {
        let said = f.lus(&format!("lu create {name} 64M"));
        assert_eq!(said.sentence(), format!("logical unit '{name}' created\n{NO_DAEMON}"));
    }
    let map = |rest: &str| f.lus(&format!("lun map {TARGET} {rest}"));
    let unmap = |rest: &str| f.lus(&format!("lun unmap {TARGET} {rest}"));
    let mapped = format!("logical unit 'ram:a' mapped as LUN 0 of target '{TARGET}'");
    assert_eq!(map("ram:a").sentence(), mapped);
    assert_eq!(map("ram:a").sentence(), "logical unit 'ram:a' already mapped as LUN 0");
    assert!(map("ram:a --lun 5").failure(17).contains("LUN 0"));
    map("null:b --lun 7").sentence();
    assert!(map("ram:c --lun 7").failure(17).contains("is taken by logical unit null:b"));
    assert!(map(&format!("ram:c --host {OTHER}")).failure(2).contains("no such host"));
    map(&format!("ram:c --host {HOST}")).sentence();
    assert!(map("ram:nosuch").failure(2).contains("no such logical unit ram:nosuch"));
    assert_eq!(
        f.lus(&format!("lun ls {TARGET} -f json")).data(),
        format!(
            "[{{\"lun\":0,\"lu\":\"ram:a\",\"host\":null}},{{\"lun\":1,\"lu\":\"ram:c\",\"host\":\"{HOST}\"}},\
             {{\"lun\":7,\"lu\":\"null:b\",\"host\":null}}]\n"
        )
    );
    assert_eq!(
        f.lus(&format!("lun ls {TARGET}")).data(),
        format!("LUN  LU      HOST\n  0  ram:a   *\n  1  ram:c   {HOST}\n  7  null:b  *\n")
    );
    assert!(f.lus(&format!("target info {TARGET}")).data().contains("  7  null:b  *\n"));
    let info = f.lus("lu info ram:a").data().to_owned();
    assert!(info.contains(&format!("mapped:      LUN 0 of target {TARGET}, every host\n")), "{info}");

    let busy = f.lus("lu rm ram:a");
    assert!(
        busy.failure(16).contains(&format!("mapped as 1 LUN, first as LUN 0 of target {TARGET}")),
        "{busy:?}"
    );
    assert!(f.lus("lu rm null:b").failure(16).starts_with("Error EBUSY: "));
    assert!(f.lus(&format!("host rm {TARGET} {HOST}")).failure(16).starts_with("Error EBUSY: "));
    assert_eq!(
        unmap("ram:a").sentence(),
        format!("logical unit 'ram:a' unmapped from LUN 0 of target '{TARGET}'")
    );
    assert_eq!(unmap("ram:a").code, 2);
    assert!(f.lus("lu rm ram:a").failure(1).contains("*PERMANENTLY DESTROY*"));
    assert_eq!(f.lus("lu rm ram:a --yes-i-really-mean-it").sentence(), "logical unit 'ram:a' removed");
    unmap("null:b --lun 7").sentence();
    assert_eq!(f.lus("lu rm null:b").sentence(), "logical unit 'null:b' removed");
    f.lus(&format!("target rm {TARGET} --yes-i-really-mean-it")).sentence();
    assert_eq!(f.lus("status -f json").json()["lusmap"]["num_luns"], 0);
    assert_eq!(f.lus("lu ls -f json").json().as_array().unwrap().len(), 1);
}

#[test]
fn history() {
    let f = Fixture::new();
    f.lus(&format!("target create {TARGET}")).sentence();
    f.lus("lu create null:x 1G").sentence();
    let now = f.lus("dump");
    assert_eq!(now.stderr, "dumped lus map epoch 3\n");
    for part in
        ["epoch 3\n", "fsid ", "created ", "modified ", "flags ", &format!("target {TARGET} closed\n")]
    {
        assert!(now.data().contains(part), "{part}: {now:?}");
    }
    let past = f.lus("dump 2 -f json").json();
    assert_eq!((&past["epoch"], past["targets"][0]["iqn"].as_str()), (&json!(2), Some(TARGET)));
    assert_eq!(past["lus"], json!([]));
    assert_eq!(f.lus("dump 3").stdout, now.stdout);
    for epoch in ["0", "4", "99999"] {
        let said = f.lus(&format!("dump {epoch}"));
        assert_eq!(said.failure(2), format!("Error ENOENT: there is no map for epoch {epoch}"));
    }
    let pretty = f.lus("dump -f json-pretty");
    assert!(pretty.data().starts_with("{\n    \"epoch\": 3,\n    \"fsid\": "), "{pretty:?}");
}

#[test]
fn images_are_created_and_removed() {
    let f = Fixture::new();
    let image = format!("{IMAGES}/{}", unique("image"));
    let said =
        f.lus(&format!("lu create {image} 64M --block-size 4096 --serial abc --vendor ACME --product Disk"));
    assert_eq!(said.sentence(), format!("logical unit '{image}' created\n{NO_DAEMON}"));
    assert!(rbd(&format!("info {image}")).contains("exclusive-lock"));
    let again = f.lus(&format!("lu create {image} 64M --block-size 4096"));
    assert_eq!(again.sentence(), format!("logical unit '{image}' already exists\n{NO_DAEMON}"));
    assert!(f.lus(&format!("lu create {image} 64M")).failure(17).contains("another block size"));
    assert!(
        f.lus(&format!("lu create {image} 65M --block-size 4096")).failure(17).contains("a size of 64 MiB")
    );

    let info = f.lus(&format!("lu info {image} -f json")).json();
    for (key, value) in [
        ("name", json!(image)),
        ("size_bytes", json!(64 << 20)),
        ("block_size", json!(4096)),
        ("serial", json!("abc")),
        ("vendor", json!("ACME")),
        ("product", json!("Disk")),
        ("state", json!("unplaced")),
        ("placement", json!(null)),
        ("record", json!(null)),
        ("lockers", json!([])),
    ] {
        assert_eq!(info[key], value, "{key}");
    }
    assert!(info["wwn"].as_str().is_some_and(|wwn| wwn.len() == 16 && wwn.starts_with('3')), "{info}");
    assert_eq!(info["image"]["object_size"], json!(4 << 20));
    let list = f.lus("lu ls -f json").json();
    assert_eq!(
        (&list[0]["name"], &list[0]["size_bytes"], &list[0]["state"]),
        (&json!(image), &json!(64 << 20), &json!("unplaced"))
    );
    assert!(f.lus("lu ls").data().contains("64 MiB   4096  -      unplaced     0\n"));
    let status = f.lus("-s").data().to_owned();
    assert!(
        status.contains("HEALTH_ERR\n            1 logical unit is without an owner that is up\n"),
        "{status}"
    );

    let resized = f.lus(&format!("lu resize {image} 128M"));
    assert_eq!(resized.sentence(), format!("logical unit '{image}' resized from 64 MiB to 128 MiB"));
    let same = f.lus(&format!("lu resize {image} 128M"));
    assert_eq!(same.sentence(), format!("logical unit '{image}' already has a size of 128 MiB"));
    let shrunk = f.lus(&format!("lu resize {image} 32M"));
    assert!(shrunk.failure(1).contains("*PERMANENTLY DESTROY*"), "{shrunk:?}");
    assert!(
        f.lus(&format!("lu resize {image} 4608B"))
            .failure(22)
            .contains("not a multiple of the block size 4096")
    );
    f.lus(&format!("lu resize {image} 32M --yes-i-really-mean-it")).sentence();
    assert!(rbd(&format!("info {image}")).contains("size 32 MiB"));

    assert!(f.lus(&format!("lu rm {image}")).failure(1).starts_with("Error EPERM: WARNING: "));
    assert_eq!(
        f.lus(&format!("lu rm {image} --keep-image")).sentence(),
        format!("logical unit '{image}' removed")
    );
    assert!(rbd(&format!("info {image}")).contains("size 32 MiB"));
    let exists = f.lus(&format!("lu create {image} 32M"));
    assert_eq!(
        exists.failure(17),
        format!("Error EEXIST: image {image} already exists; to offer it as it is: lus lu add {image}")
    );
    assert_eq!(
        f.lus(&format!("lu add {image}")).sentence(),
        format!("logical unit '{image}' added\n{NO_DAEMON}")
    );
    let again = f.lus(&format!("lu add {image}"));
    assert_eq!(again.sentence(), format!("logical unit '{image}' already exists\n{NO_DAEMON}"));
    let removed = f.lus(&format!("lu rm {image} --yes-i-really-mean-it"));
    assert_eq!(removed.sentence(), format!("logical unit '{image}' removed"));
    assert_eq!(run(Command::new("rbd").args(["info", &image])).code, 2);
    assert_eq!(f.lus("lu ls -f json").data(), "[]\n");
}

#[test]
fn volatile_units() {
    let f = Fixture::new();
    f.lus("lu create ram:x 64M").sentence();
    assert!(f.lus("lu create ram:x 64M").sentence().starts_with("logical unit 'ram:x' already exists"));
    assert!(f.lus("lu create ram:x 65M").failure(17).contains("another size"));
    assert!(f.lus("lu add ram:y").failure(22).contains("lus lu create ram:y SIZE"));
    assert!(f.lus("lu create ram:y 513B").failure(22).contains("not a multiple of the block size 512"));
    f.lus("lu resize ram:x 128M").sentence();
    assert!(f.lus("lu resize ram:x 64M").failure(1).contains("it has 128 MiB"));
    let info = f.lus("lu info ram:x -f json").json();
    assert_eq!((&info["size_bytes"], &info["image"]), (&json!(128 << 20), &json!(null)));
    f.lus("lu rm ram:x --yes-i-really-mean-it").sentence();
}

#[test]
fn identities_are_one_units_own() {
    let f = Fixture::new();
    f.lus("lu create null:a 1G --wwn 600144F0A1B2C3D4E5F60718293A4B5C --serial 1").sentence();
    let info = f.lus("lu info null:a -f json").json();
    assert_eq!(info["wwn"], "600144f0a1b2c3d4e5f60718293a4b5c");
    assert!(
        f.lus("lu create null:b 1G --wwn 600144f0a1b2c3d4e5f60718293a4b5c").failure(17).contains("null:a")
    );
    assert!(f.lus("lu create null:b 1G --serial 1").failure(17).contains("null:a"));
    assert!(f.lus("lu create null:b 1G --vendor TOOLONGVENDOR").failure(22).contains("vendor"));
    assert!(
        f.lus("lu create null:b 1G --wwn 12").failure(22).starts_with("Invalid command: invalid WWN '12'")
    );
}

#[test]
fn images_that_cannot_be_served_are_refused() {
    let f = Fixture::new();
    let pool = f.images();
    let name = unique("plain");
    let options = CreateOptions { features: Some(Features::LAYERING), ..CreateOptions::default() };
    f.runtime.block_on(pool.create_image(&name, 64 << 20, options)).unwrap();
    let image = format!("{IMAGES}/{name}");
    assert_eq!(
        f.lus(&format!("lu add {image}")).failure(22),
        format!(
            "Error EINVAL: image {image} lacks the feature exclusive-lock; enable it with: \
             rbd feature enable {image} exclusive-lock"
        )
    );
    rbd(&format!("feature enable {image} exclusive-lock"));
    assert!(f.lus(&format!("lu add {image} --block-size 4096")).sentence().contains("added"));
    f.lus(&format!("lu rm {image} --keep-image")).sentence();
    rbd(&format!("resize --size 33554944B --allow-shrink {image}"));
    assert!(f.lus(&format!("lu add {image} --block-size 4096")).failure(22).contains("not a multiple"));
    rbd(&format!("rm {image} --no-progress"));

    assert!(f.lus(&format!("lu add {image}")).failure(2).ends_with(&format!("lus lu create {image} SIZE")));
    assert_eq!(f.lus("lu add nosuchpool/x").failure(2), "Error ENOENT: unrecognized pool 'nosuchpool'");
    assert_eq!(f.lus("lu create nosuchpool/x 1G").failure(2), "Error ENOENT: unrecognized pool 'nosuchpool'");
    let said = f.lus(&format!("lu create {IMAGES}/nosuchns/x 64M"));
    assert_eq!(
        said.failure(2),
        format!(
            "Error ENOENT: no namespace 'nosuchns' in pool '{IMAGES}'; create it with: rbd namespace create {IMAGES}/nosuchns"
        )
    );
}

#[test]
fn namespaces() {
    let f = Fixture::new();
    let namespace = format!("{IMAGES}/{}", unique("ns"));
    rbd(&format!("namespace create {namespace}"));
    f.lus(&format!("lu create {namespace}/x 64M")).sentence();
    assert_eq!(f.lus("lu ls -f json").json()[0]["size_bytes"], 64 << 20);
    f.lus(&format!("lu rm {namespace}/x --yes-i-really-mean-it")).sentence();
    rbd(&format!("namespace remove {namespace}"));
}

#[test]
fn mirror_copies_are_refused() {
    let f = Fixture::new();
    let pool = unique("mirror");
    f.mon(json!({"prefix": "osd pool create", "pool": pool, "pg_num": 1, "size": 1, "yes_i_really_mean_it": true}));
    rbd(&format!("pool init {pool}"));
    rbd(&format!("mirror pool enable {pool} image"));
    rbd(&format!("create --size 64M {pool}/x"));
    rbd(&format!("mirror image enable {pool}/x snapshot"));
    rbd(&format!("mirror image demote {pool}/x"));
    let said = f.lus(&format!("lu add {pool}/x"));
    assert!(said.failure(30).ends_with(&format!("rbd mirror image promote {pool}/x")), "{said:?}");
    rbd(&format!("mirror image promote {pool}/x"));
    f.lus(&format!("lu add {pool}/x")).sentence();
    assert_eq!(f.lus(&format!("lu info {pool}/x -f json")).json()["image"]["mirroring"], "primary");
    rbd(&format!("rm {pool}/x --no-progress"));
    let delete = json!({"prefix": "osd pool delete", "pool": pool, "pool2": pool, "yes_i_really_really_mean_it": true});
    let _ = f.runtime.block_on(f.cluster().mon_command(delete.to_string()));
    let info = f.lus(&format!("lu info {pool}/x -f json")).json();
    assert!(info["image"]["error"].is_string(), "{info}");
    assert!(f.lus("-s").data().contains("1 logical unit without a readable image"));
}

#[test]
fn snapshots_keep_an_image() {
    let f = Fixture::new();
    let image = format!("{IMAGES}/{}", unique("snap"));
    f.lus(&format!("lu create {image} 64M")).sentence();
    rbd(&format!("snap create {image}@one --no-progress"));
    let said = f.lus(&format!("lu rm {image} --yes-i-really-mean-it"));
    assert!(said.failure(39).contains(&format!("rbd snap purge {image} && rbd rm {image}")), "{said:?}");
    rbd(&format!("snap purge {image} --no-progress"));
    rbd(&format!("rm {image} --no-progress"));
}

#[test]
fn caps_of_the_daemons_are_looked_at() {
    let f = Fixture::new();
    let id = unique("caps");
    let entity = format!("client.lus.{id}");
    let osd = format!("allow rwx pool={}", f.map_pool);
    f.mon(
        json!({"prefix": "auth get-or-create", "entity": entity, "caps": ["mon", "profile rbd", "osd", osd]}),
    );
    f.register(&id, "192.0.2.1:0/1", &[]);
    let image = format!("{IMAGES}/{}", unique("caps"));
    let said = f.lus(&format!("lu create {image} 64M"));
    assert_eq!(
        said.failure(13),
        format!(
            "Error EACCES: the capabilities of {entity} do not reach pool '{IMAGES}'; allow it with:\n    \
             ceph auth caps {entity} mon 'profile rbd' osd '{osd}, profile rbd pool={IMAGES}'\n\
             then restart the daemon: a running one keeps the capabilities it had when it connected"
        )
    );
    assert_eq!(run(Command::new("rbd").args(["info", &image])).code, 2, "no image was created");
    let wider = format!("{osd}, profile rbd pool={IMAGES}");
    f.mon(json!({"prefix": "auth caps", "entity": entity, "caps": ["mon", "profile rbd", "osd", wider]}));
    assert_eq!(
        f.lus(&format!("lu create {image} 64M")).sentence(),
        format!("logical unit '{image}' created")
    );
    f.lus(&format!("lu rm {image} --yes-i-really-mean-it")).sentence();
    f.mon(json!({"prefix": "auth rm", "entity": entity}));
}

#[test]
fn states_and_holders() {
    let f = Fixture::new();
    let image = format!("{IMAGES}/{}", unique("held"));
    f.lus(&format!("lu create {image} 64M")).sentence();
    let info = || f.lus(&format!("lu info {image} -f json")).json();
    let id: LuId = info()["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(info()["state"], "unplaced");

    let player = play(&f, &image);
    let addr = player.addr.clone();
    let held = info();
    assert_eq!(
        (&held["lockers"][0]["addr"], &held["lockers"][0]["daemon"]),
        (&json!(addr.as_str()), &json!(null))
    );
    assert!(f.lus(&format!("lu info {image}")).data().contains("lock:        FOREIGN client client."));
    assert!(f.lus("-s").data().contains("1 logical unit is locked by a client that is not of LUS"));
    let busy = f.lus(&format!("lu rm {image} --yes-i-really-mean-it"));
    assert!(busy.failure(16).contains("is in use by FOREIGN client"), "{busy:?}");
    assert_eq!(f.lus("lu ls -f json").json().as_array().unwrap().len(), 1, "it is still in the map");
    f.lus(&format!("lu rm {image} --keep-image")).sentence();
    let added = f.lus(&format!("lu add {image}"));
    assert!(added.sentence().contains(&format!("image {image} is in use by FOREIGN client")), "{added:?}");
    let id_before = id;
    let id: LuId = info()["id"].as_str().unwrap().parse().unwrap();
    assert_ne!(id, id_before);

    let (daemon, up_from) = f.register("a", "192.0.2.1:0/1", std::slice::from_ref(&addr));
    assert_eq!(info()["state"], "new");
    assert_eq!(info()["lockers"][0]["daemon"], "a");
    assert_eq!(
        f.lus("daemon ls").data(),
        format!(
            "ID  STATE  IN  LUS  UP_FROM  TPGT  PORTALS         VERSION  HOST\n\
             a   up     in    1  {up_from:>7}     1  192.0.2.1:3260  0.0.0    test\n"
        )
    );
    let holder = Holder { daemon: daemon.clone(), up_from, addr: addr.clone() };
    f.runtime.block_on(f.records().transition(&id, |record| record.claim(&holder))).unwrap();
    let serving = info();
    assert_eq!((&serving["state"], &serving["record"]["lu_epoch"]), (&json!("serving"), &json!(1)));
    assert!(f.lus("lu ls").data().contains("lus.a  serving"));
    f.lead(&(daemon.clone(), up_from));
    let status = f.lus("-s");
    assert!(status.data().contains("lusd: 1 daemon: 1 up (a), leader a\n"), "{status:?}");
    let silent = "HEALTH_WARN\n            1 of 1 daemon up in the map not answering\n    map:";
    assert!(status.data().contains(silent), "{status:?}");
    let resized = f.lus(&format!("lu resize {image} 96M"));
    assert_eq!(resized.sentence(), format!("logical unit '{image}' resized from 64 MiB to 96 MiB"));

    f.register("a", "192.0.2.1:0/2", &[]);
    assert_eq!(info()["state"], "lost");
    let fenced = Fenced { addr: addr.clone(), osd_epoch: 1 };
    let next = Holder { addr: "192.0.2.1:0/3".parse().unwrap(), ..holder };
    f.runtime.block_on(f.records().transition(&id, |record| record.take_over(&next, &fenced))).unwrap();
    assert_eq!(info()["record"]["lu_epoch"], 2);

    let Player { cluster, image: handle, .. } = player;
    f.runtime.block_on(async {
        handle.close().await.unwrap();
        cluster.shutdown().await;
    });
    f.lus(&format!("lu rm {image} --yes-i-really-mean-it")).sentence();
    assert!(f.runtime.block_on(f.records().read(&id)).unwrap().is_none(), "the record is gone with the unit");
}

#[test]
fn removal_waits_for_the_daemon() {
    let f = Fixture::new();
    let image = format!("{IMAGES}/{}", unique("wait"));
    f.lus(&format!("lu create {image} 64M")).sentence();
    let id: LuId = f.lus(&format!("lu info {image} -f json")).json()["id"].as_str().unwrap().parse().unwrap();
    let Player { cluster, image: handle, addr } = play(&f, &image);
    let (daemon, up_from) = f.register("a", "192.0.2.1:0/1", std::slice::from_ref(&addr));
    let holder = Holder { daemon, up_from, addr };
    f.runtime.block_on(f.records().transition(&id, |record| record.claim(&holder))).unwrap();

    f.lead(&(holder.daemon.clone(), up_from));
    const HOLDS_ON: Duration = Duration::from_secs(2);
    let (store, records) = (f.store(), f.records());
    let watch = f.runtime.block_on(MapWatch::start(store, WatchOptions::default())).unwrap();
    assert!(f.lus("-s").data().contains("HEALTH_OK"));
    let letting_go = f.runtime.spawn(async move {
        let mut maps = watch.maps();
        maps.wait_for(|map| map.lu(&id).is_none()).await.unwrap();
        tokio::time::sleep(HOLDS_ON).await;
        records.transition(&id, |record| record.release(&holder)).await.unwrap();
        handle.close().await.unwrap();
        cluster.shutdown().await;
    });
    let began = Instant::now();
    let said = f.lus(&format!("lu rm {image} --yes-i-really-mean-it"));
    assert_eq!(said.sentence(), format!("logical unit '{image}' removed"));
    assert!(began.elapsed() >= HOLDS_ON, "it waited");
    f.runtime.block_on(letting_go).unwrap();
    assert_eq!(run(Command::new("rbd").args(["info", &image])).code, 2);
    assert!(f.runtime.block_on(f.records().read(&id)).unwrap().is_none());
}

#[test]
fn removal_outlasts_a_holder_that_nobody_hears() {
    let f = Fixture::new();
    let image = format!("{IMAGES}/{}", unique("silent"));
    f.lus(&format!("lu create {image} 64M")).sentence();
    let id: LuId = f.lus(&format!("lu info {image} -f json")).json()["id"].as_str().unwrap().parse().unwrap();
    let Player { cluster, image: handle, addr } = play(&f, &image);
    let (daemon, up_from) = f.register("a", "192.0.2.1:0/1", std::slice::from_ref(&addr));
    let holder = Holder { daemon, up_from, addr };
    f.runtime.block_on(f.records().transition(&id, |record| record.claim(&holder))).unwrap();
    // It holds on for a while, as the image's watch of a dead client does.
    let letting_go = f.runtime.spawn(async move {
        tokio::time::sleep(Duration::from_secs(3)).await;
        handle.close().await.unwrap();
        cluster.shutdown().await;
    });
    f.lus(&format!("lu rm {image} --yes-i-really-mean-it")).sentence();
    f.runtime.block_on(letting_go).unwrap();
    assert_eq!(run(Command::new("rbd").args(["info", &image])).code, 2);
}

#[test]
fn many_commands_at_once_all_succeed() {
    let f = Fixture::new();
    f.lus(&format!("target create {TARGET}")).sentence();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let f = &f;
            scope.spawn(move || {
                f.lus(&format!("lu create null:{n} 1G")).sentence();
                f.lus(&format!("lun map {TARGET} null:{n}")).sentence();
            });
        }
    });
    let luns = f.lus(&format!("lun ls {TARGET} -f json")).json();
    let numbers: Vec<u64> = luns.as_array().unwrap().iter().map(|lun| lun["lun"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..8).collect::<Vec<_>>());
}

#[test]
fn ways_to_connect() {
    let f = Fixture::new();
    let exe = env!("CARGO_BIN_EXE_lus");
    let conf = std::env::var("CEPH_CONF").unwrap();
    let keyring = f.cluster().conf_get("keyring").unwrap();
    let bare = || {
        let mut command = Command::new(exe);
        command.env_remove("CEPH_CONF").env_remove("CEPH_ARGS").env("LUS_POOL", &f.map_pool);
        command
    };
    let name = f.cluster().name().to_owned();
    assert_eq!(run(bare().args(["-c", &conf, "-n", &name, "-k", &keyring, "target", "ls"])).code, 0);
    let id = name.strip_prefix("client.").unwrap();
    assert_eq!(
        run(bare().args(["target", "ls", "--conf", &conf, "--id", id, "--keyring", &keyring])).code,
        0
    );
    assert_eq!(run(bare().env("CEPH_CONF", &conf).args(["-k", &keyring, "target", "ls"])).code, 0);

    let missing = run(bare().args(["-c", "/nonexistent/ceph.conf", "target", "ls"]));
    assert!(
        missing.failure(2).starts_with("Error ENOENT: cannot connect to the cluster as client.admin"),
        "{missing:?}"
    );
    let stranger = run(bare().args(["-c", &conf, "-k", &keyring, "--id", "nosuch", "target", "ls"]));
    assert!(stranger.code != 0 && stranger.stderr.starts_with("Error E"), "{stranger:?}");
    let began = Instant::now();
    let nobody = tempfile_conf("mon_host = 127.0.0.1:1\nfsid = 00000000-0000-0000-0000-000000000001\n");
    let lost = run(bare().args(["-c", &nobody, "-k", &keyring, "--connect-timeout", "2", "target", "ls"]));
    assert!(lost.failure(110).contains("no monitor answered"), "{lost:?}");
    assert!(began.elapsed() < Duration::from_secs(20));
    let _ = std::fs::remove_file(nobody);
}

fn tempfile_conf(global: &str) -> String {
    let path = std::env::temp_dir().join(unique("conf"));
    std::fs::write(&path, format!("[global]\n{global}")).unwrap();
    path.to_str().unwrap().to_owned()
}
