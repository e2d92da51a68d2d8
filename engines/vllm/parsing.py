"""Tool calls and reasoning, read out of the text by vLLM's own parsers."""

from collections.abc import Sequence
from typing import Any, cast

from vllm.entrypoints.generate.base.protocol import DeltaMessage, DeltaToolCall
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.outputs import CompletionOutput
from vllm.parser import Parser, ParserManager
from vllm.parser.abstract_parser import DelegatingParser
from vllm.renderers.chat_utils import make_tool_call_id

from engines.events import (
    ReasoningDelta,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallFinished,
    ToolCallStarted,
)
from engines.requests import GenerateRequest
from engines.vllm.options import VllmOptions
from engines.vllm.rendering import Rendered
from engines.vllm.sampling import guided_field
from engines.vllm.streaming import Emit, VllmChoice


class Parsing:
    """Makes the choices of the requests to one model: with parsers where they have anything to read."""

    def __init__(self, llm: Any, options: VllmOptions, full: type[Parser] | None) -> None:
        """Takes the parser of tool calls and reasoning together, as vLLM's renderer composed it."""
        self._model_config = llm.model_config
        self._tokenizer = llm.renderer.tokenizer
        self._full = full
        # Requests without tools are spared the search for calls. Harmony has one parser for everything, whose class
        # vLLM configures in place: composing it again would change the first.
        self._without_tools = (
            full
            if llm.model_config.hf_config.model_type == "gpt_oss"
            else ParserManager.get_parser(
                reasoning_parser_name=options.reasoning_parser, model_name=llm.model_config.model
            )
        )

    def parser(self, rendered: Rendered) -> Parser | None:
        """A new parser for the answer to a prompt, or None where there is nothing to read out of it."""
        chat = rendered.chat
        if chat is None:
            return None
        parser_class = self._full if chat.tools else self._without_tools
        if parser_class is None:
            return None
        return parser_class(
            self._tokenizer,
            chat.tools,
            chat_template_kwargs=rendered.chat_template_kwargs,
            model_config=self._model_config,
        )

    def choices(self, request: GenerateRequest, rendered: Rendered) -> list[VllmChoice]:
        """The choices of a request, by index."""
        top_logprobs = request.sampling.logprobs
        choices: list[VllmChoice] = []
        for index in range(request.sampling.n):
            parser = self.parser(rendered)
            if parser is None:
                choices.append(VllmChoice(index, top_logprobs))
            else:
                assert rendered.chat is not None
                choices.append(
                    ParsedChoice(
                        index,
                        top_logprobs,
                        parser,
                        rendered.chat,
                        rendered.token_ids,
                        include_reasoning=request.include_reasoning,
                    )
                )
        guided = request.sampling.guided
        # Where it goes on from ids that do not fit, that is not its caller's mistake.
        is_fresh = request.resume is None or request.resume.is_empty
        if is_fresh and (guided is not None or rendered.overrides.get("structured_outputs") is not None):
            held_by = "tools" if guided is None else guided_field(guided)
            for choice in choices:
                choice.held_by = held_by
        return choices


