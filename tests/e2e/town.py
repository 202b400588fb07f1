"""A network of its own on this machine, with a Docker engine in it: ports, bridges and names are nobody else's.

There `registry.example.com` is an address with all ports free, 443 too, and the engine trusts one authority of ours, so
that Docker is used as people use it: by name, on the usual port, with a certificate that is checked.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

NAME, ADDRESS = "registry.example.com", "198.51.100.1"  # both are for documents: nobody has them
ENGINE = """\
ip link set lo up
ip address add {address}/32 dev lo
mount --bind {folder}/hosts /etc/hosts
exec dockerd --data-root {folder}/data --exec-root {folder}/exec -H unix://{folder}/docker.sock --pidfile {folder}/pid
"""
# Documents and fsync are nothing to a test.
DPKG = """\
force-unsafe-io
path-exclude /usr/share/doc/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/man/*
"""


class Town:
    """The network and its engine; called it is a client of that: town("push", name)."""

    def __init__(self, folder: Path, docker) -> None:
        """`folder` has a short name, for the engine's socket lies in it; `docker` is a client of that socket."""
        self.folder = folder
        self.shell, self.push = docker.shell, docker.push
        self._docker = docker
        plugins = folder / "docker-config/cli-plugins"
        plugins.mkdir()
        (plugins / "docker-compose").symlink_to(Path(find_spec("compose").origin).with_name("docker-compose"))
        self.ca = folder / "ca.pem"
        self._certify(self.ca, folder / "ca.key", "-subj", "/CN=Town")
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{ADDRESS} {NAME}\n")
        command = ["unshare", "--net", "--mount", "sh", "-ec", ENGINE.format(address=ADDRESS, folder=folder)]
        trusting = docker.environment | {"SSL_CERT_FILE": str(self.ca)}
        with (folder / "log").open("wb") as log:
            self.engine = subprocess.Popen(command, stdout=log, stderr=log, env=trusting)

    def __call__(self, *arguments, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return self._docker(*arguments, check=check, stdin=stdin)

    def answers(self) -> bool:
        """Whether the engine is up, or has ended."""
        return self("info", check=False).returncode == 0 or self.engine.poll() is not None

    def end(self) -> None:
        self.engine.terminate()
        try:
            self.engine.wait(60)
        except subprocess.TimeoutExpired:
            self.engine.kill()
            self.engine.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)

    def inside(self, *command) -> list[str]:
        """The command line that runs `command` in the town's network, with its names."""
        return ["nsenter", f"--target={self.engine.pid}", "--net", "--mount", "--wd=.", *map(str, command)]

    def as_client(self, command: list[str], cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program that calls `docker`."""
        environment = self._docker.environment | variables
        return subprocess.run(command, cwd=cwd, env=environment, text=True, capture_output=True, check=False)

    def certify(self, folder: Path, name: str = NAME) -> None:
        """Put `fullchain.pem` and `privkey.pem` for `name` into the folder, signed by whom the engine trusts."""
        issuer = ["-CA", self.ca, "-CAkey", self.folder / "ca.key"]
        extra = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", *issuer]
        self._certify(folder / "fullchain.pem", folder / "privkey.pem", *extra)

    def _certify(self, certificate: Path, key: Path, *extra) -> None:
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        subprocess.run([*command, "-out", certificate, "-keyout", key, *extra], check=True, capture_output=True)

    def debian(self, archive: Path) -> None:
        """Write the files of a small Debian with Python and NGINX: a minute's work of debootstrap."""
        tree = self.folder / "debian"
        settings = tree / "etc/dpkg/dpkg.cfg.d/quick"
        settings.parent.mkdir(parents=True)
        settings.write_text(DPKG)
        command = ["debootstrap", "--variant=minbase", "--include=python3,python3-venv,nginx-light", "bookworm", tree]
        done = subprocess.run(command, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        unwanted = [f"--exclude=./{part}/*" for part in ("proc", "sys", "var/cache/apt", "var/lib/apt/lists")]
        part = archive.with_suffix(f".{os.getpid()}")
        subprocess.run(["tar", "-C", tree, *unwanted, "-cf", part, "."], check=True)
        part.replace(archive)
        shutil.rmtree(tree)
