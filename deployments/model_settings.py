"""What a fleet file says of one model: its instances or its provider, or the models that it is made of."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, StringConstraints, Tag, field_validator, model_validator

from actors.settings import ACCELERATOR, AdmissionSettings, PatienceSettings, Settings, SleepSettings
from deployments.fill_in_the_middle import check_template
from deployments.replica_settings import ReplicaBounds, Replicas, least, most
from deployments.resource_settings import ACCELERATOR_SHARE, AcceleratorType, CustomResources
from engines.adapters.adapter import Adapter
from engines.attachments.reader import AttachmentLimits
from engines.attachments.url_fetcher import UrlSettings
from engines.operators.registry import OperatorSpec, check_order
from engines.registry import KINDS, EngineSpec

PolicyName = Literal["round_robin", "random", "power_of_two", "least_loaded", "kv_aware"]
StickyMode = Literal["off", "soft", "hard"]
ModelName = Annotated[str, StringConstraints(pattern=r"^[^\s/][^\s]{0,199}$")]


class StickySettings(Settings):
    """How sessions stay on the instance that holds their state.

    Attributes:
        mode: `soft` gives way to load, `hard` only to the instance's end, `off` ignores session ids.
        idle_s: A session without a request for so long is forgotten.
        load_factor: A session is not bound to an instance whose load is over this multiple of the mean
            (rendezvous hashing with bounded load; Mirrokni et al., 2017).
    """

    mode: StickyMode = "soft"
    idle_s: float = Field(1800.0, gt=0)
    load_factor: float = Field(1.25, gt=1)


class RoutingSettings(Settings):
    """How one instance is picked out of several.

    Attributes:
        policy: For requests without a session; `kv_aware` for those of `soft` sessions, too, which it keeps where their
            prompts are cached. None: `kv_aware` where the engine says what it has cached, else `least_loaded`.
        sticky: For requests with one.
        wait_s: How long a request waits for a first ready instance before it fails with NoInstance. None: as long
            as a boot may take (`start_timeout_s`) where the model may have no instances at all, else not at all.
        max_held: Most requests that wait so at one router replica; one more is refused at once.
        max_held_bytes: Most bytes of them together.
        inhibit_s: How long an instance that failed is left alone before it is tried again.
    """

    policy: PolicyName | None = None
    sticky: StickySettings = StickySettings()
    wait_s: float | None = Field(None, ge=0)
    max_held: int = Field(1024, ge=1)
    max_held_bytes: int = Field(256 * 2**20, ge=1)
    inhibit_s: float = Field(2.0, ge=0)


class HealthSettings(Settings):
    """How an instance is watched.

    Attributes:
        period_s: Between two checks.
        timeout_s: An actor that does not answer a check within it hangs, and is replaced; half of it is for the engine.
        canary_idle_s: An instance that has had no work for so long is asked for one real token. It hangs, and is
            replaced, when the engine then takes no step for half of `timeout_s`; with work, it hangs when it takes none
            for `patience.stall_s`.
    """

    period_s: float = Field(5.0, gt=0)
    timeout_s: float = Field(30.0, gt=0)
    canary_idle_s: float = Field(30.0, gt=0)


class AttachmentSettings(AttachmentLimits):
    """What images, recordings and documents are taken, and what those of one request may cost.

    Attributes:
        urls: Which images are fetched that a request names by URL. None: none, they come with the request.
    """

    urls: UrlSettings | None = None


class ServedModel(Settings):
    """What is said of every model, whatever answers for it.

    Attributes:
        name: What clients ask for.
        aliases: Other names for it.
        attachments: What may come with a request for it.
        fill_in_the_middle: How it is shown the text before a gap and after it, for completions with a `suffix`: its
            special tokens around `{prompt}` and `{suffix}`, in its own order. None: it was not trained to fill gaps.
        pipeline: The operators around it, the outermost first (`engines.operators.registry`); None: what is right for
            its kind.
    """

    name: ModelName
    aliases: list[ModelName] = []
    attachments: AttachmentSettings = AttachmentSettings()
    fill_in_the_middle: Annotated[str, AfterValidator(check_template)] | None = None
    pipeline: list[OperatorSpec] | None = None

    @field_validator("pipeline")
    @classmethod
    def _in_an_order_that_makes_sense(cls, pipeline: list[OperatorSpec] | None) -> list[OperatorSpec] | None:
        if pipeline is not None:
            check_order([operator.name for operator in pipeline])
        return pipeline

    @property
    def operators(self) -> Sequence[OperatorSpec]:
        """The operators around it, the outermost first."""
        return self.pipeline or ()

    @property
    def names(self) -> Sequence[str]:
        """What clients may ask for because of it."""
        return (self.name, *self.aliases)


class ModelSettings(ServedModel):
    """One model, and the instances that serve it; or the provider, for an engine that is remote.

    Attributes:
        engine: Kind of engine (`vllm`, `simulated`, ...).
        options: Options of that kind of engine.
        adapters: LoRA adapters of the model: each is a model of its own to clients, by its name. They are loaded when
            they are asked for, at most `options.max_loras` at a time on one instance. A path that begins with a dot or
            a tilde is relative to the fleet file.
        replicas: Instances: a number, or bounds between which they follow the load.
        surge_percent: How many more there may be while an upgrade replaces them, in percent. 0: one ends before its
            successor boots, as a cluster without room to spare needs; a model with one instance is away meanwhile.
        tensor_parallel_size: GPUs (or CPU ranks) that one instance spreads each layer of its model over.
        pipeline_parallel_size: Stages that it divides the layers into, one after another; each has as many GPUs.
        nnodes: Nodes that one instance is divided among, each with as many of its ranks. 1: all of it is on one node,
            which is the fastest where it fits.
        gpus: GPUs of one instance. None: `tensor_parallel_size` times `pipeline_parallel_size` where the cluster has
            GPUs and the engine uses them, else 0. A fraction (0.5) shares one GPU among instances; give each its
            `gpu_memory_utilization`, then.
        cpus: CPUs that one instance reserves in Ray, on each of its nodes.
        resources: Custom Ray resources that one instance reserves, on each of its nodes.
        accelerator_type: Its nodes have this kind of accelerator, by Ray's name (`H100`, `A100-80G`, `TPU-V6E`).
        runtime_env: Ray runtime environment of the instances.
        sleep: When an instance that has no work gives up its GPUs' memory until its next request; None: never.
        start_timeout_s: An instance that has not booted after so long has failed.
        drain_timeout_s: What a draining instance gets to finish its requests.
    """

    engine: str = "vllm"
    options: dict[str, Any] = {}
    adapters: list[Adapter] = []
    replicas: Replicas = 1
    surge_percent: int = Field(0, ge=0, le=100)
    tensor_parallel_size: int = Field(1, ge=1)
    pipeline_parallel_size: int = Field(1, ge=1)
    nnodes: int = Field(1, ge=1)
    gpus: float | None = Field(None, ge=0)
    cpus: float = Field(1.0, ge=0)
    resources: CustomResources = {}
    accelerator_type: AcceleratorType | None = None
    runtime_env: dict[str, Any] = {}
    admission: AdmissionSettings = AdmissionSettings()
    routing: RoutingSettings = RoutingSettings()
    patience: PatienceSettings = PatienceSettings()
    health: HealthSettings = HealthSettings()
    sleep: SleepSettings | None = None
    start_timeout_s: float = Field(1200.0, gt=0)
    drain_timeout_s: float = Field(30.0, ge=0)

    @property
    def names(self) -> Sequence[str]:
        """What clients may ask for because of it: its adapters are models of their own."""
        return (self.name, *self.aliases, *(adapter.name for adapter in self.adapters))

    @property
    def bounds(self) -> ReplicaBounds | None:
        """Between which its instances follow the load; None: their number is fixed."""
        return self.replicas if isinstance(self.replicas, ReplicaBounds) else None

    @property
    def custom_resources(self) -> Mapping[str, float]:
        """What one instance reserves besides CPUs and GPUs, its kind of accelerator among it."""
        kind = {} if self.accelerator_type is None else {ACCELERATOR + self.accelerator_type: ACCELERATOR_SHARE}
        return {**self.resources, **kind}

    @property
    def world_size(self) -> int:
        """Ranks of one instance, each on a GPU of its own where there are any."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    def _sizes(self) -> str:
        """What its ranks come of, in the fleet file's words."""
        if self.pipeline_parallel_size == 1:
            return f"tensor_parallel_size is {self.tensor_parallel_size}"
        if self.tensor_parallel_size == 1:
            return f"pipeline_parallel_size is {self.pipeline_parallel_size}"
        return (
            f"tensor_parallel_size times pipeline_parallel_size is {self.tensor_parallel_size} x "
            f"{self.pipeline_parallel_size} = {self.world_size}"
        )

    @property
    def least_replicas(self) -> int:
        """Instances that it always has, spares included; 0: an idle one has none."""
        return least(self.replicas)

    @property
    def may_sleep(self) -> bool:
        """Whether it may have no instances, as before its spare has booted: then requests wait until one has."""
        return self.bounds is not None and self.bounds.min == 0

    @property
    def routing_in_effect(self) -> RoutingSettings:
        """How an instance is picked, with what is right for the model where its file says nothing."""
        if self.routing.wait_s is not None:
            return self.routing
        return self.routing.model_copy(update={"wait_s": self.start_timeout_s if self.may_sleep else 0.0})

    @property
    def most_replicas(self) -> int:
        """Instances that it may have at a time, but for those that an upgrade makes besides."""
        return most(self.replicas)

    @property
    def most_in_upgrade(self) -> int:
        """Instances that it may have at a time while an upgrade makes new ones before the old ones end."""
        return math.ceil(self.most_replicas * (100 + self.surge_percent) / 100)

    @model_validator(mode="after")
    def _waits_where_it_may_sleep(self) -> Self:
        if self.may_sleep and self.routing.wait_s == 0:
            raise ValueError(
                "replicas.min is 0, and routing.wait_s too: nothing would ever be served. Let requests wait for longer "
                "than a boot takes, or leave wait_s out"
            )
        return self

    @model_validator(mode="after")
    def _gpus_are_whole_or_a_share_of_one(self) -> Self:
        if self.gpus is not None and self.gpus > 1 and not self.gpus.is_integer():
            raise ValueError(f"gpus must be whole, or a share of one, not {self.gpus:g}")
        if self.gpus and self.world_size > max(self.gpus, 1):
            raise ValueError(f"{self._sizes()}, and gpus only {self.gpus:g}")
        return self

    @model_validator(mode="after")
    def _nodes_have_equal_parts(self) -> Self:
        if self.nnodes == 1 or self.is_remote:
            return self
        if self.engine in KINDS and KINDS[self.engine].follower is None:
            raise ValueError(f"nnodes is {self.nnodes}, and the engine {self.engine} lives on one node: leave it out")
        if self.world_size % self.nnodes:
            raise ValueError(
                f"nnodes is {self.nnodes}, and {self._sizes()}, which cannot be divided evenly among so many nodes"
            )
        if self.gpus and self.gpus != self.world_size:
            raise ValueError(
                f"gpus is {self.gpus:g}, and over several nodes each of the {self.world_size} ranks has a GPU: leave "
                f"gpus out, or set {self.world_size}"
            )
        if self.cpus == 0:
            raise ValueError(f"cpus is 0, and nnodes {self.nnodes}: an instance must reserve something on each node")
        return self

    @model_validator(mode="after")
    def _engine_can_sleep(self) -> Self:
        if self.sleep is None or self.is_remote or self.engine not in KINDS:
            return self
        if not KINDS[self.engine].sleeps:
            raise ValueError(f"sleep is set, and the engine {self.engine} cannot sleep: leave it out")
        if self.sleep.level == 2 and self.adapters:
            raise ValueError(
                "sleep.level is 2, and the model has adapters, whose weights would not be loaded again: set "
                "sleep.level to 1"
            )
        return self

    def spec(self) -> EngineSpec:
        """What the engine actor makes its engine from."""
        return EngineSpec(
            kind=self.engine,
            model=self.name,
            options=self.options,
            tensor_parallel_size=self.tensor_parallel_size,
            pipeline_parallel_size=self.pipeline_parallel_size,
            nnodes=self.nnodes,
            adapters=tuple(self.adapters),
            sleeps=self.sleep is not None,
        )

    @property
    def is_remote(self) -> bool:
        """Whether a provider answers, asked from the router replicas: there are no instances, then."""
        return self.engine in KINDS and KINDS[self.engine].remote

    @property
    def operators(self) -> Sequence[OperatorSpec]:
        """The operators around it, the outermost first."""
        if self.pipeline is not None:
            return self.pipeline
        if self.is_remote:
            return [OperatorSpec.model_validate(name) for name in _AROUND_PROVIDERS]
        # A stream whose last instance went goes on with the first one of the next boot.
        return [OperatorSpec.model_validate({"migration": {"wait_s": self.start_timeout_s}})]

    @model_validator(mode="after")
    def _a_provider_has_no_instances(self) -> Self:
        if self.is_remote:
            fields = {name: field for name, field in ModelSettings.model_fields.items() if name not in _OF_PROVIDERS}
            idle = [name for name, field in fields.items() if getattr(self, name) != field.default]
            if idle:
                raise ValueError(f"the engine {self.engine} has no instances here, and so no {', '.join(idle)}")
        return self


