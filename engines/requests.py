"""What an engine is asked for.

Requests cross borders (HTTP, Serve handles, Ray), so pydantic guards them: unknown keys and wrong types are refused by
name. They are built once per request and never touched per token.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    InstanceOf,
    JsonValue,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from engines.attachments.attachment import Attachment
from engines.errors import InvalidRequest, OtherVocabulary, Unsupported
from engines.messages import Message, NamedToolChoice, Tool, ToolChoice, media_parts
from engines.prefix_chunks import SentChain

TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
# Lists fail at their first wrong item: pydantic would report a million of them one by one, which takes minutes.
TokenIds = Annotated[list[TokenId], Field(fail_fast=True)]
Word = Annotated[str, Field(min_length=1, max_length=1024)]
MAX_CHOICES = 128
MAX_STOP_STRINGS = 64
TEMPLATE_BUDGET = "thinking_budget"
"""What chat templates call the most tokens of thinking."""

# As JSON they are their digests: it is written to tell requests apart.
AttachmentList = Annotated[
    list[InstanceOf[Attachment]],
    Field(repr=False),
    PlainSerializer(lambda many: [one.digest for one in many], when_used="json"),
]

# The fields of a request that may be made of many models.
_MANY: dict[str, TypeAdapter[Any]] = {"messages": TypeAdapter(list[Message]), "tools": TypeAdapter(list[Tool])}


class RequestModel(BaseModel):
    """Base of what crosses borders: unknown fields are refused, and nothing changes once it is built."""

    # NaN and infinity are numbers to Python and to nobody else on the way.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Guided(RequestModel):
    """What the output must look like: exactly one of the fields.

    Attributes:
        json_schema: A JSON schema.
        json_object: Any JSON object.
        regex: A regular expression.
        choice: One of these strings.
        grammar: A context-free grammar (EBNF or Lark, as the engine takes it).
        structural_tag: vLLM's structural tag, as JSON text.
    """

    json_schema: dict[str, JsonValue] | None = None
    json_object: Literal[True] | None = None
    regex: str | None = Field(None, min_length=1)
    choice: Annotated[list[str], Field(fail_fast=True)] | None = Field(None, min_length=1)
    grammar: str | None = Field(None, min_length=1)
    structural_tag: str | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in Guided.model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(Guided.model_fields)}; got {', '.join(given) or 'none'}")
        return self


class Sampling(RequestModel):
    """How tokens are drawn. None means the model's own default.

    Names and meanings are those of OpenAI's and vLLM's APIs.

    Attributes:
        temperature: Divides the logits; 0: always the most likely token.
        top_p: Draws among the most likely tokens whose probabilities add up to this.
        top_k: Draws among so many of the most likely tokens; 0 and -1: among all.
        min_p: Draws among tokens at least this times as likely as the most likely one.
        presence_penalty: Taken off the logit of each token that was generated already.
        frequency_penalty: Taken off it once for each time that it was.
        repetition_penalty: Divides a positive logit, and multiplies a negative one, of each token of prompt and answer.
        seed: Makes the draws of this request reproducible on the same engine.
        stop: Texts that end the answer.
        stop_token_ids: Tokens that end it.
        include_stop_str_in_output: Whether the text that ended it is said.
        bad_words: Texts that are not generated.
        allowed_token_ids: The only tokens that are; None: all.
        logprobs: How many of the most likely tokens to report at each position besides the one drawn; None: report
            nothing; 0: only the one drawn.
        logit_bias: Added to the logits, by token id.
        max_tokens: Most tokens to generate, for each choice; None: what fits the context.
        clip_max_tokens: Whether a `max_tokens` that does not fit the context means what fits, and is no error.
        min_tokens: As long as there are fewer, neither the end of the text nor `stop_token_ids` is drawn.
        ignore_eos: Whether it goes on past the model's own end of the text.
        skip_special_tokens: Whether special tokens are left out of the text.
        spaces_between_special_tokens: Whether they are set apart by spaces where they are not left out.
        n: Number of choices.
        guided: What the output must look like; None: whatever the model says.
    """

    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=2**31 - 1)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stop: list[Word] = Field([], max_length=MAX_STOP_STRINGS, fail_fast=True)
    stop_token_ids: list[TokenId] = Field([], max_length=1024, fail_fast=True)
    include_stop_str_in_output: bool = False
    bad_words: list[Word] = Field([], max_length=1024, fail_fast=True)
    allowed_token_ids: TokenIds | None = Field(None, min_length=1)
    logprobs: int | None = Field(None, ge=0, le=20)
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100, le=100)]] = Field({}, max_length=1024)
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    clip_max_tokens: bool = False
    min_tokens: int = Field(0, ge=0, le=2**31 - 1)
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    guided: Guided | None = None

    @model_validator(mode="after")
    def _min_below_max(self) -> Self:
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens ({self.min_tokens}) is greater than max_tokens ({self.max_tokens})")
        return self


class Session(RequestModel):
    """Sticky dispatch: requests of one session go to the instance that holds its state.

    Attributes:
        id: The caller's own name for the session.
        mode: `hard` re-binds only when the instance is gone; `soft` also gives way to load; None: as the model's
            routing is configured.
    """

    id: str = Field(min_length=1, max_length=512)
    mode: Literal["hard", "soft"] | None = None


class TenantShare(RequestModel):
    """Whom a request is served for, beside others.

    Attributes:
        name: The tenant's.
        weight: Its share of what is scarce, beside the others'.
        cache_salt: Only requests with the same one have their prefixes in common in a cache, and can tell by the time
            that they take what another has asked.
    """

    name: str = Field(min_length=1, max_length=64)
    weight: float = Field(1.0, gt=0)
    cache_salt: str = Field("", max_length=128)


class Thinking(RequestModel):
    """Whether the model thinks before it answers, for models that can be told.

    Attributes:
        enabled: Whether it does. How much, where there is no budget, it decides by itself.
        budget_tokens: Most tokens of it; an engine whose model cannot be told refuses.
    """

    enabled: bool
    budget_tokens: int | None = Field(None, ge=1, le=2**31 - 1)

    @model_validator(mode="after")
    def _enabled_for_a_budget(self) -> Self:
        if self.budget_tokens is not None and not self.enabled:
            raise ValueError("budget_tokens needs thinking to be enabled")
        return self

    def for_template(self, *, reads_budgets: bool = False) -> dict[str, Any]:
        """The same as chat templates take it: by the names that they have for it, of which each knows some.

        Args:
            reads_budgets: Whether the template knows `TEMPLATE_BUDGET`.

        Raises:
            Unsupported: There is a budget, and it does not.
        """
        switches: dict[str, Any] = dict.fromkeys(("enable_thinking", "thinking"), self.enabled)
        if self.budget_tokens is None:
            return switches
        if not reads_budgets:
            raise Unsupported(
                "This model takes no budget of thinking: let it decide by itself.", param="thinking.budget_tokens"
            )
        return {**switches, TEMPLATE_BUDGET: self.budget_tokens}


class Resume(RequestModel):
    """Where to go on: what the request has generated on an instance that died.

    Attributes:
        choices: Of each choice, the ids generated so far; the engine feeds them silently through its detokenizer and
            parsers, and finds out which choices had ended. Empty: it starts over, and is only known to have waited
            already. An engine that cannot go on from them refuses.
        vocabulary: That of the engine which generated them, as it said in `Started`.
    """

    choices: Annotated[list[TokenIds], Field(fail_fast=True, max_length=MAX_CHOICES)] = []
    vocabulary: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to go on from."""
        return not any(self.choices)

    def check_vocabulary(self, vocabulary: str) -> None:
        """Returns if an engine of that vocabulary may go on from the ids.

        Raises:
            OtherVocabulary: They mean something else there.
        """
        if not self.is_empty and self.vocabulary and vocabulary and self.vocabulary != vocabulary:
            raise OtherVocabulary("The answer was begun with another tokenizer than the model has here.")


