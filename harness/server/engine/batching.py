"""The generation thread: one model, one paged KV cache, requests in, tokens out.

It runs transformers' continuous batching (5.19) and adds: sizing of the cache, refusal of requests
that cannot fit (they would kill the library's thread), per-request temperature and minimum length,
delivery of tokens to the event loop one batch at a time, the number of cached tokens per prompt,
and detection of the thread's death.
"""

import asyncio
import itertools
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
)
from transformers.generation.continuous_batching.continuous_api import (
    BackgroundThreadStatus,
    ContinuousBatchingManager,
    OutputRouter,
)
from transformers.generation.continuous_batching.requests import (
    FutureRequestState,
    GenerationOutput,
    RequestState,
    RequestStatus,
)
from transformers.generation.continuous_batching.scheduler import Scheduler

from harness.core.clock import now_ns
from harness.server.engine import attention

log = logging.getLogger("harness.engine")

GIB: Final = 1024**3
PAGE_TOK: Final = 32
"""Tokens per block of the KV cache, the granularity of prefix reuse. vLLM: 16 on GPUs, 128 on
CPUs.
"""
MAX_BATCH_TOK: Final = {"cpu": 512, "cuda": 4096}
"""Per forward pass: bounds how long decoding waits for the prompts of others."""
CPU_KV_BYTES: Final = 1 * GIB
"""Default budget of the KV cache on CPU. All of it is touched at start: half a second per GiB or
more.
"""
CUDA_KV_SHARE: Final = 0.8
"""Of the GPU memory that is free after loading; for the KV cache and its index tensors."""
STREAMS: Final = 32
STREAM_TOK: Final = 4096
"""The default cache on CPU has room for 32 streams of the whole context or of 4,096 tokens,
whichever is shorter, within the budget.
"""
SAFETY_MARGIN: Final = 0.15
"""Below this share of free blocks transformers' scheduler (FIFO default) evicts from the prefix
cache, and then admits no new prompt.
"""
EVICT_TO: Final = 0.25
"""Target share of free blocks after an eviction: above the margin, so that not every step
evicts.
"""
COLDEST: Final = 1e-5
"""Replaces temperature 0, by which the library would divide: one token then has all of the
probability.
"""
DUMMY_RANGE: Final = 1e-3
"""Dummy weights are uniform in ± this, as in vLLM."""


class EngineDeadError(RuntimeError):
    """The generation thread has died; nothing more will be generated."""


class DoesNotFitError(ValueError):
    """A request that can never be served: it exceeds the context or the KV cache."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What the engine is started with; the arguments of `__main__` explain it. None means: chosen
    by the engine. `model` is a folder (or a hub id in the local cache).
    """

    model: str
    device: str = "auto"
    dtype: str = "auto"
    load_format: str = "auto"
    max_context_tok: int | None = None
    threads: int | None = None
    num_blocks: int | None = None
    page_tok: int | None = None
    max_batch_tok: int | None = None
    prefix_caching: bool = True
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to generate one response.

    Attributes:
        min_tok: before this many tokens no end-of-text token can be drawn.
        temperature: 0 takes the most likely token.
    """

    max_tok: int
    min_tok: int = 0
    ignore_eos: bool = False
    temperature: float = 1.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the thread produced for one request since the last delivery.

    Attributes:
        finish: `stop`, `length`, `abort`, `error`, or None before the end.
        at_ns: when the event loop received it.
    """

    token_ids: list[int]
    finish: str | None
    error: str | None
    at_ns: int


@dataclass(slots=True)
class Generation:
    """A live request. `next` is awaited by one consumer.

    Attributes:
        created_ns: when it was submitted.
        cached_tok: prompt tokens found in the prefix cache; known from the first token on.
    """

    request_id: str
    prompt_tok: int
    created_ns: int
    eos_ids: frozenset[int]
    cancel: Callable[[], None]
    cached_tok: int | None = None
    seen: int = 0
    finished: bool = False
    deliveries: asyncio.Queue[Delivery] = field(default_factory=asyncio.Queue)

    async def next(self) -> Delivery:
        """All tokens delivered so far, as one delivery; waits for at least one."""
        first = await self.deliveries.get()
        if self.deliveries.empty():
            return first
        ids, last = list(first.token_ids), first
        while last.finish is None and not self.deliveries.empty():
            last = self.deliveries.get_nowait()
            ids += last.token_ids
        return Delivery(ids, last.finish, last.error, last.at_ns)

    def put(
        self,
        token_ids: list[int],
        finish: str | None = None,
        error: str | None = None,
        *,
        at_ns: int,
    ) -> None:
        if not self.finished:
            self.finished = finish is not None
            self.deliveries.put_nowait(Delivery(token_ids, finish, error, at_ns))


