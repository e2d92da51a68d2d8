from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from deployments.routing.prefix_index import PrefixIndex

SLOTS = 70  # More than a machine word has bits.

# Prompts as paths in a small tree, so that many begin alike: a prefix is known by its path.
paths = st.lists(st.integers(0, 1), max_size=12)
slots = st.integers(0, SLOTS - 1)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), paths, slots),
        st.tuples(st.just("remove"), paths, slots),
        st.tuples(st.just("clear"), st.just([]), slots),
    ),
    max_size=40,
)


def chain(path: list[int]) -> list[int]:
    return [int("1" + "".join(map(str, path[:length])), 2) for length in range(1, len(path) + 1)]


class Model:
    """The same, by sets."""

    def __init__(self) -> None:
        self.held = defaultdict[int, set[int]](set)

    def do(self, index: PrefixIndex, step: tuple[str, list[int], int]) -> None:
        what, path, slot = step
        if what == "add":
            index.add(chain(path), slot)
            self.held[slot].update(chain(path))
        elif what == "remove":
            # An engine never keeps what came after a block that it gave up.
            first = chain(path)[-1:]
            gone = [p for p in self.held[slot] if first and bin(p)[2:].startswith(bin(first[0])[2:])]
            index.remove(gone, slot)
            self.held[slot].difference_update(gone)
        else:
            index.clear(slot)
            self.held[slot].clear()

    def depth(self, path: list[int], slot: int) -> int:
        prefixes = chain(path)
        return next((at for at, prefix in enumerate(prefixes) if prefix not in self.held[slot]), len(prefixes))


@given(steps=steps, asked=paths, among=st.sets(slots))
def test_says_how_far_each_slot_holds_a_prompt(
    steps: list[tuple[str, list[int], int]], asked: list[int], among: set[int]
) -> None:
    index, model = PrefixIndex(), Model()
    for step in steps:
        model.do(index, step)
    depths = index.depths(chain(asked), sum(1 << slot for slot in among))
    said = {slot: depth for depth, some in depths for slot in range(SLOTS) if some >> slot & 1}
    assert said == {slot: model.depth(asked, slot) for slot in among}
    assert sum(some.bit_count() for _, some in depths) == len(among)
    assert [depth for depth, _ in depths] == sorted(depth for depth, _ in depths)


@given(
    held=st.lists(st.sets(st.integers(0, 9)), max_size=150),
    among=st.sets(st.integers(0, 9)),
    most=st.integers(2, 200),
)
def test_each_slot_has_one_depth_even_where_some_of_its_prefixes_are_forgotten(
    held: list[set[int]], among: set[int], most: int
) -> None:
    index, chain = PrefixIndex(most), range(1, len(held) + 1)
    for prefix, some in zip(chain, held, strict=True):
        for slot in some:
            index.add([prefix], slot)
    said = index.depths(chain, sum(1 << slot for slot in among))
    depths = {slot: depth for depth, some in said for slot in range(10) if some >> slot & 1}
    assert set(depths) == among
    assert sum(some.bit_count() for _, some in said) == len(among)
    assert [depth for depth, _ in said] == sorted({depth for depth, _ in said})
    # It holds the last prefix that is counted, whatever is missing before.
    assert all(not depth or index.holders(depth) >> slot & 1 for slot, depth in depths.items())


@given(ends=st.lists(st.integers(0, 400), min_size=1, max_size=SLOTS), length=st.integers(0, 400))
def test_says_how_far_each_of_many_slots_holds_a_long_prompt(ends: list[int], length: int) -> None:
    index, chain = PrefixIndex(), range(1, 401)
    for slot, end in enumerate(ends):
        index.add(chain[:end], slot)
    said = index.depths(chain[:length], (1 << len(ends)) - 1)
    depths = {slot: depth for depth, some in said for slot in range(SLOTS) if some >> slot & 1}
    assert depths == {slot: min(end, length) for slot, end in enumerate(ends)}


@given(steps=steps)
def test_knows_who_holds_each_prefix(steps: list[tuple[str, list[int], int]]) -> None:
    index, model = PrefixIndex(), Model()
    for step in steps:
        model.do(index, step)
    holders = defaultdict[int, int](int)
    for slot, prefixes in model.held.items():
        for prefix in prefixes:
            holders[prefix] |= 1 << slot
    assert all(index.holders(prefix) == held for prefix, held in holders.items())
    assert len(index) == len(holders)


@given(added=st.lists(st.tuples(paths, slots), max_size=60), most=st.integers(2, 30))
def test_forgets_the_oldest_and_no_prefix_before_what_follows_it(added: list[tuple[list[int], int]], most: int) -> None:
    index = PrefixIndex(most)
    for path, slot in added:
        index.add(chain(path), slot)
        assert len(index) <= most
    for path, _ in added:
        held = [bool(index.holders(prefix)) for prefix in chain(path)]
        assert held == sorted(held, reverse=True)


def test_what_was_put_in_last_is_there() -> None:
    index = PrefixIndex(1000)
    for start in range(0, 5000, 100):
        index.add(range(start, start + 100), 3)
        assert index.depths(range(start, start + 100), 1 << 3) == [(100, 1 << 3)]


def test_a_million_prefixes_take_less_than_a_hundred_megabytes() -> None:
    index = PrefixIndex(1_000_000)
    for start in range(2**40, 2**40 + 1_000_000, 500):
        index.add(range(start, start + 500), start % 64)
    assert len(index) == 1_000_000
    generations = (index._young, index._old)
    keys = sum(len(one) for one in generations) * (2**59).__sizeof__()
    sets = sum(bits.__sizeof__() for bits in index._sets)
    assert sum(one.__sizeof__() for one in generations) + keys + sets < 100_000_000
