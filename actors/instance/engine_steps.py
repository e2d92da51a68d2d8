"""Whether an engine steps, as far as its own instance can tell."""


class EngineSteps:
    """Whether an engine steps: how long it has done nothing, with work and without.

    Heartbeats are counted rather than seconds: a loop that stood still must not blame the engine for it.

    Args:
        heartbeat_s: Between two ticks.
    """

    def __init__(self, heartbeat_s: float) -> None:
        self._heartbeat_s = heartbeat_s
        self._steps: int | None = None
        self._stalled_ticks = 0
        self._idle_ticks = 0

    @property
    def stalled_s(self) -> float:
        """For how long it has taken no step since it got work, whatever became of that; 0 where it cannot tell."""
        return self._stalled_ticks * self._heartbeat_s

    @property
    def idle_s(self) -> float:
        """For how long it has taken no step, with work or without."""
        return self._idle_ticks * self._heartbeat_s

    def observe(self, steps: int | None, is_busy: bool) -> None:
        """Takes how far it is now, between two ticks."""
        if steps != self._steps or (is_busy and steps is None):
            self._steps = steps
            self.restart()

    def tick(self, steps: int | None, is_busy: bool) -> None:
        """Takes how far it is, a heartbeat after the last time."""
        # Work that has come and gone without a step is no sign of life.
        if is_busy or self._stalled_ticks:
            self._stalled_ticks += 1
        self._idle_ticks += 1
        self.observe(steps, is_busy)

    def restart(self) -> None:
        """It has just done something."""
        self._stalled_ticks = self._idle_ticks = 0
