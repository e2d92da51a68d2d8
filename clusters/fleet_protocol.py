"""What the command line and the fleet process say to each other: one JSON document per line.

Down goes one Job, and then nothing but the end of the input, which means stop; up come Reports.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from actors.directory.known_instance import Instance, InstanceState
from deployments.fleet_settings import FleetSettings


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Job(_Message):
    """What the fleet process is to do.

    Attributes:
        fleet: What to run.
        address: An existing cluster; None: a local one, which lives and dies with the process.
        folder: Where its logs and the local Ray's files are.
        wait: Whether to wait for resources that the cluster does not have yet.
    """

    fleet: FleetSettings
    address: str | None = None
    folder: Path
    wait: bool = False


class Phase(_Message):
    """What it is doing now, for a person to read."""

    kind: Literal["phase"] = "phase"
    text: str


class ClusterUp(_Message):
    """Ray is there: from now on there is something to drain."""

    kind: Literal["cluster_up"] = "cluster_up"
    address: str


class InstanceRow(_Message):
    """One instance, as far as a person wants to know.

    `sleeps` says whether it must wake before it works. `cached_share` is of the tokens of its prompts so far, how many
    came from its prefix cache; None before the first.
    """

    id: str
    model: str
    state: InstanceState
    node: str = ""
    since_s: float = 0.0
    detail: str = ""
    running: int = 0
    queued: int = 0
    kv_use: float = 0.0
    cached_share: float | None = None
    sleeps: bool = False

    @classmethod
    def of(cls, instance: Instance) -> "InstanceRow":
        """The row of an instance."""
        load = instance.load
        return cls(
            id=instance.id,
            model=instance.model,
            state=instance.state,
            node=instance.node,
            since_s=instance.since_s,
            detail=instance.detail,
            running=instance.load.running,
            queued=instance.load.queued,
            kv_use=instance.load.kv_use,
            cached_share=load.cached_tokens / load.prompt_tokens if load.prompt_tokens else None,
            sleeps=load.is_asleep,
        )


class Instances(_Message):
    """All instances; sent when something changed."""

    kind: Literal["instances"] = "instances"
    rows: list[InstanceRow]


class Answering(_Message):
    """Where router replicas answer, or should.

    Attributes:
        url: The address.
        node: That of the replica's node on the cluster's network.
        answers: Whether it answered this machine.
    """

    url: str
    node: str
    answers: bool


class Ready(_Message):
    """The fleet answers.

    Attributes:
        addresses: Where it does so in a foreign cluster; a local one answers where it was told to.
    """

    kind: Literal["ready"] = "ready"
    addresses: list[Answering] = []


class Failed(_Message):
    """The fleet cannot run; the process ends."""

    kind: Literal["failed"] = "failed"
    message: str


Report = Phase | ClusterUp | Instances | Ready | Failed

_adapter: TypeAdapter[Report] = TypeAdapter(Annotated[Report, Field(discriminator="kind")])


def encode(message: Job | Report) -> bytes:
    """One line."""
    return message.model_dump_json().encode() + b"\n"


def decode_report(line: bytes) -> Report:
    """The report of a line.

    Raises:
        pydantic.ValidationError: It is none.
    """
    return _adapter.validate_json(line)
