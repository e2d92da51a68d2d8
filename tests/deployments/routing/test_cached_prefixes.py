from dataclasses import dataclass

import pytest

from deployments.routing.cached_prefixes import CONFIRM_S, HEARD_S, LEAST_TOKENS, MAX_PREFIXES, CachedPrefixes, Sending
from deployments.routing.prompt_chain import PromptChain
from engines.events import Usage
from tests.clock import Clock


@dataclass(eq=False)
class Caching:
    id: str
    cache_tokens: int = 10_000
    written_tokens: int = 0
    incarnation: int = 0
    reports_cache: bool = False
    cache_block_tokens: int = 1


def prompt(*blocks: int) -> PromptChain:
    """Of blocks of a hundred tokens."""
    prefixes = [hash(blocks[: length + 1]) >> 4 & 2**60 - 1 for length in range(len(blocks))]
    return PromptChain(prefixes, [100 * (at + 1) for at in range(len(blocks))], 100 * len(blocks), is_text=False)


def held(chain: PromptChain, first: int = 0, last: int | None = None) -> dict[int, int]:
    """Some of its prefixes as an instance tells of them."""
    return dict(list(zip(chain.prefixes, chain.ends, strict=True))[first:last])


def usage(chain: PromptChain, cached: int = 0, generated: int = 10) -> Usage:
    return Usage(chain.tokens, generated, cached)


def serve(prefixes: CachedPrefixes, chain: PromptChain, instance: Caching, cached: int | None = None) -> None:
    """A prompt from its sending to its end; the engine finds what is expected, unless it is said."""
    [expected] = prefixes.expected(chain, [instance])
    sending = prefixes.send(chain, instance)
    sending.began()
    found = int(expected) if cached is None else cached
    instance.written_tokens += chain.tokens - found + 10
    sending.finished(usage(chain, found))


def test_nothing_is_expected_of_instances_that_were_sent_nothing() -> None:
    assert CachedPrefixes().expected(prompt(1, 2), [Caching("a"), Caching("b")]) == [0, 0]


def test_what_was_sent_to_an_instance_is_expected_there_and_nowhere_else() -> None:
    prefixes, a, b = CachedPrefixes(), Caching("a"), Caching("b")
    serve(prefixes, prompt(1, 2, 3), a)
    serve(prefixes, prompt(1), b)
    assert prefixes.expected(prompt(1, 2, 4), [b, a]) == [100, 200]
    assert prefixes.expected(prompt(5), [b, a]) == [0, 0]


def test_the_siblings_of_a_burst_expect_what_the_first_has_not_got_yet() -> None:
    prefixes, a = CachedPrefixes(), Caching("a")
    prefixes.send(prompt(1, 2), a)
    assert prefixes.expected(prompt(1, 2), [a]) == [200]


def test_what_failed_before_its_first_token_is_not_expected() -> None:
    prefixes, a = CachedPrefixes(), Caching("a")
    serve(prefixes, prompt(1), a)
    prefixes.send(prompt(1, 2), a).failed()
    assert prefixes.expected(prompt(1, 2), [a]) == [100]


def test_what_another_prompt_had_computed_stays_when_the_first_that_brought_it_fails() -> None:
    prefixes, a = CachedPrefixes(), Caching("a")
    first, second = prefixes.send(prompt(1, 2), a), prefixes.send(prompt(1, 2), a)
    first.began()
    second.failed()
    assert prefixes.expected(prompt(1, 2), [a]) == [200]


def test_a_prefix_is_gone_when_a_whole_cache_was_written_after_its_last_use() -> None:
    prefixes, a = CachedPrefixes(), Caching("a", cache_tokens=1000)
    serve(prefixes, prompt(1, 2), a)
    used_at = a.written_tokens
    a.written_tokens = used_at + 1000  # By what others sent there, too.
    assert prefixes.expected(prompt(1, 2), [a]) == [200]
    a.written_tokens += 1
    assert prefixes.expected(prompt(1, 2), [a]) == [0]


def test_an_engine_that_does_not_tell_what_was_written_is_known_by_what_it_was_sent() -> None:
    prefixes = CachedPrefixes()
    for block in range(30):
        silent = Caching("a", cache_tokens=1000)
        sending = prefixes.send(prompt(block), silent)
        sending.began()
        sending.finished(usage(prompt(block)))
    assert prefixes.expected(prompt(29), [silent]) == [100]
    assert prefixes.expected(prompt(0), [silent]) == [0]


def test_a_successor_of_the_same_id_has_an_empty_cache() -> None:
    prefixes, a = CachedPrefixes(), Caching("a")
    serve(prefixes, prompt(1), a)
    successor = Caching("a", incarnation=1)
    assert prefixes.expected(prompt(1), [successor]) == [0]
    late = prefixes.send(prompt(2), successor)
    # What was on its way to the first is of no meaning any more.
    prefixes.send(prompt(3), a).failed()
    prefixes.hear("a", 0, prompt(4).prefixes, 0)
    late.began()
    assert prefixes.expected(prompt(2), [successor]) == [100]
    assert prefixes.expected(prompt(4), [successor]) == [0]


