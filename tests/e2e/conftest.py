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
from pathlib import Path

import pytest

from e2e.town import Town

REPOSITORY = Path(__file__).parents[2]
HATOBA = Path(sys.executable).with_name("hatoba")
REGISTRY = Path(sys.executable).with_name("registry")
DOCKERFILE = """\
FROM scratch
COPY busybox /busybox
COPY stamp /stamp
ENTRYPOINT ["/busybox"]
"""


def clean_environment(**extra: str) -> dict[str, str]:
    ours = ("REGISTRY_", "DOCKER_", "HATOBA_", "PYTHONPATH", "PYTHONUNBUFFERED")
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


def find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def free_port():
    return find_port


_NEW_KEY = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"


class Authority:
    """A private certificate authority made with openssl, in a folder of its own: `ca` is its certificate."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.ca = folder, folder / "ca.pem"
        self._openssl(f"req -x509 {_NEW_KEY} -days 2 -keyout ca.key -out ca.pem -subj /CN=authority")

    def issue(self, name: str, *hosts: str) -> tuple[Path, Path]:
        """A certificate for hosts and its key, `BEGIN EC PRIVATE KEY` as certbot's; of a client without hosts."""
        self._openssl(f"ecparam -name prime256v1 -genkey -out {name}.key")
        names = ",".join(f"{'IP' if host[-1].isdigit() else 'DNS'}:{host}" for host in hosts)
        usage = f"extendedKeyUsage=serverAuth\nsubjectAltName={names}\n" if hosts else "extendedKeyUsage=clientAuth\n"
        (self.folder / f"{name}.ext").write_text(usage)
        self._openssl(f"req -new -key {name}.key -subj /CN={name} -out {name}.csr")
        self._openssl(f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -days 1 -extfile {name}.ext -out {name}.pem")
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def _openssl(self, line: str) -> None:
        done = subprocess.run(["openssl", *line.split()], cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def authority(tmp_path):
    needed("openssl")
    return Authority(tmp_path / "authority")


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
        self.environment = clean_environment(
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
            command, text=True, capture_output=True, check=False, input=stdin or "", env=self.environment
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


class Nginx:
    """A real NGINX with a `server` block for each proxy that is added, then `start`ed once; `stop` ends all of it."""

    def __init__(self) -> None:
        needed("nginx")
        self.folder = Path(tempfile.mkdtemp(prefix="hatoba-nginx-"))  # pytest's own are closed to its worker's user
        self.folder.chmod(0o755)
        self._blocks: list[str] = []
        self._held: list[socket.socket] = []
        self._server: Server | None = None

    def add(
        self, upstream: str, inside: str | None, *, tls: tuple[Path, Path] | None = None, outside: str = "",
        port: int | None = None,
    ) -> int:  # fmt: skip
        """A proxy of host:port `upstream`: what `location /` holds, if there is one, and its `server`; the port of it.

        UPSTREAM in either is the upstream's name.
        """
        # Held until NGINX has it, which may bind beside: a port that is only looked for may be another's by then.
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", port or 0))
        self._held.append(held)
        port = held.getsockname()[1]
        secured = f"ssl_certificate {tls[0]}; ssl_certificate_key {tls[1]};" if tls else ""
        location = "" if inside is None else f"location / {{ proxy_pass http://UPSTREAM; {inside} }}"
        self._blocks.append(
            f"upstream registry{port} {{ server {upstream}; }}\n"
            f"server {{ listen 127.0.0.1:{port}{' ssl' if tls else ''}; {secured} {outside}\n{location} }}\n".replace(
                "UPSTREAM", f"registry{port}"
            )
        )
        return port

    def start(self) -> None:
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{kind}_temp_path {self.folder}/{kind};\n" for kind in kinds)
        # Started by root its worker is nobody, as it is everywhere.
        user = "user nobody nogroup;" if os.geteuid() == 0 else ""
        path = self.folder / "nginx.conf"
        path.write_text(
            f"daemon off; worker_processes 1; pid {self.folder}/pid; error_log {self.folder}/error.log; {user}\n"
            f"events {{ worker_connections 256; }}\nhttp {{ access_log off;\n{temporary}{''.join(self._blocks)}}}\n"
        )
        self._server = Server(["nginx", "-c", path, "-e", self.folder / "error.log"], self.folder, self.folder, "nginx")
        port = int(re.findall(r"listen 127.0.0.1:(\d+)", self._blocks[-1])[0])
        wait_for(lambda: _listens(port) or self._server.process.poll() is not None, "NGINX does not come up")
        assert self._server.process.poll() is None, self._server.err + (self.folder / "error.log").read_text()

    def stop(self) -> None:
        for held in self._held:
            held.close()
        if self._server is not None:
            self._server.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# What tutorials have inside of `location /`.
RECIPE = (
    "proxy_set_header Host $http_host; proxy_set_header X-Real-IP $remote_addr; "
    "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme; "
    "proxy_read_timeout 900;"
)


class Chains(Authority):
    """An authority with an intermediate one below it, which signs for any name and time."""

    def __init__(self, folder: Path) -> None:
        needed("openssl")
        super().__init__(folder)
        (folder / "index").touch()
        (folder / "ca.cnf").write_text(
            f"[ca]\ndefault_ca=d\n[d]\ndatabase={folder}/index\nnew_certs_dir={folder}\nrand_serial=yes\n"
            "default_md=sha256\npolicy=p\nunique_subject=no\n[p]\ncommonName=supplied\n"
        )
        self._sign("middle", "ca", "basicConstraints=critical,CA:true", "20200101000000Z", "20991231000000Z")

    def chain(
        self, name: str, *, names: str = "IP:127.0.0.1", begin: str = "20200101000000Z", end: str = "20991231000000Z",
        whole: bool = True,
    ) -> tuple[Path, Path]:  # fmt: skip
        """A certificate, with the intermediate one behind it if `whole`, and its key."""
        self._sign(name, "middle", f"subjectAltName={names}", begin, end)
        path = self.folder / f"{name}-chain.pem"
        parts = [name, "middle"] if whole else [name]
        path.write_text("".join((self.folder / f"{part}.pem").read_text() for part in parts))
        return path, self.folder / f"{name}.key"

    def self_signed(self) -> tuple[Path, Path]:
        """One for 127.0.0.1 that is its own authority, and its key."""
        self._openssl(
            f"req -x509 {_NEW_KEY} -days 2 -subj /CN=own -keyout own.key -out own.pem "
            "-addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:false"
        )
        return self.folder / "own.pem", self.folder / "own.key"

    def _sign(self, name: str, by: str, extensions: str, begin: str, end: str) -> None:
        self._openssl(f"req {_NEW_KEY} -subj /CN={name} -keyout {name}.key -out {name}.csr")
        (self.folder / f"{name}.ext").write_text(extensions)
        self._openssl(
            f"ca -batch -notext -config ca.cnf -cert {by}.pem -keyfile {by}.key -startdate {begin} -enddate {end} "
            f"-extfile {name}.ext -in {name}.csr -out {name}.pem"
        )


@pytest.fixture(scope="session")
def town():
    if os.geteuid() != 0:
        pytest.skip("needs root for dockerd")
    needed("dockerd", "docker", "debootstrap", "openssl", "ip", "iptables", "nsenter")
    folder = Path(tempfile.mkdtemp(prefix="hatoba-town-"))
    town = Town(folder, Docker(docker_clients()[0], f"unix://{folder}/docker.sock", folder))
    try:
        wait_for(town.answers, "dockerd does not come up", 60)
        if town.engine.poll() is not None:
            pytest.skip(f"dockerd does not run here: {(folder / 'log').read_text().strip().splitlines()[-1]}")
        yield town
    finally:
        town.end()


@pytest.fixture(scope="session")
def base_image(town, request):
    """Debian with Python and NGINX, in place of images of Docker Hub. The files are kept for the next time."""
    archive = request.config.cache.mkdir("debian") / "bookworm.tar"
    if not archive.exists():
        town.debian(archive)
    town("import", archive, "debian-python")
    return "debian-python"


@pytest.fixture(scope="session")
def image(town, base_image):
    """hatoba's image as `make image` builds it, where there is no network."""
    town.shell(f"make -C {REPOSITORY} image BASE={base_image} OFFLINE=1 ARGS='--network none'")
    return "hatoba:latest"


@pytest.fixture(scope="session")
def e2e():
    """What tests here share (test folders are no packages)."""
    return sys.modules[__name__]