class GenerateRequest(RequestModel):
    """Asks for generated text: a conversation, a text, or token ids (exactly one of the three).

    Attributes:
        model: Name of the model, as the fleet serves it.
        messages: A conversation, rendered by the model's chat template.
        prompt: A text, taken as it is.
        prompt_token_ids: Token ids, taken as they are.
        sampling: How tokens are drawn.
        tools: Tools that the model may call.
        tool_choice: Whether it may, must, or must use one of them; None means `auto` when there are tools.
        parallel_tool_calls: Whether one answer may hold several calls.
        add_generation_prompt: Ends the rendered conversation with the start of the assistant's turn.
        continue_final_message: Goes on with the last message instead of answering it.
        add_special_tokens: Lets the tokenizer add its own (BOS); None: as vLLM does for that kind of prompt.
        chat_template_kwargs: Passed to the chat template (`enable_thinking`, ...).
        thinking: Whether the model thinks first; None: as it does by itself, or as `reasoning_effort` implies.
        reasoning_effort: Passed to the chat template where it knows it.
        include_reasoning: Whether reasoning is reported; it is generated either way.
        session: Sticky dispatch.
        instance: Direct dispatch: only this instance will do.
        priority: Lower is served first, as vLLM has it; strict between classes. Within one, tenants take turns by what
            they cost, first come first served within a tenant.
        tenant: Set by the ingress or the router only: whom it is for; None: nobody in particular.
        attachments: The data of the parts of `messages` that hold any, in their order, which are empty then; set by
            `engines.operators.attachments`. No attachments: the data is in the parts, as the caller wrote it.
        resume: Set by Migration only.
        alone: Set by a router only: the request may be the end of engines, and an instance runs one such at a time.
        adapter: Set by a router only: the LoRA adapter of the model that answers, by name; None: the model itself.
        prefill_tokens: Set by a router only: how many tokens it expects to be computed before the first one is
            generated; None: it did not reckon.
        prefixes: Set by a router only: by what other prompts begin alike, for the other routers, and for an engine that
            says what it has cached.
    """

    model: str
    messages: Annotated[list[Message], Field(fail_fast=True)] | None = Field(None, min_length=1)
    prompt: str | None = None
    prompt_token_ids: TokenIds | None = Field(None, min_length=1)
    sampling: Sampling = Sampling()
    tools: list[Tool] = Field([], max_length=1024, fail_fast=True)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = True
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool | None = None
    chat_template_kwargs: dict[str, Any] = {}
    thinking: Thinking | None = None
    reasoning_effort: str | None = None
    include_reasoning: bool = True
    session: Session | None = None
    instance: str | None = None
    priority: int = Field(0, ge=-100, le=100)
    tenant: TenantShare | None = None
    attachments: AttachmentList = []
    resume: Resume | None = None
    alone: bool = False
    adapter: str | None = None
    prefill_tokens: int | None = Field(None, ge=0)
    prefixes: SentChain | None = Field(None, repr=False)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        prompts = ("messages", "prompt", "prompt_token_ids")
        given = [name for name in prompts if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(prompts)}; got {', '.join(given) or 'none'}")
        check_attachments(self.messages, self.attachments)
        if self.messages is None and self.tools:
            raise ValueError("tools need messages")
        if self.messages is None and self.thinking is not None:
            raise ValueError("thinking needs messages")
        if self.continue_final_message and self.add_generation_prompt:
            raise ValueError("continue_final_message needs add_generation_prompt to be false")
        if self.resume is not None and len(self.resume.choices) not in (0, self.sampling.n):
            raise ValueError(f"resume has {len(self.resume.choices)} choices, and sampling.n is {self.sampling.n}")
        if not self.tools and (self.tool_choice == "required" or isinstance(self.tool_choice, NamedToolChoice)):
            raise ValueError("tool_choice asks for a tool, and there are no tools")
        if isinstance(self.tool_choice, NamedToolChoice):
            names = [tool.function.name for tool in self.tools]
            if self.tool_choice.function.name not in names:
                raise ValueError(f"tool_choice names {self.tool_choice.function.name!r}; tools: {', '.join(names)}")
        return self

    def __getstate__(self) -> dict[Any, Any]:
        # As plain values: pickling 20,000 messages model by model holds an event loop up for three times as long.
        state = super().__getstate__()
        fields = state["__dict__"]
        given = {name: many for name, many in _MANY.items() if fields[name]}
        plain = {name: many.dump_python(fields[name], exclude_unset=True) for name, many in given.items()}
        return state | {"__dict__": fields | plain}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        fields = state["__dict__"]
        fields |= {name: many.validate_python(fields[name]) for name, many in _MANY.items() if fields[name]}
        super().__setstate__(state)

    @property
    def cache_salt(self) -> str:
        """Its tenant's; empty where there is none."""
        return self.tenant.cache_salt if self.tenant is not None else ""

    @property
    def runs_model(self) -> bool:
        """Whether it is work for the model, as not all calls are."""
        return True

    @property
    def generated(self) -> list[list[int]]:
        """Of each choice, the ids that it goes on from; empty ones where it starts."""
        return (self.resume and self.resume.choices) or [[] for _ in range(self.sampling.n)]

    @property
    def kind(self) -> Literal["messages", "prompt", "prompt_token_ids"]:
        """Which of the three prompts was given."""
        if self.messages is not None:
            return "messages"
        return "prompt" if self.prompt is not None else "prompt_token_ids"


def first_problem(error: ValidationError) -> InvalidRequest:
    """The first of what pydantic found, as an error that names the field."""
    details = error.errors()[0]
    field = ".".join(map(str, details["loc"])) or None
    message = details["msg"].removeprefix("Value error, ")
    return InvalidRequest(f"{field}: {message}." if field else f"{message}.", param=field)


def check_attachments(messages: Sequence[Message] | None, attachments: Sequence[Attachment]) -> None:
    """Lets attachments pass that belong to the parts of messages, or are not there.

    Raises:
        ValueError: There are more or fewer than parts.
    """
    if attachments and len(attachments) != (parts := sum(1 for _ in media_parts(messages or ()))):
        raise ValueError(f"attachments has {len(attachments)}, and messages {parts} parts for them")
