"""Whether the ingress should be sent requests."""

from typing import Literal

from deployments.fleet import Fleet


class Readiness:
    """Remembers that the fleet has been ready once.

    A fleet that boots is not ready before every model is; one that is asleep is, since a request wakes it. From then on
    it stays ready as long as any model is: a load balancer that takes the whole ingress out because one model of many
    is down makes the outage worse.
    """

    __slots__ = ("_booted",)

    def __init__(self) -> None:
        self._booted = False

    def status(
        self, fleet: Fleet, *, draining: bool, has_keys: bool
    ) -> Literal["ready", "starting", "draining", "unavailable", "no keys"]:
        """Where the ingress is in its life."""
        if draining:
            return "draining"
        if not has_keys:
            return "no keys"
        if not self._booted:
            self._booted = fleet.ready
            return "ready" if self._booted else "starting"
        return "ready" if any(model.serves for model in fleet.models) else "unavailable"
