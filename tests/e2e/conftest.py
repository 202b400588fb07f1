"""Real processes: hatoba, Docker's engine and its clients, skopeo. Everything started here is ended here, by its id."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

HATOBA = Path(sys.executable).with_name("hatoba")
REGISTRY = Path(sys.executable).with_name("registry")
DOCKERFILE = """\
FROM scratch
COPY busybox /busybox
COPY stamp /stamp
ENTRYPOINT ["/busybox"]
"""


def clean_environment(**extra: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("REGISTRY_", "DOCKER_"))}
    return {**kept, **extra}


def wait_for(condition, message: str, seconds: float = 30.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            pytest.fail(message() if callable(message) else message)
        time.sleep(0.05)
    return found


class Server:
    """A running hatoba: its output, its process, and its end."""

    def __init__(self, command, folder: Path, name: str = "server", **environment: str) -> None:
        self.out_path, self.err_path = folder / f"{name}.out", folder / f"{name}.err"
        with self.out_path.open("wb") as out, self.err_path.open("wb") as err:
            self.process = subprocess.Popen(
                [str(part) for part in command], cwd=folder, stdout=out, stderr=err, start_new_session=True,
                env=clean_environment(**environment),
            )  # fmt: skip

    @property
    def out(self) -> str:
        return self.out_path.read_text()

    @property
    def err(self) -> str:
        return self.err_path.read_text()

    def ready(self) -> Server:
        wait_for(lambda: "listening on" in self.err or self.process.poll() is not None, "no line `listening on`")
        assert self.process.poll() is None, self.err
        return self

    def stop(self) -> int:
        """SIGTERM; the exit code, when no process of the group is left."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        wait_for(self._group_is_gone, "a process of the server outlives it")
        return code

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def _group_is_gone(self) -> bool:
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        return False


@pytest.fixture
def start(tmp_path):
    """start(command…) gives a Server that ends with the test."""
    started = []

    def run(*command, folder: Path = tmp_path, name: str = "server", **environment: str) -> Server:
        server = Server(command, folder, name, **environment)
        started.append(server)
        return server

    yield run
    for server in started:
        server.kill()


@pytest.fixture
def free_port():
    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return find


@pytest.fixture(scope="session")
def docker_engine(tmp_path_factory):
    """The address of a Docker engine of our own."""
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        pytest.skip("needs root and dockerd")
    folder = tmp_path_factory.mktemp("docker")
    host = f"unix://{folder}/docker.sock"
    command = [
        "dockerd", "--data-root", folder / "data", "--exec-root", folder / "exec", "-H", host,
        "--pidfile", folder / "pid",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        engine = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)

    def answers() -> bool:
        probe = subprocess.run(["docker", "-H", host, "info"], capture_output=True, check=False)
        return probe.returncode == 0 or engine.poll() is not None

    try:
        wait_for(answers, lambda: f"dockerd does not come up:\n{(folder / 'log').read_text()[-3000:]}", 60)
        assert engine.poll() is None, (folder / "log").read_text()[-3000:]
        yield host
    finally:
        engine.terminate()
        engine.wait(60)


def docker_clients() -> list[str]:
    """Every docker client of this machine: 20.10 and 28 behave differently."""
    found = [shutil.which("docker"), "/usr/bin/docker"]
    return list(dict.fromkeys(client for client in found if client and Path(client).exists())) or ["docker"]


@pytest.fixture(params=docker_clients())
def docker(request, docker_engine, tmp_path):
    """docker("push", …) runs the client against our engine; a failure fails the test unless `check=False`."""
    config = tmp_path / "docker-config"
    config.mkdir()

    def run(*arguments, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [request.param, *map(str, arguments)], text=True, capture_output=True, check=False, input=stdin,
            env=clean_environment(DOCKER_HOST=docker_engine, DOCKER_CONFIG=str(config), DOCKER_BUILDKIT="0"),
        )  # fmt: skip
        assert not check or done.returncode == 0, f"docker {arguments}: {done.stdout}{done.stderr}"
        return done

    return run


@pytest.fixture
def build(docker, tmp_path):
    """build(name) makes an image of busybox and a stamp of its own."""

    def make(name: str) -> None:
        folder = tmp_path / f"build-{re.sub('[^a-z0-9]', '-', name)}"
        folder.mkdir()
        shutil.copy("/bin/busybox", folder / "busybox")
        (folder / "stamp").write_text(os.urandom(8).hex())
        (folder / "Dockerfile").write_text(DOCKERFILE)
        docker("build", "-q", "-t", name, folder)

    return make


@pytest.fixture
def e2e():
    """What tests here share (test folders are no packages)."""
    return sys.modules[__name__]
