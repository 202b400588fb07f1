"""Importing hatoba does nothing: no file is written, no socket opened, no thread or process started, nothing logged."""

import json
import os
import subprocess
import sys

import pytest

IMPORTING = """
import importlib, json, logging, os, pkgutil, sys, threading
LOUD = ("socket.", "subprocess.", "os.fork", "os.exec", "os.system", "os.posix_spawn", "os.mkdir", "os.rename",
        "os.remove", "os.truncate", "os.chmod", "os.link", "os.symlink", "os.putenv", "os.kill", "shutil.", "tempfile.",
        "sqlite3.", "signal.", "fcntl.")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
events, current = [], "nothing"

def hook(event, arguments):
    loud = event.startswith(LOUD)
    if event == "open":
        path, mode, flags = arguments
        loud = bool((flags or 0) & WRITING) or bool(mode and set(mode) & set("wax+"))
    if loud:
        events.append(f"{current}: {event} {arguments!r}"[:200])

def recorded(real):  # Python 3.11 reports no threads by itself
    def start(*arguments, **keywords):
        events.append(f"{current}: a thread")
        return real(*arguments, **keywords)
    return start

for module, name in ((threading, "_start_new_thread"), (threading, "_start_joinable_thread")):
    if hasattr(module, name):
        setattr(module, name, recorded(getattr(module, name)))

def state():
    return {
        "threads": [thread.name for thread in threading.enumerate()],
        "handlers": len(logging.getLogger().handlers),
        "level": logging.getLogger().level,
        "descriptors": len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0,
        "folder": os.getcwd(),
        "environment": dict(os.environ),
    }

sys.addaudithook(hook)
before = state()
import hatoba
found = [module.name for module in pkgutil.walk_packages(hatoba.__path__, "hatoba.")]
names = [name for name in found if name != "hatoba.__main__" and not name.startswith("hatoba.testing")]
for current in names:
    importlib.import_module(current)
current = "nothing"
after = state()
changed = [key for key in before if before[key] != after[key]]
print(json.dumps({"names": names, "events": events, "changed": changed}))
"""


def imported(source=None, folder=None):
    """What importing every module did, in a process of its own; `source` goes before the installed hatoba."""
    path = [str(source)] if source else []
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "REGISTRY_"))}
    environ |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": os.pathsep.join(path)}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING], check=True, capture_output=True, text=True, env=environ, cwd=folder
    )
    assert done.stderr == ""
    told, *rest = done.stdout.splitlines()
    assert rest == []
    return json.loads(told)


def test_importing_does_nothing(tmp_path, sources):
    told = imported(folder=tmp_path)
    expected = {source.name for source in sources if not source.within("testing/", "__main__")}
    assert {name.replace(".", "/") for name in told["names"]} == {
        f"hatoba/{name.removesuffix('.py').removesuffix('/__init__')}" for name in expected if name != "__init__.py"
    }
    assert told["events"] == []
    assert told["changed"] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("plant", "event"),
    [
        ("import threading\nthreading.Thread(target=print, args=('',), kwargs={'end': ''}).start()", "a thread"),
        ("from concurrent.futures import ThreadPoolExecutor as E\nE(1).submit(int).result()", "a thread"),
        ("import socket\nS = socket.socket()\nS.close()", "socket."),
        ("import os\nos.makedirs('hatoba-data', exist_ok=True)", "os.mkdir"),
        ("open('/dev/null', 'a').close()", "open"),
        ("import os\nos.close(os.open('/dev/null', os.O_RDWR))", "open"),
        ("import subprocess, sys\nsubprocess.run([sys.executable, '-c', ''])", "subprocess.Popen"),
    ],
)
def test_what_a_module_does_would_be_seen(copy, tmp_path, plant, event):
    root = copy({"oci/digest.py": plant})
    told = imported(root / "src", tmp_path)
    assert any(event in found for found in told["events"])


@pytest.mark.parametrize(
    ("plant", "changed"),
    [
        ("import logging\nlogging.basicConfig()", "handlers"),
        ("import os\nos.chdir('/')", "folder"),
        ("F = open('/dev/null')", "descriptors"),
    ],
)
def test_what_a_module_leaves_would_be_seen(copy, tmp_path, plant, changed):
    root = copy({"oci/digest.py": plant})
    assert changed in imported(root / "src", tmp_path)["changed"]
