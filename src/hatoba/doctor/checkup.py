"""The doctor's round: reach, TLS, ping, login, push and pull of two images, delete; each step told as it ends.

Owns the order of things, what counts as a fault, and taking away again what was pushed. What is to blame is said by
`culprits`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import ssl
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Literal
from urllib.parse import urljoin, urlsplit

from hatoba.doctor import culprits
from hatoba.doctor.client import Address, Answer, Broken, Call, Client, NoToken, challenge, is_plain, may_hear
from hatoba.doctor.culprits import shown
from hatoba.errors import ConfigError
from hatoba.oci.descriptor import OCI_MANIFEST
from hatoba.oci.digest import Digest

Verdict = Literal["ok", "note", "FAULT", "left"]

MIB = 1024 * 1024
_SIZES = (1 * MIB, 30 * MIB)
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_OCTETS = {"Content-Type": "application/octet-stream"}
_SKEW = timedelta(seconds=60)  # the leeway that tokens have
_SOON = timedelta(days=14)
_SPOKEN = {"send", "wait", "read"}
_GONE = {202, 204, 404}
_TRIES = 3
_MOST_REDIRECTS = 5
_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what came of a step, and the seconds it took if that is of interest."""

    verdict: Verdict
    step: str
    text: str
    seconds: float | None = None


class Fault(Exception):
    """A step cannot go on; the message is the culprit."""


class _Blob:
    """Bytes with the type under which manifests name them; the digest is made once, outside of what is timed."""

    def __init__(self, media_type: str, body: bytes) -> None:
        self.body = body
        self.digest = str(Digest.of(body))
        self.descriptor = {"mediaType": media_type, "digest": self.digest, "size": len(body)}


