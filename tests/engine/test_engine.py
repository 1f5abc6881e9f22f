"""The engine's doors: threads, loops, cancels, errors, and that nobody is left waiting."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from plural.engine import Engine, EngineSettings, Request
from plural.engine.kernels.interface import Segment, Span
from plural.engine.kernels.pages import Pages
from plural.engine.kernels.torch_kernels import TorchKernels
from plural.engine.request import Job
from plural.engine.scheduler import Plan, Scheduler
from plural.errors import (
    EngineStopped,
    GrammarError,
    MachineError,
    PoolError,
    PromptError,
    SettingsError,
    SpecialistError,
)
from plural.models.decoder import Attend, Delta
from plural.types import AdapterRef, Sampling

from .tiny import (
    Shelf,
    bit_equal,
    collect,
    drawn,
    drive,
    reference_logprobs,
    reference_states,
    tiny_adapter,
    tiny_decoder,
    tiny_engine,
    tiny_tokenizer,
)

PROMPT = tuple(range(40))


def request(tokens: int = 8, prompt: tuple[int, ...] = PROMPT, adapter: AdapterRef | None = None) -> Request:
    return Request(prompt, Sampling(max_tokens=tokens, ignore_eos=True), adapter)


@pytest.fixture
def engine() -> Iterator[Engine]:
    shelf = Shelf({"a": tiny_adapter(1), "b": tiny_adapter(2, rank=8)})
    running = tiny_engine(shelf, kv_tokens=1024, threads=1)
    yield running
    running.close()


async def exhaust(stream: AsyncIterator[object]) -> None:
    async for _ in stream:
        pass


async def settled(engine: Engine) -> None:
    """Waits until the engine has nothing to do, then checks its books."""
    for _ in range(2000):
        engine.check()
        stats = engine.stats()
        if not (stats.running or stats.waiting or stats.pages_used):
            break
        await asyncio.sleep(0.005)
    engine.check()
    assert engine.stats().pages_used == 0


# ------------------------------------------------------------------------------------------------ streaming
async def test_tokens_come_one_by_one_and_many_streams_together(engine: Engine) -> None:
    alone = await collect(engine, request())
    streams = await asyncio.gather(*(collect(engine, request()) for _ in range(10)))
    assert all(drawn(events) == drawn(alone) for events in streams)
    assert len(alone) == 8
    await settled(engine)


async def test_several_loops_and_threads_share_an_engine(engine: Engine) -> None:
    expected = drawn(await collect(engine, request()))
    results: list[Any] = []

    def elsewhere() -> None:
        results.append(drawn(asyncio.run(collect(engine, request()))))

    threads = [threading.Thread(target=elsewhere) for _ in range(4)]
    for thread in threads:
        thread.start()
    here = drawn(await collect(engine, request()))
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert results == [expected] * 4
    assert here == expected


# ------------------------------------------------------------------------------------------------ going away
async def test_leaving_the_stream_frees_its_pages(engine: Engine) -> None:
    stream = engine.generate(request(400))
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    await settled(engine)


async def test_a_cancelled_caller_frees_its_pages(engine: Engine) -> None:
    task = asyncio.create_task(collect(engine, request(400)))
    while engine.stats().pages_used == 0:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settled(engine)


async def test_a_forgotten_stream_frees_its_pages(engine: Engine) -> None:
    stream = engine.generate(request(400))
    await anext(stream)
    del stream
    gc.collect()
    await asyncio.sleep(0)
    await settled(engine)


async def test_a_caller_whose_loop_died_is_nobodys_trouble(engine: Engine) -> None:
    def elsewhere() -> None:
        loop = asyncio.new_event_loop()
        stream = engine.generate(request(300))
        loop.run_until_complete(anext(stream))
        loop.close()

    await asyncio.to_thread(elsewhere)
    await settled(engine)
    assert await collect(engine, request())


def how_many_lost(tasks: list[asyncio.Task[Any]], removed: set[str]) -> int:
    """Takes those that are done off the list. None failed but for an adapter that was removed before it was loaded."""
    errors = [task.exception() for task in tasks if task.done()]
    tasks[:] = [task for task in tasks if not task.done()]
    lost = [error for error in errors if isinstance(error, SpecialistError)]
    assert all(any(repr(name) in str(error) for name in removed) for error in lost), lost
    assert all(error is None for error in errors if error not in lost), errors
    return len(lost)


def watch_for_lost_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets no request that has begun to wear its adapter end for want of it."""
    begun: set[Job] = set()
    for name in ("_start", "_hold", "_charge"):  # let in, or left waiting in the middle, or going on

        def told(scheduler: Scheduler, job: Job, happen: Callable[..., None] = getattr(Scheduler, name)) -> None:
            if not job.ahead:
                begun.add(job)
            happen(scheduler, job)

        monkeypatch.setattr(Scheduler, name, told)

    def ended(engine: Engine, job: Job, result: object, end: Callable[..., None] = Engine._end) -> None:
        assert not (isinstance(result, SpecialistError) and job in begun), "a request under way lost its adapter"
        end(engine, job, result)

    monkeypatch.setattr(Engine, "_end", ended)


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_random_submits_cancels_and_publications_leave_the_pool_empty(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that come, stream, and go away at any moment, in a pool that is too small for them, wearing adapters of
    which new versions are published and old ones removed all the time. None that has begun is lost to a removal."""
    watch_for_lost_adapters(monkeypatch)
    shelf = Shelf({"a": tiny_adapter(1), "b": tiny_adapter(2, rank=8)})
    engine = tiny_engine(shelf, start=False, kv_tokens=16 * 30)
    dice = random.Random(0)
    done = dict.fromkeys(("submit", "cancel", "publish", "remove"), 0)
    removed: set[str] = set()
    lost = brought_back = 0
    tasks: list[asyncio.Task[Any]] = []

    def submit() -> asyncio.Task[Any]:
        kind = dice.random()
        prompt = tuple(dice.randrange(3) for _ in range(dice.randrange(1, 80)))
        names = dice.sample(sorted(shelf.adapters), dice.choice([0, 1, 1, min(2, len(shelf.adapters))]))
        adapter = tuple(AdapterRef(name, dice.choice([1.0, 0.5]), dice.choice([0, 20])) for name in names)
        if kind < 0.1:
            return asyncio.ensure_future(engine.choose(prompt, ["yes", "no", "maybe not"], adapter))
        if kind < 0.2:
            return asyncio.ensure_future(engine.embed([prompt, prompt]))
        wanted = request(dice.randrange(1, 60), prompt, adapter)
        if kind < 0.3:
            return asyncio.ensure_future(exhaust(engine.samples(wanted, dice.randrange(1, 5))))
        return asyncio.ensure_future(collect(engine, wanted))

    while sum(done.values()) < count or tasks:
        going, roll = sum(done.values()) < count, dice.random()
        if going and roll < 0.7:
            tasks.append(submit())
            done["submit"] += 1
        elif going and roll < 0.8:
            done["publish"] += 1
            shelf.put(replace(tiny_adapter(done["publish"] % 7 + 10, rank=2), digest=f"version {done['publish']}"))
        elif going and roll < 0.9 and len(shelf.adapters) > 1:
            removed.add(name := dice.choice(sorted(shelf.adapters)))
            del shelf.adapters[name]
            done["remove"] += 1
        if tasks and dice.random() < 0.25:
            tasks.pop(dice.randrange(len(tasks))).cancel()
            done["cancel"] += 1
        await asyncio.sleep(0)
        engine.step()
        engine.check()
        brought_back += len(removed & set(engine._adapters.held))
        lost += how_many_lost(tasks, removed)
    while engine.stats().pages_used:  # an adapter that nobody waits for any more is on its way
        await asyncio.sleep(0.001)
        engine.step()
    engine.check()
    stats = engine.stats()
    assert (stats.pages_used, stats.running, stats.waiting) == (0, 0, 0)
    assert all(done.values()), done
    assert lost < done["submit"] / 4
    assert brought_back > 0
    assert stats.preempted > 0, stats


# ------------------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    ("bad", "error", "says"),
    [
        (request(prompt=()), PromptError, "empty"),
        (request(prompt=(1, 258)), PromptError, "258"),
        (request(prompt=(-1,)), PromptError, "-1"),
        (request(prompt=(1,) * 513), PromptError, r"513.*512"),
        (request(prompt=(1,) * 512), PromptError, r"512.*512"),
    ],
)
async def test_a_bad_request_is_refused_with_its_value(
    engine: Engine, bad: Request, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        await collect(engine, bad)


async def test_a_request_that_never_fits_is_refused_with_both_numbers() -> None:
    engine = tiny_engine(start=False, kv_tokens=64)
    with pytest.raises(PoolError, match=r"71.*64"):
        await collect(engine, request(30))
    with pytest.raises(PoolError):
        await engine.embed([(1,) * 70])


def test_settings_are_strict() -> None:
    for wrong in ({"pagesize": 16}, {"page_size": 24}, {"max_running": 0}, {"step_tokens": 4, "max_running": 8}):
        with pytest.raises(SettingsError, match="settings are wrong"):
            EngineSettings(**wrong)
    with pytest.raises(SettingsError, match=r"pagesize"):
        EngineSettings(pagesize=16)
    with pytest.raises(SettingsError, match="dtype is 'fp32', and kernels were given"):
        Engine(tiny_decoder(), tiny_tokenizer(), Shelf({}), EngineSettings(dtype="fp32"), kernels=TorchKernels())


# ------------------------------------------------------------------------------------------------ choose and embed
@pytest.mark.parametrize("digest", [None, "a"])
async def test_choose_is_the_probability_of_the_whole_answer(engine: Engine, digest: str | None) -> None:
    """Against the definition, computed by the plain decoder: the option's tokens, then any end-of-turn token."""
    options = ["yes", "no", "y"]
    decision = await engine.choose(PROMPT, options, AdapterRef(digest) if digest else None)
    adapter = tiny_adapter(1) if digest else None
    scores = {}
    for option in options:
        answer = engine.tokenizer.encode(option)
        logprobs_TV = reference_logprobs(tiny_decoder(), [*PROMPT, *answer], adapter)[len(PROMPT) - 1 :]
        told = sum(float(logprobs_TV[i, token]) for i, token in enumerate(answer))
        scores[option] = told + float(logprobs_TV[-1, sorted(engine.tokenizer.eos_ids)].logsumexp(0))
    weights = {option: math.exp(score - max(scores.values())) for option, score in scores.items()}
    expected = {option: weight / sum(weights.values()) for option, weight in weights.items()}
    assert {o.value: o.probability for o in decision.options} == pytest.approx(expected, rel=1e-3)
    assert decision.value == decision.options[0].value == max(expected, key=lambda option: expected[option])
    assert sum(o.probability for o in decision.options) == pytest.approx(1)


async def test_choose_reads_the_prompt_once() -> None:
    engine = tiny_engine(start=False, prefix_cache=False)
    await drive(engine, engine.choose(PROMPT, ["yes", "no", "maybe"]))
    assert engine.stats().computed == len(PROMPT) + len("yes") + len("no") + len("maybe")
    assert engine.stats().steps == 2


async def test_choose_reads_once_what_options_begin_with() -> None:
    engine = tiny_engine(start=False, prefix_cache=False)
    options = ["turn on", "turn off", "turn", "turn on again", "stop"]
    [shared] = await drive(engine, engine.choose(PROMPT, options))
    read = ["turn", " o", "n", " again", "ff", "stop"]
    assert engine.stats().computed == len(PROMPT) + sum(map(len, read))
    engine.check()
    assert engine.stats().pages_used == 0
    assert not isinstance(shared, BaseException)
    alone = {option: await choice_logprob(option) for option in options}
    total = sum(math.exp(logprob) for logprob in alone.values())
    for option in shared.options:
        assert option.probability == pytest.approx(math.exp(alone[option.value]) / total, rel=1e-3)


async def choice_logprob(option: str) -> float:
    """By definition, from the plain decoder."""
    engine = tiny_engine(start=False)
    answer = engine.tokenizer.encode(option)
    logprobs_TV = reference_logprobs(tiny_decoder(), [*PROMPT, *answer])[len(PROMPT) - 1 :]
    told = sum(float(logprobs_TV[i, token]) for i, token in enumerate(answer))
    return told + float(logprobs_TV[-1, sorted(engine.tokenizer.eos_ids)].logsumexp(0))


@bit_equal
async def test_choosing_in_a_pool_that_is_too_small_for_all_options_waits() -> None:
    options = ["turn on", "turn off", "turn on again", "turn it"]
    [roomy] = await drive(engine := tiny_engine(start=False), engine.choose(PROMPT, options))
    small = tiny_engine(start=False, kv_tokens=16 * 5)
    [same] = await drive(small, small.choose(PROMPT, options))
    assert same == roomy
    small.check()
    assert small.stats().pages_used == 0


@pytest.mark.parametrize("options", [[], ["a", "a"], ["a", ""]])
async def test_options_must_be_options(engine: Engine, options: list[str]) -> None:
    with pytest.raises(GrammarError, match="differ"):
        await engine.choose(PROMPT, options)


async def test_embed_is_the_unit_mean_of_the_final_states(engine: Engine) -> None:
    vectors = await engine.embed([PROMPT, (5,), tuple(range(200))])
    for prompt, vector in zip((PROMPT, (5,), tuple(range(200))), vectors, strict=True):
        mean_H = reference_states(tiny_decoder(), prompt).mean(0)
        assert vector == pytest.approx((mean_H / mean_H.norm()).tolist(), abs=1e-5)
    assert await engine.embed([]) == []


# ------------------------------------------------------------------------------------------------ when things break
class Breaking(TorchKernels):
    """Kernels that fail when they are told to."""

    broken = False

    def bind(self, memory: Pages, spans: Sequence[Span], segments: Sequence[Segment]) -> tuple[Attend, Delta | None]:
        if self.broken:
            raise RuntimeError("the device is lost")
        return super().bind(memory, spans, segments)


async def test_a_step_that_fails_ends_its_requests_and_the_engine_goes_on() -> None:
    kernels = Breaking()
    engine = Engine(tiny_decoder(), tiny_tokenizer(), Shelf(), EngineSettings(threads=1), kernels=kernels)
    stream = engine.generate(request(400))
    await anext(stream)
    kernels.broken = True
    with pytest.raises(MachineError, match="device is lost"):
        await exhaust(stream)
    with pytest.raises(MachineError, match="device is lost"):
        await engine.choose(PROMPT, ["yes", "no"])
    kernels.broken = False
    assert len(await collect(engine, request())) == 8
    await settled(engine)
    engine.close()


async def test_closing_fails_those_who_wait_and_those_who_come(engine: Engine) -> None:
    tasks = [asyncio.create_task(collect(engine, request(460))) for _ in range(40)]
    tasks.append(asyncio.create_task(engine.embed([PROMPT])))
    await asyncio.sleep(0.05)
    engine.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert any(isinstance(result, EngineStopped) for result in results)
    assert all(isinstance(result, EngineStopped | list) for result in results)
    with pytest.raises(EngineStopped):
        await collect(engine, request())
    engine.close()
    engine.check()


async def test_a_scheduler_that_fails_ends_everybody_instead_of_hanging_them(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(scheduler: Scheduler) -> Plan:
        raise IndexError("a page that does not exist")

    stream = engine.generate(request(400))
    await anext(stream)
    monkeypatch.setattr(Scheduler, "schedule", broken)
    with pytest.raises(MachineError, match="does not exist"):
        await exhaust(stream)
    with pytest.raises(EngineStopped):
        await collect(engine, request())


def test_the_package_is_imported_without_torch() -> None:
    code = "import sys, plural.engine; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