def test_an_instance_that_is_gone_is_forgotten_and_its_place_is_taken_by_another() -> None:
    prefixes, a, b, c = CachedPrefixes(), Caching("a"), Caching("b"), Caching("c")
    under_way = prefixes.send(prompt(9), a)
    serve(prefixes, prompt(1), a)
    serve(prefixes, prompt(2), b)
    prefixes.keep_only({"b", "c"})
    assert len(prefixes) == 1
    serve(prefixes, prompt(3), c)
    under_way.failed()
    assert prefixes.expected(prompt(1), [b, c]) == [0, 0]
    assert prefixes.expected(prompt(3), [b, c]) == [0, 100]


def test_what_other_routers_sent_is_heard_of() -> None:
    prefixes, a = CachedPrefixes(), Caching("a", cache_tokens=1000)
    prefixes.hear("a", 0, prompt(1, 2).prefixes, 500)
    assert prefixes.expected(prompt(1, 2), [a]) == [200]
    a.written_tokens = 1501
    assert prefixes.expected(prompt(1, 2), [a]) == [0]


def test_a_snapshot_takes_the_place_of_what_was_known() -> None:
    prefixes, a = CachedPrefixes(), Caching("a", cache_tokens=1000, written_tokens=900)
    serve(prefixes, prompt(1), a)
    told = [*prompt(2).prefixes, *prompt(3, 4).prefixes[::-1]]
    prefixes.hear_all("a", 0, told, [100, 800, 800])
    assert [prefixes.expected(prompt(*blocks), [a]) for blocks in ((1,), (2,), (3, 4))] == [[0], [100], [200]]
    a.written_tokens = 1200
    assert [prefixes.expected(prompt(*blocks), [a]) for blocks in ((2,), (3, 4))] == [[0], [200]]


def test_prompts_whose_beginnings_are_changed_teach_that_expectations_are_worth_less() -> None:
    prefixes, a = CachedPrefixes(), Caching("a")
    serve(prefixes, prompt(1, 2), a)
    for _ in range(200):
        serve(prefixes, prompt(1, 2), a, cached=100)
    assert prefixes.trust == pytest.approx(0.5, abs=0.05)
    assert prefixes.expected(prompt(1, 2), [a])[0] == pytest.approx(100, abs=10)
    for _ in range(200):
        serve(prefixes, prompt(1, 2), a, cached=200)
    assert prefixes.trust > 0.95


def test_old_prefixes_that_are_missed_teach_that_the_cache_holds_less() -> None:
    prefixes, a = CachedPrefixes(), Caching("a", cache_tokens=100_000)
    for turn in range(40):
        serve(prefixes, prompt(turn), a, cached=0)
        a.written_tokens += 40_000
        serve(prefixes, prompt(turn), a, cached=0)
    assert prefixes.trust > 0.9
    serve(prefixes, prompt(99), a, cached=0)
    a.written_tokens += 40_000
    assert prefixes.expected(prompt(99), [a]) == [0]


def test_what_a_sibling_that_was_not_computed_yet_did_not_give_teaches_nothing() -> None:
    prefixes, a = CachedPrefixes(), Caching("a")
    sendings: list[Sending] = [prefixes.send(prompt(1), a) for _ in range(50)]
    for sending in sendings:
        sending.began()
        sending.finished(usage(prompt(1), cached=0))
    assert prefixes.trust == 1.0


def test_text_is_reckoned_better_after_engines_have_read_some() -> None:
    prefixes, a = CachedPrefixes(), Caching("a")
    text = PromptChain([1], [100], 100)
    for _ in range(200):
        sending = prefixes.send(text, a)
        sending.read(150)
        sending.began()
    assert prefixes.prompt_tokens(text) == pytest.approx(150, abs=2)
    assert prefixes.expected(text, [a])[0] == pytest.approx(150, abs=2)
    assert prefixes.prompt_tokens(prompt(1)) == 100


def test_there_is_an_end_to_what_is_kept_of_one_instance() -> None:
    prefixes, a = CachedPrefixes(), Caching("a", cache_tokens=10**12)
    for start in range(0, MAX_PREFIXES + 3000, 1000):
        some = list(range(start, start + 1000))
        prefixes.send(PromptChain(some, some, start), a).began()
    first = PromptChain([0], [100], 100, is_text=False)
    last = PromptChain([MAX_PREFIXES + 2000], [100], 100, is_text=False)
    assert prefixes.expected(first, [a]) == [0]
    assert prefixes.expected(last, [a]) == [100]


def test_an_instance_that_says_what_it_has_cached_is_taken_at_its_word() -> None:
    prefixes, a = CachedPrefixes(), Caching("a")
    chain = prompt(1, 2, 3)
    prefixes.hear_cached("a", 0, 7, held(chain, 0, 2))
    assert prefixes.expected(chain, [a]) == [200]
    prefixes.hear_change("a", 0, 8, held(chain, 2), [])
    assert prefixes.expected(chain, [a]) == [300]
    a.written_tokens = 10**9
    assert prefixes.expected(chain, [a]) == [300]
    prefixes.hear_change("a", 0, 9, {}, chain.prefixes[1:])
    assert prefixes.expected(chain, [a]) == [100]
    prefixes.hear_change("a", 0, 10, held(chain, 1, 2), chain.prefixes[:2])
    assert prefixes.expected(prompt(1), [a]) == [0]
    assert prefixes.resyncs == 0


