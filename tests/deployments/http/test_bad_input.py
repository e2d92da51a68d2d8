"""One test per thing that strangers send: the right status, the field's name, and a server that goes on."""

import json
import time
from typing import Any

import pytest

from engines.errors import ContextOverflow, EngineFailed, InvalidRequest, Overloaded, QueueFull
from tests.deployments.http.conftest import HELLO, Serving


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": HELLO, **fields}


def raw(text: str) -> bytes:
    """A chat body with a piece of JSON text put in."""
    return json.dumps(body(x="@")).replace('"x": "@"', text).encode()


WRONG_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": ["hi"]}, "messages[0]"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
    ({"messages": [*HELLO, {"content": "hi"}]}, "messages[1].role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": list(range(100_000))}]}, "messages[0].content[0]"),
    ({"model": ""}, "model"),
    ({"model": 5}, "model"),
    ({"model": None}, "model"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"max_completion_tokens": -5}, "max_completion_tokens"),
    ({"min_tokens": 9, "max_tokens": 3}, "min_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"seed": 2**64}, "seed"),
    ({"n": 1_000_000}, "n"),
    ({"n": 0}, "n"),
    ({"stop": 5}, "stop"),
    ({"stop": ["ok", 5]}, "stop[1]"),
    ({"stop": [""]}, "stop[0]"),
    ({"stop": ["x"] * 70_000}, "stop"),
    ({"stop": [0] * 500_000}, "stop[0]"),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
    ({"allowed_token_ids": [-1] * 500_000}, "allowed_token_ids[0]"),
    ({"structured_outputs": {"choice": [0] * 500_000}}, "structured_outputs.choice[0]"),
    ({"logit_bias": {"word": 1}}, "logit_bias"),
    ({"logit_bias": {"5": 1000}}, "logit_bias"),
    ({"logit_bias": {str(i): 1 for i in range(5000)}}, "logit_bias"),
    ({"logprobs": 5}, "logprobs"),
    ({"top_logprobs": 5}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 50}, "top_logprobs"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usge": True}}, "stream_options.include_usge"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": "sometimes"}, "tool_choice"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
    *[
        ({"tools": [{"type": "function", "function": {"name": name}}]}, "tools[0].function.name")
        for name in ("a b", "a.b", "a/b", "ä", "a\n", "x" * 65, 5)
    ],
    ({"response_format": {"type": "yaml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.schema"),
    ({"response_format": "json"}, "response_format"),
    ({"structured_outputs": {"regexp": "a"}}, "structured_outputs.regexp"),
    ({"structured_outputs": {"regex": 5}}, "structured_outputs.regex"),
    ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
    ({"structured_outputs": {}}, "structured_outputs"),
    ({"structured_outputs": {"json": "{not json"}}, "structured_outputs.json"),
    ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex"),
    ({"continue_final_message": True}, "continue_final_message"),
    ({"priority": 1000}, "priority"),
    ({"session_id": ""}, "session_id"),
    ({"instance": ""}, "instance"),
    ({"session_id": "x" * 1000}, "session_id"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"audio": {"voice": "x"}}, "audio"),
    ({"use_beam_search": True}, "use_beam_search"),
    ({"temprature": 1}, "temprature"),
    ({"chat_template_kwargs": []}, "chat_template_kwargs"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG_FIELDS, ids=lambda value: str(value)[:40])
async def test_a_wrong_field_is_named(serving: Serving, fields: dict[str, Any], param: str) -> None:
    async with serving(["Hi"]) as served:
        start_s = time.monotonic()
        answer = await served.post("/v1/chat/completions", body(**fields))
        assert time.monotonic() - start_s < 20
        assert answer.status == 400, answer.body[:500]
        error = answer.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        assert error["param"] == param
        assert len(answer.body) < 1500
        assert "x-request-id" in answer.headers
        await served.still_serves()


async def test_an_unknown_field_names_the_nearest(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        answer = await served.post("/v1/chat/completions", body(temprature=1))
    assert "'temperature'" in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"", "no body"),
        (b"{", "not valid JSON"),
        (b"hello", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b"\xff\xfe{", "not UTF-8"),
        (b'{"model": "\xed\xa0\x80"}', "not UTF-8"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "levels deep"),
        (b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "levels deep"),
        (b'{"a":' + b"[" * 150 + b"]" * 150 + b"}", "levels deep"),
        (b"[" * 1_000_000, "lists and objects"),
        (raw('"temperature": NaN'), "NaN"),
        (raw('"temperature": Infinity'), "Infinity"),
        (raw('"temperature": -Infinity'), "Infinity"),
        (raw('"temperature": 1e999'), "too large"),
        (raw('"max_tokens": ' + "9" * 10_000), "too many digits"),
        (raw('"n": 1, "n": 2'), "twice"),
        (raw('"x": {"a": 1, "a": 2}'), "twice"),
        (b"{" + b",".join(b'"k%d":1' % i for i in range(20_000)) + b"}", "keys"),
        (b'{"x":[' + b",".join([b"{}"] * 200_000) + b"]}", "objects"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_is_not_plain_json_is_refused(serving: Serving, sent: bytes, says: str) -> None:
    async with serving(["Hi"]) as served:
        answer = await served.post("/v1/chat/completions", sent)
        assert answer.status == 400
        assert says in answer.json["error"]["message"]
        await served.still_serves()


async def test_half_a_surrogate_pair_is_refused_and_named(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        sent = json.dumps(body(messages=[*HELLO, {"role": "user", "content": "a\ud800b"}])).encode()
        answer = await served.post("/v1/chat/completions", sent)
        assert answer.status == 400
        assert answer.json["error"]["param"] == "messages[1].content"
        key = await served.post("/v1/chat/completions", b'{"\\ud800": 1}')
        assert key.status == 400


async def test_whole_surrogate_pairs_and_nul_are_text(serving: Serving) -> None:
    async with serving() as served:
        text = "snow \u2603 and party \U0001f389 and \x00 nul"
        sent = json.dumps(body(messages=[{"role": "user", "content": text}])).encode()
        answer = await served.post("/v1/chat/completions", sent)
        stream = await served.post("/v1/chat/completions", sent[:-1] + b', "stream": true}')
    assert answer.json["choices"][0]["message"]["content"] == text
    chunks = [json.loads(line[6:]) for line in stream.body.decode().split("\n\n")[:-2]]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == text


async def test_an_unknown_model_is_404(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        answer = await served.chat(model="nope")
    assert answer.status == 404
    assert answer.json["error"]["code"] == "model_not_found"
    assert answer.json["error"]["param"] == "model"
    assert "demo" in answer.json["error"]["message"]


async def test_an_unknown_instance_is_404_and_one_that_cannot_take_it_503(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        for said, where in (({"json": body(instance="nope")}, "instance"), ({}, "x-penstock-instance")):
            said = said or {"json": body(), "headers": {"x-penstock-instance": "nope"}}
            answer = await served.request("POST", "/v1/chat/completions", **said)
            error = answer.json["error"]
            assert (answer.status, error["code"], error["param"]) == (404, "instance_not_found", where)
        await served.engine.stop()
        away = await served.chat(instance="demo-0")
        assert away.status == 503
        assert "Retry-After" in away.headers


async def test_a_large_body_is_refused_before_it_is_read(serving: Serving) -> None:
    async with serving(["Hi"], max_body_bytes=2000) as served:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        # None of the body is sent: the answer does not wait for it.
        declared = await served.raw(head + b"Content-Length: 1000000000\r\nExpect: 100-continue\r\n\r\n")
        assert declared.startswith(b"HTTP/1.1 413 ")
        assert b"request_too_large" in declared
        chunked = await served.raw(
            head
            + b"Transfer-Encoding: chunked\r\n\r\n"
            + b"400\r\n"
            + b"x" * 1024
            + b"\r\n" * 1
            + b"400\r\n"
            + b"x" * 1024
            + b"\r\n"
        )
        assert chunked.startswith(b"HTTP/1.1 413 ")
        await served.still_serves()


async def test_a_client_that_waits_for_a_word_gets_it(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        answer = await served.post("/v1/chat/completions", body(), expect100=True)
    assert answer.status == 200


async def test_a_compressed_body_is_refused(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        for encoding in ("gzip", "deflate", "br", "zstd"):
            headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
            answer = await served.post("/v1/chat/completions", b"\x1f\x8b" + b"\x00" * 100, headers=headers)
            assert answer.status == 415, encoding
            assert answer.json["error"]["code"] == "unsupported_media_type"
        await served.still_serves()


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_what_is_not_declared_as_json_is_refused(serving: Serving, content_type: str) -> None:
    async with serving(["Hi"]) as served:
        sent = json.dumps(body()).encode()
        answer = await served.post("/v1/chat/completions", sent, headers={"Content-Type": content_type})
    assert answer.status == 415
    assert "application/json" in answer.json["error"]["message"]


async def test_errors_of_the_engine_keep_their_status(serving: Serving) -> None:
    cases = [
        (ContextOverflow("Too long.", context_length=8, prompt_tokens=9, param="messages"), 400, ContextOverflow.code),
        (InvalidRequest("The schema is not valid.", param="response_format"), 400, InvalidRequest.code),
        (QueueFull("Full.", retry_after_s=2.4), 429, Overloaded.code),
    ]
    for error, status, code in cases:
        async with serving([error]) as served:
            for stream in (False, True):
                answer = await served.chat(stream=stream)
                assert answer.status == status
                assert answer.json["error"]["code"] == code
                assert answer.json["error"]["param"] == error.param
                assert answer.headers.get("Retry-After") == ("3" if status == 429 else None)


async def test_paths_and_methods_that_do_not_exist(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        lost = await served.get("/v1/nothing")
        assert (lost.status, lost.json["error"]["code"]) == (404, "unknown_url")
        wrong = await served.get("/v1/completions")
        assert (wrong.status, wrong.json["error"]["code"]) == (405, "method_not_allowed")
        assert wrong.headers["Allow"] == "POST"
        assert (await served.post("/v1/models", {})).status == 405
        assert (await served.request("HEAD", "/live")).status == 200


async def test_bad_headers_are_named(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        priority = await served.post("/v1/chat/completions", body(), headers={"x-penstock-priority": "high"})
        assert (priority.status, priority.json["error"]["param"]) == (400, "x-penstock-priority")
        session = await served.post("/v1/chat/completions", body(), headers={"x-session-id": "s" * 600})
        assert (session.status, session.json["error"]["param"]) == (400, "x-session-id")


async def test_a_bug_says_nothing_of_the_inside(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    def script(request: Any) -> Any:
        raise RuntimeError("secret in /etc/passwd at 0x7f00")

    async with serving(script) as served:
        answer = await served.chat()
        assert answer.status == 500
        assert b"secret" not in answer.body
        assert answer.json["error"]["code"] == "internal_error"
    assert answer.headers["x-request-id"] in caplog.text


async def test_what_an_engine_says_of_its_failure_stays_inside(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving([0, "Hi", EngineFailed("OSError: /secret/model.bin at 10.0.0.7")]) as served:
        for stream in (False, True):
            answer = await served.chat(stream=stream)
            assert b"engine_failed" in answer.body
            assert b"secret" not in answer.body
            assert answer.headers["x-request-id"] in caplog.text
    assert "/secret/model.bin" in caplog.text


async def test_a_refusal_names_the_request_and_keeps_a_foreign_text_inside(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    hidden = InvalidRequest("The engine does not take this request.", param="messages").hiding("at /secret/model.bin")
    async with serving([hidden]) as served:
        for stream in (False, True):
            caplog.clear()
            answer = await served.chat(stream=stream)
            assert answer.status == 400
            assert b"secret" not in answer.body
            assert answer.headers["x-request-id"] in answer.json["error"]["message"]
            assert f"request {answer.headers['x-request-id']}: " in caplog.text
            assert "/secret/model.bin" in caplog.text


async def test_what_an_error_quotes_stays_on_its_line(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    async with serving([InvalidRequest("It is refused.").hiding("a\nrequest forged: \x1b[31m\x9b1m\u00e9")]) as served:
        assert (await served.chat()).status == 400
    (line,) = [record.getMessage() for record in caplog.records if "forged" in record.getMessage()]
    assert line.endswith("(a\\nrequest forged: \\x1b[31m\\x9b1m\u00e9)")


async def test_an_error_in_a_stream_names_its_request(serving: Serving) -> None:
    async with serving(["Hi", EngineFailed("at /secret/model.bin")]) as served:
        answer = await served.chat(stream=True)
    assert answer.headers["x-request-id"].encode() in answer.body.partition(b'"error"')[2]
    assert b"secret" not in answer.body
