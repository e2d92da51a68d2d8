"""What each instance has cached.

Most instances say it (`hear_cached`, `hear_change`): it is known exactly, with how many tokens each prefix has there.
Changes are numbered; where one was missed, all is forgotten but what comes after it, until all is heard again.

Of an engine that does not say, it is reckoned from what was sent there. All engines keep the blocks that were used
last, and each instance says how many tokens its cache holds and how many were put into it so far, whoever sent them. So
a prefix is there until as many tokens came after its last use: for each instance the prefixes are kept in the order of
their use, each with how much had been put in by then. Of what other router replicas sent there the instance tells
(`hear`).

What was just sent counts as cached before the engine has computed it, so that the siblings of a burst stay together. It
is forgotten if its request ends without a token, and, where the instance would say so, if that does not say in time
that it is cached.

Each answer says how much of its prompt was really cached, and puts two things right. Where old prefixes are missed,
the cache holds less than was thought (it shares its memory with what runs). Where fresh ones are, the chat template
changes earlier messages, or the engine caches nothing: then all that is expected is worth less.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from math import inf

from deployments.routing.instance_cache import UNSAID, CachingInstance, InstanceCache
from deployments.routing.prefix_index import PrefixIndex
from deployments.routing.prompt_chain import PromptChain
from engines.events import Usage

MAX_PREFIXES = 100_000
"""Of one instance: with chunks of 256 tokens, a cache of 25 million."""
_LEAST_SHARE = 1 / 16
"""Of what a cache says that it holds: it is not taken for smaller than that."""
_SHRINK, _GROW = 0.9, 1.01
_OLD = 0.25
"""A prefix is old when that share of the cache was put in since its last use."""
_LONG_TOKENS = 512
_LATELY = 1 / 32
"""Weight of an answer in what is learned."""
_MAX_NUMBERS = 65_536
"""Numbers of tokens of which one is kept for all prefixes: as many as a million tokens have blocks of 16."""
LEAST_TOKENS = 32
"""What is shorter fills no block, or hardly one: nothing of it is expected."""
CONFIRM_S = 2.0
"""How long after its first token an instance may take to say that a prompt is cached."""
HEARD_S = 30.0
"""The same for what another router has sent: when its first token comes, nobody tells."""


class CachedPrefixes:
    """The prefixes that the instances of one model have cached.

    Args:
        clock: Seconds that only grow.

    Attributes:
        trust: What an expected token is worth, by what has come of others: 1 is what it says.
        tokens_per_reckoned: What a token is really that was reckoned from text.
        predicted_tokens, cached_tokens: Expected, and really found, over all answers so far.
        resyncs: How often all was heard anew of an instance, or forgotten, because changes had been missed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._index = PrefixIndex()
        self._caches: dict[str, InstanceCache] = {}
        self._free: list[int] = []
        self._numbers: dict[int, int] = {}
        self.trust = 1.0
        self.tokens_per_reckoned = 1.0
        # Of the texts that were read lately; a long one counts for more.
        self._read_tokens = 0.0
        self._reckoned_tokens = 0.0
        self.predicted_tokens = 0
        self.cached_tokens = 0
        self.resyncs = 0

    def __len__(self) -> int:
        """How many instances it knows."""
        return len(self._caches)

    def prompt_tokens(self, chain: PromptChain) -> float:
        """How many tokens a prompt has, as well as is known."""
        return chain.tokens * self.tokens_per_reckoned if chain.is_text else float(chain.tokens)

    def expected(self, chain: PromptChain, instances: Sequence[CachingInstance]) -> list[float]:
        """How many tokens of a prompt each of the instances has cached, by its place in the list."""
        expected = [0.0] * len(instances)
        if not chain.prefixes or not self._caches:
            return expected
        asked: dict[int, tuple[int, InstanceCache]] = {}
        slots = 0
        now_s, caches = self._clock(), self._caches
        for place, instance in enumerate(instances):
            cache = caches.get(instance.id)
            if cache is not None and cache.incarnation == instance.incarnation:
                if cache.change is None or cache.first_due_s <= now_s:
                    self._forget_old(cache, instance)
                bit = 1 << cache.slot
                asked[bit] = place, cache
                slots |= bit
        trust = self.trust
        worth = trust * (self.tokens_per_reckoned if chain.is_text else 1.0)
        most = self.prompt_tokens(chain)
        for depth, some in self._index.depths(chain.prefixes, slots):
            if not depth:
                continue
            last, end = chain.prefixes[depth - 1], chain.ends[depth - 1]
            reckoned = min(worth * end, most) if end >= LEAST_TOKENS else 0.0
            while some:
                bit = some & -some
                some ^= bit
                place, cache = asked[bit]
                said = cache.said(last)
                if said is None:
                    expected[place] = reckoned - reckoned % instances[place].cache_block_tokens
                else:
                    expected[place] = trust * said
        return expected

    def send(self, chain: PromptChain, instance: CachingInstance) -> "Sending":
        """A prompt is about to be sent to an instance, which then has it cached."""
        cache = self._known(instance.id, instance.incarnation)
        if cache is None:
            # It has a successor already, and takes no more.
            return Sending(self, InstanceCache(0, instance.incarnation), instance, PromptChain([], [], chain.tokens), 0)
        self._forget_old(cache, instance)
        prefixes, used = chain.prefixes, cache.used
        [expected] = self.expected(chain, [instance])
        depth = next((at for at, prefix in enumerate(prefixes) if prefix not in used), len(prefixes))
        sending = Sending(self, cache, instance, chain, depth)
        if depth:
            last = prefixes[depth - 1]
            if not cache.is_exact:
                sending.age = cache.written(instance) - used[last]
            sending.is_sure = last not in cache.predicted
            sending.expected = int(expected)
            sending.said = cache.said(last)
        sending.new = [prefix for prefix in prefixes[depth:] if prefix not in used]
        cache.predicted.update(dict.fromkeys(sending.new, inf))
        self._use(cache, cache.written(instance), prefixes)
        return sending

    def hear(self, id: str, incarnation: int, prefixes: list[int], written_tokens: int) -> None:
        """Another router replica has sent a prompt to an instance.

        Args:
            id: The instance's.
            incarnation: Likewise.
            prefixes: The prompt's, the shortest first.
            written_tokens: What had been put into its cache by then.
        """
        cache = self._known(id, incarnation)
        if cache is None:
            return
        if cache.is_exact:
            until_s = self._clock() + HEARD_S
            for prefix in prefixes:
                if prefix not in cache.used:
                    cache.expect(prefix, until_s)
        self._use(cache, written_tokens, prefixes)

    def hear_all(self, id: str, incarnation: int, prefixes: list[int], written_tokens: list[int]) -> None:
        """An instance tells of all prompts that were sent there: what is known of it so far is of no more use.

        Args:
            id: The instance's.
            incarnation: Likewise.
            prefixes: The one that was used longest ago first.
            written_tokens: For each of them, what had been put into its cache by then.
        """
        cache = self._known(id, incarnation)
        if cache is not None:
            self._replace(cache, prefixes, written_tokens)

    def hear_cached(self, id: str, incarnation: int, change: int, cached: Mapping[int, int]) -> None:
        """An instance says all that it has cached.

        Args:
            id: The instance's.
            incarnation: Likewise.
            change: The number of its last change.
            cached: The prefixes that are, the one that was used longest ago first; each with its tokens of full blocks.
        """
        cache = self._known(id, incarnation)
        if cache is None:
            return
        self.resyncs += cache.is_exact
        cache.change = change
        share = self._sharing()
        self._replace(cache, list(cached), [share(tokens, tokens) for tokens in cached.values()])

    def hear_change(
        self, id: str, incarnation: int, change: int, cached: Mapping[int, int], evicted: list[int]
    ) -> None:
        """An instance says what has changed in its cache.

        Args:
            id: The instance's.
            incarnation: Likewise.
            change: Its number: one more than the last.
            cached: The prefixes that are cached now, each with its tokens of full blocks.
            evicted: What is no more, unless it is among those.
        """
        cache = self._known(id, incarnation)
        if cache is None:
            return
        if cache.change is not None and change <= cache.change:
            return
        if cache.change is None or change > cache.change + 1:
            # What was evicted meanwhile must not be taken for cached.
            self.resyncs += cache.is_exact
            cache.change = change
            self._replace(cache, [], [])
        cache.change = change
        used, predicted = cache.used, cache.predicted
        for prefix in evicted:
            used.pop(prefix, None)
            predicted.pop(prefix, None)
        self._index.remove(evicted, cache.slot)
        share = self._sharing()
        for prefix, tokens in cached.items():
            used[prefix] = share(tokens, tokens)
            predicted.pop(prefix, None)
        self._index.add(list(cached), cache.slot)
        self._keep_most(cache)

    def keep_only(self, ids: Collection[str]) -> None:
        """Forgets the instances that are not among these: they are gone."""
        for id in [id for id in self._caches if id not in ids]:
            self._drop(id)

    def _known(self, id: str, incarnation: int) -> InstanceCache | None:
        """The cache of an instance; None where that has a successor. A new one where it is the successor itself."""
        cache = self._caches.get(id)
        if cache is not None:
            if cache.incarnation >= incarnation:
                return cache if cache.incarnation == incarnation else None
            self._drop(id)
        slot = self._free.pop() if self._free else len(self._caches)
        cache = self._caches[id] = InstanceCache(slot, incarnation)
        return cache

    def _sharing(self) -> Callable[[int, int], int]:
        """Called with a number twice, gives the one int of that value: there are few, and a million prefixes."""
        if len(self._numbers) > _MAX_NUMBERS:
            self._numbers.clear()
        return self._numbers.setdefault

    def _replace(self, cache: InstanceCache, prefixes: list[int], written_tokens: list[int]) -> None:
        """These are all that it holds; what is on its way there stays as it is."""
        going = [prefix for prefix, until_s in cache.predicted.items() if until_s == inf]
        self._index.remove(list(cache.used), cache.slot)
        latest = UNSAID if cache.is_exact else written_tokens[-1] if written_tokens else 0
        cache.used = OrderedDict(zip(prefixes, written_tokens, strict=True))
        for prefix in going:
            cache.used.setdefault(prefix, latest)
        cache.predicted = dict.fromkeys((prefix for prefix in going), inf)
        for prefix in prefixes:
            cache.predicted.pop(prefix, None)
        self._index.add(list(cache.used)[::-1], cache.slot)
        self._keep_most(cache)

    def _drop(self, id: str) -> None:
        cache = self._caches.pop(id)
        self._index.remove(list(cache.used), cache.slot)
        cache.used.clear()
        cache.predicted.clear()
        self._free.append(cache.slot)

    def _use(self, cache: InstanceCache, written_tokens: int, prefixes: list[int]) -> None:
        """A prompt's prefixes are used: the longest first, so that none is kept longer than what it begins with."""
        used = cache.used
        if cache.is_exact:
            for prefix in reversed(prefixes):
                used.setdefault(prefix, UNSAID)
                used.move_to_end(prefix)
        else:
            for prefix in reversed(prefixes):
                used[prefix] = written_tokens
                used.move_to_end(prefix)
        self._index.add(prefixes, cache.slot)
        self._keep_most(cache)

    def _keep_most(self, cache: InstanceCache) -> None:
        over = len(cache.used) - MAX_PREFIXES
        if over > 0:
            self._forget(cache, over)

    def _forget_unconfirmed(self, cache: InstanceCache) -> None:
        now_s = self._clock()
        if now_s < cache.first_due_s:
            return
        gone = [prefix for prefix, until_s in cache.predicted.items() if until_s <= now_s]
        for prefix in gone:
            del cache.predicted[prefix]
            cache.used.pop(prefix, None)
        self._index.remove(gone, cache.slot)
        cache.first_due_s = min(cache.predicted.values(), default=inf)

    def _forget_old(self, cache: InstanceCache, instance: CachingInstance) -> None:
        if cache.is_exact:
            self._forget_unconfirmed(cache)
            return
        horizon = cache.written(instance) - cache.size(instance)
        if horizon <= 0:
            return
        old = 0
        for used in cache.used.values():
            if used >= horizon:
                break
            old += 1
        if old:
            self._forget(cache, old)

    def _forget(self, cache: InstanceCache, count: int) -> None:
        gone = [cache.used.popitem(last=False)[0] for _ in range(count)]
        for prefix in gone:
            cache.predicted.pop(prefix, None)
        self._index.remove(gone, cache.slot)


