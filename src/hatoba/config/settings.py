"""Every setting of hatoba: one pydantic section per section of `config.yml`, attribute names = YAML keys.

Owns defaults and meanings (`values` has what a single value may be), and refuses what is known but not built:
ignoring `auth.token` would open the registry to everybody. Other unknown keys are ignored, as Docker's registry does.
Reads no file and no environment. Wrong values raise pydantic's ValidationError (`explain` makes it one line), refused
keys ConfigError.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from hatoba.config.http import HTTPSettings
from hatoba.config.section import Section, section_of, unsupported
from hatoba.config.values import (
    VERSION,
    AddressRange,
    Duration,
    Expression,
    FilePath,
    LogLevel,
    PositiveDuration,
    Version,
    printable,
    private_networks,
)
from hatoba.errors import ConfigError


class AccessLogSettings(Section):
    """`log.accesslog`."""

    disabled: bool = Field(default=False, description="Write no line per request.")


class LogSettings(Section):
    """`log`."""

    unmodelled = frozenset({"hooks", "reportcaller"})

    level: LogLevel = Field(default="info", description="The least severe kind of message that is written.")
    formatter: Literal["text", "json", "logstash"] = Field(default="text", description="The form of a log line.")
    accesslog: AccessLogSettings = Field(default_factory=AccessLogSettings, description="The line per request.")
    fields: dict[str, Any] = Field(default_factory=dict, description="Fields added to every log line.")


class FilesystemSettings(Section):
    """`storage.filesystem`."""

    rootdirectory: FilePath = Field(
        default=Path("/var/lib/registry"), description="The folder that holds everything the registry keeps."
    )
    maxthreads: int = Field(
        default=100, description="Accepted from configurations of Docker's registry; hatoba sizes its threads itself."
    )


class InMemorySettings(Section):
    """`storage.inmemory`: blobs live in the process and end with it."""


class DeleteSettings(Section):
    """`storage.delete`."""

    enabled: bool | None = Field(
        default=None,
        description="Whether clients may delete; unset: where users sign in or nobody else can reach the port.",
    )


class UploadPurgingSettings(Section):
    """`storage.maintenance.uploadpurging`."""

    enabled: bool = Field(default=True, description="Remove uploads that nobody finished.")
    age: Duration = Field(default=timedelta(hours=168), description="How old an unfinished upload must be.")
    interval: PositiveDuration = Field(default=timedelta(hours=24), description="The time between two removals.")
    dryrun: bool = Field(default=False, description="Log what would be removed and remove nothing.")


class ReadonlySettings(Section):
    """`storage.maintenance.readonly`."""

    enabled: bool = Field(
        default=False, description="Refuse every push and delete. hatoba's own upkeep goes on: links, uploads to purge."
    )


class MaintenanceSettings(Section):
    """`storage.maintenance`."""

    uploadpurging: UploadPurgingSettings = Field(
        default_factory=UploadPurgingSettings, description="Removal of unfinished uploads."
    )
    readonly: ReadonlySettings = Field(default_factory=ReadonlySettings, description="Read-only mode.")


class StorageSettings(Section):
    """`storage`: one driver and what applies to each of them."""

    unmodelled = frozenset({"azure", "cache", "gcs", "oss", "redirect", "s3", "s3aws", "swift", "tag"})
    _drivers: ClassVar[tuple[str, ...]] = ("filesystem", "inmemory")
    # What Docker's registry knows beside drivers; any further key is a driver.
    _ignored: ClassVar[frozenset[str]] = frozenset({"cache", "redirect", "tag"})

    filesystem: FilesystemSettings | None = Field(
        default=None, description="Keep blobs in a folder; the driver when none is named."
    )
    inmemory: InMemorySettings | None = Field(default=None, description="Keep blobs in memory, for trials and tests.")
    delete: DeleteSettings = Field(default_factory=DeleteSettings, description="Deletion by clients.")
    maintenance: MaintenanceSettings = Field(default_factory=MaintenanceSettings, description="Upkeep while serving.")

    @model_validator(mode="before")
    @classmethod
    def _one_driver(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        for key in value:
            if key not in cls.model_fields and key not in cls._ignored:
                raise unsupported(f"storage.{key}")
        named = [driver for driver in cls._drivers if value.get(driver) is not None]
        if len(named) > 1:
            raise ValueError(f"must name one driver, not {' and '.join(named)}")
        return value if named else {**value, "filesystem": {}}

    @property
    def driver(self) -> Literal["filesystem", "inmemory"]:
        """The driver that was chosen."""
        return "filesystem" if self.inmemory is None else "inmemory"


class NoneSettings(Section):
    """`auth.none`: everybody may do everything."""


class HtpasswdSettings(Section):
    """`auth.htpasswd`."""

    realm: str = Field(min_length=1, description="What a client shows when it asks for a password; required.")
    path: FilePath = Field(description="The htpasswd file, bcrypt lines only; required.")


class AuthSettings(Section):
    """`auth`: at most one scheme."""

    unmodelled = frozenset({"silly", "token"})

    none: NoneSettings | None = Field(default=None, description="Let everybody do everything.")
    htpasswd: HtpasswdSettings | None = Field(default=None, description="Users and passwords from a file.")

    @model_validator(mode="before")
    @classmethod
    def _one_scheme(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        for key in value:
            # Not only the schemes that Docker's registry has: a misspelt one must not leave the door open.
            if key not in cls.model_fields:
                raise unsupported(f"auth.{key}")
        named = [scheme for scheme in cls.model_fields if value.get(scheme) is not None]
        if len(named) > 1:
            raise ValueError(f"must name one scheme, not {' and '.join(named)}")
        return value

    @property
    def scheme(self) -> Literal["none", "htpasswd"]:
        """The scheme in force; "none" when nothing was written."""
        return "none" if self.htpasswd is None else "htpasswd"

    @property
    def configured(self) -> bool:
        """Whether a scheme that asks for credentials was written."""
        return self.htpasswd is not None


class CatalogSettings(Section):
    """`catalog`."""

    maxentries: int = Field(default=1000, ge=1, description="The most repositories in one page of the catalog.")


class TagsSettings(Section):
    """`tags`."""

    maxtags: int = Field(default=1000, ge=1, description="The most tags in one page of a list that was asked by pages.")


class ManifestURLSettings(Section):
    """`validation.manifests.urls`."""

    allow: list[Expression] = Field(
        default_factory=list, description="A foreign layer's URL must match one of these regular expressions."
    )
    deny: list[Expression] = Field(
        default_factory=list, description="A foreign layer's URL must match none of these regular expressions."
    )


class PlatformSettings(Section):
    """`validation.manifests.indexes.platformlist`, one entry."""

    architecture: str = Field(description="The architecture, such as amd64; required.")
    os: str = Field(description="The operating system, such as linux; required.")


class IndexSettings(Section):
    """`validation.manifests.indexes`."""

    platforms: Literal["all", "none", "list"] = Field(
        default="all", description="Which manifests of an index must be in the registry when it is pushed."
    )
    platformlist: list[PlatformSettings] = Field(
        default_factory=list, description="The platforms that must be there when platforms is list."
    )


class ManifestValidationSettings(Section):
    """`validation.manifests`."""

    urls: ManifestURLSettings = Field(
        default_factory=ManifestURLSettings, description="Addresses that layers which live elsewhere may name."
    )
    indexes: IndexSettings = Field(default_factory=IndexSettings, description="What an index may lack.")


class ValidationSettings(Section):
    """`validation`."""

    enabled: bool = Field(default=False, description="The old way to switch it on; goes before disabled.")
    disabled: bool = Field(default=False, description="Check no URLs, and demand no manifest of an index.")
    manifests: ManifestValidationSettings = Field(
        default_factory=ManifestValidationSettings, description="Checks of manifests."
    )

    @property
    def active(self) -> bool:
        """Whether the checks are made."""
        return self.enabled or not self.disabled


class DatabaseSettings(Section):
    """`hatoba.database`."""

    path: FilePath | None = Field(
        default=None, description="The metadata database; unset: hatoba/metadata.db beneath the root directory."
    )


class LimitSettings(Section):
    """`hatoba.limits`."""

    manifest: int = Field(default=4194304, ge=1, description="The largest manifest that is accepted, in bytes.")
    stalltimeout: PositiveDuration = Field(
        default=timedelta(seconds=60), description="How long a transfer may stand still before it is cut."
    )
    headertimeout: PositiveDuration = Field(
        default=timedelta(seconds=30), description="How long a client may take to send a request's headers."
    )
    uploads: int = Field(default=0, ge=0, description="How many uploads may be open at a time; 0: as many as wanted.")


class HatobaSettings(Section):
    """`hatoba`: what Docker's registry does not have."""

    workers: int = Field(default=1, ge=1, description="The number of processes that serve.")
    database: DatabaseSettings = Field(default_factory=DatabaseSettings, description="Where metadata lives.")
    limits: LimitSettings = Field(default_factory=LimitSettings, description="What a client may use up.")
    addressfile: FilePath | None = Field(
        default=None, description="While it serves, a file tells where it listens, for `python -m hatoba.health`."
    )
    trustedproxies: list[AddressRange] = Field(
        default_factory=private_networks,
        description="Addresses and ranges whose Forwarded, X-Forwarded-* and X-Request-Id headers count; unset: "
        "loopback and private ranges.",
    )


