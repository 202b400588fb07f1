"""What a certificate and its key may be: each that cannot be served is refused in one line that names the file."""

from __future__ import annotations

import os
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from hatoba import certificates
from hatoba.certificates import KeptInMemory
from hatoba.config.http import TLSSettings
from hatoba.errors import ConfigError

SEC1_AND_PKCS1, PKCS8 = PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8
EC_PARAMETERS = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
END = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)


def certificate(key, end=END):
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(end - timedelta(days=9)).not_valid_after(end)
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("registry.example.com")]), critical=False)
    digest = None if isinstance(key, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)) else hashes.SHA256()
    return made.sign(key, digest).public_bytes(Encoding.PEM)


def pem(key, form=PKCS8, encryption=None):
    return key.private_bytes(Encoding.PEM, form, encryption or NoEncryption())


@pytest.fixture(scope="module")
def small():
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def settings(tmp_path):
    """settings(chain, key) writes both files and names them; None writes none."""

    def name(chain, key, **others):
        for file, content in (("chain", chain), ("key", key)):
            if content is not None:
                (tmp_path / file).write_bytes(content)
        return TLSSettings(certificate=tmp_path / "chain", key=tmp_path / "key", **others)

    return name


def refusal(settings):
    with pytest.raises(ConfigError) as refused:
        certificates.read(settings)
    assert "\n" not in refused.value.message
    return refused.value.message


@pytest.mark.parametrize(
    ("make", "form", "begins"),
    [
        (lambda: rsa.generate_private_key(65537, 2048), SEC1_AND_PKCS1, b"-----BEGIN RSA PRIVATE KEY"),
        (lambda: rsa.generate_private_key(65537, 2048), PKCS8, b"-----BEGIN PRIVATE KEY"),
        (lambda: ec.generate_private_key(ec.SECP256R1()), SEC1_AND_PKCS1, b"-----BEGIN EC PRIVATE KEY"),
        (lambda: ec.generate_private_key(ec.SECP384R1()), PKCS8, b"-----BEGIN PRIVATE KEY"),
        (ed25519.Ed25519PrivateKey.generate, PKCS8, b"-----BEGIN PRIVATE KEY"),
    ],
)
def test_forms_and_kinds_of_keys(settings, make, form, begins):
    key = make()
    written = pem(key, form)
    assert written.startswith(begins)
    chain = certificate(key)
    read = certificates.read(settings(chain, written))
    assert (read.chain, read.key) == (chain, pem(key))
    assert (read.names, read.end, read.authorities) == ("registry.example.com", END, b"")


def test_files_as_people_have_them(settings, small):
    """openssl's parameters before the key, text around the PEM, the lines of another system, both in one file."""
    chain, key = certificate(small), pem(small, SEC1_AND_PKCS1)
    both = chain + key
    for written in (EC_PARAMETERS + key, b"subject=x\n" + key, key.replace(b"\n", b"\r\n"), both):
        assert certificates.read(settings(b"Certificate:\n" + both, written)).chain == chain


def test_a_chain_is_kept_whole_and_in_order(settings, small):
    chain = certificate(small) + certificate(ec.generate_private_key(ec.SECP521R1()))
    assert certificates.read(settings(chain, pem(small))).chain == chain
    authority = TLSSettings(clientcas=[settings(chain, pem(small)).certificate])
    told = certificates.read(settings(None, None, clientcas=authority.clientcas))
    assert told.authorities == chain


@pytest.mark.parametrize(
    ("make", "form"),
    [
        (lambda: rsa.generate_private_key(65537, 1024), PKCS8),  # noqa: S505
        (lambda: ec.generate_private_key(ec.SECP521R1()), SEC1_AND_PKCS1),
        (ed448.Ed448PrivateKey.generate, PKCS8),
    ],
)
def test_kinds_of_keys_that_rustls_has_not(settings, tmp_path, make, form):
    key = make()
    assert refusal(settings(certificate(key), pem(key, form))) == (
        f"{tmp_path}/key holds a key of a kind that is not supported: RSA of 2048 to 4096 bits, ECDSA P-256 or P-384, "
        "or Ed25519"
    )


@pytest.mark.parametrize("form", [SEC1_AND_PKCS1, PKCS8])
def test_encrypted_keys(settings, tmp_path, small, form):
    written = pem(small, form, BestAvailableEncryption(b"secret"))
    expected = f"{tmp_path}/key is encrypted with a password; decrypt it: openssl pkey -in {tmp_path}/key -out NEW"
    assert refusal(settings(certificate(small), written)) == expected


