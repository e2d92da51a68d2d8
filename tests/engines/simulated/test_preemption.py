"""Who gives way when the KV cache is full."""

import pytest

from engines.context import Context
from engines.requests import GenerateRequest
from engines.simulated.answer import writer
from engines.simulated.kv_cache import KVCache
from engines.simulated.output import Output
from engines.simulated.scheduler import Scheduler, Sequence
from engines.simulated.stream import SimulatedStream
from engines.simulated.tokenizer import encode
from tests.contract.asking import Recorder

BLOCK = 4


def arrived(scheduler: Scheduler, arrival: int, priority: int) -> Sequence:
    request = GenerateRequest(model="model", prompt=f"river {arrival}")
    prompt = encode(f"river {arrival} sea sky")
    output = Output(request, 0, max_tokens=100, thinking=False, call_prefix="")
    stream = SimulatedStream("engine", Context(), Recorder(), scheduler, lambda _: None)
    sequence = Sequence((priority, arrival, 0), stream, prompt, [], writer(request, prompt, 0, "request"), output, [])
    scheduler.add(sequence)
    return sequence


def step(scheduler: Scheduler) -> list[Sequence]:
    """One step; every sequence that is through with its tokens gets another."""
    batch = scheduler.schedule()
    for sequence, tokens in batch:
        assert sequence.blocks, "what is in a step has its blocks"
        if scheduler.computed(sequence, tokens):
            sequence.advance()
    return [sequence for sequence, _ in batch]


@pytest.mark.parametrize(("priorities", "gives_way"), [((0, 0), 1), ((0, -5), 0), ((-5, 0), 1)])
async def test_the_last_in_the_order_of_service_gives_way(priorities: tuple[int, int], gives_way: int) -> None:
    scheduler = Scheduler(KVCache(5), block_size=BLOCK, max_num_seqs=8, max_batched_tokens=64)
    sequences = []
    for arrival, priority in enumerate(priorities):
        sequences.append(arrived(scheduler, arrival, priority))
        step(scheduler)  # Each runs before the next arrives.
    stays = sequences[1 - gives_way]
    while not scheduler.preemptions:
        assert len(step(scheduler)) >= 1
    assert scheduler.running == [stays]
    assert scheduler.waiting == [sequences[gives_way]]
    assert not sequences[gives_way].blocks


async def test_who_gave_way_is_computed_again_and_goes_on() -> None:
    cache = KVCache(5)
    scheduler = Scheduler(cache, block_size=BLOCK, max_num_seqs=8, max_batched_tokens=64)
    first, second = arrived(scheduler, 0, 0), arrived(scheduler, 1, 0)
    while not scheduler.preemptions:
        step(scheduler)
    tokens = list(second.tokens)
    scheduler.remove(first)
    assert step(scheduler) == [second]
    assert second.tokens[:-1] == tokens
    assert second.computed == len(tokens)
    scheduler.remove(second)
    assert cache.free == cache.num_blocks and not scheduler.busy
