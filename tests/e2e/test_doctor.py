"""`hatoba doctor` against real NGINX, right and broken in every way, in front of hatoba and of Docker's registry."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import signal
import socket
import ssl
import subprocess
import threading
import time
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import bcrypt
import httpx
import pytest
from typer.testing import CliRunner

from hatoba.cli import hatoba_app
from hatoba.doctor import checkup

PASSWORD = "s3cret-of-bob"
LARGE = {"right", "right docker", "limit 2m", "no room for answers"}
HTML = "default_type text/html; return 200 '<html>Welcome</html>';"


@pytest.fixture(scope="module")
def stack(e2e, tmp_path_factory):
    """hatoba and Docker's registry, with an NGINX whose every `server` has another fault: names to their ports."""
    folder = tmp_path_factory.mktemp("stack")
    nginx, authority = e2e.Nginx(), e2e.Chains(folder / "ca")
    with contextlib.ExitStack() as running:
        running.callback(nginx.stop)
        upstreams = {name: _serve(e2e, running, folder, name, text) for name, text in REGISTRIES.items()}
        silent = running.enter_context(_silent())
        port = {name: int(upstream.rpartition(":")[2]) for name, upstream in upstreams.items()} | {"silent": silent}
        upstreams |= {"silent": f"127.0.0.1:{silent}", "dead": f"127.0.0.1:{e2e.find_port()}"}
        chains = {
            "right": authority.chain("right"),
            "expired": authority.chain("expired", end="20250101000000Z"),
            "future": authority.chain("future", begin="20900101000000Z"),
            "name": authority.chain("name", names="DNS:registry.example.com,DNS:other.example.com"),
            "incomplete": authority.chain("incomplete", whole=False),
            "own": authority.self_signed(),
        }
        for name, chain in chains.items():
            port[f"tls {name}"] = nginx.add(
                upstreams["relative"], e2e.RECIPE, tls=chain, outside="client_max_body_size 0;"
            )
        for name, (upstream, inside, outside) in _proxies(e2e.RECIPE, nginx.folder / "noroom").items():
            chain = chains["right"] if "scheme" in name else None
            port[name] = nginx.add(upstreams[upstream], inside, outside=outside, tls=chain)
        store = f"http://127.0.0.1:{nginx.add(upstreams['relative'], KNOWS, outside=STRICT)}"
        for name, (moved, beside) in _moved(store, upstreams["dead"]).items():
            get = f"if ($request_method = GET) {{ return {moved}; }}"
            blobs = f"client_max_body_size 0; location ~ ^/v2/.*/blobs/sha256 {{ {get} proxy_pass http://UPSTREAM; }}"
            port[name] = nginx.add(upstreams["relative"], e2e.RECIPE, outside=f"{beside} {blobs}")
        hang = f"if ($request_method = DELETE) {{ proxy_pass http://{upstreams['silent']}; }}"
        outside = "client_max_body_size 0; limit_rate 2m;"
        port["DELETE hangs"] = nginx.add(upstreams["open"], f"{e2e.RECIPE} {hang}", outside=outside)
        noroom = nginx.folder / "noroom"
        noroom.mkdir()
        nginx.start()
        noroom.chmod(0)
        running.callback(noroom.chmod, 0o755)
        yield SimpleNamespace(port=port, root=authority.ca, upstreams=upstreams, nginx=nginx)


REGISTRIES = {
    "relative": "hatoba",
    "absolute": "hatoba http: {relativeurls: false}",
    "docker": "docker-registry",
    "docker no delete": "docker-registry storage.delete",
    "docker read-only": "docker-registry storage.readonly",
    "read-only": "hatoba storage.readonly",
    "open": "hatoba no auth",
}


def _serve(e2e, running, folder: Path, name: str, kind: str) -> str:
    """Start a registry; its host:port."""
    program, _, words = kind.partition(" ")
    e2e.needed("docker-registry")
    where = f"127.0.0.1:{e2e.find_port()}"
    base = folder / name.replace(" ", "-")
    base.mkdir()
    (base / "htpasswd").write_text(f"bob:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(5)).decode()}\n")
    delete = "false" if words == "storage.delete" else "true"
    readonly = ", maintenance: {readonly: {enabled: true}}" if words == "storage.readonly" else ""
    auth = "" if words == "no auth" else f"auth: {{htpasswd: {{realm: r, path: {base / 'htpasswd'}}}}}\n"
    http = words.removeprefix("http: {").removesuffix("}") if words.startswith("http") else "secret: x"
    (base / "config.yml").write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {base / 'data'}}}, "
        f"delete: {{enabled: {delete}}}{readonly}}}\n"
        f"{auth}http: {{addr: '{where}', {http}}}\n"
    )
    command = [e2e.HATOBA if program == "hatoba" else program, "serve", base / "config.yml"]
    server = e2e.Server(command, base, base, "server")
    running.callback(server.kill)
    e2e.wait_for(lambda: e2e._listens(int(where.rpartition(":")[2])), lambda: server.err)
    return where


