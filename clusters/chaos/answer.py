"""One answer to a request to count: what has come of it, and what is lost or repeated in it."""

import re
import time
from dataclasses import dataclass, field

_NUMBER = re.compile(r"\d+")


@dataclass(slots=True)
class Tally:
    """What became of the requests of a load.

    Attributes:
        served: Answers that came to their end.
        refused: Refused before they began (429, 503), or not even sent (MOST_OPEN). A client asks again, later.
        failed: Ended by an error, before or after their first token.
        cut: Connections that broke, as they do when the router behind them dies.
        taken_up: Realtime sessions that broke so, and went on at another router.
        lost: Numbers that an answer should have said and did not.
        repeated: Numbers that an answer said more than once, or that nobody asked for.
        reasons: What the errors said, each once.
        first_s: The longest wait for the first piece of an answer.
        pause_s: The longest pause between two pieces of an answer.
    """

    served: int = 0
    refused: int = 0
    failed: int = 0
    cut: int = 0
    taken_up: int = 0
    lost: int = 0
    repeated: int = 0
    reasons: set[str] = field(default_factory=set)
    first_s: float = 0.0
    pause_s: float = 0.0

    @property
    def is_whole(self) -> bool:
        """Whether no answer failed, lost or repeated anything."""
        return not (self.failed or self.lost or self.repeated)

    def add(self, other: "Tally") -> None:
        """Adds another tally to this one."""
        self.served += other.served
        self.refused += other.refused
        self.failed += other.failed
        self.cut += other.cut
        self.taken_up += other.taken_up
        self.lost += other.lost
        self.repeated += other.repeated
        self.reasons |= other.reasons
        self.first_s = max(self.first_s, other.first_s)
        self.pause_s = max(self.pause_s, other.pause_s)


class Answer:
    """What has come of one answer.

    Attributes:
        instance: Where it began.
        text: What it said.
        error: What ended it, if that was an error.
        taken_up: How often its session was taken up.
    """

    def __init__(self) -> None:
        self.instance = ""
        self.taken_up = 0
        self.text = ""
        self.error = ""
        self._is_over = False
        self._first_s = self._pause_s = 0.0
        self._since_s = time.monotonic()  # The last piece, or the request.
        self._ended_s: float | None = None

    @property
    def first_s(self) -> float:
        """How long it took to its first piece, or until now."""
        return self._first_s if self.text else self._stands_still_s()

    @property
    def pause_s(self) -> float:
        """The longest pause after one of its pieces, until now."""
        return max(self._pause_s, self._stands_still_s()) if self.text else 0.0

    def say(self, piece: str) -> None:
        """Takes the next piece of its text."""
        self._first_s, self._pause_s = self.first_s, self.pause_s
        self._since_s = time.monotonic()
        self.text += piece

    def begin_again(self) -> None:
        """Its client asks for it anew."""
        self.text = ""

    def finish(self) -> None:
        """It is complete."""
        self._is_over = True

    def end(self) -> None:
        """Nothing comes of it any more."""
        self._ended_s = time.monotonic()

    def tally(self, wanted: range) -> Tally:
        """What became of the request, now that its answer is over."""
        said = [int(number) for number in _NUMBER.findall(self.text)]
        right = set(said) & set(wanted)
        tally = Tally(repeated=len(said) - len(right), taken_up=self.taken_up)
        error = self.error or ("" if self._is_over else "The answer ended without its end.")
        if error:
            tally.failed = 1
            tally.reasons.add(error)
            # What had been said by then must be whole.
            tally.lost = len(set(wanted[: len(right)]) - right)
        else:
            tally.served = 1
            tally.lost = len(wanted) - len(right)
        return tally

    def _stands_still_s(self) -> float:
        return (time.monotonic() if self._ended_s is None else self._ended_s) - self._since_s
