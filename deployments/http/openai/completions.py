"""`POST /v1/completions`."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from aiohttp import web

from deployments.http.openai.completion_body import CompletionBody, parse_completion
from deployments.http.openai.completion_chunks import CompletionChunks
from deployments.http.openai.generation_body import stream_report
from deployments.http.openai.logprobs import completion_logprobs
from deployments.http.openai.stream_format import CompletionStream
from deployments.http.openai.usage import usage_body
from deployments.http.server.answer import answer_stream, answer_whole
from deployments.http.server.asking import Asking
from deployments.http.server.exchange import Exchange, json_response
from deployments.http.server.long_answer import answer_in_pieces, pieces_of
from engines.call_requests import DetokenizeRequest
from engines.completion import Choice, Completion
from engines.events import Usage
from engines.requests import GenerateRequest


async def completions(exchange: Exchange) -> web.StreamResponse:
    """Continues prompts.

    Raises:
        PenstockError: Nothing was sent yet.
    """
    body, askings = parse_completion(
        await exchange.body(), exchange.hints(), lambda name: exchange.model_of(name).fill_in_the_middle
    )
    exchange.name_model(body.model)
    id = f"cmpl-{exchange.id}"
    echoes = [await _echo(exchange, asking) if body.echo else "" for asking in askings]
    if body.stream:
        chunks = CompletionStream(
            id, "text_completion", body.model, exchange.created_s, stream_report(body), request_id=exchange.id
        )
        n = askings[0].request.sampling.n
        choices = [
            [CompletionChunks(chunks, position * n + index, echo) for index in range(n)]
            for position, echo in enumerate(echoes)
        ]
        return await answer_stream(exchange, askings, chunks, choices)
    answers = await answer_whole(exchange, askings)
    requests = [asking.request for asking in askings]
    answer = _answer(id, exchange, body, answers)
    made = _choices(body, requests, answers, echoes)
    if body.logprobs is not None or body.return_token_ids:
        # It may be long: each choice, and each piece of its log probabilities, is made when its turn comes.
        return await answer_in_pieces(exchange, pieces_of(answer | {"choices": made}))
    return json_response(json.dumps(answer | {"choices": list(made)}))


async def _echo(exchange: Exchange, asking: Asking) -> str:
    """The prompt as text."""
    request = asking.request
    if request.prompt is not None:
        return request.prompt
    token_ids = request.prompt_token_ids or []
    with asking.names.spoken():
        engine = exchange.engine(request.model)
        return await engine.detokenize(DetokenizeRequest(model=request.model, token_ids=token_ids))


def _answer(
    id: str,
    exchange: Exchange,
    body: CompletionBody,
    answers: Sequence[Completion],
) -> dict[str, Any]:
    usage = sum((answer.usage for answer in answers), Usage())
    exchange.meter.finish(usage, (choice.reason for answer in answers for choice in answer.choices))
    return {
        "id": id,
        "object": "text_completion",
        "created": exchange.created_s,
        "model": body.model,
        "choices": [],
        "usage": usage_body(usage),
        "system_fingerprint": None,
    }


def _choices(
    body: CompletionBody, requests: Sequence[GenerateRequest], answers: Sequence[Completion], echoes: Sequence[str]
) -> Iterator[dict[str, Any]]:
    index = 0
    for request, answer, echo in zip(requests, answers, echoes, strict=True):
        for choice in answer.choices:
            yield _choice(index, choice, body, request, echo)
            index += 1


def _choice(index: int, choice: Choice, body: CompletionBody, request: GenerateRequest, echo: str) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "index": index,
        "text": echo + choice.reasoning + choice.text,
        "logprobs": None if choice.logprobs is None else completion_logprobs(choice.logprobs, len(echo), later=True),
        "finish_reason": choice.reason,
        "stop_reason": choice.stop_reason,
    }
    if body.return_token_ids:
        answer["token_ids"] = list(choice.token_ids)
        answer["prompt_token_ids"] = request.prompt_token_ids
    return answer
