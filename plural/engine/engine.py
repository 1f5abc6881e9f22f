"""Many adapters, one base, one step: schedule -> run -> sample -> commit.

The engine owns a thread, and that thread owns everything: jobs, pages, adapters. Callers on any event loop hand jobs in
through a queue and get results back on their own loop.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from plural.engine import sampler
from plural.engine.adapter_pool import AdapterPool
from plural.engine.batch import Batch, Spot, build_batch
from plural.engine.coming import Coming
from plural.engine.grammar import GrammarCompiler, MasksAhead
from plural.engine.intake import Intake, check_options
from plural.engine.kernels.choice import best_kernels
from plural.engine.kernels.interface import AdapterWeights, Kernels, Packed, Result
from plural.engine.kernels.pages import KeptPages, Pages, Parcel, held_bytes, page_bytes, row_bytes
from plural.engine.mailbox import Mailbox
from plural.engine.page_pool import PagePool
from plural.engine.queue import WaitingQueue
from plural.engine.request import EmbedJob, GenerateJob, Job, PromptJob, Request, ScoreJob, mixture, share
from plural.engine.runner import Runner
from plural.engine.scheduler import Plan, Scheduler
from plural.engine.settings import EngineSettings
from plural.errors import (
    EngineStopped,
    MachineError,
    NumericError,
    PluralError,
    SettingsError,
)
from plural.models.decoder import Decoder
from plural.models.tokenizer import Tokenizer
from plural.types import AdapterRef, Decision, Mixture, Option, TokenEvent, Usage


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counted, not timed, since the engine started. `cached` are tokens found in the prefix cache.

    `pages_used` are those of requests under way and their adapters, `pages_cached` keys and values that nobody uses
    now; `adapters` are those that have pages, `loaded` how often one was brought into pages.
    """

    steps: int
    computed: int
    cached: int
    submitted: int
    finished: int
    preempted: int
    running: int
    waiting: int
    pages: int
    pages_used: int
    pages_cached: int
    page_bytes: int
    adapters: tuple[str, ...]
    loaded: int = 0


