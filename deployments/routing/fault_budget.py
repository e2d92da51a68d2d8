"""The fault budget: a request that takes engines with it may take so many, and then no more.

When an instance dies or hangs, the requests that it was working on and that had got nothing from it are its suspects;
all but one of them, or all, are bystanders. A request that is suspect of two deaths is tried again alone: on an
instance without another such. Whoever gets a token there is free. Who takes that instance along, too, is convicted: the
request fails, and the same request is refused for some minutes, by every router.

An instance that falls silent counts as dead until it is heard of again: by the time that anybody knows, its suspects
have gone elsewhere, where they could take another one along. Who was tried there waits until it is known.

Requests are known by a fingerprint: a keyed hash of all that was asked, without where and when to serve it. It is
computed only for suspects and, while there are any with two deaths, for the requests that come.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from hashlib import blake2b
from secrets import token_bytes
from typing import Any, NamedTuple, Self

from engines.call_requests import Request
from engines.errors import EngineFault, PenstockError, Quarantined
from engines.events import Event, Finished, Started
from engines.sink import Sink

SUSPECT_DEATHS = 2
"""Deaths that a request is suspect of, from which on it is tried alone."""
SAME_CAUSE_S = 5.0
"""Deaths on one node within so long have one cause, unless the node lives on."""
MEMORY_S = 300.0
"""How long a death counts against its suspects, and how long a convicted request is refused."""
MAX_SUSPECTS = 10_000
"""Suspects that are remembered; beyond it the one that was suspect longest ago is forgotten."""

_NOT_ASKED = {"session", "instance", "priority", "resume", "alone", "prefill_tokens", "prefixes"}
"""Fields that say where and when, not what."""


class FaultBudget:
    """Which requests may be the end of engines, as one router replica sees it.

    Args:
        node_lives: Whether anything of a node has been heard since a time on the clock.
        convict: Tells the other routers of a request that takes engines with it, by its fingerprint; returns when they
            know. None: there are no others.
        clock: Seconds that only grow.

    Attributes:
        key: Of the fingerprints; the same for all routers that share what they know.
    """

    def __init__(
        self,
        node_lives: Callable[[str, float], bool],
        convict: Callable[[str], Coroutine[Any, Any, None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.key = token_bytes(16)
        self._node_lives = node_lives
        self._announce = convict
        self._announcing: dict[str, asyncio.Task[None]] = {}  # By the fingerprint.
        self._clock = clock
        # By fingerprint, each with its deaths.
        self._suspects: OrderedDict[str, list[_Death]] = OrderedDict()
        # By the instance, which may live: its death, and whose it is.
        self._silent: dict[str, tuple[_Death, Collection[str]]] = {}
        self._grave: set[str] = set()  # Those with enough deaths to be tried alone, if each has a cause of its own.
        self._quarantined: dict[str, float] = {}  # Until when.
        self._trials: dict[str, Trial] = {}  # By the instance.

    @property
    def is_watching(self) -> bool:
        """Whether any request need be looked at."""
        return bool(self._quarantined or self._grave)

    def fingerprint(self, request: Request) -> str:
        """What the request is known by: 32 hexadecimal digits."""
        asked = request.model_dump_json(exclude=_NOT_ASKED)
        name = f"{type(request).__name__}:{asked}"
        return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16, key=self.key).hexdigest()

    def lost(self, instance: str, node: str, suspects: Sequence[Request], *, is_dead: bool) -> None:
        """An instance was lost, with these suspects.

        Args:
            instance: Its id.
            node: Where it was.
            suspects: The requests that it was working on and that had got nothing from it.
            is_dead: It died, or hangs; else it fell silent: `found_dead` or `found_alive` says later how it is.
        """
        now_s = self._clock()
        self._expire(now_s)
        trial = self._trials.get(instance)
        death, fingerprints = _Death(node, now_s), {self.fingerprint(request) for request in suspects}
        if not is_dead and fingerprints:
            self._silent[instance] = death, fingerprints
        for fingerprint in fingerprints:
            # Beside it were such as are new, or suspect of fewer deaths: who is suspect of as many is tried elsewhere.
            if is_dead and trial is not None and trial.fingerprint == fingerprint:
                self._convict(fingerprint)
            else:
                deaths = self._suspects.setdefault(fingerprint, [])
                deaths.append(death)
                self._suspects.move_to_end(fingerprint)
                if len(deaths) >= SUSPECT_DEATHS:
                    self._grave.add(fingerprint)
        while len(self._suspects) > MAX_SUSPECTS:
            self._forget(next(iter(self._suspects)))

    def found_dead(self, instance: str) -> None:
        """An instance that fell silent, if it did, is dead."""
        _, suspects = self._silent.pop(instance, (None, ()))
        trial = self._trials.get(instance)
        if trial is not None and trial.fingerprint in suspects:
            trial.end()
            self._convict(trial.fingerprint)

    def found_alive(self, instance: str) -> None:
        """An instance that fell silent, if it did, is heard of again: nobody was its end."""
        death, suspects = self._silent.pop(instance, (None, ()))
        if suspects and (trial := self._trials.get(instance)) is not None:
            trial.end()
        for fingerprint in suspects:
            deaths = self._suspects.get(fingerprint)
            if deaths is None:
                continue
            deaths[:] = [other for other in deaths if other is not death]
            if not deaths:
                self._forget(fingerprint)
            elif len(deaths) < SUSPECT_DEATHS:
                self._grave.discard(fingerprint)

    def learn(self, quarantined: Mapping[str, float]) -> None:
        """Takes what other routers have found: fingerprints, and for how many seconds they are refused."""
        now_s = self._clock()
        for fingerprint, left_s in quarantined.items():
            self._quarantined[fingerprint] = max(self._quarantined.get(fingerprint, 0.0), now_s + left_s)

    async def suspect(self, request: Request, *, goes_on: bool) -> str | None:
        """The fingerprint of a request that must be tried alone, else None.

        Args:
            request: The request.
            goes_on: An engine has had it already: it may be the one that is found out.

        Raises:
            EngineFault: Engines died of it.
            Quarantined: Engines died of the same request minutes ago.
        """
        if not self.is_watching:
            return None
        fingerprint = self.fingerprint(request)
        if (announcing := self._announcing.get(fingerprint)) is not None:
            # Whoever sends it again when this one has its answer must not find a router that does not know.
            await asyncio.shield(announcing)
        self.check(fingerprint, goes_on=goes_on)
        return fingerprint if self.is_suspect(fingerprint) else None

    def is_suspect(self, fingerprint: str) -> bool:
        """Whether the request must be tried alone."""
        return fingerprint in self._grave and self._count(self._suspects[fingerprint]) >= SUSPECT_DEATHS

    def check(self, fingerprint: str, *, goes_on: bool) -> None:
        """Lets a request pass that was not convicted.

        Args:
            fingerprint: The request's.
            goes_on: It is the one that was found out, or a copy that was under way then.

        Raises:
            EngineFault: It was under way when it was convicted.
            Quarantined: The same request was convicted before.
        """
        self._expire(self._clock())
        until_s = self._quarantined.get(fingerprint)
        if until_s is None:
            return
        if goes_on:
            raise EngineFault("The engines that worked on this request died of it, one after another.")
        raise Quarantined(
            "Engines died of this very request minutes ago. Change it, or try again later.",
            retry_after_s=until_s - self._clock(),
        )

    def try_alone(self, fingerprint: str, instance: str) -> "Trial":
        """Notes that a suspect runs on an instance from now on, with no other suspect beside it; `end` it."""
        trial = self._trials[instance] = Trial(self, fingerprint, instance)
        return trial

    def is_on_trial(self, fingerprint: str) -> bool:
        """Whether the same request is being tried now."""
        return any(trial.fingerprint == fingerprint for trial in self._trials.values())

    def has_trial(self, instance: str) -> bool:
        """Whether a suspect is being tried on the instance."""
        return instance in self._trials

    def _convict(self, fingerprint: str) -> None:
        self._quarantined[fingerprint] = self._clock() + MEMORY_S
        self._forget(fingerprint)
        if self._announce is not None:
            task = self._announcing[fingerprint] = asyncio.create_task(self._announce(fingerprint))
            task.add_done_callback(lambda _: self._announcing.pop(fingerprint))

    def _forget(self, fingerprint: str) -> None:
        self._suspects.pop(fingerprint, None)
        self._grave.discard(fingerprint)

    def _count(self, deaths: Sequence["_Death"]) -> int:
        """Deaths with a cause of their own: what dies together with its node dies of that."""
        counted = 0
        first_s: dict[str, float] = {}
        for node, at_s in deaths:
            since_s = first_s.get(node)
            if since_s is None or at_s - since_s > SAME_CAUSE_S:
                first_s[node] = at_s
                counted += 1
            elif self._node_lives(node, at_s):
                counted += 1
        return counted

    def _expire(self, now_s: float) -> None:
        while self._suspects:
            fingerprint, deaths = next(iter(self._suspects.items()))
            if deaths[-1].at_s > now_s - MEMORY_S:
                break
            self._forget(fingerprint)
        # Of an instance that is gone nothing more is heard.
        for instance in [one for one, (death, _) in self._silent.items() if death.at_s <= now_s - MEMORY_S]:
            del self._silent[instance]
        for fingerprint in [one for one, until_s in self._quarantined.items() if until_s <= now_s]:
            del self._quarantined[fingerprint]


class _Death(NamedTuple):
    node: str
    at_s: float


class Trial:
    """One suspect on one instance. As a context, it ends with whatever is raised inside.

    Attributes:
        fingerprint: Of the suspect.
    """

    __slots__ = ("_budget", "_instance", "fingerprint")

    def __init__(self, budget: FaultBudget, fingerprint: str, instance: str) -> None:
        self._budget = budget
        self._instance = instance
        self.fingerprint = fingerprint

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.end()

    def acquit(self) -> None:
        """It got a token, and its engine lives."""
        self._budget._forget(self.fingerprint)
        self.end()

    def end(self) -> None:
        """It runs there no more. Where the instance fell silent, the trial lasts until one knows. Idempotent."""
        _, suspects = self._budget._silent.get(self._instance, (None, ()))
        if self._budget._trials.get(self._instance) is self and self.fingerprint not in suspects:
            del self._budget._trials[self._instance]


class TrialSink:
    """Passes the stream of a suspect on, and ends its trial with its first token, or with its end."""

    __slots__ = ("_sink", "_trial")

    def __init__(self, sink: Sink, trial: Trial) -> None:
        self._sink = sink
        self._trial: Trial | None = trial

    def emit(self, event: Event) -> None:
        """Takes the next event; any but the first one says that the engine lives."""
        if self._trial is not None and event.__class__ is not Started:
            trial, self._trial = self._trial, None
            if event.__class__ is Finished and event.reason == "cancelled":
                trial.end()
            else:
                trial.acquit()
        self._sink.emit(event)

    def fail(self, error: PenstockError) -> None:
        """Takes the error that ends the stream."""
        if self._trial is not None:
            self._trial.end()
        self._sink.fail(error)
