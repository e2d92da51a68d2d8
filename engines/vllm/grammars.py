"""What requests hold their output to is tried out where it can be killed, before the engine sees it.

vLLM compiles schemas, regexes and grammars in its front and again in its core, without a limit of time or memory, and
asks the compiled one for a mask at every step. A small schema costs milliseconds, a hostile one minutes; some compile
at once, and then cost seconds for each token, which every other stream of the engine waits for.

Here it is looked at first (`constraints`), then compiled and walked through in a child of the helper process
(`grammar_helper`). What was found is remembered by its hash. What passes goes to vLLM's core without the second
compilation in vLLM's front; the core's own costs what it cost the helper, and of those that cost much one is let in at
a time, so that those that cost little never wait for more than one.
"""

import asyncio
import bisect
import hashlib
import itertools
import json
import logging
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.structured_output.backend_types import StructuredOutputOptions
from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend, has_xgrammar_unsupported_json_features
from vllm.v1.structured_output.utils import choice_as_grammar, grammar_is_likely_lark

from engines.errors import InvalidRequest, QueueFull, Unsupported
from engines.requests import Guided
from engines.vllm import grammar_helper
from engines.vllm.constraints import (
    Constraint,
    Refused,
    check_choice,
    check_schema,
    check_tag,
    check_text,
    holds_grammar,
)
from engines.vllm.failures import without_source
from engines.vllm.options import VllmOptions
from engines.vllm.sampling import guided_field