class FallbackSettings(ServedModel):
    """A model made of others: a request goes to the first that takes it.

    Attributes:
        fallback: Their names, the preferred one first.
    """

    fallback: list[ModelName] = Field(min_length=1)

    @property
    def members(self) -> Sequence[str]:
        """The names of the models that it is made of."""
        return self.fallback


class PoolMemberSettings(Settings):
    """One model of a pool.

    Attributes:
        model: Its name.
        weight: Its share of the requests is its weight over that of all.
        failover: It gets requests only when nobody else takes them.
    """

    model: ModelName
    weight: float = Field(1.0, gt=0, le=1e6)
    failover: bool = False


class PoolSettings(ServedModel):
    """A model made of others, which share its requests.

    Attributes:
        pool: The others.
    """

    pool: list[PoolMemberSettings] = Field(min_length=1)

    @property
    def members(self) -> Sequence[str]:
        """The names of the models that it is made of."""
        return [member.model for member in self.pool]


_OF_PROVIDERS = {*ServedModel.model_fields, "engine", "options"}
_AROUND_PROVIDERS = ("retry", "breaker")

ENGINE, FALLBACK, POOL = "a model of an engine", "a fallback of models", "a pool of models"
MODEL_KINDS: dict[str, type[ServedModel]] = {ENGINE: ModelSettings, FALLBACK: FallbackSettings, POOL: PoolSettings}
"""What a model of the fleet file can be, by the word for it in pydantic's errors."""


KIND_KEYS = {"fallback": FALLBACK, "pool": POOL}
"""The keys that make a model another kind than one of an engine."""


def kind_of(said: Any) -> str:
    """Which of `MODEL_KINDS` a model of the fleet file is, as far as its keys tell."""
    for key, kind in KIND_KEYS.items():
        if (isinstance(said, dict) and key in said) or hasattr(said, key):
            return kind
    return ENGINE


AnyModelSettings = Annotated[
    Annotated[ModelSettings, Tag(ENGINE)]
    | Annotated[FallbackSettings, Tag(FALLBACK)]
    | Annotated[PoolSettings, Tag(POOL)],
    Discriminator(kind_of),
]