class ParsedChoice(VllmChoice):
    """A choice whose text is read by a parser."""

    __slots__ = (
        "_arguments",
        "_calls",
        "_chat",
        "_in_reasoning",
        "_include_reasoning",
        "_open",
        "_parser",
        "_plain_after_reasoning",
        "_prompt_token_ids",
        "_silent",
    )

    def __init__(
        self,
        index: int,
        top_logprobs: int | None,
        parser: Parser,
        chat: ChatCompletionRequest,
        prompt_token_ids: list[int],
        *,
        include_reasoning: bool,
    ) -> None:
        super().__init__(index, top_logprobs)
        self._parser: Parser | None = parser
        self._chat = chat
        self._prompt_token_ids = prompt_token_ids
        self._include_reasoning = include_reasoning
        # Tokens that said nothing belong to the reasoning when it goes on after them.
        self._in_reasoning = False
        self._silent = 0
        # Once reasoning has ended and no tool can be called, the rest is the answer as it is.
        self._plain_after_reasoning = isinstance(parser, DelegatingParser) and parser.tool_parser is None
        # Calls by the parser's index, the open one, and the pieces of arguments that it had so far.
        self._calls: dict[int, int] = {}
        self._open: int | None = None
        self._arguments = 0

    def take(self, output: CompletionOutput, emit: Emit) -> None:
        """Emits what the parser reads out of the output."""
        ids = output.token_ids
        if self._is_plain():
            if self._in_reasoning:
                if not self._include_reasoning:
                    self._hide_logprobs(is_reasoning=False)
                self._in_reasoning = False
            super().take(output, emit)
            return
        finished = output.finish_reason is not None
        if ids or output.text or finished:
            self.tokens += len(ids)
            self._pending.extend(ids)
            if self._top is not None:
                self._add_logprobs(output)
            self._parse(output.text, ids, finished, emit)
        if finished:
            self._end(cast("str", output.finish_reason), output.stop_reason, emit)

    def _is_plain(self) -> bool:
        return self._plain_after_reasoning and cast("Any", self._parser)._stream_state.reasoning_ended

    def _parse(self, text: str, ids: Sequence[int], finished: bool, emit: Emit) -> None:
        assert self._parser is not None
        message = self._parser.parse_delta(
            delta_text=text,
            delta_token_ids=list(ids),
            request=self._chat,
            prompt_token_ids=self._prompt_token_ids,
            finished=finished,
        )
        if message is None or not (message.reasoning or message.content or message.tool_calls):
            self._silent += len(ids)
            return
        if not self._include_reasoning:
            self._hide_logprobs(is_reasoning=bool(message.reasoning))
        if message.reasoning:
            self.reasoning_tokens += len(ids) + (self._silent if self._in_reasoning else 0)
        self._in_reasoning = bool(message.reasoning)
        self._silent = 0
        self._read(message, emit)

    def _hide_logprobs(self, *, is_reasoning: bool) -> None:
        """Drops the log probabilities of reasoning that is not reported, and of its end mark; the ids travel on."""
        if is_reasoning:
            self._logprobs.clear()
        elif self._in_reasoning:
            del self._logprobs[: self._silent]

    def _read(self, message: DeltaMessage, emit: Emit) -> None:
        if message.reasoning and self._include_reasoning:
            emit(ReasoningDelta(message.reasoning, self.index, self._claim(), self._claim_logprobs()))
        if message.content:
            emit(TextDelta(message.content, self.index, self._claim(), self._claim_logprobs()))
        for call in message.tool_calls or ():
            # As vLLM's server does: of calls in parallel, where they are not wanted, the first counts.
            if self._chat.parallel_tool_calls or call.index == 0:
                self._read_call(call, emit)

    def _read_call(self, delta: DeltaToolCall, emit: Emit) -> None:
        function = delta.function
        call = self._calls.get(delta.index)
        if call is None:
            if function is None or not function.name:
                return
            self._close_call(emit)
            call = self._calls[delta.index] = self._open = len(self._calls)
            # Log probabilities belong to text: those of a call's tokens have no place in the API.
            self._logprobs.clear()
            emit(ToolCallStarted(call, delta.id or make_tool_call_id(), function.name, self.index, self._claim()))
        if function is not None and function.arguments:
            self._arguments += 1
            self._logprobs.clear()
            emit(ToolCallArgumentsDelta(call, function.arguments, self.index, self._claim()))

    def _close_call(self, emit: Emit) -> None:
        if self._open is not None:
            emit(ToolCallFinished(self._open, self.index, self._claim()))
            self._open = None
            self._arguments = 0

    def _end(self, reason: str, stop_reason: int | str | None, emit: Emit) -> None:
        if self._open is not None and not self._arguments and reason == "stop":
            # A call without arguments is one with an empty object, for every reader of JSON.
            emit(ToolCallArgumentsDelta(self._open, "{}", self.index, self._claim()))
        self._close_call(emit)
        if not self._include_reasoning:
            self._hide_logprobs(is_reasoning=self._in_reasoning)
        super()._end(reason, stop_reason, emit)
        if self._calls and self.reason == "stop":
            self.reason = "tool_calls"
        # A parser holds the whole text, some of them in a cycle.
        self._parser = None
