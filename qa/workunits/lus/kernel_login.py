#!/usr/bin/python3 -Bs
"""Debian's kernel and open-iscsi log in: discovery at each portal, which lists those of its own family, IPv4 or IPv6; header and data digests, of which the kernel tells
what it agreed on; CHAP one way and mutual, of sessions and of discovery, refused with no secret, a wrong one, or by a target that does not know its own; several sessions
of one host, by one portal, by another family, and by another initiator name, with I/O through each at the same time.

Environment: none. Takes root where it runs (the image of the virtual machine is made once)."""

import ipaddress
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import guest  # noqa: E402
import qa  # noqa: E402

NAME, IMAGE, SIZE = "kernel-login", "rbd/qa-kernel-login", "32M"
OTHER, OTHER_INITIATOR = "second", f"{guest.INITIATOR}-2"
OF_HOST, OF_TARGET, OF_DISCOVERY, WRONG = "Secret-of-the-host", "secret/of@the.disk", "Secret-for-asking", "not-the-right-one"
ALGORITHMS = "SHA3-256,SHA256,SHA1,MD5"
# A share of the LU for each of four sessions.
SHARE_KIB = 2 << 10
DIGESTS = (("None", "None"), ("CRC32C", "None"), ("None", "CRC32C"), ("CRC32C", "CRC32C"))


def auth(cluster, *words, secrets=()):
    """`lus ... auth ...` with the secrets on stdin."""
    qa.run(["lus", *words, *(["-i", "-"] if secrets else [])], env=cluster.env, stdin="".join(f"{secret}\n" for secret in secrets))


def is_ipv6(portal):
    return portal.startswith("[")


def check_discovery(cluster, nodes):
    """Every portal lists the target at every portal of its own family, and at no other."""
    for node in nodes:
        found = set(re.findall(r"^(\S+),1 (\S+)$", node.discover(OTHER), re.M))
        wanted = {(portal, node.iqn) for portal in cluster.portals if is_ipv6(portal) == is_ipv6(node.portal)}
        qa.require(found == wanted, f"SendTargets at {node.portal} lists {sorted(found)}, and must list {sorted(wanted)}")
    qa.say(f"discovery at {' '.join(node.portal for node in nodes)}: each lists the target at the portals of its family")


def check_digests(node, pairs):
    """Pairs of digests. What is written through one session is read through the next, with other digests."""
    node.guest.do("head -c 1M /dev/urandom >/run/one")
    for number, (header, data) in enumerate(pairs):
        node.set({"node.conn[0].iscsi.HeaderDigest": header, "node.conn[0].iscsi.DataDigest": data})
        node.login()
        shown = node.guest.do("iscsiadm -m session -P 2")
        agreed = tuple(re.search(rf"{which}Digest: (\S+)", shown).group(1) for which in ("Header", "Data"))
        qa.require(agreed == (header, data), f"digests {header} and {data} were asked for, {agreed} agreed on")
        device = node.disk()
        # Of more than one PDU each way; and what the session before wrote.
        if number:
            node.guest.do(f"cmp -n 1M /run/one {device} && head -c 1M /dev/urandom >/run/one")
        node.guest.do(f"dd if=/run/one of={device} oflag=direct bs=256k status=none && dd if={device} iflag=direct bs=512k count=2 status=none | cmp - /run/one")
        node.logout()
    node.set({"node.conn[0].iscsi.HeaderDigest": "None,CRC32C", "node.conn[0].iscsi.DataDigest": "None"})
    qa.say(f"header and data digests by {node.portal}: {', '.join(map('+'.join, pairs))}")


def load(devices, *options):
    """fio on all of them at the same time. Each has a share of the LU: every block of it once, in random order, of the share's own seed, then read and compared."""
    shares = (f"--name={number} --filename={device} --offset={number * SHARE_KIB}k --randseed={number + 1}" for number, device in enumerate(devices))
    words = f"--direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite --bs=16k --size={SHARE_KIB}k --verify=crc32c --verify_fatal=1 --verify_state_save=0"
    return f"fio {' '.join((words, *options, *shares))}"


def check_sessions(node, by_ipv6, second):
    """Two sessions of one host by one portal, one by IPv6, and one of another initiator name, at once: four disks, which are one."""
    machine = node.guest
    node.set({"node.session.nr_sessions": "2"})
    before = len(machine.console())
    for each in (node, by_ipv6, second):
        each.login()
    devices = [*node.all_disks(2), by_ipv6.disk(), second.disk()]
    names = {machine.read(f"cat /sys/block/{device.removeprefix('/dev/')}/device/wwid").strip() for device in devices}
    qa.require(len(set(devices)) == 4 and len(names) == 1, f"four sessions have the disks {devices} with the names {names}")
    shown = machine.do("iscsiadm -m session -P 1")
    qa.require({guest.INITIATOR, OTHER_INITIATOR} == set(re.findall(r"Iface Initiatorname: (\S+)", shown)), f"the sessions are {shown}")
    # All of an IPv6 address is shown.
    address, _, port = by_ipv6.portal.rpartition(":")
    current = f"Current Portal: [{ipaddress.ip_address(address.strip('[]')).exploded}]:{port},1\n"
    qa.require(current in shown, f"none of the sessions has `{current}`: {shown}")
    # What each wrote is then read by the next.
    machine.do(f"{load(devices)}; {load(devices[1:] + devices[:1], '--verify_only')}")
    said = "\n".join(machine.console()[before:])
    qa.require("detected conn error" not in said, f"a session did not last: {said}")
    for each in (second, by_ipv6, node):
        each.logout()
    node.set({"node.session.nr_sessions": "1"})
    qa.say("four sessions, one by IPv6 and one of another initiator name, write to one disk at once, and each reads what another wrote")


