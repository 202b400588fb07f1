"""An acknowledged push survives `kill -9`: of the whole process group, of one worker, of the parent alone.

Clients push all the time and note what was acknowledged; at random moments something is killed; after each kill
everything acknowledged so far must be there, byte for byte. At least 100 kills over all cases.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
KILLS = 17  # a case; six cases
CLIENTS = 3
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def digest_of(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


class Server:
    """`hatoba serve` in a process group of its own."""

    def __init__(self, root, port: int, workers: int) -> None:
        self.port = port
        self._lock = root / "data" / "hatoba" / "serve.lock"
        config = root / "config.yml"
        config.write_text(
            f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {root / 'data'}}}}}\n"
            f"http: {{addr: '127.0.0.1:{port}'}}\nhatoba: {{workers: {workers}}}\n"
            "log: {accesslog: {disabled: true}}\n"
        )
        self._command = [sys.executable, "-m", "hatoba", "serve", str(config)]
        self._log = (root / "log").open("ab")
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=self._log, start_new_session=True
        )
        wait_for(self.answers, "the server does not come up")

    def workers(self) -> list[int]:
        pid = self.process.pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
        except FileNotFoundError:
            return []
        return [int(child) for child in children.split()]

    def answers(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return Client(self.port).call("GET", "/v2/")[0] == 200
        return False

    def gone(self) -> bool:
        """Whether no process of the server is left: the lock that all of them hold is free."""
        self.process.poll()
        with self._lock.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    def kill(self, what: str) -> None:
        if what == "worker":
            self._kill_worker()
            return
        if what == "group":
            os.killpg(self.process.pid, signal.SIGKILL)
        else:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(30)
        wait_for(self.gone, "a process of the server outlives it")
        self.start()

    def _kill_worker(self) -> None:
        """The server goes on with a new one; killed again within seconds it takes that for a crash loop and ends."""
        wait_for(self.workers, "the server has no worker")
        os.kill(random.choice(self.workers()), signal.SIGKILL)  # noqa: S311
        time.sleep(0.2)
        wait_for(lambda: self.process.poll() is not None or self.answers(), "no new worker comes")
        if self.process.poll() is not None:
            assert self.process.returncode != 0
            wait_for(self.gone, "a process of the server outlives it")
            self.start()

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)
        self._log.close()


def wait_for(condition, message: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(message)
        time.sleep(0.02)


class Client:
    """Raises OSError or HTTPException when the server dies under a request; the next one connects anew."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def call(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, str]:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        try:
            self._connection.request(method, path, body, named)
            answer = self._connection.getresponse()
            return answer.status, answer.read(), answer.headers.get("Location", "")
        except BaseException:
            self._connection.close()
            raise

    def push_blob(self, repository: str, body: bytes, how: int) -> None:
        digest = digest_of(body)
        uploads = f"/v2/{repository}/blobs/uploads/"
        if how == 0:
            expect(self.call("POST", f"{uploads}?digest={digest}", body), 201)
            return
        location = expect(self.call("POST", uploads), 202)
        if how == 1:
            expect(self.call("PUT", f"{location}?digest={digest}", body), 201)
            return
        half = len(body) // 2
        expect(self.call("PATCH", location, body[:half], Content_Range=f"0-{half - 1}"), 202)
        expect(self.call("PATCH", location, body[half:], Content_Range=f"{half}-{len(body) - 1}"), 202)
        expect(self.call("PUT", f"{location}?digest={digest}"), 201)


def expect(answer: tuple[int, bytes, str], status: int) -> str:
    assert answer[0] == status, answer
    return answer[2]


@dataclass
class Acknowledged:
    """What a client was told is safe. `tags` has the digests a tag may have: the last acknowledged or one in flight."""

    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    manifests: dict[tuple[str, str], bytes] = field(default_factory=dict)
    tags: dict[tuple[str, str], set[str]] = field(default_factory=dict)


