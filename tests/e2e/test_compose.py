"""The stacks of deploy/compose with real Docker and NGINX, as a person copies and starts them: nothing is changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.town import ADDRESS, NAME

STACKS = Path(__file__).parents[2] / "deploy/compose"
IMAGE = f"{NAME}/pliutau/hello-world:v0"
HELLO = 'FROM scratch\nCOPY busybox /busybox\nENTRYPOINT ["/busybox", "echo", "Hello, world!"]\n'
WEB = 'FROM debian-python\nENTRYPOINT ["nginx", "-g", "daemon off;"]\n'


@pytest.fixture(scope="session")
def nginx(town, base_image):
    """Debian's NGINX under the name of Docker Hub's image."""
    town("build", "--quiet", "--tag", "nginx:latest", "-", stdin=WEB)


class Stack:
    """A copy of one of the stacks: stack("up", "--detach") is `docker compose up --detach` in its folder."""

    def __init__(self, town, folder: Path) -> None:
        self._town = town
        self.folder = folder
        self.data = folder / "registry/data"

    def __call__(self, *arguments, check: bool = True):
        return self._town("compose", "--project-directory", self.folder, *arguments, check=check)

    def shell(self, line: str, stdin: str | None = None):
        """Run a line as a person types it in the stack's folder."""
        return self._town.shell(f"cd {self.folder} && {line}", stdin)

    def logs(self, service: str) -> str:
        return self("logs", "--no-log-prefix", service).stdout


@pytest.fixture
def stack(town, image, nginx, tmp_path_factory):
    stacks = []

    def copy(name: str = ".") -> Stack:
        folder = tmp_path_factory.mktemp("served") / "stack"
        for closed in folder.parents[:2]:
            closed.chmod(0o755)
        shutil.copytree(STACKS / name, folder, ignore=shutil.ignore_patterns("certbot", "own-tls"))
        stacks.append(Stack(town, folder))
        return stacks[-1]

    yield copy
    for each in stacks:
        each("down", "--volumes", "--timeout", "5", check=False)


@pytest.fixture
def hello(town, tmp_path):
    """A folder with a Dockerfile, whose image is larger than the 1 MiB that NGINX takes by itself."""
    folder = tmp_path / "hello-world"
    folder.mkdir()
    shutil.copy("/bin/busybox", folder / "busybox")
    (folder / "Dockerfile").write_text(HELLO)
    return folder


def owners(folder: Path) -> set[int]:
    return {path.lstat().st_uid for path in folder.rglob("*")}


def login(town, e2e) -> None:
    """As soon as the stack is up."""
    done = None

    def logged_in() -> bool:
        nonlocal done
        done = town("login", NAME, "--username", "busy", "--password-stdin", stdin="bee", check=False)
        return done.returncode == 0

    e2e.wait_for(logged_in, lambda: done.stderr, 60)


def walk_through(town, hello) -> None:
    """Build, push, pull, run: what the tutorial does next."""
    town("build", "--tag", IMAGE, hello)
    digest = town.push(IMAGE)
    town("image", "rm", "--force", IMAGE)
    assert digest in town("pull", IMAGE).stdout
    assert town("run", "--rm", IMAGE).stdout == "Hello, world!\n"
    town("image", "rm", "--force", IMAGE)


@pytest.mark.parametrize("owner", [0, 1000])
def test_the_tutorial(town, stack, hello, e2e, owner):
    tutorial = stack()
    town.certify(tutorial.folder / "nginx")
    tutorial.shell("mkdir -p registry/data")
    os.chown(tutorial.data, owner, owner)
    tutorial.shell("docker run --rm --entrypoint htpasswd hatoba -Bbn busy bee > registry/registry.password")
    tutorial("up", "--detach")
    login(town, e2e)
    walk_through(town, hello)
    assert tutorial.shell("ls ./registry/data/docker/registry/v2/repositories/").stdout == "pliutau\n"
    assert owners(tutorial.data) == {owner}
    assert town("login", NAME, "-u", "busy", "--password-stdin", stdin="no", check=False).returncode == 1
    log = tutorial.logs("registry")
    assert "level=error" not in log
    assert "level=warning" not in log
    assert f" client={ADDRESS} method=PUT" in log, "who asked NGINX, not NGINX"
    tutorial("down")
    tutorial("up", "--detach")
    login(town, e2e)
    assert "v0" in tutorial.shell("docker compose exec registry hatoba ls pliutau/hello-world").stdout


