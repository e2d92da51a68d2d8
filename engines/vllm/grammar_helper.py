"""A process that finds out what constraints cost, in children that it can kill. Run as a file, by `grammars`.

It imports xgrammar and nothing of vLLM or Penstock, holds the model's vocabulary, and forks a child per constraint,
which compiles it and then walks through it as an engine would. A child that takes too long, or too much memory, ends;
nobody else notices.

Whoever comes first must not keep the others waiting, and what takes long is only known afterwards. So every constraint
gets one short slice of CPU time at once (or nearly: two at a time, of which one is short, kinds in turn, short ones
first). What is not done then is stopped, and goes on beside the others that take long, in turns, until it is done or
over its limit.
"""

import contextlib
import ctypes
import heapq
import json
import math
import os
import random
import resource
import select
import signal
import socket
import struct
import sys
import time
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

FRESH = 2
"""Children in their first slice at a time."""
SHORT = 4096
"""Longer texts have one place of these only."""
MAX_FRESH = 32
"""Constraints of one kind that wait for their first slice; the longest one past that is answered `busy`."""
MAX_LONG = 8
"""Those that take longer than a slice; one past that is answered `busy`."""
_NICE = 5
"""Of those: the engine computes on the same cores."""
MEMORY_BYTES = 384 * 2**20
"""What a child may take besides what it was born with."""
STEP_S = 0.05
"""CPU seconds of the slowest step of a walk: a mask, and taking a token."""
_GLANCE = 96
"""Tokens of a walk; of the same token again and again `_LONG_WALK`, if they are not cheap."""
_LONG_WALK = 512
_FEW = 16
_CHEAP_STEP_S = 3e-5
_WALL = 10
"""A child that has not ended after so many times its CPU seconds is answered `busy`."""
_POLL_S = 0.004
_HEAD = struct.Struct("!I")
_MAX_MESSAGE = 64 * 2**20


def import_xgrammar() -> Any:
    """xgrammar, without torch and transformers, which it imports and does not need here.

    A tenth of the time and memory. Where that does not work any more: as it is.
    """
    stubs = ("torch", "transformers")
    before = set(sys.modules)
    try:
        sys.modules["torch"] = None  # type: ignore[assignment]  # tvm_ffi looks whether it is there
        sys.modules["sentencepiece"] = sys.modules["tiktoken"] = None  # type: ignore[assignment]
        import tvm_ffi  # noqa: F401

        for name in stubs:
            sys.modules[name] = _Stub(name)
        import xgrammar

        xgrammar.Grammar.from_ebnf('root ::= "a"')
    except Exception:  # noqa: BLE001 - whatever it is, the real ones will do
        for name in set(sys.modules) - before:
            del sys.modules[name]
        import xgrammar
    return xgrammar


class _Stub(types.ModuleType):
    """Has every name, as a class, and a call of it gives nothing."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__new__": lambda cls, *args, **kwargs: None})


# The child.


@dataclass(frozen=True)
class Setup:
    """What all constraints of a model share.

    Attributes:
        tokenizer: xgrammar's tokenizer info, as JSON.
        any_whitespace: As vLLM passes it for JSON schemas.
        threads: That one compilation may use.
        compile_s: CPU seconds that compiling may take.
        walk_s: CPU seconds that walking through it may take.
        slice_s: CPU seconds of a slice: what an ordinary constraint needs in all.
        token_s: CPU seconds that a step may take on average.
        context_length: Most tokens of an output.
    """

    tokenizer: str
    any_whitespace: bool
    threads: int
    compile_s: float
    walk_s: float
    slice_s: float
    token_s: float
    context_length: int


def compile_constraint(xgr: Any, compiler: Any, setup: Setup, kind: str, text: str) -> Any:
    """Compiles it as vLLM's `XgrammarBackend` does, and raises what xgrammar raises."""
    separators = None if setup.any_whitespace else (",", ":")
    if kind == "json":
        return compiler.compile_json_schema(text, any_whitespace=setup.any_whitespace, separators=separators)
    if kind == "json_object":
        return compiler.compile_json_schema(
            '{"type": "object"}', any_whitespace=setup.any_whitespace, separators=separators
        )
    if kind == "regex":
        return compiler.compile_regex(text)
    if kind == "lark":
        return compiler.compile_lark(text)
    if kind == "grammar":
        return compiler.compile_grammar(text)
    tag = json.loads(text)
    if "structures" in tag:
        items = [
            xgr.StructuralTagItem(begin=each["begin"], schema=json.dumps(each["schema"]), end=each["end"])
            for each in tag["structures"]
        ]
        return compiler.compile_structural_tag(items, tag["triggers"])
    return compiler.compile_structural_tag(text)


