"""From a request to token ids, by vLLM's own renderer and the model's chat template."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.renderers import TokenizeParams
from vllm.renderers.inputs.preprocess import extract_prompt_components, parse_model_prompt
from vllm.renderers.online_renderer import OnlineRenderer

from engines.attachments.attachment import Attachment
from engines.attachments.beside import check_kinds, with_data
from engines.attachments.images import check_image
from engines.attachments.reader import AttachmentReader
from engines.call_requests import TokenizeRequest
from engines.contract import Capabilities
from engines.errors import AttachmentRefused, InvalidRequest, Unsupported
from engines.messages import ImagePart, Message, NamedToolChoice, Tool, ToolChoice, media_parts
from engines.pooling_requests import TruncationSide
from engines.requests import TEMPLATE_BUDGET, GenerateRequest, Guided
from engines.vllm.caching_renderer import caching
from engines.vllm.failures import refusal
from engines.vllm.options import VllmOptions
from engines.vllm.sampling import guided_field, structured_outputs


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as the engine takes it.

    Attributes:
        engine_input: vLLM's own form of it.
        token_ids: Its token ids.
        chat: The request as vLLM's parsers read it, for conversations only.
        chat_template_kwargs: What the chat template was given.
        overrides: Sampling parameters that the model's parsers insist on.
    """

    engine_input: dict[str, Any]
    token_ids: list[int]
    chat: ChatCompletionRequest | None
    chat_template_kwargs: dict[str, Any]
    overrides: dict[str, Any]


