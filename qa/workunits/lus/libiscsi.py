#!/usr/bin/python3 -Bs
"""What libiscsi's tools and library see of two disks, of 512 and of 4096-byte blocks.

- iscsi-ls finds the target and its LUNs with their sizes; INQUIRY and READ CAPACITY agree with what was made.
- Every VPD page that is announced is served, by its own number and length; one that is not is refused.
- The unmap granularity (page B0) agrees with the image's object size, and threshold sets (page B2) are what room is counted in.
- Serial and NAA survive a restart of the daemon: STAGE=before notes them in the images' metadata and leaves the disks, STAGE=after compares and removes them. The
  restart is between the two.

Environment: STAGE; DIGEST none (default) or header."""

import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import qa  # noqa: E402

TARGET = "libiscsi"
# Image -> size, iscsi-ls's word for it (it cuts off at the last block), bytes of a block.
DISKS = {"rbd/qa-512": ("256M", "255M", 512), "rbd/qa-4k": ("1G", "1023M", 4096)}
NOTE = "qa-identity"
# The pages that iscsi-inq 1.19 can show; it ends with an error for any other.
DECODED_BY_LIBISCSI = (0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2)
# Announced nowhere: vendor pages, and one of another device type.
UNANNOUNCED = (0x02, 0xC0, 0xFE)
INVALID_FIELD = "05/24/00"
# Bytes of a threshold set: the unit of log page 0Ch.
THRESHOLD_SET = 1 << 20


def probe(url, *commands):
    """The outcomes of single commands: {command: (outcome, data)}."""
    env = qa.digest_env() if qa.digest_wanted() else None
    lines = qa.run([qa.client("probe"), "--retry", 30, url, *commands], env=env).stdout.splitlines()
    words = [line.split() for line in lines]
    return {word[0]: (word[1], bytes.fromhex(word[2]) if len(word) > 2 else b"") for word in words}


def pages_of(url):
    """The announced VPD pages, {number: content}; each must be what it says it is."""
    outcome, listed = probe(url, "vpd:0")["vpd:0"]
    qa.require(outcome == "good", f"VPD page 00: {outcome}")
    numbers = list(listed[4:])
    qa.require(numbers == sorted(set(numbers)) and numbers[0] == 0, f"VPD page 00 lists {numbers}")
    answers = probe(url, *[f"vpd:{number}" for number in numbers])
    for number in numbers:
        outcome, page = answers[f"vpd:{number}"]
        qa.require(outcome == "good", f"VPD page {number:02x} is announced but answers {outcome}")
        qa.require(page[1] == number, f"VPD page {number:02x} says that it is {page[1]:02x}")
        length = int.from_bytes(page[2:4])
        qa.require(len(page) == 4 + length, f"VPD page {number:02x}: length {length}, but {len(page)} bytes came")
        if number in DECODED_BY_LIBISCSI:
            qa.run(["iscsi-inq", "-e", 1, "-c", number, url])
    return {number: answers[f"vpd:{number}"][1] for number in numbers}


def check_unannounced(url):
    for number in UNANNOUNCED:
        outcome, _ = probe(url, f"vpd:{number}")[f"vpd:{number}"]
        qa.require(outcome == INVALID_FIELD, f"VPD page {number:02x} is not announced but answers {outcome}, not {INVALID_FIELD}")


def designators(page):
    """Page 83: (association, type, code set, identifier) of each designator."""
    found, at = [], 4
    while at + 4 <= len(page):
        length = page[at + 3]
        found.append((page[at + 1] >> 4 & 3, page[at + 1] & 15, page[at] & 15, page[at + 4 : at + 4 + length]))
        at += 4 + length
    qa.require(at == len(page), "VPD page 83: a designator passes its end")
    return found


def identity(pages):
    """What a host knows the disk by: serial, and NAA names in hex."""
    serial = pages[0x80][4:].decode().strip()
    naa = [name for association, kind, _, name in designators(pages[0x83]) if (association, kind) == (0, 3)]
    qa.require(serial, "VPD page 80: the serial is empty")
    qa.require(naa and all(len(name) in (8, 16) for name in naa), f"VPD page 83: no good NAA designator: {naa}")
    return [serial, *(name.hex() for name in naa)]


