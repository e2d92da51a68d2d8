"""The fleet file's schema: everything that can be configured, in one tree.

Defaults are right for a laptop. Secrets are not here: they come from the environment. Reading the file, and saying
what is wrong with it and where, is `clusters.fleet_file`'s work.
"""

import re
from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from ipaddress import ip_address
from itertools import pairwise
from typing import Annotated, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from actors.settings import ChannelSettings, Settings
from deployments.model_settings import AnyModelSettings, FallbackSettings, ModelSettings, PoolSettings
from deployments.replica_settings import RouterBounds, RouterReplicas, least, most
from deployments.resource_settings import CustomResources
from engines.nearest import did_you_mean

Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
MAX_TOKEN_IDS = 600_000
"""A million of them on their way into an instance make everybody else wait for more than a tenth of a second."""

_HOST = re.compile(r"\*|(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*")


def _host_name(name: str) -> str:
    """A name that a Host header may have.

    Raises:
        ValueError: It is none.
    """
    try:
        ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
    except ValueError:
        if not _HOST.fullmatch(name):
            raise ValueError(
                f"must be a host's name or address without scheme, port or path, such as chat.example.com, "
                f"*.example.com for all names below it, or * for every name, not {name!r}"
            ) from None
    return name


HostName = Annotated[str, AfterValidator(_host_name)]
Origin = Annotated[str, StringConstraints(pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^/\s]+)$")]


KEYS_ENV = "PENSTOCK_API_KEYS"
"""The environment variable with the API keys, where the fleet file names no other."""


class RouterSettings(Settings):
    """The router replicas: each one routes, and listens on the HTTP port.

    Attributes:
        replicas: How many: a number, or bounds between which they follow the number of nodes.
        per_node: Whether no two of them are on one node (but for the time of an upgrade, when each stands beside its
            successor).
        cpus: CPUs that one reserves in Ray.
        resources: Custom Ray resources that one reserves: those of the nodes that take traffic.
    """

    replicas: RouterReplicas = 1
    per_node: bool = False
    cpus: float = Field(0.5, ge=0)
    resources: CustomResources = {}

    @property
    def needs(self) -> Mapping[str, float]:
        """What one reserves in Ray, by resource."""
        return {name: amount for name, amount in {"CPU": self.cpus, **self.resources}.items() if amount}

    @property
    def least_replicas(self) -> int:
        """Replicas that there always are."""
        return least(self.replicas)

    @property
    def most_replicas(self) -> int:
        """Replicas that there may be at a time, but for those that an upgrade makes besides."""
        return most(self.replicas)


class CorsSettings(Settings):
    """Which web pages may call the API from a browser.

    Attributes:
        origins: Their origins (`https://chat.example.com`), or `*` for every page; empty: none.
    """

    origins: list[Origin] = []


class KeySettings(Settings):
    """Who may ask.

    Attributes:
        file: The file of tenants and their keys, on every node that has a router replica; read again when it changes.
            What begins with a dot or a tilde is relative to the fleet file.
        pushed: They are those of the file that `penstock keys push` sends to the fleet, which keeps it: for clusters
            whose nodes share neither secrets nor a disk. With neither, keys come from the environment.
    """

    file: str | None = Field(None, min_length=1)
    pushed: bool = False

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.pushed and self.file is not None:
            raise ValueError("give either `file` or `pushed`")
        return self


class SecretSettings(Settings):
    """What the fleet seals and signs with: what it hands to clients and gets back from them.

    Attributes:
        file: A file with one secret a line, the newest first, on every node that has a router replica; read again when
            it changes. What begins with a dot or a tilde is relative to the fleet file. None: the fleet makes a secret
            up, and keeps it as long as it lives.
    """

    file: str | None = Field(None, min_length=1)


class OperatorSettings(Settings):
    """A listener for operators: their routes (`/metrics`, `/-/routes`) and the probes, and nothing else.

    Attributes:
        host: Address to listen on. On one of loopback no key is asked for; elsewhere it takes the scope `admin`.
        port: Port to listen on; the replicas of one node share it.
    """

    host: str = "127.0.0.1"
    port: int = Field(ge=1, le=65535)


