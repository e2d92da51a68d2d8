"""One kept-alive HTTP connection that posts chat completions and reads their streams."""

import asyncio
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

from tests.benchmarks.answer_reader import AnswerReader, BadAnswer


@dataclass(frozen=True, slots=True)
class Answer:
    """One complete and correct answer.

    Attributes:
        sent_s: When the request was written, by `time.perf_counter`.
        reader: What came back, and when.
    """

    sent_s: float
    reader: AnswerReader

    @property
    def ttft_s(self) -> float:
        """Seconds from the request to the first output."""
        assert self.reader.first_s is not None
        return self.reader.first_s - self.sent_s

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between the reads that brought output."""
        times = self.reader.arrivals_s
        return [later - earlier for earlier, later in pairwise(times)]


class Connection(asyncio.Protocol):
    """Sends one request at a time.

    It wakes its caller once per answer, not once per token: reading happens in `data_received`.
    """

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._reader: AnswerReader | None = None
        self._answered: asyncio.Future[None] | None = None

    @classmethod
    async def open(cls, host: str, port: int) -> "Connection":
        """Connects.

        Raises:
            OSError: Nobody listens.
        """
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    async def post(self, request: bytes, tokens: int) -> Answer:
        """Sends a whole HTTP request and reads its answer, which must have so many tokens.

        Raises:
            BadAnswer: The answer is wrong, or the connection was lost.
        """
        if self._transport is None:
            raise BadAnswer("the server closed the connection")
        reader = self._reader = AnswerReader()
        self._answered = asyncio.get_running_loop().create_future()
        sent_s = time.perf_counter()
        self._transport.write(request)
        try:
            await self._answered
        finally:
            self._reader = None
        reader.check_tokens(tokens)
        return Answer(sent_s, reader)

    @property
    def speaking(self) -> bool:
        """Whether the answer under way has said something, and is not complete."""
        return self._reader is not None and self._reader.first_s is not None and not self._reader.done

    @property
    def events(self) -> int:
        """SSE events of the answer under way."""
        return self._reader.events if self._reader is not None else 0

    def close(self) -> None:
        """Closes the connection, with whatever is under way."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by its methods alone

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        reader = self._reader
        if reader is None:
            self._fail(BadAnswer(f"the server spoke without being asked: {data[:200]!r}"))
            return
        try:
            reader.feed(data, time.perf_counter())
        except (BadAnswer, ValueError, KeyError) as error:
            self._fail(error if isinstance(error, BadAnswer) else BadAnswer(f"malformed event: {error!r}"))
            return
        if reader.done and self._answered is not None and not self._answered.done():
            self._answered.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._transport = None
        self._fail(BadAnswer(f"the connection was lost: {exc or 'closed by the server'}"))

    def _fail(self, error: BadAnswer) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)
        self.close()
