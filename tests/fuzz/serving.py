"""The registry under test: started, looked at from outside, ended."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import bcrypt

from fuzz.cases import PASSWORD, USER

_READY_SECONDS = 60
_KEPT = re.compile(r"blobs/[a-z0-9]+/[0-9a-f]{2}/[0-9a-f]+/data|repositories/.+/(_layers|_manifests)/.+/link")


class Registry:
    """`hatoba serve` with two workers and one user, its data in `folder`."""

    def __init__(self, folder: Path, workers: int = 2, *, sign_in: bool = True) -> None:
        self.folder = folder
        self.root = folder / "data"
        self.port = free_port()
        self.err_path = folder / "err"
        config = (
            f"version: 0.1\nlog: {{accesslog: {{disabled: true}}}}\n"
            f"storage: {{filesystem: {{rootdirectory: {self.root}}}, delete: {{enabled: true}}}}\n"
            f"http: {{addr: '127.0.0.1:{self.port}'}}\nhatoba: {{workers: {workers}}}\n"
        )
        if sign_in:
            line = f"{USER}:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(5)).decode()}\n"
            (folder / "htpasswd").write_text(line, encoding="ascii")
            config += f"auth: {{htpasswd: {{realm: fuzz, path: {folder / 'htpasswd'}}}}}\n"
        (folder / "config.yml").write_text(config, encoding="utf-8")
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("REGISTRY_", "HATOBA_"))
        }
        with self.err_path.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hatoba", "serve", str(folder / "config.yml")],
                stdout=subprocess.DEVNULL, stderr=err, env=environment,
            )  # fmt: skip
        self._wait_until_ready()
        self.workers = self.children()

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + _READY_SECONDS
        while "listening on" not in self.errors():
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                raise RuntimeError(f"the registry does not start:\n{self.errors()}")
            time.sleep(0.05)

    def errors(self) -> str:
        """All of standard error."""
        return self.err_path.read_text(encoding="utf-8", errors="replace")

    def children(self) -> list[int]:
        """The workers' process ids."""
        pid = self.process.pid
        return sorted(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()))

    def sessions(self) -> int:
        """Rows of upload sessions, by SQLite's own means."""
        connection = apsw.Connection(str(self.root / "hatoba" / "uploads.db"), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            return int(next(connection.execute("SELECT count(*) FROM uploads"))[0])
        finally:
            connection.close()

    def leftovers(self) -> list[str]:
        """Files that are neither content nor links: of uploads, or temporary."""
        tree = self.root / "docker" / "registry" / "v2"
        found = (os.path.relpath(Path(folder) / name, tree) for folder, _, names in os.walk(tree) for name in names)
        return [path for path in found if not _KEPT.fullmatch(path)]

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait(30)


def problems_at_the_end(registry: Registry, *, sessions: int = 0) -> list[str]:
    """What a registry that was used, and is idle now, must not show; ends it. `sessions` may be open."""
    found = []
    if registry.children() != registry.workers:
        found.append(f"workers {registry.workers} became {registry.children()}")
    if registry.sessions() > sessions:
        found.append(f"{registry.sessions()} upload sessions are open, at most {sessions} were left")
    left = registry.leftovers()
    if len(left) > 2 * sessions:  # `data` and `startedat`
        found.append(f"{len(left)} files are left over: {left[:5]}")
    if (code := registry.stop()) != 0:
        found.append(f"exit code {code}")
    lines = [line for line in registry.errors().splitlines() if not re.match(r"time=\S+ level=(info|warning) ", line)]
    return found + [f"on standard error: {line[:2000]}" for line in lines[:20]]


@contextlib.contextmanager
def serving(folder: Path, workers: int = 2, *, sign_in: bool = True) -> Iterator[Registry]:
    """A registry that ends with the block, whatever happens in it."""
    registry = Registry(folder, workers, sign_in=sign_in)
    try:
        yield registry
    finally:
        if registry.process.poll() is None:
            registry.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
