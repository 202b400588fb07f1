"""A page of another origin in a real browser: the requests of joxit/docker-registry-ui, signed in, and proxied.

What the page asks is in tests/protocol/test_joxit.py, where the browser's rules are written down; here it is Chromium
that keeps them.
"""

from __future__ import annotations

import http.server
import json
import queue
import shutil
import subprocess
import threading

import bcrypt
import httpx
import pytest

from hatoba.testing.images import random_image

# The user's password is known to the browser from a visit to the registry, as if typed in at its prompt.
PAGE = """<!doctype html><script>
const registry = REGISTRY, name = "team/app";
const images = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json, "
  + "application/vnd.oci.image.index.v1+json";
const lists = images + ", application/vnd.docker.distribution.manifest.list.v2+json";
const blobs = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json";
const seen = [];
function send(method, path, accept, credentials) {
  return new Promise(done => {
    const request = new XMLHttpRequest();
    request.open(method, registry + path);
    const headers = accept ? {"Accept": accept, "Cache-Control": "no-store, no-cache"} : {};
    for (const header in headers) request.setRequestHeader(header, headers[header]);
    request.withCredentials = credentials;
    request.onloadend = () => done(request);
    request.send();
  });
}
async function ask(method, path, accept) {
  let answer = await send(method, path, accept, false);
  if (answer.status === 401) answer = await send(method, path, accept, true);
  const digest = answer.getAllResponseHeaders().includes("docker-content-digest")
    ? answer.getResponseHeader("Docker-Content-Digest") : null;
  seen.push([method, path, answer.status, digest]);
  return answer;
}
(async () => {
  try {
    if (VISIT) { window.open(VISIT); await fetch("/visited"); }
    const catalog = JSON.parse((await ask("GET", "/v2/_catalog?n=1000")).responseText);
    seen.push(catalog.repositories);
    seen.push(JSON.parse((await ask("GET", `/v2/${name}/tags/list`)).responseText).tags);
    const manifest = JSON.parse((await ask("GET", `/v2/${name}/manifests/v1`, lists)).responseText);
    await ask("HEAD", `/v2/${name}/manifests/v1`, lists);
    seen.push(JSON.parse((await ask("GET", `/v2/${name}/blobs/${manifest.config.digest}`, blobs)).responseText).os);
    const found = await ask("GET", `/v2/${name}/manifests/v1`, blobs + ", " + lists);
    await ask("DELETE", `/v2/${name}/manifests/${found.getResponseHeader("Docker-Content-Digest")}`, blobs);
    await ask("GET", `/v2/${name}/manifests/v1`, lists);
  } catch (error) { seen.push(String(error)); }
  await fetch("/seen", {method: "POST", body: JSON.stringify(seen)});
})();
</script>"""
CORS = """
    Access-Control-Allow-Origin: ['{origin}']
    Access-Control-Allow-Methods: ['HEAD', 'GET', 'OPTIONS', 'DELETE']
    Access-Control-Allow-Headers: ['Authorization', 'Accept', 'Cache-Control']
    Access-Control-Max-Age: [1728000]
    Access-Control-Allow-Credentials: [true]
    Access-Control-Expose-Headers: ['Docker-Content-Digest']
"""


