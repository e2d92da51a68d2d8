"""The fleet file's schema: everything that can be configured, in one tree.

Defaults are right for a laptop. Secrets are not here: they come from the environment. Reading the file, and saying
what is wrong with it and where, is `clusters.fleet_file`'s work.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from actors.settings import AdmissionSettings, ChannelSettings, PatienceSettings, Settings
from engines.operators.migration import MigrationOptions
from engines.registry import EngineSpec

PolicyName = Literal["round_robin", "random", "power_of_two", "least_loaded"]
StickyMode = Literal["off", "soft", "hard"]
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
ModelName = Annotated[str, StringConstraints(pattern=r"^[^\s/][^\s]{0,199}$")]

Origin = Annotated[str, StringConstraints(pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^/\s]+)$")]


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
        policy: For requests without a session.
        sticky: For requests with one.
        wait_s: How long a request waits for a first ready instance before it fails with NoInstance.
        inhibit_s: How long an instance that failed is left alone before it is tried again.
    """

    policy: PolicyName = "least_loaded"
    sticky: StickySettings = StickySettings()
    wait_s: float = Field(0.0, ge=0)
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


class ModelSettings(Settings):
    """One model, and the instances that serve it.

    Attributes:
        name: What clients ask for.
        aliases: Other names for it.
        engine: Kind of engine (`vllm`, `simulated`, ...).
        options: Options of that kind of engine.
        replicas: Instances.
        surge_percent: How many more there may be while an upgrade replaces them, in percent. 0: one ends before its
            successor boots, as a cluster without room to spare needs; a model with one instance is away meanwhile.
        tensor_parallel_size: GPUs (or CPU ranks) that one instance spreads its model over.
        gpus: GPUs of one instance. None: `tensor_parallel_size` where the cluster has GPUs and the engine uses them,
            else 0. A fraction (0.5) shares one GPU among instances; give each its `gpu_memory_utilization`, then.
        cpus: CPUs that one instance reserves in Ray.
        resources: Custom Ray resources that one instance reserves.
        runtime_env: Ray runtime environment of the instances.
        start_timeout_s: An instance that has not booted after so long has failed.
        drain_timeout_s: What a draining instance gets to finish its requests.
    """

    name: ModelName
    aliases: list[ModelName] = []
    engine: str = "vllm"
    options: dict[str, Any] = {}
    replicas: int = Field(1, ge=1, le=1000)
    surge_percent: int = Field(0, ge=0, le=100)
    tensor_parallel_size: int = Field(1, ge=1)
    gpus: float | None = Field(None, ge=0)
    cpus: float = Field(1.0, ge=0)
    resources: dict[str, float] = {}
    runtime_env: dict[str, Any] = {}
    admission: AdmissionSettings = AdmissionSettings()
    routing: RoutingSettings = RoutingSettings()
    patience: PatienceSettings = PatienceSettings()
    migration: MigrationOptions = MigrationOptions()
    health: HealthSettings = HealthSettings()
    start_timeout_s: float = Field(1200.0, gt=0)
    drain_timeout_s: float = Field(30.0, ge=0)

    @model_validator(mode="after")
    def _gpus_are_whole_or_a_share_of_one(self) -> Self:
        if self.gpus is not None and self.gpus > 1 and not self.gpus.is_integer():
            raise ValueError(f"gpus must be whole, or a share of one, not {self.gpus:g}")
        if self.gpus and self.tensor_parallel_size > max(self.gpus, 1):
            raise ValueError(f"tensor_parallel_size is {self.tensor_parallel_size}, and gpus only {self.gpus:g}")
        return self

    def spec(self) -> EngineSpec:
        """What the engine actor makes its engine from."""
        return EngineSpec(
            kind=self.engine,
            model=self.name,
            options=self.options,
            tensor_parallel_size=self.tensor_parallel_size,
        )


class RouterSettings(Settings):
    """The router replicas: each one routes, and listens on the HTTP port.

    Attributes:
        replicas: How many.
        cpus: CPUs that one reserves in Ray.
    """

    replicas: int = Field(1, ge=1, le=100)
    cpus: float = Field(0.5, ge=0)


class CorsSettings(Settings):
    """Which web pages may call the API from a browser.

    Attributes:
        origins: Their origins (`https://chat.example.com`), or `*` for every page; empty: none.
    """

    origins: list[Origin] = []


class HttpSettings(Settings):
    """The HTTP ingress.

    Attributes:
        host: Address to listen on; `0.0.0.0` for every one.
        port: Port to listen on; the replicas of one node share it.
        max_body_bytes: A larger request body is refused before it is read.
        max_bodies_bytes: Bytes of all bodies that one router replica reads at a time; past it 503, before reading.
        max_json_depth: A more deeply nested body is refused.
        body_timeout_s: What a client gets to send its body.
        unread_stream_bytes: Bytes that may wait for a client that does not read its stream; past it that stream ends.
        unread_bytes: The same for all streams of one router replica; past it the largest are ended.
        write_timeout_s: A client that reads nothing for so long is dropped, and its request killed.
        api_keys_env: Environment variable with the API keys, separated by commas; empty or unset: no key is asked for.
        session_header: Header that carries a session id.
        cors: Which web pages may call it.
        notice_s: How long a router replica that ends still takes connections, while `/ready` says 503 already: what
            load balancers need to notice.
    """

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    max_body_bytes: int = Field(16 * 2**20, ge=1024)
    max_bodies_bytes: int = Field(512 * 2**20, ge=1024)
    max_json_depth: int = Field(100, ge=1)
    body_timeout_s: float = Field(30.0, gt=0)
    unread_stream_bytes: int = Field(8 * 2**20, ge=2**20)
    unread_bytes: int = Field(256 * 2**20, ge=2**20)
    write_timeout_s: float = Field(60.0, gt=0)
    api_keys_env: str = "PENSTOCK_API_KEYS"
    session_header: str = "x-session-id"
    cors: CorsSettings = CorsSettings()
    notice_s: float = Field(1.0, ge=0, le=600)


class FleetSettings(Settings):
    """The whole configured system.

    Attributes:
        name: Name of the Serve application, and namespace of its actors.
        models: What is served.
    """

    name: Label = "penstock"
    models: list[ModelSettings] = Field(min_length=1)
    router: RouterSettings = RouterSettings()
    http: HttpSettings = HttpSettings()
    channel: ChannelSettings = ChannelSettings()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        seen: set[str] = set()
        for model in self.models:
            for name in (model.name, *model.aliases):
                if name in seen:
                    raise ValueError(f"two models are called {name!r}")
                seen.add(name)
        return self
