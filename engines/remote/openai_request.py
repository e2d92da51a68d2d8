"""Our requests as bodies of OpenAI's API, and of what vLLM adds to it."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from engines.attachments.beside import check_kinds
from engines.contract import Capabilities
from engines.errors import Unsupported
from engines.requests import GenerateRequest, Guided, Sampling, Thinking

Dialect = Literal["openai", "vllm"]

# In OpenAI's API by the same names, and left out where they ask for nothing.
_PLAIN = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "stop", "n")
# In vLLM's only, with the values that ask for nothing.
_VLLM: Mapping[str, tuple[Any, ...]] = {
    "top_k": (None, 0, -1),
    "min_p": (None, 0),
    "repetition_penalty": (None, 1),
    "stop_token_ids": ([],),
    "include_stop_str_in_output": (False,),
    "bad_words": ([],),
    "allowed_token_ids": (None,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
}
_VLLM_REQUEST: Mapping[str, tuple[Any, ...]] = {"add_special_tokens": (None,)}
_VLLM_CHAT: Mapping[str, tuple[Any, ...]] = {
    **_VLLM_REQUEST,
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "chat_template_kwargs": ({},),
}
_DEFAULTS = Sampling()

_FIRST_WORD = re.compile(r"[A-Za-z_]+")
_GUIDED = ("response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar")
_OUR_NAMES = {
    "max_completion_tokens": "sampling.max_tokens",
    "top_logprobs": "sampling.logprobs",
    "input": "inputs",
    "tokens": "token_ids",
    **dict.fromkeys(_GUIDED, "sampling.guided"),
}


class OpenAIRequests:
    """Writes requests as one server takes them.

    `priority`, `session`, `instance` and `alone` say where and when a request is served, which is settled by the time
    that it comes here; everything else is sent, or refused by our name of it.

    Args:
        dialect: Whether the server knows what vLLM adds.
        capabilities: What the model can do.
        model: The model's name there.
        chat_max_tokens: What its chat API calls the limit of tokens.
    """

    def __init__(self, dialect: Dialect, capabilities: Capabilities, model: str, chat_max_tokens: str) -> None:
        self._vllm = dialect == "vllm"
        self._capabilities = capabilities
        self._model = model
        self._chat_max_tokens = chat_max_tokens

    def chat(self, request: GenerateRequest) -> dict[str, Any]:
        """The body for `/chat/completions`.

        Raises:
            Unsupported: The server cannot take a field of the request.
        """
        body = self._common(request)
        body["messages"] = self._messages(request)
        if request.tools:
            if not self._capabilities.tools:
                raise Unsupported("This model has no tools.", param="tools")
            body["tools"] = [tool.for_template() for tool in request.tools]
            if request.tool_choice is not None:
                choice = request.tool_choice
                body["tool_choice"] = choice if isinstance(choice, str) else choice.model_dump()
            if not request.parallel_tool_calls:
                body["parallel_tool_calls"] = False
        if request.reasoning_effort is not None:
            body["reasoning_effort"] = request.reasoning_effort
        if request.thinking is not None:
            body.update(self._thinking(request.thinking, request.chat_template_kwargs))
        if self._vllm and not request.include_reasoning:
            body["include_reasoning"] = False
        body = self._vllm_fields(request, _VLLM_CHAT, "") | body
        sampling = request.sampling
        if sampling.max_tokens is not None:
            body[self._chat_max_tokens] = sampling.max_tokens
        if sampling.logprobs is not None:
            body["logprobs"] = True
            body["top_logprobs"] = sampling.logprobs
        return body

    def completion(self, request: GenerateRequest) -> dict[str, Any]:
        """The body for `/completions`: a prompt of text or of token ids.

        Raises:
            Unsupported: The server cannot take a field of the request.
        """
        if request.reasoning_effort is not None:
            raise Unsupported("Only a conversation takes a reasoning effort.", param="reasoning_effort")
        if request.chat_template_kwargs:
            raise Unsupported("Only a conversation has a chat template.", param="chat_template_kwargs")
        body = self._common(request)
        prompt = request.prompt_token_ids if request.prompt is None else request.prompt
        body["prompt"] = prompt
        body.update(self._vllm_fields(request, _VLLM_REQUEST, ""))
        max_tokens = request.sampling.max_tokens
        if max_tokens is None:
            # This API's default are 16 tokens, and ours is what fits.
            length = self._capabilities.context_length
            if request.prompt_token_ids is None or not length:
                raise Unsupported("A prompt without a conversation needs max_tokens here.", param="sampling.max_tokens")
            max_tokens = max(1, length - len(request.prompt_token_ids), request.sampling.min_tokens)
        body["max_tokens"] = max_tokens
        if request.sampling.logprobs is not None:
            body["logprobs"] = request.sampling.logprobs
        return body

    def _common(self, request: GenerateRequest) -> dict[str, Any]:
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self._model,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for name in _PLAIN:
            value = getattr(sampling, name)
            if value != getattr(_DEFAULTS, name):
                body[name] = value
        if sampling.logit_bias:
            body["logit_bias"] = {str(token_id): bias for token_id, bias in sampling.logit_bias.items()}
        if sampling.logprobs is not None and not self._capabilities.logprobs:
            raise Unsupported("This model reports no log probabilities.", param="sampling.logprobs")
        body.update(self._vllm_fields(sampling, _VLLM, "sampling."))
        if sampling.guided is not None:
            body.update(self._constraint(sampling.guided, is_chat=request.messages is not None))
        if self._vllm:
            body["return_token_ids"] = True
        return body

    def _vllm_fields(self, source: Any, names: Mapping[str, tuple[Any, ...]], prefix: str) -> dict[str, Any]:
        """What is not left at what asks for nothing, of the fields that only vLLM has."""
        given = {name: value for name, neutral in names.items() if (value := getattr(source, name)) not in neutral}
        for name in () if self._vllm else given:
            raise Unsupported(f"The server behind this model does not support {name}.", param=f"{prefix}{name}")
        return given

    def _thinking(self, thinking: Thinking, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        # A budget is refused: what a chat template there does not read, vLLM leaves out in silence.
        switches = thinking.for_template()
        if self._vllm:
            return {"chat_template_kwargs": {**switches, **kwargs}}
        # Where it is not told to think, or how much, it decides by itself.
        return {} if thinking.enabled else {"reasoning_effort": "none"}

    def _constraint(self, guided: Guided, *, is_chat: bool) -> dict[str, Any]:
        if not self._capabilities.guided:
            raise Unsupported("The output of this model cannot be constrained.", param="sampling.guided")
        if is_chat or self._vllm:
            if guided.json_object:
                return {"response_format": {"type": "json_object"}}
            if guided.json_schema is not None:
                # Without `strict` OpenAI's models may leave the schema, and nobody would say so.
                schema = {"name": "answer", "schema": guided.json_schema, "strict": True}
                return {"response_format": {"type": "json_schema", "json_schema": schema}}
        ((kind, value),) = guided.model_dump(exclude_none=True).items()
        if not self._vllm:
            raise Unsupported(f"The server behind this model does not support {kind}.", param="sampling.guided")
        return {"structured_outputs": {kind: value}}

    def _messages(self, request: GenerateRequest) -> list[dict[str, Any]]:
        messages = request.messages or []
        check_kinds(messages, self._capabilities)
        made = [message.for_template() for message in messages]
        if not self._vllm:
            for message in made:
                # OpenAI's API has no word for a call that failed; the answer itself says so.
                message.pop("is_error", None)
        return made


def our_param(theirs: str) -> str | None:
    """Our name of a field of OpenAI's API."""
    found = _FIRST_WORD.match(theirs)
    if found is None:
        return None
    word = found[0]
    if word in _GUIDED:
        return _OUR_NAMES[word]
    if word in Sampling.model_fields:
        word = f"sampling.{word}"
    return _OUR_NAMES.get(found[0], word) + theirs[found.end() :]