@dataclass(frozen=True)
class Words:
    """What is to be known of a vocabulary.

    Attributes:
        brackets: The tokens that open an array or object, and nothing else.
        blanks: Those of white space alone.
    """

    brackets: list[int]
    blanks: frozenset[int]

    @classmethod
    def of(cls, tokenizer: Any) -> "Words":
        """Those of a tokenizer info."""
        vocabulary: list[bytes] = tokenizer.decoded_vocab
        brackets = [vocabulary.index(bracket) for bracket in (b"[", b"{") if bracket in vocabulary]
        return cls(brackets, frozenset(number for number, text in enumerate(vocabulary) if text.isspace()))


class TooSlow(Exception):
    """A step of the walk took too long, or they take longer and longer."""


class Walker:
    """Generates as an engine would, and measures what each token costs."""

    def __init__(self, xgr: Any, compiled: Any, setup: Setup, words: Words) -> None:
        import numpy

        self._np = numpy
        self._xgr = xgr
        self._compiled = compiled
        self._setup = setup
        self._size = compiled.tokenizer_info.vocab_size
        # White space is allowed nearly everywhere in JSON: who takes it gets nowhere.
        self._avoided = words.blanks | set(compiled.tokenizer_info.stop_token_ids)
        self._mask = numpy.zeros((1, (self._size + 31) // 32), dtype=numpy.int32)
        self._brackets = words.brackets

    def walk(self) -> float:
        """Walks in several ways; returns the CPU seconds of a token, on average.

        Raises:
            TooSlow: It must not get near an engine.
        """
        # Random tokens; one bracket in another; the same token again and again, where ambiguity piles up.
        times = [*self._way(_GLANCE, self._any, 0), *self._way(_GLANCE, self._open, 1)]
        longest, left = _LONG_WALK, 2
        for seed in range(2, 8):
            way = self._way(longest, self._same, seed)
            times += way
            # Some end soon, with a token that ends it all.
            if len(way) >= _GLANCE:
                longest, left = 2 * _GLANCE, left - 1
            if not left:
                break
        return sum(times) / max(1, len(times))

    def _way(self, steps: int, pick: Callable[[int, random.Random], int], seed: int) -> list[float]:
        rng = random.Random(seed)  # noqa: S311 - nothing secret
        matcher = self._xgr.GrammarMatcher(self._compiled)
        times: list[float] = []
        token = -1
        for step in range(min(steps, self._setup.context_length)):
            # What costs next to nothing by now has no time to become slow before the context is full.
            if step == _GLANCE and sum(times[-_GLANCE // 2 :]) < _GLANCE // 2 * _CHEAP_STEP_S:
                break
            began_s = time.thread_time()
            matcher.fill_next_token_bitmask(self._mask)
            mask_s = time.thread_time() - began_s
            token = pick(token, rng)
            if token < 0:
                break
            began_s = time.thread_time()
            matcher.accept_token(token)
            times.append(mask_s + time.thread_time() - began_s)
            if times[-1] > STEP_S:
                raise TooSlow
            if matcher.is_terminated():
                break
        # The first mask is the slowest of many, and a few tokens cost nobody anything.
        if len(times) >= _FEW and sum(times) / len(times) > self._setup.token_s:
            raise TooSlow
        if len(times) == _LONG_WALK and self._grows(times):
            raise TooSlow
        return times

    def _grows(self, times: list[float]) -> bool:
        """Whether the last tokens of a context would cost too much: they become slower as a power of their number."""
        quarter = len(times) // 4
        parts = [sorted(times[number * quarter : (number + 1) * quarter])[quarter // 2] for number in range(4)]
        first_s, second_s, third_s, last_s = (max(part, 1e-6) for part in parts)
        if not (first_s * 1.1 < second_s and second_s * 1.1 < third_s and third_s * 1.1 < last_s and last_s > 2e-4):
            return False
        # From the middle of the second quarter to that of the last one the number of tokens grows by 7 / 3.
        power = min(4.0, math.log(last_s / second_s) / math.log(7 / 3))
        return bool(last_s * max(1.0, self._setup.context_length / len(times)) ** power > 2 * self._setup.token_s)

    def _is_allowed(self, token: int) -> bool:
        return token >= 0 and bool((self._mask[0, token >> 5] >> (token & 31)) & 1)

    def _any(self, last: int, rng: random.Random) -> int:
        """One of those that are allowed; not each as likely as the other, which would cost more than the rest."""
        words = self._np.flatnonzero(self._mask[0])
        for _ in range(8 if len(words) else 0):
            word = int(words[rng.randrange(len(words))])
            bits = int(self._mask[0, word]) & 0xFFFFFFFF
            token = word * 32 + rng.choice([bit for bit in range(32) if bits >> bit & 1])
            if token < self._size and token not in self._avoided:
                return token
        return -1

    def _same(self, last: int, rng: random.Random) -> int:
        return last if self._is_allowed(last) and last not in self._avoided else self._any(last, rng)

    def _open(self, last: int, rng: random.Random) -> int:
        return next((token for token in self._brackets if self._is_allowed(token)), -1)


def examine(xgr: Any, tokenizer: Any, setup: Setup, words: Words, kind: str, text: str, out: int) -> None:
    """The child's work: says after the compilation what it cost, and after the walk what a token costs."""
    began_s = time.process_time()
    compiler = xgr.GrammarCompiler(tokenizer, max_threads=setup.threads, cache_enabled=False)
    try:
        compiled = compile_constraint(xgr, compiler, setup, kind, text)
    except Exception as error:  # noqa: BLE001 - what is wrong with it is the answer
        if "bad_alloc" in str(error) or isinstance(error, MemoryError):
            _say(out, {"verdict": "memory"})
        else:
            _say(out, {"verdict": "invalid", "message": str(error.args[0] if error.args else error)[:2000]})
        return
    cost = {"compile_s": time.process_time() - began_s, "memory_bytes": compiled.memory_size_bytes}
    _say(out, {"verdict": "compiled", **cost})
    try:
        token_s = Walker(xgr, compiled, setup, words).walk()
        # A walk from the start may not come to where it hurts.
        for pattern in patterns_in(text) if kind in ("json", "structural_tag") else ():
            with contextlib.suppress(RuntimeError):  # what counts is whether the whole compiles
                part = compiler.compile_regex(pattern)
                token_s = max(token_s, Walker(xgr, part, setup, words).walk())
    except TooSlow:
        _say(out, {"verdict": "slow"})
        return
    except (MemoryError, RuntimeError):
        _say(out, {"verdict": "memory"})
        return
    _say(out, {"verdict": "ok", "token_s": token_s, **cost})


def patterns_in(text: str) -> set[str]:
    """The regular expressions in a JSON schema or structural tag; its nesting has been checked."""
    found: set[str] = set()
    values = [json.loads(text)]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            found.update(given for given in [value.get("pattern")] if isinstance(given, str))
            if isinstance(more := value.get("patternProperties"), dict):
                found.update(more)
            values.extend(value.values())
        elif isinstance(value, list):
            values.extend(value)
    return found


def _say(out: int, answer: dict[str, Any]) -> None:
    os.write(out, json.dumps(answer).encode() + b"\n")


# The helper.


@dataclass(order=True)
class Job:
    """One constraint on its way."""

    size: int
    number: int
    kind: str = field(compare=False)
    text: str = field(compare=False)
    lane: str = field(default="", compare=False)
    pid: int = field(default=0, compare=False)
    out: int = field(default=-1, compare=False)
    said: bytes = field(default=b"", compare=False)
    since_s: float = field(default=0.0, compare=False)
    slice_from_s: float = field(default=0.0, compare=False)
    compiled_s: float | None = field(default=None, compare=False)

    def cpu_s(self) -> float:
        """CPU seconds of its child so far: the kernel's clock of that process, as clock_getcpuclockid(3) names it."""
        try:
            return time.clock_gettime((~self.pid << 3) | 2)
        except OSError:  # it has ended, and is about to be heard of
            return 0.0


class Helper:
    """Takes constraints from a socket, and answers what they cost."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        setup = _receive(link)
        if setup is None:
            sys.exit()
        self._setup = Setup(**setup)
        self._xgr = import_xgrammar()
        self._tokenizer = self._xgr.TokenizerInfo.deserialize_json(self._setup.tokenizer)
        self._words = Words.of(self._tokenizer)
        self._waiting: dict[str, list[Job]] = {}
        self._fresh: list[Job] = []
        self._long: list[Job] = []
        _send(link, {"verdict": "ready"})

    def run(self) -> None:
        """Until the other end is closed."""
        while True:
            running = [*self._fresh, *self._long]
            watched: list[Any] = [self._link, *(job.out for job in running)]
            ready, _, _ = select.select(watched, [], [], _POLL_S if running else None)
            if self._link in ready:
                message = _receive(self._link)
                if message is None:
                    return
                self._take(message)
            for job in running:
                if job.out in ready:
                    self._listen(job)
            self._watch()
            self._start()

    def _take(self, message: dict[str, Any]) -> None:
        text, kind = message["text"], message["kind"]
        # Short ones in the order in which they come: the cheapest to send must not be the first to go, always.
        job = Job(max(SHORT, len(text)), message["number"], kind, text)
        # Patterns are what costs much in a short schema: those without any do not wait for those with some.
        job.lane = f"{kind} with patterns" if kind in ("json", "structural_tag") and "attern" in text else kind
        waiting = self._waiting.setdefault(job.lane, [])
        heapq.heappush(waiting, job)
        if len(waiting) > MAX_FRESH:
            largest = max(waiting)
            waiting.remove(largest)
            heapq.heapify(waiting)
            self._answer(largest, {"verdict": "busy"})

    def _start(self) -> None:
        while len(self._fresh) < FRESH:
            only_short = any(job.size > SHORT for job in self._fresh)
            lane = next(
                (
                    lane
                    for lane, waiting in self._waiting.items()
                    if waiting and not (only_short and waiting[0].size > SHORT)
                ),
                None,
            )
            if lane is None:
                return
            job = heapq.heappop(self._waiting[lane])
            self._waiting[lane] = self._waiting.pop(lane)  # the next one is of another kind, if there is one
            self._fork(job)
            self._fresh.append(job)

    def _fork(self, job: Job) -> None:
        job.since_s = time.monotonic()
        job.out, child_out = os.pipe()
        job.pid = os.fork()
        if job.pid:
            os.close(child_out)
            return
        status = 1
        try:
            die_with_parent()
            self._link.close()
            limit_bytes = _address_space() + MEMORY_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
            seconds = int(self._setup.compile_s + self._setup.walk_s) + 2
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            examine(self._xgr, self._tokenizer, self._setup, self._words, job.kind, job.text, child_out)
            status = 0
        except BaseException:  # noqa: BLE001 - nothing of the child goes on above
            traceback.print_exc()
        finally:
            os._exit(status)

    def _listen(self, job: Job) -> None:
        piece = os.read(job.out, 65536)
        job.said += piece
        if not piece:
            self._end(job)
        elif job.compiled_s is None and b"\n" in job.said:
            job.compiled_s = json.loads(job.said.split(b"\n", 1)[0]).get("compile_s", 0.0)

    def _end(self, job: Job, verdict: str | None = None) -> None:
        """Reaps the child, and passes its last word on; or this verdict, whatever it said."""
        os.close(job.out)
        os.kill(job.pid, signal.SIGKILL)
        _, status = os.waitpid(job.pid, 0)
        for jobs in (self._fresh, self._long):
            if job in jobs:
                jobs.remove(job)
        if self._long:
            self._resume(self._long[0])
        lines = job.said.split(b"\n")[:-1]
        answer = json.loads(lines[-1]) if lines else {"verdict": "crashed", "status": status}
        if verdict is not None:
            answer = {"verdict": verdict}
        elif answer["verdict"] == "compiled":
            answer = {"verdict": "crashed"}  # in its walk
        self._answer(job, answer)

    def _watch(self) -> None:
        """Ends who is over its limit, and takes turns."""
        for job in [*self._fresh, *self._long]:
            used_s = job.cpu_s()
            if job.compiled_s is None and used_s > self._setup.compile_s:
                self._end(job, "costly")
            elif job.compiled_s is not None and used_s > job.compiled_s + self._setup.walk_s:
                self._end(job, "slow")
            elif time.monotonic() - job.since_s > _WALL * (self._setup.compile_s + self._setup.walk_s):
                self._end(job, "busy")
            elif used_s - job.slice_from_s > self._setup.slice_s:
                self._rotate(job, used_s)

    def _rotate(self, job: Job, used_s: float) -> None:
        """The slice of a job is over."""
        job.slice_from_s = used_s
        if job in self._fresh:
            self._fresh.remove(job)
            self._long.append(job)
            if len(self._long) > MAX_LONG:
                self._end(job, "busy")
                return
            os.setpriority(os.PRIO_PROCESS, job.pid, _NICE)
            if len(self._long) > 1:
                os.kill(job.pid, signal.SIGSTOP)
        elif len(self._long) > 1:
            os.kill(job.pid, signal.SIGSTOP)
            self._long.append(self._long.pop(self._long.index(job)))
            self._resume(self._long[0])

    def _resume(self, job: Job) -> None:
        os.kill(job.pid, signal.SIGCONT)

    def _answer(self, job: Job, answer: dict[str, Any]) -> None:
        _send(self._link, {"number": job.number, **answer})


def _address_space() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123 - no more imports than it takes
        return int(file.read().split()[0]) * resource.getpagesize()


def _send(link: socket.socket, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode()
    link.sendall(_HEAD.pack(len(data)) + data)


def _receive(link: socket.socket) -> dict[str, Any] | None:
    head = _exactly(link, _HEAD.size)
    if head is None:
        return None
    (size,) = _HEAD.unpack(head)
    data = _exactly(link, size) if size <= _MAX_MESSAGE else None
    message: dict[str, Any] | None = None if data is None else json.loads(data)
    return message


def _exactly(link: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        piece = link.recv(size - len(data))
        if not piece:
            return None
        data += piece
    return bytes(data)


def die_with_parent() -> None:
    """Lets the kernel kill this process when the thread that started it ends (Linux: prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def main() -> None:
    """The helper's end of a socket is standard input."""
    parent = int(sys.argv[1])
    die_with_parent()
    if os.getppid() != parent:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ConnectionError, BrokenPipeError):
        Helper(socket.socket(fileno=0)).run()


if __name__ == "__main__":
    main()
