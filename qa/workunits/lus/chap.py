#!/usr/bin/python3 -Bs
"""CHAP by other people's initiators, libiscsi's tools and QEMU's.

- A host with a secret gets in with it, and not with another one, another name, or none. What is set for one host beats what is set for all of its target.
- Mutual: the initiator takes the target's answer, and does not take it where it expects another secret.
- Discovery has a secret of its own, and none of targets'.
- A secret that is changed counts for the next login; one that is removed is not asked for; a target that is removed takes its secrets along.
- Secrets are refused where they must be, and are shown by nothing: no list, no dump, no event.
- Who fails too often is turned away for a while, and nobody else is."""

import errno
import json
import os
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import qa  # noqa: E402

TARGET = f"{qa.IQN}:chap"
HOST, OTHER, THIRD = (f"iqn.2026-11.io.lus.host:{name}" for name in ("web1", "web2", "web3"))
OF_HOST, OF_TARGET, OF_ALL, OF_DISCOVERY, WRONG = "Secret-of-web1", "secret/of@disk", "Secret-of-all-hosts-of-it", "Secret-for-asking", "not-the-right-one"
FAILURES_MAX = 40  # 8 of one name at one address are too many; a slow machine needs more, as one is forgotten every 10 s
TURNED_AWAY = "(769)"  # libiscsi's word for status 0x0301


class Tools:
    """The initiators, with what they know. Names and secrets go by the environment and by files, as they should."""

    def __init__(self, cluster, target):
        self.cluster, self.target = cluster, target

    def _env(self, name, secret, target_name="", target_secret=""):
        words = {"USERNAME": name, "PASSWORD": secret, "TARGET_USERNAME": target_name, "TARGET_PASSWORD": target_secret}
        return {**os.environ, **{f"LIBISCSI_CHAP_{key}": value for key, value in words.items() if value}}

    def inquiry(self, host, name="", secret="", *mutual):
        """What became of INQUIRY of LUN 0."""
        words = ["iscsi-inq", "-i", host, self.target.url(0)]
        return qa.run(words, check=False, timeout=60, env=self._env(name, secret, *mutual))

    def gets_in(self, *words):
        """Whether it is answered."""
        return self.inquiry(*words).returncode == 0

    def discovers(self, name="", secret=""):
        """Whether a discovery session is answered with the target."""
        words = ["iscsi-ls", "-i", OTHER, f"iscsi://{self.cluster.portals[0]}"]
        listed = qa.run(words, check=False, timeout=60, env=self._env(name, secret))
        return listed.returncode == 0 and f"Target:{TARGET}" in listed.stdout

    def qemu_gets_in(self, host, name, secret):
        """Whether qemu-img finds the disk's size."""
        with tempfile.NamedTemporaryFile("w", prefix="secret-") as file:
            file.write(secret)
            file.flush()
            options = f"driver=iscsi,transport=tcp,portal={self.cluster.portals[0]},target={TARGET},lun=0,initiator-name={host},user={name},password-secret=s"
            words = ["qemu-img", "info", "--object", f"secret,id=s,file={file.name}", "--output=json", "--image-opts", options]
            shown = qa.run(words, check=False, timeout=60)
        return shown.returncode == 0 and json.loads(shown.stdout)["virtual-size"] == 16 * qa.MIB


def auth(cluster, *words, secrets=(), check=True):
    """`lus ... auth ...` with the secrets on stdin."""
    given = ["-i", "-"] if secrets else []
    return qa.run(["lus", *words, *given], env=cluster.env, check=check, stdin="".join(f"{secret}\n" for secret in secrets))


def refused(cluster, code, *words, secrets=()):
    """The same, refused in Ceph's form."""
    result = auth(cluster, *words, secrets=secrets, check=False)
    shown = f"lus {' '.join(words)}: exit code {result.returncode}\n{result.stdout}{result.stderr}"
    qa.require(result.returncode == code and f"Error {errno.errorcode[code]}: " in result.stderr, shown)
    qa.require(not any(secret and secret in result.stdout + result.stderr for secret in secrets), f"a secret is shown: {shown}")


