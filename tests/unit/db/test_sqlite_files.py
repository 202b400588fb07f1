"""Nobody opens the database's files except through SQLite, and nothing of it is open when workers fork."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# What a stray open does, shown without hatoba. The program keeps a connection open, as a serving process does, and
# commits again after a command opened the database, read it and ended. A walk or a copy in Python that opens and closes
# every file drops both of its POSIX locks, that on the database and that on the -shm: the command then thinks that
# it is the last, and removes the live WAL.

SERVING = """
import os, sys, apsw
database = apsw.Connection(sys.argv[1])
database.pragma("journal_mode", "wal")
database.execute("CREATE TABLE pushes (name TEXT) STRICT; INSERT INTO pushes VALUES ('before')")
if sys.argv[2] == "stray":
    for ending in ("", "-wal", "-shm"):
        os.close(os.open(sys.argv[1] + ending, os.O_RDONLY))
print("ready", flush=True)
sys.stdin.readline()
database.execute("INSERT INTO pushes VALUES ('acknowledged')")
print("acknowledged", flush=True)
sys.stdin.readline()
"""
COMMAND = """
import sys, apsw
database = apsw.Connection(sys.argv[1])
print(database.execute("SELECT * FROM pushes").fetchall())
database.close()
"""


@pytest.mark.parametrize(("kind", "left"), [("careful", ["before", "acknowledged"]), ("stray", ["before"])])
def test_raw_a_stray_open_loses_an_acknowledged_write(tmp_path, kind, left):
    path = str(tmp_path / "metadata.db")
    serving = [sys.executable, "-c", SERVING, path, kind]
    with subprocess.Popen(serving, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        subprocess.run([sys.executable, "-c", COMMAND, path], check=True, stdout=subprocess.DEVNULL)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "acknowledged\n"
        process.kill()
    found = subprocess.run([sys.executable, "-c", COMMAND, path], check=True, capture_output=True, text=True).stdout
    assert found.strip() == str([(name,) for name in left])


# What hatoba opens. Python reports every open, scandir, rename and so on; SQLite's own calls are C and invisible here.

AUDITED = """
import json, os, sys
events = []
def hook(event, arguments):
    if event.partition(".")[0] in {"open", "os", "shutil", "pathlib", "glob", "sqlite3"}:
        for argument in arguments:
            try:
                events.append((event, os.fsdecode(os.fspath(argument))))
            except TypeError:
                pass
sys.addaudithook(hook)
"""
ROUND = """
import asyncio, hashlib, pathlib
import httpx
from datetime import timedelta
from hatoba.wiring import parts, serving
from hatoba.blobs.filesystem import Filesystem
from hatoba.config.load import load
from hatoba.operations import mirror

root = pathlib.Path(sys.argv[1])
settings = load(None, {}, {"storage.filesystem.rootdirectory": str(root), "storage.delete.enabled": True}).settings
mirror._SETTLE_SECONDS = 0.01
KIND = "application/vnd.oci.image.manifest.v1+json"

async def push(client, content):
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    begun = await client.post("/v2/a/blobs/uploads/")
    gone_on = await client.patch(begun.headers["location"], content=content)
    assert (await client.put(gone_on.headers["location"], params={"digest": digest})).status_code == 201
    again = await client.post("/v2/b/blobs/uploads/", params={"mount": digest, "from": "a"})
    assert again.status_code == 201
    return {"mediaType": "application/octet-stream", "digest": digest, "size": len(content)}

async def serve(first):
    await serving.prepare(settings)
    async with serving.running(settings) as app:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://hatoba") as client:
            layer, config = await push(client, b"layer"), await push(client, b"{}")
            manifest = {"schemaVersion": 2, "mediaType": KIND, "config": config, "layers": [layer]}
            for tag in ("latest", "other"):
                pushed = await client.put(f"/v2/a/manifests/{tag}", json=manifest, headers={"content-type": KIND})
                assert pushed.status_code == 201
            begun = await client.post("/v2/a/blobs/uploads/")
            if first:
                assert (await client.delete(begun.headers["location"])).status_code == 204
                (root / "docker/registry/v2/repositories/a/_manifests/tags/other/current/link").unlink()
            for path in ("a/manifests/latest", "a/blobs/" + layer["digest"], "a/tags/list", "_catalog",
                         "a/referrers/" + layer["digest"]):
                assert (await client.get("/v2/" + path)).status_code == 200, path
            assert (await client.get("/healthz/ready")).status_code == 200
            await asyncio.sleep(0.5)  # links settled, the walk over all links done
            await app._registry.uploads.purge(timedelta(0))
            if not first:
                assert (await client.delete("/v2/a/manifests/other")).status_code == 202
                assert (await client.delete("/v2/b/blobs/" + layer["digest"])).status_code == 202

async def main():
    await serve(True)
    await serve(False)
    driver = Filesystem(root)
    assert [key async for key in driver.walk("")]
    await driver.stale(0)
    driver.close()

