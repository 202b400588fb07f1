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
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
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
    ours = ("REGISTRY_", "DOCKER_", "HATOBA_", "PYTHONPATH")
    return {key: value for key, value in os.environ.items() if not key.startswith(ours)} | extra


def wait_for(condition, message: str | Callable[[], str], seconds: float = 30.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            pytest.fail(message() if callable(message) else message)
        time.sleep(0.05)
    return found


class Server:
    """A program that serves, in a process group of its own: its output, its process, and its end."""

    def __init__(self, command, folder: Path, logs: Path, name: str, **environment: str) -> None:
        self.out_path, self.err_path = logs / f"{name}.out", logs / f"{name}.err"
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

    @property
    def password(self) -> str:
        """What the first start printed."""
        return re.search(r"user admin and password (\S+)", self.out)[1]

    @property
    def host(self) -> str:
        return re.search(r"listening on ([][\w.:]+)", self.err)[1].replace("[::]", "127.0.0.1")

    @property
    def workers(self) -> list[int]:
        """The ids of the processes that answer."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]

    def memory(self, field: str = "VmRSS") -> int:
        """What the only worker has in memory, in bytes; `VmHWM`: what it had at most."""
        (worker,) = self.workers
        status = Path(f"/proc/{worker}/status").read_text(encoding="ascii")
        return int(re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)[1]) * 1024

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if "level=error" in line]

    def ready(self) -> Server:
        wait_for(
            lambda: "listening on" in self.err or self.process.poll() is not None,
            lambda: f"no line `listening on`:\n{self.err}",
        )
        assert self.process.poll() is None, self.err
        return self

    def stop(self) -> int:
        """SIGTERM; the exit code, when no process of the group is left."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        return self.end()

    def end(self) -> int:
        code = self.process.wait(60)
        wait_for(self.gone, "a process of the server outlives it")
        return code

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def gone(self) -> bool:
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        return False


@pytest.fixture
def start(tmp_path):
    """start(command…) gives a Server that ends with the test, whatever it does."""
    started = []

    def run(*command, folder: Path = tmp_path, name: str = "server", **environment: str) -> Server:
        server = Server(command, folder, tmp_path, name, **environment)
        started.append(server)
        return server

    yield run
    for server in started:
        server.kill()


@pytest.fixture
def serving(start):
    """`with serving(root, …) as server`: `hatoba serve` in full life; at the end SIGTERM, exit code 0, nothing left.

    `root` is `--root`, or None for what hatoba chooses. `program` is another command with the same `serve`.
    """

    @contextlib.contextmanager
    def serve(root: Path | None, *arguments, program: Path = HATOBA, env=None, **options) -> Iterator[Server]:
        where = [] if root is None else ["--root", root]
        server = start(program, "serve", *where, *arguments, **options, **(env or {})).ready()
        yield server
        if server.process.poll() is None:
            assert server.stop() == 0, server.err

    return serve


@pytest.fixture
def config(tmp_path):
    """config(text) writes a file as Docker's registry has it, with its data in `tmp_path/data`."""

    def write(text: str = "", name: str = "config.yml") -> Path:
        path = tmp_path / name
        path.write_text(f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path / 'data'}}}}}\n{text}")
        return path

    return write


@pytest.fixture
def free_port():
    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return find


