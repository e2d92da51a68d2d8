"""Who may be beside a request that is tried."""

import asyncio

from actors.channel.trials import Trials


def test_there_is_one_trial_at_a_time() -> None:
    trials = Trials()
    assert trials.enter("first") and not trials.enter("second")
    trials.leave("first")
    assert trials.enter("second")


def test_without_a_trial_everybody_begins_at_once() -> None:
    trials = Trials()
    assert all(trials.may_begin(name) for name in "abc")


async def test_a_trial_waits_for_those_before_it_and_those_after_it_wait_for_its_first_token() -> None:
    trials, order = Trials(), list[str]()

    async def begin(name: str) -> None:
        await trials.begin(name)
        order.append(name)

    assert trials.may_begin("before")
    assert trials.enter("trial")
    tasks = [asyncio.create_task(begin(name)) for name in ("trial", "after")]
    await asyncio.sleep(0)
    assert order == []
    trials.begun("before")
    await tasks[0]
    await asyncio.sleep(0)
    assert order == ["trial"]
    trials.begun("trial")
    await tasks[1]
    assert order == ["trial", "after"] and not trials.enter("another")


async def test_a_trial_that_is_over_keeps_nobody() -> None:
    trials = Trials()
    trials.enter("trial")
    assert trials.may_begin("trial")
    after = asyncio.create_task(trials.begin("after"))
    await asyncio.sleep(0)
    trials.leave("trial")
    await after
    assert trials.enter("another")
