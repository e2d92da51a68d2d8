"""The simulated engine: one loop that steps all running requests at once."""

import asyncio
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TypeVar

from engines.adapters.residency import AdapterUse, ResidentAdapters
from engines.block_keys import block_hashes, root_hash
from engines.cached_chunks import AnswerReader, CachedChunks
from engines.call_requests import DetokenizeRequest, Embeddings, EmbedRequest, Tokenized, TokenizeRequest
from engines.context import Context
from engines.contract import Answers, Capabilities, Load, Progress, PushEngine, unsupported
from engines.errors import (
    AdapterFailed,
    Cancelled,
    ContextOverflow,
    EngineDead,
    EngineFailed,
    InstanceLost,
    InvalidRequest,
    NotReady,
    Unsupported,
)
from engines.events import Finished, Started
from engines.pooling_requests import Pooled, PoolingRequest, ScoreRequest, Scores
from engines.registry import EngineSpec
from engines.requests import GenerateRequest
from engines.simulated.answer import Writer, call_prefix, writer
from engines.simulated.embedding import embeddings
from engines.simulated.faults import Faults
from engines.simulated.kv_cache import KVCache
from engines.simulated.options import SimulatedOptions
from engines.simulated.output import Output
from engines.simulated.pooling import check_pooled, pooled
from engines.simulated.pooling_inputs import Cut, input_ids, pair_ids
from engines.simulated.prompt import budget, check_ids, check_size, prompt_ids, text_size
from engines.simulated.scheduler import Scheduler, Sequence
from engines.simulated.scoring import scores
from engines.simulated.stream import SimulatedStream
from engines.simulated.timing import StepClock
from engines.simulated.tokenizer import VOCABULARY, Special, decode
from engines.sink import Sink

Result = TypeVar("Result")

_LONG = 16 * 1024
"""Characters or tokens from which on it is done beside the event loop."""
_TOOL_CHARS = 512
"""What a tool is taken for."""


