"""Requests that cannot be served are refused by name, before anything is said, and harm nobody."""

import pytest

from engines.call_requests import TokenizeRequest
from engines.context import Context
from engines.errors import ContextOverflow, InvalidRequest, Unsupported
from engines.events import Finished
from engines.requests import GenerateRequest, Sampling
from tests.contract.asking import Recorder, Running

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def refusal(subject: Running, request: GenerateRequest) -> InvalidRequest:
    """The setup error; fails if anything was said."""
    recorder = Recorder()
    with pytest.raises(InvalidRequest) as caught:
        await subject.engine.submit(request, Context(), recorder)
    assert not recorder.events and recorder.error is None
    await subject.still_serves()
    return caught.value


async def test_a_prompt_that_does_not_fit_is_refused(subject: Running) -> None:
    subject.needs("tokenize", "context_length")
    length = subject.engine.capabilities.context_length
    one = (await subject.engine.tokenize(TokenizeRequest(model=subject.model, prompt="1"))).token_ids[-1]
    error = await refusal(subject, GenerateRequest(model=subject.model, prompt_token_ids=[one] * (length + 1)))
    assert isinstance(error, ContextOverflow)
    assert error.context_length == length
    assert error.param is not None


async def test_more_tokens_than_fit_are_refused(subject: Running) -> None:
    subject.is_ours()
    subject.needs("context_length")
    length = subject.engine.capabilities.context_length
    error = await refusal(subject, subject.counting(1, 3, max_tokens=length))
    assert isinstance(error, ContextOverflow)
    assert error.context_length == length
    assert error.param is not None


async def test_an_empty_prompt_is_refused_or_answered(subject: Running) -> None:
    request = GenerateRequest(model=subject.model, prompt="", sampling=Sampling(max_tokens=2))
    try:
        events = await subject.listen(request)
    except InvalidRequest as error:
        assert error.param is not None
    else:
        assert isinstance(events[-1], Finished)
    await subject.still_serves()


@pytest.mark.parametrize(
    "guided",
    [
        {"regex": "(unclosed"},
        {"json_schema": {"type": "no such type"}},
        {"json_schema": {"$ref": "#/$defs/nowhere"}},
        {"grammar": "root ::= nowhere ((("},
        {"structural_tag": "{ not json"},
    ],
    ids=lambda guided: "-".join(guided),
)
async def test_a_broken_guide_is_refused(subject: Running, guided: dict[str, object]) -> None:
    error = await refusal(subject, subject.counting(1, 3, guided=guided))
    subject.is_ours()
    assert error.param is not None and "guided" in error.param


async def test_a_guide_is_never_ignored(subject: Running) -> None:
    """Held to a choice the engine says one of them; an engine that cannot be held says so."""
    request = subject.counting(1, 3, guided={"choice": ["river", "mountain"]})
    if not subject.engine.capabilities.guided:
        assert isinstance(await refusal(subject, request), Unsupported)
    else:
        assert (await subject.ask(request)).text in ("river", "mountain")


async def test_tools_are_never_ignored(subject: Running) -> None:
    if subject.engine.capabilities.tools:
        pytest.skip("it has tools")
    tool = {"type": "function", "function": {"name": "get_weather"}}
    assert isinstance(await refusal(subject, subject.request("hello", tools=[tool])), Unsupported)


async def test_logprobs_are_never_ignored(subject: Running) -> None:
    if subject.engine.capabilities.logprobs:
        pytest.skip("it has logprobs")
    assert isinstance(await refusal(subject, subject.counting(1, 3, logprobs=2)), Unsupported)


@pytest.mark.parametrize(
    ("capability", "part"),
    [
        ("vision", {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}),
        ("audio", {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
        ("documents", {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}}),
    ],
)
async def test_attachments_are_never_ignored(subject: Running, capability: str, part: dict[str, object]) -> None:
    if getattr(subject.engine.capabilities, capability):
        pytest.skip(f"it has {capability}")
    content = [{"type": "text", "text": "count from 1 to 3"}, part]
    request = GenerateRequest(model=subject.model, messages=[{"role": "user", "content": content}])
    error = await refusal(subject, request)
    assert isinstance(error, Unsupported)
    assert error.param == "messages[0].content[1]"
