"""One booted vLLM, and everything that serves requests with it."""

import asyncio
from dataclasses import replace
from functools import partial

from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.async_llm import AsyncLLM

from engines.adapters.residency import AdapterUse
from engines.block_keys import block_hashes
from engines.cached_chunks import AnswerReader, CachedChunks
from engines.call_requests import DetokenizeRequest, Embeddings, EmbedRequest, Tokenized, TokenizeRequest
from engines.context import Context
from engines.contract import Answers, Capabilities, Load, Progress, unsupported
from engines.errors import Cancelled, EngineDead, EngineFailed, Unsupported
from engines.events import Finished, Started
from engines.pooling_requests import Pooled, PoolingRequest, ScoreRequest, Scores
from engines.registry import EngineSpec
from engines.requests import GenerateRequest
from engines.sink import Sink
from engines.vllm.adapters import VllmAdapters
from engines.vllm.arguments import chat_template, loaded_adapters, spec_args
from engines.vllm.early_core import EarlyCore
from engines.vllm.embedding import Embedding
from engines.vllm.environment import child_environment
from engines.vllm.failures import refusal
from engines.vllm.frontend import Frontend
from engines.vllm.gauges import Gauges
from engines.vllm.grammars import Grammars
from engines.vllm.kv_events import KvEvents, root_key
from engines.vllm.options import VllmOptions
from engines.vllm.orphans import core_ends_with_host
from engines.vllm.parsing import Parsing
from engines.vllm.pooler import Pooler
from engines.vllm.pooling import Pooling
from engines.vllm.processes import ProcessTree
from engines.vllm.progress import ProgressBoard
from engines.vllm.rendering import Rendered, Rendering
from engines.vllm.resuming import going_on, vocabulary
from engines.vllm.sampling import SamplingMapper, guided_field
from engines.vllm.scheduler import PREPARE_WORKER, check_core
from engines.vllm.scoring import Scoring
from engines.vllm.sleep import Sleep
from engines.vllm.step_record import StepRecord
from engines.vllm.streaming import VllmStream