asyncio.run(main())
"""
STRAY = "open(root / 'hatoba/metadata.db').close(); os.listdir(root / 'hatoba')\n"
TELL = "print(json.dumps(events))\n"
OWN_FILES = ("metadata.db", "uploads.db")


def touched(tmp_path, program):
    """What the program did to files below the root: (event, path below the root)."""
    command = [sys.executable, "-c", program, str(tmp_path)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    return [
        (event, os.path.relpath(path, tmp_path)) for event, path in json.loads(told) if path.startswith(str(tmp_path))
    ]


def strays(events):
    """What must not be: any touch of a database's file, and any listing of the folder they lie in."""
    return [
        (event, path)
        for event, path in events
        if Path(path).name.startswith(OWN_FILES) or (event in {"os.scandir", "os.listdir"} and path == "hatoba")
    ]


def test_hatoba_opens_its_databases_through_sqlite_alone(tmp_path):
    events = touched(tmp_path, AUDITED + ROUND + TELL)
    paths = {path for _, path in events}
    assert (tmp_path / "hatoba" / "metadata.db").is_file()
    assert any(path.endswith("/data") for path in paths), "blobs were seen"
    assert "docker/registry/v2/repositories/a/_manifests/tags/other/current/link" in paths, "the walk was seen"
    assert ("os.scandir", ".") in events, "the walk over everything was seen"
    assert strays(events) == []


def test_a_stray_open_would_be_seen(tmp_path):
    events = touched(tmp_path, AUDITED + ROUND + STRAY + TELL)
    assert strays(events) == [("open", "hatoba/metadata.db"), ("os.listdir", "hatoba")]


# The fork

LOOK = """
import os, threading
def look():
    opened = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            opened.append(os.readlink(f"/proc/self/fd/{entry}"))
        except OSError:
            pass
    mapped = open("/proc/self/maps").read()
    return {
        "threads": [thread.name for thread in threading.enumerate()],
        "tasks": len(os.listdir("/proc/self/task")),
        "databases": [path for path in opened if ".db" in path] + ["mapped"] * (".db-shm" in mapped),
    }
"""
PREPARED = """
import json, sys
from hatoba.cli import main
from hatoba.workers import Workers
def serve(self, *arguments, **keywords):
    print(json.dumps(look()), flush=True)
Workers.serve = serve
sys.argv = ["hatoba", "serve", "--root", sys.argv[1], "--addr", "127.0.0.1:0", "--workers", "2"]
main()
"""
STRAY_CONNECTION = """
import asyncio
from hatoba.wiring import parts, serving
prepare = serving.prepare
async def leaking(settings):
    await prepare(settings)
    root = parts.root_of(settings)
    global kept
    kept = parts.open_metadata(settings, root)
    await kept.migrate()
serving.prepare = leaking
"""


def looked(tmp_path, program):
    command = [sys.executable, "-c", program, str(tmp_path / "root")]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("REGISTRY_")}
    told = subprocess.run(command, check=True, capture_output=True, text=True, env=environ).stdout
    return next(json.loads(line) for line in told.splitlines() if line.startswith("{"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")
def test_nothing_is_open_and_no_thread_runs_when_workers_fork(tmp_path):
    assert looked(tmp_path, LOOK + PREPARED) == {"threads": ["MainThread"], "tasks": 1, "databases": []}
    assert (tmp_path / "root" / "hatoba" / "metadata.db").is_file()
    assert not (tmp_path / "root" / "hatoba" / "metadata.db-wal").exists()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")
def test_a_connection_left_open_would_be_seen(tmp_path):
    found = looked(tmp_path, LOOK + STRAY_CONNECTION + PREPARED)
    assert found["tasks"] == 2
    assert "hatoba-write-metadata" in found["threads"]
    assert any(path.endswith("metadata.db") for path in found["databases"])


FORKING = """
import json, os, sys
from hatoba import server
from hatoba.config.load import load
def before():
    print(json.dumps(look()), flush=True)
os.register_at_fork(before=before, after_in_child=lambda: print(json.dumps({"worker": os.getpid()}), flush=True))
values = {"storage.filesystem.rootdirectory": sys.argv[1], "http.addr": "127.0.0.1:0", "log.accesslog.disabled": True}
server.serve(load(None, {}, values).settings, lambda: None)
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")
def test_nor_when_a_killed_worker_is_started_again(tmp_path):
    """granian has a thread for each worker that waits for its end; nothing else may run, and no database be open."""
    command = [sys.executable, "-c", LOOK + FORKING, str(tmp_path / "root")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            for _ in range(2):
                found = json.loads(server.stdout.readline())
                assert [name for name in found["threads"] if "(_watcher)" not in name] == ["MainThread"]
                assert found["databases"] == []
                worker = json.loads(server.stdout.readline())["worker"]
                _serving(tmp_path / "root")
                os.kill(worker, signal.SIGKILL)
        finally:
            server.terminate()
            server.communicate(timeout=30)


def _serving(root):
    """Wait until a worker has the database open."""
    deadline = time.monotonic() + 30
    while not (root / "hatoba" / "metadata.db-wal").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
