#!/usr/bin/python3 -Bs
"""sg3-utils and blkdiscard of a Debian host, on a disk of the kernel's initiator.

- Identity: INQUIRY, every announced page (and one that is not), capacity, LUNs, port groups, operation codes, mode and log pages agree with each other, with the
  kernel and with what `lus lu info` says.
- Blocks, of 512 and of 4096 bytes: a file in the guest is changed with each command as the disk must be, and both are compared, all of it, after each: reads and writes by each CDB
  length, COMPARE AND WRITE, WRITE SAME, UNMAP, EXTENDED COPY, ORWRITE, WRITE ATOMIC, WRITE AND VERIFY, VERIFY, blkdiscard, SANITIZE; resets with writes in flight.
- Reservations between two initiator names: register, reserve, conflict, a registration that outlives its session, preempt, clear.

Environment: none. Takes root where it runs (the image of the virtual machine is made once)."""

import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import guest  # noqa: E402
import qa  # noqa: E402

NAME, IMAGE = "kernel-commands", "rbd/qa-kernel-1"
# Image and bytes of a block of each LUN.
DISKS = ((IMAGE, 512), ("rbd/qa-kernel-2", 512), ("rbd/qa-kernel-4k", 4096))
SECOND, SECOND_INITIATOR = "second", f"{guest.INITIATOR}-2"
# A small disk of several objects: all of it is read after each command.
MIB, OBJECT_KIB = 4, 1024
# What sg3-utils exit with: sg3_utils(8).
ILLEGAL_REQUEST, MISCOMPARE, OUT_OF_RANGE, CONFLICT = 5, 14, 22, 24
PAGES = {"00", "80", "83", "86", "87", "88", "8f", "b0", "b1", "b2"}
COMMANDS = (
    "Read(16)", "Write(16)", "Compare and write", "Persistent reserve out, preempt and abort", "Extended copy(LID1)", "Sanitize, block erase", "Unmap",
    "Write same(16)", "Get LBA status(16)", "Report target port groups", "Orwrite(16)", "Write atomic(16)", "Format Unit",
)  # fmt: skip
TIMEOUT = "recommended timeout: 60 secs"


def check_inquiry(cluster, machine, device):
    info = cluster.lus_json("lu", "info", IMAGE)
    shown = machine.do(f"sg_inq {device}")
    for words in ("Vendor identification: CEPH", "Product identification: LUS", f"Unit serial number: {info['serial']}", "TPGS=1", "3PC=1", "CmdQue=1"):
        qa.require(words in shown, f"sg_inq does not say {words}: {shown}")
    pages = machine.read(f"sg_vpd -p sv -r {device} | od -An -v -tx1").split()
    pages = pages[4 : 4 + int(pages[3], 16)]
    qa.require(set(pages) >= PAGES and pages == sorted(set(pages)), f"the pages are {pages}, and must be {sorted(PAGES)} at least")
    listed = machine.read(f"for p in {' '.join(pages)}; do sg_vpd --page=0x$p {device} >/dev/null; sg_vpd --page=0x$p -r {device} | od -An -v -w65536 -tx1; done").splitlines()
    for page, words in zip(pages, map(str.split, listed), strict=True):
        qa.require(words[1] == page and int(words[2] + words[3], 16) == len(words) - 4, f"page {page} is {words}")
    machine.fails(f"sg_vpd --force --page=0xfe {device}", ILLEGAL_REQUEST)
    known = f"/sys/block/{device.removeprefix('/dev/')}/device"
    machine.do(f"for p in 80 83; do sg_vpd --page=0x$p -r {device} | cmp - {known}/vpd_pg$p; done")
    identity = machine.do(f"sg_vpd -p di {device}")
    qa.require(f"0x{info['wwn']}" in identity and f"Target port group: {port_group(machine, device)}\n" in identity, f"page 83 is {identity}")
    qa.say(f"INQUIRY and the pages {' '.join(pages)}: the disk is who lus says it is")


def port_group(machine, device):
    """The id of the active group."""
    groups = re.findall(r"target port group id : (\S+) .*\n.*\((active/optimized)\)", machine.do(f"sg_rtpg -d {device}"))
    qa.require(len(groups) == 1, f"sg_rtpg: the groups are {groups}")
    return groups[0][0]


