"""What of vLLM's errors a client gets to read: what is said on purpose about the request, and nothing else."""

import json

import pytest
from jinja2 import TemplateError

from deployments.http.server.error_response import public_message
from engines.errors import ContextOverflow, EngineFailed, InvalidRequest, PenstockError
from tests.lazily import lazily, needs

needs("vllm", "its errors are what this is about")

exceptions = lazily("vllm.exceptions")
failures = lazily("engines.vllm.failures")
sampling_params = lazily("vllm.sampling_params")

SECRET = "/secret/weights.bin at 10.0.0.7"


def refused(error: Exception) -> PenstockError:
    return failures.refusal(error, param="messages", context_length=100)


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:  # noqa: BLE001
        return caught


@pytest.mark.parametrize("is_vllms", [True, False])
def test_a_foreign_text_is_for_the_log(is_vllms: bool) -> None:
    error = raised(ValueError(SECRET))
    answer = refused(raised(exceptions.VLLMValidationError(SECRET), error) if is_vllms else error)
    assert (type(answer), answer.param) == (InvalidRequest, "messages")
    public = public_message(answer, "the-id")
    assert "secret" not in public
    assert "the-id" in public
    assert SECRET in answer.private


@pytest.mark.parametrize("error", [raised(OSError(SECRET)), raised(RuntimeError(SECRET)), raised(KeyError(SECRET))])
def test_what_is_no_refusal_is_a_failure_without_its_text(error: Exception) -> None:
    for answer in (refused(error), failures.failure(error)):
        assert type(answer) is EngineFailed
        assert "secret" not in public_message(answer, "the-id")
        assert SECRET in answer.private


def test_what_nests_too_deeply_is_its_callers_mistake() -> None:
    # As the arguments of a call in a conversation may, which vLLM parses.
    with pytest.raises(RecursionError) as caught:
        json.loads("[" * 100_000)
    answer = refused(caught.value)
    assert (type(answer), answer.param) == (InvalidRequest, "messages")


def test_what_vllm_says_of_a_parameter_is_said() -> None:
    with pytest.raises(exceptions.VLLMValidationError, match="temperature") as caught:
        sampling_params.SamplingParams(temperature=-1.0)
    answer = refused(caught.value)
    assert "temperature" in answer.message
    assert not answer.private


def test_what_a_chat_template_says_is_said() -> None:
    said = "Conversation roles must alternate"
    answer = refused(raised(exceptions.VLLMValidationError(said), TemplateError(said)))
    assert (answer.message, answer.private) == (said, "")


def test_a_prompt_that_is_too_long_is_said() -> None:
    answer = refused(
        exceptions.VLLMValidationError("the maximum model length is 100", parameter="input_tokens", value=101)
    )
    assert isinstance(answer, ContextOverflow)
    assert not answer.private
