"""The first minute: nothing configured, three commands printed, and what a second server is told."""

from __future__ import annotations

import base64
import http.client
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import time

import pytest


def get(port: int, path: str, user: str = "", password: str = "") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    connection.request("GET", path, headers={"Authorization": f"Basic {token}"} if user else {})
    status = connection.getresponse().status
    connection.close()
    return status


def test_the_three_printed_commands_work(start, e2e, docker, build, free_port, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    port = free_port()
    server = start(e2e.HATOBA, "serve", "--addr", f"127.0.0.1:{port}", folder=home, HOME=str(home)).ready()
    commands = [line.strip() for line in server.out.splitlines() if line.strip().startswith("docker ")]
    assert [command.split()[1] for command in commands] == ["login", "tag", "push"]
    password = re.search(r"user admin and password (\S+)", server.out)[1]
    assert len(password) >= 20
    build("hello-world")
    login, tag, push = (shlex.split(command)[1:] for command in commands)
    assert "Login Succeeded" in docker(*login, "--password-stdin", stdin=password).stdout
    docker(*tag)
    assert "digest: sha256:" in docker(*push).stdout
    docker("rmi", "-f", "hello-world", push[-1])
    assert docker("run", "--rm", push[-1], "echo", "it works").stdout == "it works\n"

    assert stat.S_IMODE((home / "hatoba-data/hatoba/htpasswd").stat().st_mode) == 0o600
    assert (home / "hatoba-data/docker/registry/v2/repositories/hello-world").is_dir()
    assert server.stop() == 0
    assert server.out.count(password) == 1
    assert password not in server.err

    again = start(e2e.HATOBA, "serve", "--addr", f"127.0.0.1:{port}", folder=home, name="again").ready()
    assert password not in again.out + again.err
    assert "hatoba users add admin" in again.out
    assert "hatoba-data/hatoba/htpasswd" in again.out
    assert get(port, "/v2/hello-world/manifests/latest", "admin", password) == 200


def test_root_by_environment_goes_before_the_option(start, e2e, free_port, tmp_path):
    server = start(
        e2e.HATOBA, "serve", "--addr", f"127.0.0.1:{free_port()}", "--root", tmp_path / "option",
        REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=str(tmp_path / "variable"),
    ).ready()  # fmt: skip
    assert (tmp_path / "variable/hatoba/metadata.db").exists()
    assert not (tmp_path / "option").exists()
    assert server.stop() == 0


def test_second_server_on_the_same_folder(start, e2e, free_port, tmp_path):
    first = start(e2e.HATOBA, "serve", "--addr", f"127.0.0.1:{free_port()}").ready()
    second = start(e2e.HATOBA, "serve", "--addr", f"127.0.0.1:{free_port()}", name="second")
    assert second.process.wait(20) == 1
    assert second.err.strip().splitlines() == [
        f"hatoba: hatoba-data is served by another hatoba, pid {first.process.pid}"
    ]
    assert first.process.poll() is None


def test_port_in_use(start, e2e, tmp_path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        server = start(e2e.HATOBA, "serve", "--addr", f"127.0.0.1:{port}")
        assert server.process.wait(20) == 1
    assert f"127.0.0.1:{port}" in server.err
    assert "--addr" in server.err
    assert len(server.err.strip().splitlines()) == 1


def config(tmp_path, text: str):
    path = tmp_path / "config.yml"
    path.write_text(f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path / 'data'}}}}}\n{text}")
    return path


@pytest.mark.parametrize("program", ["HATOBA", "REGISTRY"])
def test_file_without_auth_is_anonymous_with_a_warning(start, e2e, free_port, tmp_path, program):
    port = free_port()
    path = config(tmp_path, f"http: {{addr: ':{port}'}}\n")
    server = start(getattr(e2e, program), "serve", path).ready()
    assert get(port, "/v2/") == 200
    assert "NO AUTHENTICATION" in server.err
    assert f"listening on [::]:{port}" in server.err
    assert server.stop() == 0


def test_file_without_auth_on_loopback_does_not_warn(start, e2e, free_port, tmp_path):
    server = start(e2e.HATOBA, "serve", config(tmp_path, f"http: {{addr: '127.0.0.1:{free_port()}'}}\n")).ready()
    assert "NO AUTHENTICATION" not in server.err
    assert server.stop() == 0