class Sending:
    """One prompt on its way, and what was expected of the cache where it goes.

    Attributes:
        new: The prefixes that the cache did not have.
        expected: How many of the prompt's tokens it was taken to have.
        age: Tokens put into the cache since the longest prefix that it had was used.
        is_sure: Whether that one was computed when the prompt was sent.
        said: How many tokens the instance had of that one, by its own word; None: it had said nothing of it.
    """

    __slots__ = ("_cache", "_chain", "_depth", "_instance", "_prefixes", "age", "expected", "is_sure", "new", "said")

    def __init__(
        self, prefixes: CachedPrefixes, cache: InstanceCache, instance: CachingInstance, chain: PromptChain, depth: int
    ) -> None:
        self._prefixes = prefixes
        self._cache = cache
        self._instance = instance
        self._chain = chain
        self._depth = depth
        self.new: list[int] = []
        self.expected = 0
        self.age = 0
        self.is_sure = True
        self.said: int | None = None

    def read(self, prompt_tokens: int) -> None:
        """The engine says how many tokens the prompt has."""
        if self._chain.is_text and self._chain.tokens:
            prefixes = self._prefixes
            prefixes._read_tokens += prompt_tokens - _LATELY * prefixes._read_tokens
            prefixes._reckoned_tokens += self._chain.tokens - _LATELY * prefixes._reckoned_tokens
            prefixes.tokens_per_reckoned = prefixes._read_tokens / prefixes._reckoned_tokens

    def began(self) -> None:
        """The first token is there: all of the prompt is cached."""
        cache = self._cache
        if not cache.is_exact:
            for prefix in self.new:
                cache.predicted.pop(prefix, None)
            return
        until_s = self._prefixes._clock() + CONFIRM_S
        for prefix in self.new:
            if prefix in cache.predicted:
                cache.expect(prefix, until_s)

    def failed(self) -> None:
        """It ended without a token: what was new is not cached, unless another prompt had it computed meanwhile."""
        cache = self._cache
        gone = [prefix for prefix in self.new if prefix in cache.predicted]
        for prefix in gone:
            del cache.predicted[prefix]
            cache.used.pop(prefix, None)
        self._prefixes._index.remove(gone, cache.slot)

    def finished(self, usage: Usage) -> None:
        """It came to its end, until which an engine keeps all of its blocks."""
        prefixes, cache = self._prefixes, self._cache
        cache.own_tokens += max(0, usage.prompt_tokens - usage.cached_tokens) + usage.completion_tokens
        if prefixes._caches.get(self._instance.id) is cache and not cache.is_exact:
            prefixes._use(cache, cache.written(self._instance), self._chain.prefixes)
        chain = self._chain
        if self.said is not None:
            expected = self.said
        else:
            expected = chain.ends[self._depth - 1] if self._depth else 0
            if chain.is_text:
                expected = int(expected * prefixes.tokens_per_reckoned)
            expected -= expected % self._instance.cache_block_tokens
        prefixes.predicted_tokens += self.expected
        prefixes.cached_tokens += usage.cached_tokens
        if not (expected and self.is_sure):
            return
        # More is found where a prompt goes on as another one within a chunk, or word of it comes late: that is luck.
        hit = min(1.0, usage.cached_tokens / expected)
        if not cache.is_exact and self.age > _OLD * cache.size(self._instance):
            share = cache.share * (_SHRINK if hit < 0.5 else _GROW)
            cache.share = min(1.0, max(_LEAST_SHARE, share))
        else:
            # A short prompt tells of little more than the size of a block.
            prefixes.trust += _LATELY * min(1.0, expected / _LONG_TOKENS) * (hit - prefixes.trust)