def check_parameters(twin):
    """LUNs, codes, mode and log pages."""
    machine, device = twin.machine, twin.device
    luns = [line.split() for line in machine.read(f"for s in 0 1 2; do echo $(sg_luns -q -s $s {device}); done").splitlines()]
    own, known = [f"{lun:04}" + "0" * 12 for lun in range(len(DISKS))], ["c101" + "0" * 12]
    qa.require(luns == [own, known, own + known], f"sg_luns: {luns}")
    codes = machine.do(f"sg_opcodes -n {device}")
    missing = [name for name in COMMANDS if not re.search(rf" {re.escape(name)}$", codes, re.M)]
    qa.require(not missing, f"sg_opcodes does not list {missing}: {codes}")
    one = machine.do(f"sg_opcodes --rctd --opcode=0x89 {device}; sg_opcodes --opcode=0x02 {device}")
    qa.require("Command is supported" in one and TIMEOUT in one and "Command is NOT supported" in one, f"sg_opcodes of one command: {one}")
    functions = machine.do(f"sg_opcodes --tmf {device}")
    qa.require("Abort task\n" in functions and "Logical unit reset" in functions, f"sg_opcodes --tmf: {functions}")
    modes = machine.do(f"sg_modes -a {device}; sg_modes -6 -p 8 {device}")
    qa.require(all(words in modes for words in ("Caching", "Control", "Informational exceptions", "WP=0, DpoFua=1")), f"sg_modes: {modes}")
    logs = machine.do(f"sg_logs -A {device}")
    qa.require("Informational Exceptions page" in logs, f"sg_logs: {logs}")
    words = ("sg_turs -n 3", "sg_requests", "sg_senddiag --test", "sg_start --start", "sg_prevent --prevent=0", "sg_sync", *(f"sg_seek --pre-fetch {ten} --lba={twin.blocks - 8} --num-blocks=8" for ten in ("", "--10")))
    machine.do("".join(f"{command} {device};" for command in words))
    # It exits with 0.
    qa.require("Invalid opcode" in machine.do(f"sg_stpg --standby {device} 2>&1"), "a host may set the state of port groups")
    qa.say("LUNs, operation codes, functions, mode and log pages")


class Twin:
    """A disk, with blocks of this many bytes, and the file that it must equal."""

    FILE = "/run/twin"
    DIFFERENT = 99

    def __init__(self, machine, device, block):
        self.machine, self.device, self.block = machine, device, block
        # Of the disk, and of an object.
        self.blocks, self.object = self.of_kib(MIB << 10), self.of_kib(OBJECT_KIB)
        self.compare = f"dd if={device} iflag=direct bs=1M status=none | cmp - {self.FILE} || exit {self.DIFFERENT}"

    def of_kib(self, kib):
        """In blocks."""
        return (kib << 10) // self.block

    def prove(self):
        """One wrong block is found, here the last."""
        last = self.blocks - 1
        said = self.machine.fails(f"dd if=/dev/zero of={self.device} bs={self.block} seek={last} count=1 oflag=direct status=none; {self.compare}", self.DIFFERENT)
        qa.require(f"byte {last * self.block + 1}," in said, f"block {last} of the disk is wrong, and cmp says {said}")
        self.machine.do(f"dd if={self.FILE} of={self.device} bs={self.block} skip={last} seek={last} count=1 oflag=direct status=none")

    def step(self, what, command, change=":", status=0):
        """A command on the disk ($d, of blocks of $b bytes), which ends with this status; the same on the file ($t, by `put` and `zero`); then all of both is compared."""
        # One call: to begin one takes longer than most commands.
        code, said, _ = self.machine.status(
            f"d={self.device} t={self.FILE} b={self.block}; put() {{ dd if=$1 of=$t bs=$b seek=$2 conv=notrunc status=none; }};"
            " zero() { dd if=/dev/zero of=$t bs=$b seek=$1 count=$2 conv=notrunc status=none; };"
            f" set +e; (set -e; {command}) >/run/said 2>&1; c=$?; set -e;"
            # sg_compare_and_write exits with 0 where its connection broke (sg3-utils 1.46).
            f" [ $c = {status} ] && ! grep -q Host_status= /run/said || {{ cat /run/said; echo exit status $c, not {status}; exit 1; }}; {change}; {self.compare}"
        )
        if code == self.DIFFERENT:
            raise qa.Failed(f"after {what} the disk is not what it must be: {said}")
        qa.require(code == 0, f"{what}: {command}\n{said}")


