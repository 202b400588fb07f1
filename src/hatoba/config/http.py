"""The settings of the HTTP server: where it listens, and the address under which clients reach it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from hatoba.config.section import Section, unsupported
from hatoba.config.values import (
    DebugAddress,
    Duration,
    FilePath,
    Headers,
    ListenAddress,
    MetricsPath,
    Network,
    PathPrefix,
    WebAddress,
    parse_address,
)
from hatoba.errors import ConfigError

# The modes of Docker's registry that take a certificate which no authority has signed.
_UNVERIFIED = ("request-client-cert", "require-any-client-cert")


class TLSSettings(Section):
    """`http.tls`."""

    unmodelled = frozenset({"ciphersuites", "letsencrypt"})

    certificate: FilePath | None = Field(
        default=None, description="The certificate and those it is signed with, PEM; unset: no TLS."
    )
    key: FilePath | None = Field(default=None, description="The certificate's private key, PEM without a password.")
    minimumtls: Literal["tls1.2", "tls1.3"] = Field(
        default="tls1.2", description="The oldest version of TLS that is spoken."
    )
    clientcas: list[FilePath] = Field(
        default_factory=list, description="Files of authorities, PEM: a client needs a certificate of one of them."
    )
    clientauth: Literal["require-and-verify-client-cert", "verify-client-cert-if-given"] = Field(
        default="require-and-verify-client-cert", description="Whether a client may come without a certificate."
    )

    @model_validator(mode="before")
    @classmethod
    def _without_what_is_empty(cls, value: object) -> object:
        """Empty text is a key not written, as in Docker's registry."""
        if not isinstance(value, Mapping):
            return value
        encrypt = value.get("letsencrypt")
        if any(encrypt.values()) if isinstance(encrypt, Mapping) else encrypt:
            raise unsupported("http.tls.letsencrypt")
        return {key: entry for key, entry in value.items() if entry != ""}

    @field_validator("minimumtls", mode="before")
    @classmethod
    def _only_what_is_safe(cls, value: object) -> object:
        if value in ("tls1.0", "tls1.1"):
            raise ValueError("must be tls1.2 or tls1.3: the older versions are broken and not spoken")
        return value

    @field_validator("clientauth", mode="before")
    @classmethod
    def _only_verified(cls, value: object) -> object:
        if value in _UNVERIFIED:
            raise ValueError(
                "must be require-and-verify-client-cert or verify-client-cert-if-given: a certificate that nobody "
                "verifies proves nothing, and is not asked for"
            )
        return value


class HTTP2Settings(Section):
    """`http.http2`."""

    disabled: bool = Field(default=False, description="Speak HTTP/1.1 alone over TLS; without TLS it always is.")


class PrometheusSettings(Section):
    """`http.debug.prometheus`."""

    enabled: bool = Field(default=False, description="Count what is done, and show it at the debug port.")
    path: MetricsPath = Field(default="/metrics", description="Where.")


class DebugSettings(Section):
    """`http.debug`."""

    addr: DebugAddress = Field(
        default="",
        description="host:port of /debug/health and of metrics, without sign-in and without TLS; empty: there is none.",
    )
    prometheus: PrometheusSettings = Field(default_factory=PrometheusSettings, description="Metrics for Prometheus.")


class HTTPSettings(Section):
    """`http`."""

    unmodelled = frozenset({"h2c"})

    addr: ListenAddress = Field(
        default=":5000", description="host:port to listen on, or the path of a socket when net is unix."
    )
    net: Network = Field(default="tcp", description="The kind of socket.")
    host: WebAddress = Field(
        default="", description="The URL under which clients reach the registry; empty: taken from each request."
    )
    prefix: PathPrefix = Field(
        default="", description="The path that goes before /v2/, kept with a slash at both ends."
    )
    secret: SecretStr = Field(
        default=SecretStr(""),
        description="Accepted from configurations of Docker's registry; hatoba's upload addresses need no signature.",
    )
    relativeurls: bool | None = Field(
        default=None,
        description="Answer with a path instead of a URL in Location; unset: so it is, no proxy gets a path wrong.",
    )
    headers: Headers = Field(default_factory=dict, description="Headers added to every answer, each with its values.")
    draintimeout: Duration = Field(
        default=timedelta(seconds=8), description="How long requests may go on after the signal to stop."
    )
    debug: DebugSettings = Field(default_factory=DebugSettings, description="The debug port, for health and metrics.")
    tls: TLSSettings = Field(default_factory=TLSSettings, description="Encryption by hatoba itself.")
    http2: HTTP2Settings = Field(default_factory=HTTP2Settings, description="HTTP/2, which TLS clients may choose.")

    @model_validator(mode="after")
    def _addr_fits_net(self) -> HTTPSettings:
        if ("/" in self.addr) != (self.net == "unix"):
            raise ValueError("must have the path of a socket as addr when net is unix, and host:port otherwise")
        return self

    @property
    def listen(self) -> tuple[str, int]:
        """Host ("" for every interface) and port; raises ConfigError when net is unix."""
        if self.net == "unix":
            raise ConfigError("http.addr is the path of a socket, as http.net is unix")
        return parse_address(self.addr)

    @property
    def encrypted(self) -> bool:
        """Whether hatoba itself speaks TLS."""
        return self.tls.certificate is not None

    @property
    def speaks_http2(self) -> bool:
        """Over TLS alone, and at a port, where the quiet connections can be told from the busy."""
        return self.encrypted and not self.http2.disabled and self.net != "unix"

    @property
    def socket_path(self) -> Path | None:
        """The socket to listen on when net is unix."""
        return Path(self.addr) if self.net == "unix" else None
