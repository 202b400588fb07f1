"""Health and metrics of the real thing: all workers together, whoever of them is killed, and Docker's own names."""

import concurrent.futures
import json
import os
import re
import signal
import urllib.error
import urllib.request

import pytest

EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
DEBUG = "http: {{addr: '127.0.0.1:0', debug: {{addr: '127.0.0.1:{port}', prometheus: {{enabled: true}}}}}}\n"
FAMILIES = ("registry_http_", "registry_storage_action_")
OURS = [("registry_http_in_flight_requests", ("handler", "referrers"))]


def shape(key):
    """A series without what is not at stake: how requests are answered, and what is done on the disk for them."""
    name, *labels = key
    return name, *((label, "" if label in {"code", "action"} else value) for label, value in labels)


def fetch(url, method="GET", content=None):
    """Status and body."""
    asked = urllib.request.Request(url, method=method, data=content)  # noqa: S310
    asked.add_header("Content-Type", "application/octet-stream")
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture
def debug_port(free_port, config):
    """A port, and a configuration with it and more."""
    port = free_port()
    return f"http://127.0.0.1:{port}", lambda more="": config("auth: {none: {}}\n" + DEBUG.format(port=port) + more)


def metrics(url):
    """Name with labels -> value."""
    status, text = fetch(f"{url}/metrics")
    assert status == 200
    pairs = re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE)
    return {(name, *sorted(re.findall(r'(\w+)="([^"]*)"', labels))): float(value) for name, labels, value in pairs}


def pings(found):
    labels = ("code", "200"), ("handler", "base"), ("method", "get")
    return found.get(("registry_http_requests_total", *labels), 0.0)


def ping_often(server, times):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: fetch(f"http://{server.host}/v2/")[0], range(times)))
    assert answers == [200] * times


def test_counts_are_exact_over_workers_that_are_killed_and_replaced(serving, debug_port, e2e):
    url, configure = debug_port
    with serving(None, configure("hatoba: {workers: 2}\n")) as server:
        ping_often(server, 200)
        assert pings(metrics(url)) == 200
        os.kill(server.workers[0], signal.SIGKILL)
        assert pings(metrics(url)) == 200
        starts = "hatoba_worker_starts_total"
        e2e.wait_for(lambda: metrics(url)[starts,] == 3, "the killed worker is not replaced")
        ping_often(server, 100)
        found = metrics(url)
        assert pings(found) == 300
        before = found["process_cpu_seconds_total",]
        server.process.send_signal(signal.SIGHUP)

        def replaced():
            found = metrics(url)
            assert pings(found) == 300
            return found[starts,] == 5 and found["hatoba_workers",] == 2

        e2e.wait_for(replaced, "SIGHUP replaces no workers")
        ping_often(server, 50)
        found = metrics(url)
        assert pings(found) == 350
        assert found["registry_http_in_flight_requests", ("handler", "base")] == 0
        assert found["process_cpu_seconds_total",] >= before


def test_the_numbers_of_rows_and_of_what_was_done(serving, debug_port):
    url, configure = debug_port
    with serving(None, configure()) as server:
        assert fetch(f"http://{server.host}/v2/a/blobs/uploads/?digest={EMPTY}", "POST", b"")[0] == 201
        assert fetch(f"http://{server.host}/v2/a/blobs/uploads/", "POST", b"")[0] == 202
        found = metrics(url)
    assert found["hatoba_repositories",] == found["hatoba_blobs",] == found["hatoba_uploads_open",] == 1
    assert found["hatoba_ready",] == found["hatoba_workers",] == 1
    assert found["hatoba_storage_size_bytes",] > found["hatoba_storage_free_bytes",] > 0
    assert found["process_resident_memory_bytes",] > 2**24
    assert found["process_max_fds",] > found["process_open_fds",] > 0
    assert found["registry_storage_action_seconds_count", ("action", "Move"), ("driver", "filesystem")] == 1
    assert found["hatoba_database_write_seconds_count", ("database", "metadata")] > 0