STEP_S = 0.2
"""What the masks of one step may take in all, with every sequence of it held to the costliest constraint."""
_MIN_TOKEN_S = 0.0005
_SLICE_S = 0.05
"""CPU seconds that an ordinary constraint takes in all, with a small vocabulary."""
_WALK_S = 0.6
"""CPU seconds that trying a constraint out may take, likewise: 700 tokens of the costliest that is taken."""
_SMALL_VOCABULARY = 16_384
_MAX_TURN_S = 5.0
"""The longest that one waits for its turn to be compiled by the core."""
_LOOK_S = 0.01
_KNOWN = 4096
_COMPILED_BYTES = 256 * 2**20
"""Of the grammars that the core keeps compiled; vLLM's cache holds twice as much."""
_RETRY_S = 1.0
_PATIENCE_S = 60.0
"""A helper that does not answer within this has hung."""
_HEAD = struct.Struct("!I")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the helper found.

    Attributes:
        error: Why it is refused; empty when it is not.
        compile_s: CPU seconds that compiling takes.
        memory_bytes: Of what was compiled.
    """

    error: str = ""
    compile_s: float = 0.0
    memory_bytes: int = 0


class Grammars:
    """The constraints of one engine's requests. Constructing it starts the helper; the rest belongs to one event loop.

    Args:
        config: vLLM's.
        tokenizer: The model's.
        options: The engine's.
    """

    def __init__(self, config: Any, tokenizer: Any, options: VllmOptions) -> None:
        self._free_grammars = options.free_grammars
        model = config.model_config
        self._backend: str = config.structured_outputs_config.backend
        # Others than xgrammar, and models that take no constraint at all, are left to vLLM's own checks.
        self._is_guarded = self._backend == "xgrammar" and tokenizer is not None and not model.is_diffusion
        self._known: OrderedDict[bytes, Verdict] = OrderedDict()
        self._asked: dict[bytes, asyncio.Future[Verdict]] = {}
        self._compiled: OrderedDict[bytes, int] = OrderedDict()
        self._turns: list[tuple[float, int]] = []
        self._next_turn_s = 0.0
        self._number = itertools.count()
        self._helper: _Helper | None = None
        if self._is_guarded:
            self._threads = max(1, min(8, (os.cpu_count() or 1) // 2))
            # Most of the work is done for each token of the vocabulary.
            size = max(1.0, model.get_vocab_size() / _SMALL_VOCABULARY)
            self._slice_s = _SLICE_S * size
            backend = XgrammarBackend(config, tokenizer=tokenizer, vocab_size=model.get_vocab_size())
            info = backend.compile_grammar(StructuredOutputOptions.REGEX, "a").ctx.tokenizer_info
            self._helper = _Helper(
                grammar_helper.Setup(
                    tokenizer=info.serialize_json(),
                    any_whitespace=not backend.disable_any_whitespace,
                    threads=self._threads,
                    compile_s=options.guided_compile_s * self._threads,
                    walk_s=_WALK_S * min(4.0, size),
                    slice_s=self._slice_s,
                    token_s=max(_MIN_TOKEN_S, STEP_S / config.scheduler_config.max_num_seqs),
                    context_length=model.max_model_len,
                )
            )
        elif tokenizer is not None:
            _log.warning(
                "The structured output backend %r compiles without limits: only the size of schemas, regexes and "
                "grammars is checked. Leave the backend at xgrammar to have their cost checked, too.",
                self._backend,
            )

    def close(self) -> None:
        """Ends the helper. Idempotent."""
        if self._helper is not None:
            self._helper.close()

    def check(self, guided: Guided | None) -> None:
        """Refuses, before anything is made of it, what is too large, or a free-form grammar where these are off.

        Raises:
            InvalidRequest: It is; the message says what to do.
        """
        if guided is None:
            return
        field = guided_field(guided)
        if not self._free_grammars:
            check_free(guided, field)
        try:
            if guided.json_schema is not None:
                check_schema(guided.json_schema)
            elif guided.choice is not None:
                check_choice(guided.choice)
            elif guided.regex is not None:
                check_text("regex", guided.regex)
            elif guided.grammar is not None:
                check_text("grammar", guided.grammar)
            elif guided.structural_tag is not None:
                check_tag(guided.structural_tag)
        except Refused as refused:
            raise InvalidRequest(str(refused), param=field) from None

    async def core_request(
        self, process: Any, arguments: tuple[Any, ...], params: SamplingParams, field: str
    ) -> EngineCoreRequest:
        """The request as vLLM's core takes it, once what its output is held to was found harmless.

        Args:
            process: vLLM's input processor.
            arguments: For it.
            params: The sampling parameters among them, with the constraint.
            field: Where the caller gave it.

        Raises:
            InvalidRequest: It is not valid, or costs too much.
            QueueFull: Too many others are being looked at.
        """
        outputs = params.structured_outputs
        assert outputs is not None
        try:
            constraint = _constraint(outputs)
        except Refused as refused:
            raise InvalidRequest(str(refused), param=field) from None
        if not self._is_guarded:
            core: EngineCoreRequest = await process.process_inputs_async(*arguments)
            return core
        await self._admit(constraint, field)
        # vLLM would compile it to see whether it is valid. All else that it checks does not look at it.
        params.structured_outputs = None
        core = process.process_inputs(*arguments)
        core.sampling_params.structured_outputs = _settled(outputs, constraint, self._backend)
        return core

    async def _admit(self, constraint: Constraint, field: str) -> None:
        """Returns when the core may compile the constraint."""
        key = hashlib.sha256(f"{constraint.kind}:{constraint.text}".encode("utf-8", "surrogatepass")).digest()
        verdict = self._known.get(key)
        if verdict is None:
            verdict = await self._found(key, constraint)
        else:
            self._known.move_to_end(key)
        if verdict.error:
            raise InvalidRequest(verdict.error, param=field)
        if key in self._compiled:
            self._compiled.move_to_end(key)
            return
        if verdict.compile_s > self._slice_s / 2:
            await self._wait_turn(verdict.compile_s / self._threads)
        self._compiled[key] = verdict.memory_bytes
        while sum(self._compiled.values()) > _COMPILED_BYTES or len(self._compiled) > _KNOWN:
            self._compiled.popitem(last=False)

    async def _wait_turn(self, compile_s: float) -> None:
        """Returns when the core has had the time to compile what was let in before; the cheapest one is next."""
        turn = (compile_s, next(self._number))
        bisect.insort(self._turns, turn)
        try:
            async with asyncio.timeout(_MAX_TURN_S):
                while self._turns[0] != turn or time.monotonic() < self._next_turn_s:  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            raise _busy() from None
        finally:
            self._turns.remove(turn)
        self._next_turn_s = time.monotonic() + compile_s

    async def _found(self, key: bytes, constraint: Constraint) -> Verdict:
        """What the helper finds; requests with the same constraint ask once."""
        asked = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = asyncio.ensure_future(self._ask(key, constraint))
            asked.add_done_callback(lambda done: self._answered(key, done))
        # Whoever gives up does not take the answer from the others.
        return await asyncio.shield(asked)

    def _answered(self, key: bytes, asked: asyncio.Future[Verdict]) -> None:
        del self._asked[key]
        if not asked.cancelled():
            asked.exception()  # known to be raised, even if nobody waits any more

    async def _ask(self, key: bytes, constraint: Constraint) -> Verdict:
        assert self._helper is not None
        kind: str = constraint.kind
        if kind == "grammar" and grammar_is_likely_lark(constraint.text):
            kind = "lark"
        answer = await self._helper.ask(kind, constraint.text)
        if answer["verdict"] == "busy":
            raise _busy()
        verdict = _verdict(answer)
        self._known[key] = verdict
        while len(self._known) > _KNOWN:
            self._known.popitem(last=False)
        return verdict


class _Helper:
    """The helper process, and the way to it. It is started anew when it is gone."""

    def __init__(self, setup: grammar_helper.Setup) -> None:
        self._hello = _frame(asdict(setup))
        self._process: subprocess.Popen[bytes] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._number = 0
        self._connecting = asyncio.Lock()
        self._closed = False
        self._link: socket.socket | None = self._start()

    async def ask(self, kind: str, text: str) -> dict[str, Any]:
        """What it answers about a constraint; `busy` when it died over it."""
        writer = await self._connected()
        self._number += 1
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        number = self._number
        self._asked[number] = answer
        try:
            writer.write(_frame({"number": number, "kind": kind, "text": text}))
            async with asyncio.timeout(_PATIENCE_S):
                return await answer
        except TimeoutError:
            # It stands still: its own limits are shorter. The next one who asks starts it again.
            assert self._process is not None
            self._process.kill()
            return {"verdict": "busy"}
        finally:
            self._asked.pop(number, None)

    def close(self) -> None:
        """Kills it."""
        self._closed = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _start(self) -> socket.socket:
        """Starts it. It is killed by the kernel when the thread that does this ends."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603
                # -P: what lies beside the file is not to be imported.
                [sys.executable, "-P", str(Path(grammar_helper.__file__)), str(os.getpid())],
                stdin=theirs.fileno(),
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        # Longer than what a socket holds, and the helper reads it only after its imports.
        self._greeting = threading.Thread(target=_send_quietly, args=(ours, self._hello), daemon=True)
        self._greeting.start()
        return ours

    async def _connected(self) -> asyncio.StreamWriter:
        async with self._connecting:
            if self._closed:
                raise _busy()
            if self._reading is None or self._reading.done():
                if self._link is None:
                    _log.warning("The helper that compiles constraints died; it is started again.")
                    assert self._process is not None
                    self._process.kill()
                    self._process.wait()
                    self._link = self._start()
                link, self._link = self._link, None
                await asyncio.to_thread(self._greeting.join)
                link.setblocking(False)
                reader, self._writer = await asyncio.open_unix_connection(sock=link)
                self._reading = asyncio.get_running_loop().create_task(self._read(reader, self._writer))
            assert self._writer is not None
            return self._writer

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (size,) = _HEAD.unpack(await reader.readexactly(_HEAD.size))
                message = json.loads(await reader.readexactly(size))
                asked = self._asked.get(message.get("number", -1))
                if asked is not None and not asked.done():
                    asked.set_result(message)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            for asked in self._asked.values():
                if not asked.done():
                    asked.set_result({"verdict": "busy"})


