"""The access log: who asked what and what became of it, and nothing of what was said."""

import json
from pathlib import Path
from typing import Any

import pytest

from deployments.fleet_settings import HttpSettings
from deployments.http.ingress import HttpIngress
from deployments.http.server import access_log
from deployments.http.server.access_log import AccessLog
from deployments.http.server.refusals import CannotListen
from deployments.local_fleet import LocalFleet
from deployments.metrics import Metrics
from tests.deployments.http.conftest import Serving
from tests.deployments.tenants.key_files import key_file

SECRET = "the quick brown fox"
BODY = {"model": "demo", "messages": [{"role": "user", "content": SECRET}]}


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


async def test_each_request_leaves_a_line_without_what_was_said(serving: Serving, tmp_path: Path) -> None:
    file, keys = tmp_path / "access.log", tmp_path / "keys.yaml"
    keys.write_text(key_file(search={"max_n": 1}))
    key = {"Authorization": "Bearer search-key"}
    async with serving(["Hi"], keys={"file": str(keys)}, access_log=str(file)) as served:
        for stream in (False, True):
            headers = {**key, "x-request-id": f"stream-{stream}"}
            await served.post("/v1/chat/completions", {**BODY, "stream": stream}, headers=headers)
        await served.post("/v1/chat/completions", {**BODY, "n": 2}, headers=key)
        await served.post("/v1/chat/completions", BODY, headers={"Authorization": "Bearer guessed"})
        for path in ("/health", "/ready"):
            await served.get(path)
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_text()
    assert SECRET not in text and "-key" not in text and "guessed" not in text
    whole, streamed, bounded, stranger = lines(file)
    for line, id in ((whole, "stream-False"), (streamed, "stream-True")):
        assert line.pop("seconds") >= line.pop("ttft_s") > 0
        assert line.pop("time").endswith("+00:00")
        assert line.pop("prompt_tokens") > 0
        assert line == {
            "request_id": id,
            "tenant": "search",
            "peer": "127.0.0.1",
            "method": "POST",
            "route": "/v1/chat/completions",
            "model": "demo",
            "instance": "demo-0",
            "status": 200,
            "error": None,
            "cached_tokens": 0,
            "completion_tokens": 2,
            "finish_reason": "stop",
            "moves": 0,
        }
    assert (bounded["status"], bounded["error"], bounded["tenant"]) == (403, "forbidden", "search")
    assert (stranger["status"], stranger["tenant"], stranger["instance"]) == (401, None, None)
    assert stranger["route"] == "/v1/chat/completions"


def test_a_flood_of_what_is_refused_is_counted_and_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1_000_000.0
    monkeypatch.setattr(access_log.time, "time", lambda: now_s)
    log = AccessLog(str(tmp_path / "log"))
    for _ in range(access_log.REFUSED_PER_S + 50):
        log.write({"n": 0}, is_refused=True)
    log.write({"n": 1}, is_refused=False)
    now_s += 1
    log.write({"n": 2}, is_refused=True)
    log.close()
    *flood, served, later = lines(tmp_path / "log")
    assert len(flood) == access_log.REFUSED_PER_S
    assert (served["n"], served["left_out"]) == (1, 50)
    assert later["n"] == 2 and "left_out" not in later


async def test_a_file_that_was_rotated_is_made_anew(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "log"))
    log.write({"n": 1}, is_refused=False)
    log.close()
    (tmp_path / "log").rename(tmp_path / "log.1")
    log = AccessLog(str(tmp_path / "log"))
    log.write({"n": 2}, is_refused=False)
    log.close()
    assert [line["n"] for line in lines(tmp_path / "log")] == [2]


@pytest.mark.parametrize(
    ("keyed", "target", "written"), [(False, None, False), (True, None, True), (True, "off", False)]
)
async def test_it_is_written_to_stdout_where_keys_are_asked_for(
    serving: Serving,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    keyed: bool,
    target: str | None,
    written: bool,
) -> None:
    if keyed:
        monkeypatch.setenv("PENSTOCK_API_KEYS", "key")
    async with serving(["Hi"], access_log=target) as served:
        await served.chat()
    assert ('"route": "/v1/chat/completions"' in capsys.readouterr().out) == written


async def test_a_file_that_cannot_be_written_keeps_it_from_listening(tmp_path: Path) -> None:
    settings = HttpSettings(port=0, access_log=str(tmp_path / "nowhere" / "log"))
    with pytest.raises(CannotListen, match=r"http.access_log: .* cannot be written: No such file or directory"):
        await HttpIngress(LocalFleet({"demo": []}), settings, Metrics()).start()