def check_one_way(cluster, tools):
    qa.require(tools.gets_in(HOST), "no secret is set, and the host does not get in")
    auth(cluster, "host", "auth", "set", TARGET, HOST, "--chap-name", "web1", secrets=[OF_HOST])
    qa.require(tools.gets_in(HOST, "web1", OF_HOST), "the right secret is refused")
    for name, secret in (("", ""), ("web1", WRONG), ("web2", OF_HOST)):
        qa.require(not tools.gets_in(HOST, name, secret), f"{name} gets in with '{secret}'")
    qa.require(tools.gets_in(OTHER), "a host without a secret does not get in")
    qa.require(tools.qemu_gets_in(HOST, "web1", OF_HOST), "QEMU does not get in")
    qa.require(not tools.qemu_gets_in(HOST, "web1", WRONG), "QEMU gets in with a wrong secret")
    auth(cluster, "target", "auth", "set", TARGET, "--chap-name", "all", secrets=[OF_ALL])
    qa.require(not tools.gets_in(OTHER), "the target wants a secret, and a host gets in without")
    qa.require(tools.gets_in(OTHER, "all", OF_ALL), "the target's secret is refused")
    qa.require(tools.gets_in(HOST, "web1", OF_HOST) and not tools.gets_in(HOST, "all", OF_ALL), "a host's own does not beat the target's")
    qa.say("one way: the right secret gets in, and nothing else")


def check_mutual(cluster, tools):
    auth(cluster, "host", "auth", "set", TARGET, HOST, "--mutual", "--mutual-name", "disk", secrets=[OF_HOST, OF_TARGET])
    qa.require(tools.gets_in(HOST, HOST, OF_HOST, "disk", OF_TARGET), "mutual CHAP fails")
    qa.require(tools.gets_in(HOST, HOST, OF_HOST), "who does not ask for the target's secret is refused")
    qa.require(not tools.gets_in(HOST, HOST, OF_HOST, "disk", WRONG), "the initiator takes a target that does not know the secret")
    qa.require(not tools.gets_in(HOST, HOST, WRONG, "disk", OF_TARGET), "a wrong secret gets in")
    qa.require(not tools.gets_in(OTHER, "all", OF_ALL, "disk", OF_TARGET), "a target without a secret of its own shows one")
    qa.say("both ways: each takes the other's right secret, and nothing else")


def check_discovery(cluster, tools):
    qa.require(tools.discovers() and tools.discovers("anyone", OF_ALL), "no secret is set for discovery, and hosts are not answered")
    auth(cluster, "discovery", "auth", "set", "--chap-name", "asks", secrets=[OF_DISCOVERY])
    qa.require(tools.discovers("asks", OF_DISCOVERY), "the right secret of discovery is refused")
    qa.require(not tools.discovers() and not tools.discovers("all", OF_ALL), "discovery is answered without its secret")
    auth(cluster, "discovery", "auth", "rm")
    qa.require(tools.discovers(), "the secret of discovery is removed, and asked for")
    qa.say("discovery has a secret of its own")


def check_made(cluster, tools):
    """Secrets that lus makes are shown once, and work."""
    made = json.loads(cluster.lus("host", "auth", "set", TARGET, HOST, "--mutual", "-f", "json").stdout)
    qa.require(tools.gets_in(HOST, made["name"], made["secret"], made["mutual_name"], made["mutual_secret"]), "secrets that were made do not work")
    qa.require(not tools.gets_in(HOST, HOST, OF_HOST), "the secret before gets in")
    auth(cluster, "host", "auth", "rm", TARGET, HOST)
    qa.require(tools.gets_in(HOST, "all", OF_ALL), "without its own, the target's secret is refused")
    return [made["secret"], made["mutual_secret"]]


def check_refusals(cluster):
    here = ("host", "auth", "set", TARGET, HOST)
    refused(cluster, errno.EINVAL, *here, secrets=["elevenbytes"])
    refused(cluster, errno.EINVAL, *here, secrets=["x" * 256])
    refused(cluster, errno.EINVAL, *here, "--mutual", secrets=["the-same-for-both", "the-same-for-both"])
    refused(cluster, errno.EINVAL, *here, "--mutual", secrets=["only-one-of-two"])
    refused(cluster, errno.EINVAL, *here, "--mutual", secrets=["something-of-its-own", OF_ALL])
    refused(cluster, errno.ENOENT, *here, "-i", "/nonexistent")
    refused(cluster, errno.ENOENT, "host", "auth", "set", f"{TARGET}.not", HOST, secrets=[OF_HOST])
    refused(cluster, errno.ENOENT, "host", "auth", "set", TARGET, "iqn.2026-11.io.lus.host:unknown", secrets=[OF_HOST])
    refused(cluster, errno.ENOENT, "host", "auth", "rm", TARGET, HOST)
    qa.say("what must be refused is refused")


