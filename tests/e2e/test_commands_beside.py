"""`hatoba ls`, `show`, `tag` and `rm` on a folder that two workers serve at the same time."""

from __future__ import annotations

import http.client
import json
import os
import subprocess

import pytest

from hatoba.testing.images import random_image

IMAGE, OTHER = random_image(seed=1), random_image(seed=2)
DIGEST = str(IMAGE.manifest.digest)
ROUNDS = 8  # a connection each: both workers are asked


def request(host: str, method: str, path: str, body: bytes = b"", kind: str = "application/octet-stream"):
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.request(method, f"/v2/{path}", body, {"Content-Type": kind})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, answer.headers.get("Docker-Content-Digest")


def push(host: str, repository: str, image, *tags: str) -> None:
    for blob in image.blobs:
        path = f"{repository}/blobs/uploads/?digest={blob.digest}"
        assert request(host, "POST", path, blob.body)[0] == 201
    for tag in tags:
        path = f"{repository}/manifests/{tag}"
        assert request(host, "PUT", path, image.manifest.body, image.manifest.media_type)[0] == 201


def answers(host: str, reference: str) -> set[tuple[int, str | None]]:
    return {request(host, "GET", f"team/app/manifests/{reference}") for _ in range(ROUNDS)}


@pytest.fixture
def beside(serving, config, free_port):
    """A server of two workers, anonymous, and the configuration that it has."""
    path = config(f"http: {{addr: '127.0.0.1:{free_port()}'}}\n")
    with serving(None, path, "--workers", "2") as server:
        push(server.host, "team/app", IMAGE, "v1")
        yield server.host, path
    assert server.errors == []


@pytest.fixture
def hatoba(e2e, beside):
    def run(command: str, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [e2e.HATOBA, command, "--config", beside[1], *arguments], text=True, capture_output=True, check=False,
            env=e2e.clean_environment(), timeout=60,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


def test_the_next_answer_knows_of_a_tag_and_of_its_end(beside, hatoba, tmp_path):
    host, _ = beside
    tags = tmp_path / "data/docker/registry/v2/repositories/team/app/_manifests/tags"
    assert answers(host, "v2") == {(404, None)}
    assert hatoba("tag", "team/app:v1", "v2").stderr == f"team/app:v2 is {DIGEST}\n"
    assert answers(host, "v2") == {(200, DIGEST)}
    assert (tags / "v2/current/link").read_text() == DIGEST
    push(host, "team/app", OTHER, "v3")
    hatoba("tag", "team/app:v3", "v2")
    assert answers(host, "v2") == {(200, str(OTHER.manifest.digest))}
    hatoba("rm", "team/app:v2")
    assert answers(host, "v2") == {(404, None)}
    assert sorted(path.name for path in tags.iterdir()) == ["v1", "v3"]
    assert answers(host, "v1") == answers(host, DIGEST) == {(200, DIGEST)}
    hatoba("rm", f"team/app@{DIGEST}")
    assert answers(host, "v1") == answers(host, DIGEST) == {(404, None)}
    assert [path.name for path in tags.iterdir()] == ["v3"]
    revisions = tags.parent / "revisions/sha256"
    assert [path.name for path in revisions.glob("*/link")] == ["link"]
    assert hatoba("rm", "team/app:v1", code=1).stderr == "hatoba: team/app:v1: manifest unknown\n"


def test_reading_commands_see_what_was_just_pushed(beside, hatoba):
    host, _ = beside
    push(host, "other", OTHER, "x")
    assert [row["repository"] for row in json.loads(hatoba("ls", "--json").stdout)] == ["other", "team/app"]
    (row,) = json.loads(hatoba("ls", "team/app", "--json").stdout)
    assert (row["tag"], row["digest"], row["pushed_by"]) == ("v1", DIGEST, None)
    shown = json.loads(hatoba("show", f"{host}/team/app:v1", "--json").stdout)
    assert (shown["digest"], shown["tags"]) == (DIGEST, ["v1"])


def test_commands_at_once(beside, e2e, hatoba):
    """Ten of them and pushes beside them: each is done, none is lost."""
    host, path = beside
    command = [e2e.HATOBA, "tag", "--config", path, "team/app:v1"]
    environ = e2e.clean_environment()
    running = [subprocess.Popen([*command, f"copy-{number}"], env=environ) for number in range(10)]
    for number in range(10):
        push(host, "team/app", OTHER, f"push-{number}")
    assert [process.wait(60) for process in running] == [0] * 10
    found = {row["tag"]: row["digest"] for row in json.loads(hatoba("ls", "team/app", "--json").stdout)}
    assert [found[f"copy-{number}"] for number in range(10)] == [DIGEST] * 10
    assert [found[f"push-{number}"] for number in range(10)] == [str(OTHER.manifest.digest)] * 10


def test_a_pipe_that_closes_early_is_no_traceback(beside, e2e, hatoba):
    host, path = beside
    push(host, "team/app", OTHER, *(f"v{number}" for number in range(2000, 2200)))
    reading, writing = os.pipe()
    os.close(reading)
    command = [e2e.HATOBA, "ls", "--config", path, "team/app"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_link_that_cannot_be_written_is_said_on_stderr_and_mended_by_the_server(beside, e2e, hatoba, tmp_path):
    folder = tmp_path / "data/docker/registry/v2/repositories/team/app/_manifests/tags/v2"
    folder.write_text("in the way")
    done = hatoba("tag", "team/app:v1", "v2")
    assert done.stdout == ""
    assert "link files cannot be written; they stay pending" in done.stderr
    folder.unlink()
    e2e.wait_for((folder / "current/link").exists, "the server does not write the link", 60)
    assert (folder / "current/link").read_text() == DIGEST