def test_the_password_file_was_forgotten(stack, e2e):
    """Docker makes a folder where the file should be."""
    tutorial = stack()
    tutorial("up", "--detach", "registry")
    ended = ("ps", "--all", "--format", "{{.State}} {{.ExitCode}}", "registry")
    e2e.wait_for(lambda: tutorial(*ended).stdout == "exited 2\n", lambda: tutorial(*ended).stdout, 60)
    assert tutorial.logs("registry") == (
        "hatoba: /auth/registry.password: is a directory: Docker made it because the file did not exist on the host; "
        "remove it and create the file\n"
    )


# Pushes a blob of 2 MiB by a request that waits half-way until a line comes in; says the statuses.
SLOW_PUSH = """
import base64, hashlib, http.client, ssl, sys
half = bytes(1 << 20)
digest = "sha256:" + hashlib.sha256(half * 2).hexdigest()
user = {"Authorization": "Basic " + base64.b64encode(b"busy:bee").decode()}
def parts():
    yield half
    print("half-way", flush=True)
    sys.stdin.readline()
    yield half
connection = http.client.HTTPSConnection(sys.argv[1], context=ssl._create_unverified_context(), timeout=120)
path = f"/v2/team/app/blobs/uploads/?digest={digest}"
connection.request("POST", path, parts(), {**user, "Content-Length": str(2 << 20)})
print(connection.getresponse().status, flush=True)
"""


