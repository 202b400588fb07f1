"""`make big`: a blob of 5 GiB goes up streamed and in chunks and comes down again; no worker may grow over 150 MiB.

Not part of `make test`: it takes minutes and 15 GiB of disk. Prints a Markdown table for docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

PORT = 5051
MIB = 1024 * 1024
CHUNK = 8 * MIB
LIMIT_MIB = 150


class Source:
    """`size` pseudo-random bytes that need no memory: one random block, changed by its number."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._block = random.Random(5).randbytes(CHUNK)  # noqa: S311
        self.digest = self._digest()

    def chunks(self) -> Iterator[bytes]:
        for number in range(0, self.size, CHUNK):
            block = number.to_bytes(8, "big") + self._block[8:]
            yield block[: self.size - number]

    def _digest(self) -> str:
        found = hashlib.sha256()
        for chunk in self.chunks():
            found.update(chunk)
        return f"sha256:{found.hexdigest()}"


class Memory(threading.Thread):
    """Samples RSS and PSS of every worker; the highest of each, in MiB."""

    def __init__(self, parent: int) -> None:
        super().__init__(daemon=True)
        self.parent = parent
        self.rss = self.pss = 0.0
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.2):
            children = Path(f"/proc/{self.parent}/task/{self.parent}/children").read_text().split()
            for pid in children:
                try:
                    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
                except OSError:
                    continue
                self.rss = max(self.rss, _mib(text, "Rss"))
                self.pss = max(self.pss, _mib(text, "Pss"))


def _mib(text: str, name: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def request(method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """One request on a connection of its own: with several workers, often another one. Status and Location."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=600)
    headers = headers or {}
    connection.request(method, path, body=body, headers=headers, encode_chunked="Transfer-Encoding" in headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, answer.headers.get("Location", "")


def start(repository: str) -> str:
    status, location = request("POST", f"/v2/{repository}/blobs/uploads/")
    check(status == 202, f"POST answered {status}")
    return location


def push_streamed(source: Source) -> None:
    location = start("big/streamed")
    status, location = request("PATCH", location, source.chunks(), {"Transfer-Encoding": "chunked"})
    check(status == 202, f"PATCH answered {status}")
    status, _ = request("PUT", f"{location}?digest={source.digest}")
    check(status == 201, f"PUT answered {status}")


def push_chunked(source: Source) -> None:
    location, sent = start("big/chunked"), 0
    for chunk in source.chunks():
        headers = {"Content-Range": f"{sent}-{sent + len(chunk) - 1}", "Content-Type": "application/octet-stream"}
        status, location = request("PATCH", location, chunk, headers)
        check(status == 202, f"PATCH at {sent} answered {status}")
        sent += len(chunk)
    status, _ = request("PUT", f"{location}?digest={source.digest}")
    check(status == 201, f"PUT answered {status}")


def pull(source: Source, repository: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=600)
    connection.request("GET", f"/v2/{repository}/blobs/{source.digest}")
    answer = connection.getresponse()
    found = hashlib.sha256()
    while block := answer.read(4 * MIB):
        found.update(block)
    connection.close()
    check(f"sha256:{found.hexdigest()}" == source.digest, "the blob came down with another digest")


def check(condition: bool, message: str) -> None:  # noqa: FBT001
    if not condition:
        sys.exit(f"big: {message}")


def serve(root: Path, workers: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "hatoba", "serve", str(root / "config.yml")]
    (root / "config.yml").write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {root / 'data'}}}}}\n"
        f"http: {{addr: '127.0.0.1:{PORT}'}}\nhatoba: {{workers: {workers}}}\n"
    )
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    for line in server.stderr or ():
        if b"listening on" in line:
            break
    return server


def main() -> None:
    """Run it, print the table, exit 1 over the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=5.0)
    parser.add_argument("--root", type=Path, help="where the data goes, default a temporary folder")
    options = parser.parse_args()
    source = Source(int(options.gib * 1024 * MIB))
    print("| what | seconds | MB/s | peak RSS a worker (MiB) | peak PSS a worker (MiB) |\n|---|---|---|---|---|")
    worst = 0.0
    steps = (
        ("push streamed, one PATCH, 1 worker", 1, lambda: push_streamed(source)),
        ("pull, 1 worker", 1, lambda: pull(source, "big/streamed")),
        ("push in 8 MiB chunks, a connection each, 2 workers", 2, lambda: push_chunked(source)),
        ("pull, 2 workers", 2, lambda: pull(source, "big/chunked")),
    )
    with tempfile.TemporaryDirectory(prefix="hatoba-big-", dir=options.root) as folder:
        for name, workers, step in steps:
            server = serve(Path(folder), workers)
            memory = Memory(server.pid)
            memory.start()
            began = time.perf_counter()
            try:
                step()
            finally:
                seconds = time.perf_counter() - began
                memory.stopped.set()
                server.send_signal(signal.SIGTERM)
                server.wait(60)
            worst = max(worst, memory.rss)
            speed = source.size / seconds / 1e6
            print(f"| {name} | {seconds:.1f} | {speed:.0f} | {memory.rss:.0f} | {memory.pss:.0f} |", flush=True)
    check(worst <= LIMIT_MIB, f"a worker grew to {worst:.0f} MiB, over {LIMIT_MIB}")


if __name__ == "__main__":
    os.environ.pop("REGISTRY_CONFIGURATION_PATH", None)
    main()