def check_free(guided: Guided, field: str) -> None:
    """Refuses free-form grammars, by themselves or inside of a structural tag.

    Raises:
        Unsupported: It is one; the message says how to turn them on.
        InvalidRequest: It is a structural tag that cannot be read.
    """
    what = "Free-form grammars"
    if guided.grammar is None:
        if guided.structural_tag is None:
            return
        try:
            tag = check_tag(guided.structural_tag)
        except Refused as refused:
            raise InvalidRequest(str(refused), param=field) from None
        if not holds_grammar(tag):
            return
        what = "Structural tags with a free-form grammar inside"
    raise Unsupported(
        f"{what} are off for this model, because some cost the engine seconds for each token. Use a JSON schema, a "
        "regex or choices; or turn them on in the fleet file, by the model's option `free_grammars: true`.",
        param=field,
    )


def _constraint(outputs: StructuredOutputsParams) -> Constraint:
    """What is to be compiled, if its size allows it.

    Raises:
        Refused: It does not, or is wrong in a way that can be seen without compiling it.
    """
    if outputs.json is not None:
        schema = outputs.json
        if isinstance(schema, str):
            check_text("json", schema)
            try:
                schema = json.loads(schema)
            except (ValueError, RecursionError):
                raise Refused("It is not JSON.") from None
        check_schema(schema)
        if isinstance(schema, dict) and has_xgrammar_unsupported_json_features(schema):
            raise Refused(
                "The schema has features that cannot be held to: uniqueItems, contains, multipleOf, an allOf of "
                "several, a pattern or format together with a length, or other formats than the usual ones."
            )
        text = outputs.json if isinstance(outputs.json, str) else json.dumps(schema)
        check_text("json", text)
        return Constraint("json", text)
    if outputs.choice is not None:
        check_choice(outputs.choice)
        grammar = choice_as_grammar(outputs.choice)
        check_text("grammar", grammar)
        return Constraint("grammar", grammar)
    if outputs.regex is not None:
        check_text("regex", outputs.regex)
        return Constraint("regex", outputs.regex)
    if outputs.grammar is not None:
        if not outputs.grammar.strip():
            raise Refused("The grammar is empty.")
        check_text("grammar", outputs.grammar)
        return Constraint("grammar", outputs.grammar)
    if outputs.structural_tag is not None:
        check_tag(outputs.structural_tag)
        return Constraint("structural_tag", outputs.structural_tag)
    return Constraint("json_object", "")


