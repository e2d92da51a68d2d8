"""What an engine is asked for because of one HTTP request."""

from dataclasses import dataclass

from deployments.http.server.names import Names
from engines.requests import GenerateRequest


@dataclass(frozen=True, slots=True)
class Asking:
    """What an engine is asked for, and what the caller called the fields of it."""

    request: GenerateRequest
    names: Names