def check_secrecy(cluster, secrets):
    """Nothing that lus or ceph shows has a secret in it, nor has the map's object."""
    lists = [("target", "auth", "ls"), ("host", "auth", "ls", TARGET), ("discovery", "auth", "ls"), ("dump",), ("events",), ("target", "info", TARGET), ("status",)]
    shown = "".join(cluster.lus(*words, *form).stdout for words in lists for form in ((), ("-f", "json")))
    shown += qa.run(["rados", "-p", ".lus", "listomapvals", "lus_map"], env=cluster.env).stdout
    found = [secret for secret in secrets if secret in shown]
    qa.require(not found, f"secrets are shown: {found}")
    [listed] = cluster.lus_json("target", "auth", "ls")
    qa.require((listed["target"], listed["name"], listed["mutual_name"]) == (TARGET, "all", None), f"lus target auth ls: {listed}")
    qa.require("lus_secrets" not in qa.run(["rados", "-p", ".lus", "ls"], env=cluster.env).stdout.split(), "the secrets are in the map's namespace")
    qa.say("no secret is shown")


def check_operator(cluster):
    """A user that may not read the secrets administers everything else."""
    who = "client.qa-operator"
    caps = ["mon", "profile rbd", "osd", 'profile rbd pool=rbd, allow rwx pool=.lus namespace=""']
    with tempfile.NamedTemporaryFile("w", prefix="keyring-") as keyring:
        key = cluster.ceph("auth", "get-or-create", who, *caps)[0]["key"]
        try:
            keyring.write(f"[{who}]\nkey = {key}\n")
            keyring.flush()
            given = ("-n", who, "-k", keyring.name)
            cluster.lus("host", "add", TARGET, "iqn.2026-11.io.lus.host:short", *given)
            removed = cluster.lus("host", "rm", TARGET, "iqn.2026-11.io.lus.host:short", *given)
            qa.require("stays" in removed.stderr, f"it is not said that secrets stay: {removed.stderr}")
            refused(cluster, errno.EPERM, "target", "auth", "ls", *given)
            refused(cluster, errno.EPERM, "target", "auth", "set", TARGET, *given, secrets=[OF_HOST])
        finally:
            qa.run(["ceph", "auth", "rm", who], env=cluster.env)
    qa.say("a user without the namespace's capability administers all but secrets")


def check_rate(tools):
    for tried in range(1, FAILURES_MAX + 1):
        result = tools.inquiry(THIRD, "all", WRONG)
        qa.require(result.returncode != 0, "a wrong secret gets in")
        if TURNED_AWAY in result.stdout + result.stderr:
            break
    else:
        raise qa.Failed(f"after {FAILURES_MAX} failures logins are still looked at")
    qa.require(tried > 8, f"login {tried} is turned away")
    qa.require(tools.gets_in(OTHER, "all", OF_ALL), "another host at the same address is turned away")
    qa.await_true("the right secret gets in again", lambda: tools.gets_in(THIRD, "all", OF_ALL), 60, pause=2)
    qa.say(f"who fails too often waits: turned away at login {tried}")


def main():
    cluster = qa.Cluster.given()
    target = qa.Target(cluster, TARGET)
    target.remove()
    cluster.lus("discovery", "auth", "rm", check=False)
    cluster.lus("target", "create", TARGET)
    try:
        for host in (HOST, OTHER, THIRD):
            cluster.lus("host", "add", TARGET, host)
        target.create("rbd/qa-chap", "16M")
        tools = Tools(cluster, target)
        check_one_way(cluster, tools)
        check_mutual(cluster, tools)
        check_discovery(cluster, tools)
        made = check_made(cluster, tools)
        check_refusals(cluster)
        check_secrecy(cluster, [OF_HOST, OF_TARGET, OF_ALL, OF_DISCOVERY, *made])
        check_operator(cluster)
        check_rate(tools)
    finally:
        cluster.lus("discovery", "auth", "rm", check=False)
        target.remove()
    qa.require(cluster.lus_json("target", "auth", "ls") == [], "a target that is gone has secrets")


qa.run_check(main)