class TlsSettings(Settings):
    """The server's certificate.

    All are files in PEM, on every node that has a router replica; they are read again when they change, for new
    connections. What begins with a dot or a tilde is relative to the fleet file.

    Attributes:
        certificate: The certificate, followed by those between it and its authority.
        key: Its private key, without a password.
        client_ca: Authorities of clients' certificates, without which nobody is let in then; None: none is asked for.
            One that is taken out counts until the replica is restarted.
    """

    certificate: str = Field(min_length=1)
    key: str = Field(min_length=1)
    client_ca: str | None = Field(None, min_length=1)


class RealtimeSettings(Settings):
    """Realtime sessions, each of one WebSocket.

    Attributes:
        max_sessions_per_tenant: Most sessions of one tenant at a time, at one router replica.
        idle_timeout_s: A session in which nothing happens for so long is closed.
        max_event_bytes: A larger event of a client's ends its session.
        max_items: Most items of a session's history.
        max_history_bytes: Most bytes of them.
        keep_s: With a database: how long a session is kept after its socket was closed, for its client to take it up.
        max_kept_bytes_per_tenant: What is kept of one tenant's sessions; past it, those go that would go first.
    """

    max_sessions_per_tenant: int = Field(16_384, ge=1)
    idle_timeout_s: float = Field(1800.0, gt=0)
    max_event_bytes: int = Field(2**20, ge=1024)
    max_items: int = Field(4096, ge=1)
    max_history_bytes: int = Field(16 * 2**20, ge=1024)
    keep_s: float = Field(300.0, gt=0)
    max_kept_bytes_per_tenant: int = Field(2**30, ge=1024)


class StoredSettings(Settings):
    """What is stored because its client asks for that, which takes a database.

    Attributes:
        keep_s: How long it is kept; 30 days.
        max_kept_bytes_per_tenant: What is kept of one tenant's; past it, those go that would go first.
    """

    keep_s: float = Field(30 * 86_400.0, gt=0)
    max_kept_bytes_per_tenant: int = Field(2**30, ge=1024)


class ChatCompletionsSettings(StoredSettings):
    """Chat completions that are stored."""


class BackgroundSettings(Settings):
    """Responses that are made in the background, which takes a database.

    Attributes:
        max_per_tenant: Most of one tenant's that wait or run; one more is refused.
        max_bytes_per_tenant: What those may have in the database: what was asked, and what was said by now; past it
            no more is taken.
        max_request_bytes: Bytes of one with its conversation, as they are stored.
        max_wait_s: How long one waits for room; past it, it has failed.
        max_run_s: How long one may take from its first event on; past it, it has failed.
        max_per_replica: Most that one router replica makes at a time, a quarter of them for one tenant; the others wait
            for it or for another replica.
    """

    max_per_tenant: int = Field(256, ge=1)
    max_bytes_per_tenant: int = Field(256 * 2**20, ge=1024)
    max_request_bytes: int = Field(32 * 2**20, ge=1024)
    max_wait_s: float = Field(3600.0, gt=0)
    max_run_s: float = Field(4 * 3600.0, gt=0)
    max_per_replica: int = Field(512, ge=1)


class ResponsesSettings(StoredSettings):
    """Responses and conversations of the Responses API that are stored; a conversation expires after its last change.

    Attributes:
        max_conversation_bytes_per_tenant: As `max_kept_bytes_per_tenant`, which is for responses, for conversations.
        background: Bounds of responses that are made in the background.
    """

    max_conversation_bytes_per_tenant: int = Field(2**30, ge=1024)
    background: BackgroundSettings = BackgroundSettings()


