"""Chunks of a streamed answer: the part that both completion APIs share.

The constant part of a chunk is put together once per choice; a token adds its escaped text and nothing else. All chunks
are ASCII text, which costs nothing to encode.
"""

import json
from collections.abc import Awaitable, Callable
from json.encoder import encode_basestring_ascii as quoted

from deployments.http.openai.usage import usage_body
from deployments.http.openai_common.error_body import error_json
from deployments.http.server.stream_format import ChoiceFormat, Extras, StreamFormat, StreamReport
from engines.errors import PenstockError
from engines.events import Usage

DONE = "data: [DONE]\n\n"


class CompletionStream(StreamFormat):
    """What the chunks of one answer have in common.

    Args:
        id: Id of the answer.
        object: The API's word for a chunk.
        model: Name of the model, as the caller wrote it.
        created_s: Unix time of the request.
        report: What is reported besides the answer.
        request_id: Id of the request, which an error names.
        keep: Stores the answer once it has ended well; raises DatabaseUnavailable where that fails.
    """

    __slots__ = ("_keep", "_request_id", "_tail", "head")

    def __init__(
        self,
        id: str,
        object: str,
        model: str,
        created_s: int,
        report: StreamReport,
        *,
        request_id: str,
        keep: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(report)
        self._keep = keep
        self._request_id = request_id
        self.head = (
            f'data: {{"id":{quoted(id)},"object":"{object}","created":{created_s},"model":{quoted(model)},"choices":['
        )
        self._tail = '],"usage":null}\n\n' if report.usage else "]}\n\n"

    def tail(self, usage: Usage | None) -> str:
        """What follows the choices of a chunk."""
        if usage is None:
            return self._tail
        return f'],"usage":{json.dumps(usage_body(usage))}}}\n\n'

    async def before_end(self, usage: Usage, error: PenstockError | None) -> None:
        """Stores the answer, so that whoever has read its end finds it.

        Raises:
            DatabaseUnavailable: It could not be stored.
        """
        if error is None and self._keep is not None:
            await self._keep()

    def ending(self, usage: Usage) -> str:
        """A chunk of usage, if it was asked for, and the end of the stream."""
        return f"{self.head}{self.tail(usage)}{DONE}" if self.report.usage else DONE

    def failure(self, error: PenstockError) -> str:
        """The error, as OpenAI's clients read it; they stop at it, others wait for the end."""
        return f"data: {error_json(error, self._request_id)}\n\n{DONE}"


class CompletionChoice(ChoiceFormat):
    """The chunks of one choice: what both completion APIs do alike.

    Args:
        stream: What all chunks of the answer have in common.
        index: The choice's index in the answer.
    """

    __slots__ = ("_head", "_stream", "_tail")

    def __init__(self, stream: CompletionStream, index: int) -> None:
        self._stream = stream
        self._head = f'{stream.head}{{"index":{index},'
        self._tail = f',"logprobs":null,"finish_reason":null}}{stream.tail(None)}'

    def _extended(self, chunk: str, extras: Extras, logprobs: str) -> str:
        token_ids = f',"token_ids":{json.dumps(list(extras.token_ids))}' if self._stream.report.token_ids else ""
        tail = f',"logprobs":{logprobs},"finish_reason":null{token_ids}}}{self._stream.tail(extras.usage)}'
        return chunk.removesuffix(self._tail) + tail
