"""Whatever dies in a fleet, its clients read on."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import aiohttp
import psutil
import pytest

from tests.chaos.conftest import ChaosFleet

CLIENTS = 20
LOAD = ("--clients", str(CLIENTS), "--length", "250")
"""Ten seconds an answer: the questions are tried first, and the last answers read to their end, in each run."""
MOVES = ("kill-actor", "stop-actor", "kill-all")
QUICK = ("kill-actor", "kill-all", "disconnects")
LONG = ("stop-actor", "kill-directory", "kill-controller", "slow-readers", "rolling-upgrade")


@pytest.mark.parametrize("faults", [QUICK, pytest.param(LONG, marks=pytest.mark.long)], ids="-".join)
def test_no_client_sees_anything_of_it(fleet: ChaosFleet, faults: tuple[str, ...]) -> None:
    code, rows, output = fleet.strike(*faults, "--model", "moves", *LOAD)
    assert code == 0, output
    assert [row.fault for row in rows] == list(faults), output
    for row in rows:
        assert row.open > 0 and row.served > 0, row
        assert (row.broken, row.cut, row.lost, row.repeated) == (0, 0, 0, 0), row
        assert row.moved > 0 or row.fault not in MOVES, row


def test_realtime_sessions_see_nothing_of_it_either(fleet: ChaosFleet) -> None:
    faults = ("kill-actor", "kill-all")
    code, rows, output = fleet.strike(*faults, "--model", "moves", "--api", "realtime", *LOAD)
    assert code == 0, output
    assert all(row.open > 0 and row.served > 0 and row.moved > 0 for row in rows), output
    assert {(row.broken, row.cut, row.lost, row.repeated) for row in rows} == {(0, 0, 0, 0)}, output


@pytest.mark.long
@pytest.mark.parametrize("load", [LOAD, ("--open", "3", "--length", "300")], ids=["closed", "open"])
@pytest.mark.parametrize("api", ["responses", "messages", "realtime"])
def test_no_client_of_another_api_sees_anything_of_any_fault(
    fleet: ChaosFleet, api: str, load: tuple[str, ...]
) -> None:
    faults = [*MOVES, "kill-directory", "kill-controller", "rolling-upgrade"]
    if api == "realtime":
        faults.append("kill-router")  # Of which the others see that their connections break.
    code, rows, output = fleet.strike(*faults, "--model", "moves", "--api", api, *load)
    assert code == 0, output
    assert [row.fault for row in rows] == faults, output
    assert all(row.open > 0 and row.served > 0 for row in rows), output
    assert {(row.broken, row.lost, row.repeated) for row in rows} == {(0, 0, 0)}, output
    # A connection that was just being opened has no session yet that could be taken up.
    assert all(row.cut == 0 or (row.fault == "kill-router" and row.cut < row.taken_up) for row in rows), output


def test_a_realtime_session_outlives_its_router(fleet: ChaosFleet) -> None:
    code, rows, output = fleet.strike("kill-all-and-router", "--model", "moves", "--api", "realtime", *LOAD)
    assert code == 0, output
    [row] = rows
    assert row.taken_up > 0 and row.served > 0, output
    assert (row.broken, row.lost, row.repeated) == (0, 0, 0), output
    # A session that had just begun when its router died was in no database yet: they are written in the background.
    assert row.cut <= CLIENTS // 4, output


async def test_a_response_in_the_background_outlives_its_router(fleet: ChaosFleet) -> None:
    server = f"http://127.0.0.1:{fleet.port}"
    asked = {"model": "moves", "input": "count from 1 to 300", "background": True, "stream": True}
    events: list[dict[str, Any]] = []
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientError):
            async with http.post(f"{server}/v1/responses", json=asked) as stream:
                async for event in sse_events(stream):
                    events.append(event)
                    if len(events) == 20:
                        # Whoever was asked makes it.
                        os.kill(server_of(stream, fleet.port), signal.SIGKILL)
        seen, id = len(events), events[0]["response"]["id"]
        async with asyncio.timeout(240):
            while events[-1]["type"] != "response.completed":
                query = {"stream": "true", "starting_after": str(events[-1]["sequence_number"])}
                # It is nobody's until the lease of the dead one has ended; whoever is asked waits with its client.
                with suppress(aiohttp.ClientError):
                    async with http.get(f"{server}/v1/responses/{id}", params=query) as stream:
                        assert stream.status == 200, await stream.text()
                        async for event in sse_events(stream):
                            events.append(event)  # noqa: PERF401 - also what comes before a break
        assert len(events) > seen
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
        assert text.strip() == " ".join(map(str, range(1, 301)))
        async with http.get(f"{server}/v1/responses/{id}") as answer:
            response = await answer.json()
        assert response == events[-1]["response"] and response["output"][0]["content"][0]["text"] == text
        async with http.get(f"{server}/metrics") as answer:
            assert 'penstock_background_responses_total{outcome="taken_over"}' in await answer.text()


async def sse_events(stream: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    async for line in stream.content:
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))


def server_of(stream: aiohttp.ClientResponse, port: int) -> int:
    """The process at the other end of an answer's connection."""
    assert stream.connection is not None and stream.connection.transport is not None
    client = stream.connection.transport.get_extra_info("sockname")[1]
    for found in psutil.net_connections("tcp"):
        if found.laddr.port == port and found.raddr and found.raddr.port == client and found.pid is not None:
            return int(found.pid)
    raise AssertionError("nobody has the connection")