class DatabaseSettings(Settings):
    """Where that is which must outlive a router replica. One of these.

    Attributes:
        file: SQLite in this file, for a fleet whose router replicas are on one machine. What begins with a dot or a
            tilde is relative to the fleet file.
        url: PostgreSQL, for a cluster: `postgresql://USER@HOST:PORT/NAME`, without a password.
        url_env: The environment variable, of every router replica, that holds such a URL, with the password.
    """

    file: str | None = Field(None, min_length=1)
    url: str | None = Field(None, min_length=1)
    url_env: str | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if sum(value is not None for value in (self.file, self.url, self.url_env)) != 1:
            raise ValueError("give one of `file`, `url` and `url_env`")
        if self.url is not None and check_database_url(self.url).password is not None:
            raise ValueError("url holds a password, and this file is no place for it: put the URL into url_env")
        return self


def check_database_url(text: str) -> SplitResult:
    """The parts of a PostgreSQL database's URL.

    Raises:
        ValueError: It is none. It is not quoted, since it may hold a password.
    """
    problem = "the database's URL is no postgresql://USER@HOST:PORT/NAME"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(problem) from None
    if parts.scheme not in ("postgresql", "postgres") or port == 0 or not parts.hostname or len(parts.path) < 2:
        raise ValueError(problem)
    return parts


class HttpSettings(Settings):
    """The HTTP ingress.

    Attributes:
        host: Address to listen on; `0.0.0.0` for every one.
        port: Port to listen on; the replicas of one node share it.
        hosts: Names that clients may ask for (the Host header), besides those of loopback; `*.example.com` for all
            below one, `*` for every one. Empty: every one, but where `host` is loopback and no key is asked for. There
            only localhost, 127.0.0.1 and [::1] are answered, so that no web page gets in by a name of its own.
        max_body_bytes: A larger request body is refused before it is read.
        max_bodies_bytes: Bytes of all bodies that one router replica reads at a time; past it 503, before reading.
        max_json_depth: A more deeply nested body is refused.
        max_token_ids: A body with more token ids (whole numbers in lists) is refused. For each 100,000 of them every
            other stream of the instance may wait for some 12 ms.
        body_timeout_s: What a client gets to send its body.
        unread_stream_bytes: Bytes that may wait for a client that does not read its stream; past it that stream ends.
        unread_bytes: The same for all streams of one router replica; past it the largest are ended.
        max_connections: Most connections of one router replica; one more is closed with 503.
        max_connections_per_peer: The same of one address, which may be that of a load balancer.
        max_requests_per_connection: After so many its answer closes the connection, so that clients which keep theirs
            find new replicas.
        write_timeout_s: A client that reads nothing for so long is dropped, and its request killed.
        operators: A port of their own for the operators' routes, besides that of the API, where they take the scope
            `admin`; None: there is none.
        tls: The server's certificate; None: it speaks plain HTTP.
        keys: Who may ask.
        api_keys_env: Without a file of keys: the environment variable with the API keys, separated by commas, of one
            tenant that may do everything. None: PENSTOCK_API_KEYS; and if that is not set, no key is asked for.
        secret: What it seals and signs with.
        open: Whether other machines may ask without a key.
        access_log: Where each request leaves a line of JSON, without its content: `stdout` (of the router replica's
            process), the path of a file, or `off`; None: `stdout` where keys are asked for, else `off`.
        session_header: Header that carries a session id.
        cors: Which web pages may call it.
        realtime: Bounds of realtime sessions.
        chat_completions: Bounds of stored chat completions.
        responses: Bounds of stored responses and conversations.
        notice_s: How long a router replica that ends still takes connections, while `/ready` says 503 already: what
            load balancers need to notice.
        drain_s: What the requests that it has get after that. A longer stream is cut.
    """

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    hosts: list[HostName] = []
    max_body_bytes: int = Field(16 * 2**20, ge=1024)
    max_bodies_bytes: int = Field(512 * 2**20, ge=1024)
    max_json_depth: int = Field(100, ge=1)
    max_token_ids: int = Field(MAX_TOKEN_IDS, ge=1)
    body_timeout_s: float = Field(30.0, gt=0)
    unread_stream_bytes: int = Field(8 * 2**20, ge=2**20)
    unread_bytes: int = Field(256 * 2**20, ge=2**20)
    max_connections: int = Field(16_384, ge=1)
    max_connections_per_peer: int = Field(8_192, ge=1)
    max_requests_per_connection: int = Field(10_000, ge=1)
    write_timeout_s: float = Field(60.0, gt=0)
    operators: OperatorSettings | None = None
    tls: TlsSettings | None = None
    keys: KeySettings = KeySettings()
    api_keys_env: str | None = Field(None, min_length=1)
    secret: SecretSettings = SecretSettings()
    open: bool = False
    access_log: str | None = Field(None, min_length=1)
    session_header: str = "x-session-id"
    cors: CorsSettings = CorsSettings()
    realtime: RealtimeSettings = RealtimeSettings()
    chat_completions: ChatCompletionsSettings = ChatCompletionsSettings()
    responses: ResponsesSettings = ResponsesSettings()
    notice_s: float = Field(1.0, ge=0, le=600)
    drain_s: float = Field(30.0, ge=0, le=86_400)

    @property
    def keys_env(self) -> str:
        """The environment variable with the API keys."""
        return KEYS_ENV if self.api_keys_env is None else self.api_keys_env


