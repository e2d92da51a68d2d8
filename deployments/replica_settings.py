"""How many instances a model has, and how many router replicas there are: a number, or bounds and a goal."""

from typing import Annotated, Any, Self

from pydantic import Discriminator, Field, Tag, model_validator

from actors.settings import Settings

MOST_REPLICAS = 1000
QUEUE_TIME_S = 2.0
"""The goal where none is given."""


class Bounds(Settings):
    """A number of replicas that follows something, within bounds.

    Attributes:
        min: Least replicas.
        max: Most replicas.
    """

    min: int
    max: int

    @property
    def least(self) -> int:
        """Replicas that there always are."""
        return self.min

    def __str__(self) -> str:
        """The bounds, for a person."""
        return f"{self.min} to {self.max}"

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min is {self.min}, and max only {self.max}")
        return self


class ReplicaBounds(Bounds):
    """A model's instances follow its load: as many as keep the goal, within bounds.

    Attributes:
        min: Least instances. 0: an idle model has none; requests for it wait until one has booted.
        max: Most instances.
        spare: So many instances more than the load asks for are kept booted, within `max`, so that growth, also from
            nothing, meets one that has booted. An idle model has as many.
        queue_time_s: The goal: so long may 99 of 100 requests wait before an engine works on them. 2 s where neither
            goal is given.
        ttft_s: Or this goal: so long may they wait for their first token, the work on their prompt included.
        idle_s: An instance is ended once it was not needed for so long, the last one once nothing was asked for so
            long. Short times end instances in pauses, whose boots are paid for again.
        prompt_tokens_per_s: Prompt tokens that one instance computes in a second; None: a guess, until it is measured.
        output_tokens_per_s: Tokens that it generates in a second for all its requests together, likewise.
    """

    min: int = Field(1, ge=0, le=MOST_REPLICAS)
    max: int = Field(ge=1, le=MOST_REPLICAS)
    spare: int = Field(0, ge=0, le=MOST_REPLICAS)
    queue_time_s: float | None = Field(None, gt=0)
    ttft_s: float | None = Field(None, gt=0)
    idle_s: float = Field(300.0, ge=1)
    prompt_tokens_per_s: float | None = Field(None, gt=0)
    output_tokens_per_s: float | None = Field(None, gt=0)

    @property
    def least(self) -> int:
        """Instances that there always are: an idle model keeps its spares."""
        return max(self.min, self.spare)

    def __str__(self) -> str:
        """The bounds, for a person."""
        return f"{super().__str__()}, {self.spare} spare" if self.spare else super().__str__()

    @model_validator(mode="after")
    def _grows_besides_its_spares(self) -> Self:
        if self.spare >= self.max:
            raise ValueError(
                f"spare is {self.spare}, and max {self.max}: nothing is left that could grow. Set spare to "
                f"{self.max - 1} at most, or replicas to the number {self.max}"
            )
        return self

    @model_validator(mode="after")
    def _one_goal(self) -> Self:
        if self.queue_time_s is not None and self.ttft_s is not None:
            raise ValueError("give either `queue_time_s` or `ttft_s`: there is one goal")
        return self


class RouterBounds(Bounds):
    """One router replica for each node of the cluster that has room for one, within bounds."""

    min: int = Field(1, ge=1, le=100)
    max: int = Field(ge=1, le=100)


NUMBER, BOUNDS = "a number", "bounds"


def _kind(said: Any) -> str:
    return BOUNDS if isinstance(said, dict | Bounds) else NUMBER


Replicas = Annotated[
    Annotated[int, Field(ge=1, le=MOST_REPLICAS), Tag(NUMBER)] | Annotated[ReplicaBounds, Tag(BOUNDS)],
    Discriminator(_kind),
]
"""A model's instances."""
RouterReplicas = Annotated[
    Annotated[int, Field(ge=1, le=100), Tag(NUMBER)] | Annotated[RouterBounds, Tag(BOUNDS)],
    Discriminator(_kind),
]
"""The router replicas."""


def least(replicas: int | Bounds) -> int:
    """Replicas that there always are."""
    return replicas.least if isinstance(replicas, Bounds) else replicas


def most(replicas: int | Bounds) -> int:
    """Replicas that there may be at a time, but for those that an upgrade makes besides."""
    return replicas.max if isinstance(replicas, Bounds) else replicas
