"""Which requests a core's steps have taken up: what its host reads of it."""

from multiprocessing import get_context
from pathlib import Path

from engines.vllm.step_record import StepRecord, StepWriter, key_of


def _write(path: Path, core: int, first: int, last: int) -> None:
    StepWriter(path, core).add(f"request-{number}" for number in range(first, last + 1))


def keys(first: int, last: int) -> set[int]:
    return {key_of(f"request-{number}") for number in range(first, last + 1)}


def test_what_cores_have_written_is_read_once_also_when_they_are_gone() -> None:
    record = StepRecord(cores=2)
    cores = [
        get_context("spawn").Process(target=_write, args=(record.path, core, 100 * core + 1, 100 * core + 3))
        for core in (0, 1)
    ]
    for core in cores:
        core.start()
    for core in cores:
        core.join(60)
    assert record.taken_up() == keys(1, 3) | keys(101, 103)
    assert record.taken_up() == set()


def test_of_more_than_it_holds_the_latest_are_kept() -> None:
    record = StepRecord(cores=1)
    writer = StepWriter(record.path, 0)
    writer.add(f"request-{number}" for number in range(20_000))
    assert record.taken_up() == keys(20_000 - 8192, 19_999)
    writer.add(["request-20000"])
    assert record.taken_up() == keys(20_000, 20_000)
