"""Options of the Trace operator: read where OpenTelemetry is not installed, too."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from engines.operators.operator import OperatorOptions

_REMEDY = "pip install 'penstock[trace]'"


class TraceOptions(OperatorOptions):
    """What is traced, and where it goes.

    Attributes:
        endpoint: OTLP over HTTP (`http://collector:4318`); None: as the environment says (`OTEL_EXPORTER_OTLP_ENDPOINT`
            and its kin).
        content: Whether spans carry what was asked and answered. Prompts are personal: off unless asked for.
        content_bytes: A longer text is cut there.
    """

    packages: ClassVar[Mapping[str, str]] = {
        "opentelemetry.sdk": _REMEDY,
        "opentelemetry.exporter.otlp.proto.http": _REMEDY,
    }

    endpoint: str | None = Field(None, pattern=r"^https?://\S+$")
    content: bool = False
    content_bytes: int = Field(65536, ge=1, le=2**24)