class Runtime:
    """A booted vLLM. Constructing it takes a minute and wants a thread of its own; the rest belongs to one event loop.

    Attributes:
        capabilities: What it can do.
        cached_chunks: What it has in its KV cache; None where vLLM does not say, or says it to somebody else.
        sleep: Its sleep.
    """

    def __init__(
        self,
        name: str,
        spec: EngineSpec,
        options: VllmOptions,
        processes: ProcessTree,
        early: EarlyCore,
    ) -> None:
        self._name = name
        self._model = spec.model
        self._options = options
        template = chat_template(options)
        self._max_loras = loaded_adapters(spec, options)
        args = spec_args(spec, options)
        check_core()
        self._gauges = Gauges()
        record = StepRecord(cores=args.data_parallel_size)
        core = core_ends_with_host(record.path)
        with child_environment(options, spec.part), processes.starting(), core, early.offered():
            self._llm = AsyncLLM.from_engine_args(args, stat_loggers=[self._gauges.logger])
        if current_platform.is_cpu():
            processes.give_way()
        self._frontend = Frontend(self._llm)
        self._config = self._llm.model_config
        self._vocabulary = vocabulary(self._llm.renderer.tokenizer)
        self._rendering = Rendering(self._llm, options, template)
        self._parsing = Parsing(self._llm, options, self._rendering.online.parser)
        self._sampling = SamplingMapper(self._config)
        self._grammars = Grammars(self._llm.vllm_config, self._llm.renderer.tokenizer, options)
        # What waits for its adapter has its place at the gate: most of those are for requests that can run.
        self._adapters = VllmAdapters(self._llm, spec.adapters, options, self._max_loras, max(1, self.slots // 4))
        self._pooler = Pooler(self._llm, self._adapters)
        self._embedding = Embedding(name, self._llm, self._rendering, self._pooler)
        self._scoring: Scoring | None = None
        self._pooling: Pooling | None = None
        self._chat_template = template
        self._rendering.online.warmup()
        self._tasks: tuple[str, ...] = ()
        self._streams: set[VllmStream] = set()
        self._progress = ProgressBoard(self._frontend.core, record)
        self.cached_chunks: CachedChunks | None = None
        self._events: KvEvents | None = None
        self._own_events = "kv_events_config" not in options.engine_args
        self.sleep = Sleep(self._llm, self._forget_cached)
        self.capabilities = Capabilities()

    async def open(self) -> None:
        """Starts to listen to the engine."""
        await self._prepare_workers()
        self._tasks = await self._llm.get_supported_tasks()
        if self._config.pooler_config is not None:
            self._open_pooling()
        self._frontend.listen()
        self._follow_cache()
        await self._adapters.look()
        self.capabilities = self._capabilities()

    @property
    def is_alive(self) -> bool:
        """Whether the engine can still work."""
        return not self._llm.errored

    @property
    def steps(self) -> int:
        """Steps of its scheduler so far."""
        return self._gauges.steps

    @property
    def slots(self) -> int:
        """How many sequences one step works on at most."""
        return int(self._llm.vllm_config.scheduler_config.max_num_seqs)

    def progress(self, context: Context) -> Progress | None:
        """How far the stream of this context is, in tokens computed; None where there is no such stream."""
        if self._adapters.is_waiting(context):
            return Progress(0, scheduled=False)
        return self._progress.of(context)

    def load(self) -> Load:
        """How busy it is."""
        return replace(self._gauges.load(self._frontend.requests), adapters=self._adapters.resident)

    def end_streams(self, error: EngineDead) -> None:
        """Fails every stream with this error, and stops listening to the engine."""
        for stream in list(self._streams):
            stream.fail(error)
        self._adapters.close(error)
        self._progress.close()
        if self._events is not None:
            self._events.close()
        self._frontend.stop_listening()

    def close(self, timeout_s: float) -> None:
        """Ends vLLM's processes; those that are not gone by then are left to the caller. Blocks."""
        self._grammars.close()
        self._llm.shutdown(timeout=timeout_s)

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        """Answers into a sink; returns once the request is accepted. Raises a PenstockError before that."""
        if not self.capabilities.generate:
            raise Unsupported(f"The model {request.model!r} does not generate.", param="model")
        self._grammars.check(request.sampling.guided)
        cancels = _cancels()
        rendered = await self._rendering.generate(request)
        _notice_cancel(cancels)
        name = request.adapter or self._model
        started = Started(self._name, name, len(rendered.token_ids), self._vocabulary, resumable=True)
        lora, use = None, None
        if request.adapter is not None:
            try:
                lora, use = await self._adapters.use(request.adapter, context)
            except Cancelled:
                if context.is_killed:
                    raise
                sink.emit(started)
                sink.emit(Finished.cancelled(request.sampling.n, self._name))
                return
        try:
            await self._begin(request, context, sink, rendered, started, lora, use)
        except BaseException:
            if use is not None:
                use.release()
            raise

    async def _begin(
        self,
        request: GenerateRequest,
        context: Context,
        sink: Sink,
        rendered: Rendered,
        started: Started,
        lora: LoRARequest | None,
        use: AdapterUse | None,
    ) -> None:
        """Hands a rendered request to the core; its adapter is in use until its stream has ended."""
        cancels = _cancels()
        core = await self._core_request(request, rendered, context, lora)
        _notice_cancel(cancels)
        self._check_resume(request)
        if context.is_killed:
            raise Cancelled("The request was cancelled.")
        choices = self._parsing.choices(request, rendered)
        stream = VllmStream(
            started,
            choices,
            self._reader(request, rendered, sink),
            context,
            abort=lambda: self._frontend.abort_soon(stream),
            release=lambda stream: self._release(stream, use),
        )
        detokenizer = partial(self._frontend.detokenizer, core)
        starts = await going_on(core.sampling_params, detokenizer, choices, request.generated)
        if not starts:
            stream.start()
            stream.finish()
            return
        parts = self._frontend.register(core, stream, request.sampling.n, starts)
        self._streams.add(stream)
        self._progress.add(stream)
        stream.watch()
        await self._frontend.send(parts, stream)
        if stream.setup_error is not None:
            raise stream.setup_error
        stream.start()

    @property
    def answers(self) -> Answers:
        """Vectors, scores, token ids, and their text."""
        return {
            EmbedRequest: self._embed,
            ScoreRequest: self._score,
            PoolingRequest: self._pool,
            TokenizeRequest: self._tokenize,
            DetokenizeRequest: self._detokenize,
        }

    async def _embed(self, request: EmbedRequest, context: Context) -> Embeddings:
        if not self.capabilities.embed:
            raise unsupported(request)
        return await self._embedding.embed(request, context)

    async def _score(self, request: ScoreRequest, context: Context) -> Scores:
        if self._scoring is None or not self.capabilities.score:
            raise unsupported(request)
        return await self._scoring.score(request, context)

    async def _pool(self, request: PoolingRequest, context: Context) -> Pooled:
        if self._pooling is None or not self.capabilities.pooling:
            raise unsupported(request)
        return await self._pooling.pool(request, context)

    async def _tokenize(self, request: TokenizeRequest, context: Context) -> Tokenized:
        token_ids = await self._rendering.tokenize(request)
        tokens = await self._rendering.tokens(token_ids) if request.return_tokens else None
        return Tokenized(token_ids=token_ids, context_length=self._config.max_model_len, tokens=tokens)

    async def _detokenize(self, request: DetokenizeRequest, context: Context) -> str:
        return await self._rendering.detokenize(request.token_ids)

    def _open_pooling(self) -> None:
        """What a pooling model does besides embedding: known once it has said what its tasks are."""
        llm, rendering, pooler = self._llm, self._rendering, self._pooler
        task = self._config.get_pooling_task(self._tasks)
        self._pooling = Pooling(self._name, llm, rendering, pooler, task)
        self._scoring = Scoring(self._name, llm, rendering, pooler, self._options, self._chat_template, self._tasks)

    async def _prepare_workers(self) -> None:
        try:
            await self._llm.collective_rpc(PREPARE_WORKER)
        except Exception as error:
            raise EngineFailed(f"vLLM could not boot {self._options.model!r}: {error}") from error

    async def _core_request(
        self, request: GenerateRequest, rendered: Rendered, context: Context, lora: LoRARequest | None
    ) -> EngineCoreRequest:
        """The request as vLLM's core takes it, validated."""
        sampling = request.sampling
        param: str = request.kind
        process = self._llm.input_processor
        try:
            max_tokens = self._sampling.max_tokens(sampling, len(rendered.token_ids), prompt=param)
            params = self._sampling.params(sampling, max_tokens, **rendered.overrides)
            # The fifth is the time of its arrival: now.
            arguments = (context.id, rendered.engine_input, params, self._tasks, None, lora)
            if params.structured_outputs is None:
                return process.process_inputs(*arguments)
            param = guided_field(sampling.guided) if sampling.guided is not None else "tools"
            core = await self._grammars.core_request(process, arguments, params, param)
        except Exception as error:
            raise refusal(error, param=param, context_length=self._config.max_model_len) from error
        parser = self._parsing.parser(rendered)
        if parser is not None and parser.reasoning_parser is not None and rendered.chat is not None:
            # The grammar holds for what follows the reasoning.
            core.reasoning_ended = rendered.chat.resolve_reasoning_ended(parser, rendered.token_ids)
            core.reasoning_parser_kwargs = {"chat_template_kwargs": rendered.chat_template_kwargs}
        return core

    def _check_resume(self, request: GenerateRequest) -> None:
        """Refuses to go on from ids that mean something else here, or nothing."""
        if request.resume is None:
            return
        request.resume.check_vocabulary(self._vocabulary)
        for token_ids in request.resume.choices:
            try:
                self._llm.renderer.validate_token_ids(token_ids)
            except Exception as error:
                raise refusal(error, param="resume.choices", context_length=self._config.max_model_len) from error

    def _release(self, stream: VllmStream, use: AdapterUse | None) -> None:
        self._streams.discard(stream)
        self._progress.discard(stream)
        if use is not None:
            use.release()

    def _follow_cache(self) -> None:
        """Hears what the core says of its KV cache, if that caches prefixes and nobody else was to hear of it."""
        config = self._llm.vllm_config
        events = config.kv_events_config
        if self._own_events and events is not None and config.cache_config.enable_prefix_caching:
            self.cached_chunks = CachedChunks(int(config.cache_config.block_size))
            self._events = KvEvents(events.endpoint, self.cached_chunks)
            self._events.open()

    def _forget_cached(self) -> None:
        """The core has emptied its KV cache, which it says with its next step."""
        if self._events is not None:
            self._events.clear()

    def _reader(self, request: GenerateRequest, rendered: Rendered, sink: Sink) -> Sink:
        """Lets what is cached be known by a request's text; returns what is to hear its answer."""
        chunks, chain = self.cached_chunks, request.prefixes
        # Images have a part in the keys of their blocks.
        if chunks is None or chain is None or request.attachments:
            return sink
        root = root_key(request.cache_salt, request.adapter or "")
        blocks = block_hashes(rendered.token_ids, chunks.block_size, root)
        chunks.read(chain, blocks, len(rendered.token_ids))
        if request.sampling.n > 1 or request.resume is not None:
            return sink
        return AnswerReader(sink, chunks, chain, rendered.token_ids, blocks, root)

    def _cache_tokens(self) -> int:
        cache = self._llm.vllm_config.cache_config
        return int(cache.num_gpu_blocks or 0) * int(cache.block_size) if cache.enable_prefix_caching else 0

    def _capabilities(self) -> Capabilities:
        generate = "generate" in self._tasks
        is_cpu = current_platform.is_cpu()
        ranks = self._llm.vllm_config.parallel_config.world_size
        return Capabilities(
            generate=generate,
            embed="embed" in self._tasks,
            score=self._scoring is not None and self._scoring.can_score,
            pooling=self._pooling is not None and self._pooling.task is not None,
            tokenize=True,
            tools=generate and self._options.tool_parser is not None,
            reasoning=generate and self._options.reasoning_parser is not None,
            vision=self._rendering.vision,
            guided=generate,
            logprobs=generate,
            resume=generate,
            context_length=self._config.max_model_len,
            max_loras=self._max_loras,
            cache_tokens=self._cache_tokens(),
            cache_block_tokens=int(self._llm.vllm_config.cache_config.block_size or 1),
            reports_cache=self.cached_chunks is not None,
            accelerator="cpu" if is_cpu else current_platform.get_device_name(),
            memory_bytes=0 if is_cpu else ranks * current_platform.get_device_total_memory(),
        )


def _cancels() -> int:
    """How often the running task was asked to end."""
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


def _notice_cancel(before: int) -> None:
    """Ends the task that was asked to since then."""
    # VLLM renders under `asyncio.wait_for`, which in Python 3.11 loses a cancel that comes with the result.
    if _cancels() > before:
        raise asyncio.CancelledError
