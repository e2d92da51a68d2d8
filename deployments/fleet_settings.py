"""The fleet file's schema: everything that can be configured, in one tree.

Defaults are right for a laptop. Secrets are not here: they come from the environment. Reading the file, and saying
what is wrong with it and where, is `clusters.fleet_file`'s work.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from actors.settings import ChannelSettings, Settings
from deployments.model_settings import AnyModelSettings, FallbackSettings, ModelSettings, PoolSettings
from engines.nearest import did_you_mean

Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Origin = Annotated[str, StringConstraints(pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^/\s]+)$")]


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
        max_token_ids: A body with more token ids (whole numbers in lists) is refused. For each 100,000 of them every
            other stream of the instance may wait for some 12 ms.
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
    max_token_ids: int = Field(600_000, ge=1)
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
    models: list[AnyModelSettings] = Field(min_length=1)
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

    @model_validator(mode="after")
    def _models_are_made_of_others(self) -> Self:
        made_of = {model.name: list(model.members) for model in self.models if not isinstance(model, ModelSettings)}
        names = {name: model.name for model in self.models for name in (model.name, *model.aliases)}
        for name, members in made_of.items():
            for member in members:
                if member not in names:
                    hint = did_you_mean(member, names)
                    raise ValueError(f"{name} is made of {member}, which is not in the fleet.{hint}")
                if _reaches(names[member], name, made_of, names):
                    raise ValueError(f"{name} is made of {member}, which is made of {name}")
        return self

    @property
    def deployed(self) -> Sequence[ModelSettings]:
        """The models that have instances in the cluster."""
        return [model for model in self.models if isinstance(model, ModelSettings) and not model.is_remote]

    def named(self, name: str) -> ModelSettings | FallbackSettings | PoolSettings:
        """The model of a name or alias.

        Raises:
            KeyError: There is none.
        """
        for model in self.models:
            if name in (model.name, *model.aliases):
                return model
        raise KeyError(name)


def _reaches(
    name: str, goal: str, made_of: Mapping[str, Sequence[str]], names: Mapping[str, str], depth: int = 0
) -> bool:
    """Whether a model is another one, or made of it."""
    if name == goal or depth > len(made_of):
        return True
    return any(
        _reaches(names[member], goal, made_of, names, depth + 1) for member in made_of.get(name, ()) if member in names
    )
