"""Stop is polite, kill is at once, and both free the engine; a careless sink hurts nobody else."""

import asyncio

import pytest

from engines.context import Context
from engines.contract import Load
from engines.errors import Cancelled, EngineFailed
from engines.events import Event, Finished, Started, TextDelta
from engines.vllm.engine import VllmEngine
from tests.engines.vllm.asking import Recorder, ask, counted, counting, eventually, ids_of, text_of

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def under_way(engine: VllmEngine, context: Context, **sampling: object) -> Recorder:
    """A stream that has said something."""
    recorder = Recorder()
    await engine.submit(counting(1, 400, **sampling), context, recorder)
    await eventually(lambda: len(recorder.events) > 5)
    return recorder


@pytest.mark.parametrize("n", [1, 3])
async def test_stop_keeps_what_was_said(vllm_engine: VllmEngine, n: int) -> None:
    context = Context()
    recorder = await under_way(vllm_engine, context, n=n)
    context.stop()
    await recorder.end()
    finished = recorder.events[-1]
    assert isinstance(finished, Finished)
    assert finished.reasons == ("cancelled",) * n
    assert len(ids_of(*recorder.events)) == finished.usage.completion_tokens > 0
    await eventually(lambda: vllm_engine.load() == Load())
    assert not context._callbacks


@pytest.mark.parametrize("n", [1, 3])
async def test_kill_ends_at_once(vllm_engine: VllmEngine, n: int) -> None:
    context = Context()
    recorder = await under_way(vllm_engine, context, n=n)
    context.kill()
    assert recorder.ended.is_set()
    assert isinstance(recorder.error, Cancelled)
    await eventually(lambda: vllm_engine.load() == Load())


async def test_end_leaves_no_callback(vllm_engine: VllmEngine) -> None:
    context, recorder = Context(), Recorder()
    await vllm_engine.submit(counting(1, 5), context, recorder)
    await recorder.end()
    assert not context._callbacks
    context.kill()
    assert recorder.error is None


async def test_cancelled_before_it_began(vllm_engine: VllmEngine) -> None:
    stopped, recorder = Context(), Recorder()
    stopped.stop()
    await vllm_engine.submit(counting(1, 400), stopped, recorder)
    await recorder.end()
    assert isinstance(recorder.events[0], Started)
    assert isinstance(recorder.events[-1], Finished)
    assert recorder.events[-1].reason == "cancelled"
    killed, recorder = Context(), Recorder()
    killed.kill()
    with pytest.raises(Cancelled):
        await vllm_engine.submit(counting(1, 400), killed, recorder)
    assert recorder.events == []
    assert recorder.error is None
    await eventually(lambda: vllm_engine.load() == Load())


async def test_submit_that_is_cancelled_leaves_nothing(vllm_engine: VllmEngine) -> None:
    for turns in range(8):
        recorder = Recorder()
        task = asyncio.create_task(vllm_engine.submit(counting(1, 400), Context(), recorder))
        for _ in range(turns):
            await asyncio.sleep(0)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
            assert recorder.events == []
    await eventually(lambda: vllm_engine.load() == Load())


async def test_submit_that_is_cancelled_while_its_prompt_comes_is_cancelled(
    vllm_engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.11 loses a cancel that comes in the turn in which what `asyncio.wait_for` waits for is done."""
    online = vllm_engine._working()._rendering.online
    render = online.render_chat

    async def rendered(chat: object) -> object:
        result = await render(chat)
        made: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(lambda: (made.set_result(result), task.cancel()))
        return await asyncio.wait_for(made, 10.0)

    monkeypatch.setattr(online, "render_chat", rendered)
    recorder = Recorder()
    task = asyncio.create_task(vllm_engine.submit(counting(1, 400), Context(), recorder))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorder.events == []
    assert vllm_engine.load() == Load()


async def cancelled_from_inside(engine: VllmEngine, how: str, said: str) -> None:
    """Cancels from inside of the event that says this, or of Started."""
    context = Context()

    def cancel(event: Event) -> None:
        if text_of(event).strip() == said:
            getattr(context, how)()

    recorder = Recorder(cancel)
    await engine.submit(counting(1, 5, max_tokens=20), context, recorder)
    await recorder.end()


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_sink_that_cancels_from_inside_hurts_nobody(vllm_engine: VllmEngine, how: str) -> None:
    bystander = asyncio.create_task(ask(vllm_engine, counting(1, 300)))
    for said in ("", "1", "5"):  # from inside of Started, the first token, the last one
        await cancelled_from_inside(vllm_engine, how, said)
    assert (await bystander).text == counted(1, 300)


async def test_sink_that_raises_hurts_nobody(vllm_engine: VllmEngine) -> None:
    def stumble(event: Event) -> None:
        if isinstance(event, TextDelta):
            raise RuntimeError("a bug")

    bystander = asyncio.create_task(ask(vllm_engine, counting(1, 300)))
    recorder = Recorder(stumble)
    await vllm_engine.submit(counting(1, 50), Context(), recorder)
    await recorder.end()
    assert isinstance(recorder.error, EngineFailed)
    assert (await bystander).text == counted(1, 300)
    await eventually(lambda: vllm_engine.load() == Load())