class Rendering:
    """Renders the prompts of one model. Long texts are tokenized off the event loop, by vLLM's renderer."""

    def __init__(self, llm: Any, options: VllmOptions, chat_template: str | None) -> None:
        self._model_config = llm.model_config
        self._renderer = llm.renderer
        self._tools = options.tool_parser is not None
        # Of other kinds no model that is served here has been tried.
        self._kinds = Capabilities(vision=_sees(llm))
        self._reader = AttachmentReader()
        template = chat_template or getattr(llm.renderer.tokenizer, "chat_template", None)
        self._reads_budgets = isinstance(template, str) and TEMPLATE_BUDGET in template
        renderer = caching(llm.renderer, options.token_cache_bytes, chat_template, options.chat_template_kwargs)

        def online(tool_strict_level: str) -> OnlineRenderer:
            return OnlineRenderer(
                llm.model_config,
                renderer,
                request_logger=None,
                chat_template=chat_template,
                chat_template_content_format="auto",
                enable_auto_tools=self._tools,
                tool_parser=options.tool_parser,
                reasoning_parser=options.reasoning_parser,
                default_chat_template_kwargs=options.chat_template_kwargs,
                tool_strict_level=tool_strict_level,
            )

        self.online = online("auto")
        # vLLM holds the arguments of a call that it forces to their schema only where the tool says `strict`: without,
        # they may be no object. Harmony's one parser class cannot be had twice.
        is_harmony = llm.model_config.hf_config.model_type == "gpt_oss"
        self._forcing = online("parameter") if self._tools and not is_harmony else self.online

    @property
    def vision(self) -> bool:
        """Whether the model takes images."""
        return self._kinds.vision

    async def generate(self, request: GenerateRequest) -> Rendered:
        """The prompt of a request.

        Raises:
            InvalidRequest: It cannot be rendered; ContextOverflow when it is longer than the context.
        """
        if request.messages is None:
            prompt = request.prompt if request.prompt is not None else request.prompt_token_ids
            assert prompt is not None
            return await self._text(prompt, request.kind, request.add_special_tokens, cache_salt=request.cache_salt)
        if request.tools and request.tool_choice != "none" and not self._tools:
            raise Unsupported(f"The model {request.model!r} does not call tools.", param="tools")
        return await self._chat(
            request.messages,
            request.attachments,
            request.tools,
            request.tool_choice,
            request.sampling.guided,
            {
                "add_generation_prompt": request.add_generation_prompt,
                "continue_final_message": request.continue_final_message,
                "add_special_tokens": bool(request.add_special_tokens),
                "chat_template_kwargs": self._template_kwargs(request),
                "reasoning_effort": request.reasoning_effort,
                "parallel_tool_calls": request.parallel_tool_calls,
                "skip_special_tokens": request.sampling.skip_special_tokens,
                "spaces_between_special_tokens": request.sampling.spaces_between_special_tokens,
                "n": request.sampling.n,
            },
            cache_salt=request.cache_salt,
        )

    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        """The token ids of a text or conversation.

        Raises:
            InvalidRequest: As `generate`.
        """
        if request.messages is None:
            assert request.prompt is not None
            return (await self._text(request.prompt, "prompt", request.add_special_tokens)).token_ids
        rendered = await self._chat(
            request.messages,
            request.attachments,
            request.tools,
            "none",
            None,
            {
                "add_generation_prompt": request.add_generation_prompt,
                "continue_final_message": request.continue_final_message,
                "add_special_tokens": bool(request.add_special_tokens),
                "chat_template_kwargs": self._template_kwargs(request),
            },
            cache_salt=request.cache_salt,
        )
        return rendered.token_ids

    async def tokens(self, token_ids: list[int]) -> list[str]:
        """Each token as the vocabulary has it, which need not be text."""
        return cast("list[str]", await asyncio.to_thread(self._renderer.tokenizer.convert_ids_to_tokens, token_ids))

    async def detokenize(self, token_ids: list[int]) -> str:
        """The text of token ids.

        Raises:
            InvalidRequest: An id is not in the vocabulary.
        """
        try:
            self._renderer.validate_token_ids(token_ids)
        except Exception as error:
            raise refusal(error, param="token_ids", context_length=self._model_config.max_model_len) from error
        return cast("str", await asyncio.to_thread(self._renderer.tokenizer.decode, token_ids))

    async def pooling_input(
        self,
        text: str | list[int],
        param: str,
        truncate_prompt_tokens: int | None,
        truncation_side: TruncationSide | None = None,
        *,
        add_special_tokens: bool | None = None,
        cache_salt: str,
    ) -> Rendered:
        """One input of a pooling model.

        Raises:
            InvalidRequest: As `generate`.
        """
        return await self._text(
            text, param, add_special_tokens, truncate_prompt_tokens, truncation_side, cache_salt=cache_salt
        )

    def _template_kwargs(self, request: GenerateRequest | TokenizeRequest) -> dict[str, Any]:
        """What the chat template is given.

        Raises:
            Unsupported: There is a budget of thinking, which this one does not read.
        """
        thinking = request.thinking
        asked = {} if thinking is None else thinking.for_template(reads_budgets=self._reads_budgets)
        return asked | request.chat_template_kwargs

    async def _text(
        self,
        prompt: str | list[int],
        param: str,
        add_special_tokens: bool | None,
        truncate_prompt_tokens: int | None = None,
        truncation_side: TruncationSide | None = None,
        cache_salt: str = "",
    ) -> Rendered:
        try:
            (engine_input,) = await self._renderer.render_cmpl_async(
                [parse_model_prompt(self._model_config, prompt)],
                TokenizeParams(
                    max_total_tokens=self._model_config.max_model_len,
                    add_special_tokens=add_special_tokens is not False,
                    truncate_prompt_tokens=truncate_prompt_tokens,
                    truncation_side=truncation_side,
                ),
            )
        except Exception as error:
            raise refusal(error, param=param, context_length=self._model_config.max_model_len) from error
        return self._rendered(engine_input, None, {}, {}, cache_salt)

    async def _chat(
        self,
        messages: Sequence[Message],
        attachments: Sequence[Attachment],
        tools: Sequence[Tool],
        tool_choice: ToolChoice | None,
        guided: Guided | None,
        fields: dict[str, Any],
        cache_salt: str = "",
    ) -> Rendered:
        check_kinds(messages, self._kinds)
        if not attachments:
            attachments = await self._reader.read(messages)
        # Shapes and names are right already: what vLLM refuses when it reads the request is the constraint.
        param = "messages" if guided is None else guided_field(guided)
        asked: dict[str, Any] = {"messages": await _for_vllm(messages, attachments, cache_salt)} | fields
        if cache_salt:
            asked["cache_salt"] = cache_salt
        if tools:
            asked["tools"] = [tool.for_template() for tool in tools]
            asked["tool_choice"] = _tool_choice(tool_choice)
        if guided is not None:
            asked["structured_outputs"] = structured_outputs(guided)
        try:
            chat = ChatCompletionRequest.model_validate(asked)
            param = "messages"
            before = chat.skip_special_tokens, chat.spaces_between_special_tokens
            kwargs = self.online.effective_chat_template_kwargs(chat)
            forced = tools and (tool_choice == "required" or isinstance(tool_choice, NamedToolChoice))
            result = await (self._forcing if forced else self.online).render_chat(chat)
        except Exception as error:
            await _check_images(messages, attachments)
            raise refusal(error, param=param, context_length=self._model_config.max_model_len) from error
        if isinstance(result, ErrorResponse):
            raise InvalidRequest(result.error.message, param=result.error.param or "messages")
        _, (engine_input,) = result
        overrides: dict[str, Any] = {"structured_outputs": chat.extract_structured_outputs()}
        if (chat.skip_special_tokens, chat.spaces_between_special_tokens) != before:
            overrides["skip_special_tokens"] = chat.skip_special_tokens
            overrides["spaces_between_special_tokens"] = chat.spaces_between_special_tokens
        return self._rendered(engine_input, chat, kwargs, overrides, cache_salt)

    def _rendered(
        self,
        engine_input: dict[str, Any],
        chat: ChatCompletionRequest | None,
        kwargs: dict[str, Any],
        overrides: dict[str, Any],
        cache_salt: str,
    ) -> Rendered:
        if cache_salt:
            engine_input["cache_salt"] = cache_salt
        token_ids = extract_prompt_components(self._model_config, engine_input).token_ids
        return Rendered(engine_input, cast("list[int]", token_ids), chat, kwargs, overrides)


