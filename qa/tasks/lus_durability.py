"""
Kill lusd in the middle of writes
"""
import contextlib
import logging
import pathlib
import random
import sys
from io import StringIO

from tasks import lusd
from teuthology import misc
from teuthology.exceptions import ConfigError

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'lib'))
import c_sources  # noqa: E402
import kill_rounds  # noqa: E402

log = logging.getLogger(__name__)

DEFAULTS = dict(
    client='client.0',
    daemon='a',
    rounds=5,
    seed=None,
    image='rbd/qa-durability',
)
IQN = 'iqn.2026-11.io.lus.qa:durability'
# Of one run of the client; it ends long before.
CLIENT_SECONDS = 300


def task(ctx, config):
    """
    Kill a daemon in the middle of writes, again and again: each time every acknowledged
    block must hold its sequence, or a later one.

    The client (qa/clients/durability.c, compiled on the client's machine) logs there what
    it submitted and what was acknowledged. In each round it writes, the daemon is
    SIGKILLed at a random moment and started again, and before anything is rewritten every
    block that was ever written is compared with the log. First it is proved that this can
    fail: losses of four kinds are planted past the log, and each must be found.

    For example::

        tasks:
        - install:
        - ceph:
        - lusd:
        - lus_durability:
            rounds: 20

    Keys, all optional; `overrides: lus_durability:` is merged into them:

        client: client.0            where the client runs
        daemon: a                   which daemon is killed; it must be the only one
        rounds: 5
        seed: a random number       of the moments and of what is written; it is logged
        image: rbd/qa-durability    made and removed
    """
    config = _merged(ctx, config)
    (remote,) = ctx.cluster.only(config['client']).remotes
    seed = random.SystemRandom().getrandbits(32) if config['seed'] is None else int(config['seed'])
    log.info('seed %d', seed)
    with _folder(ctx, remote, config['client']) as folder, _disk(ctx, remote, config) as url:
        rounds = kill_rounds.Rounds(_Host(remote, folder), _Gateway(ctx, config['daemon']), url, folder + '/log', log.info)
        try:
            rounds.run(config['rounds'], seed)
        except kill_rounds.Broken:
            # The only witness of what was lost.
            archive = '%s/durability.%s.log' % (misc.get_archive_dir(ctx), config['client'])
            remote.run(args=['cp', folder + '/log', archive], check_status=False)
            raise


def _merged(ctx, config):
    if config is None:
        config = {}
    if not isinstance(config, dict):
        raise ConfigError('task lus_durability only supports a dictionary for configuration')
    config = misc.deep_merge(dict(config), ctx.config.get('overrides', {}).get('lus_durability', {}))
    unknown = sorted(set(config) - set(DEFAULTS))
    if unknown:
        raise ConfigError('task lus_durability does not know %s' % ', '.join(unknown))
    config = dict(DEFAULTS, **config)
    if lusd.daemon_ids(ctx) != lusd.daemon_ids(ctx, [config['daemon']]):
        raise ConfigError('task lus_durability kills %s, but there is more than this daemon' % config['daemon'])
    return config


@contextlib.contextmanager
def _folder(ctx, remote, role):
    """
    A folder on the client's machine with the client, compiled
    """
    folder = '%s/lus_durability.%s' % (misc.get_testdir(ctx), role)
    remote.run(args=['mkdir', '--', folder])
    try:
        files = c_sources.of('durability')
        for path in files:
            remote.write_file('%s/%s' % (folder, path.name), path.read_bytes())
        sources = ['%s/%s' % (folder, path.name) for path in files if path.suffix == '.c']
        remote.run(args=['cc'] + c_sources.CFLAGS + ['-o', folder + '/durability'] + sources + ['-liscsi'])
        yield folder
    finally:
        remote.run(args=['rm', '-rf', '--', folder])


@contextlib.contextmanager
def _disk(ctx, remote, config):
    """
    An LU behind the daemon, and where libiscsi finds it
    """
    image = config['image']
    try:
        _lus(remote, 'target', 'create', IQN, '--open')
        _lus(remote, 'lu', 'create', image, '%dM' % kill_rounds.SIZE_MIB)
        _lus(remote, 'lun', 'map', IQN, image, '--lun', '0')
        yield 'iscsi://%s/%s/0' % (lusd.portal(ctx, config['daemon']), IQN)
    finally:
        for words in (('target', 'rm', IQN), ('lu', 'rm', image)):
            remote.run(args=_lus_words(*words, '--yes-i-really-mean-it'), check_status=False)


def _lus_words(*words):
    return ['sudo', 'lus', '--cluster', 'ceph'] + list(words)


def _lus(remote, *words):
    remote.run(args=_lus_words(*words))


class _Host:
    """
    The client's machine
    """

    def __init__(self, remote, folder):
        self.remote = remote
        self.folder = folder

    def begin(self, words):
        args = ['timeout', '%d' % CLIENT_SECONDS, self.folder + '/durability'] + words
        return _Run(self.remote.run(args=args, stdout=StringIO(), stderr=StringIO(), wait=False, check_status=False))

    run = begin

    def log_size(self):
        return int(self.remote.sh(['stat', '--format=%s', self.folder + '/log']))


class _Run:
    """
    A client that runs
    """

    def __init__(self, proc):
        self.proc = proc

    def ended(self):
        return self.proc.finished

    def result(self):
        self.proc.wait()
        return self.proc.exitstatus, self.proc.stdout.getvalue(), self.proc.stderr.getvalue()


class _Gateway:
    """
    The daemon that is killed
    """

    def __init__(self, ctx, id_):
        self.ctx = ctx
        self.id = id_

    def kill(self):
        lusd.kill_daemon(self.ctx, self.id)

    def start(self):
        lusd.start_daemon(self.ctx, self.id)