class Checkup:
    """One round at `client`'s registry in `repository`; each finding goes to `tell`."""

    def __init__(self, client: Client, user: str | None, repository: str, tell: Callable[[Finding], None]) -> None:
        self._client = client
        self._address = client.address
        self._user = user
        self._repository = f"{client.address.path}/v2/{repository}"
        self._name = repository
        self._say = tell
        self._step = ""
        self._complaints: set[str] = set()
        self._notes: set[str] = set()
        # What a later hand, or ours, has to take away again.
        self._session: str | None = None
        self._manifests: list[tuple[str, str]] = []
        self._blobs: list[str] = []
        self._lost = False

    @property
    def faults(self) -> int:
        """How many things are wrong."""
        return len(self._complaints)

    def run(self) -> None:
        """Make the round; raises ConfigError when the registry wants a user and there is none."""
        steps: list[tuple[str, Callable[[], str]]] = [("reach", self._reach)]
        if self._address.scheme == "https":
            steps.append(("TLS", self._secure))
        steps += [("ping", self._ping), ("login", self._login)]
        if not all(self._do(step, work) for step, work in steps):
            return
        try:
            for size in _SIZES:
                image = _image(size)
                words = f"{size // MIB} MiB"
                if not self._do(f"push {words}", lambda image=image: self._push(image)):  # type: ignore[misc]
                    break
                self._do(f"pull {words}", lambda image=image: self._pull(image))  # type: ignore[misc]
        finally:
            try:
                self._do("delete", self._tidy)
            except KeyboardInterrupt:  # the second one: then there is no time
                self._say(Finding("left", self._step, f"what is in {self._name}"))
                raise

    def _do(self, step: str, work: Callable[[], str]) -> bool:
        """Whether the step could be done; it may have been complained of all the same."""
        self._step = step
        before, started = self.faults, time.perf_counter()
        try:
            words = work()
        except Fault as fault:
            self._complain(str(fault))
            return False
        except (Broken, NoToken) as failure:
            self._complain(self._why(failure))
            return False
        if self.faults == before and words:
            self._say(Finding("ok", step, words, time.perf_counter() - started))
        return True

    def _complain(self, text: str) -> None:
        if text not in self._complaints:
            self._complaints.add(text)
            self._say(Finding("FAULT", self._step, text))

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.add(text)
            self._say(Finding("note", self._step, text))

    def _why(self, broken: Broken | NoToken) -> str:
        """A failure may look like another: what is asked in the wrong scheme mostly hears nothing at all."""
        if isinstance(broken, NoToken):
            return culprits.of_token_server(broken.answer)
        silent, where = isinstance(broken.error, TimeoutError), broken.address
        if where.scheme == "http" and broken.phase in _SPOKEN and not silent and self._speaks_tls(where):
            return culprits.of_tls(where)
        if isinstance(broken.error, ssl.SSLCertVerificationError):
            return culprits.of_certificate(broken.error, where, *self._certificate(where))
        return culprits.of_failure(broken)

    def _speaks_tls(self, where: Address) -> bool:
        with contextlib.suppress(Broken), self._client.handshake(_unverified(), where):
            return True
        return False

    def _certificate(self, where: Address) -> tuple[bytes, list[str]]:
        """The certificate that is not accepted, and the names in it, which are told only if its chain is."""
        certificate, names = b"", list[str]()
        with contextlib.suppress(Broken), self._client.handshake(_unverified(), where) as connection:
            certificate = connection.getpeercert(binary_form=True) or b""
        self._client.context.check_hostname = False
        try:
            with contextlib.suppress(Broken), self._client.handshake(address=where) as connection:
                names = _names(connection)
        finally:
            self._client.context.check_hostname = True
        return certificate, names

    # The steps

    def _reach(self) -> str:
        return f"{self._client.reach()} answers at port {self._address.port}"

    def _secure(self) -> str:
        with self._client.handshake() as connection:
            version, certificate = connection.version(), connection.getpeercert()
            names = _names(connection)
        if not certificate:
            self._note("the certificate is not checked (--insecure)")
            return f"{version}"
        begin, end = (
            datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate[when])), UTC)
            for when in ("notBefore", "notAfter")
        )
        # Some live for hours, and are renewed as often.
        if end - datetime.now(UTC) < min(_SOON, (end - begin) / 4):
            self._note(f"the certificate expires soon, on {end:%Y-%m-%d}: renew it")
        return f"{version}, certificate for {shown(', '.join(names))}, valid until {end:%Y-%m-%d}"

    def _ping(self) -> str:
        answer = self._client.request(Call("GET", f"{self._address.path}/v2/"))
        signed = answer.status == HTTPStatus.UNAUTHORIZED
        if answer.status != HTTPStatus.OK and not (signed and _is_registry(answer)):
            if (
                self._address.scheme == "http"
                and answer.status == HTTPStatus.BAD_REQUEST
                and self._speaks_tls(self._address)
            ):
                raise Fault(culprits.of_tls(self._address))
            raise Fault(culprits.of_status(answer))
        kind = answer.header("content-type").partition(";")[0].strip().lower()
        if not _is_registry(answer) and kind != "application/json":
            raise Fault(f"this is no registry: /v2/ is answered with {shown(kind or 'nothing')} by {_server(answer)}")
        self._require(answer, "Docker-Distribution-Api-Version")
        if signed:
            self._require(answer, "WWW-Authenticate")
        self._check_clock(answer)
        if self._address.path:
            self._note(
                f"Docker's clients know no path such as {self._address.path}: for them the registry must be at /v2/"
            )
        if self._address.scheme == "http" and not self._address.is_loopback:
            self._note("plain HTTP: passwords go in the clear, and Docker refuses it but for its insecure-registries")
        asked = challenge(answer)
        if asked is None:
            return "a registry, no sign-in"
        where = f" at {shown(asked[1].get('realm', ''))}" if asked[0] == "bearer" else ""
        return f"a registry, sign-in with {shown(asked[0].capitalize())}{where}"

    def _check_clock(self, answer: Answer) -> None:
        try:
            there = parsedate_to_datetime(answer.header("date"))
            apart = datetime.now(UTC) - there.astimezone(UTC)
        except (ValueError, TypeError, OverflowError):
            return
        if abs(apart) > _SKEW + timedelta(seconds=answer.seconds):
            words = "behind" if apart > timedelta(0) else "ahead of"
            self._complain(
                f"the server's clock is {abs(apart) // timedelta(seconds=1)} s {words} this machine's: one of them is "
                "wrong, and certificates and tokens are then, too (set up NTP)"
            )

    def _login(self) -> str:
        path = f"{self._address.path}/v2/"
        first = self._client.request(Call("GET", path))
        asked = challenge(first)
        if first.status == HTTPStatus.OK:
            if self._user is not None:
                self._note("the registry asks nobody for a password: everybody may push and pull")
            return ""
        if self._user is None:
            raise ConfigError("the registry wants a user: hatoba doctor URL -u USER")
        if asked and asked[0] not in {"basic", "bearer"}:
            raise Fault(f"sign-in with {shown(asked[0])} is nothing that Docker's clients know")
        if asked and asked[0] == "bearer" and not may_hear(asked[1].get("realm", ""), self._address):
            raise Fault(culprits.of_realm(asked[1].get("realm", "")))
        self._client.sign_in(by_token=asked is not None and asked[0] == "bearer")
        answer = self._client.request(Call("GET", path))
        if answer.status != HTTPStatus.OK:
            raise Fault(culprits.of_status(answer))
        return f"as {shown(self._user)}"

    def _push(self, image: tuple[_Blob, _Blob, str]) -> str:
        layer, config, tag = image
        started = time.perf_counter()
        for blob in (config, layer):
            self._upload(blob)
        seconds = time.perf_counter() - started
        manifest = _manifest(config, layer)
        self._manifests.append((tag, manifest.digest))
        answer = self._client.request(
            Call("PUT", f"{self._repository}/manifests/{tag}", manifest.body, {"Content-Type": OCI_MANIFEST})
        )
        self._expect(answer, 201)
        self._locate(answer)
        self._check_digest(answer, manifest)
        return f"{self._name}:{tag}, {len(layer.body) / MIB / seconds:.0f} MiB/s"

    def _upload(self, blob: _Blob) -> None:
        """As `docker push` does it: a session, the bytes in one PATCH without a length, and an empty PUT."""
        answer = self._client.request(Call("POST", f"{self._repository}/blobs/uploads/"))
        self._expect(answer, 202)
        self._session = self._locate(answer)
        answer = self._client.request(Call("PATCH", self._session, blob.body, _OCTETS, chunked=True))
        self._expect(answer, 202)
        self._session = self._locate(answer)
        arrived = answer.header("range").removeprefix("bytes=")
        if arrived and arrived != f"0-{len(blob.body) - 1}":
            raise Fault(f"of {len(blob.body)} bytes the registry has {shown(arrived)}: a proxy cut the body")
        joined = f"{self._session}{'&' if '?' in self._session else '?'}digest={blob.digest}"
        self._blobs.append(blob.digest)
        answer = self._client.request(Call("PUT", joined, headers=_OCTETS))
        self._expect(answer, 201)
        self._session = None
        self._locate(answer)
        self._check_digest(answer, blob)

    def _pull(self, image: tuple[_Blob, _Blob, str]) -> str:
        layer, config, tag = image
        manifest, accept = _manifest(config, layer), {"Accept": OCI_MANIFEST}
        head = self._client.request(Call("HEAD", f"{self._repository}/manifests/{tag}", headers=accept))
        self._expect(head, 200)
        self._check_digest(head, manifest)
        path = f"{self._repository}/manifests/{manifest.digest}"
        self._check_content(self._client.request(Call("GET", path, headers=accept)), manifest)
        started = time.perf_counter()
        for blob in (config, layer):
            self._check_content(self._get(f"{self._repository}/blobs/{blob.digest}", len(blob.body) + 1), blob)
        return f"{len(layer.body) / MIB / (time.perf_counter() - started):.0f} MiB/s"

    def _get(self, path: str, most: int) -> Answer:
        """A blob, from wherever redirects lead: the registry itself, or the object store that keeps it."""
        answer = self._client.request(Call("GET", path, most=most))
        for _ in range(_MOST_REDIRECTS):
            if answer.status not in culprits.REDIRECTS:
                break
            where = self._location(answer)
            try:
                answer = self._client.follow(answer, most)
            except (ValueError, ConfigError):
                raise Fault(culprits.of_no_address(where)) from None
        else:
            raise Fault(f"{_MOST_REDIRECTS} redirects for one blob, the last one to {shown(where)}")
        if answer.status != HTTPStatus.OK and answer.address.origin != self._address.origin:
            raise Fault(culprits.of_blob_elsewhere(answer))
        return answer

    # What every answer has to be

    def _expect(self, answer: Answer, status: int) -> None:
        if answer.status == HTTPStatus.UNAUTHORIZED and self._user is None:
            raise Fault(f"the registry wants a user for {answer.method}: hatoba doctor URL -u USER")
        if answer.status == HTTPStatus.UNAUTHORIZED and culprits.spoken(answer):
            raise Fault(culprits.of_rights(answer))
        if answer.status != status:
            raise Fault(culprits.of_status(answer))

    def _require(self, answer: Answer, name: str) -> bool:
        if not answer.header(name):
            self._complain(culprits.of_header(name))
            return False
        return True

    def _check_digest(self, answer: Answer, blob: _Blob) -> None:
        if self._require(answer, "Docker-Content-Digest") and answer.header("docker-content-digest") != blob.digest:
            found = shown(answer.header("docker-content-digest"))
            self._complain(f"Docker-Content-Digest is {found}, not {blob.digest}")

    def _check_content(self, answer: Answer, blob: _Blob) -> None:
        self._expect(answer, 200)
        if coding := answer.header("content-encoding"):
            raise Fault(f"a proxy changes what is pulled: Content-Encoding {shown(coding)} (NGINX: gzip off)")
        if answer.body != blob.body:
            raise Fault(
                f"{len(answer.body)} bytes came back for the {len(blob.body)} that were pushed, or others: a proxy "
                "changes or cuts them, or the disk has lost them"
            )

    @staticmethod
    def _location(answer: Answer) -> str:
        value = answer.header("location")
        if not value:
            raise Fault(culprits.of_header("Location"))
        if not is_plain(value):
            raise Fault(culprits.of_no_address(value))
        return value

    def _locate(self, answer: Answer) -> str:
        """Where Location leads, as a path on this registry; what is wrong with the rest is told, and stops nobody."""
        value = self._location(answer)
        complaint = culprits.of_location(value, answer, self._address)
        if complaint:
            self._complain(complaint)
        try:
            to = urlsplit(urljoin(f"{self._address.origin}{answer.path}", value))
        except ValueError:
            raise Fault(culprits.of_no_address(value)) from None
        inner = to.path[to.path.find("/v2/") :] if "/v2/" in to.path else to.path
        return f"{self._address.path}{inner}" + (f"?{to.query}" if to.query else "")

    # Leaving

    def _tidy(self) -> str:
        """Delete what was pushed, and say what stays; nothing here stops the rest of it."""
        if self._session is not None:
            self._cancel(self._session)
        left = [
            f"{self._name}:{tag} ({digest})"
            for tag, digest in dict.fromkeys(self._manifests)
            if not self._take_away(f"{self._repository}/manifests/{digest}")
        ]
        if not left:  # as long as they are named somewhere, they cannot go
            blobs = list(dict.fromkeys(self._blobs))
            stay = [blob for blob in blobs if not self._take_away(f"{self._repository}/blobs/{blob}")]
            left = [f"{len(stay)} blobs of {self._name} without a manifest"] if stay else []
        for what in left:
            self._say(Finding("left", self._step, what))
        return "" if left or not self._blobs else f"{self._name} is empty again"

    def _cancel(self, session: str) -> None:
        """End the upload that could not go on, once the registry has noticed that."""
        for _ in range(_TRIES):
            with contextlib.suppress(Broken, NoToken):
                if self._client.request(Call("DELETE", session)).status in _GONE:
                    return
            time.sleep(_PAUSE_SECONDS)
        self._say(Finding("left", self._step, "an unfinished upload, which the registry purges by itself"))

    def _take_away(self, path: str) -> bool:
        """Whether it is gone. That a registry has deleting switched off is no fault, that a proxy forbids it is one."""
        if self._lost:  # nobody waits for one time-out after the other
            return False
        try:
            answer = self._client.request(Call("DELETE", path))
        except (Broken, NoToken) as failure:
            self._lost = True
            self._complain(self._why(failure))
            return False
        if answer.status in _GONE:
            return True
        words = culprits.spoken(answer)
        if answer.status == HTTPStatus.METHOD_NOT_ALLOWED and words:
            self._note(f"deleting is switched off there ({words})")
        else:
            self._complain(culprits.of_status(answer))
        return False


def _image(size: int) -> tuple[_Blob, _Blob, str]:
    """Layer, config and tag of an image with one file of `size` random bytes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo("random")
        member.size = size
        archive.addfile(member, io.BytesIO(os.urandom(size)))
    layer = _Blob(_LAYER, out.getvalue())
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer.digest]}}
    return layer, _Blob(_CONFIG, json.dumps(config).encode()), f"{size // MIB}mib"


def _manifest(config: _Blob, layer: _Blob) -> _Blob:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.descriptor,
        "layers": [layer.descriptor],
    }
    return _Blob(OCI_MANIFEST, json.dumps(document).encode())


def _is_registry(answer: Answer) -> bool:
    return bool(answer.header("docker-distribution-api-version") or culprits.spoken(answer))


def _server(answer: Answer) -> str:
    return shown(answer.header("server") or "a server without a name")


def _unverified() -> ssl.SSLContext:
    """Rules by which any certificate counts: to look at one, never to send a password."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _names(connection: ssl.SSLSocket) -> list[str]:
    certificate = connection.getpeercert() or {}
    return [str(entry[1]) for entry in certificate.get("subjectAltName", ())]
