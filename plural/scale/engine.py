"""An engine whose steps are computed by the replicas of a cluster, asked as ours is (plural/engine/interface.py).

Ray Serve chooses the replica, by what each was asked before (`affinity_key`). A replica that is lost takes no answer
with it: the request is asked again elsewhere, and what the caller has already is left out.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, cast

from plural.engine.engine import EngineStats
from plural.engine.request import Request, mixture
from plural.errors import EngineLost, EngineStopped, MachineError, PluralError, SettingsError
from plural.scale import tasks
from plural.scale.cluster import APP, ENGINE, Identity, Patience, join, ray_module, running_replicas
from plural.scale.settings import ScaleSettings
from plural.types import AdapterRef, Decision, Mixture, TokenEvent

if TYPE_CHECKING:
    from plural.models.base import Base
    from plural.wiring.settings import Settings

# Tokens from which on a shared beginning is worth more than an even load, and the number that stands for it.
PREFIX = 64
_LOOK_S = 2.0
_IDENTITY_S = 10.0


def connect(base: Base, settings: Settings) -> ClusterEngine:
    """The engine of what is deployed on `settings.cluster`. Long tools of this process become tasks there.

    Raises:
        SettingsError: no Ray, nothing deployed there, or another base or version.
        MachineError: nobody answers.
    """
    scale = ScaleSettings.of()
    assert settings.cluster is not None
    join(settings.cluster, patience=scale.patience)
    from ray import serve

    if running_replicas() is None:
        raise SettingsError(
            f"No network is deployed on the Ray cluster {settings.cluster}.",
            hint=f"plural deploy --ray {settings.cluster}",
        )
    handle = serve.get_deployment_handle(ENGINE, app_name=APP)
    engine = ClusterEngine(handle, scale)
    for theirs in identities(engine, scale.patience):
        Identity.of(base).refuse(theirs, "A replica of the cluster")
    tasks.send_long_tools()
    return engine


def identities(engine: ClusterEngine, patience: float) -> list[Identity]:
    """Of all replicas; one that is lost just then is replaced soon. Raises MachineError."""
    left = Patience(patience)
    while True:
        try:
            return cast("list[Identity]", engine.every("identity", within=_IDENTITY_S))
        except MachineError:
            if (pause := left.pause()) is None:
                raise
            time.sleep(pause)


class ClusterEngine:
    """A TokenEngine over a handle of Ray Serve, for callers on any event loop."""

    def __init__(self, handle: Any, scale: ScaleSettings) -> None:
        self._handle = handle
        self._scale = scale
        self._closed = False
        self._seen = (0.0, _NOTHING)
        self._looking = threading.Lock()
        self.retried = 0

    # -------------------------------------------------------------------------------------------- as every engine
    async def generate(self, request: Request) -> AsyncGenerator[TokenEvent, None]:
        steady = _repeatable(request)
        async for _, event in self._events("generate", _untagged, steady.prompt, steady.adapter, steady):
            yield event

    async def samples(self, request: Request, n: int) -> AsyncGenerator[tuple[int, TokenEvent], None]:
        steady = _repeatable(request)
        async for tagged in self._events("samples", _tagged, steady.prompt, steady.adapter, steady, n):
            yield tagged

    async def choose(
        self, prompt: Sequence[int], options: Sequence[str], adapter: AdapterRef | Mixture | None = None
    ) -> Decision[str]:
        made = await self._answer("choose", prompt, adapter, tuple(prompt), tuple(options), mixture(adapter))
        return cast("Decision[str]", made)

    async def score(self, tokens: Sequence[int], adapter: AdapterRef | Mixture | None = None) -> list[float]:
        return cast("list[float]", await self._answer("score", tokens, adapter, tuple(tokens), mixture(adapter)))

    async def embed(self, prompts: Sequence[Sequence[int]], *, start: int = 0, last: bool = False) -> list[list[float]]:
        read = [tuple(one) for one in prompts]
        return cast("list[list[float]]", await self._answer("embed", (), None, read, start=start, last=last))

    def stats(self) -> EngineStats:
        """The sums over all replicas when they were last asked, which is begun anew when that is a while ago."""
        when, known = self._seen
        if time.monotonic() - when > _LOOK_S and self._looking.acquire(blocking=False):
            threading.Thread(target=self._look, name="plural-look", daemon=True).start()
        return known

    def pin(self, digest: str) -> None:
        """On all replicas that there are now."""
        self.every("pin", digest)

    def unpin(self, digest: str) -> None:
        self.every("unpin", digest)

    def check(self) -> None:
        """Every replica checks itself, as Ray Serve has it do."""
        self.every("check_health")

    def close(self) -> None:
        """The replicas are the cluster's; this process asks them nothing more."""
        self._closed = True

    # ---------------------------------------------------------------------------------------------- of a cluster
    def every(self, call: str, *given: Any, within: float | None = None) -> list[Any]:
        """What each replica says, blocking. Raises what one of them raises, and MachineError when one does not answer
        `within` so many seconds, or as long as the settings are patient."""
        silent: tuple[type[Exception], ...] = (TimeoutError, *_lost())
        asked = self._handle.broadcast(call, *given)
        try:
            with ThreadPoolExecutor(1) as thread:  # Ray refuses to wait where an event loop runs
                told: list[Any] = thread.submit(asked.results, timeout_s=within or self._scale.patience).result()
        except silent as error:
            raise MachineError(f"Replicas did not answer {call!r}: {error}.", hint="ray status shows them.") from error
        for one in told:
            if isinstance(one, PluralError):
                raise one
        return told

    def look(self) -> EngineStats:
        """The sums over all replicas now; blocks."""
        each: list[EngineStats] = self.every("stats")
        made = _added(each) if each else _NOTHING
        self._seen = (time.monotonic(), made)
        return made

    # ------------------------------------------------------------------------------------------------------- inside
    def _look(self) -> None:
        try:
            self.look()
        except MachineError:
            self._seen = (time.monotonic(), self._seen[1])  # as they were last known
        finally:
            self._looking.release()

    def _to(self, prompt: Sequence[int], adapter: AdapterRef | Mixture | None, *, stream: bool) -> Any:
        key = affinity_key(prompt, mixture(adapter)) if self._scale.affinity else ""
        return self._handle.options(stream=stream, multiplexed_model_id=key)

    async def _events(
        self,
        call: str,
        tagged: Callable[[Any], tuple[int, TokenEvent]],
        prompt: Sequence[int],
        adapter: AdapterRef | Mixture | None,
        *given: Any,
    ) -> AsyncGenerator[tuple[int, TokenEvent], None]:
        """(which, event), each once, whichever replicas it took."""
        told: defaultdict[int, list[int]] = defaultdict(list)
        patience, gone = self._open(), _lost()
        while True:
            said = self._to(prompt, adapter, stream=True).stream.remote(call, *given)
            again: defaultdict[int, int] = defaultdict(int)
            try:
                async for bundle in said:
                    for one in bundle:
                        if isinstance(one, PluralError):
                            raise one
                        which, event = tagged(one)
                        known, again[which] = again[which], again[which] + 1
                        if known < len(told[which]):
                            _same(told[which][known], event)
                            continue
                        patience.renew()
                        told[which].append(event.token_id)
                        yield which, event
                return
            except gone as error:
                lost = error
            finally:
                said.cancel()
            await self._wait(patience, lost)

    async def _answer(
        self, call: str, prompt: Sequence[int], adapter: AdapterRef | Mixture | None, *given: Any, **named: Any
    ) -> object:
        patience, gone = self._open(), _lost()
        while True:
            try:
                made: object = await self._to(prompt, adapter, stream=False).answer.remote(call, *given, **named)
                if isinstance(made, PluralError):
                    raise made
                return made
            except gone as error:
                lost = error
            await self._wait(patience, lost)

    def _open(self) -> Patience:
        if self._closed:
            raise EngineStopped("The engine is closed.")
        return Patience(self._scale.patience)

    async def _wait(self, patience: Patience, lost: Exception) -> None:
        """Before the request is asked again. Raises MachineError when it was lost for too long."""
        pause = patience.pause()
        if pause is None:
            raise MachineError(
                f"Every replica that was asked in {patience.seconds:g} seconds was lost: {lost}.",
                hint="ray status shows what is left of the cluster.",
            ) from lost
        self.retried += 1
        await asyncio.sleep(pause)


