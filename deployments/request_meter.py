"""What one request counts while it runs: plain numbers, because some are touched per token."""

import time
from collections.abc import Iterable

from engines.events import Usage


class RequestMeter:
    """The figures of one request.

    Attributes:
        endpoint: Route that the request took.
        model: Name of the model; empty until it is known to be served.
        tenant: Who asks; empty until that is known.
        tokens: Tokens generated so far, as far as the events tell, of all choices.
        choices: Answers that are generated side by side.
        started_s, first_token_s, finished_s: Monotonic times; 0 when it has not come to that.
        usage: Tokens of the whole request; None until it finished.
        reasons: Why its choices ended.
    """

    __slots__ = (
        "choices",
        "endpoint",
        "finished_s",
        "first_token_s",
        "model",
        "reasons",
        "started_s",
        "tenant",
        "tokens",
        "usage",
    )

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.model = ""
        self.tenant = ""
        self.tokens = 0
        self.choices = 1
        self.started_s = time.monotonic()
        self.first_token_s = 0.0
        self.finished_s = 0.0
        self.usage: Usage | None = None
        self.reasons: set[str] = set()

    def first_token(self) -> None:
        """The first output came; later calls change nothing."""
        if not self.first_token_s:
            self.first_token_s = time.monotonic()

    def finish(self, usage: Usage, reasons: Iterable[str] = ()) -> None:
        """The answer is complete; why its choices ended, as far as that was not noted already."""
        self.reasons.update(reasons)
        self.finished_s = time.monotonic()
        self.usage = usage