# As an object store: it gives blobs to whoever knows where they are, and refuses whoever sends a password.
STRICT = "if ($http_authorization) { return 400; }"
KNOWS = f"proxy_set_header Authorization 'Basic {base64.b64encode(f'bob:{PASSWORD}'.encode()).decode()}';"


def _moved(store: str, dead: str) -> dict[str, tuple[str, str]]:
    """Where a GET of a blob is sent, and what is there at the same host."""
    within = "location ^~ /v2/moved/ { proxy_pass http://UPSTREAM/; }"
    return {
        "blobs elsewhere": (f"307 {store}$request_uri", ""),
        "blobs moved": ("307 $scheme://$http_host/v2/moved$request_uri", within),
        "blobs moved by a path": ("308 /v2/moved$request_uri", within),
        "blobs beside": (
            "302 /store$request_uri",
            f"location ^~ /store/ {{ {STRICT} {KNOWS} proxy_pass http://UPSTREAM/; }}",
        ),
        "blobs in a circle": ("307 $request_uri", ""),
        "blobs in a file": ("307 file:///etc/passwd", ""),
        "blobs at a user": (f"307 http://bob@{store.removeprefix('http://')}/", ""),
        "blobs refused": (f"307 {store}/nothing", ""),
        "blobs at nobody": (f"307 http://{dead}/blob", ""),
    }


def _proxies(recipe: str, noroom: Path) -> dict[str, tuple[str, str, str]]:
    """Upstream, what is inside of `location /`, and what is beside it."""
    large = "client_max_body_size 0;"
    page = "if ($request_method = GET) { return 200 'x'; }"
    told = "proxy_set_header X-Forwarded-Prefix /registry;"
    hide = f"{recipe} proxy_hide_header"
    return {
        "right": ("relative", recipe, "client_max_body_size 1000m;"),
        "right absolute": ("absolute", recipe, large),
        "right docker": ("docker", f"{recipe} proxy_request_buffering off; proxy_http_version 1.1;", large),
        "no limit set": ("relative", recipe, ""),
        "limit 2m": ("relative", recipe, "client_max_body_size 2m;"),
        "limit, streamed": ("relative", f"{recipe} proxy_request_buffering off; proxy_http_version 1.1;", ""),
        "scheme absolute": ("absolute", "proxy_set_header Host $http_host;", large),
        "scheme docker": ("docker", "proxy_set_header Host $http_host;", large),
        "host absolute": ("absolute", "proxy_redirect off;", large),
        "host docker": ("docker", "proxy_redirect off;", large),
        "port absolute": ("absolute", "proxy_set_header Host $host;", large),
        "no Docker-Distribution-Api-Version": ("relative", f"{hide} Docker-Distribution-Api-Version;", large),
        "no Docker-Content-Digest": ("relative", f"{hide} Docker-Content-Digest;", large),
        "no WWW-Authenticate": ("relative", f"{hide} WWW-Authenticate;", large),
        "no Location": ("relative", f"{hide} Location;", large),
        "to https": ("relative", None, "return 301 https://$http_host$request_uri;"),
        "POST moved": ("relative", f"if ($request_method = POST) {{ return 301 /moved$uri; }} {recipe}", large),
        "dead upstream": ("dead", recipe, large),
        "hanging upstream": ("silent", "proxy_read_timeout 1;", large),
        "a page": ("relative", None, f"location / {{ {HTML} }}"),
        "nothing": ("relative", None, "root /nonexistent;"),
        "no DELETE": ("relative", f"{recipe} limit_except GET POST PUT PATCH {{ deny all; }}", large),
        "a password of its own": ("relative", f"{recipe} auth_basic own; auth_basic_user_file /dev/null;", large),
        "no Authorization": ("relative", f"{recipe} proxy_set_header Authorization '';", large),
        "no room for bodies": ("relative", recipe, f"{large} client_body_temp_path {noroom}/a;"),
        "no room for answers": (
            "relative",
            f"{recipe} proxy_buffers 2 4k; proxy_busy_buffers_size 4k; proxy_temp_path {noroom}/b;",
            f"{large} sendfile on; limit_rate 20m;",
        ),
        "closes": ("relative", None, "return 444;"),
        "closes at PATCH": ("relative", f"if ($request_method = PATCH) {{ return 444; }} {recipe}", large),
        "compressed": ("relative", f"{recipe} add_header Content-Encoding gzip;", large),
        "cut": ("relative", recipe, f"{large} location ~ /blobs/sha256 {{ {page} proxy_pass http://UPSTREAM; }}"),
        "sub-path": ("relative", None, f"{large} location /registry/ {{ proxy_pass http://UPSTREAM/; {recipe} }}"),
        "sub-path told": (
            "relative",
            None,
            f"{large} location /registry/ {{ proxy_pass http://UPSTREAM/; {recipe} {told} }}",
        ),
        "slow": ("relative", recipe, f"{large} limit_rate 2m;"),
    }