def check_rights(cluster, target, node, second):
    """A host that is no longer listed does not get in."""
    cluster.lus("host", "rm", target.iqn, OTHER_INITIATOR)
    node.login()
    second.login(guest.AUTHENTICATION_FAILED)
    node.logout()
    qa.say("of two initiator names the one that is listed gets in")


def check_one_way(cluster, target, node):
    auth(cluster, "host", "auth", "set", target.iqn, guest.INITIATOR, "--chap-name", "host", secrets=[OF_HOST])
    node.login(guest.AUTHENTICATION_FAILED)
    node.set({"node.session.auth.authmethod": "CHAP", "node.session.auth.username": "host", "node.session.auth.password": WRONG})
    node.login(guest.AUTHENTICATION_FAILED)
    node.set({"node.session.auth.password": OF_HOST})
    for algorithms in (ALGORITHMS, "MD5"):
        node.set({"node.session.auth.chap_algs": algorithms})
        node.login()
        node.disk()
        node.logout()
    qa.say("CHAP one way: with the right secret, and with no other")


def check_mutual(cluster, target, node):
    auth(cluster, "host", "auth", "set", target.iqn, guest.INITIATOR, "--chap-name", "host", "--mutual", "--mutual-name", "disk", secrets=[OF_HOST, OF_TARGET])
    node.set({"node.session.auth.chap_algs": ALGORITHMS, "node.session.auth.username_in": "disk", "node.session.auth.password_in": WRONG})
    node.guest.fails(f"iscsiadm -m node -T {node.iqn} -p {node.portal} -I {node.iface} --login")
    node.set({"node.session.auth.password_in": OF_TARGET})
    node.login()
    node.disk()
    node.logout()
    qa.say("CHAP both ways: the host takes the target with the right secret, and with no other")


def check_discovery_secret(cluster, node):
    """Discovery by iscsid's own record of it."""
    machine, words = node.guest, f"iscsiadm -m discoverydb -t sendtargets -p {node.portal} -I {node.iface}"
    auth(cluster, "discovery", "auth", "set", "--chap-name", "asks", "--mutual", "--mutual-name", "answers", secrets=[OF_DISCOVERY, f"{OF_TARGET}-2"])
    machine.fails(f"{words} --discover", guest.AUTHENTICATION_FAILED)
    values = {"authmethod": "CHAP", "username": "asks", "password": WRONG, "username_in": "answers", "password_in": f"{OF_TARGET}-2"}
    for name, value in values.items():
        machine.do(f"{words} -o update -n discovery.sendtargets.auth.{name} -v {value}")
    machine.fails(f"{words} --discover", guest.AUTHENTICATION_FAILED)
    machine.do(f"{words} -o update -n discovery.sendtargets.auth.password -v {OF_DISCOVERY}")
    qa.require(node.iqn in machine.do(f"{words} --discover"), "discovery with the right secrets lists no target")
    machine.do(f"{words} -o update -n discovery.sendtargets.auth.password_in -v {WRONG}")
    machine.fails(f"{words} --discover")
    auth(cluster, "discovery", "auth", "rm")
    qa.say("discovery with its own secrets, both ways, and with no other")


def main():
    cluster = qa.Cluster.given()
    with cluster.target(NAME, [guest.INITIATOR, OTHER_INITIATOR]) as target, guest.initiator(ipv6=True) as machine:
        target.create(IMAGE, SIZE, lun=0)
        machine.do(f"iscsiadm -m iface -I {OTHER} -o new; iscsiadm -m iface -I {OTHER} -o update -n iface.initiatorname -v {OTHER_INITIATOR}")
        nodes = [guest.Node(machine, target.iqn, portal) for portal in cluster.portals]
        ipv4, ipv6 = ([node for node in nodes if is_ipv6(node.portal) == wanted] for wanted in (False, True))
        qa.require(len(ipv4) == len(ipv6) == 2, f"the portals are {cluster.portals}; this is for two of each family")
        node, second = ipv4[0], guest.Node(machine, target.iqn, ipv4[-1].portal, OTHER)
        check_discovery(cluster, nodes)
        check_digests(node, DIGESTS)
        check_digests(ipv6[0], DIGESTS[-1:])
        check_sessions(node, ipv6[-1], second)
        check_rights(cluster, target, node, second)
        check_one_way(cluster, target, node)
        check_mutual(cluster, target, node)
        check_discovery_secret(cluster, node)


qa.run_check(main)