@pytest.fixture
def authority(town, tmp_path, e2e):
    """Let's Encrypt's own authority for tests, in the town; where its directory is."""
    e2e.needed("pebble", "pebble-challtestsrv")
    town.certify(tmp_path, "localhost")
    settings = {
        "listenAddress": "127.0.0.1:14000", "managementListenAddress": "127.0.0.1:15000",
        "certificate": str(tmp_path / "fullchain.pem"), "privateKey": str(tmp_path / "privkey.pem"),
        "httpPort": 80, "tlsPort": 443, "ocspResponderURL": "", "externalAccountBindingRequired": False,
    }  # fmt: skip
    (tmp_path / "pebble.json").write_text(json.dumps({"pebble": settings}))
    names = ["pebble-challtestsrv", "-defaultIPv4", ADDRESS, "-defaultIPv6", "", "-dns01", "127.0.0.1:8053",
             "-http01", "", "-https01", "", "-tlsalpn01", "", "-management", "127.0.0.1:8055"]  # fmt: skip
    pebble = ["pebble", "-config", tmp_path / "pebble.json", "-dnsserver", "127.0.0.1:8053"]
    log = tmp_path / "pebble.log"
    programs = []
    with log.open("wb") as out:
        for command in (names, pebble):
            environment = {**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
            programs.append(subprocess.Popen(town.inside(*command), stdout=out, stderr=out, env=environment))
    try:
        e2e.wait_for(lambda: "Listening on: 127.0.0.1:14000" in log.read_text(), log.read_text)
        yield "https://localhost:14000/dir"
    finally:
        for program in programs:
            program.terminate()
            program.wait(30)


@pytest.fixture
def served(town):
    """The certificate that who asks for the name is shown now."""
    program = "import ssl, sys; print(ssl.get_server_certificate((sys.argv[1], 443)))"

    def ask() -> str:
        done = subprocess.run(town.inside("python3", "-c", program, NAME), text=True, capture_output=True, check=True)
        return done.stdout.strip()

    return ask


def test_certbot_renews_under_a_push(town, stack, authority, served, e2e):
    """The webroot goes through NGINX, the hook reloads it, and what is under way ends well."""
    renewing = stack("certbot")
    renewing.shell("mkdir -p registry/data nginx/certs nginx/webroot")
    town.certify(renewing.folder / "nginx/certs")
    renewing.shell("docker run --rm --entrypoint htpasswd hatoba -Bbn busy bee > registry/registry.password")
    renewing("up", "--detach")
    login(town, e2e)

    def certbot(*words: str) -> None:
        places = [f"--{kind}-dir={renewing.folder / 'letsencrypt' / kind}" for kind in ("config", "work", "logs")]
        command = town.inside(Path(sys.executable).with_name("certbot"), *words, "--non-interactive", *places)
        done = town.as_client(command, cwd=renewing.folder, REQUESTS_CA_BUNDLE=str(town.ca))
        assert done.returncode == 0, done.stdout + done.stderr

    def saved() -> str:
        chain = renewing.folder / f"letsencrypt/config/live/{NAME}/fullchain.pem"
        end = "-----END CERTIFICATE-----"
        return chain.read_text().partition(end)[0] + end

    webroot = ["--webroot", "--webroot-path", "nginx/webroot", "--domain", NAME, "--deploy-hook", "./renewed.sh"]
    certbot("certonly", *webroot, "--server", authority, "--agree-tos", "--register-unsafely-without-email")
    e2e.wait_for(lambda: served() == saved(), "NGINX still has the old certificate")
    first = saved()
    command = town.inside("python3", "-c", SLOW_PUSH, NAME)
    pushing = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert pushing.stdout.readline() == "half-way\n"
        certbot("renew", "--force-renewal", "--no-random-sleep-on-renew")
        assert saved() != first
        e2e.wait_for(lambda: served() == saved(), "NGINX still has the old certificate")
        assert pushing.communicate("go on\n", timeout=120)[0] == "201\n"
    finally:
        pushing.kill()
        pushing.wait()
    assert "level=error" not in renewing.logs("registry")


def test_hatoba_alone_with_its_own_certificate(town, stack, hello, served, e2e):
    """A new certificate in the folder is taken without a restart."""
    alone = stack("own-tls")
    alone.shell("mkdir -p registry/data certs")
    town.certify(alone.folder / "certs")
    alone.shell("docker run --rm --entrypoint htpasswd hatoba -Bbn busy bee > registry/registry.password")
    alone("up", "--detach")
    login(town, e2e)
    walk_through(town, hello)
    assert alone.shell("ls ./registry/data/docker/registry/v2/repositories/").stdout == "pliutau\n"
    probe = ("exec", "registry", "/opt/hatoba/bin/python", "-m", "hatoba.health")
    assert alone(*probe).returncode == 0
    first = served()
    town.certify(alone.folder / "certs")
    alone("kill", "--signal", "HUP", "registry")
    e2e.wait_for(lambda: served() != first, "the old certificate is still served", 60)
    assert town("pull", IMAGE).returncode == 0
    log = alone.logs("registry")
    assert "level=error" not in log


def test_a_key_that_the_owner_of_the_data_may_not_read(town, stack, e2e):
    """certbot's keys are root's; the server is the owner of the data from the start."""
    alone = stack("own-tls")
    alone.shell("mkdir -p registry/data certs")
    town.certify(alone.folder / "certs")
    os.chown(alone.data, 1000, 1000)
    (alone.folder / "certs/privkey.pem").chmod(0o600)
    alone.shell("docker run --rm --entrypoint htpasswd hatoba -Bbn busy bee > registry/registry.password")
    done = alone("run", "--rm", "--no-TTY", "registry", check=False)
    assert done.returncode == 2
    said = "hatoba: /certs/privkey.pem cannot be read by uid 1000: Permission denied"
    assert said in (done.stdout + done.stderr).splitlines()
