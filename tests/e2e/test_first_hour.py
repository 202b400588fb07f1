"""What a new user does after the first push: stops and starts, mistypes passwords, stops in the middle of a push."""

from __future__ import annotations

import base64
import concurrent.futures
import hashlib
import http.client
import os
import signal
import threading
from collections.abc import Iterator

from hatoba.testing.images import Image, random_image

MIB = 1024 * 1024


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def ask(host: str, method: str, path: str, body=None, headers=None):
    """Status, body and headers of one request on a connection of its own."""
    connection = http.client.HTTPConnection(host, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def push(host: str, image: Image, reference: str, headers: dict[str, str]) -> None:
    for blob in image.blobs:
        where = f"/v2/team/app/blobs/uploads/?digest={blob.digest}"
        assert ask(host, "POST", where, blob.body, headers)[0] == 201
    kind = {"Content-Type": image.manifest.media_type}
    assert ask(host, "PUT", f"/v2/team/app/manifests/{reference}", image.manifest.body, headers | kind)[0] == 201


def test_ctrl_c_and_start_again(serving, free_port, tmp_path):
    image = random_image(2)
    addr = f"127.0.0.1:{free_port()}"
    with serving(tmp_path / "data", "--addr", addr, "--workers", "2") as first:
        admin = basic("admin", first.password)
        push(addr, image, "v1", admin)
        first.process.send_signal(signal.SIGINT)
        assert first.end() == 0
    with serving(tmp_path / "data", "--addr", addr, name="second"):
        assert ask(addr, "GET", "/v2/team/app/manifests/v1", headers=admin)[1] == image.manifest.body
        for blob in image.blobs:
            assert ask(addr, "GET", f"/v2/team/app/blobs/{blob.digest}", headers=admin)[1] == blob.body


def test_wrong_passwords_in_a_row(serving, free_port, tmp_path):
    """200 of them end in 429, and another user's pulls go on from the same address all the while."""
    image = random_image()
    addr = f"127.0.0.1:{free_port()}"
    with serving(tmp_path / "data", "--addr", addr) as server:
        admin = basic("admin", server.password)
        push(addr, image, "v1", admin)
        wrong = [
            lambda number=number: ask(addr, "GET", "/v2/", headers=basic("bob", f"guess {number}"))
            for number in range(200)
        ]
        with concurrent.futures.ThreadPoolExecutor(1) as guesser:
            guesses = [guesser.submit(guess) for guess in wrong]
            pulls = 0
            while not guesses[-1].done() or pulls < 10:
                status, body, _ = ask(addr, "GET", "/v2/team/app/manifests/v1", headers=admin)
                assert (status, body) == (200, image.manifest.body)
                pulls += 1
        answers = [guess.result() for guess in guesses]
    assert [status for status, _, _ in answers] == [401] * 10 + [429] * 190
    assert 1 <= int(answers[-1][2]["Retry-After"]) <= 60


def test_sigterm_in_the_middle_of_a_push_of_1_gib(serving, config, free_port, tmp_path):
    addr = f"127.0.0.1:{free_port()}"
    path = config(f"http: {{addr: '{addr}', draintimeout: 1s}}\n")
    block = os.urandom(MIB)
    found = hashlib.sha256()
    for _ in range(1024):
        found.update(block)
    digest = f"sha256:{found.hexdigest()}"
    stopping, half = threading.Event(), threading.Event()

    def stalled() -> Iterator[bytes]:
        for number in range(1024):
            if number == 512:
                half.set()
                stopping.wait(60)
            yield block

    length = {"Content-Length": str(1024 * MIB)}
    where = f"/v2/team/app/blobs/uploads/?digest={digest}"
    with serving(None, path, name="first") as server, concurrent.futures.ThreadPoolExecutor(1) as client:
        pushing = client.submit(ask, addr, "POST", where, stalled(), length)
        assert half.wait(60)
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == 0, "the drain time is over and the upload is not"
        stopping.set()
        assert isinstance(pushing.exception(60), OSError | http.client.HTTPException)
    with serving(None, path, name="second"):
        assert ask(addr, "HEAD", f"/v2/team/app/blobs/{digest}")[0] == 404
        assert ask(addr, "POST", where, (block for _ in range(1024)), length)[0] == 201
        status, _, headers = ask(addr, "HEAD", f"/v2/team/app/blobs/{digest}")
        assert (status, headers["Content-Length"]) == (200, str(1024 * MIB))
        assert ask(addr, "GET", f"/v2/team/app/blobs/{digest}", headers={"Range": "bytes=-9"})[1] == block[-9:]
