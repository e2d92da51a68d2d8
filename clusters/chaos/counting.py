"""A load of counting requests, whose answers show each lost or repeated token.

Each request asks the fleet, over HTTP, to count from one number to another. What the answer should say is known from
the question, so nothing that goes wrong on the way can hide. Every question is asked once before the harm begins: one
that the model itself gets wrong is not asked again.

Requests come in one of two ways. In the closed load, clients ask again once they have been answered: where answers
stand still, so do requests. In the open load they come at their rate, whatever became of those before: as many users
do, and as it takes to see that a fleet notices what stands still while new work keeps coming.
"""

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp

from clusters.api_client import auth_headers, error_message
from clusters.chaos.answer import Answer, Tally
from clusters.chaos.realtime_counting import count_in_session
from clusters.chaos.streamed_apis import Api, counting_question, streamed_api
from clusters.errors import ClusterError
from deployments.http.server.hints import INSTANCE_HEADER

LAST = 999
"""The last number that the demo model can count to."""
_QUESTIONS = 40
MOST_OPEN = 1000
"""Requests of an open load under way at a time: a fleet that answers nobody must not take this process along."""
_RETRY_S = 0.2
"""How long a client that was refused waits when it was not told how long."""
_SMALL_BYTES = 4096
_READ_WITHIN_S = 5.0
"""How long is waited for answers that would be missed."""
_POLL_S = 0.01
_STILL_S = 120.0
"""A connection that brings nothing for so long is given up."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How the requests of a load come; one of the first two is set.

    Attributes:
        clients: Closed: so many clients, each of which asks again once it was answered.
        per_s: Open: so many a second, at random (a Poisson process).
        api: By which API; realtime: each is a turn of a session of its own.
    """

    clients: int = 0
    per_s: float = 0.0
    api: Api = Api.CHAT


