"""`hatoba verify` and `hatoba backup` beside a server of two workers that clients push to; who serves a backup."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import signal
import subprocess
import threading
import time

import pytest

from hatoba.testing.images import random_image

KIND = "application/octet-stream"
ACCEPT = "application/vnd.oci.image.manifest.v1+json, */*"
KILLED = 2


def request(host: str, method: str, path: str, body: bytes | None = None, kind: str = KIND):
    """Status, headers and body of an answer."""
    connection = http.client.HTTPConnection(host, timeout=60)
    connection.request(method, f"/v2/{path}", body, {"Content-Type": kind, "Accept": ACCEPT})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def push(host: str, repository: str, image, *tags: str) -> None:
    for blob in image.blobs:
        assert request(host, "POST", f"{repository}/blobs/uploads/?digest={blob.digest}", blob.body)[0] == 201
    for tag in tags:
        body, kind = image.manifest.body, image.manifest.media_type
        assert request(host, "PUT", f"{repository}/manifests/{tag}", body, kind)[0] == 201


def contents(host: str) -> dict[str, str]:
    """Everything that a registry serves: (repository:tag -> digest), each layer and config read and compared."""
    found = {}
    for repository in json.loads(request(host, "GET", "_catalog?n=1000")[2])["repositories"]:
        for tag in json.loads(request(host, "GET", f"{repository}/tags/list")[2])["tags"] or []:
            _, headers, body = request(host, "GET", f"{repository}/manifests/{tag}")
            found[f"{repository}:{tag}"] = headers["Docker-Content-Digest"]
            document = json.loads(body)
            for named in (document["config"], *document["layers"]):
                status, _, body = request(host, "GET", f"{repository}/blobs/{named['digest']}")
                assert (status, len(body)) == (200, named["size"])
    return found


@pytest.fixture
def served(serving, config, free_port):
    """A server of two workers, anonymous, with an image in it: its host and its configuration."""
    path = config(f"http: {{addr: '127.0.0.1:{free_port()}'}}\n")
    with serving(None, path, "--workers", "2") as server:
        push(server.host, "team/app", random_image(seed=0), "v0")
        yield server.host, path


@pytest.fixture
def hatoba(e2e):
    """hatoba("verify", …): what the command says, once it has ended with `code`."""

    def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [str(part) for part in (e2e.HATOBA, *arguments)]
        done = subprocess.run(
            command, text=True, capture_output=True, check=False, env=e2e.clean_environment(), timeout=120
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


@contextlib.contextmanager
def clients(host: str):
    """Two that push, retag, mount and delete until the end; what they met is raised."""
    ended = threading.Event()
    failed: list[BaseException] = []

    def work(number: int) -> None:
        source = random.Random(number)  # noqa: S311  what a client does next
        try:
            for turn in itertools.count():
                if ended.is_set():
                    return
                image = random_image(layers=2, layer_bytes=20_000, seed=100 + source.randrange(40))
                repository = f"team/{source.choice(('one', 'two'))}"
                push(host, repository, image, "latest", f"v{turn % 5}")
                layer = image.layers[0].digest
                request(host, "POST", f"team/mounted/blobs/uploads/?mount={layer}&from={repository}", b"")
                request(host, "DELETE", f"{repository}/manifests/v{source.randrange(5)}")
                if turn % 7 == 0:
                    request(host, "DELETE", f"{repository}/manifests/{image.manifest.digest}")
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join(60)
    assert failed == []


def test_backups_beside_clients_some_of_them_killed(served, hatoba, e2e, tmp_path):
    """Each that ends is whole, and so is what a killed one leaves; a check of the registry finds nothing either."""
    host, path = served
    copy = tmp_path / "copy"
    delays = random.Random(3)  # noqa: S311  not secret
    with clients(host):
        hatoba("backup", copy, "--config", path)
        for turn in range(KILLED):
            with subprocess.Popen(
                [e2e.HATOBA, "backup", copy, "--config", path], stderr=subprocess.DEVNULL, env=e2e.clean_environment()
            ) as killed:
                e2e.wait_for(lambda: (copy / "hatoba/metadata-new.db").exists() or killed.poll() is not None, "no copy")
                time.sleep(delays.random() * 0.3)
                killed.kill()
            assert hatoba("verify", "--root", copy).stdout == ""
            if turn % 2:
                hatoba("backup", copy, "--config", path)
                checked = hatoba("verify", "--root", copy)
                assert checked.stdout == ""
                assert "yet to be written" not in checked.stderr
            assert hatoba("verify", "--config", path).stdout == ""
    hatoba("backup", copy, "--config", path)
    assert hatoba("ls", "--root", copy, "--json").stdout == hatoba("ls", "--config", path, "--json").stdout


def test_a_backup_is_served_by_hatoba_and_by_dockers_registry(served, hatoba, e2e, tmp_path, start, free_port):
    host, path = served
    for seed in range(1, 4):
        push(host, f"team/app{seed % 2}", random_image(layers=2, layer_bytes=5000, seed=seed), f"v{seed}", "latest")
    request(host, "DELETE", "team/app1/manifests/v1")
    expected = contents(host)
    copy = tmp_path / "copy"
    hatoba("backup", copy, "--config", path)
    config = tmp_path / "copy.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {copy}}}}}\nhttp: {{addr: '127.0.0.1:{free_port()}'}}\n"
    )
    server = start(e2e.HATOBA, "serve", config, name="restored").ready()
    assert contents(server.host) == expected
    assert "this folder is a backup" in server.err
    assert "a hatoba serves it" in hatoba("backup", copy, "--config", path, code=1).stderr
    assert server.stop() == 0
    hatoba("backup", copy, "--config", path)
    e2e.needed("docker-registry")
    go = start("docker-registry", "serve", config, name="go")
    e2e.wait_for(lambda: "listening on" in go.err, lambda: go.err)
    assert contents(server.host) == expected
    assert go.process.poll() is None


def test_a_rotten_layer_is_not_served_once_it_was_found_and_its_push_heals_it(served, hatoba, tmp_path):
    host, path = served
    image = random_image(seed=0)
    layer = image.layers[0]
    encoded = layer.digest.encoded
    file = tmp_path / f"data/docker/registry/v2/blobs/sha256/{encoded[:2]}/{encoded}/data"
    assert request(host, "GET", f"team/app/blobs/{layer.digest}")[2] == layer.body
    file.chmod(0o644)
    file.write_bytes(b"X" + layer.body[1:])
    found = hatoba("verify", "--config", path, code=1).stdout.split("\t")
    assert found[:2] == ["blob-rotten", str(layer.digest)]
    assert found[2].endswith("needed by team/app:v0")
    for _ in range(8):  # both workers are asked
        assert request(host, "GET", f"team/app/blobs/{layer.digest}")[0] == 404
        assert request(host, "HEAD", f"team/app/blobs/{layer.digest}")[0] == 404
    body, kind = image.manifest.body, image.manifest.media_type
    assert request(host, "PUT", "team/app/manifests/again", body, kind)[0] == 400, "nor named by a manifest"
    push(host, "team/app", image, "again")
    for _ in range(8):
        assert request(host, "GET", f"team/app/blobs/{layer.digest}")[2] == layer.body
    assert hatoba("verify", "--config", path).stdout == ""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_check_that_is_stopped_goes_on(served, hatoba, e2e, tmp_path, how):
    host, path = served
    push(host, "team/big", random_image(layers=12, layer_bytes=500_000, seed=9), "v")
    position = tmp_path / "data/hatoba/verify.json"
    command = [e2e.HATOBA, "verify", "--config", path, "--rate", "1MB"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=e2e.clean_environment()) as checking:
        e2e.wait_for(lambda: position.exists() or checking.poll() is not None, "no position was kept")
        checking.send_signal(how)
        said = checking.communicate(timeout=60)[1]
    assert checking.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert ("the next `hatoba verify` goes on where this one was" in said) is (how == signal.SIGINT)
    assert "Traceback" not in said
    after = json.loads(position.read_text())["after"]
    done = hatoba("verify", "--config", path)
    assert done.stderr.startswith(f"going on with an interrupted check, after {after}\n")
    assert not position.exists()
    assert "going on" not in hatoba("verify", "--config", path).stderr


def test_what_a_terminal_shows(served, e2e, hatoba, tmp_path):
    """A bar on the terminal, the findings above it; a finding in a pipe is a line alone."""
    host, path = served
    push(host, "team/app", random_image(layers=2, layer_bytes=300_000, seed=2), "v")
    marked = "yet to be written"  # a link with a mark is no finding
    e2e.wait_for(lambda: marked not in hatoba("verify", "--config", path).stderr, "links stay marked")
    (tmp_path / "data/docker/registry/v2/repositories/team/app/_manifests/tags/v/current/link").unlink()
    ours, theirs = os.openpty()
    command = [e2e.HATOBA, "verify", "--config", path, "--rate", "2MB"]
    environ = e2e.clean_environment(TERM="xterm", COLUMNS="80")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True, env=environ) as checking:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while block := os.read(ours, 65536):
                shown += block
        lines = checking.communicate(timeout=60)[0]
    os.close(ours)
    assert lines.count("\n") == 1
    assert lines.startswith("link-missing\t")
    assert "blobs" in shown.decode()
    assert "━" in shown.decode()
    assert "1 finding" in shown.decode()