def test_health_tells_of_a_folder_that_is_gone(serving, debug_port, e2e, tmp_path):
    url, configure = debug_port
    health = "health: {storagedriver: {interval: 100ms, threshold: 2}}\n"
    with serving(None, configure(health)) as server:
        assert fetch(f"{url}/debug/health") == (200, "{}")
        (tmp_path / "data").rename(tmp_path / "elsewhere")
        try:
            e2e.wait_for(lambda: fetch(f"{url}/debug/health")[0] == 503, "a missing folder is healthy")
            problems = json.loads(fetch(f"{url}/debug/health")[1])
            wrong = "the storage cannot be read: No such file or directory"
            assert problems["storagedriver_filesystem"] == wrong
            status, text = fetch(f"http://{server.host}/healthz/ready")
            assert (status, wrong in text) == (503, True)
            assert fetch(f"http://{server.host}/healthz/live")[0] == 200
        finally:
            (tmp_path / "elsewhere").rename(tmp_path / "data")
        e2e.wait_for(lambda: fetch(f"{url}/debug/health") == (200, "{}"), "it does not become healthy again")


def test_in_memory(start, free_port, tmp_path, e2e):
    path, port = tmp_path / "config.yml", free_port()
    path.write_text("version: 0.1\nstorage: {inmemory: {}}\nauth: {none: {}}\n" + DEBUG.format(port=port))
    server = start(e2e.HATOBA, "serve", path).ready()
    assert fetch(f"http://127.0.0.1:{port}/debug/health") == (200, "{}")
    found = metrics(f"http://127.0.0.1:{port}")
    assert found["hatoba_blobs",] == 0
    assert ("hatoba_storage_free_bytes",) not in found
    assert server.stop() == 0


def test_a_port_in_use_is_one_line(start, debug_port, e2e, tmp_path):
    _, configure = debug_port
    path = configure()
    first = start(e2e.HATOBA, "serve", path).ready()
    again = path.with_name("again.yml")
    again.write_text(path.read_text().replace(str(tmp_path / "data"), str(tmp_path / "other")))
    second = start(e2e.HATOBA, "serve", again, name="second")
    assert second.process.wait(60) == 1
    (line,) = second.err.splitlines()
    assert re.search(r"cannot listen on 127\.0\.0\.1:\d+: Address already in use; http\.debug\.addr", line)
    assert first.stop() == 0


def test_names_labels_and_buckets_are_those_of_dockers_registry(serving, start, debug_port, free_port, e2e, tmp_path):
    e2e.needed("docker-registry")
    theirs, path = free_port(), tmp_path / "theirs.yml"
    port = free_port()
    path.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path / 'theirs'}}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}', debug: {{addr: '127.0.0.1:{theirs}', prometheus: {{enabled: true}}}}}}\n"
    )
    docker = start("docker-registry", "serve", path, name="docker-registry")
    e2e.wait_for(lambda: "listening on" in docker.err, lambda: docker.err)
    url, configure = debug_port
    with serving(None, configure()) as server:
        found = []
        for host, where in ((server.host, url), (f"127.0.0.1:{port}", f"http://127.0.0.1:{theirs}")):
            for path_, method in (
                ("", "GET"), ("_catalog", "GET"), ("a/tags/list", "GET"), ("a/manifests/x", "GET"),
                ("a/manifests/x", "PUT"), (f"a/blobs/{EMPTY}", "HEAD"), ("a/blobs/uploads/", "POST"),
                ("a/blobs/uploads/00000000-0000-0000-0000-000000000000", "GET"), ("", "DELETE"),
            ):  # fmt: skip
                fetch(f"http://{host}/v2/{path_}", method)
            found.append({shape(key) for key in metrics(where) if key[0].startswith(FAMILIES)})
    assert found[0] - {shape(key) for key in OURS} == found[1]
    assert len(found[1]) > 300