def check_granularity(pages, block_size, object_size):
    """Pages B0 and B2 against the image."""
    limits, provisioning = pages[0xB0], pages[0xB2]
    granularity = int.from_bytes(limits[28:32]) * block_size
    qa.require(granularity == object_size, f"VPD page B0: optimal unmap granularity is {granularity} bytes, objects have {object_size}")
    alignment = int.from_bytes(limits[32:36])
    qa.require(alignment in (0, 1 << 31), f"VPD page B0: unmap granularity alignment {alignment:#x}; objects begin at 0")
    qa.require(provisioning[5] & 0x80, "VPD page B2: UNMAP is not announced (LBPU)")
    qa.require(provisioning[6] & 7 == 2, f"VPD page B2: provisioning type is {provisioning[6] & 7}, not 2 (thin)")
    threshold = (1 << provisioning[4]) * block_size
    qa.require(threshold == THRESHOLD_SET, f"VPD page B2: threshold sets of {threshold} bytes, not of {THRESHOLD_SET}")


def check_disk(cluster, image, block_size, url):
    """Capacity, pages and INQUIRY of one disk; its identity."""
    capacity = probe(url, "capacity")["capacity"][1]
    qa.require(int.from_bytes(capacity[8:12]) == block_size, f"{image}: blocks of {int.from_bytes(capacity[8:12])} bytes, not {block_size}")
    pages = pages_of(url)
    qa.require({0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2} <= pages.keys(), f"announced VPD pages: {[f'{page:02x}' for page in pages]}")
    check_unannounced(url)
    check_granularity(pages, block_size, cluster.rbd_json("info", image)["object_size"])
    inquiry = probe(url, "inquiry")["inquiry"][1]
    qa.require((inquiry[8:16], inquiry[16:32].rstrip()) == (b"CEPH    ", b"LUS"), f"INQUIRY: {inquiry[8:32]}")
    return identity(pages)


def check_iscsi_ls(portal, iqn, sizes):
    listed = qa.run(["iscsi-ls", "-s", f"iscsi://{portal}"]).stdout
    qa.require(f"Target:{iqn} Portal:{portal}," in listed, f"iscsi-ls does not list {iqn} at {portal}:\n{listed}")
    own = listed.split(f"Target:{iqn} ")[1].split("Target:")[0]
    for lun, size in sizes.items():
        line = next((line for line in own.splitlines() if line.startswith(f"Lun:{lun} ")), None)
        qa.require(line and "DIRECT_ACCESS" in line and f"(Size:{size})" in line, f"iscsi-ls: LUN {lun} of {size} is listed as {line}")


def before(cluster, target):
    """Makes the disks, checks them, and notes who they are."""
    target.remove()
    cluster.lus("target", "create", target.iqn, "--open")
    identities = []
    for image, (size, _, block_size) in DISKS.items():
        url = target.url(target.create(image, size, "--block-size", str(block_size)))
        identities.append(check_disk(cluster, image, block_size, url))
        cluster.rbd("image-meta", "set", image, NOTE, json.dumps(identities[-1]))
    qa.require(not set(identities[0]) & set(identities[1]), "two disks share their identity")
    check_iscsi_ls(cluster.portals[0], target.iqn, {lun: word for lun, (_, word, _) in enumerate(DISKS.values())})
    qa.say("iscsi-ls, INQUIRY, READ CAPACITY and all announced pages agree with what was made")


def after(cluster, target):
    """Compares with the notes."""
    for lun, (image, (_, _, block_size)) in enumerate(DISKS.items()):
        noted = json.loads(cluster.rbd("image-meta", "get", image, NOTE).stdout)
        now = check_disk(cluster, image, block_size, target.url(lun))
        qa.require(now == noted, f"{image}: serial and NAA were {noted}, are {now} after the restart")
    qa.say("serial and NAA are the same after the restart")


def main():
    cluster = qa.Cluster.given()
    target = qa.Target(cluster, f"{qa.IQN}:{TARGET}")
    stage = os.environ.get("STAGE")
    qa.require(stage in ("before", "after"), f"STAGE is {stage}; it must be before or after")
    stays = False
    try:
        before(cluster, target) if stage == "before" else after(cluster, target)
        stays = stage == "before"
    finally:
        if not stays:
            target.remove()


qa.run_check(main)