def check_limits(twin):
    """Capacity, and the pages about blocks and their provisioning."""
    capacity = twin.machine.do(f"sg_readcap --16 {twin.device}; sg_readcap {twin.device}; blockdev --getss --getsize64 {twin.device}")
    wanted = (f"Last LBA={twin.blocks - 1} ", f"ogical block length={twin.block} bytes")
    qa.require(all(capacity.count(words) == 2 for words in wanted) and "lbpme=1, lbprz=1" in capacity, f"sg_readcap: {capacity}")
    qa.require(capacity.endswith(f"\n{twin.block}\n{MIB << 20}\n"), f"the kernel has the block and the size {capacity}")
    limits = twin.machine.do(f"sg_vpd -p bl {twin.device}")
    qa.require(f"Optimal unmap granularity: {twin.object} blocks" in limits, f"objects have {twin.object} blocks, and page b0 is {limits}")
    provisioning = twin.machine.do(f"sg_vpd -p lbpv {twin.device}")
    for words in ("(LBPU): 1", "(LBPWS): 1", "(LBPWS10): 1", "(LBPRZ): 1", "Provisioning type: 2"):
        qa.require(words in provisioning, f"page b2 does not say {words}: {provisioning}")
    qa.say(f"{twin.blocks} blocks of {twin.block} bytes, {twin.object} of them in an object")


def check_reads_and_writes(twin):
    """Each CDB length that Linux may send. The files `a` and `b` have 8 blocks each, `ff` and `one` have one."""
    some = 8 * twin.block
    twin.machine.do(
        f"head -c {MIB}M /dev/urandom >{Twin.FILE}; for f in a b; do head -c {some} /dev/urandom >/run/$f; done; head -c {twin.block} /run/a >/run/one; printf '\\377%.0s' $(seq {twin.block}) >/run/ff"
    )
    twin.step("WRITE (10)", f"sg_dd if=$t of=$d bs=$b bpt={twin.of_kib(256)} cdbsz=10")
    twin.prove()
    for length in (6, 12, 16):
        twin.step(f"WRITE and READ ({length})", f"sg_dd if=/run/a of=$d bs=$b seek={length} cdbsz={length} && sg_dd if=$d of=/run/back bs=$b skip={length} count=8 cdbsz={length} && cmp /run/a /run/back", f"put /run/a {length}")
    twin.step("WRITE (16) with FUA and DPO", f"sg_dd if=/run/b of=$d bs=$b seek={twin.blocks - 8} cdbsz=16 oflag=fua,dpo", f"put /run/b {twin.blocks - 8}")
    twin.step("a write beyond the end", f"sg_write_x --normal --in=/run/a --lba={twin.blocks - 4} --num=8 $d", status=OUT_OF_RANGE)
    qa.say("READ and WRITE by CDBs of each length")


def check_compound(twin):
    """COMPARE AND WRITE and its like."""
    some, third, within = 8 * twin.block, twin.object // 3, twin.object * 3 // 2
    compare = f"sg_compare_and_write --in=/run/caw --lba={third} --num=8 --xferlen={2 * some} $d"
    twin.step("COMPARE AND WRITE", f"dd if=$t of=/run/old bs=$b skip={third} count=8 status=none; cat /run/old /run/a >/run/caw; {compare}", f"put /run/a {third}")
    twin.step("a COMPARE AND WRITE of what is not there", compare, status=MISCOMPARE)
    twin.step("ORWRITE", f"sg_write_x --or --in=/run/ff --lba={within} --num=1 $d", f"put /run/ff {within}")
    twin.step("WRITE ATOMIC", f"sg_write_x --atomic=0 --in=/run/a --lba={twin.object - 8} --num=8 $d", f"put /run/a {twin.object - 8}")
    twin.step("a WRITE ATOMIC into two objects", f"sg_write_x --atomic=0 --in=/run/b --lba={twin.object - 4} --num=8 $d", status=ILLEGAL_REQUEST)
    odd = 2 * twin.object - 95
    for words in ("", "--16"):
        twin.step("WRITE AND VERIFY", f"sg_write_verify {words} --in=/run/b --lba={odd} --num=8 $d", f"put /run/b {odd}")
    twin.step("VERIFY", f"sg_verify --lba=0 --count=128 $d && sg_verify --16 --lba={odd} --count=8 --ndo={some} --in=/run/b $d")
    twin.step("a VERIFY of what is not there", f"sg_verify --lba={odd} --count=8 --ndo={some} --in=/run/a $d", status=MISCOMPARE)
    qa.say("COMPARE AND WRITE, ORWRITE, WRITE ATOMIC, WRITE AND VERIFY, VERIFY, and two miscompares")