class FleetSettings(Settings):
    """The whole configured system.

    Attributes:
        name: Name of the Serve application, and namespace of its actors.
        models: What is served.
        autoscaler: Who sets the numbers of replicas that follow the load: a policy in Serve's controller (`serve`), or
            one of the router replicas (`routers`), for clusters whose Serve does not run the policy.
        database: Where that is which must outlive a router replica. None: `penstock serve` makes one of its own on this
            machine; elsewhere there is none.
    """

    name: Label = "penstock"
    models: list[AnyModelSettings] = Field(min_length=1)
    router: RouterSettings = RouterSettings()
    http: HttpSettings = HttpSettings()
    autoscaler: Literal["serve", "routers"] = "serve"
    database: DatabaseSettings | None = None
    channel: ChannelSettings = ChannelSettings()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        seen: set[str] = set()
        for model in self.models:
            for name in model.names:
                if name in seen:
                    raise ValueError(f"two models are called {name!r}")
                seen.add(name)
        return self

    @model_validator(mode="after")
    def _models_are_made_of_others(self) -> Self:
        names = {name: model.name for model in self.models for name in model.names}
        made_of: dict[str, list[str]] = {}
        for model in self.models:
            for member in () if isinstance(model, ModelSettings) else model.members:
                if member not in names:
                    hint = did_you_mean(member, names)
                    raise ValueError(f"{model.name} is made of {member}, which is not in the fleet.{hint}")
                made_of.setdefault(model.name, []).append(names[member])
        try:
            TopologicalSorter(made_of).prepare()
        except CycleError as error:
            # Each one is a member of the next; the last is the first again.
            circle = error.args[1]
            name, member = min(pairwise(reversed(circle)), key=lambda pair: list(made_of).index(pair[0]))
            raise ValueError(f"{name} is made of {member}, which is made of {name}") from None
        return self

    @property
    def deployed(self) -> Sequence[ModelSettings]:
        """The models that have instances in the cluster."""
        return [model for model in self.models if isinstance(model, ModelSettings) and not model.is_remote]

    @property
    def is_scaled(self) -> bool:
        """Whether the number of anything in it follows the load."""
        scaled = [model for model in self.deployed if model.bounds is not None]
        return bool(scaled) or isinstance(self.router.replicas, RouterBounds)

    @property
    def has_policy(self) -> bool:
        """Whether a policy in Serve's controller sets numbers of replicas."""
        return self.is_scaled and self.autoscaler == "serve"

    def named(self, name: str) -> ModelSettings | FallbackSettings | PoolSettings:
        """The model of a name or alias.

        Raises:
            KeyError: There is none.
        """
        for model in self.models:
            if name in (model.name, *model.aliases):
                return model
        raise KeyError(name)