@contextlib.contextmanager
def _silent():
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def doctor(stack, monkeypatch):
    """doctor(name, …): the exit code and the lines of a round at that port, in this process.

    The large image is left out, to save time, where it makes no difference.
    """

    def run(name: str, *options: str, scheme: str = "", path: str = "", user: str | None = "bob"):
        if name not in LARGE:
            monkeypatch.setattr(checkup, "_SIZES", checkup._SIZES[:1])
        scheme = scheme or ("https" if name.startswith(("tls", "scheme")) else "http")
        signed = [] if user is None else ["-u", user]
        where = f"{scheme}://127.0.0.1:{stack.port[name]}{path}"
        done = CliRunner().invoke(
            hatoba_app(),
            ["doctor", where, *signed, "--ca", str(stack.root), *options],
            env={"HATOBA_PASSWORD": PASSWORD},
        )
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert PASSWORD not in done.output
        return done.exit_code, done.output

    return run


def faults(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("FAULT")]


@pytest.mark.parametrize(
    "name",
    [
        "relative", "absolute", "docker", "right", "right absolute", "right docker", "tls right", "blobs elsewhere",
        "blobs moved", "blobs moved by a path", "blobs beside",
    ],
)  # fmt: skip
def test_all_is_well(stack, doctor, name):
    code, output = doctor(name)
    assert (code, faults(output)) == (0, []), output
    steps = [line[6:19].strip() for line in output.splitlines()[:-1] if line.startswith("ok")]
    tls = ["TLS"] if name.startswith("tls") else []
    large = ["push 30 MiB", "pull 30 MiB"] if name in LARGE else []
    assert steps == ["reach", *tls, "ping", "login", "push 1 MiB", "pull 1 MiB", *large, "delete"]
    assert output.splitlines()[-1] == f"{'https' if tls else 'http'}://127.0.0.1:{stack.port[name]}: all is well"