def needed(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


@pytest.fixture(scope="session")
def docker_engine():
    """The address of a Docker engine of our own. Without bridge and iptables: nothing of this machine changes."""
    if os.geteuid() != 0:
        pytest.skip("needs root for dockerd")
    needed("dockerd", "docker")
    folder = Path(tempfile.mkdtemp(prefix="hatoba-docker-"))  # a short path: a socket's name has 107 bytes at most
    host = f"unix://{folder}/docker.sock"
    command = [
        "dockerd", "--data-root", folder / "data", "--exec-root", folder / "exec", "-H", host,
        "--pidfile", folder / "pid", "--bridge=none", "--iptables=false", "--ip-forward=false",
    ]  # fmt: skip
    log = folder / "log"
    with log.open("wb") as file:
        engine = subprocess.Popen([str(part) for part in command], stdout=file, stderr=file)

    def answers() -> bool:
        probe = subprocess.run(["docker", "-H", host, "info"], capture_output=True, check=False)
        return probe.returncode == 0 or engine.poll() is not None

    try:
        wait_for(answers, lambda: f"dockerd does not come up:\n{log.read_text()[-3000:]}", 60)
        if engine.poll() is not None:
            pytest.skip(f"dockerd does not run here: {log.read_text().strip().splitlines()[-1]}")
        yield host
    finally:
        engine.terminate()
        try:
            engine.wait(60)
        except subprocess.TimeoutExpired:
            engine.kill()
            engine.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


class Docker:
    """A docker client that talks to our engine: docker("push", name). A failure fails the test unless `check=False`."""

    def __init__(self, client: str, engine: str, folder: Path) -> None:
        (folder / "docker-config").mkdir()
        (folder / "bin").mkdir()
        (folder / "bin/docker").symlink_to(client)
        self._environment = clean_environment(
            DOCKER_HOST=engine, DOCKER_CONFIG=str(folder / "docker-config"), DOCKER_BUILDKIT="0",
            PATH=f"{folder / 'bin'}:{os.environ['PATH']}",
        )  # fmt: skip

    def __call__(self, *arguments, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return self._run(["docker", *map(str, arguments)], check=check, stdin=stdin)

    def shell(self, line: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a line as a person types it."""
        return self._run(["sh", "-c", line], check=True, stdin=stdin)

    def push(self, name: str) -> str:
        """Push it; the digest."""
        return re.search(r"digest: (sha256:\w+)", self("push", name).stdout)[1]

    def _run(self, command: list[str], *, check: bool, stdin: str | None) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, text=True, capture_output=True, check=False, input=stdin or "", env=self._environment
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done


def docker_clients() -> list[str]:
    """Every docker client of this machine: 20.10 and 28 behave differently."""
    found = [os.path.realpath(client) for client in (shutil.which("docker"), "/usr/bin/docker") if client]
    return list(dict.fromkeys(client for client in found if Path(client).exists())) or ["docker"]


@pytest.fixture(params=docker_clients())
def docker(request, docker_engine, tmp_path):
    return Docker(request.param, docker_engine, tmp_path)


@pytest.fixture
def build(docker, tmp_path):
    """build(name) makes an image of busybox and a stamp of its own."""

    needed("busybox")

    def make(name: str) -> str:
        folder = tmp_path / f"build-{re.sub('[^a-z0-9]', '-', name)}"
        folder.mkdir()
        shutil.copy(shutil.which("busybox"), folder / "busybox")
        (folder / "stamp").write_text(os.urandom(8).hex())
        (folder / "Dockerfile").write_text(DOCKERFILE)
        docker("build", "-q", "-t", name, folder)
        return name

    return make


REPOSITORY = Path(__file__).parents[2]
NAME, ADDRESS = "registry.example.com", "198.51.100.1"  # both are of documentation: nobody has them
# An engine in a network of its own: its bridges, rules and ports, 443 too, are nobody else's and go with it.
ENGINE = """\
ip link set lo up
ip address add {address}/32 dev lo
mount --bind {folder}/hosts /etc/hosts
exec dockerd --data-root {folder}/data --exec-root {folder}/exec -H unix://{folder}/docker.sock --pidfile {folder}/pid
"""
# Documents and fsync are nothing to a test.
DPKG = """\
force-unsafe-io
path-exclude /usr/share/doc/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/man/*
"""


class Town(Docker):
    """A Docker engine in a network of its own where `registry.example.com` is this machine, and a client of it."""

    def __init__(self, folder: Path) -> None:
        """`folder` has a short name: the engine's socket lies in it."""
        super().__init__(docker_clients()[0], f"unix://{folder}/docker.sock", folder)
        plugins = folder / "docker-config/cli-plugins"
        plugins.mkdir()
        (plugins / "docker-compose").symlink_to(Path(find_spec("compose").origin).with_name("docker-compose"))
        self.folder = folder
        self.ca = folder / "ca.pem"
        self._certified(self.ca, folder / "ca.key", "-subj", "/CN=Town")
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{ADDRESS} {NAME}\n")
        script = ENGINE.format(address=ADDRESS, folder=folder)
        with (folder / "log").open("wb") as log:
            self.engine = subprocess.Popen(
                ["unshare", "--net", "--mount", "sh", "-ec", script], stdout=log, stderr=log,
                env=clean_environment(SSL_CERT_FILE=str(self.ca)),
            )  # fmt: skip

    def ready(self) -> Town:
        def answers() -> bool:
            return self("info", check=False).returncode == 0 or self.engine.poll() is not None

        wait_for(answers, "dockerd does not come up", 60)
        if self.engine.poll() is not None:
            pytest.skip(f"dockerd does not run here: {(self.folder / 'log').read_text().strip().splitlines()[-1]}")
        return self

    def end(self) -> None:
        self.engine.terminate()
        try:
            self.engine.wait(60)
        except subprocess.TimeoutExpired:
            self.engine.kill()
            self.engine.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)

    def inside(self, *command) -> list[str]:
        """The command line that runs `command` in the town's network, with its names."""
        return ["nsenter", f"--target={self.engine.pid}", "--net", "--mount", "--wd=.", *map(str, command)]

    def as_client(self, command: list[str], cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program that calls `docker`."""
        environment = self._environment | variables
        return subprocess.run(command, cwd=cwd, env=environment, text=True, capture_output=True, check=False)

    def certify(self, folder: Path, name: str = NAME) -> None:
        """Put `fullchain.pem` and `privkey.pem` for `name` into the folder, signed by whom the engine trusts."""
        issuer = ["-CA", self.ca, "-CAkey", self.folder / "ca.key"]
        extra = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", *issuer]
        self._certified(folder / "fullchain.pem", folder / "privkey.pem", *extra)

    def _certified(self, certificate: Path, key: Path, *extra) -> None:
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        subprocess.run([*command, "-out", certificate, "-keyout", key, *extra], check=True, capture_output=True)


@pytest.fixture(scope="session")
def town():
    if os.geteuid() != 0:
        pytest.skip("needs root for dockerd")
    needed("dockerd", "docker", "debootstrap", "openssl", "ip", "iptables", "nsenter")
    town = Town(Path(tempfile.mkdtemp(prefix="hatoba-town-")))
    try:
        yield town.ready()
    finally:
        town.end()


@pytest.fixture(scope="session")
def base_image(town, request):
    """Debian with Python and NGINX, in place of images of Docker Hub. Kept for the next time: it takes a minute."""
    archive = request.config.cache.mkdir("debian") / "bookworm.tar"
    if not archive.exists():
        tree = town.folder / "debian"
        settings = tree / "etc/dpkg/dpkg.cfg.d/quick"
        settings.parent.mkdir(parents=True)
        settings.write_text(DPKG)
        packages = "--include=python3,python3-venv,nginx-light"
        done = subprocess.run(
            ["debootstrap", "--variant=minbase", packages, "bookworm", tree],
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        unwanted = [f"--exclude=./{part}/*" for part in ("proc", "sys", "var/cache/apt", "var/lib/apt/lists")]
        part = archive.with_suffix(f".{os.getpid()}")
        subprocess.run(["tar", "-C", tree, *unwanted, "-cf", part, "."], check=True)
        part.replace(archive)
        shutil.rmtree(tree)
    town("import", archive, "debian-python")
    return "debian-python"


@pytest.fixture(scope="session")
def image(town, base_image):
    """hatoba's image as `make image` builds it, where there is no network."""
    town.shell(f"make -C {REPOSITORY} image BASE={base_image} OFFLINE=1 ARGS='--network none'")
    return "hatoba:latest"


@pytest.fixture
def e2e():
    """What tests here share (test folders are no packages)."""
    return sys.modules[__name__]