def test_damaged_and_absent_files(settings, tmp_path, small):
    chain, key = certificate(small), pem(small)
    damaged = f"{tmp_path}/key holds no private key in PEM form, or a damaged one"
    for written in (b"", chain, key[:100], key.replace(b"M", b"N", 1), b"\xff\x00"):
        assert refusal(settings(chain, written)) == damaged
    for written in (b"", key, b"\xff\x00"):
        assert refusal(settings(written, key)) == f"{tmp_path}/chain holds no certificate in PEM form"
    for written in (chain[:200], chain.replace(b"MII", b"MIJ", 1)):
        assert refusal(settings(written, key)) == f"{tmp_path}/chain holds a certificate that is damaged"
    (tmp_path / "chain").unlink()
    expected = f"{tmp_path}/chain cannot be read by uid {os.getuid()}: No such file or directory"
    assert refusal(settings(None, key)) == expected


def test_a_key_of_another_certificate(settings, tmp_path, small):
    other = ec.generate_private_key(ec.SECP256R1())
    assert refusal(settings(certificate(small), pem(other))) == (
        f"{tmp_path}/key does not belong to {tmp_path}/chain: the private key of that certificate is another"
    )
    assert refusal(settings(certificate(small) + certificate(other), pem(other))) == (
        f"{tmp_path}/chain: the server's own certificate must stand before those it is signed with"
    )


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_a_certificate_of_version_1(settings, tmp_path, small):
    """openssl makes such without extensions; rustls and Docker refuse them."""
    (tmp_path / "k").write_bytes(pem(small))
    request = ["openssl", "req", "-new", "-key", tmp_path / "k", "-subj", "/CN=x"]
    signing = ["openssl", "x509", "-req", "-signkey", tmp_path / "k"]
    asked = subprocess.run(request, check=True, capture_output=True).stdout
    made = subprocess.run(signing, check=True, capture_output=True, input=asked).stdout
    assert refusal(settings(made, pem(small))) == (
        f"{tmp_path}/chain is a certificate of version 1, which clients refuse; make one of version 3"
    )


def test_settings_that_need_each_other(tmp_path):
    assert certificates.read(TLSSettings(minimumtls="tls1.3")) is None
    for given, missing in (("key", "certificate"), ("clientcas", "certificate"), ("certificate", "key")):
        value = [tmp_path / "x"] if given == "clientcas" else tmp_path / "x"
        assert refusal(TLSSettings(**{given: value})) == f"http.tls.{missing} is required with http.tls.{given}"
    settings = TLSSettings(certificate=tmp_path / "x", key=tmp_path / "y", clientauth="verify-client-cert-if-given")
    assert refusal(settings) == "http.tls.clientcas is required with http.tls.clientauth"


def test_kept_in_memory(settings, small):
    """What a worker opens later is what was read, also when the files are gone."""
    read = certificates.read(settings(certificate(small), pem(small)))
    before = set(os.listdir("/proc/self/fd"))
    kept = KeptInMemory(read)
    try:
        for path, content in ((kept.chain, read.chain), (kept.key, read.key)):
            for _ in range(2):
                assert Path(path).read_bytes() == content
        assert kept.authorities is None
    finally:
        kept.close()
    assert set(os.listdir("/proc/self/fd")) == before


def test_the_signature_changes_with_what_a_link_names(settings, tmp_path, small):
    wanted = settings(None, None)
    assert certificates.signature(wanted) == (None, None)
    for name in ("old", "new"):
        (tmp_path / name).write_bytes(b"same")
    (tmp_path / "chain").symlink_to("old")
    (tmp_path / "key").write_bytes(pem(small))
    before = certificates.signature(wanted)
    assert before == certificates.signature(wanted)
    (tmp_path / "link").symlink_to("new")
    (tmp_path / "link").rename(tmp_path / "chain")
    assert certificates.signature(wanted)[0] != before[0]
    assert certificates.signature(wanted)[1] == before[1]


def test_an_expired_certificate_is_served_with_a_warning(settings, small):
    read = certificates.read(settings(certificate(small), pem(small)))
    assert certificates.warnings(read) == []
    read = certificates.read(settings(certificate(small, datetime(2020, 1, 2, tzinfo=UTC)), pem(small)))
    (warning,) = certificates.warnings(read)
    assert warning == "the certificate of registry.example.com has expired on 2020-01-02"
