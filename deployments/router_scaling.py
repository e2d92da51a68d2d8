"""Autoscaling without Serve's policy: one of the router replicas decides for the fleet, and tells Serve.

For clusters whose Serve does not run our policy. All router replicas leave their reports on the directory's board; the
one whose name comes first runs the same policy over them, and sets the numbers through Serve's interface for external
scalers. Another goes on when it dies, and ends nothing before it has watched for an idle time itself.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import ray
from ray import serve
from ray.exceptions import RayError

from actors.daemon_thread import in_daemon_thread
from deployments.scaling.bulletin import KEY, TTL_S
from deployments.scaling.policy import FleetPolicy
from deployments.serve_private import CONTROLLER, deployment_id

logger = logging.getLogger(__name__)

REPORTS = "scaling/reports/"
EVERY_S = 1.0
AGAIN_S = 10.0
REPORT_TTL_S = 5.0
"""A replica that has left no report for so long is not there any more."""
_ENDING = ("STOPPING", "PENDING_MIGRATION")


class Board(Protocol):
    """Where router replicas leave values for one another."""

    async def post(self, key: str, value: bytes, ttl_s: float | None) -> None:
        """Leaves a value for so long."""

    async def read(self, prefix: str) -> dict[str, bytes]:
        """The values whose key has this prefix. Raises Unavailable."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """The replicas of one deployment: those that are to be, and those that run."""

    target: int
    running: int


class Numbers(Protocol):
    """The numbers of replicas, as Serve has them."""

    async def read(self) -> Mapping[str, Replicas]:
        """Those of each deployment of the fleet, by its name."""

    async def set(self, deployment: str, count: int) -> None:
        """Sets one of them."""


@dataclass(frozen=True, slots=True)
class _Point:
    timestamp: float
    value: float


@dataclass(slots=True)
class _Context:
    """What the policy takes of Serve's context of a deployment."""

    deployment_name: str
    target_num_replicas: int
    current_num_replicas: int
    running_replicas: list[str] = field(default_factory=list)
    raw_metrics: dict[str, dict[str, list[_Point]]] = field(default_factory=dict)


class RouterScaler:
    """One router replica's part in it.

    Args:
        replica: Its name.
        policy: The arguments of the policy (`deployments.scaling.policy.FleetPolicy`).
        report: What it reports.
        board: Where the reports are.
        numbers: Reads and sets the numbers of replicas.
        clock: Monotonic time in seconds.
    """

    def __init__(
        self,
        replica: str,
        policy: Mapping[str, Any],
        report: Callable[[], Awaitable[dict[str, float]]],
        board: Board,
        numbers: Numbers,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._replica = replica
        # Its decisions are posted from here.
        self._arguments = {**policy, "fleet": None}
        self._report = report
        self._board = board
        self._numbers = numbers
        self._clock = clock
        self._policy: FleetPolicy | None = None
        self._reported = 0
        # What was decided of each deployment, and what was set last, and when.
        self._targets: dict[str, int] = {}
        self._last_set: dict[str, tuple[int, float]] = {}

    @property
    def decides(self) -> bool:
        """Whether it is the one that decides."""
        return self._policy is not None

    async def run(self) -> None:
        """Reports, and decides where it is its turn, until cancelled."""
        while True:
            try:
                await self.step()
            except Exception as error:  # noqa: BLE001 - Serve raises its own while its controller is away
                # The next step is a second away, and until then all stays as it is.
                logger.warning("No autoscaling for now: %s: %s", type(error).__name__, error)
            await asyncio.sleep(EVERY_S)

    async def step(self) -> None:
        """Reports, and decides if it is its turn.

        Raises:
            Unavailable: The board cannot be read.
            RayError, TimeoutError: Serve's controller cannot be reached.
            ValueError: A deployment is not there, or about to be deleted.
        """
        self._reported += 1
        said = {"at": self._reported, "stats": await self._report()}
        await self._board.post(REPORTS + self._replica, json.dumps(said).encode(), REPORT_TTL_S)
        posted = await self._board.read(REPORTS)
        reports = {key.removeprefix(REPORTS): json.loads(value) for key, value in posted.items()}
        if not reports or min(reports) != self._replica:
            self._policy = None
            return
        if self._policy is None:
            self._policy = FleetPolicy(**self._arguments, clock=self._clock)
            self._targets.clear()
        replicas = await self._numbers.read()
        decisions, _ = self._policy(self._contexts(replicas, reports))
        self._targets.update(decisions)
        for deployment, count in self._targets.items():
            if deployment in replicas:
                await self._set(deployment, count, replicas[deployment].target)
        if self._policy.decisions:
            told = {name: asdict(decision) for name, decision in self._policy.decisions.items()}
            await self._board.post(KEY, json.dumps(told).encode(), TTL_S)

    async def _set(self, deployment: str, count: int, there_are: int) -> None:
        """Sets a number, if it is another one; again after a while, if it has not become so: an upgrade resets it."""
        if count == there_are:
            return
        before = self._last_set.get(deployment)
        now_s = self._clock()
        if before is None or before[0] != count or now_s - before[1] >= AGAIN_S:
            self._last_set[deployment] = (count, now_s)
            await self._numbers.set(deployment, count)

    def _contexts(
        self, replicas: Mapping[str, Replicas], reports: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, _Context]:
        contexts = {
            # A controller that has just come up may not know of all that run, which is no reason to end any.
            name: _Context(name, self._targets.get(name, one.target), one.running)
            for name, one in replicas.items()
        }
        router = contexts.get(self._arguments["router"])
        if router is not None:
            # Serve tells how many run, and not which: those that have not reported are not heard.
            silent = range(router.current_num_replicas - len(reports))
            router.running_replicas = [*reports, *(f"silent {number}" for number in silent)]
            for replica, said in reports.items():
                for name, value in said["stats"].items():
                    router.raw_metrics.setdefault(name, {})[replica] = [_Point(said["at"], value)]
        return contexts


class ServeNumbers:
    """The numbers of replicas of a fleet, read and set in Serve's controller.

    Args:
        fleet: Name of the fleet, which is that of its application.
    """

    def __init__(self, fleet: str) -> None:
        self._fleet = fleet
        self._controller: Any = None

    async def read(self) -> Mapping[str, Replicas]:
        """Those of each deployment, by its name."""
        status = await in_daemon_thread(serve.status)
        application = status.applications.get(self._fleet)
        numbers: dict[str, Replicas] = {}
        for name, deployment in {} if application is None else application.deployments.items():
            states = {str(getattr(state, "value", state)): count for state, count in deployment.replica_states.items()}
            staying = sum(count for state, count in states.items() if state not in _ENDING)
            numbers[name] = Replicas(staying, states.get("RUNNING", 0))
        return numbers

    async def set(self, deployment: str, count: int) -> None:
        """Sets one of them.

        Raises:
            RayError: The controller cannot be reached, or refuses.
        """
        if self._controller is None:
            self._controller = await in_daemon_thread(lambda: ray.get_actor(*CONTROLLER))
        id = deployment_id(deployment, self._fleet)
        try:
            await self._controller.update_deployment_replicas.remote(id, count)
        except RayError:
            self._controller = None
            raise
        logger.info("%s: %d replicas", deployment, count)
