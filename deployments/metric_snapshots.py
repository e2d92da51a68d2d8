"""Snapshots of metrics: as bytes, for others to read, and the sum of several."""

import json
from collections.abc import Iterable

from prometheus_client.metrics_core import Metric


def snapshot(families: Iterable[Metric]) -> bytes:
    """Metrics as one snapshot."""
    # The time at which a counter was created says nothing once counters are summed.
    return json.dumps(
        [
            (
                family.name,
                family.type,
                family.documentation,
                [(s.name, s.labels, s.value) for s in family.samples if not s.name.endswith("_created")],
            )
            for family in families
        ]
    ).encode()


def added(snapshots: Iterable[bytes]) -> list[Metric]:
    """The sums of what several snapshots say, sample by sample."""
    families: dict[str, tuple[str, str]] = {}
    samples: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for data in snapshots:
        for name, type, documentation, values in json.loads(data):
            families.setdefault(name, (type, documentation))
            sums = samples.setdefault(name, {})
            for sample, labels, value in values:
                key = (sample, tuple(sorted(labels.items())))
                sums[key] = sums.get(key, 0.0) + value
    metrics = []
    for name, (type, documentation) in families.items():
        metric = Metric(name, documentation, type)
        for (sample, labels), value in samples[name].items():
            metric.add_sample(sample, dict(labels), value)
        metrics.append(metric)
    return metrics
