"""The image: what is in it and what is not, which file it serves, as whom, and whether Docker calls it healthy."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from importlib import metadata

import pytest

MIB = 1024 * 1024
PORT = "127.0.0.1:5000"
BLOB = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # of {}


@pytest.fixture
def run(town, image):
    """run(…options, command=…): a container that does something and ends."""

    def run_(*options, command=(), check: bool = True, stdin: str | None = None):
        network = () if "--network" in options else ("--network", "none")
        return town("run", "--rm", *network, *options, image, *command, check=check, stdin=stdin)

    return run_


@pytest.fixture
def started(town, image, e2e):
    """started(…options): a container that serves on the town's port 5000; its name."""
    names = []

    def start(*options) -> str:
        name = f"registry-{len(names)}"
        names.append(name)
        town("run", "--detach", "--name", name, "--network", "host", *options, image)
        e2e.wait_for(
            lambda: "listening on" in town("logs", name).stderr or state(town, name) != "running",
            lambda: town("logs", name).stderr,
            60,
        )
        return name

    yield start
    for name in names:
        town("rm", "--force", "--volumes", name)


@pytest.fixture
def folder(tmp_path_factory):
    """A data folder that every user reaches."""
    path = tmp_path_factory.mktemp("served")
    for closed in (path, *path.parents[:2]):
        closed.chmod(0o755)
    return path


def state(town, name: str) -> str:
    return town("inspect", "--format", "{{.State.Status}}", name).stdout.strip()


def push(town, *, port: str = PORT) -> subprocess.CompletedProcess[str]:
    """Push a blob as a client in the town's network does."""
    address = f"http://{port}/v2/team/app/blobs/uploads/?digest={BLOB}"
    program = f"import urllib.request as u; print(u.urlopen(u.Request({address!r}, b'{{}}', method='POST')).status)"
    return subprocess.run(town.inside("python3", "-c", program), text=True, capture_output=True, check=False)


def owners(folder) -> set[int]:
    return {path.lstat().st_uid for path in folder.rglob("*")}


