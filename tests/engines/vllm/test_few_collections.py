"""Garbage is collected less often only while something is imported."""

import gc
from collections.abc import Iterator

import pytest

from engines.vllm.few_collections import few_collections


@pytest.fixture(autouse=True)
def usual() -> Iterator[tuple[int, int, int]]:
    """What is usual in this process."""
    before = gc.get_threshold()
    yield before
    gc.set_threshold(*before)


def test_few_while_any_import_goes_on(usual: tuple[int, int, int]) -> None:
    first, second = few_collections(), few_collections()
    with first:
        assert gc.get_threshold()[0] > usual[0]
        second.__enter__()
    # As two engines that boot at once.
    assert gc.get_threshold()[0] > usual[0]
    second.__exit__(None, None, None)
    assert gc.get_threshold() == usual


def test_what_was_chosen_meanwhile_stays() -> None:
    with few_collections():
        gc.set_threshold(50_000, 20, 20)
    assert gc.get_threshold() == (50_000, 20, 20)


def test_usual_again_where_the_import_fails(usual: tuple[int, int, int]) -> None:
    with pytest.raises(ImportError), few_collections():
        raise ImportError("not installed")
    assert gc.get_threshold() == usual
