"""Parent and workers: who holds the folder, and who comes and goes with whom."""

from __future__ import annotations

import http.client
import os
import signal
from pathlib import Path


def status(host: str) -> int:
    connection = http.client.HTTPConnection(host, timeout=20)
    try:
        connection.request("GET", "/healthz/live")
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def test_worker_alone_keeps_a_second_server_out(serving, start, e2e, free_port, tmp_path):
    """`kill -9` of the parent, and a worker that has not noticed yet: it may still be writing."""
    root = tmp_path / "data"
    with serving(root, "--addr", f"127.0.0.1:{free_port()}", "--workers", "2", name="first") as first:
        workers = first.workers
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        first.process.kill()
        first.process.wait(20)
        second = start(e2e.HATOBA, "serve", "--root", root, "--addr", f"127.0.0.1:{free_port()}", name="second")
        assert second.process.wait(20) == 1
        assert "is served by another hatoba" in second.err
        os.kill(workers[0], signal.SIGCONT)  # finds its parent gone and ends; the other still holds the folder
        e2e.wait_for(lambda: not alive(workers[0]), "a worker outlives its parent")
        third = start(e2e.HATOBA, "serve", "--root", root, "--addr", f"127.0.0.1:{free_port()}", name="third")
        assert third.process.wait(20) == 1
        os.kill(workers[1], signal.SIGCONT)
        e2e.wait_for(first.gone, "a worker outlives its parent")
    with serving(root, "--addr", f"127.0.0.1:{free_port()}", name="fourth") as fourth:
        assert status(fourth.host) == 200


def alive(pid: int) -> bool:
    """Whether the process runs; nobody may have waited for it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_killed_worker_is_replaced(serving, e2e, free_port, tmp_path):
    with serving(tmp_path / "data", "--addr", f"127.0.0.1:{free_port()}", "--workers", "2") as server:
        before = server.workers
        os.kill(before[0], signal.SIGKILL)
        e2e.wait_for(
            lambda: server.process.poll() is not None or len(set(server.workers) - set(before)) == 1,
            "no new worker comes",
        )
        assert server.process.poll() is None, "one killed worker ended the server"
        e2e.wait_for(lambda: status(server.host) == 200, "the server does not answer")
        assert before[1] in server.workers, "the other went on"