def _sees(llm: Any) -> bool:
    """Whether a model takes images."""
    return (
        bool(llm.model_config.is_multimodal_model)
        and "image" in llm.renderer.get_mm_processor().info.supported_mm_limits
    )


async def _for_vllm(
    messages: Sequence[Message], attachments: Sequence[Attachment], cache_salt: str
) -> list[dict[str, Any]]:
    """The messages for vLLM's renderer, which fetches what is no data URL: it sees those only that are made here."""
    asked = [message.for_template() for message in await with_data(messages, attachments)]
    remaining = iter(attachments)
    for message in asked:
        for part in message["content"] if isinstance(message.get("content"), list) else ():
            if part["type"] == ImagePart.model_fields["type"].default:
                part["image_url"] = {"url": part["image_url"]["url"]}
                attachment = next(remaining)
                if cache_salt:
                    # By this vLLM knows an image again whose vectors it still has; told nothing, by its content.
                    part["uuid"] = hashlib.sha256(f"{cache_salt}/{attachment.digest}".encode()).hexdigest()
    return asked


async def _check_images(messages: Sequence[Message], attachments: Sequence[Attachment]) -> None:
    """Returns if every image can be decoded: what vLLM complains of is something else, then.

    Raises:
        AttachmentRefused: One is broken behind its head, which is all that was read before; names it.
    """
    for (param, part), attachment in zip(media_parts(messages), attachments, strict=False):
        try:
            await asyncio.to_thread(check_image, attachment.data, attachment.media_type)
        except AttachmentRefused as error:
            error.param = f"{param}.{part.place}"
            raise


def _tool_choice(choice: ToolChoice | None) -> str | dict[str, Any]:
    if isinstance(choice, NamedToolChoice):
        return choice.model_dump()
    return choice or "auto"
