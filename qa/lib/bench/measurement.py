"""One measurement: a load on one side, and what it cost whom."""

import time

import qa
from relay import Relay

from bench import probe
from bench.rows import ROWS
from bench.sides import Side

# By Little's law the load had this many requests in flight (IOPS times mean latency); below this share of the depth it was not the row that was measured.
DEPTH_SHARE_MIN = 0.5
_PATIENCE_S = 10
# What a login settles that a figure depends on. Sides must agree on the first two; where they differ in others it is said.
_DIGESTS = ("HeaderDigest", "DataDigest")
_LOGIN = (*_DIGESTS, "InitialR2T", "ImmediateData", "MaxOutstandingR2T", "MaxBurstLength", "FirstBurstLength", "MaxRecvDataSegmentLength")


def agreed(made, load):
    """What each side with a portal and the load agree on at a login, read from the wire: name -> key -> value, None for what was not said (the RFC's default). qa.Failed
    where one side has to compute digests and another has not."""
    result = {}
    for side in made:
        if not side.portal:
            continue
        side.resume()
        with Relay(side.portal) as relay:
            load.prepare(ROWS[0], Side(f"{side.name} through a relay", side.pid, side.url.replace(side.portal, relay.portal)))
            result[side.name] = {key: relay.agreed(key) for key in _LOGIN}
        side.pause()
    for key in _LOGIN:
        values = {name: login[key] for name, login in result.items()}
        if len(set(values.values())) > 1:
            qa.require(key not in _DIGESTS, f"the sides do not compute the same digests: {key} is {values}")
            qa.say(f"the sides differ in {key}: {values}")
    return result


def measure(row, side, load, runtime, osds, watch=None):
    """Runs `row` on `side`; its figures, one value each (figures.METRICS, and what explains them). `osds`: pids of the OSDs. qa.Failed if it is not what the row says."""
    side.resume()
    try:
        return _measure(row, side, load, runtime, osds, watch)
    finally:
        side.pause()


def _measure(row, side, load, runtime, osds, watch):
    seen = {}

    def look(pid):
        target = side.pid or pid
        seen["threads"] = probe.threads(target)
        seen["connections"] = probe.connections(target, side.portal) if side.portal else 0
        if watch:
            watch(target)

    load.prepare(row, side)
    if side.portal:
        gone = lambda: probe.connections(side.pid, side.portal) == 0  # noqa: E731
        qa.await_true(f"{side.name} has no connection left of the load before", gone, _PATIENCE_S)
    before = _snapshot(side, osds)
    outcome = load.run(row, side, runtime, look)
    spent = {name: value - before[name] for name, value in _snapshot(side, osds).items()}
    job = outcome.job["write" if row.writes else "read"]
    ios, latency = job["total_ios"], job["lat_ns"]
    qa.require(ios > 0, f"{row.name} on {side.name}: no request ended")
    sessions = row.sessions if side.portal else 0
    qa.require(seen["connections"] == sessions, f"{row.name} on {side.name}: {seen['connections']} connections at {side.portal}, not {sessions}")
    depth = job["iops"] * latency["mean"] / 1e9
    wanted = row.depth * row.sessions
    qa.require(depth >= wanted * DEPTH_SHARE_MIN or wanted == 1, f"{row.name} on {side.name}: {depth:.1f} requests in flight in the mean, not {wanted}")
    cpu = spent["target"] if side.pid else outcome.cpu_s
    if side.polls:
        cpu *= job["runtime"] / 1e3 / spent["wall"]  # it polls while the load starts and ends, too
    others = spent["busy"] - spent["target"] - outcome.cpu_s - spent["osds"]
    return {
        "iops": job["iops"],
        "mb_per_s": job["bw_bytes"] / 1e6,
        "p50_us": latency["percentile"]["50.000000"] / 1e3,
        "p99_us": latency["percentile"]["99.000000"] / 1e3,
        "mean_us": latency["mean"] / 1e3,
        "cpu_us": cpu * 1e6 / ios,
        "fio_cpu_us": outcome.cpu_s * 1e6 / ios,
        "osd_cpu_us": spent["osds"] * 1e6 / ios if osds else None,
        "iops_per_core": ios / cpu,
        "steal_percent": spent["steal"] * 100 / spent["wall"],
        "other_percent": max(0.0, others) * 100 / spent["wall"],
        "ios": ios,
        "depth_mean": depth,
        "runtime_s": job["runtime"] / 1e3,
        "connections": seen["connections"],
        "threads": seen["threads"],
    }


def _snapshot(side, osds):
    busy, steal = probe.machine_seconds()
    target = probe.cpu_seconds(side.pid) if side.pid else 0.0
    return {"wall": time.monotonic(), "busy": busy, "steal": steal, "target": target, "osds": sum(map(probe.cpu_seconds, osds))}