class StorageDriverHealthSettings(Section):
    """`health.storagedriver`."""

    enabled: bool = Field(default=True, description="Look again and again whether the storage can be used.")
    interval: PositiveDuration = Field(default=timedelta(seconds=10), description="The time between two looks.")
    threshold: int = Field(default=3, ge=0, description="How many bad looks in a row make the registry not ready.")


class HealthSettings(Section):
    """`health`."""

    unmodelled = frozenset({"file", "filecheckers", "http", "httpcheckers", "tcp", "tcpcheckers"})

    storagedriver: StorageDriverHealthSettings = Field(
        default_factory=StorageDriverHealthSettings, description="The storage's health, for /healthz and /debug/health."
    )


class Settings(Section):
    """The whole document."""

    unmodelled = frozenset(
        {
            "compatibility",
            "loglevel",
            "middleware",
            "notifications",
            "policy",
            "proxy",
            "redis",
            "reporting",
        }
    )

    version: Version = Field(default=VERSION, description="The version of the configuration format.")
    log: LogSettings = Field(default_factory=LogSettings, description="Logging.")
    storage: StorageSettings = Field(default_factory=StorageSettings, description="Where blobs are kept.")
    auth: AuthSettings = Field(default_factory=AuthSettings, description="Who may use the registry.")
    http: HTTPSettings = Field(default_factory=HTTPSettings, description="The HTTP server.")
    health: HealthSettings = Field(default_factory=HealthSettings, description="Health checks.")
    catalog: CatalogSettings = Field(default_factory=CatalogSettings, description="Listing repositories.")
    tags: TagsSettings = Field(default_factory=TagsSettings, description="Listing tags.")
    validation: ValidationSettings = Field(default_factory=ValidationSettings, description="Checks of what is pushed.")
    hatoba: HatobaSettings = Field(default_factory=HatobaSettings, description="What is hatoba's own.")

    @model_validator(mode="before")
    @classmethod
    def _read_whole(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        proxy = value.get("proxy")
        if proxy is not None and not isinstance(proxy, Mapping):
            raise ConfigError("proxy must be a mapping")
        if proxy and proxy.get("remoteurl"):
            raise unsupported("proxy.remoteurl")
        # `loglevel` is the old spelling of `log.level`, which goes before it.
        log = value.get("log") or {}
        if value.get("loglevel") is not None and isinstance(log, Mapping) and log.get("level") is None:
            return {**value, "log": {**log, "level": value["loglevel"]}}
        return value


_ALIASES = {"loglevel"}


def ignored(document: Mapping[str, Any], section: type[Section] = Settings, at: str = "") -> list[str]:
    """The dotted keys of `document` that no setting has, outermost only: each is worth one warning."""
    found: list[str] = []
    for key, value in document.items():
        if value is None or (not at and key in _ALIASES):
            continue
        path = f"{at}{key}"
        field = section.model_fields.get(str(key))
        inner = None if field is None else section_of(field.annotation)
        if field is None:
            found.append(printable(path))
        elif inner is not None and isinstance(value, Mapping):
            found += ignored(value, inner, f"{path}.")
    return found
