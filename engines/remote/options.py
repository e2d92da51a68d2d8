"""Options of remote engines, as a fleet file gives them."""

from dataclasses import replace
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from engines.contract import Capabilities
from engines.options import EngineOptions


class RemoteCapabilities(BaseModel):
    """What the remote model can do, where that differs from what its kind of engine takes for granted.

    Attributes:
        generate: Generates text; False for a model that makes embeddings only.
        embed: Makes embeddings.
        score: Says how well documents fit a query; only vLLM and Penstock are asked, by the dialect `vllm`.
        pooling: Gives what it pools as it is; likewise.
        tools: Can call tools.
        reasoning: May report reasoning.
        vision, audio, documents: Takes images, recordings, documents.
        guided: Can be held to a schema.
        logprobs: Reports log probabilities.
        context_length: Most tokens of prompt and answer together; None: as the server says, where it does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    generate: bool | None = None
    embed: bool | None = None
    score: bool | None = None
    pooling: bool | None = None
    tools: bool | None = None
    reasoning: bool | None = None
    vision: bool | None = None
    audio: bool | None = None
    documents: bool | None = None
    guided: bool | None = None
    logprobs: bool | None = None
    context_length: int | None = Field(None, ge=1)

    def over(self, defaults: Capabilities) -> Capabilities:
        """The defaults, with what is given here in their place."""
        return replace(defaults, **self.model_dump(exclude_none=True))


class RemoteOptions(EngineOptions):
    """What every remote engine is told.

    Attributes:
        base_url: Where the API is, without a trailing slash; http or https, and no key in it.
        model: The model's name there; None: the name that it has here.
        api_key_env: Name of the environment variable that holds the API key.
        api_key_file: Path of the file that holds it; read again whenever it changes. Without either no key is sent.
        ca_file: Path of a PEM file with the certificates of the authorities to trust, in place of the machine's.
        max_concurrent: Requests under way at a time; the next one is refused with `QueueFull`.
        max_tokens_per_minute: Tokens of prompts and answers in a minute; past it requests end with `RateLimited`
            until there is room. Each router replica counts for itself, when a request is over, and as far as the server
            tells the usage: it holds spending down, and is no exact bill. None: no limit.
        connect_s: Seconds that connecting may take.
        idle_s: Seconds that may pass without a byte from the server; ten times as long between two parts of an answer
            where comments or pings come.
        extra_body: Fields that are put into the body of every generation last, over ours; null takes one out.
        capabilities: What the model can do, where it differs from the defaults.
    """

    # A key that was written where none belongs must not come back in the error.
    model_config = ConfigDict(hide_input_in_errors=True)

    base_url: str
    model: str | None = Field(None, min_length=1)
    api_key_env: str | None = Field(None, min_length=1)
    api_key_file: str | None = Field(None, min_length=1)
    ca_file: str | None = Field(None, min_length=1)
    max_concurrent: int = Field(256, ge=1)
    max_tokens_per_minute: int | None = Field(None, ge=1)
    connect_s: float = Field(10.0, gt=0)
    idle_s: float = Field(120.0, gt=0)
    extra_body: dict[str, JsonValue] = {}
    capabilities: RemoteCapabilities = RemoteCapabilities()

    @field_validator("base_url")
    @classmethod
    def _is_a_url(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise ValueError("it must be a URL of http or https, such as https://api.example.com/v1")
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError("it must have no user, password, query or fragment; keys go into api_key_env")
        return value.rstrip("/")

    @field_validator("extra_body")
    @classmethod
    def _streams(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if "stream" in value:
            raise ValueError("stream cannot be set: every answer is read as a stream")
        return value

    def memory_bytes(self, ranks: int) -> int:
        """Nothing to speak of: the model runs elsewhere."""
        return 0

    @model_validator(mode="after")
    def _endpoints_that_there_are(self) -> Self:
        for name in ("score", "pooling"):
            if getattr(self.capabilities, name) and getattr(self, "dialect", None) != "vllm":
                raise ValueError(f"capabilities.{name}: only servers that are asked with `dialect: vllm` have it")
        return self

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.api_key_env is not None and self.api_key_file is not None:
            raise ValueError("give api_key_env or api_key_file, not both")
        return self


class OpenAIOptions(RemoteOptions):
    """Options of an engine behind an OpenAI-compatible API.

    Attributes:
        base_url: With the version, as OpenAI's own clients take it: `https://api.openai.com/v1`.
        dialect: `openai`: only what OpenAI's API documents is sent. `vllm`: the server is vLLM or Penstock, and takes
            vLLM's fields (`top_k`, `structured_outputs`, `chat_template_kwargs`, ...) and tells token ids.
        max_tokens_field: What the chat API calls the limit of tokens; None: `max_completion_tokens` for `openai`,
            `max_tokens` for `vllm`. Servers that follow OpenAI's older API know `max_tokens` only.
    """

    dialect: Literal["openai", "vllm"] = "openai"
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None


class AzureOptions(RemoteOptions):
    """Options of an engine behind Azure OpenAI.

    Attributes:
        base_url: The resource's endpoint: `https://NAME.openai.azure.com`.
        deployment: Name of the deployment; None: the model's name there.
        api_version: Version of Azure's API.
    """

    deployment: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]{1,64}$")
    api_version: str = Field("2024-10-21", pattern=r"^[A-Za-z0-9.-]{1,40}$")


class AnthropicOptions(RemoteOptions):
    """Options of an engine behind Anthropic's Messages API.

    Attributes:
        base_url: With the version: `https://api.anthropic.com/v1`.
        api_version: The `anthropic-version` that is asked for.
        max_tokens: Most tokens of an answer, without its thinking, where the request sets no limit: the API demands
            one. Such an answer ends with `length`.
        thinking_budgets: Tokens of thinking for each `reasoning_effort`, for models that are told a budget; empty: the
            effort is passed on, and the model decides by itself.
    """

    base_url: str = "https://api.anthropic.com/v1"
    api_version: str = Field("2023-06-01", pattern=r"^[A-Za-z0-9.-]{1,40}$")
    max_tokens: int = Field(8192, ge=1)
    thinking_budgets: dict[str, Annotated[int, Field(ge=1024)]] = {}


class BedrockOptions(AnthropicOptions):
    """Options of an engine behind AWS Bedrock, for Anthropic's models there.

    Without an API key (`api_key_env`, `api_key_file`), requests are signed with the credentials that botocore finds: in
    the environment, in AWS's files, of the container or of the machine.

    Attributes:
        region: AWS region: `eu-central-1`.
        base_url: Where the API is; None: Bedrock's own address in that region.
        model: Id or ARN of the model or of its inference profile; None: the name that it has here.
        api_version: The `anthropic_version` that is asked for.
    """

    packages = {"botocore": "`pip install 'penstock[bedrock]'`"}

    region: str = Field(pattern=r"^[a-z]{2,4}(-[a-z]{2,12}){1,3}-\d{1,2}$")
    base_url: str = ""
    api_version: str = Field("bedrock-2023-05-31", pattern=r"^[A-Za-z0-9.-]{1,40}$")

    @model_validator(mode="before")
    @classmethod
    def _in_the_region(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("base_url") is None:
            return {**data, "base_url": f"https://bedrock-runtime.{data.get('region')}.amazonaws.com"}
        return data