class Pusher(threading.Thread):
    """Pushes small images to a repository of its own until it is told to stop."""

    def __init__(self, number: int, port: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.repository = f"kill/client{number}"
        self.acknowledged = Acknowledged()
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self.problem: BaseException | None = None
        self.pushed = 0
        self._client = Client(port)
        self._random = random.Random(seed * 100 + number)  # noqa: S311

    def run(self) -> None:
        while not self.stopped.is_set():
            try:
                with self.lock:
                    self.push()
            except (OSError, http.client.HTTPException):
                time.sleep(0.02)
            except BaseException as error:  # noqa: BLE001
                self.problem = error
                return
            time.sleep(0.001)

    def push(self) -> None:
        blobs = [self._random.randbytes(self._random.choice([2, 500, 70_000])) for _ in range(2)]
        for body in blobs:
            self._client.push_blob(self.repository, body, self._random.randrange(3))
            self.acknowledged.blobs[self.repository, digest_of(body)] = body
        if self._random.random() < 0.3:
            self.mount(blobs[0])
        config, layer = ({"mediaType": "x/y", "digest": digest_of(b), "size": len(b)} for b in blobs)
        body = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}).encode()
        self.push_manifest(body, f"t{self._random.randrange(3)}")

    def mount(self, body: bytes) -> None:
        other = f"{self.repository}/mounted"
        path = f"/v2/{other}/blobs/uploads/?mount={digest_of(body)}&from={self.repository}"
        expect(self._client.call("POST", path), 201)
        self.acknowledged.blobs[other, digest_of(body)] = body

    def push_manifest(self, body: bytes, tag: str) -> None:
        may_be = self.acknowledged.tags.setdefault((self.repository, tag), set())
        may_be.add(digest_of(body))  # from here on the tag may name it, acknowledged or not
        path = f"/v2/{self.repository}/manifests/{tag}"
        expect(self._client.call("PUT", path, body, Content_Type=MANIFEST), 201)
        self.acknowledged.manifests[self.repository, digest_of(body)] = body
        self.acknowledged.tags[self.repository, tag] = {digest_of(body)}
        self.pushed += 1


def check(server: Server, acknowledged: Acknowledged, *, recent: int | None = None) -> None:
    """Everything acknowledged is there; `recent` looks at the last ones only."""
    client = Client(server.port)
    for kind, held in (("blobs", acknowledged.blobs), ("manifests", acknowledged.manifests)):
        for (repository, digest), body in list(held.items())[-recent if recent else 0 :]:
            status, found, _ = client.call("GET", f"/v2/{repository}/{kind}/{digest}")
            assert (status, digest_of(found)) == (200, digest), f"{kind} {repository} {digest} is lost"
            assert found == body
    for (repository, tag), may_be in acknowledged.tags.items():
        status, found, _ = client.call("GET", f"/v2/{repository}/manifests/{tag}")
        if status == 404:
            assert not any((repository, digest) in acknowledged.manifests for digest in may_be), f"tag {tag} is lost"
        else:
            assert digest_of(found) in may_be, f"tag {repository}:{tag} names what was never pushed to it"


def check_links(root, port: int, pushers: list[Pusher]) -> None:
    """After a while every tag's link names what the registry serves."""

    client = Client(port)

    def links_true() -> bool:
        for pusher in pushers:
            for repository, tag in pusher.acknowledged.tags:
                found = digest_of(client.call("GET", f"/v2/{repository}/manifests/{tag}")[1])
                path = f"data/docker/registry/v2/repositories/{repository}/_manifests/tags/{tag}/current/link"
                link = root / path
                if not link.exists() or link.read_text() != found:
                    return False
        return True

    wait_for(links_true, "a tag's link differs from its row")


@pytest.fixture
def port():
    import socket  # noqa: PLC0415

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("what", ["group", "worker", "parent"])
def test_acknowledged_pushes_survive(tmp_path, port, what, workers):
    seed = int(os.environ.get("KILL_SEED", "0")) or random.SystemRandom().randrange(1, 1_000_000)
    print(f"KILL_SEED={seed}")  # noqa: T201  to run a failure again
    moments = random.Random(seed)  # noqa: S311
    server = Server(tmp_path, port, workers)
    pushers = [Pusher(number, port, seed) for number in range(CLIENTS)]
    try:
        for pusher in pushers:
            pusher.start()
        for _ in range(KILLS):
            time.sleep(moments.uniform(0.05, 0.5))
            server.kill(what)
            for pusher in pushers:
                assert pusher.problem is None, pusher.problem
                with pusher.lock:
                    check(server, pusher.acknowledged, recent=20)
        for pusher in pushers:
            pusher.stopped.set()
            pusher.join(60)
            assert pusher.problem is None, pusher.problem
            assert pusher.pushed > 0
            check(server, pusher.acknowledged)
        check_links(tmp_path, port, pushers)
    finally:
        for pusher in pushers:
            pusher.stopped.set()
        server.stop()
    wait_for(server.gone, "a process of the server outlives it")


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_that_dies_twice_ends_the_server(tmp_path, port, workers):
    """The first time it is replaced; again within seconds it is a crash loop (decision 9)."""
    server = Server(tmp_path, port, workers)
    try:
        wait_for(lambda: len(server.workers()) == workers, "a worker is missing")
        before = server.workers()
        os.kill(before[0], signal.SIGKILL)
        wait_for(lambda: len(set(server.workers()) - set(before)) == 1, "no new worker comes")
        assert server.process.poll() is None
        wait_for(server.answers, "the new worker does not answer")
        os.kill(server.workers()[-1], signal.SIGKILL)
        assert server.process.wait(30) == 1
        wait_for(server.gone, "a process of the server outlives it")
    finally:
        server.stop()
