"""The command line of qa/vm."""

import argparse
import pathlib
import signal
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from vm import agent, machine  # noqa: E402  isort: skip  it makes the tools' modules known
from vm.image import bootable, image  # noqa: E402
import packages  # noqa: E402
import ui  # noqa: E402

PROGRAM = "qa/vm"
EXIT_BROKEN = 125

ABOUT = """\
A Linux host with Debian's own kernel, open-iscsi, multipath-tools, sg3-utils, e2fsprogs and fio, as a virtual machine: with KVM where it works, emulated where not.

    qa/vm run SCRIPT [ARG...]         boots one, runs a bash script in it as root, ends it; the script's output and status are its own
    qa/vm up DIR                      boots one and returns when its initiator is ready; DIR has its console
    qa/vm exec DIR COMMAND [ARG...]   runs a command in it as root, any number at the same time; stdin, stdout, stderr and status as over ssh
    qa/vm down DIR                    ends it
    qa/vm disk FILE                   writes a raw disk with the same system and a boot loader; `qa/vm up --disk driver=file,filename=FILE DIR` boots from it
    qa/vm build                       only makes the image, which the others do when they must (once, root, a minute)

Whatever address the guest connects to, this machine connects to in its stead: a portal is the same inside and outside, 127.0.0.1:3260, with --ipv6 [::1]:3260, and other networks' alike.
Nothing can connect to the guest. What it writes to its root disk is gone when it ends.

Exit status: the command's; 124 if it did not end within --timeout; 125 if the machine did not start, or does not answer.
"""


def main():
    """Reads the command line and does it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options = _parser().parse_args()
    try:
        sys.exit(options.do(options))
    except ui.Failure as failure:
        ui.report(failure, PROGRAM)
        sys.exit(EXIT_BROKEN)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _parser():
    parser = argparse.ArgumentParser(prog=PROGRAM, description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name, do, help):
        made = verbs.add_parser(name, help=help)
        made.set_defaults(do=do)
        return made

    build = verb("build", _build, "make the image")
    disk = verb("disk", _disk, "write a disk that boots")
    disk.add_argument("file", type=pathlib.Path, metavar="FILE")
    boots = [verb("up", _up, "boot a machine"), verb("run", _run, "boot a machine for one script")]
    runs = [verb("exec", _exec, "run a command in a machine"), boots[1]]
    for made in (build, disk, *boots):
        made.add_argument("--install", action="store_true", help="install missing Debian packages")
    for made in boots:
        made.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto", help="how the processor is made (default: kvm where it works)")
        made.add_argument("--memory", type=int, default=768, metavar="MIB", help="(default 768)")
        made.add_argument("--ipv6", action="store_true", help="with IPv6: QEMU's network then stands still for seconds now and then")
        made.add_argument("--disk", metavar="OPTIONS", help="boot from this disk, in the words of QEMU's -blockdev, and write to it (default: a disk whose changes are forgotten)")
    for made in runs:
        made.add_argument("--timeout", type=float, metavar="SECONDS", help="for the command, not the boot (default: none)")
    for made in (boots[0], runs[0], verb("down", _down, "end a machine")):
        made.add_argument("dir", type=pathlib.Path, metavar="DIR")
    runs[0].add_argument("command")
    runs[1].add_argument("script", type=pathlib.Path)
    for made in runs:
        made.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARG")
    return parser


def _build(options):
    packages.ensure(options.install, packages.VM)
    image()


def _disk(options):
    packages.ensure(options.install, packages.VM)
    bootable(options.file)


def _up(options):
    packages.ensure(options.install, packages.VM)
    machine.up(options.dir, options.accel, options.memory, options.disk, options.ipv6)


def _down(options):
    machine.down(options.dir)


def _exec(options):
    given = b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()
    return _print(agent.run(options.dir, [options.command, *options.arguments], given, options.timeout))


def _run(options):
    script = options.script.read_bytes()
    packages.ensure(options.install, packages.VM)
    with tempfile.TemporaryDirectory(prefix="lus-vm.") as folder:
        folder = pathlib.Path(folder)
        try:
            machine.up(folder, options.accel, options.memory, options.disk, options.ipv6)
            return _print(agent.run(folder, ["bash", "-s", "--", *options.arguments], script, options.timeout))
        finally:
            machine.down(folder)


def _print(done):
    status, out, err = done
    sys.stdout.buffer.write(out)
    sys.stdout.flush()
    sys.stderr.buffer.write(err)
    sys.stderr.flush()
    return status


main()