@pytest.mark.parametrize("fault", ["kill-all-and-router", pytest.param("kill-router", marks=pytest.mark.long)])
def test_a_router_that_dies_takes_its_own_connections_along_and_nothing_else(fleet: ChaosFleet, fault: str) -> None:
    code, rows, output = fleet.strike(fault, "--model", "moves", *LOAD)
    assert code == 0, output
    [row] = rows
    assert 0 < row.cut <= CLIENTS < row.served, output
    assert (row.broken, row.lost, row.repeated) == (0, 0, 0), output


@pytest.mark.long
def test_nobody_sees_anything_of_it_either_while_new_requests_keep_coming(fleet: ChaosFleet) -> None:
    faults = ("kill-actor", "stop-actor", "kill-all", "kill-directory", "kill-controller", "rolling-upgrade")
    code, rows, output = fleet.strike(*faults, "--model", "moves", "--open", "3", "--length", "300")
    assert code == 0, output
    assert [row.fault for row in rows] == list(faults), output
    assert all(row.open > 0 and row.served > 0 for row in rows), output
    assert all(row.moved > 0 for row in rows[:3]), output
    assert {(row.broken, row.cut, row.lost, row.repeated) for row in rows} == {(0, 0, 0, 0)}, output
    # An actor that stands still is the slowest to be noticed, by its silence.
    assert all(0 < row.first_s < 10.0 and 0 < row.pause_s < 10.0 for row in rows), output


def test_without_migration_streams_break_and_the_command_says_so(fleet: ChaosFleet) -> None:
    code, (row,), output = fleet.strike("kill-actor", "--model", "stays", *LOAD)
    assert code == 1, output
    assert 0 < row.broken <= row.open, output


def test_a_fault_that_cannot_happen_is_said(fleet: ChaosFleet) -> None:
    code, rows, output = fleet.strike(
        "kill-engine", "kill-node", "--model", "moves", "--clients", "2", "--length", "10"
    )
    assert (code, rows) == (0, [])
    assert "the engine has no process of its own" in output
    assert "it takes a node beside the head and the routers" in output


def test_an_unknown_fault_names_those_there_are(fleet: ChaosFleet) -> None:
    code, _, output = fleet.strike("kill-everybody")
    assert code == 1
    assert "kill-actor, stop-actor" in output and len(output.strip().splitlines()) == 1
