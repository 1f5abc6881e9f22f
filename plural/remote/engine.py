"""An engine in another process, asked as ours is (plural/engine/interface.py).

All that goes over the network happens on one event loop, in a thread of its own; callers on any loop get their results
on theirs, as from our engine.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from plural.engine.intake import check_options, check_prompt
from plural.engine.mailbox import Mailbox
from plural.engine.request import Request, mixture
from plural.errors import (
    BaseModelError,
    DeadlineError,
    EngineLost,
    EngineStopped,
    GrammarError,
    MachineError,
    SettingsError,
    SpecialistError,
)
from plural.remote import asking
from plural.remote.hearing import Hearing, token_id
from plural.remote.http import HttpServer, Refusal
from plural.remote.settings import SLOTS, EngineAddress
from plural.remote.slots import Slots
from plural.types import AdapterRef, Decision, Mixture, Option, TokenEvent

if TYPE_CHECKING:
    from plural.engine.engine import EngineStats
    from plural.models.base import Base

T = TypeVar("T")
_PROMPTS = 32  # in one body
_PROBE_S = 10.0
# What vLLM says of itself when what computes behind it has died, until it ends, too.
_DEAD = ("EngineCore", "EngineDead")


class Reader(Protocol):
    """Who reads texts with the base for the router; vLLM has no hidden states to give."""

    async def embed(
        self, prompts: Sequence[Sequence[int]], *, start: int = 0, last: bool = False
    ) -> list[list[float]]: ...


class Shelf(Protocol):
    """Where adapters come from. Either raises what whoever asks for the adapter shall see."""

    def folder(self, digest: str) -> Path:
        """One that nobody changes, and that the server can read."""
        ...

    def combined(self, worn: Mixture) -> str:
        """The digest of one adapter that does what these do together, each at its scale."""
        ...


class RemoteEngine:
    """The server at `address.url`, which has `base` under it.

    Raises:
        EngineLost: it cannot be reached.
        BaseModelError: it has another base.
    """

    def __init__(self, address: EngineAddress, base: Base, shelf: Shelf, reader: Callable[[], Reader]) -> None:
        self.url = address.url
        self._base, self._reader = base, reader
        self._shelf = shelf
        self._submitted = self._finished = self._running = self._computed = self._cached = 0
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="plural-remote", daemon=True)
        self._thread.start()
        try:
            self._submit(self._connect(address)).result()
        except BaseException:
            self.close()
            raise

    # ---------------------------------------------------------------------------------------------- the callers' side
    async def generate(self, request: Request) -> AsyncGenerator[TokenEvent, None]:
        """As Engine.generate. A server that cannot be reached is tried again, until the first token."""
        async with aclosing(self.samples(request, 1)) as drawn:
            async for _, event in drawn:
                yield event

    async def samples(self, request: Request, n: int) -> AsyncGenerator[tuple[int, TokenEvent], None]:
        if n < 1:
            raise SettingsError(f"n is {n}; it must be at least 1.")
        self._check_prompt(request.prompt, 1)
        digest = await self._worn(request.adapter)
        room = self.context - len(request.prompt)
        body = asking.body(request, n, room, self._base.tokenizer, vllm=self.is_vllm)
        box = Mailbox()
        work = self._submit(self._draw(request, n, digest, body, box))
        missing = n
        try:
            while missing:
                said = await box.get()
                assert isinstance(said, tuple)
                yield said
                missing -= said[1].finish is not None
        finally:
            work.cancel()

    async def choose(
        self, prompt: Sequence[int], options: Sequence[str], adapter: AdapterRef | Mixture | None = None
    ) -> Decision[str]:
        """As Engine.choose, exact: from the log-probabilities of each option's tokens and of end of turn."""
        tokenizer = self._base.tokenizer
        check_options(options, tokenizer)
        ends = sorted(tokenizer.eos_ids)
        answers = [tokenizer.encode(option) for option in options]
        rows = [[*prompt, *answer, end] for answer in answers for end in ends]
        self._check_prompt(max(rows, key=len), 0)
        digest = await self._worn(adapter)
        scores = await (self._followed(rows, len(prompt), digest) if self.is_vllm else self._scored(rows, digest))
        sums = [math.fsum(row[len(prompt) - 1 :]) for row in scores]
        weights = [
            math.fsum(math.exp(one - max(sums)) for one in sums[at : at + len(ends)])
            for at in range(0, len(sums), len(ends))
        ]
        whole = math.fsum(weights)
        ranked = sorted(
            (Option(option, weight / whole) for option, weight in zip(options, weights, strict=True)),
            key=lambda option: -option.probability,
        )
        return Decision(ranked[0].value, ranked[0].probability, tuple(ranked), "logits")

    async def score(self, tokens: Sequence[int], adapter: AdapterRef | Mixture | None = None) -> list[float]:
        self._check_prompt(tokens, 0)
        digest = await self._worn(adapter)
        (scores,) = await (self._followed([tokens], 1, digest) if self.is_vllm else self._scored([tokens], digest))
        return scores

    async def embed(self, prompts: Sequence[Sequence[int]], *, start: int = 0, last: bool = False) -> list[list[float]]:
        """Read here, by the base itself: engines behind HTTP give no hidden states."""
        return await (await asyncio.to_thread(self._reader)).embed(prompts, start=start, last=last)

    def stats(self) -> EngineStats:
        """What this process has asked for. Steps and pages are the server's own affair, and 0 here."""
        from plural.engine.engine import EngineStats

        return EngineStats(
            steps=0,
            computed=self._computed,
            cached=self._cached,
            submitted=self._submitted,
            finished=self._finished,
            preempted=0,
            running=self._running,
            waiting=0,
            pages=0,
            pages_used=0,
            pages_cached=0,
            page_bytes=0,
            adapters=self._slots.loaded,
        )

    def pin(self, digest: str) -> None:
        self._submit(self._slots.pin(digest)).result()

    def unpin(self, digest: str) -> None:
        self._loop.call_soon_threadsafe(self._slots.unpin, digest)

    @property
    def loads(self) -> int:
        """How many adapters the server was told to load."""
        return self._slots.loads

    def check(self) -> None:
        """Raises EngineLost when the server is gone or says that it is dead; MachineError when it says nothing, or the
        books of adapters are wrong. It is asked once: whoever wants to know asks again."""
        self._slots.check()
        self._submit(self._ask_health()).result()

    def close(self) -> None:
        """Whoever waits gets EngineStopped. What was loaded stays loaded: its name says what it is."""
        if self._closed:
            return
        self._closed = True
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # ------------------------------------------------------------------------------------------------- on its own loop
    async def _connect(self, address: EngineAddress) -> None:
        self._server = HttpServer(address.url, key=address.key, patience=address.patience)
        self._probe = HttpServer(address.url, key=address.key, patience=0.0)
        try:
            models = (await self._server.get("/v1/models"))["data"]
        except Refusal as refusal:
            raise self._worded(refusal) from refusal
        except (TypeError, KeyError) as error:
            raise MachineError(
                f"What is at {self.url} is no OpenAI-compatible server.", hint="Is the port right?"
            ) from error
        self.is_vllm = not any(one.get("owned_by") == "plural" for one in models)
        bases = [one for one in models if not one.get("parent") and one.get("id") != "network"]
        if not self.is_vllm:
            bases = [one for one in models if one["id"] == "base"]
        if not bases:
            raise BaseModelError(f"The engine at {self.url} serves no base model.", hint="Start it with one.")
        self._model = bases[0]["id"]
        self.context = min(self._base.context, bases[0].get("max_model_len") or self._base.context)
        await self._check_base(bases[0])
        slots = address.slots or await self._told_slots() or SLOTS
        self._slots = Slots(self._server, self._shelf.folder, slots)
        self._slots.adopt(one["id"] for one in models if one.get("parent"))

    async def _check_base(self, model: Mapping[str, Any]) -> None:
        """Our server says which base it has. Of vLLM it is known how it reads a text, if it tells."""
        wrong = None
        if not self.is_vllm:
            if model["digest"] != self._base.digest:
                wrong = f"{model['root']} ({model['digest']})"
        else:
            text = "def f(x):\n    return 'Zürich 東京 1234' # ok?"
            with suppress(Refusal):
                asked = {"model": model["id"], "prompt": text, "add_special_tokens": False}
                read = await self._server.post("/tokenize", asked)
                if read.get("tokens") != list(self._base.tokenizer.encode(text)):
                    wrong = f"{model.get('root', model['id'])}, which reads texts as other tokens"
        if wrong is not None:
            raise BaseModelError(
                f"The engine at {self.url} has another base: {wrong}, not {self._base.name} ({self._base.digest}).",
                hint="Give its base with --base, or start it with this one.",
            )

    async def _ask_health(self) -> None:
        try:
            async with asyncio.timeout(_PROBE_S):
                await self._probe.get("/health")
        except TimeoutError as error:
            raise MachineError(f"The engine at {self.url} does not say how it is within {_PROBE_S:g} s.") from error
        except Refusal as refusal:
            if refusal.status >= 500:  # others have no such page, and have answered
                raise EngineLost(f"The engine at {self.url} is not well: {refusal}.") from refusal
        except MachineError as error:
            raise EngineLost(error.message, hint=error.hint) from error

    async def _told_slots(self) -> int | None:
        """vLLM's metrics name max_loras, once it has answered with an adapter."""
        with suppress(Refusal, MachineError):
            for line in str(await self._server.get("/metrics")).splitlines():
                if line.startswith("vllm:lora_requests_info") and 'max_lora="' in line:
                    return int(line.split('max_lora="')[1].split('"')[0]) or None
        return None

    async def _draw(self, request: Request, n: int, digest: str | None, body: Mapping[str, Any], box: Mailbox) -> None:
        self._submitted += n
        self._running += n
        try:
            async with self._in_time(request.deadline) as due, self._slots.held(digest) as name:
                hearing = Hearing(request, n, self._base.tokenizer, self.url)
                async for said in self._heard(hearing, digest, {**body, "model": name or self._model}):
                    due.reschedule(None)
                    box.put(said)
                for which, event in hearing.finish():
                    self._count(event, which)
                    box.put((which, event))
        except TimeoutError:
            box.put(
                DeadlineError(
                    f"No token came from {self.url} within {request.deadline} seconds.", hint="Raise the deadline."
                )
            )
        except asyncio.CancelledError:
            box.put(EngineStopped("The engine was closed."))
            raise
        except Exception as error:  # noqa: BLE001 - whatever went wrong, nobody may be left waiting
            box.put(error)
        finally:
            self._running -= n

    @staticmethod
    def _in_time(seconds: float | None) -> asyncio.Timeout:
        return asyncio.timeout(seconds)

    async def _heard(
        self, hearing: Hearing, digest: str | None, body: Mapping[str, Any]
    ) -> AsyncGenerator[tuple[int, TokenEvent], None]:
        """An adapter that the server has dropped is loaded again, once."""
        for again in (True, False):
            try:
                async with aclosing(self._server.events("/v1/completions", body)) as chunks:
                    async for chunk in chunks:
                        for event in hearing.add(chunk):
                            yield event
                return
            except Refusal as refusal:
                if digest is None or refusal.status != 404 or not again:
                    raise self._worded(refusal, grammar="structured_outputs" in body) from refusal
                await self._slots.again(digest)

    async def _scored(self, rows: Sequence[Sequence[int]], digest: str | None) -> list[list[float]]:
        """Of each row the log-probabilities of all its tokens but the first."""

        async def ask() -> list[list[float]]:
            async with self._slots.held(digest) as name:
                parts = [rows[at : at + _PROMPTS] for at in range(0, len(rows), _PROMPTS)]
                told = [await self._prompt_logprobs(part, name or self._model, digest) for part in parts]
                return [row for part in told for row in part]

        return await self._awaited(ask())

    async def _followed(self, rows: Sequence[Sequence[int]], start: int, digest: str | None) -> list[list[float]]:
        """The same from `start` on, 0 before it: after each beginning it is asked about the tokens that go on from
        there. vLLM 0.32 on a CPU dies of prompt_logprobs when it may have adapters."""
        wanted: dict[tuple[int, ...], set[int]] = {}
        for row in rows:
            for at in range(start, len(row)):
                wanted.setdefault(tuple(row[:at]), set()).add(row[at])

        async def ask() -> list[Mapping[int, float]]:
            async with self._slots.held(digest) as name:
                asked = (self._next(*one, name or self._model, digest) for one in wanted.items())
                return await asyncio.gather(*asked)

        told = dict(zip(wanted, await self._awaited(ask()), strict=True))
        return [[0.0] * (start - 1) + [told[tuple(row[:at])][row[at]] for at in range(start, len(row))] for row in rows]

    async def _next(
        self, prompt: tuple[int, ...], tokens: set[int], model: str, digest: str | None
    ) -> Mapping[int, float]:
        """The log-probability of each of these tokens after the prompt."""
        body = {
            "model": model, "prompt": list(prompt), "max_tokens": 1, "temperature": 0, "logprobs": 0,
            "logprob_token_ids": sorted(tokens), "return_tokens_as_token_ids": True,
        }  # fmt: skip
        said = await self._posted(body, digest)
        column = (said["choices"][0].get("logprobs") or {}).get("top_logprobs") or [{}]
        found = {token_id(name): value for name, value in column[0].items()}
        if not tokens <= found.keys():
            raise SettingsError(
                f"The engine at {self.url} gives no log-probabilities of given tokens, so choices have none.",
                hint="It must be a vLLM that has logprob_token_ids.",
            )
        self._computed += len(prompt)
        return found

    async def _posted(self, body: Mapping[str, Any], digest: str | None) -> Any:
        """An adapter that the server has dropped is loaded again, once."""
        try:
            try:
                return await self._server.post("/v1/completions", body)
            except Refusal as refusal:
                if digest is None or refusal.status != 404:
                    raise
                await self._slots.again(digest)
                return await self._server.post("/v1/completions", body)
        except Refusal as refusal:
            raise self._worded(refusal) from refusal

    async def _awaited(self, work: Coroutine[Any, Any, T]) -> T:
        """What comes of work on the own loop."""
        running = self._submit(work)
        try:
            return await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            if self._closed and running.cancelled():
                raise EngineStopped("The engine was closed.") from None
            raise

    async def _prompt_logprobs(
        self, rows: Sequence[Sequence[int]], model: str, digest: str | None
    ) -> list[list[float]]:
        body = {
            "model": model,
            "prompt": list(map(list, rows)),
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 0,
        }
        said = await self._posted(body, digest)
        self._computed += sum(map(len, rows))
        choices = sorted(said["choices"], key=lambda choice: choice["index"])
        if len(choices) != len(rows) or not all(choice.get("prompt_logprobs") for choice in choices):
            raise SettingsError(
                f"The engine at {self.url} gives no log-probabilities of prompts, so choices have no probabilities.",
                hint="It must be vLLM, or plural serve.",
            )
        return [
            [
                column[str(token)]["logprob"]
                for token, column in zip(row[1:], choice["prompt_logprobs"][1:], strict=True)
            ]
            for row, choice in zip(rows, choices, strict=True)
        ]

    async def _stop(self) -> None:
        mine = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not mine]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if hasattr(self, "_server"):
            await self._server.close()
            await self._probe.close()

    # ------------------------------------------------------------------------------------------------------- inside
    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        if self._closed:
            work.close()
            raise EngineStopped("The engine is closed.")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _worn(self, adapter: AdapterRef | Mixture | None) -> str | None:
        """The digest of the adapter to be asked. Raises SpecialistError for what the server cannot do."""
        worn = tuple(ref for ref in mixture(adapter) if ref.scale)
        if not worn:
            return None
        activated = [ref for ref in worn if ref.offset]
        if activated and self.is_vllm:
            raise SpecialistError(
                f"The adapter {activated[0].digest} is activated: it acts from token {activated[0].offset} on. vLLM "
                "has no such adapters and would let it act on the whole prompt.",
                hint="Train the specialist without activation, or use Plural's own engine.",
            )
        if len(worn) == 1 and worn[0].scale == 1:
            return worn[0].digest
        if activated:
            raise SpecialistError(
                f"The activated adapter {activated[0].digest} is part of a mixture, which an engine behind HTTP cannot "
                "draw from.",
                hint="Use Plural's own engine.",
            )
        return await asyncio.to_thread(self._shelf.combined, worn)

    def _check_prompt(self, prompt: Sequence[int], answer: int) -> None:
        check_prompt(prompt, answer=answer, context=self.context, vocabulary=self._base.tokenizer.vocab_size)

    def _count(self, event: TokenEvent, which: int) -> None:
        assert event.usage is not None  # of an answer's last event
        self._finished += 1
        self._computed += event.usage.completion + (0 if which else event.usage.prompt - event.usage.cached)
        self._cached += 0 if which else event.usage.cached

    def _worded(self, refusal: Refusal, *, grammar: bool = False) -> Exception:
        said = f"The engine at {self.url} refuses: {refusal.said.rstrip('.')}."
        if refusal.status in (401, 403):
            return SettingsError(said, hint="Set PLURAL_ENGINE_KEY to a key that may also load adapters.")
        if refusal.status >= 500:
            kind = EngineLost if any(word in refusal.said for word in _DEAD) else MachineError
            return kind(said, hint="Its own log says more.")
        if grammar and any(word in refusal.said.lower() for word in ("grammar", "schema", "regex", "structured")):
            return GrammarError(said)
        return SettingsError(said)