def check_provisioning(twin):
    """WRITE SAME, UNMAP, what they say about it, and blkdiscard."""
    whole = twin.object
    tenth, fifth, quarter, half = (whole // part for part in (10, 5, 4, 2))
    twin.step("WRITE SAME (10)", f"sg_write_same --10 --in=/run/one --lba={tenth} --num=16 $d", f"cat /run/one{{,,,,,,,,,,,,,,,}} >/run/x; put /run/x {tenth}")
    twin.step("WRITE SAME (16) without data", f"sg_write_same --16 --ndob --lba={quarter} --num={tenth} $d", f"zero {quarter} {tenth}")
    twin.step("WRITE SAME (16) with UNMAP", f"sg_write_same --16 --unmap --lba={whole - 10} --num={fifth} $d", f"zero {whole - 10} {fifth}")
    twin.step("UNMAP", f"sg_unmap --lba={half},{2 * whole} --num=10,{whole} --force $d", f"zero {half} 10; zero {2 * whole} {whole}")
    states = re.findall(r"LBA: 0x([0-9a-f]+)\s+blocks:\s+(\d+)\s+(\S.*)$", twin.machine.do(f"sg_get_lba_status --lba=0 --maxlen=512 {twin.device}"), re.M)
    states = [(int(lba, 16), int(blocks), state.split()[0]) for lba, blocks, state in states]
    wanted = [(0, 2 * whole, "mapped"), (2 * whole, whole, "deallocated"), (3 * whole, whole, "mapped")]
    qa.require(states == wanted, f"GET LBA STATUS says {states}, and must say {wanted}")
    twin.step("blkdiscard of a range", "blkdiscard -o 512k -l 1280k $d", f"zero {twin.of_kib(512)} {twin.of_kib(1280)}")
    twin.step("blkdiscard -z of a range", "blkdiscard -z -o 3M -l 64k $d", f"zero {twin.of_kib(3 << 10)} {twin.of_kib(64)}")
    qa.say("WRITE SAME, UNMAP, GET LBA STATUS, blkdiscard")


def check_copy(twin):
    """EXTENDED COPY within the disk, over the end of an object."""
    begin, end, count = twin.object // 10, 3 * twin.object - twin.object // 10, twin.object // 3
    twin.step("EXTENDED COPY", f"sg_xcopy if=$d skip={begin} of=$d seek={end} count={count} bs=$b", f"dd if=$t of=/run/x bs=$b skip={begin} count={count} status=none; put /run/x {end}")
    qa.say("EXTENDED COPY within the disk")


def check_copy_between(twin, other):
    """EXTENDED COPY to another disk."""
    count = 5 * twin.object // 2
    twin.machine.do(
        f"sg_xcopy if={twin.device} of={other} count={count} bs={twin.block} >/dev/null 2>&1; dd if={other} iflag=direct bs={twin.block} count={count} status=none | cmp -n {count * twin.block} - {Twin.FILE}"
    )
    qa.say("EXTENDED COPY to another disk")


def check_resets(machine, twin):
    """Task management with writes in flight: the kernel sends the lost ones again."""
    before = len(machine.console())
    for which, what in (("-d", "LOGICAL UNIT RESET"), ("-t", "TARGET RESET")):
        twin.step(
            what,
            f"head -c 4M /dev/urandom >/run/x; dd if=/run/x of=$d bs=64k oflag=direct status=none & sleep 0.1; sg_reset {which} $d; wait $!",
            "put /run/x 0",
        )
    said = "\n".join(machine.console()[before:])
    qa.require("I/O error" not in said and "device reset occurred" in said, f"the kernel's words on resets are {said}")
    qa.say("resets of the LU and the target, with writes in flight")


def check_sanitize(twin):
    twin.step("SANITIZE, overwrite", "sg_sanitize --overwrite --pattern=/run/one --ipl=$b --quick --wait $d", f"{{ yes /run/one || true; }} | head -{twin.blocks} | xargs cat >$t")
    twin.step("SANITIZE, block erase", "sg_sanitize --block --quick --wait $d", f"zero 0 {twin.blocks}")
    twin.step("WRITE after it", "sg_dd if=/run/a of=$d bs=$b seek=77", "put /run/a 77")
    twin.step("FORMAT UNIT", "sg_format --format --quick --wait $d", f"zero 0 {twin.blocks}")
    twin.step("WRITE after it", "sg_dd if=/run/a of=$d bs=$b seek=99", "put /run/a 99")
    twin.step("blkdiscard of all", "blkdiscard $d", f"zero 0 {twin.blocks}")
    qa.say("SANITIZE by overwrite and block erase, FORMAT UNIT, and blkdiscard of all: zeroes, and writable")


def check_reservations(machine, node, second):
    """Write exclusive, then exclusive access; a and b are one disk by two I_T nexuses."""
    prelude = f"a={node.disk()} b={second.disk()}; p='sg_persist --no-inquiry'; w='dd if=/run/a bs=4k count=1 oflag=direct status=none' r='dd of=/dev/null bs=4k count=1 iflag=direct status=none'; "
    machine.do(
        prelude + "$p -o -G -S 0xa $a; $p -o -G -S 0xb $b; $p -i -k $a | grep -q 0xb; $p -o -R -K 0xa -T 1 $a;"
        " $p -i -r $b | grep -q 'Key=0xa'; $p -i -s $b | grep -q 'Write Exclusive'; $p -i -c $b | grep -q 'Persist Through Power Loss Capable(PTPL_C): 1'; $w of=$a; $r if=$b"
    )
    machine.fails(prelude + "$w of=$b")
    machine.fails(prelude + "$p -o -R -K 0xb -T 1 $b", CONFLICT)
    machine.fails(prelude + "$p -o -G -K 0xbad -S 0xc $b", CONFLICT)
    node.logout()
    machine.fails(prelude + "$w of=$b")
    machine.do(prelude + "$p -o -P -K 0xb -S 0xa -T 3 $b; $p -i -r $b | grep -q 'Key=0xb'; $w of=$b")
    node.login()
    prelude = f"a={node.disk()} b={second.disk()}; " + prelude.partition("; ")[2]
    machine.fails(prelude + "$r if=$a")
    machine.fails(prelude + "$w of=$a")
    machine.do(prelude + "$p -o -C -K 0xb $b; $p -i -k $b | grep -q 'NO registered reservation keys'; $p -i -k $a >/dev/null; $w of=$a; $r if=$a")
    qa.say("persistent reservations: register, reserve, conflict, a holder that logs out, preempt, clear")


def check_blocks(twin):
    """Everything that reads or changes blocks."""
    check_limits(twin)
    check_reads_and_writes(twin)
    check_compound(twin)
    check_provisioning(twin)
    check_copy(twin)


def main():
    cluster = qa.Cluster.given()
    with cluster.target(NAME) as target, guest.initiator() as machine:
        for lun, (image, block) in enumerate(DISKS):
            cluster.rbd("rm", "--no-progress", image, check=False)
            cluster.rbd("create", "--size", f"{MIB}M", "--object-size", f"{OBJECT_KIB}K", image)
            target.add(image, "--block-size", str(block), lun=lun)
        machine.do(f"iscsiadm -m iface -I {SECOND} -o new; iscsiadm -m iface -I {SECOND} -o update -n iface.initiatorname -v {SECOND_INITIATOR}")
        node, second = (guest.Node(machine, target.iqn, cluster.portals[0], iface) for iface in ("default", SECOND))
        node.discover(SECOND)
        node.login()
        twin, large = (Twin(machine, node.disk(lun), DISKS[lun][1]) for lun in (0, 2))
        check_inquiry(cluster, machine, twin.device)
        check_parameters(twin)
        check_blocks(twin)
        check_copy_between(twin, node.disk(1))
        check_resets(machine, twin)
        check_sanitize(twin)
        check_blocks(large)
        check_sanitize(large)
        second.login()
        check_reservations(machine, node, second)
        second.logout()
        node.logout()


qa.run_check(main)