class Pages(http.server.ThreadingHTTPServer):
    """The page's own server; `seen` gives what the page saw. /visited answers when `visited` says so."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Page)
        self.page = b""
        self.visited = lambda: None
        self.seen: queue.Queue[list] = queue.Queue()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.server.page if self.path == "/" else b""
        if self.path == "/visited":
            self.server.visited()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.server.seen.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def pages():
    with Pages() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def browse(e2e, tmp_path, pages):
    """browse(url) gives what the page reports that Chromium finds there."""
    e2e.needed("chromium")

    def run(url: str) -> list:
        profile = tmp_path / "profile"
        command = [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-popup-blocking", "--no-first-run",
            "--disable-background-networking", "--disable-dev-shm-usage", f"--user-data-dir={profile}", url,
        ]  # fmt: skip
        log = tmp_path / "chromium.log"
        with log.open("wb") as file:
            browser = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        try:
            return pages.seen.get(timeout=120)
        except queue.Empty:
            pytest.fail(f"no report of the page:\n{log.read_text()[-3000:]}")
        finally:
            browser.terminate()
            browser.wait(60)
            shutil.rmtree(profile, ignore_errors=True)

    return run


def page(registry: str, visit: str | None = None) -> bytes:
    return PAGE.replace("REGISTRY", json.dumps(registry)).replace("VISIT", json.dumps(visit)).encode()


def push(http, image) -> None:
    for blob in image.blobs:
        where = f"/v2/team/app/blobs/uploads/?digest={blob.digest}"
        assert http.post(where, content=blob.body).status_code == 201
    kind = {"content-type": image.manifest.media_type}
    assert http.put("/v2/team/app/manifests/v1", content=image.manifest.body, headers=kind).status_code == 201


def expected(image) -> list:
    digest, config = str(image.manifest.digest), str(image.config.digest)
    name = "/v2/team/app"
    return [
        ["GET", "/v2/_catalog?n=1000", 200, None], ["team/app"],
        ["GET", f"{name}/tags/list", 200, None], ["v1"],
        ["GET", f"{name}/manifests/v1", 200, digest],
        ["HEAD", f"{name}/manifests/v1", 200, digest],
        ["GET", f"{name}/blobs/{config}", 200, config], "linux",
        ["GET", f"{name}/manifests/v1", 200, digest],
        ["DELETE", f"{name}/manifests/{digest}", 202, None],
        ["GET", f"{name}/manifests/v1", 404, None],
    ]  # fmt: skip


def test_from_another_origin_and_signed_in(e2e, serving, config, pages, browse, tmp_path):
    (tmp_path / "htpasswd").write_text("bob:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode() + "\n")
    addr = f"127.0.0.1:{e2e.find_port()}"
    auth = f"auth: {{htpasswd: {{realm: r, path: {tmp_path / 'htpasswd'}}}}}\n"
    path = config(f"{auth}http:\n  addr: {addr}\n  headers:{CORS.format(origin=pages.origin)}")
    image = random_image()
    with serving(None, path) as server, httpx.Client(base_url=f"http://{addr}", auth=("bob", "secret")) as http:
        push(http, image)
        visited = "path=/v2/ status=200"
        pages.visited = lambda: e2e.wait_for(lambda: visited in server.out, lambda: f"no visit: {server.out}")
        pages.page = page(f"http://{addr}", f"http://bob:secret@{addr}/v2/")
        assert browse(pages.origin) == expected(image)
        e2e.wait_for(lambda: "method=OPTIONS" in server.out, "Chromium has not asked beforehand")
        lines = [line for line in server.out.splitlines() if "method=OPTIONS" in line]
        assert all("status=204" in line and "user=-" in line for line in lines), lines


def test_behind_its_own_nginx(e2e, serving, config, pages, browse):
    """As its image does with NGINX_PROXY_PASS_URL: page and /v2 have one origin, and no header is needed."""
    addr, image = f"127.0.0.1:{e2e.find_port()}", random_image()
    nginx = e2e.Nginx()
    refuse = r"if ($http_user_agent ~ '^(docker\/1\.(3|4|5(?!\.[0-9]-dev))|Go ).*$') { return 404; }"
    outside = (
        "client_max_body_size 0; chunked_transfer_encoding on; proxy_ssl_server_name on; proxy_buffering off; "
        "proxy_request_buffering off; proxy_ignore_headers 'X-Accel-Buffering'; "
        f"location /v2 {{ {refuse} proxy_http_version 1.1; proxy_pass http://{addr}; }}"
    )
    try:
        port = nginx.add(pages.origin.removeprefix("http://"), "", outside=outside)
        nginx.start()
        path = config(f"http: {{addr: '{addr}'}}\n")
        with serving(None, path), httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
            push(http, image)
            assert http.get("/v2/", headers={"user-agent": "Go 1.1 package http"}).status_code == 404
            pages.page = page("")
            assert browse(f"http://127.0.0.1:{port}/") == expected(image)
    finally:
        nginx.stop()
