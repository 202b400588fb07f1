"""The first minute: nothing configured, three commands printed, and what the second minute and a second server hear."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import os
import re
import signal
import socket
import stat
import subprocess
import time

import pytest


def get(host: str, path: str, user: str = "", password: str = "") -> int:
    connection = http.client.HTTPConnection(host, timeout=20)
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    connection.request("GET", path, headers={"Authorization": f"Basic {token}"} if user else {})
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.fixture
def home(tmp_path):
    """The empty folder of somebody who tries hatoba."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def hatoba(e2e, home):
    """hatoba("users", …) runs a command to its end in `home`; what it printed."""

    def run(*arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            [str(e2e.HATOBA), *arguments], cwd=home, input=stdin, text=True, capture_output=True, check=False,
            env=e2e.clean_environment(), timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_the_three_printed_commands_work(serving, docker, build, free_port, home, tmp_path):
    build("hello-world")
    options = {"folder": home, "env": {"HOME": str(home)}}
    with serving(None, "--addr", f"127.0.0.1:{free_port()}", **options) as server:
        password = server.password
        assert len(password) >= 20
        login, tag, push = [line.strip() for line in server.out.splitlines() if line.strip().startswith("docker ")]
        name = f"{server.host}/hello-world"
        assert login.split()[:3] == ["docker", "login", server.host]
        assert tag.split() == ["docker", "tag", "hello-world", name]
        assert push.split() == ["docker", "push", name]
        assert "Login Succeeded" in docker.shell(f"{login} --password-stdin", stdin=password).stdout
        docker.shell(tag)
        digest = re.search(r"digest: (sha256:\w+)", docker.shell(push).stdout)[1]
        docker("rmi", "-f", "hello-world", name)
        assert digest in docker("pull", name).stdout
        assert docker("run", "--rm", name, "echo", "it works").stdout == "it works\n"
    assert server.out.count(password) == 1
    assert password not in server.err
    assert (home / "hatoba-data/docker/registry/v2/repositories/hello-world").is_dir()
    for path in home.rglob("*"):
        assert not path.is_file() or password.encode() not in path.read_bytes(), path
    assert [path.name for path in home.iterdir()] == ["hatoba-data"]


def test_second_start_names_the_file_and_the_command(serving, hatoba, free_port, home):
    addr = f"127.0.0.1:{free_port()}"
    with serving(None, "--addr", addr, folder=home, name="first") as first:
        password = first.password
    htpasswd = home / "hatoba-data/hatoba/htpasswd"
    assert stat.S_IMODE(htpasswd.stat().st_mode) == 0o600
    with serving(None, "--addr", addr, folder=home, name="second") as second:
        assert "password " not in second.out.replace("a new password:", "")
        assert password not in second.out + second.err
        assert "hatoba-data/hatoba/htpasswd" in second.out
        assert second.out.count("docker ") == 3
        assert get(addr, "/v2/", "admin", password) == 200
        command = re.search(r"hatoba (users add admin.*)", second.out)[1]
        hatoba(*command.split(), "--password-stdin", stdin="a better one\n")
        assert get(addr, "/v2/", "admin", "a better one") == 200
        assert get(addr, "/v2/", "admin", password) == 401
    assert stat.S_IMODE(htpasswd.stat().st_mode) == 0o600


def test_root_by_environment_goes_before_the_option(serving, free_port, tmp_path):
    variable = {"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": str(tmp_path / "variable")}
    with serving(tmp_path / "option", "--addr", f"127.0.0.1:{free_port()}", env=variable):
        pass
    assert (tmp_path / "variable/hatoba/metadata.db").exists()
    assert (tmp_path / "variable/hatoba/htpasswd").exists()
    assert not (tmp_path / "option").exists()


def test_with_a_file_the_option_goes_before_the_environment(serving, config, free_port, tmp_path):
    variable = {"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": str(tmp_path / "variable")}
    with serving(tmp_path / "option", config(), "--addr", f"127.0.0.1:{free_port()}", env=variable):
        pass
    assert (tmp_path / "option/hatoba/metadata.db").exists()
    assert not (tmp_path / "variable").exists()


def test_second_server_on_the_same_folder(serving, start, e2e, free_port, tmp_path):
    root = tmp_path / "data"
    with serving(root, "--addr", f"127.0.0.1:{free_port()}", "--workers", "2") as first:
        second = start(e2e.HATOBA, "serve", "--root", root, "--addr", f"127.0.0.1:{free_port()}", name="second")
        assert second.process.wait(20) == 1
        assert second.err == f"hatoba: {root} is served by another hatoba, pid {first.process.pid}\n"
        assert second.out == ""
        assert get(first.host, "/v2/") == 401
    # And it was the lock of a living process, not a file that is left behind.
    with serving(root, "--addr", f"127.0.0.1:{free_port()}", name="third"):
        pass


def test_broken_database_is_named_with_the_reason(start, e2e, free_port, tmp_path):
    (tmp_path / "data/hatoba").mkdir(parents=True)
    (tmp_path / "data/hatoba/metadata.db").write_bytes(b"no database " * 1000)
    server = start(e2e.HATOBA, "serve", "--root", tmp_path / "data", "--addr", f"127.0.0.1:{free_port()}")
    assert server.process.wait(20) == 1
    (line,) = server.err.splitlines()
    assert str(tmp_path / "data/hatoba") in line
    assert "file is not a database" in line


def test_port_in_use(start, e2e, tmp_path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        server = start(e2e.HATOBA, "serve", "--addr", f"127.0.0.1:{port}")
        assert server.process.wait(20) == 1
    (line,) = server.err.splitlines()
    assert f"127.0.0.1:{port}" in line
    assert "--addr" in line
    assert "password" not in server.out
    assert not (tmp_path / "hatoba-data/hatoba/htpasswd").exists(), "its password would never be shown"


@pytest.mark.parametrize("program", ["HATOBA", "REGISTRY"])
def test_file_without_auth_is_anonymous_with_a_warning(serving, config, e2e, free_port, program):
    port = free_port()
    with serving(None, config(f"http: {{addr: ':{port}'}}\n"), program=getattr(e2e, program)) as server:
        assert {get(f"{host}:{port}", "/v2/") for host in ("127.0.0.1", "[::1]")} == {200}
        (warning,) = [line for line in server.err.splitlines() if "NO AUTHENTICATION" in line]
        assert "level=warning" in warning
        assert f"listening on [::]:{port}" in server.err
    assert server.out.count("docker ") == 0


def test_registry_with_a_file_alone_serves_it(start, config, e2e, free_port):
    """As the entry point of Docker's image has it: `registry FILE.yml`."""
    server = start(e2e.REGISTRY, config(f"http: {{addr: '127.0.0.1:{free_port()}'}}\n")).ready()
    assert get(server.host, "/v2/") == 200
    assert server.stop() == 0


def test_registry_garbage_collect_removes_nothing(start, config, e2e):
    server = start(e2e.REGISTRY, "garbage-collect", "--delete-untagged", config())
    assert server.process.wait(20) == 1
    assert "nothing was removed" in server.err


def test_check_config_beside_what_kubernetes_injects(start, e2e, home):
    environ = {"REGISTRY_PORT": "tcp://10.0.0.1:5000", "REGISTRY_HATOBA_WORKERS": "2"}
    checked = start(e2e.HATOBA, "check-config", folder=home, **environ)
    assert checked.process.wait(20) == 0
    (line,) = [line for line in checked.out.splitlines() if line.startswith("hatoba.workers ")]
    assert line.split()[1:] == ["2", "environment", "REGISTRY_HATOBA_WORKERS"]
    assert checked.err.count("REGISTRY_PORT") == 1
    assert list(home.iterdir()) == []


def test_a_password_is_made_without_a_terminal(serving, hatoba, free_port, home):
    with serving(None, "--addr", f"127.0.0.1:{free_port()}", folder=home) as server:
        password = hatoba("users", "add", "robot").removesuffix("\n")
        assert get(server.host, "/v2/", "robot", password) == 200


def test_file_without_auth_on_loopback_does_not_warn(serving, config, free_port):
    with serving(None, config(f"http: {{addr: '127.0.0.1:{free_port()}'}}\n")) as server:
        assert get(server.host, "/v2/") == 200
    assert "NO AUTHENTICATION" not in server.err


def test_file_without_address_means_port_5000_everywhere(start, config, e2e):
    with socket.socket() as holder:
        with contextlib.suppress(OSError):  # somebody else has it: as good
            holder.bind(("127.0.0.1", 5000))
            holder.listen()
        server = start(e2e.REGISTRY, "serve", config())
        assert server.process.wait(20) == 1
    assert "cannot listen on [::]:5000:" in server.err


def test_htpasswd_file_that_is_missing_is_made(serving, free_port, tmp_path):
    path = tmp_path / "auth/registry.password"
    settings = {
        "REGISTRY_AUTH": "htpasswd",
        "REGISTRY_AUTH_HTPASSWD_REALM": "Registry Realm",
        "REGISTRY_AUTH_HTPASSWD_PATH": str(path),
    }
    with serving(tmp_path / "data", "--addr", f"127.0.0.1:{free_port()}", env=settings) as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        password = re.search(r"password=(\S+)", server.err)[1]
        assert get(server.host, "/v2/", "admin", password) == 200
        assert get(server.host, "/v2/") == 401
    assert (server.err + server.out).count(password) == 1


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("auth: {token: {realm: x, service: y, issuer: z}}\n", "auth.token"),
        ("auth: {token: {}}\n", "auth.token"),
        ("http: {addr: 5000x}\n", "http.addr"),
        ("http: {tls: {certificate: a, key: b}}\n", "a cannot be read"),
        ("http: {tls: {letsencrypt: {email: a}}}\n", "http.tls.letsencrypt"),
    ],
)
def test_settings_that_are_wrong_or_not_built(start, config, e2e, text, key):
    server = start(e2e.HATOBA, "serve", config(text))
    assert server.process.wait(20) == 2
    (line,) = server.err.splitlines()
    assert key in line


