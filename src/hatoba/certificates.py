"""The certificate, its key and the authorities of clients: read, checked, and kept in memory for the workers.

Owns what the files may hold and when they have changed. Says nothing of the protocol. The checks are those of rustls,
which ends the process where it meets something else; so what it is given is what was checked here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from hatoba.config.http import TLSSettings
from hatoba.config.values import printable
from hatoba.errors import ConfigError

_LEAST_RSA_BITS, _MOST_RSA_BITS = 2048, 4096
_CURVES = {"secp256r1", "secp384r1"}

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
Signature = tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True, slots=True)
class Certificates:
    """What was read, as PEM: the chain beginning with the server's own certificate, its key, clients' authorities.

    `names` and `end` are the server's certificate's, for the log.
    """

    chain: bytes
    key: bytes
    authorities: bytes
    names: str
    end: datetime


class KeptInMemory:
    """Certificates as files without a name, which processes forked from here open by these paths; Linux has such.

    A worker that is replaced years later gets what was checked, whatever lies on the disk by then.
    """

    def __init__(self, certificates: Certificates) -> None:
        self._descriptors: list[int] = []
        self.chain = self._keep(certificates.chain)
        self.key = self._keep(certificates.key)
        self.authorities = self._keep(certificates.authorities) if certificates.authorities else None

    def _keep(self, content: bytes) -> str:
        descriptor = os.memfd_create("hatoba-tls", os.MFD_CLOEXEC)
        self._descriptors.append(descriptor)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        return f"/proc/self/fd/{descriptor}"

    def close(self) -> None:
        """Give the memory back; processes forked before still have it."""
        while self._descriptors:
            os.close(self._descriptors.pop())


def read(settings: TLSSettings) -> Certificates | None:
    """The certificates that the settings name, None without TLS; raises ConfigError naming the key or file."""
    if settings.certificate is None:
        for name in ("key", "clientcas"):
            if getattr(settings, name):
                raise ConfigError(f"http.tls.certificate is required with http.tls.{name}")
        return None
    if settings.key is None:
        raise ConfigError("http.tls.key is required with http.tls.certificate")
    if "clientauth" in settings.model_fields_set and not settings.clientcas:
        raise ConfigError("http.tls.clientcas is required with http.tls.clientauth")
    chain = _read_chain(settings.certificate)
    key = _read_key(settings.key)
    _check_pair(settings, chain, key)
    authorities = [certificate for path in settings.clientcas for certificate in _read_chain(path)]
    return Certificates(
        chain=_as_pem(chain),
        key=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        authorities=_as_pem(authorities),
        names=_names(chain[0]),
        end=chain[0].not_valid_after_utc,
    )


def signature(settings: TLSSettings) -> Signature:
    """What changes whenever one of the files does, or what a link on the way to it names."""
    return tuple(_stat(path) for path in (settings.certificate, settings.key, *settings.clientcas) if path)


def _stat(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{printable(path)} cannot be read by uid {os.getuid()}: {error.strerror}") from None


def _read_chain(path: Path) -> list[x509.Certificate]:
    content = _read_file(path)
    if b"-----BEGIN CERTIFICATE-----" not in content:
        raise ConfigError(f"{printable(path)} holds no certificate in PEM form")
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise ConfigError(f"{printable(path)} holds a certificate that is damaged") from None


def _read_key(path: Path) -> Key:
    content = _read_file(path)
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except TypeError:
        raise ConfigError(
            f"{printable(path)} is encrypted with a password; decrypt it: openssl pkey -in {printable(path)} -out NEW"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{printable(path)} holds no private key in PEM form, or a damaged one") from None
    usable = (
        (isinstance(key, rsa.RSAPrivateKey) and _LEAST_RSA_BITS <= key.key_size <= _MOST_RSA_BITS)
        or (isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES)
        or isinstance(key, ed25519.Ed25519PrivateKey)
    )
    if not usable:
        raise ConfigError(
            f"{printable(path)} holds a key of a kind that is not supported: RSA of 2048 to 4096 bits, ECDSA P-256 or "
            "P-384, or Ed25519"
        )
    assert isinstance(key, Key)  # noqa: S101  for mypy, which does not see it
    return key


def _check_pair(settings: TLSSettings, chain: list[x509.Certificate], key: Key) -> None:
    certificate, path = printable(str(settings.certificate)), printable(str(settings.key))
    mine = _public(key.public_key())
    if chain[0].version is not x509.Version.v3:
        raise ConfigError(f"{certificate} is a certificate of version 1, which clients refuse; make one of version 3")
    if _public_of(chain[0]) == mine:
        return
    if any(_public_of(other) == mine for other in chain):
        raise ConfigError(f"{certificate}: the server's own certificate must stand before those it is signed with")
    raise ConfigError(f"{path} does not belong to {certificate}: the private key of that certificate is another")


def _public_of(certificate: x509.Certificate) -> bytes | None:
    try:
        return _public(certificate.public_key())
    except (ValueError, UnsupportedAlgorithm):
        return None


def _public(key: CertificatePublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _as_pem(certificates: Iterable[x509.Certificate]) -> bytes:
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)


def _names(certificate: x509.Certificate) -> str:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return printable(certificate.subject.rfc4514_string())
    names = [*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))]
    return printable(", ".join(names))


def warnings(certificates: Certificates) -> list[str]:
    """What an operator should hear of certificates that can be served."""
    if certificates.end < datetime.now(UTC):
        return [f"the certificate of {certificates.names} has expired on {certificates.end:%Y-%m-%d}"]
    return []
