"""Cases with the real server: a worker, the parent or all of it is killed, at a step or at any moment of pushes."""

from __future__ import annotations

import http.client
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from faults.ledger import Known
from faults.lives import CLIENTS, Told
from faults.registry import Place
from faults.workload import Answer, Ask, Client
from fuzz.serving import free_port

ACTIONS = 8
STEPS = 1800
VICTIMS = ("group", "parent", "worker")
_SECONDS = 60.0


def killing(place: Place, seed: str) -> Told:
    """One server's life; when it is over nothing of it runs."""
    rng = random.Random(seed)
    whom, workers = rng.choice(VICTIMS), rng.randint(1, 2)
    at = rng.randint(1, STEPS) if rng.random() < 0.7 else 0
    port = free_port()
    server = _start(place, port, workers, at, whom)
    pushers = [_Pusher(port, seed, number) for number in range(CLIENTS)]
    told = Told({pusher.number: pusher.known for pusher in pushers})
    try:
        for pusher in pushers:
            pusher.start()
        if at == 0:
            time.sleep(rng.uniform(1, 3))
            _kill(server, whom, rng)
        for pusher in pushers:
            pusher.join(_SECONDS)
            told.problems += pusher.problems
        if whom == "worker" and rng.random() < 0.5:
            server.send_signal(signal.SIGTERM)  # the rest of it ends in order
            server.wait(_SECONDS)
        elif whom == "parent":
            server.kill()  # when there were fewer steps than that
    finally:
        if whom != "parent":
            _kill(server, "group", rng)
        server.wait(_SECONDS)
    if not _wait(lambda: _gone(server.pid)):
        told.problems.append(f"processes of the server outlive a kill of {whom}")
        _kill(server, "group", rng)
    told.notes.append(f"{whom} of {workers} workers, {f'step {at}' if at else 'at a moment'}")
    return told


def _start(place: Place, port: int, workers: int, at: int, whom: str) -> subprocess.Popen[bytes]:
    root, config = place.root, place.disk.with_name(f"{place.disk.name}.yml")
    database = f", database: {{path: {place.disk / 'var/databases/metadata.db'}}}" if place.apart else ""
    config.write_text(
        f"version: 0.1\nlog: {{accesslog: {{disabled: true}}}}\n"
        f"storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\nhatoba: {{workers: {workers}{database}}}\n",
        encoding="utf-8",
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("REGISTRY_", "HATOBA_"))}
    with config.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "faults.stricken", str(place.disk), str(at), whom, "serve", str(config)],
            stdout=log, stderr=log, start_new_session=True,
            env={**environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip


def _kill(server: subprocess.Popen[bytes], whom: str, rng: random.Random) -> None:
    try:
        if whom == "group":
            os.killpg(server.pid, signal.SIGKILL)
        elif whom == "parent":
            server.kill()
        else:
            children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text(encoding="ascii").split()
            os.kill(int(rng.choice(children)), signal.SIGKILL)
    except (ProcessLookupError, FileNotFoundError, IndexError):
        return  # it was faster


def _gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def _wait(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + _SECONDS
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


class _Pusher(threading.Thread):
    """A client that goes on until its server is gone."""

    def __init__(self, port: int, seed: str, number: int) -> None:
        super().__init__(daemon=True)
        self.number = number
        self.problems: list[str] = []
        self._port = port
        self._client = Client(seed, number)
        self.known = Known(self._client.state)
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)

    def run(self) -> None:
        try:
            self._reach()
            self._act()
        except (OSError, http.client.HTTPException):
            return
        except Exception as error:  # noqa: BLE001  told by whoever started this thread
            self.problems.append(repr(error))
        finally:
            self._connection.close()

    def _reach(self) -> None:
        end = time.monotonic() + _SECONDS / 6
        while True:
            try:
                self._connection.connect()
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
            else:
                return

    def _act(self) -> None:
        asking = self._client.requests(ACTIONS)
        answer = None
        while True:
            try:
                ask = next(asking) if answer is None else asking.send(answer)
            except StopIteration:
                return
            self.known.asked(ask.after)
            answer = self._send(ask)
            if answer.status != ask.wanted:
                self.problems.append(f"{ask.method} {ask.target}: {answer.status} {answer.body[:200]!r}")
                return
            self.known.told()

    def _send(self, ask: Ask) -> Answer:
        body = iter(ask.parts) if len(ask.parts) > 1 else ask.body
        self._connection.request(ask.method, ask.target, body, ask.headers)
        answer = self._connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