class Engine:
    """`adapters` gives the weights of a digest, or raises what the request shall fail with.

    `packed` is a file for the weights as the kernels want them, read at the next start: named after base and dtype.
    With `start=False` there is no thread, and nothing happens until the caller calls `step`.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        adapters: Callable[[str], AdapterWeights],
        settings: EngineSettings | None = None,
        *,
        kernels: Kernels | None = None,
        packed: Path | None = None,
        start: bool = True,
    ) -> None:
        self.settings = settings or EngineSettings()
        if kernels is not None and self.settings.dtype != "auto":
            raise SettingsError(
                f"dtype is {self.settings.dtype!r}, and kernels were given.",
                hint="Kernels choose how they compute: leave dtype at auto.",
            )
        self.tokenizer = tokenizer
        self.context = decoder.config.max_positions
        vocabulary = min(tokenizer.vocab_size, decoder.config.vocab_size)
        machine = kernels or best_kernels(decoder, self.settings)
        size, dtype, device = self.settings.page_size, decoder.dtype, decoder.device
        each = page_bytes(decoder.config, size, dtype)
        forward = machine.forward(decoder, vocabulary, packed)
        num_pages = self.settings.num_pages(each, held_bytes(device), row_bytes(decoder.config))
        self._pages = PagePool(num_pages, size, prefix_cache=self.settings.prefix_cache)
        memory = Pages(decoder.config, num_pages, size, dtype, device)
        self._loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="plural-loader")
        coming = Coming(adapters, machine, decoder, memory)
        self._adapters: AdapterPool[Parcel, Packed, KeptPages] = AdapterPool(
            self._pages, coming, self._loader, self._wake_up
        )
        self._scheduler = Scheduler(self.settings, self._pages, self._adapters)
        self._runner = Runner(forward, memory, self._adapters.__getitem__)
        self._intake = Intake(
            tokenizer, GrammarCompiler(tokenizer), context=self.context, vocabulary=vocabulary, room=num_pages * size
        )
        self._masks = MasksAhead()
        self._steps = 0
        self._submitted = 0
        self._closed = False
        # `_wake` guards the inbox and `_closed`; `_stepping` guards everything the engine's thread owns.
        self._inbox: deque[Job] = deque()
        self._news = False
        self._wake = threading.Condition()
        self._stepping = threading.RLock()
        self._thread: threading.Thread | None = None
        if start:
            self._thread = threading.Thread(target=self._work, name="plural-engine", daemon=True)
            self._thread.start()

    # ------------------------------------------------------------------------------------------------- the heart
    @torch.inference_mode()
    def step(self) -> bool:
        """One step. False when there was nothing to do."""
        with self._stepping:
            self._take_inbox()
            plan = self._scheduler.schedule()
            for job, error in plan.failed:
                self._end(job, error)
            if not plan.work:
                return bool(plan.failed)
            try:
                batch = build_batch(plan.work)
                self._masks.begin([found for one in batch.wanted if (found := sampler.masked(one.job))])
                self._clean()
                self._runner.memory.copy(plan.copies)
                begun = time.monotonic()
                result = self._runner.run(batch)
                self._weed(batch, result)
                self._scheduler.commit(plan, time.monotonic() - begun)
                self._deliver(batch, result)
            except Exception as error:  # noqa: BLE001 - whatever went wrong, nobody may be left waiting
                self._fail(plan, error)
            self._steps += 1
            return True

    def _weed(self, batch: Batch, result: Result) -> None:
        """Ends the jobs whose numbers broke. What they wrote may be read by nobody, not even as padding, and pages
        written in this step are known to nobody yet."""
        for work, span in zip(batch.work, batch.spans, strict=True):
            if not all(result.finite_T[span.start : span.stop]):
                self._runner.memory.clear(work.job.pages[work.start // self.settings.page_size :])
                self._end(work.job, _not_finite(work.job))

    def _deliver(self, batch: Batch, result: Result) -> None:
        """Gives every job what its rows were computed for."""
        for embed, start, stop in batch.states:
            embed.states.append(result.states_TH[start:stop].float())
            if embed.remaining == 0 and not embed.done:
                self._end(embed, _mean(embed))
        result.bring([row for row, wanted in enumerate(batch.wanted) if sampler.reads_logits(wanted.job)])
        found = dict(zip(batch.scored, result.logits(batch.scored), strict=True))
        for row, wanted in enumerate(batch.wanted):
            job = wanted.job
            if job.done:
                continue
            if not math.isfinite(result.totals_R[row]):
                self._end(job, _not_finite(job))
            elif isinstance(job, GenerateJob):
                self._draw(job, result, row)
            elif isinstance(job, ScoreJob):
                self._score(job, wanted.position, row, found, result.totals_R[row])
            elif isinstance(job, PromptJob):
                self._branch(job, wanted.position, row, found, result)

    def _draw(self, job: GenerateJob, result: Result, row: int) -> None:
        try:
            events = job.append(sampler.draw(job, result, row), self.tokenizer.eos_ids)
        except PluralError as error:
            self._end(job, error)
            return
        if events[-1].finish is not None:
            self._scheduler.finish(job)
        if not all([job.sink(event) for event in events]):
            self._scheduler.finish(job)

    def _score(self, job: ScoreJob, position: int, row: int, found: Mapping[Spot, float], total: float) -> None:
        job.take(position, [found[row, token] for token in sorted(job.targets(position))], total)
        if job.remaining == 0 and position + 1 == len(job.tokens):
            self._end(job, job.score)

    def _branch(self, parent: PromptJob, position: int, row: int, found: Mapping[Spot, float], result: Result) -> None:
        """Tells the children of a prompt what may follow it; when it is all read, they go on from there."""
        whole = position + 1 == len(parent.tokens)
        if whole:
            copies = self._scheduler.fork(parent, [child for child in parent.children if _is_wanted(child)])
            self._clean()
            self._runner.memory.copy(copies)
        for job in parent.family:
            if isinstance(job, ScoreJob) and _is_wanted(job):
                self._score(job, position, row, found, result.totals_R[row])
            elif isinstance(job, GenerateJob) and _is_wanted(job) and job.remaining == 0:
                self._draw(job, result, row)
        if whole:
            self._end(parent, None)

    # ---------------------------------------------------------------------------------------------- the callers' side
    async def generate(self, request: Request) -> AsyncGenerator[TokenEvent, None]:
        """The request's tokens as they are drawn; the last event has `finish` and `usage`.

        Raises PromptError, SettingsError or GrammarError for a request that cannot run, PoolError for one that the KV
        pool can never hold, what loading its adapter raised, NumericError, MachineError or EngineStopped. Leaving the
        iterator, by `aclose`, cancellation or garbage collection, ends the request.
        """
        box = Mailbox()
        job = await self._intake.job(request, box.put)
        begun = job.forced(self.tokenizer.eos_ids)
        whole = job.done = _is_whole(begun)
        if not whole:
            self._submit(job)
        try:
            for event in begun:
                yield event
            while not whole:
                said = await box.get()
                assert isinstance(said, TokenEvent)
                yield said
                whole = said.finish is not None
        finally:
            self._cancel([job])

    async def samples(self, request: Request, n: int) -> AsyncGenerator[tuple[int, TokenEvent], None]:
        """`n` answers to one request: (which, its event), each answer's events as `generate` gives them. Each has a
        seed of its own, the first the request's. The prompt is read once; the answers share its pages, and copy only
        the last one, which they write on."""
        if n < 1:
            raise SettingsError(f"n is {n}; it must be at least 1.")
        box = Mailbox()
        jobs = [await self._intake.job(_nth(request, which), box.tagged(which)) for which in range(n)]
        begun = [job.forced(self.tokenizer.eos_ids) for job in jobs]
        for job, events in zip(jobs, begun, strict=True):
            job.done = _is_whole(events)
        missing = sum(not job.done for job in jobs)
        parent = PromptJob(request.prompt, jobs)
        if missing:
            self._submit(parent)
        try:
            for which, events in enumerate(begun):
                for event in events:
                    yield which, event
            while missing:
                said = await box.get()
                assert isinstance(said, tuple)
                yield said
                missing -= said[1].finish is not None
        finally:
            self._cancel([parent, *jobs])

    async def choose(
        self, prompt: Sequence[int], options: Sequence[str], adapter: AdapterRef | Mixture | None = None
    ) -> Decision[str]:
        """P(option, then end of turn | prompt) of every option from the logits, normalised over the options.

        An option is read as its own tokens, the ones a model writes after its prompt; what several begin with is read
        once. Raises what `generate` raises, and GrammarError for options that are empty or alike.
        """
        check_options(options, self.tokenizer)
        adapters = mixture(adapter)
        answers = [self.tokenizer.encode(option) for option in options]
        self._intake.check(prompt, max(map(len, answers)))
        boxes = [Mailbox() for _ in options]
        ends = self.tokenizer.eos_ids
        leaves = [ScoreJob(prompt, answer, ends, adapters, box.put) for answer, box in zip(answers, boxes, strict=True)]
        first = share(leaves, len(prompt))
        self._submit(first)
        try:
            scores = [_a_float(await box.get()) for box in boxes]
        finally:
            self._cancel([first, *(first.family if isinstance(first, PromptJob) else ())])
        highest = max(scores)
        weights = [math.exp(score - highest) for score in scores]
        ranked = sorted(
            (Option(option, weight / sum(weights)) for option, weight in zip(options, weights, strict=True)),
            key=lambda option: -option.probability,
        )
        usage = Usage(len(prompt) + sum(map(len, answers)), 0, max(first.cached, 0))
        return Decision(ranked[0].value, ranked[0].probability, tuple(ranked), "logits", usage=usage)

    async def score(self, tokens: Sequence[int], adapter: AdapterRef | Mixture | None = None) -> list[float]:
        """The log-probability of every token but the first, given those before it. Raises what `generate` raises."""
        self._intake.check(tokens)
        box = Mailbox()
        job = ScoreJob(tokens[:1], tokens[1:], self.tokenizer.eos_ids, mixture(adapter), box.put)
        self._submit(job)
        try:
            await box.get()
        finally:
            self._cancel([job])
        return [job.logprobs[position] for position in range(len(tokens) - 1)]

    async def embed(self, prompts: Sequence[Sequence[int]], *, start: int = 0, last: bool = False) -> list[list[float]]:
        """Of every prompt the mean of the base's final states over its tokens from `start` on, at unit norm.

        With `last` the last token's state stands behind it, both at the same length.

        What is read stays in the prefix cache to its last token: a request that begins with a prompt goes on there.
        """
        for prompt in prompts:
            self._intake.check(prompt)
            if not 0 <= start < len(prompt):
                raise SettingsError(f"start is {start}, and a prompt has {len(prompt)} tokens.")
        boxes = [Mailbox() for _ in prompts]
        jobs = [EmbedJob(prompt, box.put, start, last=last) for prompt, box in zip(prompts, boxes, strict=True)]
        self._submit(*jobs)
        try:
            vectors = [await box.get() for box in boxes]
        finally:
            self._cancel(jobs)
        return [vector for vector in vectors if isinstance(vector, list)]

    def stats(self) -> EngineStats:
        """A look in passing: it waits for no step, so the numbers may be of two neighbouring steps."""
        counters = self._scheduler.counters
        return EngineStats(
            steps=self._steps,
            computed=counters.computed,
            cached=counters.cached,
            submitted=self._submitted,
            finished=counters.finished,
            preempted=counters.preempted,
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            pages=self._pages.num_pages,
            pages_used=self._pages.used,
            pages_cached=self._pages.cached,
            page_bytes=self._runner.memory.page_bytes,
            adapters=self._adapters.resident,
            loaded=self._adapters.loaded,
        )

    def pin(self, digest: str) -> None:
        """Loads an adapter and keeps it until `unpin`; blocks meanwhile. Raises what loading it raises, and PoolError
        when there is no room for it."""
        parcel = self._adapters.load(digest)
        with self._stepping:
            self._adapters.pin(digest, parcel)

    def unpin(self, digest: str) -> None:
        with self._stepping:
            self._adapters.unpin(digest)

    def check(self) -> None:
        """Every page is free, cached or held by a running job, and so are adapters. Raises MachineError."""
        with self._stepping:
            self._take_inbox()
            self._scheduler.check(self._adapters.users)

    def close(self) -> None:
        """Stops the thread after its step; whoever waits gets EngineStopped. May be called again."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._loader.shutdown(cancel_futures=True)
        self._masks.close()
        with self._stepping:
            stopped = EngineStopped("The engine was closed.")
            while self._inbox:
                self._inbox.popleft().sink(stopped)
            for job in [*self._scheduler.running, *self._scheduler.waiting]:
                self._end(job, stopped)

    # ------------------------------------------------------------------------------------------------------- inside
    def _work(self) -> None:
        if self.settings.threads is not None:
            torch.set_num_threads(self.settings.threads)
        busy = False
        while True:
            with self._wake:
                # Whoever waits for an adapter is told of it by `_wake_up`.
                while not (self._closed or self._inbox or self._news or busy):
                    self._wake.wait()
                if self._closed:
                    return
                self._news = False
            try:
                busy = self.step() and self._scheduler.has_work
            except Exception as error:  # noqa: BLE001 - the books are wrong: end everybody rather than hang them
                self._abandon(error)
                return

    def _wake_up(self) -> None:
        with self._wake:
            self._news = True
            self._wake.notify()

    def _submit(self, *jobs: Job) -> None:
        with self._wake:
            if self._closed:
                raise EngineStopped("The engine is closed.")
            self._inbox += jobs
            self._submitted += len(jobs)
            self._wake.notify()

    def _cancel(self, jobs: Sequence[Job]) -> None:
        """The engine's thread frees what these jobs hold before its next step."""
        if all(job.done for job in jobs):
            return
        with self._wake:
            for job in jobs:
                job.cancelled = True
            self._inbox += jobs
            self._wake.notify()

    def _take_inbox(self) -> None:
        with self._wake:
            arrived, self._inbox = self._inbox, deque()
        for job in arrived:
            if job.cancelled:
                self._scheduler.finish(job)
            else:
                self._scheduler.add(job)

    def _end(self, job: Job, result: object) -> None:
        self._scheduler.finish(job)
        job.sink(result)

    def _clean(self) -> None:
        """Before anything is written into pages that were an adapter's: what is masked there must be finite."""
        self._adapters.rescue()
        self._runner.memory.clear(self._pages.soiled())

    def _fail(self, plan: Plan, error: Exception) -> None:
        wrapped = _as_machine_error(error)
        for work in plan.work:
            if not work.job.done:
                self._end(work.job, wrapped)

    def _abandon(self, error: Exception) -> None:
        with self._wake:
            self._closed = True
            jobs = [*self._inbox, *self._scheduler.running, *self._scheduler.waiting]
            self._inbox.clear()
            self._scheduler.running.clear()
            self._scheduler.waiting = WaitingQueue()
        for job in jobs:
            job.sink(_as_machine_error(error))