def test_users_change_while_two_workers_serve(serving, hatoba, free_port, home):
    with serving(None, "--addr", f"127.0.0.1:{free_port()}", "--workers", "2", folder=home) as server:
        # A connection each: both workers are asked, and both remember that there is no bob.
        assert {get(server.host, "/v2/", "bob", "correct horse") for _ in range(4)} == {401}
        hatoba("users", "add", "bob", "--password-stdin", stdin="correct horse\n")
        assert hatoba("users", "list").split() == ["admin", "bob"]
        assert {get(server.host, "/v2/", "bob", "correct horse") for _ in range(20)} == {200}
        hatoba("users", "remove", "bob")
        # After some of these the door closes: 429, which is no way in either.
        assert {get(server.host, "/v2/", "bob", "correct horse") for _ in range(20)} <= {401, 429}


@pytest.mark.parametrize("sent", [b"", b"G", b"PRI * HT", b"GET /v2/ HTTP/1.1\r\nHost: x\r\n"])
def test_connection_that_sends_no_request_is_closed(serving, config, free_port, sent):
    addr = f"127.0.0.1:{free_port()}"
    path = config(f"http: {{addr: '{addr}'}}\nhatoba: {{limits: {{headertimeout: 1s}}}}\n")
    host, port = addr.split(":")
    with serving(None, path), socket.create_connection((host, int(port)), 20) as connection:
        connection.sendall(sent)
        while connection.recv(4096):
            pass


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_lets_an_upload_finish(serving, config, free_port, workers):
    addr = f"127.0.0.1:{free_port()}"
    host, port = addr.split(":")
    path = config(f"http: {{addr: '{addr}'}}\nhatoba: {{workers: {workers}}}\n")
    body = os.urandom(20)
    with serving(None, path, name="first") as server, socket.create_connection((host, int(port)), 30) as connection:
        connection.sendall(b"POST /v2/x/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        location = re.search(rb"(?i)location: (\S+)", connection.recv(4096))[1]
        connection.sendall(b"PATCH " + location + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n" + body[:1])
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        for position in range(1, len(body)):
            time.sleep(0.1)
            assert server.process.poll() is None, "ended while an upload was under way"
            connection.sendall(body[position : position + 1])
        answer = connection.recv(4096)
        assert b" 202 " in answer.splitlines()[0]
        assert b"range: 0-19" in answer.lower()
        assert server.end() == 0
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    with serving(None, path, name="second"):
        connection = http.client.HTTPConnection(addr, timeout=20)
        connection.request("PUT", f"{location.decode()}?digest={digest}")
        assert connection.getresponse().status == 201
        connection.close()


def test_access_log_has_one_line_a_request(serving, config, free_port):
    with serving(None, config(f"http: {{addr: '127.0.0.1:{free_port()}'}}\n")) as server:
        assert get(server.host, "/v2/some/app/manifests/v1", "bob", "topsecret") == 404
    (line,) = [line for line in server.out.splitlines() if "/v2/some/app/manifests/v1" in line]
    for part in ("id=", "user=-", "client=127.0.0.1", "repository=some/app", "action=pull", "status=404", "ms="):
        assert part in line
    assert "topsecret" not in server.out + server.err
    assert base64.b64encode(b"bob:topsecret").decode() not in server.out + server.err


def test_tls_on_the_plain_port_is_no_stack_trace(serving, config, free_port):
    port = free_port()
    with serving(None, config(f"http: {{addr: '127.0.0.1:{port}'}}\n")) as server:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(200))
            connection.settimeout(10)
            connection.recv(100)
        assert get(server.host, "/v2/") == 200
    assert "Traceback" not in server.err


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_other_files(e2e, free_port, tmp_path, closed):
    """Started with a stream closed: no lock and no database becomes it, and gets log lines."""
    addr = f"127.0.0.1:{free_port()}"
    script = f"exec {e2e.HATOBA} serve --root data --addr {addr} {closed}"
    environment = e2e.clean_environment(REGISTRY_AUTH="none")
    server = subprocess.Popen(["sh", "-c", script], cwd=tmp_path, env=environment, start_new_session=True)
    try:
        e2e.wait_for(lambda: answers(addr), "it does not serve")
        assert (tmp_path / "data/hatoba/serve.lock").read_text() == f"{server.pid}\n"
    finally:
        server.terminate()
        assert server.wait(30) == 0


def test_what_the_terminal_cannot_show_is_escaped(e2e, tmp_path):
    (tmp_path / "users").write_text(f"日:$2y$04${'a' * 53}\n")
    environment = e2e.clean_environment(PYTHONIOENCODING="latin-1")
    command = [e2e.HATOBA, "users", "list", "--file", tmp_path / "users"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\\u65e5\n", b"")


def answers(addr: str) -> bool:
    try:
        return get(addr, "/v2/") == 200
    except OSError:
        return False


@pytest.mark.parametrize("stream", [">/dev/full", "--json >/dev/full"])
def test_results_that_cannot_be_written(e2e, home, serving, free_port, stream):
    with serving(None, "--addr", f"127.0.0.1:{free_port()}", folder=home):
        done = subprocess.run(
            ["sh", "-c", f"{e2e.HATOBA} ls {stream}"], cwd=home, env=e2e.clean_environment(), text=True,
            capture_output=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "hatoba: No space left on device\n")
