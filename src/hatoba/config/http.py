"""The settings of the HTTP server: where it listens, and the address under which clients reach it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from pydantic import Field, SecretStr, model_validator

from hatoba.config.section import Section, unsupported
from hatoba.config.values import (
    DebugAddress,
    Duration,
    Headers,
    ListenAddress,
    MetricsPath,
    Network,
    PathPrefix,
    WebAddress,
    parse_address,
)
from hatoba.errors import ConfigError


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

    unmodelled = frozenset({"h2c", "http2", "tls"})

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

    @model_validator(mode="before")
    @classmethod
    def _refuse_tls(cls, value: object) -> object:
        tls = value.get("tls") if isinstance(value, Mapping) else None
        if isinstance(tls, Mapping):
            if tls.get("certificate"):
                raise unsupported("http.tls.certificate")
            encrypt = tls.get("letsencrypt")
            if any(encrypt.values()) if isinstance(encrypt, Mapping) else encrypt:
                raise unsupported("http.tls.letsencrypt")
        elif tls is not None:
            raise ConfigError("http.tls must be a mapping")
        return value

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
    def socket_path(self) -> Path | None:
        """The socket to listen on when net is unix."""
        return Path(self.addr) if self.net == "unix" else None