def test_htpasswd_file_that_is_missing_is_made(start, e2e, free_port, tmp_path):
    port = free_port()
    path = tmp_path / "auth/registry.password"
    server = start(
        e2e.HATOBA, "serve", "--addr", f"127.0.0.1:{port}", "--root", tmp_path / "data", REGISTRY_AUTH="htpasswd",
        REGISTRY_AUTH_HTPASSWD_REALM="Registry Realm", REGISTRY_AUTH_HTPASSWD_PATH=str(path),
    ).ready()  # fmt: skip
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    password = re.search(r"password=(\S+)", server.err)[1]
    assert get(port, "/v2/", "admin", password) == 200
    assert get(port, "/v2/") == 401
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("auth: {token: {realm: x, service: y, issuer: z}}\n", "auth.token"),
        ("http: {addr: 5000x}\n", "http.addr"),
        ("http: {net: unix, addr: /tmp/s}\n", "http.net"),
        ("http: {tls: {certificate: a, key: b}}\n", "http.tls"),
    ],
)
def test_settings_that_are_wrong_or_not_built(start, e2e, tmp_path, text, key):
    server = start(e2e.HATOBA, "serve", config(tmp_path, text))
    assert server.process.wait(20) == 2
    assert key in server.err
    assert len(server.err.strip().splitlines()) == 1


def test_users_change_while_two_workers_serve(start, e2e, free_port, tmp_path):
    port = free_port()
    server = start(e2e.HATOBA, "serve", "--addr", f"127.0.0.1:{port}", "--workers", "2").ready()

    def users(*arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            [str(e2e.HATOBA), "users", *arguments], cwd=tmp_path, input=stdin, text=True, capture_output=True,
            check=True, env=e2e.clean_environment(),
        )  # fmt: skip
        return done.stdout

    users("add", "bob", "--password-stdin", stdin="correct horse\n")
    assert users("list").split() == ["admin", "bob"]
    assert {get(port, "/v2/", "bob", "correct horse") for _ in range(10)} == {200}
    users("remove", "bob")
    assert {get(port, "/v2/", "bob", "correct horse") for _ in range(10)} == {401}
    assert server.stop() == 0


def test_sigterm_lets_an_upload_finish(start, e2e, free_port, tmp_path):
    port = free_port()
    server = start(e2e.HATOBA, "serve", config(tmp_path, f"http: {{addr: '127.0.0.1:{port}'}}\n")).ready()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"POST /v2/x/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        location = re.search(rb"(?i)location: (\S+)", connection.recv(4096))[1]
        connection.sendall(b"PATCH " + location + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc")
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        connection.sendall(b"def")
        answer = connection.recv(4096)
    assert b" 202 " in answer
    assert b"range: 0-5" in answer.lower()
    assert server.process.wait(30) == 0


def test_access_log_has_one_line_a_request(start, e2e, free_port, tmp_path):
    port = free_port()
    server = start(e2e.HATOBA, "serve", config(tmp_path, f"http: {{addr: '127.0.0.1:{port}'}}\n")).ready()
    assert get(port, "/v2/some/app/manifests/v1", "bob", "topsecret") == 404
    assert server.stop() == 0
    (line,) = [line for line in server.out.splitlines() if "/v2/some/app/manifests/v1" in line]
    for part in ("id=", "user=-", "client=127.0.0.1", "repository=some/app", "action=pull", "status=404", "ms="):
        assert part in line
    assert "topsecret" not in server.out + server.err
    assert base64.b64encode(b"bob:topsecret").decode() not in server.out + server.err


def test_tls_on_the_plain_port_is_no_stack_trace(start, e2e, free_port, tmp_path):
    port = free_port()
    server = start(e2e.HATOBA, "serve", config(tmp_path, f"http: {{addr: '127.0.0.1:{port}'}}\n")).ready()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(200))
        connection.settimeout(10)
        connection.recv(100)
    assert get(port, "/v2/") == 200
    assert server.stop() == 0
    assert "Traceback" not in server.err