class CountingLoad:
    """Requests to count, until it is told to stop.

    Args:
        url: Address of the fleet.
        model: Which model counts.
        arrivals: How the requests come.
        length: How many numbers each answer has.

    Attributes:
        open: Answers that are being read now.
    """

    open: set[Answer]

    def __init__(self, url: str, model: str, arrivals: Arrivals, length: int) -> None:
        # Those who read late read a stream, whatever the others do.
        self._streamed = streamed_api(Api.CHAT if arrivals.api is Api.REALTIME else arrivals.api)
        self._tally = Tally()
        self._asked: set[Answer] = set()
        self.open = set()
        self._url = url + self._streamed.path
        self._sessions_url = f"{url}/v1/realtime"
        self._model = model
        self._length = min(length, LAST)
        self._arrivals = arrivals
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._random = random.Random(0)  # noqa: S311
        self._questions = [self._random.randint(1, LAST - self._length + 1) for _ in range(_QUESTIONS)]

    async def __aenter__(self) -> "CountingLoad":
        """Tries the questions, and starts.

        Raises:
            ClusterError: The model gives no exact answer.
        """
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers=auth_headers(self._url),
            timeout=aiohttp.ClientTimeout(total=None, sock_read=_STILL_S),
        )
        tries = await asyncio.gather(*(self._count(first, self._session) for first in self._questions))
        known = [
            first for first, (tally, _) in zip(self._questions, tries, strict=True) if tally.served and tally.is_whole
        ]
        if not known:
            await self._session.close()
            reasons = sorted({reason for tally, _ in tries for reason in tally.reasons}) or ["its answers are wrong"]
            raise ClusterError(f"The model {self._model!r} does not count to {self._length}: {reasons[0]}")
        self._questions = known
        for _ in range(self._arrivals.clients):
            self._begin(self._client())
        if self._arrivals.per_s:
            self._begin(self._arrive())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Lets every answer come to its end."""
        self._stopping.set()
        while self._tasks:
            await asyncio.gather(*self._tasks)
        await self._session.close()

    def take(self) -> Tally:
        """What became of the requests that ended since it was last taken, and how long the others have stood still."""
        tally, self._tally = self._tally, Tally()
        for answer in self._asked:
            tally.first_s = max(tally.first_s, answer.first_s)
            tally.pause_s = max(tally.pause_s, answer.pause_s)
        return tally

    async def is_read(self) -> None:
        """Waits until at least half of the requests have their answers being read, for a while.

        On a slow machine clients ask and read in step, and there are moments at which a fault would harm nothing.
        """
        deadline_s = time.monotonic() + _READ_WITHIN_S
        while 2 * len(self.open) < max(1, len(self._asked)) and time.monotonic() < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)

    async def read_late(self, clients: int, wait_s: float) -> None:
        """So many clients more: each asks once, reads nothing for so long, and then everything."""
        # Little fits into their sockets, so that it is the server who waits for them.
        connector = aiohttp.TCPConnector(limit=0, socket_factory=_small_socket)
        async with aiohttp.ClientSession(
            connector=connector, headers=auth_headers(self._url), read_bufsize=1024
        ) as session:
            questions = (self._random.choice(self._questions) for _ in range(clients))
            for tally, _ in await asyncio.gather(*(self._count(first, session, wait_s) for first in questions)):
                self._tally.add(tally)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _client(self) -> None:
        while not self._stopping.is_set():
            tally, wait_s = await self._count(self._random.choice(self._questions), self._session)
            self._tally.add(tally)
            await asyncio.sleep(wait_s)

    async def _arrive(self) -> None:
        due_s = time.monotonic()
        while True:
            # From when the last one was due, not from when it came: what is late does not thin the load out.
            due_s += self._random.expovariate(self._arrivals.per_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, due_s - time.monotonic())):
                    await self._stopping.wait()
                return
            if len(self._asked) < MOST_OPEN:
                self._begin(self._ask_once())
            else:
                self._tally.add(Tally(refused=1, reasons={f"{MOST_OPEN} requests are under way already."}))

    async def _ask_once(self) -> None:
        tally, _ = await self._count(self._random.choice(self._questions), self._session)
        self._tally.add(tally)

    async def _count(self, first: int, session: aiohttp.ClientSession, late_s: float = 0.0) -> tuple[Tally, float]:
        """Asks one question, reads from `late_s` on; what became of it, and how long to wait before the next."""
        numbers = range(first, first + self._length)
        question = counting_question(numbers[0], numbers[-1])
        answer = Answer()
        if not late_s:
            self._asked.add(answer)
        try:
            if self._arrivals.api is Api.REALTIME and not late_s:
                wait_s = _RETRY_S
                refusal = await count_in_session(
                    session, self._sessions_url, self._model, question, answer, self.open.add
                )
            else:
                refusal, wait_s = await self._count_in_stream(question, session, answer, late_s)
            if refusal is not None:
                return Tally(refused=1, reasons={refusal}), wait_s
            tally = answer.tally(numbers)
        except aiohttp.ServerTimeoutError:
            answer.error = f"Nothing came for {_STILL_S:g} s."
            tally = answer.tally(numbers)
        except aiohttp.ClientError as error:
            # Nobody can go on with a connection whose other end is gone.
            answer.error = f"{type(error).__name__}: {error}"
            tally = Tally(cut=1, reasons={answer.error})
        finally:
            answer.end()
            self.open.discard(answer)
            self._asked.discard(answer)
        if not late_s:
            tally.first_s, tally.pause_s = answer.first_s, answer.pause_s
        return tally, _RETRY_S if answer.error else 0.0

    async def _count_in_stream(
        self, question: str, session: aiohttp.ClientSession, answer: Answer, late_s: float
    ) -> tuple[str | None, float]:
        """Asks for a stream; why it was refused before it began (None: it was not), and how long to wait then."""
        body = self._streamed.body(self._model, question)
        async with session.post(self._url, json=body, allow_redirects=False) as response:
            if response.status in (429, 503):
                return _refusal(await response.text()), float(response.headers.get("retry-after", _RETRY_S))
            if response.status != 200:
                answer.error = _refusal(await response.text())
            else:
                answer.instance = response.headers.get(INSTANCE_HEADER, "")
                self.open.add(answer)
                await asyncio.sleep(late_s)
                async for data in _events(response.content):
                    self._streamed.take(answer, data)
        return None, 0.0


def _refusal(body: str) -> str:
    message = error_message(body)
    return message if message is not None else body[:200]


def _small_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BYTES)
    return made


async def _events(stream: aiohttp.StreamReader) -> AsyncIterator[str]:
    async for line in stream:
        if line.startswith(b"data: "):
            yield line[6:].decode().strip()