def test_what_is_in_it(town, image, base_image):
    (made,) = json.loads(town("image", "inspect", image).stdout)
    (base,) = json.loads(town("image", "inspect", base_image).stdout)
    assert made["RootFS"]["Layers"][:-1] == base["RootFS"]["Layers"], "one layer, and nothing of what built it"
    assert (made["Size"] - base["Size"]) / MIB <= 80
    config = made["Config"]
    assert config["Entrypoint"] == ["registry"]
    assert config["Cmd"] == ["serve", "/etc/distribution/config.yml"]
    assert "REGISTRY_CONFIGURATION_PATH=/etc/distribution/config.yml" in config["Env"]
    assert config["ExposedPorts"] == {"5000/tcp": {}}
    assert config["Volumes"] == {"/var/lib/registry": {}}
    assert config["Healthcheck"]["Test"] == ["CMD", "/opt/hatoba/bin/python", "-m", "hatoba.health"]
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in config["Labels"].items()}
    assert labels == {
        "title": "hatoba",
        "description": "A self-hosted OCI / Docker container registry: one process, one folder.",
        "licenses": "Apache-2.0",
        "version": metadata.version("hatoba"),
    }
    history = town("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).stdout
    assert "PIP_" not in history
    assert "wheels" not in history


def test_nothing_that_builds_is_left(run):
    script = (
        "ls -d /src /wheels /hatoba /build /root/.cache /root/.config;"
        "/opt/hatoba/bin/python -m pip; /opt/hatoba/bin/python -m hatchling; env"
    )
    found = run("--entrypoint", "sh", command=["-c", script])
    assert found.stderr.count("No such file or directory") == 6
    assert "No module named pip" in found.stderr
    assert "No module named hatchling" in found.stderr
    assert "PIP" not in found.stdout


@pytest.mark.parametrize("what", ["folder", "file"])
@pytest.mark.parametrize(
    ("place", "told"),
    [("/etc/docker/registry", "/etc/distribution"), ("/etc/distribution", "/etc/docker/registry")],
)
def test_what_is_mounted_at_either_place_is_read_at_both(run, tmp_path, place, what, told):
    path = tmp_path / "config.yml"
    path.write_text("version: 0.1\nhttp: {addr: ':5999'}\n")
    mount = f"{tmp_path}:{place}:ro" if what == "folder" else f"{path}:{place}/config.yml:ro"
    options = ["--volume", mount, "--entrypoint", "hatoba"]
    for command in (["check-config", "--json"], ["check-config", "--json", f"{told}/config.yml"]):
        done = run(*options, command=command)
        settings = {row["key"]: (row["value"], row["source"]) for row in json.loads(done.stdout)}
        assert settings["http.addr"] == (":5999", "file")
        assert done.stderr == ""


def test_what_it_serves_unless_told_otherwise(run):
    done = run("--entrypoint", "hatoba", command=["check-config", "--json"])
    settings = {row["key"]: row["value"] for row in json.loads(done.stdout) if row["source"] != "default"}
    assert settings == {
        "version": "0.1",
        "storage.filesystem.rootdirectory": "/var/lib/registry",
        "http.addr": ":5000",
        "http.headers.X-Content-Type-Options": ["nosniff"],
        "hatoba.addressfile": "/dev/shm/hatoba-address",  # noqa: S108
    }
    assert done.stderr == ""


def test_it_is_called_as_dockers_image_is(run, started, town):
    assert run(command=["--version"]).stdout.startswith("hatoba ")
    done = run(command=["/etc/docker/registry/absent.yml"], check=False)
    assert (done.returncode, done.stderr) == (2, "hatoba: /etc/docker/registry/absent.yml: no such file\n")
    name = started()
    collected = town("exec", name, "bin/registry", "garbage-collect", "/etc/docker/registry/config.yml", check=False)
    assert collected.returncode == 1
    assert collected.stderr.startswith("registry: nothing was removed")


def test_an_htpasswd_command_is_inside(run, folder):
    assert run("--entrypoint", "htpasswd", command=["-Bbn", "busy", "bee"]).stdout.startswith("busy:$2y$")
    inside = ["--entrypoint", "htpasswd", "--volume", f"{folder}:/auth"]
    made = run(*inside, "--interactive", command=["-Bci", "/auth/registry.password", "busy"], stdin="bee\n")
    assert made.stderr == "Adding password for user busy\n"
    assert run(*inside, command=["-vb", "/auth/registry.password", "busy", "bee"]).returncode == 0


@pytest.mark.parametrize("owner", [0, 1000])
def test_root_serves_as_the_owner_of_the_folder(started, town, folder, owner):
    os.chown(folder, owner, owner)
    name = started("--volume", f"{folder}:/var/lib/registry")
    assert push(town).stdout == "201\n"
    assert owners(folder) == {owner}
    uids = town("exec", name, "sh", "-c", "cat /proc/[0-9]*/status | grep ^Uid:").stdout.splitlines()
    assert sum(line.split()[1:] == [str(owner)] * 4 for line in uids) >= 2, "the server and its worker"
    assert ("serving as the owner of the data folder" in town("logs", name).stderr) == bool(owner)
    assert town("stop", name).returncode == 0
    assert town("inspect", "--format", "{{.State.ExitCode}}", name).stdout == "0\n"


def test_a_tree_of_roots_in_a_folder_of_somebody(started, town, folder):
    """What Docker's registry, as root, leaves in a folder that somebody made."""
    os.chown(folder, 1000, 1000)
    (folder / "docker/registry/v2/repositories").mkdir(parents=True)
    (folder / "docker/registry/v2/blobs").mkdir()
    started("--volume", f"{folder}:/var/lib/registry")
    assert push(town).stdout == "201\n"


@pytest.mark.parametrize(
    "options",
    [
        ("--user", "1000:1000"),
        ("--user", "1000:1000", "--read-only", "--tmpfs", "/tmp"),  # noqa: S108
        ("--read-only", "--tmpfs", "/tmp"),  # noqa: S108
        ("--user", "1000:1000", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only"),
    ],
    ids=" ".join,
)
def test_it_runs_as_others_and_read_only(started, town, folder, options):
    os.chown(folder, 1000, 1000)
    name = started(*options, "--volume", f"{folder}:/var/lib/registry")
    assert push(town).stdout == "201\n"
    assert owners(folder) == {1000}
    assert town("exec", name, "/opt/hatoba/bin/python", "-m", "hatoba.health").returncode == 0
    assert "level=error" not in town("logs", name).stderr


def test_a_user_who_may_not_write_hears_what_to_type(run, folder):
    done = run("--user", "65532:65532", "--volume", f"{folder}:/var/lib/registry", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "hatoba: /var/lib/registry belongs to uid 0 and cannot be written by uid 65532: "
        "chown -R 65532:65532 /var/lib/registry, or on a container's host the folder that is mounted there\n"
    )


def test_a_password_file_that_its_user_cannot_read(run, folder):
    os.chown(folder, 1000, 1000)
    secret = folder / "registry.password"
    secret.write_text("busy:x\n")
    secret.chmod(stat.S_IRUSR)
    os.chown(secret, 0, 0)
    variables = [
        f"--env=REGISTRY_AUTH{rest}"
        for rest in ("=htpasswd", "_HTPASSWD_REALM=R", "_HTPASSWD_PATH=/var/lib/registry/registry.password")
    ]
    done = run("--volume", f"{folder}:/var/lib/registry", *variables, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "hatoba: /var/lib/registry/registry.password: cannot be read by uid 1000: Permission denied"
    )


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("REGISTRY_HTTP_ADDR=127.0.0.1:5998",),
        ("REGISTRY_HTTP_NET=unix", "REGISTRY_HTTP_ADDR=/dev/shm/socket"),
    ],
    ids=lambda settings: " ".join(settings) or "default",
)
def test_docker_finds_it_healthy(started, town, e2e, settings):
    variables = [word for setting in settings for word in ("--env", setting)]
    name = started(*variables, "--health-interval", "1s")
    status = ("inspect", "--format", "{{.State.Health.Status}}", name)
    e2e.wait_for(lambda: town(*status).stdout == "healthy\n", lambda: town("inspect", name).stdout, 60)
