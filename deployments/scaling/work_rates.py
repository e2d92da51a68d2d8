"""How much work one instance of a model does: measured while its instances were busy, a guess before that."""

import math
from dataclasses import dataclass

BUSY_FOR_S = 10.0
"""Work is counted in pieces, and a prompt counts at its end: shorter measurements of busy instances err."""
EASY_FOR_S = 15.0
"""The same for instances that were not busy all the time, of which nothing can be learned but that they do so much."""
AT_ONCE = 2.0
"""No measurement changes the rates by more than this factor: long prompts that end just after it are not in it."""
SETTLE_S = 30.0
"""Half of a new rate is believed after some twenty seconds of measuring it."""
CREEP_S = 600.0
"""Rates grow e-fold in this time while instances do all that is asked without strain, and were not at their limit
lately: who is never busy is never measured, and a guess that is too low would be paid for with idle instances."""
CREEP_AGAIN_S = 3600.0


@dataclass(frozen=True, slots=True)
class Rates:
    """What one instance does in a second, if it does nothing else.

    Attributes:
        prompt_tokens_per_s: Prompt tokens that it computes.
        output_tokens_per_s: Tokens that it generates, for all its requests together.
    """

    prompt_tokens_per_s: float
    output_tokens_per_s: float

    def work_s(self, prompt_tokens: float, output_tokens: float) -> float:
        """The seconds of one instance that this takes."""
        return prompt_tokens / self.prompt_tokens_per_s + output_tokens / self.output_tokens_per_s


PRIOR = Rates(8000.0, 2000.0)
"""What one instance does as long as nobody knows: a model of some ten billion parameters on one GPU of a data center,
with something to spare. Where it is too much, a queue builds up and the true rate is measured within seconds."""


class MeasuredRates:
    """The rates of a model's instances, as they turn out.

    One figure is measured: how many times the prior an instance does. With two of them, prompts and answers would have
    to vary against one another to be told apart. That the mix of work stays alike for some minutes is enough here.

    Args:
        prior: What is believed before the first measurement.
    """

    def __init__(self, prior: Rates) -> None:
        self._prior = prior
        self._scale = 1.0
        self._measured_s = -math.inf
        # Of the stretch in which all instances were busy, and of that in which they were not: its seconds of
        # instances, and the work done in it, at the prior's rates.
        self._busy = _Stretch()
        self._easy = _Stretch()

    @property
    def rates(self) -> Rates:
        """The rates now."""
        prior = self._prior
        return Rates(prior.prompt_tokens_per_s * self._scale, prior.output_tokens_per_s * self._scale)

    @property
    def is_measured(self) -> bool:
        """Whether the instances were seen at their limit."""
        return not math.isinf(self._measured_s)

    def recall(self, now_s: float, prompt_tokens_per_s: float) -> None:
        """This rate was measured before; what was measured since counts for more."""
        if not self.is_measured:
            self._scale = prompt_tokens_per_s / self._prior.prompt_tokens_per_s
            self._measured_s = now_s

    def saw_prompts(self, prompt_tokens_per_s: float) -> None:
        """An instance without much else to do was seen to compute prompts at this rate: better than a guess."""
        if not self.is_measured:
            self._scale = prompt_tokens_per_s / self._prior.prompt_tokens_per_s

    def note(
        self, now_s: float, seconds: float, instances: int, prompt_tokens: float, output_tokens: float, *, is_busy: bool
    ) -> None:
        """Learns from what instances did.

        Args:
            now_s: The time at the end.
            seconds: How long they did it.
            instances: How many there were, all the time.
            prompt_tokens: Prompt tokens that they computed.
            output_tokens: Tokens that they generated.
            is_busy: Requests waited for them, all the time.
        """
        if instances <= 0 or seconds <= 0:
            self._busy, self._easy = _Stretch(), _Stretch()
            return
        work_s = self._prior.work_s(prompt_tokens, output_tokens)
        if is_busy:
            self._easy = _Stretch()
            self._busy.add(seconds, instances, work_s)
            if self._busy.seconds >= BUSY_FOR_S and work_s > 0:
                weight = 1.0 if not self.is_measured else 1.0 - math.exp(-self._busy.seconds / SETTLE_S)
                seen = min(max(self._busy.scale, self._scale / AT_ONCE), self._scale * AT_ONCE)
                self._scale += weight * (seen - self._scale)
                self._measured_s, self._busy = now_s, _Stretch()
            return
        self._busy = _Stretch()
        self._easy.add(seconds, instances, work_s)
        if self._easy.seconds >= EASY_FOR_S:
            use = self._easy.scale / self._scale
            if use > 1.0:
                self._scale *= use
            elif use > 0.5 and now_s - self._measured_s > CREEP_AGAIN_S:
                self._scale *= math.exp(min(self._easy.seconds, CREEP_S) / CREEP_S)
            self._easy = _Stretch()


@dataclass(slots=True)
class _Stretch:
    seconds: float = 0.0
    instance_s: float = 0.0
    work_s: float = 0.0

    def add(self, seconds: float, instances: int, work_s: float) -> None:
        self.seconds += seconds
        self.instance_s += seconds * instances
        self.work_s += work_s

    @property
    def scale(self) -> float:
        """The work of a second of one instance."""
        return self.work_s / self.instance_s
