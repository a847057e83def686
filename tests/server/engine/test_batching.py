"""The generation thread from inside: right tokens whatever shares the batch, ends as asked, death
told to everybody.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import torch

from harness.server.engine import batching
from harness.server.engine.api import EngineApp
from harness.server.engine.batching import (
    DoesNotFitError,
    Engine,
    EngineDeadError,
    EngineSettings,
    Sampling,
)
from harness.server.engine.prompts import Prompts

DEADLINE_S = 60.0


@asynccontextmanager
async def started(
    path: str, eos_ids: frozenset[int] | None = None, **settings
) -> AsyncIterator[Engine]:
    chosen = {
        "device": "cpu",
        "threads": 1,
        "max_context_tok": 1024,
        "num_blocks": 128,
        "max_batch_tok": 64,
    }
    engine = Engine(EngineSettings(path, **(chosen | settings)))
    if eos_ids is not None:
        engine.eos_ids = eos_ids
    engine.start(asyncio.get_running_loop())
    try:
        yield engine
    finally:
        engine.stop(30)


async def whole(engine: Engine, ids: list[int], **sampling) -> tuple[list[int], str]:
    generation = engine.submit(ids, Sampling(**({"temperature": 0.0} | sampling)))
    out: list[int] = []
    async with asyncio.timeout(DEADLINE_S):
        while True:
            delivery = await generation.next()
            out += delivery.token_ids
            if delivery.finish is not None:
                return out, delivery.finish


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110  # what is waited for happens in a thread without events
        await asyncio.sleep(0.01)


def prompt(seed: int, length: int) -> list[int]:
    return torch.randint(
        300, 1700, (length,), generator=torch.Generator().manual_seed(seed)
    ).tolist()


@pytest.fixture(scope="module")
def plain(tiny_path):
    """The same model under transformers' ordinary generation, one prompt at a time."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_path)

    def generate(ids: list[int], count: int) -> list[int]:
        out = model.generate(
            torch.tensor([ids]),
            max_new_tokens=count,
            do_sample=False,
            attention_mask=torch.ones(1, len(ids)),
        )
        return out[0, len(ids) :].tolist()

    return generate


def test_batched_chunked_and_shared_prompts_give_the_tokens_of_a_plain_run(tiny_path, plain):
    """Prompts are longer than a batch (64 tokens), so they are split; two share a prefix; short and
    long decode side by side.
    """
    long = prompt(1, 300)
    prompts = [prompt(2, 1), prompt(3, 40), long, long[:200] + prompt(4, 30), prompt(5, 64)]

    async def run():
        async with started(tiny_path) as engine:
            first = await asyncio.gather(*(whole(engine, ids, max_tok=12) for ids in prompts))
            again = engine.submit(prompts[3], Sampling(12, temperature=0.0))
            delivery = await again.next()
            return first, again.cached_tok, delivery.token_ids

    answers, cached, begin = asyncio.run(run())
    for ids, (out, finish) in zip(prompts, answers, strict=True):
        assert (out, finish) == (plain(ids, 12), "length")
    assert cached == 224, "all whole blocks of 32 of a prompt of 230 tokens"
    assert begin[0] == answers[3][0][0]


def test_an_end_of_text_token_ends_an_answer_unless_told_otherwise(tiny_path, plain):
    ids = prompt(7, 20)
    free = plain(ids, 16)
    end = frozenset({free[4]})
    at = free.index(free[4]) + 1

    async def run():
        async with started(tiny_path, eos_ids=end) as engine:
            return [
                await whole(engine, ids, max_tok=16),
                await whole(engine, ids, max_tok=16, ignore_eos=True),
                await whole(engine, ids, max_tok=16, min_tok=10),
                await whole(engine, ids, max_tok=16, min_tok=16),
            ]

    natural, ignored, at_least, exactly = asyncio.run(run())
    assert natural == (free[:at], "stop"), "the token that ended it is counted"
    assert ignored == (free, "length")
    assert len(at_least[0]) >= 10
    assert not end & set(at_least[0][:10])
    assert (len(exactly[0]), exactly[1]) == (16, "length")
    assert not end & set(exactly[0])


def test_dummy_weights_never_end_an_answer(tiny_path):
    async def run():
        async with started(tiny_path, load_format="dummy") as engine:
            biggest = max(
                parameter.detach().abs().max().item() for parameter in engine.model.parameters()
            )
            return engine.eos_ids, biggest, await whole(engine, prompt(1, 5), max_tok=8)

    eos_ids, biggest, (out, finish) = asyncio.run(run())
    assert (eos_ids, len(out), finish) == (frozenset(), 8, "length")
    assert biggest <= batching.DUMMY_RANGE


