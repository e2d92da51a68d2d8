"""Which instance of a model takes a request, and what to say when none does."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Sequence

from actors.directory.known_instance import InstanceState
from deployments.model_settings import RoutingSettings
from deployments.routing.adapter_affinity import prefer
from deployments.routing.affinity import Affinity
from deployments.routing.faults import Faults, is_fault
from deployments.routing.member import BUSY_S, InstanceEgress, Member
from deployments.routing.placements import Placement, Placements
from deployments.routing.policies import Direct, Policy
from deployments.routing.wakefulness import prefer_awake
from engines.call_requests import Request
from engines.errors import (
    AdapterFailed,
    Draining,
    InstanceNotFound,
    NoInstance,
    OtherVocabulary,
    Overload,
    Overloaded,
    PenstockError,
)
from engines.requests import GenerateRequest, Session

STARTING_RETRY_S = 5.0
"""What a client is told to wait for an instance that boots: nobody knows how long it takes, and asking is cheap."""


class InstancePicker:
    """Picks an instance of one model for each request.

    Attributes:
        model: The model's name.
        settings: How it picks.
        faults: Which instances are inhibited.
        affinity: Where the model's sessions are.
        placements: What its prompts are reckoned by.

    Args:
        model: The model's name.
        settings: How it picks.
        members: The instances of the model.
        clock: Seconds that only grow.
        placements: As above; None: new ones.
    """

    def __init__(
        self,
        model: str,
        settings: RoutingSettings,
        members: Callable[[], Sequence[Member]],
        clock: Callable[[], float] = time.monotonic,
        placements: Placements | None = None,
    ) -> None:
        self.model = model
        self.settings = settings
        self.faults = Faults(settings.inhibit_s, clock)
        self.affinity = Affinity(settings.sticky, clock)
        self.placements = placements or Placements(model, settings.policy)
        self._members = members
        self._clock = clock
        # By adapter: each has the turn of its policy among other instances than the rest.
        self._policies: defaultdict[str | None, Policy] = defaultdict(self.placements.policy)
        self._direct = Direct()

    def session(self, request: Request) -> Session | None:
        """The session that the request is to be kept with, or None."""
        return None if self.settings.sticky.mode == "off" else request.session

    def choose(
        self, request: Request, refused: Container[InstanceEgress], avoid: Callable[[str], bool] = lambda _: False
    ) -> Member | None:
        """The instance that should take the request.

        Args:
            request: The request.
            refused: Egresses on which it was refused already.
            avoid: Which instances, by id, are not to have it.

        Returns:
            An open member; None when no instance can take the request now.
        """
        now_s = self._clock()
        members = self._members()
        candidates = [
            member
            for member in members
            if member.is_open
            and member.egress not in refused
            and not avoid(member.id)
            and not self.faults.remaining_s(member.id, member.instance.incarnation)
        ]
        if request.instance is not None:
            return self._direct.choose(candidates, request)
        session = self.session(request)
        if session is not None and self._mode(session) == "hard":
            present = [member.id for member in members if member.is_present]
            return self.affinity.choose(session.id, "hard", candidates, present)
        # One that just refused is asked again only when no other is left: asking it costs a round trip. One that may be
        # about to die, or to hang, comes last as well: a stream that has just moved must not move again.
        candidates = [member for member in candidates if not member.is_shaky] or candidates
        candidates = [member for member in candidates if member.busy_until_s <= now_s] or candidates
        adapter = request.adapter if request.runs_model else None
        looks_at_caches = any(map(self.placements.looks_at_caches, candidates))
        if request.runs_model and (adapter is not None or not looks_at_caches):
            candidates = list(prefer_awake(candidates))
        if adapter is not None:
            candidates = self._with_adapter(candidates, adapter, session)
        if session is not None and not looks_at_caches:
            return self.affinity.choose(session.id, "soft", candidates, ())
        return self._policies[adapter].choose(candidates, request)

    def place(self, request: Request, member: Member) -> Placement | None:
        """Reckons a request in that is about to be sent to the instance that was chosen, in the same turn."""
        if not isinstance(request, GenerateRequest):
            return None
        members = self._members()
        if len(self.placements.prefixes) > len(members):
            self.placements.prefixes.keep_only({member.id for member in members})
        return self.placements.place(request, member)

    def _with_adapter(self, candidates: list[Member], adapter: str, session: Session | None) -> list[Member]:
        """Those that should have a request for an adapter, and the home of its session, which has its prefix cached."""
        preferred = prefer(candidates, adapter, self.settings.sticky.load_factor)
        home = None if session is None else self.affinity.bound(session.id)
        return [member for member in candidates if member.id == home or member in preferred]

    def note(self, member: Member, error: PenstockError) -> bool:
        """Learns from a setup error; returns whether the request may be tried on another instance."""
        if is_fault(error):
            self.faults.inhibit(member.id, member.instance.incarnation)
            return True
        if isinstance(error, Overload):
            member.busy_until_s = self._clock() + BUSY_S
        elif isinstance(error, Draining):
            member.mark_draining()
        return error.retryable

    def check(self, request: Request) -> None:
        """Returns if the instance that the request names, if any, is one of the model's.

        Raises:
            InstanceNotFound: It is not.
        """
        named = request.instance
        if named is not None and all(member.id != named for member in self._members()):
            raise InstanceNotFound(self.model, named)

    def refusal(self, request: Request, refusals: Sequence[PenstockError]) -> PenstockError:
        """What the caller gets when no instance took the request.

        Args:
            request: The request.
            refusals: What the instances said that were tried; may be empty.
        """
        if refusals and all(isinstance(error, OtherVocabulary | AdapterFailed) for error in refusals):
            return refusals[-1]
        busy = [error for error in refusals if isinstance(error, Overload)]
        if busy:
            if len(refusals) == 1:
                who = f"The instance {busy[0].instance}" if busy[0].instance else "The instance"
            else:
                who = f"All {len(refusals)} instances"
            known = [error.retry_after_s for error in busy if error.retry_after_s is not None]
            return Overloaded(
                f"{who} of the model {self.model!r} that could take the request refused it: too much work for now.",
                # The first of them that has room can serve it.
                retry_after_s=min(known, default=1.0),
            )
        if request.instance is not None:
            return self._unable(request.instance)
        session = self.session(request)
        home = self.affinity.bound(session.id) if session is not None else None
        if session is not None and home is not None and self._mode(session) == "hard":
            member = next((member for member in self._members() if member.id == home and member.is_present), None)
            if member is not None:
                return NoInstance(
                    f"The instance {home}, which holds the session, cannot be reached for now.",
                    retry_after_s=self._wait_s([member]),
                    instance=home,
                )
        members = self._members()
        return NoInstance(
            f"No instance of the model {self.model!r} can take the request: {self._states(members)}.",
            retry_after_s=self._wait_s(members),
        )

    def _mode(self, session: Session) -> str:
        return session.mode or self.settings.sticky.mode

    def _unable(self, id: str) -> PenstockError:
        member = next((member for member in self._members() if member.id == id), None)
        if member is None:  # It left while the request waited for it.
            return InstanceNotFound(self.model, id)
        return NoInstance(
            f"The instance {id} of the model {self.model!r} cannot take the request: {self._states([member])}.",
            param="instance",
            retry_after_s=self._wait_s([member]),
            instance=id,
        )

    def _wait_s(self, members: Sequence[Member]) -> float:
        """When another try makes sense: the end of the first inhibition, or an arbitrary while."""
        waits = [self.faults.remaining_s(member.id, member.instance.incarnation) for member in members]
        return min((wait_s for wait_s in waits if wait_s > 0), default=STARTING_RETRY_S)

    def _states(self, members: Sequence[Member]) -> str:
        if not members:
            return "there is none"
        counts: Counter[str] = Counter()
        oldest_s: dict[str, float] = {}
        for member in members:
            state = self._state(member)
            counts[state] += 1
            since_s = member.instance.since_s
            if since_s > 0:
                oldest_s[state] = min(oldest_s.get(state, since_s), since_s)
        now_s = time.time()
        parts = []
        for state, count in counts.items():
            age = f" since {max(0, round(now_s - oldest_s[state]))} s" if state in oldest_s else ""
            parts.append(f"{count} {state}{age}")
        return ", ".join(parts)

    def _state(self, member: Member) -> str:
        if member.is_draining:
            return InstanceState.DRAINING.value
        if member.instance.state is not InstanceState.READY:
            return member.instance.state.value
        if self.faults.remaining_s(member.id, member.instance.incarnation):
            return "left alone after a fault"
        return "ready" if member.is_open else "not connected"