# name: what the only line of a fault must hold.
CULPRITS = {
    "no limit set": ("push 1 MiB", "413", "client_max_body_size 0"),
    "limit 2m": ("push 30 MiB", "413", "client_max_body_size 0"),
    "limit, streamed": ("push 1 MiB", "413", "client_max_body_size 0"),
    "scheme absolute": ("push 1 MiB", "Location leads to http://", "X-Forwarded-Proto $scheme"),
    "scheme docker": ("push 1 MiB", "Location leads to http://", "X-Forwarded-Proto $scheme"),
    "host absolute": ("push 1 MiB", "Location leads to http://registry", "Host $http_host"),
    "host docker": ("push 1 MiB", "Location leads to http://registry", "Host $http_host"),
    "port absolute": ("push 1 MiB", "lost the port, http://127.0.0.1 instead", "$http_host, not $host"),
    "no Docker-Distribution-Api-Version": ("ping", "Docker-Distribution-Api-Version is missing", "proxy_hide_header"),
    "no Docker-Content-Digest": ("push 1 MiB", "Docker-Content-Digest is missing", "proxy_hide_header"),
    "no WWW-Authenticate": ("ping", "WWW-Authenticate is missing", "proxy_hide_header"),
    "no Location": ("push 1 MiB", "Location is missing", "proxy_hide_header"),
    "to https": ("ping", "sends GET on to https (301)", "use https://127.0.0.1"),
    "POST moved": ("push 1 MiB", "sends POST on to http://127.0.0.1", "(301)"),
    "dead upstream": ("ping", "502", "proxy_pass"),
    "hanging upstream": ("ping", "504", "proxy_read_timeout 900"),
    "a page": ("ping", "this is no registry", "text/html"),
    "nothing": ("ping", "404", "location /v2/ with proxy_pass"),
    "a password of its own": ("ping", "401 from nginx", "auth_basic"),
    "no Authorization": ("login", "a proxy drops Authorization"),
    "no room for bodies": ("push 1 MiB", "500", "client_body_temp_path"),
    "no room for answers": ("pull 30 MiB", "the answer broke off after", "proxy_temp_path"),
    "closes": ("ping", "closed without an answer"),
    "closes at PATCH": ("push 1 MiB", "closed in the middle of PATCH", "client_body_timeout"),
    "compressed": ("pull 1 MiB", "Content-Encoding gzip"),
    "cut": ("pull 1 MiB", "1 bytes came back"),
    "blobs in a circle": ("pull 1 MiB", "5 redirects for one blob"),
    "blobs in a file": ("pull 1 MiB", "Location is no address: file:///etc/passwd"),
    "blobs at a user": ("pull 1 MiB", "Location is no address: http://bob@"),
    "blobs refused": ("pull 1 MiB", "404 from http://127.0.0.1:", "where the registry sends clients for its blobs"),
    "blobs at nobody": ("pull 1 MiB", "connection refused: nothing listens at port"),
    "tls expired": ("TLS", "has expired on 2025-01-01", "clock says"),
    "tls future": ("TLS", "not valid yet, but from 2090-01-01", "clock"),
    "tls name": ("TLS", "not for the name 127.0.0.1", "registry.example.com, other.example.com"),
    "tls incomplete": ("TLS", "chain of certificates is not complete", "fullchain.pem"),
    "tls own": ("TLS", "signed by itself", "--ca"),
    "docker read-only": ("push 1 MiB", "is it read-only? (no reason given)"),
    "read-only": ("push 1 MiB", "is it read-only? (UNSUPPORTED: the registry is read-only"),
}


@pytest.mark.parametrize("name", CULPRITS)
def test_the_culprit_in_one_line(doctor, name):
    code, output = doctor(name)
    step, *words = CULPRITS[name]
    (line,) = faults(output)
    assert (code, line[6:19].strip()) == (1, step), output
    assert all(word in line for word in words), line


def test_a_location_that_is_wrong_does_not_hide_what_else_is(doctor):
    _, output = doctor("host absolute")
    assert [line[6:19].strip() for line in output.splitlines() if line.startswith("ok")][-1] == "delete"


def test_tls_and_plain_mixed_up(doctor):
    code, output = doctor("tls right", scheme="http")
    assert (code, "speaks TLS: use https://127.0.0.1" in faults(output)[0]) == (1, True)
    code, output = doctor("right", scheme="https")
    assert (code, "speaks plain HTTP: use http://127.0.0.1" in faults(output)[0]) == (1, True)


def test_a_ca_that_is_unknown_and_insecure(stack, doctor):
    done = CliRunner().invoke(hatoba_app(), ["doctor", f"https://127.0.0.1:{stack.port['tls right']}"])
    assert (done.exit_code, "--ca FILE" in faults(done.output)[0]) == (1, True)
    code, output = doctor("tls name", "--insecure")
    assert (code, "note  TLS          the certificate is not checked" in output) == (0, True)


def test_sub_paths(doctor):
    code, output = doctor("sub-path", path="/registry")
    (line,) = faults(output)
    assert code == 1
    assert "instead of /registry/v2/: set http.prefix: /registry/" in line
    code, output = doctor("sub-path told", path="/registry/")
    assert (code, faults(output)) == (0, [])
    assert "Docker's clients know no path such as /registry" in output


def test_nobody_listens_and_no_name(stack, doctor):
    stack.port["dead"] = int(stack.upstreams["dead"].rpartition(":")[2])
    assert "connection refused" in faults(doctor("dead")[1])[0]
    done = CliRunner().invoke(hatoba_app(), ["doctor", "http://registry.invalid"])
    assert (done.exit_code, "the name registry.invalid has no address" in faults(done.output)[0]) == (1, True)


def test_no_answer_at_all(doctor):
    assert "no answer to GET" in faults(doctor("silent", "--timeout", "1")[1])[0]