def _is_wanted(job: Job) -> bool:
    return job.wanted_by if isinstance(job, PromptJob) else not (job.cancelled or job.done)


def _is_whole(events: Sequence[TokenEvent]) -> bool:
    return bool(events) and events[-1].finish is not None


def _nth(request: Request, number: int) -> Request:
    """The request as one of several samples: alike but for its random numbers."""
    seed = request.sampling.seed
    return request if seed is None else replace(request, sampling=replace(request.sampling, seed=seed + number))


def _as_machine_error(error: Exception) -> PluralError:
    if isinstance(error, PluralError):
        return error
    wrapped = MachineError(f"A step failed: {type(error).__name__}: {error}.", hint="This is a fault of Plural.")
    wrapped.__cause__ = error
    return wrapped


def _a_float(result: object) -> float:
    assert isinstance(result, float)
    return result


def _not_finite(job: Job) -> NumericError:
    worn = " and ".join(f"adapter {ref.digest[:12]}" for ref in job.worn) or "the base"
    return NumericError(f"NaN or infinity came out of {worn} after {job.num_computed} tokens.")


def _mean(job: EmbedJob) -> list[float]:
    states_TH = torch.cat(job.states)
    mean_H, last_H = states_TH.double().mean(dim=0), states_TH[-1].double()
    parts = [mean_H / mean_H.norm(), last_H / last_H.norm()] if job.last else [mean_H]
    vector = torch.cat(parts)
    return (vector / vector.norm()).tolist()  # type: ignore[no-any-return]