class _Router(OutputRouter):  # type: ignore[misc]  # transformers is not typed here
    """Passes each batch of outputs to the event loop in one call; a handler per request would leak
    on a cancel.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, deliver: Callable[[Sequence[GenerationOutput]], None]
    ) -> None:
        super().__init__()
        self._loop, self._deliver_on_loop = loop, deliver

    def deliver(self, output: GenerationOutput) -> None:
        self.deliver_batch([output])

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._deliver_on_loop, outputs)
        except RuntimeError:
            log.debug("the event loop is closed; %d outputs dropped", len(outputs))


class _Manager(ContinuousBatchingManager):  # type: ignore[misc]  # transformers is not typed here
    """The library's manager, without replacing the model's attention."""

    def switch_to_cb_friendly_attn(
        self, model: PreTrainedModel, auto_switch_to_flash: bool = True
    ) -> None:
        pass


class _Temperature(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]
    supported_kwargs: dict[str, type] = {"temperature": float}  # noqa: RUF012  # the library's contract
    ignored_kwargs: tuple[str, ...] = ()

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.copy_(torch.ones_like(int32_tensor, dtype=torch.float32).view(torch.int32))

    def prepare_tensor_args(
        self, requests_with_new_token: list[FutureRequestState]
    ) -> torch.Tensor:
        temperatures = [
            request.state.logit_processor_kwargs.get("temperature", 1.0)
            for request in requests_with_new_token
        ]
        return torch.tensor(temperatures, dtype=torch.float32).view(torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        return scores / tensor_arg[: scores.size(0)].view(torch.float32).unsqueeze(-1)


class _MinTokens(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]
    supported_kwargs: dict[str, type] = {"min_tok": int}  # noqa: RUF012
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self, eos_ids: Sequence[int]) -> None:
        self._eos_ids = list(eos_ids)

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(
        self, requests_with_new_token: list[FutureRequestState]
    ) -> torch.Tensor:
        states = [request.state for request in requests_with_new_token]
        early = [
            _generated(state) < state.logit_processor_kwargs.get("min_tok", 0) for state in states
        ]
        return torch.tensor(early, dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        if not self._eos_ids:
            return scores
        early = tensor_arg[: scores.size(0)].bool().unsqueeze(-1)
        scores[:, self._eos_ids] = scores[:, self._eos_ids].masked_fill(early, float("-inf"))
        return scores


def _generated(state: RequestState) -> int:
    """Tokens of the response so far. A preempted request is read again, with these as part of its
    prompt.
    """
    again = (
        len(state.initial_tokens) - state._true_initial_tokens if state._true_initial_tokens else 0
    )
    generated: int = again + state.generated_len()
    return generated


class Engine:
    """Model, cache and generation thread. All methods belong to the event loop's thread.

    Raises:
        DoesNotFitError: the requested cache is smaller than one request of the longest context.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.device = _device(settings.device)
        if self.device.type == "cpu":
            # One thread on two cores or fewer: a second one is slower there.
            spare = max(1, len(os.sched_getaffinity(0)) - 2)
            torch.set_num_threads(settings.threads or spare)
        self.model = _load(settings, self.device)
        config = self.model.config.get_text_config()
        self.vocab_size: int = config.vocab_size
        longest = getattr(config, "max_position_embeddings", None)
        self.max_context_tok: int = settings.max_context_tok or longest or 4096
        if longest is not None and self.max_context_tok > longest:
            raise DoesNotFitError(
                f"--max-context {self.max_context_tok} exceeds the model's {longest} positions"
            )
        dummy = settings.load_format == "dummy"
        self.eos_ids = frozenset[int]() if dummy else frozenset(_eos_ids(self.model))
        self.page_tok = settings.page_tok or PAGE_TOK
        self.max_batch_tok = settings.max_batch_tok or MAX_BATCH_TOK[self.device.type]
        self.num_blocks = settings.num_blocks or _default_blocks(
            self.model, self.max_context_tok, self.page_tok, self.max_batch_tok
        )
        # One block less: a request's last block is rarely full, and the last token must not need
        # another one.
        self.capacity_tok = (self.num_blocks - 1) * self.page_tok
        self.default_temperature = _default_temperature(self.model)
        self._live: dict[str, Generation] = {}
        self._matched: dict[str, int] = {}
        self._ids = itertools.count()
        self._manager: Any = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        generation = GenerationConfig(
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0, eos_token_id=-1, max_new_tokens=1
        )
        batching = ContinuousBatchingConfig(
            page_size=self.page_tok,
            num_blocks=self.num_blocks,
            max_batch_tokens=self.max_batch_tok,
            max_memory_percent=1.0,
            allow_block_sharing=self.settings.prefix_caching,
            use_async_batching=False,
            use_cuda_graph=False,
            max_blocks_per_request=0,
            auto_switch_to_flash=False,
            per_request_processors=True,
            safety_margin=SAFETY_MARGIN,
            seed=self.settings.seed,
        )
        manager = _Manager(
            model=self.model, generation_config=generation, continuous_batching_config=batching
        )
        manager.output_router = _Router(loop, self._on_outputs)
        processors = manager.logit_processor
        processors.logits_processor[:] = [_MinTokens(sorted(self.eos_ids)), _Temperature()]
        processors.tensors_required = len(processors.logits_processor)
        processors._retrieve_processors_kwargs()
        processors.do_processing = True
        self._manager = manager
        # Created here, not in the thread, so that a cache that does not fit is an error at start.
        manager.batch_processor = manager._create_batch_processor()
        self._watch_prefix_matches(manager.batch_processor.cache)
        _evict_oldest_first(manager.batch_processor.cache, manager.batch_processor.scheduler)
        manager.start()

    def _watch_prefix_matches(self, cache: PagedAttentionCache) -> None:
        """Note how many tokens of each prompt are cached; the library does not expose it."""
        search = cache.search_prefix_match

        def search_and_note(request_id: str, prompt_ids: list[int]) -> int:
            matched: int = search(request_id, prompt_ids)
            # A preempted request searches again, with its response so far: only the first search is
            # of the prompt alone.
            self._matched.setdefault(request_id, matched) if matched else None
            return matched

        cache.search_prefix_match = search_and_note

    def submit(self, token_ids: list[int], sampling: Sampling) -> Generation:
        """Queue a request.

        Raises:
            DoesNotFitError: it could never be served.
            EngineDeadError: the generation thread is gone.
        """
        self.check_fits(len(token_ids), sampling.max_tok)
        if self.fatal_error() is not None:
            raise EngineDeadError(str(self.fatal_error()))
        request_id = f"r{next(self._ids)}"
        eos_ids = frozenset[int]() if sampling.ignore_eos else self.eos_ids
        generation = Generation(
            request_id, len(token_ids), now_ns(), eos_ids, lambda: self.cancel(request_id)
        )
        self._live[request_id] = generation
        accepted = self._manager.add_request(
            token_ids,
            request_id=request_id,
            max_new_tokens=sampling.max_tok,
            streaming=True,
            eos_token_id=sorted(eos_ids) or -1,
            temperature=float(max(sampling.temperature, COLDEST)),
            min_tok=sampling.min_tok,
        )
        if accepted is None:
            del self._live[request_id]
            raise EngineDeadError("the generation thread accepts no requests")
        return generation

    def check_fits(self, prompt_tok: int, max_tok: int) -> None:
        """Raise `DoesNotFitError`, with the numbers involved, if this could never be served."""
        if prompt_tok < 1:
            raise DoesNotFitError("the prompt has no tokens")
        total = prompt_tok + max_tok
        however = (
            f"However, you requested {total} tokens ({prompt_tok} in the prompt, {max_tok} for the"
            " response)."
        )
        if total > self.max_context_tok:
            raise DoesNotFitError(
                f"This model's maximum context length is {self.max_context_tok} tokens. {however}"
            )
        if total > self.capacity_tok:
            raise DoesNotFitError(
                f"The KV cache holds {self.capacity_tok} tokens of one request. {however}"
            )

    def cancel(self, request_id: str) -> None:
        """Stop generating for a request; its consumer receives `abort` unless the request had
        ended.
        """
        generation = self._live.pop(request_id, None)
        self._matched.pop(request_id, None)
        if generation is not None:
            self._manager.cancel_request(request_id)
            generation.put([], "abort", at_ns=now_ns())

    def cancel_all(self) -> None:
        for request_id in list(self._live):
            self.cancel(request_id)

    def stop(self, timeout_s: float) -> None:
        """End the generation thread; give up after `timeout_s` (it is within a forward pass)."""
        self.cancel_all()
        if self._manager is not None:
            self._manager.background_thread_status.request_stop(BackgroundThreadStatus.HARD_STOP, 0)
            self._manager._wake_up_loop.set()
            thread = self._manager._generation_thread
            if thread is not None:
                thread.join(timeout_s)

    def fatal_error(self) -> BaseException | None:
        if self._manager is None:
            return RuntimeError("the generation thread has not been started")
        status = self._manager.background_thread_status
        if status.fatal_error is not None:
            error: BaseException = status.fatal_error
            return error
        running = self._manager.is_running()
        return None if running else RuntimeError("the generation thread has ended")

    def fail_live_if_dead(self) -> None:
        """End requests that a dead thread left open (one may be accepted while it dies). The server
        calls this periodically.
        """
        error = self.fatal_error()
        if error is not None:
            for request_id, generation in list(self._live.items()):
                del self._live[request_id]
                generation.put([], "error", str(error), at_ns=now_ns())

    def running(self) -> float:
        processor = self._manager.batch_processor
        return float(len(processor.scheduler.active_requests)) if processor is not None else 0.0

    def waiting(self) -> float:
        """Requests queued before the batch."""
        processor = self._manager.batch_processor
        waiting = len(processor.scheduler.waiting_requests) if processor is not None else 0
        return float(waiting + self._manager.input_queue.qsize())

    def kv_usage(self) -> float | None:
        """Share of the KV cache used by live requests; blocks kept only for reuse count as free."""
        processor = self._manager.batch_processor
        if processor is None:
            return None
        cache = processor.cache
        reusable = sum(
            len(allocator.ledger.cached_blocks) * allocator.bytes_per_block
            for allocator in cache.cache_allocators.values()
        )
        free = float(cache.compute_free_capacity(relative=False)) + reusable
        total = float(cache.num_sectors * cache.bytes_per_sector)
        used: float = 1.0 - free / total
        return max(0.0, used)

    def _on_outputs(self, outputs: Sequence[GenerationOutput]) -> None:
        at_ns = now_ns()
        for output in outputs:
            generation = self._live.get(output.request_id)
            if generation is None:
                continue
            new = output.generated_tokens[generation.seen :]
            generation.seen += len(new)
            finish = None
            if output.status == RequestStatus.FAILED:
                finish = "error"
            elif output.status == RequestStatus.FINISHED:
                finish = "stop" if new and new[-1] in generation.eos_ids else "length"
            if generation.cached_tok is None and new:
                generation.cached_tok = self._matched.get(output.request_id, 0)
            if finish is not None:
                del self._live[output.request_id]
                self._matched.pop(output.request_id, None)
            generation.put(new, finish, output.error, at_ns=at_ns)