def test_wrong_password_and_no_user(doctor):
    code, output = doctor("right", "-p", "guess")
    assert (code, "wrong user or password" in faults(output)[0]) == (1, True)
    code, output = doctor("right", user=None)
    assert (code, "hatoba: the registry wants a user" in output) == (2, True)


def test_nobody_is_asked_for_a_password(doctor):
    code, output = doctor("open", user=None)
    assert (code, "login" in output) == (0, False)
    code, output = doctor("open")
    assert (code, "everybody may push and pull" in output) == (0, True)


def test_deleting_that_is_switched_off_is_no_fault(doctor):
    code, output = doctor("docker no delete", "--repository", "team/probe")
    assert (code, faults(output)) == (0, [])
    assert "deleting is switched off there (UNSUPPORTED" in output
    left = [line for line in output.splitlines() if line.startswith("left")]
    assert [line.split()[2] for line in left] == ["team/probe:1mib"]


def test_a_proxy_that_forbids_to_delete(doctor):
    code, output = doctor("no DELETE", "--repository", "kept/probe")
    (line,) = faults(output)
    assert (code, "403 from nginx" in line, "limit_except" in line) == (1, True, True)
    left = [line for line in output.splitlines() if line.startswith("left")]
    assert [line.split()[2] for line in left] == ["kept/probe:1mib"]


def test_clock(e2e):
    """A registry a day behind: a stand-in, as no clock of this machine may be changed."""

    class Behind(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response_only(404 if "manifests" in self.path else 200)
            self.send_header("Date", formatdate(time.time() - 86400, usegmt=True))
            self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
            self.end_headers()

        do_POST = do_DELETE = do_GET  # noqa: N815  the library's names

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Behind) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        done = CliRunner().invoke(hatoba_app(), ["doctor", f"http://127.0.0.1:{server.server_port}"])
        server.shutdown()
        thread.join()
    assert done.exit_code == 1
    assert "the server's clock is 86400 s behind" in faults(done.output)[0]


class Tokens(http.server.BaseHTTPRequestHandler):
    """A token server, for Docker's registry to trust: RS256 by openssl, for whoever has the password."""

    def do_GET(self):
        signed = self.headers.get("Authorization") == "Basic " + base64.b64encode(f"bob:{PASSWORD}".encode()).decode()
        query = parse_qs(urlsplit(self.path).query)
        access = []
        for scope in query.get("scope", []):
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        claims = {
            "iss": "tests", "sub": "bob", "aud": query["service"][0], "exp": now + 60, "nbf": now - 5, "iat": now,
            "jti": "1", "access": access,
        }  # fmt: skip
        der = ssl.PEM_cert_to_DER_cert((self.server.folder / "token.pem").read_text())
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        parts = b".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
        command = ["openssl", "dgst", "-sha256", "-sign", self.server.folder / "token.key"]
        signature = subprocess.run(command, input=parts, capture_output=True, check=True).stdout
        body = json.dumps({"token": (parts + b"." + _base64(signature)).decode()}).encode() if signed else b"{}"
        self.send_response(200 if signed else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def _base64(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


def test_tokens(e2e, start, tmp_path):
    """Docker's registry with a token server, as Docker Hub has one."""
    e2e.needed("docker-registry", "openssl")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=tokens", "-days", "2"]
    subprocess.run(
        [*command, "-keyout", "token.key", "-out", "token.pem"], cwd=tmp_path, capture_output=True, check=True
    )
    where = f"127.0.0.1:{e2e.find_port()}"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tokens) as server:
        server.folder = tmp_path
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        (tmp_path / "config.yml").write_text(
            f"version: 0.1\nstorage: {{inmemory: {{}}, delete: {{enabled: true}}}}\n"
            f"http: {{addr: '{where}', secret: x}}\n"
            f"auth: {{token: {{realm: 'http://127.0.0.1:{server.server_port}/token', service: tests, issuer: tests, "
            f"rootcertbundle: {tmp_path / 'token.pem'}}}}}\n"
        )
        registry = start("docker-registry", "serve", tmp_path / "config.yml", name="docker-registry")
        e2e.wait_for(lambda: e2e._listens(int(where.rpartition(":")[2])), lambda: registry.err)
        found = {
            password: CliRunner().invoke(hatoba_app(), ["doctor", f"http://{where}", "-u", "bob", "-p", password])
            for password in (PASSWORD, "guess")
        }
        server.shutdown()
        thread.join()
    assert (found[PASSWORD].exit_code, faults(found[PASSWORD].output)) == (0, []), found[PASSWORD].output
    assert f"sign-in with Bearer at http://127.0.0.1:{server.server_port}/token" in found[PASSWORD].output
    guessed = faults(found["guess"].output)[0]
    assert f"wrong user or password, says the token server http://127.0.0.1:{server.server_port}" in guessed


def _command(e2e, stack, name, **options):
    return subprocess.Popen(
        [e2e.HATOBA, "doctor", f"http://127.0.0.1:{stack.port[name]}", "-u", "bob"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=e2e.clean_environment(**options),
    )  # fmt: skip


def _catalog(e2e, stack, name):
    return httpx.get(f"http://127.0.0.1:{stack.port[name]}/v2/_catalog", auth=("bob", PASSWORD)).json()["repositories"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "there is no password: -p"),
        ({"HATOBA_PASSWORD": ""}, "the password is empty"),
        ({"HATOBA_PASSWORD": "\udcff"}, "the password is not UTF-8"),
    ],
)
def test_no_password(e2e, stack, options, words):
    process = _command(e2e, stack, "right", **options)
    out, err = process.communicate("", timeout=120)
    assert (process.returncode, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"hatoba: {words}")


