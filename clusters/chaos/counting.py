"""A load of counting requests, whose answers show each lost or repeated token.

Each client asks the fleet, over HTTP, to count from one number to another, reads the numbers as they come, and asks
again. What an answer should say is known from the question, so nothing that goes wrong on the way can hide.
"""

import asyncio
import json
import random
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp

from clusters.api_client import api_key

_NUMBERS = 999
_RETRY_S = 0.2
"""How long a client that was refused waits when it was not told how long."""
_NUMBER = re.compile(r"\d+")


@dataclass(slots=True)
class Tally:
    """What became of the requests of a load.

    Attributes:
        asked: Requests made. Each of them is one of the four below in the end.
        served: Answers that came to their end.
        refused: Refused before they began (429, 503): the client asks again.
        failed: Ended by an error, before or after their first token.
        cut: Connections that broke, as they do when the router behind them dies.
        lost: Numbers that an answer should have said and did not.
        repeated: Numbers that an answer said more than once, or that nobody asked for.
        pauses_s: The longest pause between two pieces of each answer that was served.
        reasons: What the errors said, each once.
    """

    asked: int = 0
    served: int = 0
    refused: int = 0
    failed: int = 0
    cut: int = 0
    lost: int = 0
    repeated: int = 0
    pauses_s: list[float] = field(default_factory=list)
    reasons: set[str] = field(default_factory=set)

    @property
    def is_whole(self) -> bool:
        """Whether no answer failed, lost or repeated anything."""
        return not (self.failed or self.lost or self.repeated)


class CountingLoad:
    """Clients that count, until they are told to stop.

    Args:
        url: Address of the fleet.
        model: Which model counts.
        clients: How many at a time.
        length: How many numbers each answer has.

    Attributes:
        tally: Of the requests that ended since it was last replaced.
        open: Answers that are being read now.
    """

    def __init__(self, url: str, model: str, clients: int, length: int) -> None:
        self.tally = Tally()
        self.open = 0
        self._url = f"{url}/v1/chat/completions"
        self._model = model
        self._length = min(length, _NUMBERS)
        self._clients = clients
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._random = random.Random(0)  # noqa: S311

    async def __aenter__(self) -> "CountingLoad":
        key = api_key()
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_read=None),
        )
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Lets every answer come to its end."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        await self._session.close()

    def take(self) -> Tally:
        """The tally so far; the next one starts from nothing."""
        tally, self.tally = self.tally, Tally()
        return tally

    async def _client(self) -> None:
        while not self._stopping:
            first = self._random.randint(1, _NUMBERS - self._length + 1)
            wait_s = await self._count(first, first + self._length - 1)
            if wait_s:
                await asyncio.sleep(wait_s)

    async def _count(self, first: int, last: int) -> float:
        """Asks one question; returns how long to wait before the next."""
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": f"count from {first} to {last}"}],
            "temperature": 0,
            "stream": True,
        }
        answer = _Answer()
        error, is_over, wait_s = "", False, 0.0
        try:
            async with self._session.post(self._url, json=body) as response:
                if response.status in (429, 503):
                    self.tally.refused += 1
                    self.tally.asked += 1
                    return float(response.headers.get("retry-after", _RETRY_S))
                if response.status != 200:
                    error, wait_s = await response.text(), _RETRY_S
                else:
                    self.open += 1
                    try:
                        async for data in _events(response.content):
                            if data == "[DONE]":
                                is_over = True
                            elif (failure := answer.take(data)) is not None:
                                error = failure
                    finally:
                        self.open -= 1
        except aiohttp.ClientError:
            # Nobody can go on with a connection whose other end is gone.
            self.tally.cut += 1
            self.tally.asked += 1
            return _RETRY_S
        self._note(answer, error if error or is_over else "The answer ended without [DONE].", range(first, last + 1))
        return wait_s

    def _note(self, answer: "_Answer", error: str, wanted: range) -> None:
        tally = self.tally
        tally.asked += 1
        said = [int(number) for number in _NUMBER.findall(answer.text)]
        unique = set(said)
        tally.repeated += len(said) - len(unique & set(wanted))
        if error:
            tally.failed += 1
            tally.reasons.add(error[:200])
            wanted = wanted[: len(unique)]  # What had been said by then must be whole.
        else:
            tally.served += 1
            tally.pauses_s.append(answer.pause_s)
        tally.lost += len(set(wanted) - unique)


class _Answer:
    """What has come of one answer."""

    def __init__(self) -> None:
        self.text = ""
        self.pause_s = 0.0
        self._last_s = 0.0

    def take(self, data: str) -> str | None:
        """Takes the next event; returns the error that it carries."""
        event = json.loads(data)
        if "error" in event:
            return str(event["error"]["message"])
        for choice in event["choices"]:
            piece = choice["delta"].get("content")
            if piece:
                now_s = time.monotonic()
                if self._last_s:
                    self.pause_s = max(self.pause_s, now_s - self._last_s)
                self._last_s = now_s
                self.text += piece
        return None


async def _events(stream: aiohttp.StreamReader) -> AsyncIterator[str]:
    async for line in stream:
        if line.startswith(b"data: "):
            yield line[6:].decode().strip()
