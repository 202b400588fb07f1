"""Metrics as Prometheus reads them, in its text format; the only module that imports prometheus-client."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from hatoba.metrics.catalogue import Metric
from hatoba.metrics.cells import Series

_PLAIN_DIGITS = 6  # Go writes longer numbers with an exponent
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(counted: Mapping[Metric, Sequence[Series]], surveyed: Mapping[Metric, float]) -> bytes:
    """The text of all these metrics; raises nothing."""
    registry = CollectorRegistry(auto_describe=False)
    families = itertools.chain(
        (_family(metric, series) for metric, series in counted.items()),
        (_family(metric, [Series((), (value,))]) for metric, value in surveyed.items()),
    )
    registry.register(_Once(families))
    return generate_latest(registry)


class _Once(Collector):
    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Family]:
        yield from self._families

    def describe(self) -> Iterator[Family]:
        yield from ()


def _family(metric: Metric, series: Sequence[Series]) -> Family:
    labels = [name for name, _ in metric.labels]
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.words, labels=labels)
        for one in series:
            *counts, total = one.numbers
            bounds = [*(_bound(bound) for bound in metric.buckets), "+Inf"]
            histogram.add_metric(one.labels, list(zip(bounds, itertools.accumulate(counts), strict=True)), total)
        return histogram
    family = (CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily)(
        metric.name, metric.words, labels=labels
    )
    for one in series:
        family.add_metric(one.labels, one.numbers[0])
    return family


def _bound(bound: float) -> str:
    """A bucket's bound as Docker's registry writes it, which alerts may select by: 0.005, 1, 1.048576e+06."""
    if not bound.is_integer():
        return repr(bound)
    digits = str(int(bound))
    if len(digits) <= _PLAIN_DIGITS:
        return digits
    return f"{digits[0]}.{digits[1:].rstrip('0')}e+{len(digits) - 1:02d}"
