"""
Kill lusd in the middle of writes
"""
import logging
import pathlib
import random
import sys

from tasks import lusd
from teuthology import misc
from teuthology.exceptions import ConfigError

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'lib'))
import kill_rounds  # noqa: E402
import remote_client  # noqa: E402

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
    fail: losses of each kind are planted past the log, and each must be found.

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
    role = config['client']
    with remote_client.compiled(ctx, remote, role, 'durability') as folder, remote_client.disks(remote, IQN, [config['image']], kill_rounds.SIZE_MIB):
        host = remote_client.Host(remote, folder, 'durability', CLIENT_SECONDS)
        url = 'iscsi://%s/%s/0' % (lusd.portal(ctx, config['daemon']), IQN)
        with remote_client.kept(ctx, remote, role, folder, 'durability') as path:
            kill_rounds.Rounds(host, _Gateway(ctx, config['daemon']), url, path, log.info).run(config['rounds'], seed)


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
