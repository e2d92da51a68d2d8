"""Contexts: stop and kill, children, callbacks."""

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from engines.context import CancelState, Context
from engines.errors import Cancelled


def test_stop_and_kill_are_told_apart() -> None:
    context = Context()
    assert (context.is_stopped, context.is_killed) == (False, False)
    context.stop()
    assert (context.is_stopped, context.is_killed) == (True, False)
    context.kill()
    assert (context.is_stopped, context.is_killed) == (True, True)


def test_a_stop_after_a_kill_does_not_soften_it() -> None:
    context = Context()
    context.kill()
    context.stop()
    assert context.state is CancelState.KILLED


def test_callbacks_run_once_in_order_and_inside_the_call() -> None:
    context, heard = Context(), list[str]()
    context.on_stop(lambda _: heard.append("stop"))
    context.on_kill(lambda _: heard.append("kill"))
    context.stop()
    assert heard == ["stop"]
    context.stop()
    context.kill()
    context.kill()
    assert heard == ["stop", "kill"]


def test_a_kill_calls_both_kinds_of_callbacks() -> None:
    context, heard = Context(), list[str]()
    context.on_stop(lambda _: heard.append("stop"))
    context.on_kill(lambda _: heard.append("kill"))
    context.kill()
    assert heard == ["stop", "kill"]


def test_a_late_callback_is_called_at_once() -> None:
    context, heard = Context(), list[Context]()
    context.stop()
    context.on_stop(heard.append)
    context.on_kill(heard.append)
    assert heard == [context]


def test_an_unsubscribed_callback_is_not_called() -> None:
    context, heard = Context(), list[Context]()
    unsubscribe = context.on_stop(heard.append)
    unsubscribe()
    unsubscribe()
    context.kill()
    assert heard == []


def test_children_end_before_their_parents_callbacks_run() -> None:
    parent = Context()
    child, order = parent.child(), list[str]()
    parent.on_stop(lambda _: order.append("parent"))
    child.on_stop(lambda _: order.append("child"))
    parent.stop()
    assert order == ["child", "parent"]


def test_nothing_flows_up() -> None:
    parent = Context()
    parent.child().kill()
    assert not parent.is_stopped


@pytest.mark.parametrize("cancel", [Context.stop, Context.kill])
def test_linking_to_a_cancelled_parent_cancels_at_once(cancel: object) -> None:
    parent, child = Context(), Context()
    cancel(parent)  # type: ignore[operator]
    parent.link(child)
    assert child.state is parent.state


def test_an_unlinked_child_lives_on() -> None:
    parent, child = Context(), Context()
    unlink = parent.link(child)
    unlink()
    unlink()
    parent.kill()
    assert child.state is CancelState.LIVE


def test_a_child_shares_the_id_unless_given_its_own() -> None:
    parent = Context("request-1")
    assert parent.child().id == "request-1"
    assert parent.child("other").id == "other"
    assert Context().id != Context().id


def test_a_cycle_is_refused() -> None:
    top = Context()
    bottom = top.child().child()
    for parent, child in ((top, top), (bottom, top)):
        with pytest.raises(ValueError, match="cycle"):
            parent.link(child)


async def test_waiting_for_stop_and_kill() -> None:
    context = Context()
    stopped = asyncio.ensure_future(context.stopped())
    killed = asyncio.ensure_future(context.killed())
    await asyncio.sleep(0)
    context.stop()
    await stopped
    assert not killed.done()
    context.kill()
    await killed
    await context.stopped()


async def test_a_cancelled_wait_leaves_no_callback() -> None:
    context = Context()
    waiting = asyncio.ensure_future(context.stopped())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait((waiting,))
    context.kill()  # would set the result of a cancelled future
    assert waiting.cancelled()


@pytest.mark.parametrize("is_stopped_before", [True, False])
async def test_work_ends_with_its_context(is_stopped_before: bool) -> None:
    context, ended = Context("request-1"), list[str]()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("work")

    if is_stopped_before:
        context.stop()
    waiting = asyncio.ensure_future(context.unless_stopped(work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    context.stop()
    with pytest.raises(Cancelled, match="request-1"):
        await waiting
    assert ended == ([] if is_stopped_before else ["work"])
    with pytest.raises(Cancelled):
        await context.unless_stopped(asyncio.get_running_loop().create_future())


async def test_work_that_is_done_counts_though_its_context_is_stopped_then() -> None:
    context = Context()
    work: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(context.unless_stopped(work))
    await asyncio.sleep(0)
    work.set_result(7)
    context.stop()
    assert await waiting == 7


async def test_work_ends_with_whoever_waits_for_it_and_that_is_no_stop() -> None:
    context = Context()
    work: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(context.unless_stopped(work))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert work.cancelled()


async def test_what_work_fails_with_is_told() -> None:
    context = Context()

    async def work() -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        await context.unless_stopped(work())


class Trees(RuleBasedStateMachine):
    """Contexts against a model: a table of states and links."""

    contexts: Bundle[int] = Bundle("contexts")

    def __init__(self) -> None:
        super().__init__()
        self.real: list[Context] = []
        self.states: list[int] = []
        self.children: list[set[int]] = []
        self.heard: list[list[int]] = []

    def below(self, root: int) -> set[int]:
        return {root}.union(*(self.below(child) for child in self.children[root]))

    def cancel(self, root: int, state: int) -> None:
        if self.states[root] >= state:
            return
        self.states[root] = state
        for child in self.children[root]:
            self.cancel(child, state)

    @rule(target=contexts)
    def create(self) -> int:
        context, heard = Context(), list[int]()
        context.on_stop(lambda _: heard.append(1))
        context.on_kill(lambda _: heard.append(2))
        self.real.append(context)
        self.states.append(0)
        self.children.append(set())
        self.heard.append(heard)
        return len(self.real) - 1

    @rule(parent=contexts, child=contexts)
    def link(self, parent: int, child: int) -> None:
        if parent in self.below(child):
            with pytest.raises(ValueError):
                self.real[parent].link(self.real[child])
            return
        self.real[parent].link(self.real[child])
        self.children[parent].add(child)
        self.cancel(child, self.states[parent])

    @rule(context=contexts, kill=st.booleans())
    def end(self, context: int, kill: bool) -> None:
        (self.real[context].kill if kill else self.real[context].stop)()
        self.cancel(context, 2 if kill else 1)

    @invariant()
    def states_and_callbacks_agree(self) -> None:
        assert [context.state for context in self.real] == self.states
        assert self.heard == [list(range(1, state + 1)) for state in self.states]


TestTrees = Trees.TestCase
TestTrees.settings = settings(max_examples=60, deadline=None)