def test_what_can_never_fit_is_refused_by_arithmetic(tiny_path):
    async def run():
        async with started(tiny_path, num_blocks=9) as engine:
            assert engine.capacity_tok == 256
            with pytest.raises(DoesNotFitError, match=r"KV cache .* 256 tokens"):
                engine.submit(prompt(1, 250), Sampling(7))
            with pytest.raises(DoesNotFitError, match="maximum context length is 1024"):
                engine.submit(prompt(1, 1000), Sampling(25))
            with pytest.raises(DoesNotFitError, match="prompt"):
                engine.submit([], Sampling(5))
            return await whole(engine, prompt(1, 250), max_tok=6)

    assert len(asyncio.run(run())[0]) == 6, "one that just fits is served"


def test_requests_that_outgrow_the_cache_together_give_way_and_end_right(tiny_path, plain):
    """Four answers of 250 tokens in a cache for 640: some are put back and read again, and nobody
    can tell from the tokens.
    """
    prompts = [prompt(20 + i, 60) for i in range(4)]

    async def run():
        async with started(tiny_path, num_blocks=21) as engine:
            return await asyncio.gather(
                *(whole(engine, ids, max_tok=250, min_tok=250) for ids in prompts)
            )

    answers = asyncio.run(run())
    for ids, (out, finish) in zip(prompts, answers, strict=True):
        assert (out, finish) == (plain(ids, 250), "length")


def test_when_room_gets_short_the_oldest_prefixes_go_first(tiny_path):
    """A cache for 1,000 tokens, a prefix that is asked again and again, and others in between that
    fill it several times over.
    """

    async def ask(engine, ids):
        generation = engine.submit(ids, Sampling(1))
        async with asyncio.timeout(DEADLINE_S):
            while (await generation.next()).finish is None:
                pass
        return generation.cached_tok

    async def run():
        async with started(tiny_path, num_blocks=32) as engine:
            hot = prompt(1, 200)
            first = await ask(engine, hot)
            hits = []
            for i in range(40):
                assert await ask(engine, prompt(100 + i, 100)) == 0
                hits.append(await ask(engine, hot))
            return first, hits, await ask(engine, prompt(100, 100))

    first, hits, forgotten = asyncio.run(run())
    assert (first, forgotten) == (0, 0)
    assert set(hits) == {192}, "six whole blocks, every time"


def test_cancelled_requests_get_abort_and_free_their_blocks(tiny_path):
    async def run():
        async with started(tiny_path) as engine:
            generation = engine.submit(prompt(1, 100), Sampling(800))
            async with asyncio.timeout(DEADLINE_S):
                await generation.next()
                held = engine.kv_usage()
                generation.cancel()
                while (await generation.next()).finish is None:
                    pass
                await until(lambda: engine.kv_usage() == 0 and engine.running() == 0)
            return held

    assert asyncio.run(run()) > 0


def test_a_dead_generation_thread_fails_what_is_live_and_what_comes(tiny_path):
    async def run():
        async with started(tiny_path) as engine:
            api = EngineApp(engine, Prompts(tiny_path), "tiny")
            assert (await api._health(None)).status_code == 200
            live = engine.submit(prompt(1, 20), Sampling(900))
            await live.next()

            def broken(*_args, **_kwargs):
                raise RuntimeError("out of memory")

            engine.model.forward = broken
            async with asyncio.timeout(DEADLINE_S):
                while (delivery := await live.next()).finish is None:
                    pass
                await until(lambda: engine.fatal_error() is not None)
            with pytest.raises(EngineDeadError, match="out of memory"):
                engine.submit(prompt(1, 20), Sampling(5))
            health = await api._health(None)
            return delivery, health

    delivery, health = asyncio.run(run())
    assert (delivery.finish, delivery.error) == ("error", "out of memory")
    assert health.status_code == 503
    assert b"out of memory" in health.body


def test_turns_are_tokenised_as_the_whole_text_is(tiny_path):
    prompts = Prompts(tiny_path)
    assert prompts._by_turn
    messages = [
        {"role": "system", "content": "a  b\n"},
        {"role": "user", "content": " c <|im_start|> d"},
        {"role": "user", "content": "é\n\n"},
    ]
    text = prompts.render(messages, [])
    assert prompts._encode(text) == prompts.fast.encode(text, add_special_tokens=False).ids
    assert prompts._encode(text) == prompts._encode(text), "from the cache of turns as well"
