"""Every metric of `/metrics`, with its words, labels and buckets; docs/reference/metrics.md is made from this.

Names that begin with `registry_` are those of Docker's registry, with its labels and buckets, so that its dashboards
and alerts go on working. What begins with `hatoba_` is hatoba's own. Nothing here counts: that is `cells`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Docker's registry's own, of docker/go-metrics.
_LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0)
_SIZES = tuple(1024.0 * 2**power for power in range(22))
# prometheus/client_golang's default, which Docker's registry uses for its storage.
_ACTIONS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_WAITS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

OTHER = "unknown"
HANDLERS = ("base", "catalog", "tags", "manifest", "blob", "blob_upload", "blob_upload_chunk", "referrers")
METHODS = ("get", "head", "put", "post", "patch", "delete", OTHER)
CODES = (
    "200", "201", "202", "204", "206", "304", "400", "401", "403", "404", "405", "408", "413", "414", "416", "429",
    "499", "500", "503", "507", OTHER,
)  # fmt: skip
DRIVERS = ("filesystem", "inmemory")
ACTIONS = (
    "Stat", "Reader", "GetContent", "PutContent", "Writer", "Write", "Sync", "Move", "Delete", "List", "Prepare",
    "SyncLinks",
)  # fmt: skip
DATABASES = ("metadata", "uploads")
OUTCOMES = ("right", "wrong", "refused", "busy")


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `labels` are its labels with every value they may have.

    `surveyed`: nobody counts it, it is looked up when somebody asks; then labels may have any value.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    words: str
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    buckets: tuple[float, ...] = ()
    surveyed: bool = False


IN_FLIGHT = Metric(
    "registry_http_in_flight_requests", "gauge", "The in-flight HTTP requests.", (("handler", HANDLERS),)
)
REQUESTS = Metric(
    "registry_http_requests_total",
    "counter",
    "Total number of HTTP requests made; code 499: the client left, or stood still, before the answer was out.",
    (("handler", HANDLERS), ("method", METHODS), ("code", CODES)),
)
DURATION = Metric(
    "registry_http_request_duration_seconds",
    "histogram",
    "The HTTP request latencies in seconds; of blobs that the server sends by itself until that begins.",
    (("handler", HANDLERS), ("method", METHODS)),
    _LATENCIES,
)
REQUEST_SIZE = Metric(
    "registry_http_request_size_bytes",
    "histogram",
    "The HTTP request sizes in bytes: what arrived of the body.",
    (("handler", HANDLERS),),
    _SIZES,
)
RESPONSE_SIZE = Metric(
    "registry_http_response_size_bytes",
    "histogram",
    "The HTTP response sizes in bytes: what went out of the body.",
    (("handler", HANDLERS),),
    _SIZES,
)
STORAGE_ACTION = Metric(
    "registry_storage_action_seconds",
    "histogram",
    "The number of seconds that the storage action takes; Write, Sync, Prepare and SyncLinks are hatoba's own.",
    (("driver", DRIVERS), ("action", ACTIONS)),
    _ACTIONS,
)
WRITE_WAIT = Metric(
    "hatoba_database_write_wait_seconds",
    "histogram",
    "How long a write waited for its turn, in the worker and for other processes; after 30 s it is given up (503).",
    (("database", DATABASES),),
    _WAITS,
)
WRITE = Metric(
    "hatoba_database_write_seconds",
    "histogram",
    "How long a write transaction took, its fsync included.",
    (("database", DATABASES),),
    _WAITS,
)
CREDENTIAL_CHECKS = Metric(
    "hatoba_credential_checks_total",
    "counter",
    "Sign-ins that were not known already: right or wrong; refused: too many failed before (429); busy: too many wait "
    "(503).",
    (("outcome", OUTCOMES),),
)
LOOP_DELAY = Metric(
    "hatoba_event_loop_delay_seconds",
    "histogram",
    "How much later than asked for a worker's event loop came to its next turn, measured every second.",
    (),
    _WAITS,
)
CPU = Metric("process_cpu_seconds_total", "counter", "Processor time of all workers, ended ones included.")
WORKER_STARTS = Metric(
    "hatoba_worker_starts_total",
    "counter",
    "Workers that were started: at the start, on reload, or in place of a dead one.",
)

WORKERS = Metric("hatoba_workers", "gauge", "Workers that live.", surveyed=True)
READY = Metric("hatoba_ready", "gauge", "1 when /healthz/ready answers 200, else 0.", surveyed=True)
REPOSITORIES = Metric("hatoba_repositories", "gauge", "Repositories, empty ones included.", surveyed=True)
TAGS = Metric("hatoba_tags", "gauge", "Tags.", surveyed=True)
MANIFESTS = Metric("hatoba_manifests", "gauge", "Manifests, once for each repository that has them.", surveyed=True)
BLOBS = Metric("hatoba_blobs", "gauge", "Blobs that can be read, manifests included, each once.", surveyed=True)
BLOB_BYTES = Metric("hatoba_blob_bytes", "gauge", "Their bytes.", surveyed=True)
MISSING_BLOBS = Metric(
    "hatoba_missing_blobs", "gauge", "Blobs whose file is missing or has another size.", surveyed=True
)
UPLOADS = Metric("hatoba_uploads_open", "gauge", "Upload sessions that are open.", surveyed=True)
PENDING_LINKS = Metric(
    "hatoba_pending_links", "gauge", "Link files of Docker's layout that are still to be written.", surveyed=True
)
FREE_BYTES = Metric(
    "hatoba_storage_free_bytes", "gauge", "Room on the disk of the root directory for this user.", surveyed=True
)
SIZE_BYTES = Metric("hatoba_storage_size_bytes", "gauge", "The size of that disk.", surveyed=True)
RESIDENT = Metric(
    "process_resident_memory_bytes",
    "gauge",
    "Memory of parent and workers; what they share counts in each.",
    surveyed=True,
)
OPEN_FDS = Metric("process_open_fds", "gauge", "Open descriptors of parent and workers.", surveyed=True)
MAX_FDS = Metric("process_max_fds", "gauge", "How many they may have open together.", surveyed=True)
START_TIME = Metric("process_start_time_seconds", "gauge", "When the parent was started, Unix time.", surveyed=True)

COUNTED = (
    IN_FLIGHT, REQUESTS, DURATION, REQUEST_SIZE, RESPONSE_SIZE, STORAGE_ACTION, WRITE_WAIT, WRITE, CREDENTIAL_CHECKS,
    LOOP_DELAY, CPU, WORKER_STARTS,
)  # fmt: skip
SURVEYED = (
    WORKERS, READY, REPOSITORIES, TAGS, MANIFESTS, BLOBS, BLOB_BYTES, MISSING_BLOBS, UPLOADS, PENDING_LINKS,
    FREE_BYTES, SIZE_BYTES, RESIDENT, OPEN_FDS, MAX_FDS, START_TIME,
)  # fmt: skip
