"""Our requests as bodies of Anthropic's Messages API."""

import re
from collections.abc import Mapping
from typing import Any

from engines.contract import Capabilities
from engines.errors import Unsupported
from engines.messages import NamedToolChoice
from engines.remote.anthropic_messages import system_and_messages
from engines.requests import GenerateRequest, Sampling

# What the API does not have, with the values that ask for nothing.
_SAMPLING: Mapping[str, tuple[Any, ...]] = {
    "min_p": (None, 0),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (None, 1),
    "seed": (None,),
    "stop_token_ids": ([],),
    "include_stop_str_in_output": (False,),
    "bad_words": ([],),
    "allowed_token_ids": (None,),
    "logprobs": (None,),
    "logit_bias": ({},),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "n": (1,),
}
_REQUEST: Mapping[str, tuple[Any, ...]] = {
    "prompt": (None,),
    "prompt_token_ids": (None,),
    "add_special_tokens": (None,),
    "chat_template_kwargs": ({},),
}
_OUR_NAMES = {
    "stop_sequences": "sampling.stop",
    "output_config": "sampling.guided",
    "thinking": "reasoning_effort",
    "system": "messages",
}
_FIRST_WORD = re.compile(r"[A-Za-z_]+")


def message_body(
    request: GenerateRequest,
    capabilities: Capabilities,
    *,
    model: str,
    max_tokens: int,
    thinking_budgets: Mapping[str, int],
) -> dict[str, Any]:
    """The body for `/messages`.

    Args:
        request: What is asked.
        capabilities: What the model can do.
        model: Its name there.
        max_tokens: Most tokens of an answer where the request sets no limit: the API demands one.
        thinking_budgets: Tokens of thinking by `reasoning_effort`; empty: the model decides by itself.

    Raises:
        Unsupported: The API cannot take a field of the request.
        InvalidRequest: Something in the conversation cannot be written as the API has it.
    """
    _refuse_unknown(request)
    assert request.messages is not None  # The two other prompts are refused.
    system, messages = system_and_messages(request.messages, vision=capabilities.vision)
    sampling = request.sampling
    body: dict[str, Any] = {"model": model, "messages": messages, "stream": True}
    if system:
        body["system"] = system
    for ours, theirs in (("temperature", "temperature"), ("top_p", "top_p"), ("stop", "stop_sequences")):
        value = getattr(sampling, ours)
        if value not in (None, []):
            body[theirs] = value
    if sampling.top_k not in (None, 0, -1):
        body["top_k"] = sampling.top_k
    if request.tools:
        body.update(_tools(request, capabilities))
    thinking = _thinking(request, thinking_budgets)
    usual = max_tokens + _budget(thinking)
    body["max_tokens"] = sampling.max_tokens or usual
    if sampling.clip_max_tokens:
        # What fits is not known here; the API refuses more than its model can say.
        body["max_tokens"] = min(body["max_tokens"], usual)
    output = dict(_format(sampling, capabilities))
    if thinking.get("type") == "adaptive" and request.reasoning_effort is not None:
        output["effort"] = request.reasoning_effort
    if thinking:
        body["thinking"] = thinking
    if output:
        body["output_config"] = output
    return body


def our_param(theirs: str) -> str | None:
    """Our name of a field of Anthropic's API."""
    found = _FIRST_WORD.match(theirs)
    if found is None:
        return None
    word = found[0]
    return _OUR_NAMES.get(word, f"sampling.{word}" if word in Sampling.model_fields else theirs)


def _budget(thinking: Mapping[str, Any]) -> int:
    """The tokens that thinking takes of `max_tokens`, where they are known."""
    budget: int = thinking.get("budget_tokens", 0)
    return budget


def _refuse_unknown(request: GenerateRequest) -> None:
    for source, names, prefix in ((request, _REQUEST, ""), (request.sampling, _SAMPLING, "sampling.")):
        for name, neutral in names.items():
            if getattr(source, name) not in neutral:
                raise Unsupported(f"The API behind this model does not support {name}.", param=f"{prefix}{name}")
    # A last message of the assistant is what the API goes on with, and nothing else.
    is_assistants = request.messages is not None and request.messages[-1].role == "assistant"
    if request.continue_final_message != is_assistants:
        raise Unsupported(
            "The API behind this model goes on with the last message exactly where it is the assistant's.",
            param="continue_final_message",
        )
    if not (request.add_generation_prompt or request.continue_final_message):
        raise Unsupported("The API behind this model always answers.", param="add_generation_prompt")


def _tools(request: GenerateRequest, capabilities: Capabilities) -> dict[str, Any]:
    if not capabilities.tools:
        raise Unsupported("This model has no tools.", param="tools")
    tools = []
    for tool in request.tools:
        function = tool.function
        made: dict[str, Any] = {"name": function.name}
        if function.description is not None:
            made["description"] = function.description
        made["input_schema"] = function.parameters or {"type": "object", "properties": {}}
        if function.strict is not None:
            made["strict"] = function.strict
        tools.append(made)
    asked = request.tool_choice
    choice: dict[str, Any] = {"type": "auto"}
    if isinstance(asked, NamedToolChoice):
        choice = {"type": "tool", "name": asked.function.name}
    elif asked is not None:
        choice = {"type": {"required": "any"}.get(asked, asked)}
    if not request.parallel_tool_calls and asked != "none":
        choice["disable_parallel_tool_use"] = True
    return {"tools": tools, "tool_choice": choice}


def _thinking(request: GenerateRequest, budgets: Mapping[str, int]) -> dict[str, Any]:
    effort, thinking = request.reasoning_effort, request.thinking
    if thinking is not None and thinking.budget_tokens is not None:
        return {"type": "enabled", "budget_tokens": thinking.budget_tokens}
    if thinking is None and effort is None:
        return {}
    if effort == "none" or (thinking is not None and not thinking.enabled):
        return {"type": "disabled"}
    if not budgets:
        return {"type": "adaptive", "display": "summarized" if request.include_reasoning else "omitted"}
    if effort is None:
        raise Unsupported("This model takes a budget of thinking: give one.", param="thinking.budget_tokens")
    if effort not in budgets:
        known = ", ".join(("none", *budgets))
        raise Unsupported(f"The reasoning efforts of this model are: {known}.", param="reasoning_effort")
    return {"type": "enabled", "budget_tokens": budgets[effort]}


def _format(sampling: Sampling, capabilities: Capabilities) -> dict[str, Any]:
    guided = sampling.guided
    if guided is None:
        return {}
    if guided.json_schema is None or not capabilities.guided:
        raise Unsupported("This model can be held to a JSON schema at most.", param="sampling.guided")
    return {"format": {"type": "json_schema", "schema": guided.json_schema}}