class SimulatedEngine(PushEngine):
    """An engine without weights: everything of a real one but the arithmetic.

    What it says is a function of the prompt (see `engines.simulated.answer`); when it says it follows from a scheduler,
    a KV cache and a formula for the time of a step.
    """

    def __init__(self, name: str, spec: EngineSpec, options: SimulatedOptions) -> None:
        """Makes an engine that is not started."""
        self.name = name
        self.capabilities = Capabilities(
            embed=options.embedding_size > 0,
            score=options.embedding_size > 0,
            pooling=options.embedding_size > 0,
            tokenize=True,
            tools=True,
            reasoning=True,
            guided=True,
            logprobs=True,
            resume=True,
            context_length=options.context_length,
            max_loras=min(options.max_loras, len(spec.adapters)),
            cache_tokens=options.num_blocks * options.block_size if options.prefix_caching else 0,
            cache_block_tokens=options.block_size,
            reports_cache=options.prefix_caching,
        )
        self._model = spec.model
        self._options = options
        self._chunks = CachedChunks(options.block_size) if options.prefix_caching else None
        self._cache = KVCache(options.num_blocks, caching=options.prefix_caching, chunks=self._chunks)
        self._scheduler = Scheduler(
            self._cache,
            block_size=options.block_size,
            max_num_seqs=options.max_num_seqs,
            max_batched_tokens=options.max_batched_tokens,
        )
        self._clock = StepClock(options.step_time, options.speed)
        self._faults = Faults(options.faults)
        self._adapters = ResidentAdapters(
            [adapter.name for adapter in spec.adapters],
            options.max_loras,
            self._load_adapter,
            _forget_adapter,
            max(1, options.max_num_seqs // 4),
        )
        self._streams: dict[SimulatedStream, None] = {}
        self._by_context: dict[Context, SimulatedStream] = {}
        self._arrivals = count()
        self._steps = 0
        self._work = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, f"texts of {name}")
        self._loop: asyncio.Task[None] | None = None
        self._dead: EngineDead | None = None
        self._is_asleep = False

    @property
    def ready(self) -> bool:
        """Whether it has booted, and has neither died nor been stopped."""
        return self._loop is not None and self._dead is None

    @property
    def steps(self) -> int:
        """Steps taken so far; grows as the engine works."""
        return self._steps

    @property
    def slots(self) -> int:
        """How many sequences one step works on at most."""
        return self._options.max_num_seqs

    @property
    def preemptions(self) -> int:
        """How often a request had to give its KV blocks to another."""
        return self._scheduler.preemptions

    @property
    def cached_chunks(self) -> CachedChunks | None:
        """What it has cached; None where it caches nothing."""
        return self._chunks

    async def start(self) -> None:
        """Boots; returns when ready. Raises a PenstockError where it cannot."""
        if self._options.boot_s:
            await asyncio.sleep(self._options.boot_s)
        if self._loop is None:
            self._thread = ThreadPoolExecutor(1, f"texts of {self.name}")
            self._loop = asyncio.get_running_loop().create_task(self._run(), name=f"steps of {self.name}")

    async def stop(self, timeout_s: float = 30.0) -> None:
        """Stops at once; what is under way ends with InstanceLost."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.cancel()
            await asyncio.wait((loop,), timeout=timeout_s)
            self._thread.shutdown(wait=False, cancel_futures=True)
        self._adapters.close(InstanceLost(f"The engine {self.name} was stopped.", instance=self.name))
        for stream in list(self._streams):
            stream.fail(InstanceLost(f"The engine {self.name} was stopped.", instance=self.name))

    async def sleep(self, level: int) -> None:
        """Forgets what it has cached."""
        self._is_asleep = True
        await asyncio.sleep(self._options.sleep_s)
        self._cache.clear()

    async def wake(self) -> None:
        """Returns after a while. Raises EngineFailed where its options say so."""
        if self._options.wake_s is None:
            await asyncio.Event().wait()
        else:
            await asyncio.sleep(self._options.wake_s)
        if self._options.wake_fails:
            raise EngineFailed(f"The engine {self.name} failed to wake.", instance=self.name)
        self._is_asleep = False

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        """Answers into a sink; returns once the request is accepted. Raises a PenstockError before that."""
        self._must_be_ready()
        self._must_be_awake()
        _refuse_unsupported(request)
        if context.is_killed:
            raise Cancelled(f"The request {context.id} was killed.", instance=self.name)
        prompt = await self._prompt_ids(request, request.kind)
        max_tokens = budget(request, len(prompt), self.capabilities.context_length)
        n = request.sampling.n
        spoken = await self._beside(
            lambda: [(call_prefix(prompt, index), writer(request, prompt, index, context.id)) for index in range(n)],
            n * len(prompt),
        )
        root = root_hash(request.cache_salt, request.adapter or "")
        hashes = await self._beside(lambda: block_hashes(prompt, self._options.block_size, root), len(prompt))
        if context.is_killed:
            raise Cancelled(f"The request {context.id} was killed.", instance=self.name)
        self._must_be_ready()
        if request.resume is not None:
            request.resume.check_vocabulary(VOCABULARY)
            for token_ids in request.resume.choices:
                check_ids(token_ids, "resume.choices")
        await self._faults.arrives(prompt)
        started = Started(self.name, request.adapter or self._model, len(prompt), VOCABULARY, resumable=True)
        use: AdapterUse | None = None
        if request.adapter is not None:
            try:
                use = await self._adapters.use(request.adapter, context)
            except Cancelled:
                if context.is_killed:
                    raise
                sink.emit(started)
                sink.emit(Finished.cancelled(n, self.name))
                return
        if self._chunks is not None and request.prefixes is not None and n == 1 and request.resume is None:
            sink = AnswerReader(sink, self._chunks, request.prefixes, prompt, hashes, root)
        stream = SimulatedStream(self.name, context, sink, self._scheduler, lambda stream: self._ended(stream, use))
        try:
            sequences = self._sequences(stream, request, prompt, max_tokens, spoken, hashes, root)
        except BaseException:
            if use is not None:
                use.release()
            raise
        self._faults.accepted(sequences, prompt)
        if self._chunks is not None and request.prefixes is not None:
            self._chunks.read(request.prefixes, hashes, len(prompt))
        self._streams[stream] = None
        self._by_context[context] = stream
        sink.emit(started)
        stream.open(sequences)
        self._work.set()

    def _sequences(
        self,
        stream: SimulatedStream,
        request: GenerateRequest,
        prompt: list[int],
        max_tokens: int,
        spoken: list[tuple[str, Writer]],
        hashes: list[int],
        root: int,
    ) -> list[Sequence]:
        """The choices of a request, each where it goes on."""
        arrival = next(self._arrivals)
        sequences = []
        for index, ((prefix, words), resumed) in enumerate(zip(spoken, request.generated, strict=True)):
            output = Output(
                request,
                index,
                max_tokens=max_tokens,
                thinking=prompt[-1] == Special.THINK,
                call_prefix=prefix,
            )
            for token_id in resumed:
                output.feed(token_id)
            key = (request.priority, arrival, index)
            sequences.append(Sequence(key, stream, prompt, resumed, words, output, hashes, root))
        return sequences

    @property
    def answers(self) -> Answers:
        """Vectors, scores, token ids, and their text."""
        return {
            EmbedRequest: self._embed,
            ScoreRequest: self._score,
            PoolingRequest: self._pooling,
            TokenizeRequest: self._tokenize,
            DetokenizeRequest: self._detokenize,
        }

    async def _embed(self, request: EmbedRequest, context: Context) -> Embeddings:
        self._must_be_ready()
        size = self._options.embedding_size
        if not size:
            raise unsupported(request)
        if request.dimensions is not None:
            if request.dimensions > size:
                raise InvalidRequest(f"The vectors of this model have {size} dimensions.", param="dimensions")
            size = request.dimensions
        inputs = await self._inputs(request)
        tokens = await self._read(sum(map(len, inputs)), context)
        vectors = await embeddings(await self._adapted(request, inputs, context), size)
        return Embeddings(vectors=vectors, dimension=size, prompt_tokens=tokens, engine=self.name)

    async def _score(self, request: ScoreRequest, context: Context) -> Scores:
        self._must_be_ready()
        if not self.capabilities.score:
            raise unsupported(request)
        if request.instruction is not None:
            raise Unsupported("This model reads no instruction.", param="instruction")
        cut, context_length = Cut.of(request), self.capabilities.context_length
        pairs = await self._beside(lambda: pair_ids(request, cut, context_length), request.size)
        tokens = await self._read(sum(len(query) + len(document) for query, document in pairs), context)
        queries, documents = [await self._adapted(request, list(texts), context) for texts in zip(*pairs, strict=True)]
        pairs = list(zip(queries, documents, strict=True))
        values = await scores(pairs, request.use_activation)
        return Scores(values=values, prompt_tokens=tokens, engine=self.name)

    async def _pooling(self, request: PoolingRequest, context: Context) -> Pooled:
        self._must_be_ready()
        if not self.capabilities.pooling:
            raise unsupported(request)
        inputs = await self._inputs(request)
        check_pooled(request, inputs, self._options.embedding_size)
        tokens = await self._read(sum(map(len, inputs)), context)
        inputs = await self._adapted(request, inputs, context)
        return await pooled(request, inputs, self._options.embedding_size, tokens, self.name)

    async def _inputs(self, request: EmbedRequest | PoolingRequest) -> list[list[int]]:
        """The token ids of each input."""
        items: Iterable[str | list[int]] = request.inputs
        cut, context_length = Cut.of(request), self.capabilities.context_length
        return await self._beside(
            lambda: [
                input_ids(item, f"inputs[{position}]", cut, context_length) for position, item in enumerate(items)
            ],
            sum(len(item) for item in items),
        )

    async def _read(self, tokens: int, context: Context) -> int:
        """Takes as long as a step that reads so many tokens; returns them."""
        self._must_be_awake()
        await asyncio.sleep(self._clock.step_s(tokens, 0, 0))
        if context.is_stopped:
            raise Cancelled(f"The request {context.id} was cancelled.", instance=self.name)
        return tokens

    async def _adapted(
        self, request: EmbedRequest | PoolingRequest | ScoreRequest, inputs: list[list[int]], context: Context
    ) -> list[list[int]]:
        """What the request's adapter makes of its inputs: others."""
        if request.adapter is None:
            return inputs
        (await self._adapters.use(request.adapter, context)).release()
        shift = zlib.crc32(request.adapter.encode())
        return [[(token_id + shift) % 2**32 for token_id in ids] for ids in inputs]

    async def _tokenize(self, request: TokenizeRequest, context: Context) -> Tokenized:
        # There are no special tokens to add, so `add_special_tokens` makes no difference.
        self._must_be_ready()
        param = "prompt" if request.messages is None else "messages"
        ids = await self._prompt_ids(request, param)
        context_length = self.capabilities.context_length
        if len(ids) > context_length:
            raise ContextOverflow(
                f"The prompt has {len(ids)} tokens; the context of this model has {context_length}.",
                context_length=context_length,
                prompt_tokens=len(ids),
                param=param,
            )
        tokens = None
        if request.return_tokens:
            tokens = await self._beside(lambda: [decode((token_id,)) for token_id in ids], len(ids))
        return Tokenized(token_ids=ids, context_length=context_length, tokens=tokens)

    async def _detokenize(self, request: DetokenizeRequest, context: Context) -> str:
        self._must_be_ready()
        check_ids(request.token_ids, "token_ids")
        return await self._beside(lambda: decode(request.token_ids), len(request.token_ids))

    def load(self) -> Load:
        """How busy it is now; each choice of a request counts."""
        return Load(
            len(self._scheduler.running), len(self._scheduler.waiting), self._cache.use, adapters=self._adapters.names
        )

    def progress(self, context: Context) -> Progress | None:
        """How far the stream of this context is, in tokens computed; None where there is no such stream."""
        stream = self._by_context.get(context)
        if stream is None:
            return Progress(0, scheduled=False) if self._adapters.is_waiting(context) else None
        return stream.progress()

    async def check_health(self) -> None:
        """Returns when it can work. Raises NotReady while it boots, EngineDead when it is finished."""
        if self._dead is not None:
            raise self._dead
        await super().check_health()

    async def _run(self) -> None:
        try:
            while True:
                if not self._scheduler.busy:
                    self._work.clear()
                    await self._work.wait()
                    self._clock.restart()
                await self._step()
        except Exception as error:  # noqa: BLE001 - whoever waits for an answer must hear of a bug here
            self._dead = EngineDead(f"The engine {self.name} died: {type(error).__name__}: {error}", instance=self.name)
            for stream in list(self._streams):
                stream.fail(self._dead)

    async def _step(self) -> None:
        scheduler = self._scheduler
        batch = scheduler.schedule()
        await self._faults.step(batch)
        if self._clock.instant:
            await asyncio.sleep(0)
        else:
            await self._clock.wait(self._step_s(batch))
        self._steps += 1
        for sequence, tokens in batch:
            if sequence.over or not scheduler.computed(sequence, tokens):
                continue  # Cancelled during the step, or in the middle of its prompt.
            output = sequence.output
            delta = output.feed(sequence.advance())
            if delta is not None:
                sequence.stream.sink.emit(delta)
            if output.reason is not None and not sequence.over:
                sequence.stream.choice_ended(sequence)

    def _ended(self, stream: SimulatedStream, use: AdapterUse | None) -> None:
        del self._streams[stream]
        self._by_context.pop(stream.context, None)
        if use is not None:
            use.release()

    async def _load_adapter(self, name: str) -> None:
        if self._options.lora_load_s:
            await asyncio.sleep(self._options.lora_load_s)
        if name in self._options.broken_loras:
            raise AdapterFailed(f"The adapter {name!r} cannot be loaded: it is broken.", instance=self.name)

    def _step_s(self, batch: list[tuple[Sequence, int]]) -> float:
        prefill_tokens = sequences = context_tokens = 0
        for sequence, tokens in batch:
            if sequence.computed + tokens > sequence.prompt_tokens and tokens == 1:
                sequences += 1
                context_tokens += sequence.computed
            else:
                prefill_tokens += tokens
        return self._clock.step_s(prefill_tokens, sequences, context_tokens)

    async def _prompt_ids(self, request: GenerateRequest | TokenizeRequest, param: str) -> list[int]:
        chars = text_size(request)
        check_size(chars, self.capabilities.context_length, param)
        return await self._beside(lambda: prompt_ids(request), chars + _TOOL_CHARS * len(request.tools))

    async def _beside(self, work: Callable[[], Result], size: int) -> Result:
        """Does what is long beside the event loop, one at a time: each thread more would slow the loop down."""
        if size < _LONG:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _must_be_ready(self) -> None:
        if self._dead is not None:
            raise self._dead
        if self._loop is None:
            raise NotReady(f"The engine {self.name} is not ready.", instance=self.name)

    def _must_be_awake(self) -> None:
        if self._is_asleep:
            raise EngineFailed(f"The engine {self.name} got work while it slept.", instance=self.name)


async def _forget_adapter(_: str) -> None:
    return None


def _refuse_unsupported(request: GenerateRequest) -> None:
    sampling = request.sampling
    for name in ("bad_words", "allowed_token_ids", "logit_bias"):
        if getattr(sampling, name):
            raise Unsupported(f"This engine does not support {name}.", param=f"sampling.{name}")
