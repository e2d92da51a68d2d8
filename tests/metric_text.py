"""What the text of `/metrics` tells of one metric."""

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


def samples(text: str, name: str, **labels: str) -> list[Sample]:
    """The samples of that name, as it stands in the text, and with these values of labels besides others."""
    return [
        sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]


def labels(text: str, name: str) -> list[dict[str, str]]:
    """The labels of each sample of that name."""
    return [dict(sample.labels) for sample in samples(text, name)]
