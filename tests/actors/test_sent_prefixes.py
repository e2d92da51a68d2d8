from hypothesis import given
from hypothesis import strategies as st

from actors.sent_prefixes import MAX_PREFIXES, SentPrefixes
from engines.prefix_chunks import pack, unpack


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_numbers_survive(numbers: list[int]) -> None:
    assert unpack(pack(numbers)) == numbers


def test_all_are_told_in_the_order_of_their_use_and_ends_before_what_they_end() -> None:
    sent = SentPrefixes(1000)
    sent.add(pack([1, 2, 3]), 0)
    sent.add(pack([7, 8]), 10)
    sent.add(pack([1, 2, 4]), 20)
    prefixes, written = map(unpack, sent.all())
    assert prefixes == [3, 8, 7, 4, 2, 1]
    assert written == [0, 10, 10, 20, 20, 20]


def test_what_a_full_cache_ago_was_used_is_forgotten() -> None:
    sent = SentPrefixes(1000)
    sent.add(pack([1, 2]), 0)
    sent.add(pack([3]), 1000)
    assert len(sent) == 3
    sent.add(pack([4]), 1001)
    assert unpack(sent.all()[0]) == [3, 4]


def test_there_is_an_end_to_them_where_the_cache_does_not_say_what_it_holds() -> None:
    sent = SentPrefixes()
    for start in range(0, MAX_PREFIXES + 5000, 1000):
        sent.add(pack(list(range(start, start + 1000))), start)
    assert len(sent) == MAX_PREFIXES


def test_a_cache_that_was_emptied_is_worth_telling_of() -> None:
    sent = SentPrefixes()
    assert not sent.is_worth_telling
    sent.add(pack([1]), 0)
    assert sent.is_worth_telling
    sent.clear()
    assert sent.is_worth_telling and not unpack(sent.all()[0])