def test_a_change_that_is_missed_leaves_nothing_that_may_be_gone_until_all_is_heard_anew() -> None:
    prefixes, a = CachedPrefixes(), Caching("a")
    chain, other = prompt(1, 2, 3), prompt(4)
    prefixes.hear_cached("a", 0, 1, held(chain))
    prefixes.hear_change("a", 0, 1, {}, chain.prefixes)
    assert prefixes.expected(chain, [a]) == [300]
    prefixes.hear_change("a", 0, 3, held(other), [])
    assert (prefixes.expected(chain, [a]), prefixes.expected(other, [a])) == ([0], [100])
    assert prefixes.resyncs == 1
    prefixes.hear_cached("a", 0, 4, held(chain))
    assert (prefixes.expected(chain, [a]), prefixes.expected(other, [a])) == ([300], [0])


def test_what_was_sent_counts_as_cached_until_the_instance_should_have_said_so() -> None:
    clock = Clock()
    prefixes, a = CachedPrefixes(clock), Caching("a")
    prefixes.hear_cached("a", 0, 0, {})
    confirmed, lost = prompt(1), prompt(2)
    sendings = [prefixes.send(chain, a) for chain in (confirmed, lost)]
    clock.now_s += 3600
    assert prefixes.expected(lost, [a]) == [100]
    for sending in sendings:
        sending.began()
    prefixes.hear_change("a", 0, 1, held(confirmed), [])
    clock.now_s += CONFIRM_S
    assert (prefixes.expected(confirmed, [a]), prefixes.expected(lost, [a])) == ([100], [0])


def test_what_another_router_sent_to_an_instance_that_tells_is_expected_for_a_while() -> None:
    clock = Clock()
    prefixes, a = CachedPrefixes(clock), Caching("a")
    prefixes.hear_cached("a", 0, 0, {})
    prefixes.hear("a", 0, prompt(1).prefixes, 0)
    assert prefixes.expected(prompt(1), [a]) == [100]
    clock.now_s += HEARD_S
    assert prefixes.expected(prompt(1), [a]) == [0]


def test_a_snapshot_keeps_what_is_on_its_way() -> None:
    prefixes, a = CachedPrefixes(), Caching("a")
    prefixes.hear_cached("a", 0, 0, held(prompt(1)))
    sending = prefixes.send(prompt(2), a)
    prefixes.hear_cached("a", 0, 9, {})
    assert (prefixes.expected(prompt(1), [a]), prefixes.expected(prompt(2), [a])) == ([0], [100])
    sending.failed()
    assert prefixes.expected(prompt(2), [a]) == [0]


def test_what_fills_no_block_is_not_expected() -> None:
    prefixes, a = CachedPrefixes(), Caching("a")
    short = PromptChain([1], [LEAST_TOKENS - 1], LEAST_TOKENS - 1)
    prefixes.send(short, a)
    assert prefixes.expected(short, [a]) == [0]


def test_of_what_an_instance_has_told_its_own_tokens_count_and_not_what_the_text_is_reckoned_to_be() -> None:
    prefixes, a = CachedPrefixes(), Caching("a", cache_block_tokens=16)
    chain = PromptChain([1, 2, 3], [100, 200, 300], 300)
    prefixes.hear_cached("a", 0, 0, {1: 128, 2: 240})
    assert prefixes.expected(chain, [a]) == [240]
    sending = prefixes.send(chain, a)
    # What is on its way is reckoned: 300 tokens are 18 blocks and a part of one.
    assert (sending.expected, prefixes.expected(chain, [a])) == (240, [288])
    prefixes.hear_change("a", 0, 1, {3: 368}, [])
    assert prefixes.expected(chain, [a]) == [368]
    prefixes.hear_change("a", 0, 2, {2: 224}, [3])
    assert prefixes.expected(chain, [a]) == [224]


def test_what_is_found_beside_what_was_told_teaches_what_a_told_token_is_worth() -> None:
    prefixes, a = CachedPrefixes(), Caching("a", cache_block_tokens=16)
    chain = PromptChain([1], [1000], 2000)
    prefixes.hear_cached("a", 0, 0, {1: 1600})
    for _ in range(500):
        prefixes.send(chain, a).finished(usage(chain, cached=1520))
    assert prefixes.trust == pytest.approx(0.95, abs=0.01)
    assert prefixes.expected(chain, [a])[0] == pytest.approx(1520, abs=16)
    for _ in range(500):
        prefixes.send(chain, a).finished(usage(chain, cached=1800))
    assert prefixes.trust == pytest.approx(1.0, abs=0.01)
    assert prefixes.expected(chain, [a])[0] <= 1600