def _evict_oldest_first(cache: PagedAttentionCache, scheduler: Scheduler) -> None:
    """Evict the prefixes that were used longest ago.

    The library evicts all of them whenever space runs short, so that under conversations the hit
    rate keeps falling to zero. For a live request that cannot continue (`starved`) it still does:
    no cached prefix is worth stopping a request.
    """
    evict_all = cache.evict_cached_blocks

    def evict() -> bool:
        if scheduler.starved_requests:
            dropped: bool = evict_all()
            return dropped
        missing_bytes = (
            EVICT_TO * cache.num_sectors * cache.bytes_per_sector
            - cache.compute_free_capacity(relative=False)
        )
        evicted = False
        for allocator in cache.cache_allocators.values():
            ledger = allocator.ledger
            count = max(1, int(missing_bytes // allocator.bytes_per_block))
            oldest = list(itertools.islice(ledger.cached_blocks, count))
            for block in oldest:
                del ledger.cached_blocks[block]
                del ledger.hash_to_block[ledger.block_to_hash.pop(block)]
            cache.pool.free_blocks(allocator.index, oldest)
            evicted |= bool(oldest)
        return evicted

    cache.evict_cached_blocks = evict


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            "--device cuda: torch sees no CUDA device (a CPU build of torch, a missing driver, or"
            " CUDA_VISIBLE_DEVICES is empty)"
        )
    return torch.device(wanted)


def _load(settings: EngineSettings, device: torch.device) -> PreTrainedModel:
    implementation = attention.register()
    dtype: Any = "auto" if settings.dtype == "auto" else getattr(torch, settings.dtype)
    if settings.load_format == "dummy":
        config = AutoConfig.from_pretrained(settings.model)
        chosen = (getattr(config, "dtype", None) or torch.float32) if dtype == "auto" else dtype
        with torch.device(device), _no_init():
            model = AutoModelForCausalLM.from_config(
                config, dtype=chosen, attn_implementation=implementation
            )
        generator = torch.Generator(device=device).manual_seed(settings.seed)
        for parameter in model.parameters():
            parameter.data.uniform_(-DUMMY_RANGE, DUMMY_RANGE, generator=generator)
    else:
        model = AutoModelForCausalLM.from_pretrained(
            settings.model, dtype=dtype, attn_implementation=implementation
        )
    return model.to(device).eval()


def _no_init() -> AbstractContextManager[None]:
    """Skip the library's own initialization, which dummy weights overwrite anyway."""
    from transformers.initialization import no_init_weights

    skipping: AbstractContextManager[None] = no_init_weights()
    return skipping


def _eos_ids(model: PreTrainedModel) -> list[int]:
    ids = model.generation_config.eos_token_id
    if ids is None:
        ids = model.config.get_text_config().eos_token_id
    if ids is None:
        return []
    return [ids] if isinstance(ids, int) else list(ids)


def _default_temperature(model: PreTrainedModel) -> float:
    """For a request without one: the model's own setting, else 1, as both APIs document (and vLLM
    does).
    """
    value = model.generation_config.temperature
    return float(value) if value is not None else 1.0


def _default_blocks(
    model: PreTrainedModel, max_context_tok: int, page_tok: int, max_batch_tok: int
) -> int:
    """Blocks of the cache: `STREAMS` full contexts within the CPU budget, or what the GPU has
    left.
    """
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    item = model.dtype.itemsize
    kv_bytes = config.num_hidden_layers * kv_heads * size * 2 * item
    # transformers' own memory check counts a mask and copies of keys that this engine's attention
    # does not make.
    counted_bytes = kv_bytes + (2 * heads + kv_heads) * size * item + 8 + max_batch_tok * item
    if model.device.type == "cuda":
        free, _total = torch.cuda.mem_get_info(model.device)
        tokens = int(free * CUDA_KV_SHARE) // counted_bytes
    else:
        streams_tok = int(STREAMS * min(max_context_tok, STREAM_TOK) / (1 - SAFETY_MARGIN))
        total = psutil.virtual_memory().total - psutil.Process().memory_info().rss
        tokens = min(
            max(streams_tok, 2 * max_context_tok),
            CPU_KV_BYTES // kv_bytes,
            int(total * 0.8) // counted_bytes,
        )
    blocks = int(tokens // page_tok)
    if blocks < max_context_tok // page_tok + 2:
        log.warning(
            "the KV cache has room for %d tokens, less than one request of the longest context, %d",
            blocks * page_tok,
            max_context_tok,
        )
    if blocks < 2:
        raise DoesNotFitError(
            f"no room for a KV cache: {kv_bytes} bytes per token,"
            f" {Path(model.config._name_or_path).name}"
        )
    return blocks
