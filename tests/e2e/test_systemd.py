"""deploy/systemd: systemd takes the unit, and hatoba lives in the cage that it asks for.

No systemd runs here: what its directives do is done by the kernel's own means, as far as they reach.
"""

import base64
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml

from hatoba.config.load import load

DEPLOY = Path(__file__).parents[2] / "deploy/systemd"
UNIT = DEPLOY / "hatoba.service"
SANDBOX = Path(__file__).with_name("sandbox.py")
SYSTEM_UNITS = Path("/usr/lib/systemd/system")
EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def directives():
    """Name -> its values in order; an empty one takes back those before it."""
    found = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", UNIT.read_text("utf-8"), re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


def only(name):
    (value,) = directives()[name]
    return value


def ran(*command):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


def analyze(*arguments):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    return ran("systemd-analyze", *arguments)


@pytest.fixture
def verify(tmp_path):
    """verify(text) gives what systemd says of such a unit, on a machine where hatoba is installed."""

    def run(text):
        root = tmp_path / "machine"
        if not root.exists():
            shutil.copytree(SYSTEM_UNITS, root / "usr/lib/systemd/system", symlinks=True)
            (root / "lib").symlink_to("usr/lib")
            for program in ("opt/hatoba/bin/hatoba", "bin/kill"):
                path = root / program
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("#!/bin/sh\n")
                path.chmod(0o755)
        (root / "etc/systemd/system").mkdir(parents=True, exist_ok=True)
        (root / "etc/systemd/system/hatoba.service").write_text(text)
        done = analyze(f"--root={root}", "verify", "/etc/systemd/system/hatoba.service")
        return done.returncode, [line for line in done.stderr.splitlines() if "hatoba" in line]

    return run


def test_systemd_takes_the_unit(verify):
    assert verify(UNIT.read_text("utf-8")) == (0, [])


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        ("ProtectSystem=strict", "ProtectSystem=stricter", "Failed to parse protect system value"),
        ("ProtectClock=yes", "ProtectClok=yes", "ProtectClok"),
        ("/opt/hatoba/bin/hatoba serve", "/opt/hatoba/hatoba serve", "is not executable"),
    ],
)
def test_a_mistake_in_the_unit_would_be_seen(verify, right, wrong, words):
    text = UNIT.read_text("utf-8")
    assert right in text
    assert any(words in line for line in verify(text.replace(right, wrong))[1])


def test_the_cage_is_tight():
    """systemd's own judgement, of 0 (tight) to 100; its default for a service is 96."""
    done = analyze("security", "--offline=true", "--threshold=15", "--no-pager", UNIT)
    assert done.returncode == 0, done.stdout[-400:]


def test_the_configuration_fits_the_unit():
    document = yaml.safe_load((DEPLOY / "config.yml").read_text("utf-8"))
    loaded = load(None, {}, base=document)
    assert loaded.warnings == ()
    settings = loaded.settings
    assert only("ExecStart").endswith(f"serve /etc/{only('ConfigurationDirectory')}/config.yml")
    assert settings.storage.filesystem.rootdirectory == Path("/var/lib") / only("StateDirectory")
    assert settings.auth.htpasswd.path.parent == Path("/etc") / only("ConfigurationDirectory")
    assert int(only("TimeoutStopSec")) >= settings.http.draintimeout.total_seconds() + 10
    assert only("KillMode") == "mixed", "else the workers are told to stop beside the parent, which replaces them"
    assert only("OOMPolicy") == "continue", "else the end of one worker is the end of all"
    assert re.search(rf"^u {only('User')} - ", (DEPLOY / "hatoba.sysusers.conf").read_text("utf-8"), re.MULTILINE)


def system_calls():
    """The names of what SystemCallFilter= leaves."""
    groups, current = {}, []
    for line in analyze("syscall-filter", "--no-pager").stdout.splitlines():
        if line.startswith("@"):
            current = groups.setdefault(line.strip(), [])
        elif line.strip() and "#" not in line:
            current.append(line.strip())

    def members(name):
        return set().union(*(members(one) for one in groups[name])) if name.startswith("@") else {name}

    allowed = members("@default")
    for value in directives()["SystemCallFilter"]:
        named = set().union(*(members(name) for name in value.removeprefix("~").split()))
        allowed = allowed - named if value.startswith("~") else allowed | named
    return allowed


@pytest.fixture
def caged(start, tmp_path, e2e):
    """Runs a command with a file system of which `tmp_path/data` alone can be written, no capability and few calls."""
    if os.geteuid() != 0:
        pytest.skip("needs root for a mount namespace")
    e2e.needed("unshare", "setpriv", "systemd-analyze")
    data, calls = tmp_path / "data", tmp_path / "calls"
    data.mkdir()
    calls.write_text("\n".join(sorted(system_calls())))
    script = (
        'mount --bind / / && mount -o remount,ro,bind / && mount --bind "$1" "$1" && mount -o remount,rw,bind "$1" '
        "&& mount -t tmpfs tmpfs /dev/shm && shift "
        '&& exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$@"'
    )

    def run(*command):
        cage = ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "cage", data)
        return start(*cage, sys.executable, SANDBOX, calls, *command, name="caged")

    return run


def test_hatoba_lives_in_the_cage(caged, config, e2e, tmp_path):
    path = config(
        f"auth: {{htpasswd: {{realm: x, path: {tmp_path / 'data/htpasswd'}}}}}\n"
        "http: {addr: '127.0.0.1:0', debug: {addr: '127.0.0.1:0', prometheus: {enabled: true}}}\nhatoba: {workers: 2}\n"
    )
    server = caged(e2e.HATOBA, "serve", path).ready()
    status = Path(f"/proc/{server.workers[0]}/status").read_text("ascii")
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^CapBnd:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)
    password = re.search(r"password=(\S+)", server.err)[1]

    def asked(path, method="GET"):
        request = urllib.request.Request(f"http://{server.host}{path}", method=method)
        request.add_header("Authorization", "Basic " + base64.b64encode(f"admin:{password}".encode()).decode())
        request.add_header("Content-Type", "application/octet-stream")
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return answer.status

    assert asked(f"/v2/a/blobs/uploads/?digest={EMPTY}", "POST") == 201
    before = set(server.workers)
    server.process.send_signal(signal.SIGHUP)

    def replaced():
        with contextlib.suppress(FileNotFoundError):
            return len(server.workers) == 2 and not before & set(server.workers)

    e2e.wait_for(replaced, "SIGHUP replaces no workers")
    assert asked(f"/v2/a/blobs/{EMPTY}") == 200
    assert server.stop() == 0
    assert server.errors == [line for line in server.errors if "password=" in line], server.err


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("open('/etc/x', 'w')", "Read-only file system"),
        ("os.chown('.', 1, 1)", "Operation not permitted"),
        ("os.setuid(1)", "Operation not permitted"),
        ("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", "Operation not permitted"),
        ("mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)", "Operation not permitted"),
        ("os.sched_setaffinity(0, {0})", "Operation not permitted"),
    ],
)
def test_the_cage_holds(caged, program, words):
    done = caged(sys.executable, "-c", f"import mmap, os, socket; {program}")
    assert done.process.wait(30) == 1
    assert words in done.err
