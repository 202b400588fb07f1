"""Every error hatoba raises on purpose, with its wire code and HTTP status.

Raised anywhere, rendered only by `web.errors` (as the spec's error body) and by `cli` (as one line and an exit code).
Foreign exceptions are translated into these at the edge that met them. Codes: OCI distribution-spec section 3.7,
statuses: Docker's registry.

    HatobaError
    ├── ConfigError                          exit 2: a setting is wrong
    ├── StartError                           exit 1: the server cannot start or go on
    └── RegistryError                        answered to a client
        ├── BlobUnknown                404   ├── NameInvalid             400
        ├── BlobUploadInvalid          400   ├── NameUnknown             404
        ├── BlobUploadUnknown          404   ├── TagInvalid              400
        ├── DigestInvalid              400   ├── SizeInvalid             400
        ├── ManifestBlobUnknown        400   ├── RangeInvalid            416
        ├── ManifestInvalid            400   ├── PaginationInvalid       400
        ├── ManifestTooLarge           413   ├── Unauthorized            401
        ├── ManifestUnknown            404   ├── Denied                  403
        ├── Unsupported                405   ├── TooManyRequests         429
        ├── TooManyTags                414   ├── NotFound                404
        └── Unavailable                503   └── InsufficientStorage     507
"""

from __future__ import annotations

from typing import Any, ClassVar

_NAMED_BLOBS = 1000


class HatobaError(Exception):
    """The root: `message` is one sentence meant for a person."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConfigError(HatobaError):
    """A setting is wrong or of a feature that is not built; the message names the key."""


class StartError(HatobaError):
    """The server cannot start: port in use, folder locked, database of a newer hatoba."""


class RegistryError(HatobaError):
    """An answer to a client: `code` of the spec, HTTP `status`, free-form `detail`, extra response `headers`."""

    code: ClassVar[str] = "UNKNOWN"
    status: ClassVar[int] = 500
    text: ClassVar[str] = "unknown error"

    def __init__(self, message: str = "", detail: Any = None, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message or self.text)
        self.detail = detail
        self.headers = headers

    def entries(self) -> list[dict[str, Any]]:
        """The objects of the body's `errors` list; one, unless a class lists several findings."""
        entry: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.detail is not None:
            entry["detail"] = self.detail
        return [entry]


class BlobUnknown(RegistryError):
    """The repository does not hold this blob, or its file is gone."""

    code, status, text = "BLOB_UNKNOWN", 404, "blob unknown to registry"


class BlobUploadInvalid(RegistryError):
    """The upload cannot go on: its file was damaged or the request makes no sense for it."""

    code, status, text = "BLOB_UPLOAD_INVALID", 400, "blob upload invalid"


class BlobUploadUnknown(RegistryError):
    """No such upload session in this repository."""

    code, status, text = "BLOB_UPLOAD_UNKNOWN", 404, "blob upload unknown to registry"


class DigestInvalid(RegistryError):
    """The digest is malformed, of an algorithm hatoba cannot compute, or does not match the content."""

    code, status, text = "DIGEST_INVALID", 400, "provided digest did not match uploaded content"


class ManifestBlobUnknown(RegistryError):
    """A manifest references content that the repository does not hold; `detail` lists every missing digest."""

    code, status, text = "MANIFEST_BLOB_UNKNOWN", 400, "blob unknown to registry"

    def entries(self) -> list[dict[str, Any]]:
        """One entry a missing digest, as Docker's registry answers; a thousand at most, the last says how many more."""
        if not isinstance(self.detail, list):
            return super().entries()
        named = self.detail[:_NAMED_BLOBS]
        found = [{"code": self.code, "message": self.message, "detail": {"digest": digest}} for digest in named]
        if len(self.detail) > len(named):
            found[-1]["message"] = f"{self.message}; so are {len(self.detail) - len(named)} more"
        return found


class ManifestInvalid(RegistryError):
    """The manifest's bytes, type or references are not acceptable."""

    code, status, text = "MANIFEST_INVALID", 400, "manifest invalid"


class ManifestTooLarge(RegistryError):
    """The manifest is over the limit (4 MiB unless configured)."""

    code, status, text = "MANIFEST_INVALID", 413, "manifest too large"


class ManifestUnknown(RegistryError):
    """No manifest under this tag or digest in this repository."""

    code, status, text = "MANIFEST_UNKNOWN", 404, "manifest unknown"


class NameInvalid(RegistryError):
    """The repository name does not fit the grammar."""

    code, status, text = "NAME_INVALID", 400, "invalid repository name"


class NameUnknown(RegistryError):
    """The repository is not known."""

    code, status, text = "NAME_UNKNOWN", 404, "repository name not known to registry"


class TagInvalid(RegistryError):
    """The tag does not fit the grammar."""

    code, status, text = "TAG_INVALID", 400, "manifest tag did not match the grammar"


class SizeInvalid(RegistryError):
    """The body's length differs from what was announced."""

    code, status, text = "SIZE_INVALID", 400, "provided length did not match content length"


class RangeInvalid(RegistryError):
    """A chunk out of order, or a byte range outside the blob."""

    code, status, text = "RANGE_INVALID", 416, "invalid content range"


class PaginationInvalid(RegistryError):
    """`n` is negative or no number."""

    code, status, text = "PAGINATION_NUMBER_INVALID", 400, "invalid number of results requested"


class Unauthorized(RegistryError):
    """No or wrong credentials; `web` adds the challenge."""

    code, status, text = "UNAUTHORIZED", 401, "authentication required"


class Denied(RegistryError):
    """Known, but not allowed."""

    code, status, text = "DENIED", 403, "requested access to the resource is denied"


class Unsupported(RegistryError):
    """The operation is switched off, not built, or the method does not exist there."""

    code, status, text = "UNSUPPORTED", 405, "the operation is unsupported"


class TooManyRequests(RegistryError):
    """Come back later; carries Retry-After."""

    code, status, text = "TOOMANYREQUESTS", 429, "too many requests"


class TooManyTags(RegistryError):
    """More `tag` parameters than one manifest PUT may carry (spec main branch, end-7b)."""

    code, status, text = "TAG_INVALID", 414, "too many tags in one request"


class NotFound(RegistryError):
    """The path is no endpoint of hatoba."""

    code, status, text = "NAME_INVALID", 404, "no such endpoint"


class Unavailable(RegistryError):
    """The server cannot answer now: database busy, out of file descriptors, read error; carries Retry-After."""

    code, status, text = "UNAVAILABLE", 503, "service unavailable"

    def __init__(self, message: str = "", detail: Any = None, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message, detail, headers or (("Retry-After", "1"),))


class InsufficientStorage(RegistryError):
    """The disk is full; the upload is cut back to its last acknowledged offset."""

    code, status, text = "UNAVAILABLE", 507, "no space left on the registry's disk"