def test_the_password_on_standard_input(e2e, stack):
    out, err = _command(e2e, stack, "right").communicate(f"{PASSWORD}\n", timeout=120)
    assert ("all is well" in out, err) == (True, "")


def test_ctrl_c_leaves_nothing_behind(e2e, stack):
    process = _command(e2e, stack, "slow", HATOBA_PASSWORD=PASSWORD)
    for line in process.stdout:
        if line.startswith("ok    push 30 MiB"):
            break
    assert any("hatoba-doctor/" in name for name in _catalog(e2e, stack, "slow"))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "interrupted\n")
    assert "is empty again" in out
    assert not any("hatoba-doctor/" in name for name in _catalog(e2e, stack, "slow"))


def test_ctrl_c_while_tidying_up_says_what_is_left(e2e, stack):
    with _command(e2e, stack, "DELETE hangs", HATOBA_PASSWORD=PASSWORD) as process:
        for line in process.stdout:
            if line.startswith("ok    push 30 MiB"):
                name = line.split()[4].partition(":")[0]
                break
        try:
            process.send_signal(signal.SIGINT)  # ends the pull
            time.sleep(2)
            process.send_signal(signal.SIGINT)  # ends the waiting for DELETE
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert (process.returncode, err) == (130, "interrupted\n")
    assert f"left  delete       what is in {name}\n" in out


def test_a_delete_that_hangs_is_waited_for_once(doctor):
    code, output = doctor("DELETE hangs", "--timeout", "1", "--repository", "kept/hangs")
    (line,) = faults(output)
    assert (code, "no answer to DELETE" in line) == (1, True)
    assert "left  delete       kept/hangs:1mib" in output


def test_nothing_was_left_behind(e2e, stack):
    """After all that was broken above; where DELETE is let through, in any case."""
    for name in ("relative", "absolute"):
        assert [found for found in _catalog(e2e, stack, name) if "doctor" in found] == [], name
    for found in _catalog(e2e, stack, "docker"):  # which lists empty repositories too
        answer = httpx.get(f"http://127.0.0.1:{stack.port['docker']}/v2/{found}/tags/list", auth=("bob", PASSWORD))
        assert not answer.json().get("tags"), found


@pytest.mark.parametrize(
    "arguments",
    [
        ["ftp://h"], ["http://"], ["http://bob:pw@h"], ["http://h/?a"], ["http://h:99999"], ["h", "-u", "a:b"],
        ["h", "-u", ""], ["h", "--repository", "UPPER"], ["h", "--ca", "/nonexistent"], ["h", "--ca", "/dev/null"],
        ["h", "--timeout", "0"], ["h", "--timeout", "nan"], ["h", "--timeout", "9999"], ["h", "--nonsense"], [],
        ["h", "-u", "a", "-p", ""], ["h", "-u", "a", "-p", "\udcff"],
    ],
)  # fmt: skip
def test_usage(arguments):
    done = CliRunner().invoke(hatoba_app(), ["doctor", *(["-p", PASSWORD] if arguments else []), *arguments])
    assert done.exit_code == 2
    assert PASSWORD not in done.output
    assert "Traceback" not in done.output