def _settled(outputs: StructuredOutputsParams, constraint: Constraint, backend: str) -> StructuredOutputsParams:
    """The constraint as vLLM's validation leaves it."""
    if constraint.kind == "json":
        outputs.json = constraint.text
    elif outputs.choice is not None:
        outputs.choice, outputs.grammar = None, constraint.text
    outputs._backend = backend
    return outputs


def _verdict(answer: dict[str, Any]) -> Verdict:
    """What the helper says, in words."""
    match answer["verdict"]:
        case "ok":
            return Verdict("", answer["compile_s"], answer["memory_bytes"])
        case "invalid":
            return Verdict(f"It cannot be compiled: {without_source(answer['message'])}")
        case "costly":
            return Verdict(
                "Compiling it takes longer than the engine allows. Make it smaller: fewer properties, alternatives and "
                "repetitions, smaller enums, minLength and maxLength. The limit is the model's option "
                "`guided_compile_s`."
            )
        case "slow":
            return Verdict(
                "It costs too much for each token, because there are too many ways to read an output by it. Avoid "
                "repetitions inside of repetitions, and alternatives that begin alike."
            )
        case "memory":
            return Verdict("Compiling it takes more memory than the engine allows. Make it smaller.")
        case _:
            return Verdict("It cannot be compiled.")


def _busy() -> QueueFull:
    return QueueFull("Too many new schemas, regexes and grammars are being compiled.", retry_after_s=_RETRY_S)


def _frame(message: dict[str, Any]) -> bytes:
    data = json.dumps(message).encode()
    return _HEAD.pack(len(data)) + data


def _send_quietly(link: socket.socket, data: bytes) -> None:
    # It may be gone, which whoever asks it next will find.
    with suppress(OSError):
        link.sendall(data)