def affinity_key(prompt: Sequence[int], adapters: Mixture) -> str:
    """Whose requests meet at one replica: a specialist's, else those that begin alike; empty for a short prompt of
    the base. An activated adapter's prompts are read by the base, so that a long one is worth more than the adapter."""
    activated = all(ref.offset >= PREFIX for ref in adapters)
    if len(prompt) >= PREFIX and activated:
        return "p" + hashlib.sha256(repr(tuple(prompt[:PREFIX])).encode()).hexdigest()[:16]
    return "+".join(ref.digest.removeprefix("sha256:")[:16] for ref in adapters)


def _repeatable(request: Request) -> Request:
    """With a seed, so that another replica draws what the lost one drew."""
    if request.sampling.temperature == 0 or request.sampling.seed is not None:
        return request
    return replace(request, sampling=replace(request.sampling, seed=secrets.randbits(31)))


def _untagged(said: Any) -> tuple[int, TokenEvent]:
    return 0, said


def _tagged(said: Any) -> tuple[int, TokenEvent]:
    return cast("tuple[int, TokenEvent]", said)


def _same(token: int, event: TokenEvent) -> None:
    if event.token_id != token:
        raise MachineError(
            f"A replica was lost, and another one draws token {event.token_id} where it drew {token}.",
            hint="Nodes with different instruction sets round differently: ask again.",
        )


def _lost() -> tuple[type[Exception], ...]:
    """What Ray raises for a replica that is not there any more, or not yet, and what a replica says that goes."""
    ray = ray_module()
    from ray.serve import exceptions

    return (
        EngineLost,
        EngineStopped,
        ray.exceptions.RayActorError,
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.ObjectLostError,
        exceptions.DeploymentUnavailableError,
        exceptions.ReplicaUnavailableError,
    )


def _added(each: Sequence[EngineStats]) -> EngineStats:
    sums: dict[str, Any] = {
        field.name: sum(getattr(one, field.name) for one in each)
        for field in fields(EngineStats)
        if field.name not in ("adapters", "page_bytes")
    }
    adapters = tuple(sorted({digest for one in each for digest in one.adapters}))
    return EngineStats(**sums, adapters=adapters, page_bytes=max(one.page_bytes for one in each))


_NOTHING = EngineStats(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ())
